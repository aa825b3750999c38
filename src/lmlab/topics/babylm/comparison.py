"""The result of a BabyLM study: recipes on tasks, over training seeds and over items.

Notable:
- Every score is a mean over units: the sets of a task whose items come in sets of one template
  (BLiMP's and Zorro's paradigms), else the items; the sentences of reading times and the words of
  ages of acquisition, whose values are the pseudo-values of the score's jackknife. So one pair of
  intervals serves all tasks (`numerics.random_effects`).
- Runs of two recipes are no pairs, though their seeds have the same numbers: each recipe has its
  own variance between seeds. Units are shared.
- All differences from the reference are one family: their p-values are Holm's.

Shapes: S seeds, C units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lmlab.numerics.bounded import share_interval
from lmlab.numerics.power import VarianceComponents, difference_components
from lmlab.numerics.random_effects import Interval, two_way_difference, two_way_interval
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.results import Result
from lmlab.studies.rates import Rates
from lmlab.topics.babylm.options import BabyLMStudyConfig
from lmlab.topics.counting.baseline import AgainstCounting


@dataclass(frozen=True)
class Units:
    """What one model gives on one task: values whose weighted mean is its score."""

    names: tuple[str, ...]
    values_C: NDArray[np.float64]
    weights_C: NDArray[np.float64]

    @property
    def score(self) -> float:
        return float(self.weights_C @ self.values_C / self.weights_C.sum())


@dataclass(frozen=True)
class About:
    """What is measured on a task."""

    task: str
    metric: str
    """Such as accuracy."""
    unit: str
    """What its units are: sets, items, sentences, words."""
    percent: bool
    """Whether it is shown in per cent."""
    chance: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecipeScore:
    """A recipe on a task; differences are from the reference, whose own are None."""

    recipe: str
    by_seed: tuple[float, ...]
    value: Interval
    difference: Interval | None
    p: float | None
    """Of the difference, by Holm over all differences of the study."""
    components: VarianceComponents | None
    """Of the difference; None with one seed."""


@dataclass(frozen=True)
class TaskComparison:
    """All recipes on one task."""

    about: About
    units: int
    scores: tuple[RecipeScore, ...]

    def of(self, recipe: str) -> RecipeScore:
        """The score of a recipe."""
        return next(score for score in self.scores if score.recipe == recipe)


@dataclass(frozen=True)
class CurvePoint:
    """A recipe's score on a task (a fixed sample of its items) when so many words were seen."""

    recipe: str
    task: str
    words: int
    value: Interval


@dataclass(frozen=True)
class RecipeRuns:
    """The runs of a recipe."""

    recipe: str
    model: str
    objective: str
    optimizer: str
    runs: tuple[str, ...]
    """Their folders, by seed."""
    weights: int
    validation: tuple[float, ...]
    """Nats per token at the end, by seed; of masked models no joint, and not to be compared with
    that of others."""


@dataclass(frozen=True)
class BabyLMStudy(Result, kind="babylm", views="lmlab.topics.babylm.report"):
    """Recipes that were trained on the same words, on all tasks."""

    config: BabyLMStudyConfig
    corpus: str
    words: int | None
    """Of the training split; None where its store does not know."""
    tokens: int
    """Of each run."""
    passes: float
    recipes: tuple[RecipeRuns, ...]
    tasks: tuple[TaskComparison, ...]
    curves: tuple[CurvePoint, ...]
    missing: tuple[str, ...]
    """Tasks that there is no data for, and what could not be measured, in words."""
    rates: dict[str, Rates] = field(default_factory=dict)
    """Of each recipe, where several were tried."""
    counting: AgainstCounting | None = None
    """By recipe. None in studies of before it was measured, and where no recipe has a joint
    likelihood."""

    @property
    def reference(self) -> str:
        """The recipe that the others are compared with."""
        return self.recipes[0].recipe


def compare_recipes(
    tasks: Sequence[tuple[About, Mapping[str, Sequence[Units]]]],
) -> tuple[TaskComparison, ...]:
    """Compares recipes on every task: for each recipe the units of its seeds, the reference first.
    """  # fmt: skip
    compared = [_compared(about, of_recipes) for about, of_recipes in tasks]
    adjusted = iter(holm([score.p for task in compared for score in task.scores]))
    return tuple(
        replace(task, scores=tuple(replace(score, p=next(adjusted)) for score in task.scores))
        for task in compared
    )


def mean_over(about: About, seeds: Sequence[Units]) -> Interval:
    """The mean score of a recipe's seeds, with its interval over seeds and units."""
    value = two_way_interval(
        np.stack([units.values_C for units in seeds]), weights_C=seeds[0].weights_C
    )
    return share_interval(value) if about.metric == "accuracy" else value


def _compared(about: About, of_recipes: Mapping[str, Sequence[Units]]) -> TaskComparison:
    first = next(iter(of_recipes.values()))
    weights_C = first[0].weights_C
    every = {
        name: np.stack([units.values_C for units in seeds]) for name, seeds in of_recipes.items()
    }
    assert all(v_SC.shape[1] == len(weights_C) for v_SC in every.values())
    reference_SC = next(iter(every.values()))
    scores: list[RecipeScore] = []
    for name, v_SC in every.items():
        difference = components = p = None
        if v_SC is not reference_SC:
            difference = two_way_difference(v_SC, reference_SC, weights_C=weights_C)
            p = Evidence.of(difference).p_value
            if min(len(v_SC), len(reference_SC)) > 1:
                components = difference_components(v_SC, reference_SC, weights_C=weights_C)
        by_seed = tuple(units.score for units in of_recipes[name])
        value = mean_over(about, of_recipes[name])
        scores.append(RecipeScore(name, by_seed, value, difference, p, components))
    return TaskComparison(about, len(weights_C), tuple(scores))
