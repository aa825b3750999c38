"""Zero-shot tasks: how often a model prefers what is right, with standard errors.

- `lambada`: accuracy (the last word is the greedy continuation) and perplexity of that word.
- `blimp`: how often the good sentence is the likelier one; by set (UID) and by field. A field's and
  the overall figure are plain means over sets, each set weighing the same, as in lm-eval's groups.
- `choices`: how often the right choice is the likeliest, by its log-likelihood, and by its
  log-likelihood for each UTF-8 byte of the choice (spaces that begin it not counted).

Notable:
- Items of a set are often written from one template, and are not independent texts. So a figure
  over sets has the set for its unit: its standard error is the spread between sets over the root of
  their number, where there are at least 5. (lm-eval takes the sets as given: sqrt(sum of squares) /
  sets.) Within one set, and where items have no sets, the
  unit is the item, and the error binomial, sqrt(p (1 - p) / (n - 1)), as in lm-eval: for one set it
  says what other items of this template would show, not other sentences.
- The standard error of the perplexity is the delta method's. All are for this one model.
- Where choices are exactly as likely as each other, each gets its share of the credit: a model that
  cannot tell them apart is at chance, wherever the right one stands.

Shapes: N items, C choices of an item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias, cast

import numpy as np
from scipy.special import stdtrit

from lmlab.data.tasks import LastWord, MinimalPair, MultipleChoice, Task
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import Likelihoods, Method, Request, log_likelihoods, reading_notes
from lmlab.numerics.bounded import share_bounds
from lmlab.numerics.random_effects import MINIMUM_CLUSTERS, Clusters, two_way_ratio
from lmlab.results import Result

_SETS = (
    "the standard error of a figure over sets is over sets (none below 5); that of one set is over "
    "its items, which are often from one template and no independent texts"
)
_LARGEST_EXPONENT = 700.0  # of a perplexity that is still a float


Scale = Literal["share", "positive", "any"]
"""Where a figure can lie: 0 to 1, above 0, anywhere."""


@dataclass(frozen=True)
class Estimate:
    """A figure, its standard error (None where one item cannot tell), and how many items."""

    value: float
    standard_error: float | None
    items: int
    sets: int | None = None
    """How many sets the standard error is over; None where it is over items."""
    scale: Scale = "share"

    derived = ("interval",)

    @property
    def interval(self) -> tuple[float, float] | None:
        """At 95 %; None without a standard error."""
        error, units = self.standard_error, self.sets or self.items
        if error is None or units < 2:
            return None
        if self.scale == "share":
            return share_bounds(self.value, error, units - 1, units=units, level=0.95)
        half = float(stdtrit(units - 1, 0.975)) * error
        if self.scale == "positive":
            factor = math.exp(half / self.value)
            return self.value / factor, self.value * factor
        return self.value - half, self.value + half


Metrics: TypeAlias = dict[str, Estimate]


@dataclass(frozen=True)
class TaskScore:
    """How well a model does a task."""

    task: str
    source: str
    available: int
    """Items of the source; the metrics say how many of them were asked."""
    metrics: Metrics
    parts: dict[str, dict[str, Metrics]]
    """By "field", "uid", "group" or (groups of lm-eval) "task", then by name."""
    method: Method
    truncated: int
    """Sequences whose context was cut to fit."""
    chance: float | None = None
    """Accuracy of a guess among the choices; None without choices, or where lm-eval does not say
    how many."""
    values: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the metrics that are means over items, the value of each item (N), in the task's order;
    none for lm-eval's tasks."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation(Result, kind="eval", views="lmlab.topics.scoring.zero_shot_report"):
    """How well a model does tasks that it was not trained for."""

    model: str
    order: str
    head: str
    tasks: tuple[TaskScore, ...]


def zero_shot(lm: LanguageModel, task: Task, *, batch: int | None = None) -> TaskScore:
    """Scores a task's items with a model, `batch` sequences at a time.

    Raises `UserError` as `log_likelihoods`, and for a task without items.
    """
    if not task.items:
        raise UserError(f"{task.source}: no item to score")
    ask = partial(log_likelihoods, lm, batch=batch)
    # which items a kind has is decided where they are read
    if task.kind == "lambada":
        return _lambada(lm, task, cast(Sequence[LastWord], task.items), ask)
    if task.kind == "blimp":
        return _blimp(lm, task, cast(Sequence[MinimalPair], task.items), ask)
    return _choices(lm, task, cast(Sequence[MultipleChoice], task.items), ask)


_Ask = Callable[..., Likelihoods]
"""`log_likelihoods` of a model."""


def mean_estimate(values_N: np.ndarray, scale: Scale = "share") -> Estimate:
    """The mean and its standard error, s / sqrt(n); of zeros and ones the binomial one."""
    n = len(values_N)
    error = float(values_N.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return Estimate(float(values_N.mean()), error, n, scale=scale)


def mean_of_sets(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean over sets; its standard error is over sets, None for fewer than 5."""
    values = np.array([e.value for e in estimates])
    sets = len(values)
    enough = sets >= MINIMUM_CLUSTERS
    return Estimate(
        value=float(values.mean()),
        standard_error=float(values.std(ddof=1) / math.sqrt(sets)) if enough else None,
        items=sum(e.items for e in estimates),
        sets=sets,
    )


def mean_over_grouped_items(values_N: np.ndarray, sets: Sequence[str]) -> Estimate:
    """The mean over items that come in sets; its standard error is that of a ratio of sums over
    sets, None for fewer than 5."""
    sums, counts = (Clusters(sets).sums(v) for v in (values_N, np.ones(len(values_N))))
    ratio = two_way_ratio(sums, counts)
    return Estimate(ratio.estimate, ratio.standard_error, len(values_N), counts.shape[1])


def credit(nats_C: np.ndarray, answer: int) -> float:
    """1 where the answer is the likeliest choice, its share where several are, else 0."""
    best_C = nats_C == nats_C.max()
    return float(best_C[answer] / best_C.sum())


def _task_score(
    lm: LanguageModel,
    task: Task,
    requests: Sequence[Request],
    likelihoods: Likelihoods,
    metrics: Metrics,
    values: dict[str, np.ndarray],
    *,
    parts: dict[str, dict[str, Metrics]] | None = None,
    chance: float | None = None,
    notes: tuple[str, ...] = (),
) -> TaskScore:
    return TaskScore(
        task=task.kind,
        source=task.source,
        available=task.available,
        metrics=metrics,
        parts=parts or {},
        method=likelihoods.method,
        truncated=likelihoods.truncated,
        chance=chance,
        values=values,
        notes=(*notes, *reading_notes(lm, [r.context + r.continuation for r in requests])),
    )


def _lambada(lm: LanguageModel, task: Task, items: Sequence[LastWord], ask: _Ask) -> TaskScore:
    requests = [Request(item.context, item.target, item.where) for item in items]
    likelihoods = ask(requests, greedy=True)
    metrics: dict[str, Estimate] = {}
    values: dict[str, np.ndarray] = {}
    notes: list[str] = []
    if likelihoods.greedy_N is None:
        notes.append("a backward model does not write the last word last: no accuracy")
    else:
        values["accuracy"] = likelihoods.greedy_N.astype(float)
        metrics["accuracy"] = mean_estimate(values["accuracy"])
    if likelihoods.method == "pseudo-log-likelihood":
        notes.append("each token of the word was given its others: not comparable with causal")
    values["nats_per_word"] = -likelihoods.nats_N
    nats = mean_estimate(values["nats_per_word"], "any")
    if nats.value < _LARGEST_EXPONENT:
        perplexity = math.exp(nats.value)
        error = None if nats.standard_error is None else perplexity * nats.standard_error
        metrics["perplexity"] = Estimate(perplexity, error, nats.items, scale="positive")
    metrics["nats_per_word"] = nats
    return _task_score(lm, task, requests, likelihoods, metrics, values, notes=tuple(notes))


def _blimp(lm: LanguageModel, task: Task, items: Sequence[MinimalPair], ask: _Ask) -> TaskScore:
    requests = [Request("", text, i.where) for i in items for text in (i.good, i.bad)]
    likelihoods = ask(requests)
    credit_N = np.array([credit(nats_C, 0) for nats_C in likelihoods.nats_N.reshape(-1, 2)])
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
    return _task_score(
        lm,
        task,
        requests,
        likelihoods,
        {"accuracy": mean_of_sets(list(sets.values()))},
        {"accuracy": credit_N},
        parts={
            "field": {name: {"accuracy": estimate} for name, estimate in fields.items()},
            "uid": {name: {"accuracy": estimate} for name, estimate in sets.items()},
        },
        chance=0.5,
        notes=(f"accuracy is the plain mean over {len(sets)} sets", _SETS),
    )


def _choices(
    lm: LanguageModel, task: Task, items: Sequence[MultipleChoice], ask: _Ask
) -> TaskScore:
    requests = [Request(i.context, choice, i.where) for i in items for choice in i.choices]
    likelihoods = ask(requests)
    ends = np.cumsum([len(item.choices) for item in items])[:-1]
    credits: dict[str, list[float]] = {"accuracy": [], "accuracy_per_byte": []}
    for item, nats_C in zip(items, np.split(likelihoods.nats_N, ends), strict=True):
        bytes_C = np.array([len(choice.lstrip().encode("utf-8")) for choice in item.choices])
        credits["accuracy"].append(credit(nats_C, item.answer))
        credits["accuracy_per_byte"].append(credit(nats_C / bytes_C, item.answer))
    by_metric = {name: np.array(values) for name, values in credits.items()}
    groups, sets = np.array([item.group or "" for item in items]), task.sets
    parts = {
        group: {name: mean_estimate(values[groups == group]) for name, values in by_metric.items()}
        for group in sorted({item.group for item in items if item.group})
    }
    return _task_score(
        lm,
        task,
        requests,
        likelihoods,
        {
            name: mean_estimate(values) if sets is None else mean_over_grouped_items(values, sets)
            for name, values in by_metric.items()
        },
        by_metric,
        parts={"group": parts} if parts else {},
        chance=float(np.mean([1 / len(item.choices) for item in items])),
        notes=() if sets is None else (_SETS,),
    )
