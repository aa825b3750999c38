"""Checkpoints: folders that are complete, verified, and found again after a kill.

    checkpoints/step-00001000/
        model.safetensors, config.json, generation_config.json    plain transformers reads these
        tokenizer.json, tokenizer_config.json
        lmlab.json              objective, order, head, tokenizer fingerprint, parent run
        optimizer.safetensors, state.json
        manifest.json           sha256 of each file, written last

A reader trusts a checkpoint only if its manifest verifies; `newest_checkpoint` says what it
skipped.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from lmlab.durable import (
    StagedFolder,
    disk_errors,
    file_sha256,
    from_json,
    is_member,
    operation,
    sync_folder,
    to_json,
    write_json,
)
from lmlab.errors import UserError

FORMAT = "lmlab checkpoint 1"
_FINISHED = "finished.json"
_NAME = re.compile(r"step-(\d{8})")


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def save_checkpoint(run: Path, step: int, files: Mapping[str, bytes]) -> Path:
    """Writes a checkpoint, complete or not at all, and returns its folder.

    A damaged folder of the same step (left by a broken disk, say) is moved aside, not overwritten.
    """
    target = checkpoint_folder(run, step)
    if target.exists():
        names = (target.with_name(f"{target.name}.damaged-{number}") for number in count(1))
        aside = next(name for name in names if not name.exists())
        with disk_errors(aside):
            operation("rename", aside)
            target.rename(aside)
    with StagedFolder(target) as folder:
        for name, data in files.items():
            folder.write(name, data)
        manifest = {"format": FORMAT, "step": step, "files": dict(folder.digests)}
        folder.write("manifest.json", to_json(manifest).encode())
    return target


def verify_checkpoint(path: Path) -> int:
    """Compares every file with the manifest; returns the step. `UserError` names what is wrong."""
    file = path / "manifest.json"
    try:
        manifest = from_json(file.read_bytes())
        step, files = manifest["step"], manifest["files"]
        if manifest["format"] != FORMAT or type(step) is not int:
            raise ValueError("not a checkpoint's manifest")
        named = [(name, str(expected)) for name, expected in files.items()]
    except OSError as error:
        raise UserError(f"{path}: no manifest; the checkpoint is incomplete") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: damaged: {error}") from error
    for name, expected in named:
        if not is_member(name):
            raise UserError(f"{file}: names a file outside the checkpoint: {name!r}")
        member = path / name
        if not member.is_file() or file_sha256(member) != expected:
            raise UserError(f"{member}: missing, truncated or changed since it was saved")
    return step


@dataclass(frozen=True)
class Newest:
    """The newest checkpoint that verifies, and why newer ones were skipped."""

    path: Path | None
    step: int
    skipped: tuple[str, ...]


def checkpoint_step(path: Path) -> int:
    """After how many updates the checkpoint of this folder was saved."""
    return int(path.name.removeprefix("step-"))


def checkpoints(run: Path) -> list[Path]:
    """All checkpoint folders of a run by step, verified or not."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name))


def newest_checkpoint(run: Path) -> Newest:
    """The newest checkpoint of a run whose manifest verifies (`path` None if there is none)."""
    skipped: list[str] = []
    for path in reversed(checkpoints(run)):
        try:
            return Newest(path, verify_checkpoint(path), tuple(skipped))
        except UserError as error:
            skipped.append(str(error))
    return Newest(None, 0, tuple(skipped))


def usable_checkpoint(path: Path) -> Path:
    """Of a run folder its newest verified checkpoint, of a checkpoint itself, verified; any other
    path as it is.

    Raises `UserError` for a run without a usable checkpoint, and for a damaged checkpoint.
    """
    if (path / "checkpoints").is_dir():
        newest = newest_checkpoint(path)
        if newest.path is None:
            why = "; ".join(newest.skipped) or "it has none yet"
            raise UserError(f"{path}: no usable checkpoint ({why})")
        return newest.path
    if (path / "lmlab.json").is_file() and (path / "manifest.json").is_file():
        verify_checkpoint(path)
    return path


def prune_checkpoints(
    run: Path,
    keep: int | None,
    *,
    newest: int | None = None,
    spare: Collection[int] = (),
    belongs: Callable[[int], bool] = lambda step: True,
) -> None:
    """Removes all but the newest `keep` checkpoints (None: all) and those of the steps to `spare`,
    after the newest has been verified. Of steps that `belongs` is false for, only the newest
    checkpoint stays, if it is one.

    A run that went on from before a damaged checkpoint still has it, as a later step: what is later
    than `newest`, the step that is known to be the newest, is left alone and does not count.
    """
    folders = checkpoints(run)
    if newest is not None:
        folders = [path for path in folders if path.name <= checkpoint_folder(run, newest).name]
    passing = [path for path in folders[:-1] if not belongs(checkpoint_step(path))]
    kept = [path for path in folders if path not in passing]
    spared = {checkpoint_folder(run, step) for step in spare}
    surplus = [] if keep is None else kept[:-keep]
    if gone := [path for path in (*passing, *surplus) if path not in spared]:
        verify_checkpoint(folders[-1])
        _remove(gone)


def finish_with(run: Path, step: int) -> None:
    """Ends a run with the checkpoint of an earlier `step`, the only one that is kept.

    Raises `UserError` if that one does not verify.
    """
    kept = checkpoint_folder(run, step)
    verify_checkpoint(kept)
    _remove([path for path in checkpoints(run) if path != kept])
    write_json(run / _FINISHED, {"checkpoint": step})


def is_finished(run: Path) -> bool:
    """Whether `finish_with` ended a run."""
    return (run / _FINISHED).is_file()


def final_step(run: Path, steps: int) -> int:
    """The step of a run's last checkpoint: `steps`, or where `finish_with` ended it."""
    if not is_finished(run):
        return steps
    step = read_json_file(run / _FINISHED).get("checkpoint")
    if type(step) is not int:
        raise UserError(f"{run / _FINISHED}: damaged: it names no checkpoint")
    return step


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        # renamed first, so that a kill in between never leaves half a checkpoint under its name
        doomed = path.with_name(f".{path.name}.pruned.tmp")
        with disk_errors(path):  # copy-on-write file systems need space to remove, too
            operation("rename", doomed)
            path.rename(doomed)
            sync_folder(path.parent)
            shutil.rmtree(doomed)


def read_json_file(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint; `UserError` if it is missing or damaged."""
    try:
        value = from_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged: not a JSON object")
    return value
