"""The training runs below a folder, a row each, and their removal. Imports no torch.

Notable:
- Bits per byte are those of the validation sample: its nats per token times the tokens per byte of
  the whole validation split. None where the store is gone, and for masked models.
- A run is removed under its own lock, renamed first, so that a kill in between leaves no half run.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any

from lmlab.config import did_you_mean, option_values
from lmlab.config.objective import UnknownObjective
from lmlab.config.spelling import names_of
from lmlab.config.training import TrainConfig
from lmlab.data.splits import VALIDATION
from lmlab.data.store import TokenStore
from lmlab.durable import disk_errors, operation, sync_folder
from lmlab.errors import UserError
from lmlab.locks import Held, Lock, holder
from lmlab.progress import say
from lmlab.run_folders.checkpoint import checkpoint_folder, final_step, is_finished
from lmlab.run_folders.journal import last_record, last_with
from lmlab.run_folders.rundir import stored_config

FINISHED, RUNNING, STOPPED = "finished", "running", "stopped"


@dataclass(frozen=True)
class RunRow:
    """One run. Losses are nats per token for cross-entropy; those of validation are of the fixed
    sample that training looks at."""

    run: str
    """Its folder."""
    name: str
    model: str
    objective: str
    order: str
    seed: int
    state: str
    """finished, running, or stopped."""
    step: int
    steps: int
    tokens: int
    """Targets so far."""
    loss: float | None
    validation: float | None
    """The last one, of whatever the run validates by first."""
    bits_per_byte: float | None
    changed: float
    """Seconds since the epoch."""
    bytes: int
    """On disk, with all that is kept beside it."""
    parent: str | None
    """Folder or name of the model it started from."""


COLUMNS = tuple(field.name for field in fields(RunRow))
SHOWN = (
    "run", "model", "objective", "order", "seed", "state", "tokens", "loss", "validation",
    "bits per byte", "age", "size",
)  # fmt: skip
"""The heads of `shown`."""


def shown(row: RunRow) -> list[str]:
    """A run's cells in a table for people."""
    numbers = [
        "" if v is None else f"{v:.3f}" for v in (row.loss, row.validation, row.bits_per_byte)
    ]
    how_far = "" if row.step == row.steps else f" {row.step / row.steps:.0%}"
    named = [row.run, row.model, row.objective, row.order, str(row.seed), row.state + how_far]
    return [*named, f"{row.tokens:,}", *numbers, since(row), size_in_words(row.bytes)]


def size_in_words(size: int) -> str:
    """Of bytes."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@dataclass(frozen=True)
class FoundRun:
    """A run with its configuration."""

    row: RunRow
    config: TrainConfig

    @property
    def path(self) -> Path:
        return Path(self.row.run)

    def value(self, name: str) -> Any:
        """Of a column, or of an option by its whole name."""
        if name in COLUMNS:
            return getattr(self.row, name)
        return reduce(getattr, name.split("."), self.config)


def list_runs(
    folder: Path, *, where: Sequence[str] = (), sort: str = "run", descending: bool = False
) -> list[FoundRun]:
    """The runs below a folder (or itself) that are as `where` asks, NAME=VALUE or NAME!=VALUE each.

    Raises `UserError` for a folder that is not there, and a name or value that cannot be.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    tests = [_test(each) for each in where]
    by = _whole_name(sort, "sort")
    stores: dict[Path, float | None] = {}
    found = [
        FoundRun(_row(file.parent, config, stores), config)
        for file in sorted(folder.rglob("config.toml"))
        if file.with_name("journal.jsonl").is_file()
        # a kill while removing, or a place of lmlab's own
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        for config in _known_config(file.parent)
    ]
    kept = [run for run in found if all(test(run) for test in tests)]
    there = [run for run in kept if run.value(by) is not None]
    there.sort(key=lambda run: _orderly(run.value(by)), reverse=descending)
    return [*there, *(run for run in kept if run.value(by) is None)]


def _known_config(run: Path) -> Iterator[TrainConfig]:
    """The configuration of a run, unless its objective is from outside and not known here."""
    try:
        yield stored_config(run)
    except UnknownObjective as error:
        say(f"left out: {error}")


def _orderly(value: Any) -> Any:
    return value if isinstance(value, int | float) else str(value)


def _whole_name(name: str, where: str) -> str:
    if name in COLUMNS:
        return name
    try:
        return ".".join(names_of(TrainConfig).find(name.replace("-", "_")))
    except UserError as error:
        hint = did_you_mean(name, COLUMNS) or f"the columns are {', '.join(COLUMNS)}"
        raise UserError(f"`{where}` {name}: no column, and no option of train; {hint}") from error


def _test(asked: str) -> Any:
    parts = re.fullmatch(r"([A-Za-z_.-]+)(!?=)(.*)", asked)
    if parts is None:
        raise UserError(f"`where` {asked!r}: write NAME=VALUE or NAME!=VALUE")
    name, sign, text = _whole_name(parts[1], "where"), parts[2], parts[3]
    if name in COLUMNS:
        kinds = {f.name: str(f.type) for f in fields(RunRow)}
        try:
            wanted = text if "str" in kinds[name] else float(text)
        except ValueError as error:
            raise UserError(f"`where` {asked}: {text!r} is no number") from error
    else:
        wanted = option_values(TrainConfig, name, [text], where="`where`")[1][0]
        wanted = str(wanted) if isinstance(wanted, Path) else wanted

    def holds(run: FoundRun) -> bool:
        value = run.value(name)
        return ((str(value) if isinstance(value, Path) else value) == wanted) == (sign == "=")

    return holds


def _row(path: Path, config: TrainConfig, stores: dict[Path, float | None]) -> RunRow:
    last = last_record(path / "journal.jsonl") or {}
    step = last.get("step", 0)
    validated = last_with(path / "journal.jsonl", "validation_") or {}
    validation = next((v for k, v in validated.items() if k.startswith("validation_")), None)
    nats, rate = validated.get("validation_nats_per_token"), None
    if nats is not None and not config.reads_both_sides:
        if config.store not in stores:
            stores[config.store] = tokens_per_byte(config.store)
        rate = stores[config.store]
    parent = config.lengthened.from_checkpoint or config.parent.path
    return RunRow(
        run=str(path),
        name=path.name,
        model=config.model_name,
        objective=config.objective,
        order=config.order,
        seed=config.seed,
        state=state_of(path, config.steps, step),
        step=step,
        steps=config.steps,
        tokens=last.get("tokens", 0),
        loss=last.get("loss"),
        validation=validation,
        bits_per_byte=None if nats is None or rate is None else nats * rate / math.log(2),
        changed=max(f.stat().st_mtime for f in (path / "journal.jsonl", path / "config.toml")),
        bytes=bytes_below(path),
        parent=str(run_of(Path(parent))) if parent else None,
    )


def state_of(path: Path, steps: int, step: int) -> str:
    """finished, running, or stopped, of the run in a folder that has done `step` of `steps`."""
    ended = step == steps or is_finished(path)
    if ended and checkpoint_folder(path, final_step(path, steps)).is_dir():
        return FINISHED
    return RUNNING if holder(path / ".lock") else STOPPED


def tokens_per_byte(store: Path) -> float | None:
    """Of the validation split of a store; None where it is gone, or its bytes are not known."""
    try:
        split = TokenStore(store).split(VALIDATION)
    except UserError:
        return None
    return int(split.documents_M3[:, 1].sum()) / split.text_bytes if split.text_bytes else None


def bytes_below(path: Path) -> int:
    """Bytes of all files of a folder; one that goes while it is looked at counts nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def run_of(place: Path) -> Path:
    """The run folder of a checkpoint; any other path as it is."""
    return place.parent.parent if place.parent.name == "checkpoints" else place


def age(seconds: float) -> str:
    """A time span in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def since(row: RunRow) -> str:
    """How long ago a run last did something."""
    return age(time.time() - row.changed)


def children_of(runs: Collection[Path], among: Sequence[FoundRun]) -> list[FoundRun]:
    """Those that started from one of the `runs` and are none of them."""
    places = {path.resolve() for path in runs}
    return [
        run
        for run in among
        if run.row.parent is not None
        and Path(run.row.parent).resolve() in places
        and run.path.resolve() not in places
    ]


def check_removable(runs: Sequence[FoundRun]) -> None:
    """`UserError` where one of the runs is in use."""
    used = [(run.row.run, by) for run in runs if (by := holder(run.path / ".lock"))]
    if used:
        named = ", ".join(f"{run} ({by})" for run, by in used)
        raise UserError(f"nothing was removed: {named} is running; stop it first")


def remove_run(path: Path) -> None:
    """Removes a run's folder. Raises `UserError` if it is running."""
    try:
        lock = Lock(path / ".lock")
    except Held as held:
        raise UserError(f"{path} is running ({held.by}); it was not removed") from held
    doomed = path.with_name(f".{path.name}.removed.tmp")
    with lock, disk_errors(path):
        operation("rename", doomed)
        path.rename(doomed)
        sync_folder(path.parent)
        shutil.rmtree(doomed)
