"""The run directory: who may write it, and which run it holds.

config.toml       the resolved configuration, as `--config` reads it; in [lmlab] the run's identity
journal.jsonl     step, tokens, loss, gradient norm, learning rate, validation
timing.jsonl      clock, tokens per second, memory
checkpoints/      see `lmlab.run_folders.checkpoint`
.lock             held while a process trains here
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmlab.config import NOT_OPTIONS, from_mapping, read_toml, to_toml
from lmlab.config.objective import UnknownObjective, pair_of
from lmlab.config.training import TrainConfig
from lmlab.durable import remove_abandoned, write_text
from lmlab.errors import UserError
from lmlab.locks import Held, Lock

_PLACES = {"store", "out", "threads", "device", "strict", "fsdp", "minutes"}


class RunDirectory:
    """A run folder, opened for training: created or found to hold the same run, and locked.

    Raises `UserError` if it holds another run or something that is no run, and `Held` if another
    process is training in it; the folder is then left as it is.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: str,
        config: dict[str, Any],
        store_fingerprint: str = "",
        objective_source: str | None = None,
    ) -> None:
        self.path = path
        known = {"identity": identity, "store_fingerprint": store_fingerprint}
        if objective_source is not None:
            known["objective_source"] = objective_source
        about = {NOT_OPTIONS: known}
        config_file = path / "config.toml"
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; give another `out`")
        if path.is_dir() and not config_file.exists():
            strangers = [p.name for p in path.iterdir() if not p.name.startswith(".")]
            if strangers:
                raise UserError(
                    f"{path} is not a run folder (it holds {', '.join(sorted(strangers)[:3])}); "
                    "give another `out`"
                )
        if config_file.exists():
            check_identity(path, identity, {**config, **about})
        try:
            self._lock = Lock(path / ".lock")
        except Held as held:
            raise Held(
                f"another process is training in {path} ({held.by}); wait for it, or give another "
                "`out`",
                held.by,
            ) from held
        try:
            remove_abandoned(path)
            remove_abandoned(path / "checkpoints")
            self._made = not config_file.exists()
            if self._made:
                write_text(config_file, to_toml({**config, **about}))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._made and kind is not None and issubclass(kind, UserError):
            names = {p.name for p in self.path.iterdir() if not p.name.startswith(".")}
            if names == {"config.toml"}:
                # refused before anything was trained: the mended command may have the folder
                (self.path / "config.toml").unlink()
        self.close()


def stored_config(run: Path) -> TrainConfig:
    """The resolved configuration of a run. `UserError` for a folder that holds none."""
    file = run / "config.toml"
    if not file.is_file():
        raise UserError(f"{run}: no run; `lmlab train` makes one, `lmlab runs` lists them")
    values = {k: v for k, v in read_toml(file).items() if k != NOT_OPTIONS}
    try:
        pair_of(values.get("objective", TrainConfig.objective))
    except UnknownObjective as error:
        raise UnknownObjective(f"{run}: {error}") from error
    return from_mapping(TrainConfig, values, where=str(file))


def stored_identity(run: Path) -> str:
    """The identity of the run in a folder."""
    return str(read_toml(run / "config.toml").get(NOT_OPTIONS, {}).get("identity"))


def stored_fingerprint(run: Path) -> str:
    """That of the store that the run in a folder is trained on."""
    return str(read_toml(run / "config.toml").get(NOT_OPTIONS, {}).get("store_fingerprint"))


_NOT_NAMED = "what it starts from, or how this version of lmlab trains"


def check_identity(path: Path, identity: str, config: dict[str, Any]) -> None:
    """`UserError` unless the run folder `path` holds the run `identity`; says what differs."""
    held = read_toml(path / "config.toml")
    if held.get(NOT_OPTIONS, {}).get("identity") == identity:
        return
    differing = sorted(_differences(held, config))
    longer, before, steps = "", held.get("steps"), config.get("steps")
    if isinstance(before, int) and isinstance(steps, int) and steps > before:
        longer = f" To go on with that one: lmlab lengthen {path} --steps {steps}"
    raise UserError(
        f"{path} holds another run (different: {', '.join(differing) or _NOT_NAMED}). Give another "
        f"`out`, or remove that folder first.{longer}"
    )


def _differences(held: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for key in {*held, *wanted} - _PLACES - {"identity"}:
        a, b = held.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names |= _differences(a, b, "" if key == NOT_OPTIONS else f"{prefix}{key}.")
        elif a != b:
            names.add(prefix + key)
    return names
