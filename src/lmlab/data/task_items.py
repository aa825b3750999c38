"""Items of evaluation tasks, and a task: its items, their sets, and what is independent of what.

Every item says which texts a model has to score (`options`, each a context and its continuation),
and, but for `LastWord` and `WordForms`, which of them is the right one (`answer`).

Notable:
- A *set* is what a figure is asked of: a paradigm of BLiMP, a file of COMPS. Of most kinds a task's
  figure is the plain mean over sets, each weighing the same (`Task.weights`).
- A *cluster* is what items share that makes them alike: the same phrase behind other contexts, the
  same boxes before other moves. Items of one cluster are one piece of evidence and not several.
- Where sets are conditions under which the same clusters come again (COMPS, entity tracking), the
  unit of a whole task's interval is the cluster; else it is the set, and where there is none, the
  item (`Task.units`).

Shapes: N items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

TaskKind = Literal[
    "lambada", "blimp", "supplement", "ewok", "comps", "entity_tracking", "wug_adj", "wug_past",
    "zorro", "clams", "choices",
]  # fmt: skip
_CONDITIONS = ("comps", "entity_tracking")  # kinds whose sets ask the same things again

_SUBSETS = {"wug_adj": "wug_adj_nominalization", "wug_past": "wug_past_tense"}

Option: TypeAlias = tuple[str, str]
"""A context (it may be empty), and what follows it as it stands."""


class _Item:
    """What all kinds of items can be asked."""

    @property
    def set_name(self) -> str | None:
        """The set that the item is of."""
        return getattr(self, "group", None)

    @property
    def part_name(self) -> str:
        """What its set belongs to: a field, a file; "" for nothing."""
        return getattr(self, "part", None) or getattr(self, "field", None) or ""

    @property
    def cluster_name(self) -> str | None:
        """What it shares with items like it, where its fields tell."""
        return getattr(self, "cluster", None)


@dataclass(frozen=True)
class LastWord(_Item):
    """A passage without its last word, and a space and that word."""

    where: str
    context: str
    target: str

    @property
    def options(self) -> tuple[Option, ...]:
        """The word after its passage."""
        return ((self.context, self.target),)


@dataclass(frozen=True)
class MinimalPair(_Item):
    """Two sentences of which one is acceptable; `uid` names the set."""

    where: str
    good: str
    bad: str
    uid: str
    field: str
    term: str

    answer = 0

    @property
    def set_name(self) -> str | None:
        """The set that the pair is of."""
        return self.uid

    @property
    def options(self) -> tuple[Option, ...]:
        """Both sentences whole, the good one first."""
        return (("", self.good), ("", self.bad))

    @property
    def texts(self) -> tuple[str, ...]:
        """What each option is called in a file of predictions."""
        return (self.good, self.bad)


@dataclass(frozen=True)
class MultipleChoice(_Item):
    """A context (it may be empty), ways to continue it, and the number of the right one."""

    where: str
    context: str
    choices: tuple[str, ...]
    answer: int
    group: str | None = None
    """The set."""
    part: str | None = None
    """What several sets belong to; a whole task is then the mean over parts of the means over
    their sets."""
    cluster: str | None = None

    @property
    def options(self) -> tuple[Option, ...]:
        """Each choice after the context."""
        return tuple((self.context, choice) for choice in self.choices)

    @property
    def texts(self) -> tuple[str, ...]:
        """What each option is called in a file of predictions."""
        return self.choices


@dataclass(frozen=True)
class ContextChoice(_Item):
    """The same words after several contexts: after the first they should be the likeliest."""

    where: str
    contexts: tuple[str, ...]
    continuation: str
    group: str
    """The set."""
    cluster: str

    answer = 0

    @property
    def options(self) -> tuple[Option, ...]:
        """The continuation after each context."""
        return tuple((context, self.continuation) for context in self.contexts)

    @property
    def texts(self) -> tuple[str, ...]:
        """What each option is called in a file of predictions."""
        return tuple(context + self.continuation for context in self.contexts)


@dataclass(frozen=True)
class WordForms(_Item):
    """Sentences that differ in the form of an invented word, and the share of people who say the
    first."""

    where: str
    sentences: tuple[str, ...]
    share: float

    @property
    def options(self) -> tuple[Option, ...]:
        """Each sentence whole."""
        return tuple(("", sentence) for sentence in self.sentences)

    @property
    def texts(self) -> tuple[str, ...]:
        """What each option is called in a file of predictions."""
        return self.sentences


Choice: TypeAlias = MinimalPair | MultipleChoice | ContextChoice
"""Items of which one option is right."""


@dataclass(frozen=True)
class Task:
    """Items of one kind, and where they are from."""

    kind: TaskKind
    source: str
    items: Sequence[LastWord] | Sequence[Choice] | Sequence[WordForms]
    available: int
    """Items of the source; more than `items` where a limit was given."""

    @property
    def name(self) -> str:
        """What tables, pages and files of predictions call it."""
        return self.kind

    @property
    def sets(self) -> tuple[str, ...] | None:
        """The set of each item (BLiMP's UID, the group of choices), None where no item has one; an
        item without a set is one of its own.

        Items of one set are often written from one template, so they are not independent texts.
        """
        return _labels([item.set_name for item in self.items])

    @property
    def clusters(self) -> tuple[str, ...] | None:
        """The cluster of each item, None where its fields do not tell one."""
        return _labels([item.cluster_name for item in self.items])

    @property
    def units(self) -> tuple[str, ...] | None:
        """The unit of resampling that each item belongs to; None where it is the item itself."""
        return self.clusters if self.kind in _CONDITIONS else self.sets

    @property
    def even_sets(self) -> bool:
        """Whether the figure of the whole is a mean over sets, and not over items."""
        return self.kind != "choices" and self.sets is not None

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weight of each item (N) in the figure of the whole, 1 in the mean.

        Where sets count the same, an item weighs less in a larger set; where sets belong to parts
        (entity tracking: the numbers of moves of a file), a set weighs less in a part of many.
        """
        sets = self.sets
        if not self.even_sets or sets is None:
            return np.ones(len(self.items))
        items_of = Counter(sets)
        part_of = {s: getattr(item, "part", None) or s
                   for s, item in zip(sets, self.items, strict=True)}  # fmt: skip
        sets_of = Counter(part_of.values())
        weights_N = np.array([1 / (items_of[s] * sets_of[part_of[s]]) for s in sets])
        return weights_N / weights_N.mean()

    @property
    def ids(self) -> tuple[tuple[str, str], ...]:
        """Subset and name of each item in a file of predictions: SUBSET_0, SUBSET_1, ... in the
        order of the items."""
        seen: Counter[str] = Counter()
        ids: list[tuple[str, str]] = []
        for subset in self.sets or [_SUBSETS.get(self.kind, self.name)] * len(self.items):
            ids.append((subset, f"{subset}_{seen[subset]}"))
            seen[subset] += 1
        return tuple(ids)


def _labels(names: Sequence[str | None]) -> tuple[str, ...] | None:
    if all(name is None for name in names):
        return None
    return tuple(f"item {n}" if name is None else name for n, name in enumerate(names))
