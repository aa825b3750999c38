"""Do two towers prefer different types of token, and is it of use?

delta = l_2 - l_1 in nats, positive where tower 1 is better; Delta_v its mean over the tokens of
type v. What is reported, from `PreferenceSums` alone:

- dominance: the mean of delta over all tokens. It is taken out of all that follows;
- reliability: of the types' Delta_v when text is split into halves by document, stepped up to all
  text (Spearman-Brown), and the variance between types; as they are, and "adjusted": residuals on
  the type's mean difficulty (l_1 + l_2) / 2 and the logarithm of its frequency in training. The
  adjusted variance is the statistic that the study compares between runs;
- types found: a t-test of each type's deviation from dominance, clustered by group of documents,
  Benjamini-Hochberg at 5 %; types in fewer than 5 groups are not tested, unseen ones not counted;
- permutations: the towers swapped in each group of documents, and the labels of types permuted
  within octaves of frequency;
- use: the gain of a router that sends each type to its tower, decided on one half of the text and
  scored on the other; and of an oracle that knows the better tower of each token, which noise alone
  makes positive;
- what is preferred, by class of token, frequency and position.

Legend: G groups, V types, K covariates, P types that a figure draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lmlab.data.store import TokenStore
from lmlab.data.unigram import token_counts
from lmlab.numerics.frequency import DECILES, decile_name, occurrence_deciles, octaves
from lmlab.numerics.preference import (
    Halves,
    TypeMeans,
    adjusted_p_values,
    agreement,
    class_tests,
    error_per_token,
    label_test,
    random_halves,
    reliability,
    residuals,
    router_gain,
    shrunken,
    split_means,
    swap_test,
    type_means,
)
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS, Interval, two_way_ratio
from lmlab.numerics.verdicts import holm
from lmlab.topics.towers.preference_sums import (
    JOINT,
    MINIMUM_GROUPS,
    POSITIONS,
    TOWER_1,
    TOWER_2,
    PreferenceSums,
)
from lmlab.topics.towers.token_classes import CLASSES, token_classes

SPLITS = 20
PERMUTATIONS = 999
FALSE_DISCOVERIES = 0.05
TOP = 30
_LEAST_TOKENS = 5  # of a type that is shown by name
_LEAST_DRAWN, _DRAWN = 20, 600  # tokens of a type that is drawn, and how many types


@dataclass(frozen=True)
class Vocabulary:
    """What is known of the types of a store without any model."""

    counts_V: np.ndarray
    """In the training split."""
    class_V: np.ndarray
    """Number in `CLASSES`."""
    text: tuple[str, ...]

    @classmethod
    def of(cls, store: TokenStore) -> Vocabulary:
        """Of a store's own tokenizer and training split."""
        counts_V = token_counts(store.split("train"), store.vocabulary)
        if store.end_of_text:
            counts_V[store.tokenizer.end_of_text_id] = 0
        text = tuple(store.tokenizer.token(i) for i in range(store.vocabulary))
        return cls(counts_V, token_classes(store.tokenizer, store.vocabulary), text)

    @property
    def log_frequency_V(self) -> np.ndarray:
        """Of a count with one added, so that it exists."""
        return np.log(self.counts_V + 1.0)


@dataclass(frozen=True)
class Group:
    """A class of tokens: how much better tower 1 is at it than at the text as a whole."""

    kind: str
    """"class", "frequency" or "position"."""
    name: str
    types: int
    tokens: int
    deviation: Interval
    """Mean of delta here less its mean over all tokens, nats per token, 95 % over text."""
    p: float | None = None
    """Of classes: no more than what goes with frequency (labels permuted within octaves); adjusted
    over the classes (Holm)."""


@dataclass(frozen=True)
class Type:
    """A type that one tower is better at."""

    id: int
    text: str
    tokens: int
    deviation: float
    """Shrunken, nats per token; positive: tower 1."""
    q: float | None
    """Adjusted p-value; None where it was not tested."""


Strongest = tuple[tuple[Type, ...], tuple[Type, ...]]
"""Types that tower 1, tower 2 are better at, the strongest first."""


@dataclass(frozen=True)
class TypePoints:
    """Types to be drawn, the most frequent first: evenly over frequency where they are many."""

    count_P: NDArray[np.int64]
    """In the training split."""
    class_P: NDArray[np.int64]
    """Number in `CLASSES`."""
    deviation_P: NDArray[np.float64]
    """Adjusted and shrunken, nats per token; positive: tower 1."""
    text_P: tuple[str, ...] = ()
    """Of the types; empty in results of before it was kept."""


@dataclass(frozen=True)
class Preference:
    """The figures of one pair of towers."""

    derived = ("spread",)

    tokens: int
    types: int
    """Seen in this text."""
    groups: int
    documents: int
    cluster_unit: str
    nats: tuple[Interval, Interval, Interval]
    """Of tower 1, tower 2 and the joint model, nats per token."""
    scales: tuple[float, float]
    """Inverse temperatures of the towers; 1 for probes."""
    dominance: Interval
    reliability: float
    between_variance: float
    """Squared nats, unbiased, so it may be below zero; token-weighted."""
    adjusted_reliability: float
    adjusted_between_variance: float
    tested_types: int
    found_types: int
    found_tokens: float
    """Share of all tokens whose type is found."""
    p_swapped: float
    p_labels: float
    router_gain: float
    oracle_gain: float | None

    @property
    def spread(self) -> float:
        """Adjusted standard deviation between types, nats; 0 where its variance is below."""
        return max(0.0, self.adjusted_between_variance) ** 0.5


def preference(sums: PreferenceSums, vocabulary: Vocabulary, *, seed: int = 0) -> Preference:
    """The figures that this file's docstring lists; `seed` decides splits and permutations."""
    count_GV, delta_GV = sums.count_GV, sums.delta_GV
    groups, tokens = len(count_GV), count_GV.sum()
    n_V = count_GV.sum(0)
    plain, adjusted = (halves_of(sums, vocabulary, adjusted=a, seed=seed) for a in (False, True))
    plain_reliability, between = reliability(plain)
    adjusted_reliability, adjusted_between = reliability(adjusted)
    deviations, q_V = _tested_types(sums)
    found_V = q_V <= FALSE_DISCOVERIES
    best = min(sums.nats_KGV[TOWER_1].sum(), sums.nats_KGV[TOWER_2].sum())
    together = not np.isnan(sums.better_G).any()
    count_1G = count_GV.sum(1)[None]
    tower_1, tower_2, joint = (
        _over_groups(sums, sums.nats_KGV[k].sum(1), count_1G[0]) for k in (TOWER_1, TOWER_2, JOINT)
    )
    return Preference(
        tokens=int(tokens),
        types=int((n_V > 0).sum()),
        groups=groups,
        documents=sums.documents,
        cluster_unit=sums.cluster_unit,
        nats=(tower_1, tower_2, joint),
        scales=sums.scales,
        dominance=_over_groups(sums, delta_GV.sum(1), count_1G[0]),
        reliability=plain_reliability,
        between_variance=between,
        adjusted_reliability=adjusted_reliability,
        adjusted_between_variance=adjusted_between,
        tested_types=int((~np.isnan(deviations.p_V)).sum()),
        found_types=int(found_V.sum()),
        found_tokens=float(n_V[found_V].sum() / tokens),
        p_swapped=swap_test(count_GV, delta_GV, times=PERMUTATIONS, seed=seed),
        p_labels=label_test(plain, octaves(vocabulary.counts_V), times=PERMUTATIONS, seed=seed),
        router_gain=router_gain(count_GV, delta_GV, random_halves(groups, SPLITS, seed)),
        oracle_gain=float((best - sums.better_G.sum()) / tokens) if together else None,
    )


def _tested_types(sums: PreferenceSums) -> tuple[TypeMeans, np.ndarray]:
    """The types' deviations from dominance with their tests, and adjusted p-values (V,)."""
    count_GV, delta_GV = sums.count_GV, sums.delta_GV
    mean = delta_GV.sum() / count_GV.sum()
    deviations = type_means(count_GV, delta_GV - mean * count_GV, minimum_groups=MINIMUM_GROUPS)
    return deviations, adjusted_p_values(deviations.p_V)


def _over_groups(sums: PreferenceSums, numerator_G: np.ndarray, count_G: np.ndarray) -> Interval:
    """Interval of a ratio over groups of documents, or of sections of a few documents."""
    few = sums.documents < MINIMUM_DOCUMENTS
    # which of few documents a group of sections is from does not matter
    documents_G = np.arange(len(count_G)) % sums.documents if few else None
    interval = two_way_ratio(numerator_G[None], count_G[None], documents_C=documents_G)
    return replace(interval, documents=sums.documents)


def covariates(sums: PreferenceSums, vocabulary: Vocabulary) -> np.ndarray:
    """Mean difficulty and log frequency of each type, (K = 2, V); 0 for types not seen."""
    n_V = sums.count_GV.sum(0)
    total_V = (sums.nats_KGV[TOWER_1] + sums.nats_KGV[TOWER_2]).sum(0) / 2
    return np.stack([total_V / np.maximum(n_V, 1), vocabulary.log_frequency_V])


def halves_of(
    sums: PreferenceSums, vocabulary: Vocabulary, *, adjusted: bool, seed: int = 0
) -> Halves:
    """The types' means in the halves of `SPLITS` splits, the same ones for all sums of a text."""
    first_RG = random_halves(len(sums.count_GV), SPLITS, seed)
    wanted = covariates(sums, vocabulary) if adjusted else None
    return split_means(sums.count_GV, sums.delta_GV, first_RG, wanted)


def runs_agree(first: PreferenceSums, second: PreferenceSums, vocabulary: Vocabulary) -> float:
    """Correlation of the adjusted preferences of two runs' types, from -1 to 1.

    The sign, which is arbitrary, is chosen on one half of the text and used on the other.
    """
    return agreement(*(halves_of(sums, vocabulary, adjusted=True) for sums in (first, second)))


def type_deviations(sums: PreferenceSums, vocabulary: Vocabulary) -> np.ndarray:
    """Adjusted and shrunken deviations of the types (V); 0 for types not seen. For drawing."""
    count_GV, delta_GV = sums.count_GV, sums.delta_GV
    n_V = count_GV.sum(0)
    mean_V = np.where(n_V > 0, delta_GV.sum(0) / np.maximum(n_V, 1), 0.0)
    adjusted_V = residuals(mean_V[None], n_V[None], covariates(sums, vocabulary))[0]
    _, between = reliability(halves_of(sums, vocabulary, adjusted=True))
    return shrunken(adjusted_V, n_V, between=between, per_token=error_per_token(count_GV, delta_GV))


def drawn_types(sums: PreferenceSums) -> np.ndarray:
    """Ids (P,) of the types that figures draw, the same for all sums of a text."""
    n_V = sums.count_GV.sum(0)
    drawn_P = np.flatnonzero(n_V >= _LEAST_DRAWN)
    drawn_P = drawn_P[np.argsort(-n_V[drawn_P], kind="stable")]
    if len(drawn_P) > _DRAWN:  # evenly over frequency, the most frequent all the same
        drawn_P = drawn_P[np.unique(np.geomspace(1, len(drawn_P), _DRAWN).astype(int) - 1)]
    return drawn_P


def type_points(sums: PreferenceSums, vocabulary: Vocabulary) -> TypePoints:
    """The types of one pair of towers, to be drawn."""
    drawn_P = drawn_types(sums)
    return TypePoints(
        vocabulary.counts_V[drawn_P].astype(np.int64),
        vocabulary.class_V[drawn_P],
        type_deviations(sums, vocabulary)[drawn_P],
        tuple(vocabulary.text[i] for i in drawn_P),
    )


def kinds_of_token(
    sums: PreferenceSums, vocabulary: Vocabulary, *, seed: int = 0
) -> tuple[Group, ...]:
    """What is preferred, by class of token, frequency and position."""
    count_GV, delta_GV = sums.count_GV, sums.delta_GV
    mean = delta_GV.sum() / count_GV.sum()
    n_V = count_GV.sum(0)
    seen_V = n_V > 0
    mean_V = np.where(seen_V, delta_GV.sum(0) / np.maximum(n_V, 1), 0.0)
    bins_V = octaves(vocabulary.counts_V)

    def of_types(kind: str, name: str, inside_V: np.ndarray, p: float | None = None) -> Group:
        n_G, d_G = count_GV[:, inside_V].sum(1), delta_GV[:, inside_V].sum(1)
        interval = _over_groups(sums, d_G - mean * n_G, n_G)
        return Group(kind, name, int((inside_V & seen_V).sum()), int(n_G.sum()), interval, p)

    classes = np.unique(vocabulary.class_V[seen_V])
    p_values: list[float | None] = [None] * len(classes)
    if len(classes) > 1:
        alone = class_tests(
            mean_V[seen_V], n_V[seen_V], vocabulary.class_V[seen_V] == classes[:, None],
            bins_V[seen_V], times=PERMUTATIONS, seed=seed,
        )  # fmt: skip
        p_values[:] = holm(alone)
    kinds = [
        of_types("class", CLASSES[number], vocabulary.class_V == number, p)
        for number, p in zip(classes, p_values, strict=True)
    ]
    tenth_V = occurrence_deciles(vocabulary.counts_V)
    kinds += [
        of_types("frequency", decile_name(number), inside_V)
        for number in range(DECILES + 1)
        if n_V[inside_V := tenth_V == number].sum()
    ]
    delta_Gb = sums.position_nats_KGb[TOWER_2] - sums.position_nats_KGb[TOWER_1]
    for number in range(POSITIONS):
        n_G = sums.position_count_Gb[:, number]
        if n_G.sum():
            interval = _over_groups(sums, delta_Gb[:, number] - mean * n_G, n_G)
            name = f"{number + 1} of {POSITIONS}"
            kinds.append(Group("position", name, 0, int(n_G.sum()), interval))
    return tuple(kinds)


def strongest_types(sums: PreferenceSums, vocabulary: Vocabulary, *, seed: int = 0) -> Strongest:
    """The types that each tower is better at, by name."""
    n_V = sums.count_GV.sum(0)
    deviations, q_V = _tested_types(sums)
    _, between = reliability(halves_of(sums, vocabulary, adjusted=False, seed=seed))
    per_token = error_per_token(sums.count_GV, sums.delta_GV)
    shrunken_V = shrunken(deviations.mean_V, n_V, between=between, per_token=per_token)

    def of(sign: int) -> tuple[Type, ...]:
        order = np.argsort(-sign * shrunken_V)
        chosen = [v for v in order if sign * shrunken_V[v] > 0 and n_V[v] >= _LEAST_TOKENS][:TOP]
        return tuple(
            Type(
                int(v), vocabulary.text[v], int(n_V[v]), float(shrunken_V[v]),
                None if np.isnan(q_V[v]) else float(q_V[v]),
            )
            for v in chosen
        )  # fmt: skip

    return of(1), of(-1)
