"""Labelled sentences and pairs of them, to fine-tune a model on and to evaluate it with.

A task is named KIND=SOURCE:
- `polarity=FOLDER`: sentence polarity (Pang and Lee 2005);
- `glue=TASK` or `glue=TASK:FOLDER`: a task of GLUE, of the Hub or from its tsv files;
- `xnli=LANGUAGE`: XNLI, of the Hub;
- `babylm=FILE` or `babylm=FOLDER`: BabyLM's fine-tuning set, `TASK.train.jsonl` and
  `TASK.valid.jsonl`; a folder stands for all tasks in it, and may be named alone;
- `tsv=FILE`, `jsonl=FILE`, or a folder of such files.

Every task has three sets. Training fits, the selection set stops it, and the reported set is looked
at once; no text of the reported set is ever put into the selection set here.

Notable:
- Sets that are not given are made by a keyed choice among the distinct texts (or pairs) of each
  class: equal texts stay on one side.
- What a source gives is never dropped. Where its sets share texts, the notes say how many.
- Examples are in the order of their source, and so sorted by class in some: shuffle them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmlab.data.labelled_sources import (
    Example,
    Source,
    babylm,
    babylm_files,
    glue,
    own_files,
    polarity,
    xnli,
)
from lmlab.data.tasks import sample
from lmlab.data.windows import key, keyed_bijection
from lmlab.errors import UserError

__all__ = ["Example", "LabelledTask", "read_labelled", "read_labelled_tasks"]

_KINDS: dict[str, Callable[[str], Source]] = {
    "polarity": polarity,
    "glue": glue,
    "xnli": xnli,
    "babylm": babylm,
    "tsv": lambda source: own_files(source, "tsv"),
    "jsonl": lambda source: own_files(source, "jsonl"),
}
_HELD_OUT = 0x1ABE  # key of the choice of what is held out
_TENTH = 10
_MOST_SELECTION = 2000


@dataclass(frozen=True)
class LabelledTask:
    """Labelled examples in three sets, and how predictions are judged."""

    name: str
    source: str
    labels: tuple[str, ...]
    """Names of the classes in their order; empty for regression."""
    metrics: tuple[str, ...]
    """Names of `lmlab.numerics.classification`; the first is the headline."""
    train: tuple[Example, ...]
    selection: tuple[Example, ...]
    reported: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know."""

    @property
    def regression(self) -> bool:
        """Whether a value is predicted and not a class."""
        return not self.labels


def read_labelled_tasks(
    specifications: Iterable[str], *, limit: int | None = None
) -> list[LabelledTask]:
    """The tasks that are named, in the given order; a folder of BabyLM's stands for all in it.

    Raises `UserError` as `read_labelled`.
    """
    each: list[str] = []
    for specification in specifications:
        kind, equals, name = specification.partition("=")
        if not equals and Path(specification).exists():
            kind, name = "babylm", specification
        each += map("babylm={}".format, babylm_files(name)) if kind == "babylm" else [specification]
    return [read_labelled(specification, limit=limit) for specification in each]


def read_labelled(specification: str, *, limit: int | None = None) -> LabelledTask:
    """The task that `KIND=SOURCE` names; with `limit` a fixed sample of so many training examples.

    Where a source has an evaluation set but no selection set, a tenth of the distinct training
    texts, at most 2000 of them, becomes the selection set; where it has one set only, a tenth of
    the distinct texts is held out for selection and a tenth is reported. Each class gives its
    share, at least one text.

    Raises `UserError`, naming file and line, for what cannot be read or is no example, and for
    sets that cannot serve: one class only, a class without training examples, too few texts.
    """
    kind, equals, name = specification.partition("=")
    if not equals or not name or kind not in _KINDS:
        raise UserError(
            f"labelled task '{specification}': name it KIND=SOURCE, KIND one of "
            f"{', '.join(_KINDS)}, for example glue=rte or tsv=FILE"
        )
    if limit is not None and limit < 1:
        raise UserError(f"`limit` {limit} must be at least 1")
    source = _KINDS[kind](name)
    _check_classes(source.train, source, "training set")
    train, selection, reported, notes = source.train, source.selection, source.reported, []
    if reported is None:
        train, selection, reported = _deal(train, source, parts=2)
        notes.append("one set only: a tenth held out for selection, a tenth reported, by a key")
    elif selection is None:
        train, selection = _deal(train, source, parts=1, closed=_texts(reported))
        notes.append(f"selection set: {len(selection)} examples held out from training, by a key")
    else:
        notes += _overlap("reported", reported, "selection", selection)
    notes += _overlap("reported", reported, "training", train)
    notes += _overlap("selection", selection, "training", train)
    if limit is not None and limit < len(train):
        notes.append(f"trained on a sample of {limit} of {len(train)} examples")
        train = sample(train, limit)
        _check_classes(train, source, f"sample of `limit` {limit} (take more)")
    if len({example.label for example in reported}) == 1:
        notes.append("the reported set has one class only: no metric but accuracy says anything")
    return LabelledTask(
        source.name, source.source, source.labels, source.metrics,
        tuple(train), tuple(selection), tuple(reported), (*source.notes, *notes),
    )  # fmt: skip


def _check_classes(train: Sequence[Example], source: Source, what: str) -> None:
    seen = {example.label for example in train}
    absent = [name for number, name in enumerate(source.labels) if number not in seen]
    if absent:
        raise UserError(f"{source.source}: the {what} has no example of class '{absent[0]}'")
    if len(seen) == 1:
        only = source.labels[0] if source.labels else next(iter(seen))
        raise UserError(
            f"{source.source}: the {what} has one label only ('{only}'): there is nothing to learn"
        )


def _deal(
    examples: Sequence[Example],
    source: Source,
    *,
    parts: int,
    closed: Collection[tuple[str, str | None]] = (),
) -> list[list[Example]]:
    """What is left of the examples, and `parts` sets held out of them.

    `closed` are texts that may not be held out.
    """
    groups: dict[tuple[str, str | None], int] = {}  # equal texts, and the stratum of the first
    for example in examples:
        groups.setdefault(_key(example), 0 if not source.labels else int(example.label))
    strata: dict[int, list[tuple[str, str | None]]] = {}
    for text, stratum in groups.items():
        if text not in closed:
            strata.setdefault(stratum, []).append(text)
    distinct = sum(map(len, strata.values()))
    wanted = min(distinct // _TENTH, _MOST_SELECTION if parts == 1 else distinct)
    part_of: dict[tuple[str, str | None], int] = {}
    for stratum, texts in strata.items():
        share = max(1, len(texts) * wanted // distinct)
        if parts == 2 and len(texts) < 3:
            what = f"class '{source.labels[stratum]}'" if source.labels else "the file"
            raise UserError(
                f"{source.source}: {what} has {len(texts)} distinct text(s); at least 3 are needed "
                "for a training, a selection and a reported set"
            )
        share = min(share, len(texts) - 1)
        chosen = keyed_bijection(np.arange(parts * share), len(texts), key(_HELD_OUT, stratum))
        for place, number in enumerate(chosen.tolist()):
            part_of[texts[number]] = 1 + place // share
    if not part_of:
        raise UserError(
            f"{source.source}: no class of the training set has two distinct texts that are not in "
            "the reported set, so none can be held out for selection"
        )
    dealt: list[list[Example]] = [[] for _ in range(parts + 1)]
    for example in examples:
        dealt[part_of.get(_key(example), 0)].append(example)
    return dealt


def _key(example: Example) -> tuple[str, str | None]:
    return example.text, example.other


def _texts(examples: Iterable[Example]) -> set[tuple[str, str | None]]:
    return {_key(example) for example in examples}


def _overlap(
    name: str, examples: Sequence[Example], other_name: str, others: Sequence[Example]
) -> list[str]:
    texts = _texts(others)
    shared = sum(_key(example) in texts for example in examples)
    if not shared:
        return []
    return [f"{shared} of {len(examples)} {name} examples have a text of the {other_name} set"]
