"""One comparison of two directions: of the runs of the arrow study, or of two existing models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.windows import EvaluationWindows
from lmlab.numerics.power import VarianceComponents
from lmlab.numerics.random_effects import Interval
from lmlab.numerics.transitions import TimesCompared, compare_times, find_jump, time_below
from lmlab.studies.corpora import Draw, Known
from lmlab.topics.arrow.arrow import (
    Arrow,
    PositionArrow,
    arrow_by_position,
    arrow_components,
    arrow_of_time,
)
from lmlab.topics.arrow.counting import AboveCounting
from lmlab.topics.arrow.documents import DocumentArrows, document_arrows
from lmlab.topics.scoring.difference import excess_over_floor
from lmlab.topics.scoring.score import Score


@dataclass(frozen=True)
class Curve:
    """Validation losses of a run while it trained."""

    tokens: tuple[int, ...]
    losses: tuple[float, ...]
    """Nats per token."""


@dataclass(frozen=True)
class Scored:
    """A model and its score; `curve` is empty of a model whose training is not known."""

    name: str
    score: Score
    curve: Curve = Curve((), ())


@dataclass(frozen=True)
class ModelResult:
    """One model of a comparison."""

    name: str
    nats_per_token: float
    bits_per_byte: float | None
    by_position: tuple[float, ...]
    """Nats per token in the bins of the comparison."""
    curve: Curve


@dataclass(frozen=True)
class Training:
    """What was equal in the training of both directions."""

    parameters: int
    vocabulary: int
    store: str
    text_note: str
    """What must be said of the held-out text; empty otherwise."""
    tokens_available: int
    steps: int
    batch: int
    """Windows a step."""
    learning_rate: float
    dtype: str
    other_learning_rate: float | None = None
    """Of the other direction, where it is not the same (`learning_rates`)."""


@dataclass(frozen=True)
class Excess:
    """Loss of one direction above the entropy of its source, nats per token."""

    interval: Interval
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Floor:
    """Both directions against a source whose entropy is known."""

    nats_per_token: float
    inverse_density: float | None
    """Share of ones in the inverse of a linear language's matrix."""
    forward: Excess
    other: Excess


@dataclass(frozen=True)
class Transition:
    """When the runs of both directions make the largest jump of any validation curve."""

    times: TimesCompared
    threshold: float
    """Nats per token, half-way down."""
    inside: bool
    """The budget ends among the jumps, since a run has not made it, or only in the last third; then
    final losses have two values and their interval says nothing (`numerics.transitions`)."""


@dataclass(frozen=True)
class Comparison:
    """Forward models and those of another order, equal in all else, on the same windows.

    What stands by model is in the order of the seeds.
    """

    corpus: str
    tokenizer: str | None
    """Its kind; None of existing models."""
    label: str
    """What the models are."""
    order: str
    """Of the others: backward, or a permutation."""
    context: int
    cluster_unit: str
    tokens_scored: int
    arrow: Arrow
    p_adjusted: float | None
    """p of the arrow for as many comparisons as a study has (Holm); None without a test."""
    by_position: tuple[PositionArrow, ...]
    forward: tuple[ModelResult, ...]
    other: tuple[ModelResult, ...]
    components: VarianceComponents | None
    """Of the relative arrow; None for a single cluster."""
    transition: Transition | None
    """None where no curve jumps."""
    training: Training | None = None
    draw: Draw | None = None
    """Which matrix of its level a linear language has; None of one that was named by itself."""
    floor: Floor | None = None
    """None of a source whose entropy is not known."""
    above_counting: AboveCounting | None = None
    documents: DocumentArrows | None = None
    """Backward against forward by document; None where too few documents have windows enough."""

    @property
    def sides(self) -> tuple[tuple[str, tuple[ModelResult, ...]], ...]:
        """The name of each direction, and its models."""
        return (FORWARD, self.forward), (self.order, self.other)


def compare(
    forward: Sequence[Scored],
    other: Sequence[Scored],
    *,
    corpus: str,
    label: str,
    tokenizer: str | None = None,
) -> Comparison:
    """Compares the models of both directions, one a seed, by their scores on the same windows."""
    f, o = ([each.score for each in side] for side in (forward, other))
    first = f[0]
    by_position = arrow_by_position(
        np.stack([s.nats_Mb for s in f]),
        np.stack([s.nats_Mb for s in o]),
        first.cluster_M,
        first.position_edges,
        first.clusters.document_N,
    )
    nats_f, nats_o = (np.stack([s.nats_M for s in side]) for side in (f, o))
    arrow = arrow_of_time(nats_f, nats_o, first.cluster_M, first.clusters.document_N)

    def results(side: Sequence[Scored]) -> tuple[ModelResult, ...]:
        return tuple(
            ModelResult(
                each.name,
                each.score.nats_per_token,
                each.score.bits_per_byte,
                # the same bins as the arrow's, which has none where all losses are exactly zero
                tuple(each.score.nats_per_token_at([b.first for b in by_position]).tolist()),
                each.curve,
            )
            for each in side
        )

    return Comparison(
        corpus=corpus,
        tokenizer=tokenizer,
        label=label,
        order=o[0].order,
        context=first.context,
        cluster_unit=first.cluster_unit,
        tokens_scored=first.tokens,
        arrow=arrow,
        p_adjusted=arrow.p_value,
        by_position=by_position,
        forward=results(forward),
        other=results(other),
        components=arrow_components(nats_f, nats_o, first.clusters),
        transition=transition(*([each.curve for each in side] for side in (forward, other))),
        documents=document_arrows(f, o) if o[0].order == BACKWARD else None,
    )


_LATE = 2 / 3  # of the budget: a run that jumps after it may as well not have jumped yet


def transition(forward: Sequence[Curve], other: Sequence[Curve]) -> Transition | None:
    """When runs make the largest jump of any validation curve; None where no curve jumps."""
    curves = [*forward, *other]
    if len(curves) > 20 or not all(curve.tokens for curve in curves):
        return None
    jumps = [jump for c in curves if (jump := find_jump(c.tokens, c.losses)) is not None]
    if not jumps:
        return None
    largest = max(jumps, key=lambda jump: jump.before - jump.after)
    budget = float(max(curve.tokens[-1] for curve in curves))
    first, second = (
        [time_below(c.tokens, c.losses, largest.threshold) for c in side]
        for side in (forward, other)
    )
    late = any(t is None or t > _LATE * budget for t in (*first, *second))
    return Transition(compare_times(first, second, budget), largest.threshold, late)


def above_floor(
    known: Known, windows: EvaluationWindows, forward: Sequence[Score], other: Sequence[Score]
) -> Floor:
    """How far both directions stay above the entropy of their source; a score a seed."""
    surprisal_M = known.surprisal(np.stack([windows.ids(row) for row in range(len(windows))]))

    def excess(scores: Sequence[Score]) -> Excess:
        interval = excess_over_floor(
            np.stack([s.nats_M for s in scores]), surprisal_M, windows.length_M, windows.clusters
        )
        by_seed = tuple(float((s.nats_M - surprisal_M).sum() / s.tokens) for s in scores)
        return Excess(interval, by_seed)

    return Floor(known.floor, known.inverse_density, excess(forward), excess(other))
