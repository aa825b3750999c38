"""A study as parts, made by one process or shared by any number of workers.

A part is a run with all that follows from it alone: child runs, scores, other analyses that are
kept beside it. What compares parts (the result, the report) is made at the end, from all of them.

Notable:
- A worker claims a part by a lock that ends with its process. It makes the parts that nobody has
  claimed, and comes back for those that were claimed before: finished ones are only read, those of
  a worker that died go on from its last checkpoint.
- A worker that finds only parts of living workers ends. So the last to finish a part finds all of
  them finished: it makes the report.
- What a claim's file says is for `--status`; nothing here reads it.

Shapes of types: K key of a part, T what it gives, R the study's result.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lmlab.errors import UserError
from lmlab.locks import Held, Lock, this_process
from lmlab.progress import Bar, say, track
from lmlab.results import PAGE, Result, read_values
from lmlab.studies.needs import say_needs
from lmlab.studies.status import REPORT, claim_file, write_plan
from lmlab.training.setup import ResolvedRun

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R", bound=Result)

_BETWEEN_PASSES = 5.0


@dataclass(frozen=True)
class Part(Generic[T]):
    """A run of a study, and what follows from it alone."""

    label: str
    run: ResolvedRun
    """Its first run."""
    make: Callable[[Bar], T]
    """Makes the part, or reads what is there of it, and counts its tokens."""

    @property
    def name(self) -> str:
        """The name of its first run's folder."""
        return self.run.path.name


class Planned(Exception):
    """The end of a study that was only to be planned: its plan is written and said."""


_planning = ContextVar("planning", default=False)


@contextmanager
def planning() -> Iterator[None]:
    """Studies within are planned, with `Planned`, and not run."""
    token = _planning.set(True)
    try:
        yield
    finally:
        _planning.reset(token)


class LeftToOthers(Exception):
    """A worker's end: what is left of the study is with other living workers."""


def run_parts(
    study: str,
    parts: Mapping[K, Part[T]],
    kind: type[R],
    result: Callable[[dict[K, T]], R],
    *,
    out: Path,
    work: float,
    worker: bool,
) -> R:
    """Makes the `parts` of a study, and of what they gave its result, which is of the type `kind`
    and saved in the folder `out`.

    `work` counts tokens, for the progress of `study`. A `worker` shares the parts with others, and
    goes on past a part that fails. Raises `LeftToOthers` where others are at the rest, and
    `UserError` for parts that failed, and without `worker` for a part that another process makes.
    """
    report = out / PAGE
    before = _stamp(report)
    measured = make_parts(study, parts, out=out, work=work, worker=worker)
    try:
        lock = Lock(claim_file(out, REPORT))
    except Held as held:
        if worker:
            raise LeftToOthers(f"{held.by} is making the report, {report}") from held
        raise UserError(f"{held.by} is making the report of this study; wait for it") from held
    with lock:
        if worker and _stamp(report) != before:
            say("another worker has made the report")
            return kind.from_json(read_values(out), where=str(out))
        complete = result(measured)
        complete.save(out)
        return complete


def make_parts(
    study: str,
    parts: Mapping[K, Part[T]],
    *,
    out: Path,
    work: float,
    worker: bool,
    later: Sequence[Part[Any]] = (),
    wait: bool = False,
) -> dict[K, T]:
    """What the `parts` give, made or read, without a result of them: for a study whose further
    parts depend on these, which it makes together with these.

    `later` are further ones as far as they are known, for what is planned and said. With `wait` a
    worker stays until others have made theirs. Other arguments and errors as for `run_parts`;
    `Planned` within `planning`."""
    every = [*parts.values(), *later]
    rows = [(part.label, part.name, part.run.config.steps, part.run.tokens) for part in every]
    write_plan(out, study, rows)
    say_needs(study, [part.run for part in every], work=work)
    if _planning.get():
        raise Planned
    with track(study, work, "tokens") as bar:
        return _shared(parts, out, bar, wait=wait) if worker else _by_one(parts, out, bar)


def _by_one(parts: Mapping[K, Part[T]], out: Path, bar: Bar) -> dict[K, T]:
    measured: dict[K, T] = {}
    for key, part in parts.items():
        try:
            with Lock(claim_file(out, part.name)) as lock:
                measured[key] = _noted(part, lock, bar)
        except Held as held:
            raise UserError(
                f"{part.label}: {held.by} is at it. Wait for it, or share the study: --worker"
            ) from held
    return measured


def _shared(parts: Mapping[K, Part[T]], out: Path, bar: Bar, *, wait: bool) -> dict[K, T]:
    measured: dict[K, T] = {}
    failed: dict[K, str] = {}
    while left := [key for key in parts if key not in measured and key not in failed]:
        went_on = outside = False
        workers: set[str] = set()
        for key in left:
            part = parts[key]
            try:
                lock = Lock(claim_file(out, part.name))
            except Held as held:
                workers.add(held.by)
                continue
            with lock:
                try:
                    measured[key] = _noted(part, lock, bar)
                except Held:  # a run that is in use outside this study
                    outside = True
                    continue
                except Exception as error:  # of one part: memory may be enough for the others
                    why = str(error)
                    if not isinstance(error, UserError):
                        say(traceback.format_exc())
                        why = f"{type(error).__name__}: {error}"
                    failed[key] = f"{part.label}: {why}"
                    say(f"failed: {failed[key]}")
            went_on = True
        if went_on:
            continue
        if not outside and not wait:
            _check(failed, len(parts))
            raise LeftToOthers(
                f"{this_process()} ends: {len(left)} of {len(parts)} parts are left, with "
                f"{', '.join(sorted(workers))}; the last to finish makes the report in {out}"
            )
        time.sleep(_BETWEEN_PASSES)
    _check(failed, len(parts))
    return measured


def _noted(part: Part[T], lock: Lock, bar: Bar) -> T:
    """What the part gives; its claim says how that went."""
    lock.note(state="running")
    try:
        measured = part.make(bar)
    except Exception as error:
        lock.note(state="waiting" if isinstance(error, Held) else "failed", why=str(error))
        raise
    lock.note(state="finished")
    return measured


def _check(failed: Mapping[Any, str], parts: int) -> None:
    if failed:
        raise UserError(f"{len(failed)} of {parts} parts failed. {'. '.join(failed.values())}")


def _stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
