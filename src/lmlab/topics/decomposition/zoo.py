"""A zoo of models and its decomposition: each model from all others, and from each other alone by
what the two have in common, with intervals over test documents.

Notable:
- Models of one architecture and one seed begin with the same weights and read the same text in the
  same order, whatever their objective. So pairs of equal seed are a kind of their own, and "two
  seeds or two objectives" compares pairs that differ in the seed.
- Two towers of one run (1a and 1b) are members of their own. Embeddings and head are trained in
  common, so they too are a kind of pair of their own.
- Means and differences of kinds are paired by document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from lmlab.numerics.random_effects import Interval
from lmlab.numerics.scatter import Scatter
from lmlab.results import Result
from lmlab.studies.rates import Rates
from lmlab.topics.counting.baseline import AgainstCounting
from lmlab.topics.decomposition.intervals import DocumentSums, r2_difference, r2_interval
from lmlab.topics.decomposition.of_models import Embedded, ModelsDecomposition, pair_sums
from lmlab.topics.decomposition.options import Arm, DecompositionStudyConfig
from lmlab.topics.decomposition.shares import Pairwise

OTHER_SEED = "same objective, another seed"
OTHER_OBJECTIVE = "another objective, another seed"
SAME_SEED = "another objective, same seed"
SAME_RUN = "the other tower of the same run"

Pair = tuple[str, str]
"""Target and basis."""


@dataclass(frozen=True)
class Member:
    """A model of the zoo."""

    label: str
    arm: Arm
    size: str
    seed: int
    tower: int | None
    """Which of the two towers of its run, from 1."""


@dataclass(frozen=True)
class TrainedMember(Member):
    """A model of the zoo, and how its training ended."""

    run: str
    """Name of the run's folder."""
    tokens: int
    validation_nats_per_token: float


@dataclass(frozen=True)
class KindOfPairs:
    """Mean R2 on test of pairs of a kind, one model from one other."""

    interval: Interval
    pairs: int


@dataclass(frozen=True)
class Kinds:
    """Pairs by what the two models have in common."""

    arms: dict[str, KindOfPairs]
    """By the arms of target and basis; of different seeds, where there are several."""
    general: dict[str, KindOfPairs]
    seeds_less_objectives: Interval | None
    """Mean R2 of pairs of one objective less that of pairs of two, the seeds always different; None
    where there are no such pairs."""
    by_target: dict[str, Interval | None]
    """The same for targets of each arm."""


@dataclass(frozen=True)
class GroupOfLength:
    """The group correlation at one length of text."""

    length: int
    """Tokens of a piece."""
    group: Interval
    """On test."""
    group_train: float
    targets: dict[str, Interval]
    """R2 on test of each model from all others."""
    rows: dict[str, int]
    """By split."""
    shortened: int


@dataclass(frozen=True)
class ZooDecomposition(Result, kind="decomposition"):
    """What the decomposition study finds."""

    config: DecompositionStudyConfig
    zoo: tuple[TrainedMember, ...]
    main: ModelsDecomposition
    """At the length of `config.embedding`, further models included."""
    kinds: Kinds
    lengths: tuple[GroupOfLength, ...]
    rates: dict[str, Rates] = field(default_factory=dict)
    """Of each arm and size, where several were tried."""
    counting: AgainstCounting | None = None
    """The causal models of the zoo, by arm, against counted n-grams; None of older results, and of
    a zoo without such models."""


def kinds_of_pairs(
    embedded: Mapping[str, Embedded], pairs: Pairwise, zoo: Sequence[Member]
) -> Kinds:
    """Every model regressed on every other alone, at its own ridge, by kinds of pairs."""
    train = reduce(Scatter.merge, embedded["train"].scatter())
    sums = pair_sums(embedded, train, pairs)
    by_label = {m.label: m for m in zoo}
    one_seed = len({m.seed for m in zoo}) < 2

    def common(target: str, basis: str) -> str | None:
        a, b = by_label.get(target), by_label.get(basis)
        if a is None or b is None or a.size != b.size:
            return None
        if a.arm == b.arm:
            return SAME_RUN if a.seed == b.seed else OTHER_SEED
        return SAME_SEED if a.seed == b.seed else OTHER_OBJECTIVE

    def arms(target: str, basis: str) -> str | None:
        kind = common(target, basis)
        if kind in (None, SAME_RUN) or (kind == SAME_SEED and not one_seed):
            return None
        a, b = by_label[target].arm, by_label[basis].arm
        return f"{a} from {'another ' if a == b else ''}{b}"

    def by_target(target: str, basis: str) -> str | None:
        kind = common(target, basis)
        return None if kind in (None, SAME_SEED, SAME_RUN) else f"{by_label[target].arm}: {kind}"

    general, of_target = _by_kind(sums, common), _by_kind(sums, by_target)
    return Kinds(
        arms=_means(_by_kind(sums, arms)),
        general=_means(general),
        seeds_less_objectives=_difference(general, OTHER_SEED, OTHER_OBJECTIVE),
        by_target={
            arm: _difference(of_target, f"{arm}: {OTHER_SEED}", f"{arm}: {OTHER_OBJECTIVE}")
            for arm in dict.fromkeys(m.arm for m in zoo)
        },
    )


def _by_kind(
    sums: Mapping[Pair, DocumentSums], kind_of: Callable[[str, str], str | None]
) -> dict[str, list[DocumentSums]]:
    """Pairs gathered by `kind_of(target, basis)`; those of kind None are left out."""
    kinds: dict[str, list[DocumentSums]] = {}
    for (target, basis), of_pair in sums.items():
        kind = kind_of(target, basis)
        if kind is not None:
            kinds.setdefault(kind, []).append(of_pair)
    return kinds


def _means(kinds: Mapping[str, list[DocumentSums]]) -> dict[str, KindOfPairs]:
    return {kind: KindOfPairs(r2_interval(*sums), len(sums)) for kind, sums in kinds.items()}


def _difference(kinds: Mapping[str, list[DocumentSums]], a: str, b: str) -> Interval | None:
    """Mean R2 of kind `a` less that of kind `b`; None where there are no such pairs."""
    return r2_difference(kinds[a], kinds[b]) if a in kinds and b in kinds else None
