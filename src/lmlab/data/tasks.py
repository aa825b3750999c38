"""Evaluation tasks: LAMBADA, BLiMP, and any multiple choice in lmlab's own form, as typed items.

- `lambada`: `{"text": ...}`; the last word is to be predicted from all the others.
- `blimp`: `{"sentence_good": ..., "sentence_bad": ..., "UID": ..., "field": ...,
  "linguistics_term": ...}`; the good sentence should be the likelier one.
- `choices`: `{"context": ..., "choices": [..., ...], "answer": 0, "group": ...}` (`group` is
  optional). A choice is put behind the context as it stands, with the space it begins with. A
  minimal pair is the context "" and two choices.

Sources are those of `lmlab.data.records`. The Hub's data sets have the same columns: LAMBADA is
`hf:EleutherAI/lambada_openai`, BLiMP `hf:nyu-mll/blimp` (all its configurations).

Notable:
- A limit is a fixed keyed sample (of each set, for BLiMP), the same on every machine; the first
  items of a file are often alike.
- Seven of BLiMP's 67,000 pairs are two times the same sentence. They stay: no model can tell them
  apart, and each counts one half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast, get_args

import numpy as np

from lmlab.data.records import Record, checked_text, read_records
from lmlab.data.windows import key, keyed_bijection
from lmlab.errors import UserError

TaskKind = Literal["lambada", "blimp", "choices"]
_SAMPLE = 0x2E80  # key of the samples that a limit takes
_FIELDS = {"syntax_semantics": "syntax/semantics"}  # BLiMP's files spell this one in two ways
T = TypeVar("T")


@dataclass(frozen=True)
class LastWord:
    """A passage without its last word, and a space and that word."""

    where: str
    context: str
    target: str


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences of which one is acceptable; `uid` names the set."""

    where: str
    good: str
    bad: str
    uid: str
    field: str
    term: str


@dataclass(frozen=True)
class MultipleChoice:
    """A context (it may be empty), ways to continue it, and the number of the right one."""

    where: str
    context: str
    choices: tuple[str, ...]
    answer: int
    group: str | None = None


@dataclass(frozen=True)
class Task:
    """Items of one kind, and where they are from."""

    kind: TaskKind
    source: str
    items: Sequence[LastWord] | Sequence[MinimalPair] | Sequence[MultipleChoice]
    available: int
    """Items of the source; more than `items` where a limit was given."""

    @property
    def sets(self) -> tuple[str, ...] | None:
        """The set of each item (BLiMP's UID, the group of choices), None where no item has one; an
        item without a set is one of its own.

        Items of one set are often written from one template, so they are not independent texts.
        """
        names = [
            item.uid if isinstance(item, MinimalPair) else getattr(item, "group", None)
            for item in self.items
        ]
        if all(name is None for name in names):
            return None
        return tuple(f"item {n}" if name is None else name for n, name in enumerate(names))


def read_tasks(specifications: Sequence[str], *, limit: int | None = None) -> list[Task]:
    """Tasks from `KIND=SOURCE`, in the given order.

    Raises `UserError` for an unknown kind, and as `read_task`.
    """
    if not specifications:
        raise UserError("name at least one task, for example `tasks` lambada=FILE")
    tasks: list[Task] = []
    for specification in specifications:
        kind, equals, source = specification.partition("=")
        if not equals or not source or kind not in get_args(TaskKind):
            raise UserError(
                f"task '{specification}': name it KIND=SOURCE, KIND one of "
                f"{', '.join(get_args(TaskKind))}, SOURCE a file, a folder or hf:NAME"
            )
        tasks.append(read_task(cast(TaskKind, kind), source, limit=limit))
    return tasks


def read_task(kind: TaskKind, source: str, *, limit: int | None = None) -> Task:
    """The items of a source; with `limit` a fixed sample of so many (of each set, for BLiMP).

    Raises `UserError`, naming file and line, for what cannot be read or is no item.
    """
    if limit is not None and limit < 1:
        raise UserError(f"`limit` {limit} must be at least 1")
    if kind == "lambada":
        words = [_last_word(r) for r in read_records(source, hub_split="test")]
        return Task(kind, source, sample(words, limit), len(words))
    if kind == "blimp":
        pairs = [
            _minimal_pair(record)
            for part in _blimp_sources(source)
            for record in read_records(part, hub_split="train")
        ]
        sets: dict[str, list[MinimalPair]] = {}
        for pair in pairs:
            sets.setdefault(pair.uid, []).append(pair)
            if pair.field != sets[pair.uid][0].field:
                raise UserError(
                    f"{pair.where}: set '{pair.uid}' has field '{pair.field}' here and "
                    f"'{sets[pair.uid][0].field}' before; a set belongs to one field"
                )
        kept = [pair for of_set in sets.values() for pair in sample(of_set, limit)]
        return Task(kind, source, kept, len(pairs))
    choices = [_multiple_choice(r) for r in read_records(source, hub_split="test")]
    return Task(kind, source, sample(choices, limit), len(choices))


def sample(items: list[T], limit: int | None) -> list[T]:
    """`limit` of the items (all, for None), chosen by a key, in their own order."""
    if limit is None or limit >= len(items):
        return items
    chosen = keyed_bijection(np.arange(limit), len(items), key(_SAMPLE))
    return [items[i] for i in sorted(chosen.tolist())]


def _last_word(record: Record) -> LastWord:
    words = record.text("text").rsplit(maxsplit=1)
    if len(words) < 2:
        raise UserError(
            f"{record.where}: 'text' is a single word; it has to be a passage whose last word is "
            "predicted from the others"
        )
    return LastWord(record.where, words[0], " " + words[1])


def _minimal_pair(record: Record) -> MinimalPair:
    good, bad = record.text("sentence_good"), record.text("sentence_bad")
    uid, field, term = (record.text(name) for name in ("UID", "field", "linguistics_term"))
    return MinimalPair(record.where, good, bad, uid, _FIELDS.get(field, field), term)


def _blimp_sources(source: str) -> Iterator[str]:
    if not source.startswith("hf:") or source.count(":") > 1:
        yield source
        return
    from datasets import get_dataset_config_names

    try:
        names = get_dataset_config_names(source.removeprefix("hf:"))
    except Exception as error:
        raise UserError(f"{source}: the Hub data set cannot be read: {error}") from error
    for name in names:
        yield f"{source}:{name}"


def _multiple_choice(record: Record) -> MultipleChoice:
    values, where = record.values, record.where
    context, choices, answer = (values.get(name) for name in ("context", "choices", "answer"))
    if context is None:
        raise UserError(f"{where}: no 'context'; a minimal pair has the context \"\"")
    if context != "":
        context = checked_text(context, f"{where}: 'context'")
    if not isinstance(choices, list) or len(choices) < 2:
        raise UserError(f"{where}: 'choices' has to be a list of at least two texts")
    texts = tuple(checked_text(c, f"{where}: choice {i}") for i, c in enumerate(choices))
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(texts):
        raise UserError(
            f"{where}: 'answer' has to be the number of the right choice, 0 to {len(texts) - 1}; "
            f"it is {answer!r}"
        )
    return MultipleChoice(where, context, texts, answer, record.optional_text("group"))
