"""Zero-shot tasks: how often a subject prefers what is right, with standard errors.

- `lambada`: accuracy (the last word is the greedy continuation) and perplexity of that word.
- `blimp`: how often the good sentence is the likelier one; by set (UID) and by field. A field's and
  the overall figure are plain means over sets, each set weighing the same, as in lm-eval's groups.
- `choices`: how often the right choice is the likeliest, by its log-likelihood, and by its
  log-likelihood for each UTF-8 byte of the choice (spaces that begin it not counted).

Notable:
- The standard error of an accuracy is binomial, sqrt(p (1 - p) / (n - 1)) as in lm-eval; that of a
  mean over sets takes the sets as given: sqrt(sum of squares) / sets. That of the perplexity is
  the delta method's. All are over items, for this one model.
- Where choices are exactly as likely as each other, each gets its share of the credit: a model that
  cannot tell them apart is at chance, wherever the right one stands.

Shapes: N items, C choices of an item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np

from lmlab.analyses.likelihood import Likelihoods, Method, Request, log_likelihoods
from lmlab.analyses.subject import Subject
from lmlab.data.tasks import LastWord, MinimalPair, MultipleChoice, Task
from lmlab.errors import UserError
from lmlab.progress import Bar

_LARGEST_EXPONENT = 700.0  # of a perplexity that is still a float


@dataclass(frozen=True)
class Estimate:
    """A figure, its standard error (None where one item cannot tell), and how many items."""

    value: float
    standard_error: float | None
    items: int


Metrics = Mapping[str, Estimate]


@dataclass(frozen=True)
class ZeroShot:
    """What a subject made of a task."""

    subject: str
    task: str
    source: str
    available: int
    """Items of the source; the metrics say how many of them were asked."""
    metrics: Metrics
    parts: Mapping[str, Mapping[str, Metrics]]
    """By "field", "uid", "group" or (groups of lm-eval) "task", then by name."""
    method: Method
    truncated: int
    """Sequences whose context was cut to fit."""
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of the metrics that are means over items, the value of each item (N), in the task's order;
    none for lm-eval's tasks."""
    notes: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str, Estimate]]:
        """Part ("" for all), metric and figure; sets of BLiMP are left to `to_json`."""
        named = [("", self.metrics)]
        for by in ("field", "group", "task"):
            named += list(self.parts.get(by, {}).items())
        return [
            (part, name.replace("_", " "), estimate)
            for part, metrics in named
            for name, estimate in metrics.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `results.json`."""
        return {
            "task": self.task,
            "source": self.source,
            "items_available": self.available,
            "metrics": _plain(self.metrics),
            **{
                f"by_{by}": {name: _plain(metrics) for name, metrics in parts.items()}
                for by, parts in self.parts.items()
            },
            "method": self.method,
            "truncated": self.truncated,
            "notes": list(self.notes),
        }


def _plain(metrics: Metrics) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}


def zero_shot(
    subject: Subject, task: Task, *, batch: int | None = None, bar: Bar | None = None
) -> ZeroShot:
    """Scores a task's items with a subject, `batch` sequences at a time.

    Raises `UserError` as `log_likelihoods`, and for a task without items.
    """
    if not task.items:
        raise UserError(f"{task.source}: no item to score")
    # which items a kind has is decided where they are read
    if task.kind == "lambada":
        return _lambada(subject, task, cast(Sequence[LastWord], task.items), batch, bar)
    if task.kind == "blimp":
        return _blimp(subject, task, cast(Sequence[MinimalPair], task.items), batch, bar)
    return _choices(subject, task, cast(Sequence[MultipleChoice], task.items), batch, bar)


def mean_estimate(values_N: np.ndarray) -> Estimate:
    """The mean and its standard error, s / sqrt(n); of zeros and ones the binomial one."""
    n = len(values_N)
    error = float(values_N.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return Estimate(float(values_N.mean()), error, n)


def mean_of_sets(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean over sets; its standard error is over items, the sets taken as given."""
    errors = [e.standard_error for e in estimates]
    known = [error for error in errors if error is not None]
    whole = len(known) == len(errors)
    return Estimate(
        value=float(np.mean([e.value for e in estimates])),
        standard_error=math.hypot(*known) / len(errors) if whole else None,
        items=sum(e.items for e in estimates),
    )


def credit(nats_C: np.ndarray, answer: int) -> float:
    """1 where the answer is the likeliest choice, its share where several are, else 0."""
    best_C = nats_C == nats_C.max()
    return float(best_C[answer] / best_C.sum())


def _result(
    subject: Subject,
    task: Task,
    found: Likelihoods,
    metrics: Metrics,
    values: Mapping[str, np.ndarray],
    parts: Mapping[str, Mapping[str, Metrics]] | None = None,
    notes: tuple[str, ...] = (),
) -> ZeroShot:
    return ZeroShot(
        subject=subject.name,
        task=task.kind,
        source=task.source,
        available=task.available,
        metrics=metrics,
        parts=parts or {},
        method=found.method,
        truncated=found.truncated,
        values=values,
        notes=notes,
    )


def _lambada(
    subject: Subject, task: Task, items: Sequence[LastWord], batch: int | None, bar: Bar | None
) -> ZeroShot:
    requests = [Request(item.context, item.target, item.where) for item in items]
    found = log_likelihoods(subject, requests, greedy=True, batch=batch, bar=bar)
    metrics: dict[str, Estimate] = {}
    values: dict[str, np.ndarray] = {}
    notes: list[str] = []
    if found.greedy_N is None:
        notes.append("a backward model does not write the last word last: no accuracy")
    else:
        values["accuracy"] = found.greedy_N.astype(float)
        metrics["accuracy"] = mean_estimate(values["accuracy"])
    if found.method == "pseudo-log-likelihood":
        notes.append("each token of the word was given its others: not comparable with causal")
    values["nats_per_word"] = -found.nats_N
    nats = mean_estimate(values["nats_per_word"])
    if nats.value < _LARGEST_EXPONENT:
        perplexity = math.exp(nats.value)
        error = None if nats.standard_error is None else perplexity * nats.standard_error
        metrics["perplexity"] = Estimate(perplexity, error, nats.items)
    metrics["nats_per_word"] = nats
    return _result(subject, task, found, metrics, values, notes=tuple(notes))


def _blimp(
    subject: Subject, task: Task, items: Sequence[MinimalPair], batch: int | None, bar: Bar | None
) -> ZeroShot:
    requests = [Request("", text, i.where) for i in items for text in (i.good, i.bad)]
    found = log_likelihoods(subject, requests, batch=batch, bar=bar)
    credit_N = np.array([credit(nats_C, 0) for nats_C in found.nats_N.reshape(-1, 2)])
    credits: dict[str, list[float]] = {}
    field_of: dict[str, str] = {}
    for item, value in zip(items, credit_N.tolist(), strict=True):
        credits.setdefault(item.uid, []).append(value)
        field_of[item.uid] = item.field
    sets = {uid: mean_estimate(np.array(values)) for uid, values in sorted(credits.items())}
    fields = {
        field: mean_of_sets([e for uid, e in sets.items() if field_of[uid] == field])
        for field in sorted(set(field_of.values()))
    }
    return _result(
        subject,
        task,
        found,
        {"accuracy": mean_of_sets(list(sets.values()))},
        {"accuracy": credit_N},
        {
            "field": {name: {"accuracy": estimate} for name, estimate in fields.items()},
            "uid": {name: {"accuracy": estimate} for name, estimate in sets.items()},
        },
        (f"accuracy is the plain mean over {len(sets)} sets",),
    )


def _choices(
    subject: Subject,
    task: Task,
    items: Sequence[MultipleChoice],
    batch: int | None,
    bar: Bar | None,
) -> ZeroShot:
    requests = [Request(i.context, choice, i.where) for i in items for choice in i.choices]
    found = log_likelihoods(subject, requests, batch=batch, bar=bar)
    ends = np.cumsum([len(item.choices) for item in items])[:-1]
    credits: dict[str, list[float]] = {"accuracy": [], "accuracy_per_byte": []}
    for item, nats_C in zip(items, np.split(found.nats_N, ends), strict=True):
        bytes_C = np.array([len(choice.lstrip().encode("utf-8")) for choice in item.choices])
        credits["accuracy"].append(credit(nats_C, item.answer))
        credits["accuracy_per_byte"].append(credit(nats_C / bytes_C, item.answer))
    by_metric = {name: np.array(values) for name, values in credits.items()}
    groups = np.array([item.group or "" for item in items])
    parts = {
        group: {name: mean_estimate(values[groups == group]) for name, values in by_metric.items()}
        for group in sorted({item.group for item in items if item.group})
    }
    return _result(
        subject,
        task,
        found,
        {name: mean_estimate(values) for name, values in by_metric.items()},
        by_metric,
        {"group": parts} if parts else {},
    )
