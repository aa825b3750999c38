"""Kinds of models on the items of zero-shot tasks, paired by item.

Notable:
- The unit is the item, or the set or cluster of items where they come in such (`Task.units`), with
  the weights of `lmlab evaluate`: of BLiMP each set weighs the same, of choices each item.
- Two models whose answers are right or wrong are compared by McNemar's exact test too, of the items
  on which they differ; not where items come in sets, which are no independent answers.

Shapes: S runs, N items, C units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from lmlab.data.tasks import Task
from lmlab.lm.language_model import LanguageModel
from lmlab.numerics.random_effects import Clusters
from lmlab.numerics.verdicts import holm
from lmlab.topics.comparing.ranking import Discordant, Ranking, ranked
from lmlab.topics.scoring.zero_shot import zero_shot


@dataclass(frozen=True)
class ComparedOnTask:
    """Kinds of models on one task."""

    task: str
    source: str
    items: int
    sets: int | None
    """Of items; None where the unit is the item."""
    rankings: tuple[Ranking, ...]
    """By metric."""
    notes: tuple[str, ...]


def compare_on_task(
    kinds: Mapping[str, Sequence[LanguageModel]], task: Task, *, batch: int | None = None
) -> ComparedOnTask:
    """Compares kinds of models on the items of one task. Raises `UserError` as `zero_shot`."""
    scores = {name: [zero_shot(lm, task, batch=batch) for lm in runs]
              for name, runs in kinds.items()}  # fmt: skip
    every = [score for runs in scores.values() for score in runs]
    metrics = [m for m in every[0].values if all(m in score.values for score in every)]
    notes = list(dict.fromkeys(note for score in every for note in score.notes))
    methods = {name: runs[0].method for name, runs in scores.items()}
    if len({*methods.values()}) > 1:
        said = ", ".join(f"{name} {method}" for name, method in methods.items())
        notes.insert(0, f"not the same quantity for all: {said}")
    return ComparedOnTask(
        task=task.name,
        source=task.source,
        items=len(task.items),
        sets=None if task.units is None else len({*task.units}),
        rankings=tuple(
            rank_items(
                {n: np.stack([s.values[metric] for s in runs]) for n, runs in scores.items()},
                metric,
                sets=task.units,
                weights_N=task.weights,
            )
            for metric in metrics
        ),
        notes=tuple(notes),
    )


def rank_items(
    values: Mapping[str, NDArray[np.float64]],
    metric: str,
    *,
    sets: Sequence[str] | None = None,
    weights_N: NDArray[np.float64] | None = None,
) -> Ranking:
    """Ranks kinds by the mean of a value (S, N) of each item, such as right (1) or wrong (0).

    `sets` names the set of each item, the unit; `weights_N` are the items' in the mean over sets.
    """
    weights_C, units = None, dict(values)
    if sets is not None:
        clusters = Clusters(sets)
        weights_N = np.ones(len(sets)) if weights_N is None else weights_N
        weights_C = clusters.sums(weights_N)[0]
        units = {n: clusters.sums(weights_N * v_SN) / weights_C for n, v_SN in values.items()}
    ranking = ranked(
        units, metric.replace("_", " "), lower_is_better=metric.startswith("nats"),
        weights_C=weights_C, share=metric.startswith("accuracy"),
    )  # fmt: skip
    if sets is not None:
        return ranking
    tested = [_discordant(values[pair.better], values[pair.worse]) for pair in ranking.pairs]
    adjusted = holm([each and each.p for each in tested])
    pairs = [
        pair if each is None or p is None else replace(pair, discordant=replace(each, p=p))
        for pair, each, p in zip(ranking.pairs, tested, adjusted, strict=True)
    ]
    return replace(ranking, pairs=tuple(pairs))


def _discordant(better_SN: NDArray[np.float64], worse_SN: NDArray[np.float64]) -> Discordant | None:
    """None for kinds of several runs, and where answers share their credit."""
    if len(better_SN) > 1 or len(worse_SN) > 1:
        return None
    a_N, b_N = better_SN[0], worse_SN[0]
    if not np.isin([a_N, b_N], [0.0, 1.0]).all():
        return None
    first, second = int((a_N > b_N).sum()), int((b_N > a_N).sum())
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return Discordant(first, second, p)
