"""Zero-shot tasks: how often a model prefers what is right, with standard errors.

- `lambada`: accuracy (the last word is the greedy continuation) and perplexity of that word.
- `choices`: how often the right choice is the likeliest, by its log-likelihood, and by its
  log-likelihood for each UTF-8 byte of the choice (spaces that begin it not counted).
- `wug_adj`, `wug_past`: Spearman's correlation of a model's share for the first form of a word, by
  the log-likelihoods of the sentences, with people's.
- all others: how often the right option is the likeliest; by set, by field (of entity tracking by
  file), and as a whole. A field's and the overall figure are plain means over sets, each set
  weighing the same, as in lm-eval's groups; that of entity tracking is the mean over files.

Notable:
- Items of a set are often written from one template, and are not independent texts. So a figure
  over sets has the set for its unit: its standard error is the spread between sets over the root of
  their number, where there are at least 5. (lm-eval takes the sets as given: sqrt(sum of squares) /
  sets.) Where sets are conditions under which the same things are asked again (COMPS, entity
  tracking), the unit is the cluster of items that ask the same (`lmlab.data.task_items`). Within
  one set, and where items have no sets, the unit is the cluster where the fields of the items tell
  one, else the item, and the error binomial, sqrt(p (1 - p) / (n - 1)), as in lm-eval: for one set
  it says what other items of this template would show, not other sentences.
- The standard error of the perplexity is the delta method's. All are for this one model.
- Where choices are exactly as likely as each other, each gets its share of the credit: a model that
  cannot tell them apart is at chance, wherever the right one stands. Such ties are counted.

Shapes: N items, C choices of an item, U units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, stdtrit

from lmlab.data.task_items import Choice, LastWord, MultipleChoice, Task, WordForms
from lmlab.data.windows import key, keyed_bijection
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import Likelihoods, Method, Request, log_likelihoods, reading_notes
from lmlab.numerics.bounded import rank_correlation_bounds, share_bounds
from lmlab.numerics.classification import metric, pseudo_values
from lmlab.numerics.random_effects import Clusters, two_way_ratio
from lmlab.results import Result

_SETS = (
    "the standard error of a figure over sets is over sets (none below 5); that of one set is over "
    "its items (or clusters of them), which are often from one template and no independent texts"
)
_CLUSTERS = (
    "the sets ask the same things again, so the standard errors are over clusters of items (none "
    "below 5)"
)
_TIES = 0x71E5  # key of the choice among options that are equally likely
_LARGEST_EXPONENT = 700.0  # of a perplexity that is still a float


Scale = Literal["share", "correlation", "positive", "any"]
"""Where a figure can lie: 0 to 1, -1 to 1 (Spearman's), above 0, anywhere."""


@dataclass(frozen=True)
class Estimate:
    """A figure, its standard error (None where one item cannot tell), and how many items."""

    value: float
    standard_error: float | None
    items: int
    sets: int | None = None
    """How many sets the standard error is over; None where it is over items."""
    scale: Scale = "share"
    clusters: int | None = None
    """How many clusters of items it is over; None where it is over sets or items."""

    derived = ("interval",)

    @property
    def interval(self) -> tuple[float, float] | None:
        """At 95 %; None without a standard error."""
        error, units = self.standard_error, self.sets or self.clusters or self.items
        if self.scale == "correlation":
            return None if error is None else rank_correlation_bounds(self.value, self.items)
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
    """Accuracy of a guess among the choices, or the correlation of one; None without choices, or
    where lm-eval does not say how many."""
    values: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the metrics that are means over items, the value of each item (N), in the task's order; of
    a correlation the jackknife's pseudo-value, moved so that their mean is the correlation; none
    for lm-eval's tasks."""
    notes: tuple[str, ...] = ()
    ties: int | None = None
    """Items of which several options are the likeliest; None without options."""
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """The likeliest option of each item (N), by its log-likelihood; of a tie one of the likeliest,
    by a fixed key. Empty without options."""
    first_share: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Of word forms, the model's share for the first form of each item (N); else empty."""


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
    if task.kind == "choices":
        return _choices(lm, task, cast(Sequence[MultipleChoice], task.items), ask)
    if task.kind in ("wug_adj", "wug_past"):
        return _word_forms(lm, task, cast(Sequence[WordForms], task.items), ask)
    return _sets(lm, task, cast(Sequence[Choice], task.items), ask)


_Ask = Callable[..., Likelihoods]
"""`log_likelihoods` of a model."""


def mean_estimate(values_N: np.ndarray, scale: Scale = "share") -> Estimate:
    """The mean and its standard error, s / sqrt(n); of zeros and ones the binomial one."""
    n = len(values_N)
    error = float(values_N.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return Estimate(float(values_N.mean()), error, n, scale=scale)


def mean_over_units(
    values_N: np.ndarray,
    units: Sequence[str],
    *,
    weights_N: np.ndarray | None = None,
    clusters: bool = False,
) -> Estimate:
    """The weighted mean over items that come in sets (or `clusters`); its standard error is that of
    a ratio of sums over these units, None for fewer than 5."""
    weights_N = np.ones(len(values_N)) if weights_N is None else weights_N
    of_units = Clusters(units)
    ratio = two_way_ratio(of_units.sums(weights_N * values_N), of_units.sums(weights_N))
    number = of_units.clusters
    return Estimate(
        value=round(ratio.estimate, 12),  # a sum of weights is not 1 to the last bit
        standard_error=ratio.standard_error,
        items=len(values_N),
        sets=None if clusters else number,
        clusters=number if clusters else None,
    )


def credit(nats_C: np.ndarray, answer: int) -> float:
    """1 where the answer is the likeliest choice, its share where several are, else 0."""
    best_C = nats_C == nats_C.max()
    return float(best_C[answer] / best_C.sum())


class _Answers(NamedTuple):
    """What a model says of the options of items."""

    requests: list[Request]
    likelihoods: Likelihoods
    nats: list[NDArray[np.float64]]
    """Of each item the log-likelihoods of its options (C)."""
    chosen_N: NDArray[np.int64]
    ties: int


def _answers(items: Sequence[Choice] | Sequence[WordForms], ask: _Ask) -> _Answers:
    requests = [Request(*option, item.where) for item in items for option in item.options]
    likelihoods = ask(requests)
    ends = np.cumsum([len(item.options) for item in items])[:-1]
    nats = np.split(likelihoods.nats_N, ends)
    best = [np.flatnonzero(nats_C == nats_C.max()) for nats_C in nats]
    drawn = (
        keyed_bijection(np.zeros(1, np.int64), len(each), key(_TIES, n))[0]
        for n, each in enumerate(best)
    )
    chosen_N = np.array([each[place] for each, place in zip(best, drawn, strict=True)], np.int64)
    return _Answers(requests, likelihoods, nats, chosen_N, sum(len(each) > 1 for each in best))


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
    **of_options: Any,
) -> TaskScore:
    return TaskScore(
        task=task.name,
        source=task.source,
        available=task.available,
        metrics=metrics,
        parts=parts or {},
        method=likelihoods.method,
        truncated=likelihoods.truncated,
        chance=chance,
        values=values,
        notes=(*notes, *reading_notes(lm, [r.context + r.continuation for r in requests])),
        **of_options,
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


def _sets(lm: LanguageModel, task: Task, items: Sequence[Choice], ask: _Ask) -> TaskScore:
    answers = _answers(items, ask)
    right_N = np.array([credit(n_C, i.answer) for n_C, i in zip(answers.nats, items, strict=True)])
    sets, units, clusters, weights_N = task.sets, task.units, task.clusters, task.weights
    assert sets is not None  # every format of these kinds has them
    assert units is not None
    parts = [item.part_name for item in items]
    over_clusters = units != sets

    def whole(rows: NDArray[np.int64]) -> Metrics:
        of_rows = [units[n] for n in rows]
        return {"accuracy": mean_over_units(right_N[rows], of_rows, weights_N=weights_N[rows],
                                            clusters=over_clusters)}  # fmt: skip

    def of_set(rows: NDArray[np.int64]) -> Metrics:
        of_rows = None if clusters is None else [clusters[n] for n in rows]
        if of_rows is None or len({*of_rows}) == len(of_rows):
            return {"accuracy": mean_estimate(right_N[rows])}
        return {"accuracy": mean_over_units(right_N[rows], of_rows, clusters=True)}

    by_set = {name: of_set(rows) for name, rows in _rows_of(sets).items()}
    by_part = {part: whole(rows) for part, rows in _rows_of(parts).items() if part}
    what = f"{len(by_set)} sets"
    if task.kind == "entity_tracking":
        what = f"{len(by_part)} files, of each over its numbers of moves"
    return _task_score(
        lm,
        task,
        answers.requests,
        answers.likelihoods,
        whole(np.arange(len(items))),
        {"accuracy": right_N},
        parts={**({"field": by_part} if {*by_part} - {task.name} else {}), "uid": by_set},
        chance=round(float(weights_N @ [1 / len(i.options) for i in items] / weights_N.sum()), 12),
        notes=(f"accuracy is the plain mean over {what}", _CLUSTERS if over_clusters else _SETS),
        ties=answers.ties,
        chosen=answers.chosen_N,
    )


def _rows_of(names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """The rows that each name stands in, in sorted order of the names."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return {name: np.array(rows[name]) for name in sorted(rows)}


def _choices(
    lm: LanguageModel, task: Task, items: Sequence[MultipleChoice], ask: _Ask
) -> TaskScore:
    answers = _answers(items, ask)
    credits: dict[str, list[float]] = {"accuracy": [], "accuracy_per_byte": []}
    for item, nats_C in zip(items, answers.nats, strict=True):
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
        answers.requests,
        answers.likelihoods,
        {
            name: mean_estimate(values) if sets is None else mean_over_units(values, sets)
            for name, values in by_metric.items()
        },
        by_metric,
        parts={"group": parts} if parts else {},
        chance=float(np.mean([1 / len(item.choices) for item in items])),
        notes=() if sets is None else (_SETS,),
        ties=answers.ties,
        chosen=answers.chosen_N,
    )


def _word_forms(lm: LanguageModel, task: Task, items: Sequence[WordForms], ask: _Ask) -> TaskScore:
    answers = _answers(items, ask)
    share_N = np.array([math.exp(log_softmax(nats_C)[0]) for nats_C in answers.nats])
    people_N = np.array([item.share for item in items])
    rho = metric("spearman", share_N, people_N)
    values: dict[str, np.ndarray] = {}
    if len(items) > 1:
        pseudo_N = pseudo_values("spearman", share_N, people_N)
        values["spearman"] = pseudo_N - pseudo_N.mean() + rho  # as of fine-tuning's metrics
    varied = np.ptp(share_N) > 0 and np.ptp(people_N) > 0
    known = varied and len(items) > 3
    error = (1 - rho**2) * math.sqrt((1 + rho**2 / 2) / (len(items) - 3)) if known else None
    return _task_score(
        lm,
        task,
        answers.requests,
        answers.likelihoods,
        {"spearman": Estimate(rho, error, len(items), scale="correlation")},
        values,
        chance=0.0,
        notes=() if varied else ("one side is the same for all items: no correlation, taken as 0",),
        ties=answers.ties,
        chosen=answers.chosen_N,
        first_share=share_N,
    )
