"""The comparisons of an arrow study taken together: adjusted p-values, means over corpora, and over
the matrices of a level of linear languages.

Five languages that each say "not decided" may say something together; and of twenty comparisons
without a difference one is expected to show one.

Notable: where the matrices of one level (bits, extra ones) were drawn, not selected, the matrix is
a random factor. Their mean has its interval over matrices (`numerics.draws`), in which their seeds
and strings are contained. What one matrix shows is of that matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lmlab.numerics.draws import DrawnMean, mean_over_draws
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS
from lmlab.numerics.synthesis import MINIMUM_ROWS, Synthesis, pooled_variances, synthesis
from lmlab.numerics.verdicts import Evidence, Finding, holm, verdict
from lmlab.results import Result
from lmlab.studies.corpora import Draw
from lmlab.studies.rates import Rates
from lmlab.topics.arrow.arrow import lower_loss, per_cent
from lmlab.topics.arrow.comparison import Comparison, Floor
from lmlab.topics.arrow.counting import CountedText
from lmlab.topics.arrow.options import ArrowConfig


@dataclass(frozen=True)
class CorporaMean:
    """The mean of the relative arrow over corpora, for one kind of model, tokenizer and order."""

    label: str
    tokenizer: str | None
    order: str
    mean: Synthesis
    corpora: tuple[str, ...]
    left_out: tuple[str, ...]
    """Corpora whose final losses decide nothing, or that have no standard error."""
    seeds: int
    """Of all corpora; likewise documents."""
    documents: int
    seed_sd: float | None
    """Between seeds, one for all corpora; None where each has one seed."""
    seed_df: int

    derived = ("verdict", "finding")

    @property
    def evidence(self) -> Evidence:
        """The mean as what verdicts are worded from."""
        mean = self.mean
        return Evidence(
            mean.estimate, mean.low, mean.high, mean.standard_error, mean.degrees_of_freedom,
            self.seeds, self.documents,
        )  # fmt: skip

    @property
    def finding(self) -> Finding:
        """Where the interval lies; above: forward is easier."""
        return self.evidence.finding

    @property
    def verdict(self) -> str:
        """The finding in words, without its numbers."""
        return verdict(
            self.evidence,
            above="forward is easier",
            below=f"{self.order} is easier",
            size=per_cent,
            seen=lower_loss(self.order),
        )


@dataclass(frozen=True)
class Level:
    """The matrices of one level under one model and order."""

    name: str
    order: str
    matrices: tuple[int, ...]
    """Their seeds, all of a range."""
    inverse_density: float
    """Mean share of ones in their inverses."""
    forward: DrawnMean
    """Excess over the floor, nats per token."""
    other: DrawnMean
    difference: DrawnMean
    """Other less forward, paired by seed, nats per token."""
    relative: DrawnMean
    """The relative arrow 2 (b - f) / (b + f)."""

    @property
    def evidence(self) -> Evidence:
        """Of the difference: seeds are inside matrices, and a language has any amount of text."""
        mean = self.difference
        return Evidence(
            mean.estimate, mean.low, mean.high, mean.standard_error, mean.draws - 1,
            seeds=None, documents=MINIMUM_DOCUMENTS,
        )  # fmt: skip


@dataclass(frozen=True)
class ArrowStudy(Result, kind="arrow study"):
    """What the arrow study finds."""

    title: str
    config: ArrowConfig
    counted: tuple[CountedText, ...]
    comparisons: tuple[Comparison, ...]
    levels: tuple[Level, ...]
    means: tuple[CorporaMean, ...]
    rates: dict[str, Rates] = field(default_factory=dict)
    """Of each direction of a combination, where several were tried."""


def with_adjusted(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons with their p-values adjusted for as many (Holm)."""
    adjusted = holm([c.arrow.p_value for c in comparisons])
    return tuple(replace(c, p_adjusted=p) for c, p in zip(comparisons, adjusted, strict=True))


def means_over_corpora(comparisons: Sequence[Comparison]) -> tuple[CorporaMean, ...]:
    """One random-effects mean over the corpora for each model, tokenizer and order.

    Of texts only: synthetic sources are chosen to differ. Left out are comparisons whose final
    losses decide nothing (jumps), and those without a standard error.
    """
    groups: dict[tuple[str, str | None, str], list[Comparison]] = {}
    for c in comparisons:
        if c.floor is None:
            groups.setdefault((c.label, c.tokenizer, c.order), []).append(c)
    return tuple(
        _mean(rows, [c.corpus for c in group if not _decides(c)])
        for group in groups.values()
        if len(rows := [c for c in group if _decides(c)]) >= MINIMUM_ROWS
    )


def _decides(comparison: Comparison) -> bool:
    jumps = comparison.transition is not None and comparison.transition.inside
    return not jumps and bool(comparison.arrow.standard_error)


def _mean(rows: Sequence[Comparison], left_out: Sequence[str]) -> CorporaMean:
    arrows = [c.arrow for c in rows]
    variances = np.array([arrow.standard_error or 0.0 for arrow in arrows]) ** 2
    by_seed = [arrow.relative_by_seed for arrow in arrows]
    deviation, df = None, 0
    if any(len(values) > 1 for values in by_seed):
        variances, deviation, df = pooled_variances(by_seed, variances)
    first = rows[0]
    return CorporaMean(
        label=first.label,
        tokenizer=first.tokenizer,
        order=first.order,
        mean=synthesis([arrow.relative for arrow in arrows], variances),
        corpora=tuple(c.corpus for c in rows),
        left_out=tuple(left_out),
        seeds=sum(arrow.seeds for arrow in arrows),
        documents=sum(arrow.documents for arrow in arrows),
        seed_sd=deviation,
        seed_df=df,
    )


def levels(comparisons: Sequence[Comparison]) -> tuple[Level, ...]:
    """The levels among the comparisons, in their order; those without one are left out."""
    groups: dict[tuple[str, str, str], list[tuple[Draw, Floor, Comparison]]] = {}
    for c in comparisons:
        if c.draw is not None and c.floor is not None:
            groups.setdefault((c.draw.level, c.label, c.order), []).append((c.draw, c.floor, c))
    return tuple(
        _level(f"{name} ({label})", order, group) for (name, label, order), group in groups.items()
    )


def _level(name: str, order: str, group: Sequence[tuple[Draw, Floor, Comparison]]) -> Level:
    draws, floors, comparisons = zip(*group, strict=True)
    forward_DS, other_DS = (
        np.array([excess.by_seed for excess in side])
        for side in zip(*((floor.forward, floor.other) for floor in floors), strict=True)
    )
    f_DS, o_DS = (
        np.array([[model.nats_per_token for model in models] for models in side])
        for side in zip(*((c.forward, c.other) for c in comparisons), strict=True)
    )
    return Level(
        name=name,
        order=order,
        matrices=tuple(draw.matrix for draw in draws),
        inverse_density=float(np.mean([floor.inverse_density for floor in floors])),
        forward=mean_over_draws(forward_DS),
        other=mean_over_draws(other_DS),
        difference=mean_over_draws(other_DS - forward_DS),
        relative=mean_over_draws(2 * (o_DS - f_DS) / (o_DS + f_DS)),
    )
