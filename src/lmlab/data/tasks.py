"""Evaluation tasks read: one that is named, what a file or folder holds, or a whole suite.

`lmlab.data.task_formats` has the forms of the files. Sources are those of `lmlab.data.records`. The
Hub's data sets have the same columns: LAMBADA is `hf:EleutherAI/lambada_openai`, BLiMP
`hf:nyu-mll/blimp` (all its configurations).

Notable:
- A limit is a fixed keyed sample (of each set, where sets count the same), the same on every
  machine; the first items of a file are often alike.
- Seven of BLiMP's 67,000 pairs are two times the same sentence. They stay: no model can tell them
  apart, and each counts one half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np

from lmlab.data.records import JSON_LINES, SourceFile, read_records, source_files
from lmlab.data.task_formats import (
    RECORD_FORMATS,
    TEXT_FORMATS,
    Item,
    items_of_file,
    items_of_records,
    kind_of,
)
from lmlab.data.task_items import (
    ContextChoice,
    LastWord,
    MinimalPair,
    MultipleChoice,
    Task,
    TaskKind,
    WordForms,
)
from lmlab.data.windows import key, keyed_bijection
from lmlab.errors import UserError

__all__ = [
    "ContextChoice", "LastWord", "MinimalPair", "MultipleChoice", "Suite", "Task", "TaskKind",
    "WordForms", "is_source", "read_suite", "read_task", "read_tasks", "sample",
]  # fmt: skip

_SAMPLE = 0x2E80  # key of the samples that a limit takes
_SUITE: tuple[TaskKind, ...] = (
    "blimp", "supplement", "ewok", "comps", "entity_tracking", "wug_adj", "wug_past", "zorro",
    "clams",
)  # fmt: skip
_TRAIN = ("blimp",)  # kinds whose data sets of the Hub call their one split so
T = TypeVar("T")


@dataclass(frozen=True)
class Suite:
    """What a folder holds."""

    tasks: tuple[Task, ...]
    others: tuple[str, ...]
    """Files that have the form of no zero-shot task, such as reading times."""


def is_source(specification: str) -> bool:
    """Whether a task is named by KIND=SOURCE, or is a file or folder that exists."""
    kind, equals, _ = specification.partition("=")
    return (bool(equals) and kind in get_args(TaskKind)) or Path(specification).exists()


def read_tasks(specifications: Sequence[str], *, limit: int | None = None) -> list[Task]:
    """Tasks from `KIND=SOURCE`, or files and folders whose form tells the kind, in the given order.

    Raises `UserError` for an unknown kind, a file or folder without a task, and as `read_task`.
    """
    if not specifications:
        raise UserError("name at least one task, for example `tasks` lambada=FILE")
    tasks: list[Task] = []
    for specification in specifications:
        kind, equals, source = specification.partition("=")
        if equals and source and kind in get_args(TaskKind):
            tasks.append(read_task(cast(TaskKind, kind), source, limit=limit))
        elif Path(specification).exists():
            tasks += _recognised(specification, limit)
        else:
            raise UserError(
                f"task '{specification}': name it KIND=SOURCE, KIND one of "
                f"{', '.join(get_args(TaskKind))}, SOURCE a file, a folder or hf:NAME; or name a "
                "file or folder alone, if it has the form of one of these"
            )
    return tasks


def read_task(kind: TaskKind, source: str, *, limit: int | None = None) -> Task:
    """The items of a source; with `limit` a fixed sample of so many (of each set, where sets count
    the same).

    Raises `UserError`, naming file and line, for what cannot be read or is no item.
    """
    if source.startswith("hf:") and kind in RECORD_FORMATS:
        records = (record for part in _hub_sources(kind, source)
                   for record in read_records(part, hub_split="train" if kind in _TRAIN else "test")
                   )  # fmt: skip
        return _task(kind, source, items_of_records(kind, records), limit)
    files = source_files(source, (".txt",) if kind in TEXT_FORMATS else JSON_LINES)
    if kind in TEXT_FORMATS and len(files) > 1:  # beside them stand a licence, a source
        files = [file for file in files if kind_of(file) == kind]
    return _task(kind, source, _items(kind, files), limit)


def read_suite(folder: str | Path, *, limit: int | None = None) -> Suite:
    """The zero-shot tasks that lie anywhere below a folder, as BabyLM's evaluation data, each file
    known by its fields; `limit` as of `read_task`.

    Raises `UserError` for a folder that is not there, a set that two files hold (the full and the
    fast data), and what is wrong with an item of a known form.
    """
    if not Path(folder).exists():
        raise UserError(f"{folder}: no such folder")
    files_of, others = _by_kind(folder)
    others += [file for kind in files_of if kind not in _SUITE for file in files_of[kind]]
    tasks: list[Task] = []
    for kind in _SUITE:
        if kind not in files_of:
            continue
        items: list[Item] = []
        holder: dict[str, str] = {}
        for file in files_of[kind]:
            of_file = list(items_of_file(kind, file))
            for name in {item.set_name or kind for item in of_file}:
                if name in holder:
                    raise UserError(
                        f"set '{name}' of {kind} is in {holder[name]} and in {file.where}; name "
                        "the folder that holds one of both (the full or the fast data)"
                    )
                holder[name] = file.where
            items += of_file
        tasks.append(_task(kind, str(folder), items, limit))
    return Suite(tuple(tasks), tuple(sorted(file.where for file in others)))


def _recognised(source: str, limit: int | None) -> list[Task]:
    """The tasks that a file or folder holds."""
    files_of, others = _by_kind(source)
    if not files_of:
        first = others[0].where if others else source
        raise UserError(
            f"{first}: has the form of no task (docs/evaluation.md has their forms). KIND=SOURCE "
            f"says what a file is, KIND one of {', '.join(get_args(TaskKind))}"
        )
    return [_task(kind, source, _items(kind, files), limit) for kind, files in files_of.items()]


def _by_kind(
    source: str | Path,
) -> tuple[dict[TaskKind, list[SourceFile]], list[SourceFile]]:
    """The files of each kind, and those of none."""
    files = source_files(source, None)
    files_of: dict[TaskKind, list[SourceFile]] = {}
    others: list[SourceFile] = []
    for file in files:
        within = [file]
        if file.suffix == ".zip" and not file.member:
            within = source_files(file.path, None)
        for each in within:
            kind = kind_of(each)
            (others if kind is None else files_of.setdefault(kind, [])).append(each)
    return files_of, others


def _items(kind: TaskKind, files: Iterable[SourceFile]) -> Iterator[Item]:
    return (item for file in files for item in items_of_file(kind, file))


def _task(kind: TaskKind, source: str, items: Iterable[Item], limit: int | None) -> Task:
    if limit is not None and limit < 1:
        raise UserError(f"`limit` {limit} must be at least 1")
    read: list[Any] = list(items)
    if not read:
        raise UserError(f"{source}: no item in it")
    task = Task(kind, source, read, len(read))
    _check_fields(read)
    if not task.even_sets:
        return replace(task, items=sample(read, limit))
    by_set: dict[str, list[Any]] = {}
    for name, item in zip(task.sets or (), read, strict=True):
        by_set.setdefault(name, []).append(item)
    return replace(task, items=[i for items in by_set.values() for i in sample(items, limit)])


def _check_fields(items: Sequence[Item]) -> None:
    """A set of minimal pairs belongs to one field."""
    first: dict[str, MinimalPair] = {}
    for pair in (item for item in items if isinstance(item, MinimalPair)):
        field = first.setdefault(pair.uid, pair).field
        if pair.field != field:
            raise UserError(
                f"{pair.where}: set '{pair.uid}' has field '{pair.field}' here and '{field}' "
                "before; a set belongs to one field"
            )


def sample(items: list[T], limit: int | None) -> list[T]:
    """`limit` of the items (all, for None), chosen by a key, in their own order."""
    if limit is None or limit >= len(items):
        return items
    chosen = keyed_bijection(np.arange(limit), len(items), key(_SAMPLE))
    return [items[i] for i in sorted(chosen.tolist())]


def _hub_sources(kind: TaskKind, source: str) -> Iterator[str]:
    """BLiMP's sets are configurations of its data set."""
    if kind != "blimp" or source.count(":") > 1:
        yield source
        return
    from datasets import get_dataset_config_names

    try:
        names = get_dataset_config_names(source.removeprefix("hf:"))
    except Exception as error:
        raise UserError(f"{source}: the Hub data set cannot be read: {error}") from error
    for name in names:
        yield f"{source}:{name}"
