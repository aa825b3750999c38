"""The tasks of a folder: zero-shot tasks, reading times, ages of acquisition, and what is missing.

The folder is BabyLM's evaluation_data, or any other whose files have the forms of those tasks;
files are recognised by what is in them (`lmlab.data.tasks`, `read_reading_times`,
`read_child_ages`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lmlab.data.task_items import LastWord, Task, WordForms
from lmlab.data.tasks import read_suite
from lmlab.errors import UserError
from lmlab.topics.babylm.acquisition import ChildAges, read_child_ages
from lmlab.topics.babylm.reading import ReadingWords, read_reading_times

T = TypeVar("T")

EXPECTED = (
    "blimp", "supplement", "ewok", "comps", "entity_tracking", "wug_adj", "wug_past", "reading",
    "acquisition",
)  # fmt: skip
"""The tasks of BabyLM."""


@dataclass(frozen=True)
class Suite:
    """What there is to measure."""

    tasks: tuple[Task, ...]
    reading: ReadingWords | None
    children: ChildAges | None
    unknown: tuple[str, ...]
    """Files that are of no known form."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The tasks of BabyLM that the folder lacks."""
        there = {task.name for task in self.tasks}
        there |= {"reading"} if self.reading else set()
        there |= {"acquisition"} if self.children else set()
        return tuple(name for name in EXPECTED if name not in there)


def open_suite(data: Path, *, fast: bool = False, limit: int | None = None) -> Suite:
    """The tasks of a folder; with `limit` a fixed sample of so many items of each set.

    BabyLM's folder has `full_eval` and `fast_eval`: of it the first is read, or with `fast` the
    second, and from the first the tables of people that the second lacks.

    Raises `UserError` for a folder without any, two tables of one kind, and what a file of a known
    form has wrong.
    """
    full, quick = data / "full_eval", data / "fast_eval"
    if not full.is_dir():
        return _open(data, limit)
    if not (fast and quick.is_dir()):
        return _open(full, limit)
    suite, whole = _open(quick, limit), _open(full, 1)
    return replace(
        suite, reading=suite.reading or whole.reading, children=suite.children or whole.children
    )


def _open(folder: Path, limit: int | None) -> Suite:
    if not folder.is_dir():
        raise UserError(f"{folder}: no folder; give the one that has the tasks")
    found = read_suite(folder, limit=limit)
    headers = {name: _header(Path(name)) for name in found.others if name.endswith(".csv")}
    reading = _the("reading times", "sent_id", headers, read_reading_times)
    children = _the("ages of children", "definition", headers, read_child_ages)
    if not (found.tasks or reading or children):
        raise UserError(
            f"{folder}: no file of a known form. docs/evaluation.md has the forms; BabyLM's data "
            "is the folder evaluation_data of its evaluation repository"
        )
    known = {*_with("sent_id", headers), *_with("definition", headers)}
    unknown = tuple(name for name in found.others if name not in known)
    return Suite(found.tasks, reading, children, unknown)


def metric_of(task: Task) -> str:
    """What a task is judged by."""
    return "spearman" if isinstance(task.items[0], WordForms) else "accuracy"


def chance_of(task: Task) -> float | None:
    """The score of a guess; None where it is not known."""
    if isinstance(task.items[0], LastWord):
        return None
    if isinstance(task.items[0], WordForms):
        return 0.0
    shares_N = [1 / len(item.options) for item in task.items]
    return float(task.weights @ shares_N / task.weights.sum())


def _header(path: Path) -> set[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return set(file.readline().strip().replace('"', "").split(","))


def _with(column: str, headers: dict[str, set[str]]) -> list[str]:
    return [name for name, columns in headers.items() if column in columns]


def _the(
    what: str, column: str, headers: dict[str, set[str]], read: Callable[[Path], T]
) -> T | None:
    names = _with(column, headers)
    if len(names) > 1:
        raise UserError(f"{names[0]} and {names[1]} both are tables of {what}; leave one out")
    return read(Path(names[0])) if names else None
