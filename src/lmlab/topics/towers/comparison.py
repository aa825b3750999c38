"""The result of the towers study: the preferences of every arm, and cooperative runs against nulls.

Legend: N runs, P types that a figure draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lmlab.numerics.preference import (
    exact_permutation,
    exact_permutation_of_pairs,
    weighted_correlation,
)
from lmlab.numerics.verdicts import Evidence
from lmlab.results import Result
from lmlab.studies.rates import Rates
from lmlab.topics.counting.baseline import AgainstCounting
from lmlab.topics.towers.of_model import ModelPreference
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.preference import (
    Preference,
    TypePoints,
    Vocabulary,
    drawn_types,
    halves_of,
    runs_agree,
    type_deviations,
    type_points,
)
from lmlab.topics.towers.preference_sums import PreferenceSums


@dataclass(frozen=True)
class ArmResult:
    """The runs of one arm, in the order of their seeds."""

    label: str
    weights: int
    """Of one run's model."""
    runs: tuple[Preference, ...]
    """By their probes; none for the single model."""
    own_heads: tuple[Preference, ...] = ()
    """By the towers' own heads, where they have any."""
    agreement: float | None = None
    """Mean correlation of two runs' types; None for fewer than two runs."""


@dataclass(frozen=True)
class PermutationTest:
    """Means of the cooperative runs and of a null's, and the exact p-value of their permutation."""

    cooperative: float
    null: float
    p: float


@dataclass(frozen=True)
class DifferenceTest(PermutationTest):
    """The same of a measure that each run has by itself, with the difference of the means."""

    difference: Evidence
    """Its interval is over runs."""


@dataclass(frozen=True)
class AgainstNull:
    """Cooperative runs against those of one null."""

    variance: DifferenceTest
    spread: DifferenceTest
    router_gain: DifferenceTest
    agreement: PermutationTest
    least_p: float
    """The least p-value that so many runs can give."""

    @property
    def p_values(self) -> dict[str, float]:
        """Of the three measures that are tested."""
        return {
            "variance": self.variance.p,
            "router_gain": self.router_gain.p,
            "agreement": self.agreement.p,
        }


@dataclass(frozen=True)
class PairOfRuns:
    """The types of the first two runs of an arm, to be drawn."""

    first: TypePoints
    second_P: NDArray[np.float64]
    """Deviations in the second run, whose towers are numbered so that they agree."""


@dataclass(frozen=True)
class CorpusResult:
    """All that was measured on one corpus."""

    corpus: str
    store: str
    vocabulary: int
    training_tokens_available: int
    arms: dict[str, ArmResult]
    noise: ArmResult
    """One cooperative tower, probed twice."""
    single_nats_per_token: tuple[float, ...]
    """Of the single model, by seed."""
    tests: dict[str, AgainstNull]
    """By the arm that is the null."""
    first: ModelPreference
    """Of the first cooperative run."""
    pairs: dict[str, PairOfRuns]
    """By arm."""
    counting: AgainstCounting | None = None
    """The joint prediction of every arm that is compared, and the single model, against counted
    n-grams; None of older results, and of towers that read both ways."""


@dataclass(frozen=True)
class TowersStudy(Result, kind="towers"):
    """What the towers study finds."""

    config: TowersStudyConfig
    parts: tuple[CorpusResult, ...]
    rates: dict[str, Rates] = field(default_factory=dict)
    """Of each corpus and arm, where several were tried."""


def compared_runs(
    ours: Sequence[Preference],
    theirs: Sequence[Preference],
    sums: Sequence[PreferenceSums],
    vocabulary: Vocabulary,
    documents: int,
) -> AgainstNull:
    """Cooperative runs against those of a null; `sums` are of all runs, the cooperative first."""
    agreement_NN = np.eye(len(sums))
    for i, j in combinations(range(len(sums)), 2):
        agreement_NN[i, j] = agreement_NN[j, i] = runs_agree(sums[i], sums[j], vocabulary)
    n = len(ours)

    def compared(measure: Callable[[Preference], float]) -> DifferenceTest:
        a_N, b_N = (np.array([measure(run) for run in runs]) for runs in (ours, theirs))
        return DifferenceTest(
            cooperative=float(a_N.mean()),
            null=float(b_N.mean()),
            p=exact_permutation(a_N, b_N),
            difference=Evidence.of_two_groups(a_N.tolist(), b_N.tolist(), documents),
        )

    return AgainstNull(
        variance=compared(lambda run: run.adjusted_between_variance),
        spread=compared(lambda run: run.spread),
        router_gain=compared(lambda run: run.router_gain),
        agreement=PermutationTest(
            cooperative=_mean_of_pairs(agreement_NN[:n, :n]),
            null=_mean_of_pairs(agreement_NN[n:, n:]),
            p=exact_permutation_of_pairs(agreement_NN, n),
        ),
        least_p=1 / math.comb(len(sums), n),
    )


def _mean_of_pairs(values_NN: np.ndarray) -> float:
    return float(values_NN[np.triu_indices(len(values_NN), 1)].mean())


def mean_agreement(sums: Sequence[PreferenceSums], vocabulary: Vocabulary) -> float | None:
    """Mean correlation of two runs' types; None for fewer than two runs."""
    if len(sums) < 2:
        return None
    return float(np.mean([runs_agree(a, b, vocabulary) for a, b in combinations(sums, 2)]))


def pair_of_runs(sums: Sequence[PreferenceSums], vocabulary: Vocabulary) -> PairOfRuns:
    """The types of the first two of an arm's runs, with signs that agree."""
    first, second = (halves_of(each, vocabulary, adjusted=True) for each in sums[:2])
    same_way = weighted_correlation(first.first_RV[0], second.first_RV[0], first.weight_RV[0])
    second_P = type_deviations(sums[1], vocabulary)[drawn_types(sums[0])]
    return PairOfRuns(type_points(sums[0], vocabulary), second_P if same_way >= 0 else -second_P)
