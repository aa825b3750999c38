"""The result of the headless study: every model and head against the fair baseline, cross-entropy
with the same prior, on the same windows.

Shapes: S seeds, N windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmlab.data.documents import source_name
from lmlab.data.tasks import Task
from lmlab.numerics.random_effects import Interval
from lmlab.results import Result
from lmlab.studies.rates import Rates
from lmlab.topics.arrow.counting import FitWithArrow
from lmlab.topics.counting.baseline import Above
from lmlab.topics.geometry.geometry import Geometry
from lmlab.topics.headless.arms import REFERENCE, Row
from lmlab.topics.headless.costs import CostAtVocabulary, StepTimes
from lmlab.topics.headless.curves import Curve
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.scoring.difference import difference_per_token
from lmlab.topics.scoring.score import Score
from lmlab.topics.scoring.tasks_of_runs import TaskMetric, compared


@dataclass(frozen=True)
class RowResult:
    """One model with one head on held-out text; what is by seed stands in their order.

    Differences are from the baseline, in nats per token; None for the baseline itself.
    """

    row: Row
    nats_per_token: tuple[float, ...]
    bits_per_byte: tuple[float | None, ...]
    difference: Interval | None
    repeated: Interval | None
    """On tokens that stand earlier in their window; None too where there are none."""
    new: Interval | None
    """On all other tokens."""


@dataclass(frozen=True)
class TaskResult:
    """A zero-shot task."""

    task: str
    source: str
    items: int
    rows: dict[str, dict[str, TaskMetric]]
    """By the key of a row and the name of a metric."""


@dataclass(frozen=True)
class VocabularyResult:
    """All that was measured with one vocabulary."""

    vocabulary: int
    store: str
    text_note: str
    """What must be said of the held-out text; empty otherwise."""
    training_tokens_available: int
    step_times: StepTimes
    weights: dict[str, int]
    """Of each arm's model."""
    rates: dict[str, Rates]
    """Of each arm, where several learning rates were tried."""
    tokens_scored: int
    repeated_share: float
    """Of the scored tokens: those that stand earlier in their window."""
    documents: int
    clusters: int
    cluster_unit: str
    rows: tuple[RowResult, ...]
    curves: tuple[Curve, ...]
    above_counting: dict[str, Above]
    """Of each row, against the best Kneser-Ney n-grams of the training split."""
    counted: FitWithArrow
    """Those n-grams."""
    tasks: tuple[TaskResult, ...]
    geometry: dict[str, Geometry]
    """Of the baseline and of the headless model, first seed."""

    @property
    def by_key(self) -> dict[str, RowResult]:
        """The rows by their keys."""
        return {row.row.key: row for row in self.rows}


@dataclass(frozen=True)
class Headless(Result, kind="headless"):
    """What the headless study finds."""

    corpus: str
    config: HeadlessStudyConfig
    parts: tuple[VocabularyResult, ...]
    growth: tuple[CostAtVocabulary, ...]
    """What a step costs as the vocabulary grows."""


def row_result(row: Row, scores: Sequence[Score], reference: Sequence[Score]) -> RowResult:
    """Compares the scores of a row with those of the baseline, a score for each seed."""
    first = scores[0]
    nats_SN, reference_SN = (np.stack([s.nats_M for s in each]) for each in (scores, reference))
    repeated_SN, repeated_reference_SN = (
        np.stack([s.repeated_nats_M for s in each]) for each in (scores, reference)
    )

    def difference(ours_SN: np.ndarray, theirs_SN: np.ndarray, tokens_N: np.ndarray):
        if row.key == REFERENCE or not tokens_N.any():
            return None
        return difference_per_token(ours_SN, theirs_SN, tokens_N, first.clusters)

    return RowResult(
        row,
        nats_per_token=tuple(s.nats_per_token for s in scores),
        bits_per_byte=tuple(s.bits_per_byte for s in scores),
        difference=difference(nats_SN, reference_SN, first.tokens_M),
        repeated=difference(repeated_SN, repeated_reference_SN, first.repeated_M),
        new=difference(
            nats_SN - repeated_SN,
            reference_SN - repeated_reference_SN,
            first.tokens_M - first.repeated_M,
        ),
    )


def task_result(task: Task, values: dict[str, list[dict[str, np.ndarray]]]) -> TaskResult:
    """Compares the rows on a task: `values` has, by key, those of each seed's items."""
    return TaskResult(
        task.kind,
        source_name(task.source),
        len(task.items),
        {
            key: compared(ours, None if key == REFERENCE else values[REFERENCE], task=task)
            for key, ours in values.items()
        },
    )
