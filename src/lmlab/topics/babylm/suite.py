"""The tasks of a folder: zero-shot tasks, reading times, ages of acquisition, and what is missing.

The folder is BabyLM's evaluation_data, or any other whose files have the forms of those tasks;
files are recognised by what is in them (`lmlab.data.tasks`, `read_reading_times`,
`read_child_ages`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lmlab.data.tasks import Task, read_suite
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
    unknown: tuple[Path, ...]
    """Files that are of no known form."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The tasks of BabyLM that the folder lacks."""
        there = {task.name for task in self.tasks}
        there |= {"reading"} if self.reading else set()
        there |= {"acquisition"} if self.children else set()
        return tuple(name for name in EXPECTED if name not in there)


def open_suite(folder: Path, *, limit: int | None = None) -> Suite:
    """The tasks of a folder; with `limit` a fixed sample of so many items of each set.

    Raises `UserError` for a folder without any, two tables of one kind, and what a file of a known
    form has wrong.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no folder; give the one that has the tasks")
    found = read_suite(folder, limit=limit)
    tables = [path for path in found.others if path.suffix.lower() == ".csv"]
    headers = {path: _header(path) for path in tables}
    reading = _the("reading times", "sent_id", headers, read_reading_times)
    children = _the("ages of children", "definition", headers, read_child_ages)
    known = {*_with("sent_id", headers), *_with("definition", headers)}
    if not (found.tasks or reading or children):
        raise UserError(
            f"{folder}: no file of a known form. docs/evaluation.md has the forms; BabyLM's data "
            "is the folder evaluation_data of its evaluation repository"
        )
    return Suite(
        found.tasks, reading, children,
        tuple(path for path in found.others if path not in known),
    )  # fmt: skip


def _header(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline()


def _with(column: str, headers: dict[Path, str]) -> list[Path]:
    return [path for path, line in headers.items() if column in line.replace('"', "").split(",")]


def _the(what: str, column: str, headers: dict[Path, str], read: Callable[[Path], T]) -> T | None:
    paths = _with(column, headers)
    if len(paths) > 1:
        raise UserError(f"{paths[0]} and {paths[1]} both are tables of {what}; leave one out")
    return read(paths[0]) if paths else None
