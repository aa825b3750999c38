"""What counting alone makes of the windows that models are scored on, and whether a model beats it.

For each smoothing, the order is chosen on validation text, and the strength where there is one. The
baseline that a model must beat is the smoothing that is best on validation text.

Legend: M windows, T tokens, K orders, S seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.data.store import TokenStore
from lmlab.data.windows import EvaluationWindows, evaluation_windows
from lmlab.errors import UserError
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.numerics.verdicts import verdict
from lmlab.topics.arrow.arrow import Arrow, arrow_of_time
from lmlab.topics.counting.counts import NGramCounts
from lmlab.topics.counting.ngram import (
    DIRECTIONS,
    SMOOTHINGS,
    WITH_STRENGTH,
    Direction,
    Smoothing,
    WindowContexts,
    in_direction,
)
from lmlab.topics.scoring.difference import difference_per_token

STRENGTHS = tuple(2.0**power for power in range(-3, 19))
"""What a strength is chosen from. The loss is flat near its least, so steps of 2 suffice."""
VALIDATION_TOKENS = 1 << 18
"""About as many tokens of validation text choose the order and the strength."""
LONGEST = 6
"""Orders go up to this."""


@dataclass(frozen=True)
class NGramBaseline:
    """The n-gram model of one smoothing: its nats on the windows that models are scored on.

    Attributes:
        order, strength: with the least loss on validation text, both directions together.
        validation_nats: nats per token there, mean of both directions, for order 1, 2 and so on.
        nats_forward_M, nats_backward_M: nats of each window.
    """

    smoothing: Smoothing
    order: int
    strength: float | None
    validation_nats: tuple[float, ...]
    split: str
    context: int
    fitted_tokens: int
    cluster_unit: str
    nats_forward_M: NDArray[np.float64]
    nats_backward_M: NDArray[np.float64]
    tokens_M: NDArray[np.int64]
    clusters: Clusters

    @property
    def nats_per_token_forward(self) -> float:
        return float(self.nats_forward_M.sum() / self.tokens_M.sum())

    @property
    def nats_per_token_backward(self) -> float:
        return float(self.nats_backward_M.sum() / self.tokens_M.sum())

    @property
    def arrow(self) -> Arrow:
        """Its arrow of time. There are no seeds."""
        return arrow_of_time(
            self.nats_forward_M, self.nats_backward_M, self.clusters.cluster_N,
            self.clusters.document_N,
        )  # fmt: skip

    @property
    def verdict(self) -> str:
        """The finding on these counts in words. Counts have no seeds: they are what they are."""
        return verdict(
            replace(self.arrow.evidence, seeds=None),
            above="forward is easier for these counts",
            below="backward is easier for these counts",
            size=lambda relative: f"{100 * relative:.2f} %",
        )

    def above(self, nats_SM: ArrayLike, direction: Direction) -> Interval:
        """Nats per token of models above this baseline's, with its 95 % interval.

        Args:
            nats_SM: nats of each window, a row a seed, of models that give each token a
                probability from the tokens before it in `direction`. A masked model's
                pseudo-likelihood is another quantity, and no such sum.

        Raises `UserError` for other windows than these.
        """
        nats = np.atleast_2d(np.asarray(nats_SM, dtype=np.float64))
        own_M = self.nats_forward_M if direction == "forward" else self.nats_backward_M
        if nats.ndim != 2 or nats.shape[1:] != own_M.shape:
            raise UserError(
                f"nats_SM has shape {nats.shape}, but the baseline scored {len(own_M)} windows; "
                "score the same windows"
            )
        own_SM = np.broadcast_to(own_M, nats.shape)
        return difference_per_token(nats, own_SM, self.tokens_M, self.clusters)

    def to_json(self) -> dict[str, Any]:
        """Plain values; per-window arrays are left out."""
        return {
            "smoothing": self.smoothing,
            "order": self.order,
            "strength": self.strength,
            "validation_nats_per_token": list(self.validation_nats),
            "split": self.split,
            "context": self.context,
            "fitted_tokens": self.fitted_tokens,
            "nats_per_token_forward": self.nats_per_token_forward,
            "nats_per_token_backward": self.nats_per_token_backward,
            "tokens": int(self.tokens_M.sum()),
            "cluster": self.cluster_unit,
            "arrow": {**self.arrow.to_json(), "verdict": self.verdict},
        }


@dataclass(frozen=True)
class NGramBaselines:
    """The baselines of several smoothings, on the same windows."""

    of_smoothings: tuple[NGramBaseline, ...]

    @property
    def best(self) -> NGramBaseline:
        """The one with the least loss on validation text: what counting can do."""
        return min(self.of_smoothings, key=lambda each: min(each.validation_nats))

    def to_json(self) -> dict[str, Any]:
        """Plain values: the smoothings, and which of them is the baseline."""
        return {
            "best": self.best.smoothing,
            "of_smoothings": [each.to_json() for each in self.of_smoothings],
        }


def ngram_baselines(
    store: TokenStore,
    *,
    split: str,
    context: int,
    longest: int = LONGEST,
    smoothings: tuple[Smoothing, ...] = SMOOTHINGS,
    max_windows: int | None = None,
) -> NGramBaselines:
    """Fits n-grams to a store's train split and scores the evaluation windows of `split`.

    The train split is counted as one ring, end-of-text tokens included. One order and strength
    serve both directions, those with the least sum of both losses on a fixed sample of validation
    windows, so that neither direction is favoured. Where `split` is "validation", they were chosen
    on text that is scored here.

    `context` is the window in tokens and `max_windows` a fixed random sample of windows, as in
    `topics.scoring.score`.

    Raises `UserError` if a split is missing or empty.
    """
    train = store.split("train")
    if train.tokens == 0:
        raise UserError(f"{store.path}: split train has no tokens to fit n-grams to")
    windows = _filled(evaluation_windows(store.split(split), context, max_windows=max_windows))
    sample = _filled(
        evaluation_windows(
            store.split("validation"), context, max_windows=max(1, VALIDATION_TOKENS // context)
        )
    )
    stream = train.read(0, train.tokens)
    ids_T = np.concatenate([_ids(sample), _ids(windows)])
    length_M = np.concatenate([sample.length_M, windows.length_M])
    start_M = np.cumsum(length_M) - length_M
    candidates: list[tuple[Smoothing, float | None]] = [
        (smoothing, strength)
        for smoothing in smoothings
        for strength in (STRENGTHS if smoothing in WITH_STRENGTH else (None,))
    ]
    nats_KM: dict[tuple[Smoothing, float | None, Direction], NDArray[np.float64]] = {}
    for direction in DIRECTIONS:
        # One direction's counts at a time: they are the memory this takes
        counts = NGramCounts(
            in_direction(stream, direction), vocabulary=store.vocabulary, order=longest
        )
        looked_up = WindowContexts(counts, ids_T, length_M, direction)
        for smoothing, strength in candidates:
            nats_KT = looked_up.nats(smoothing, strength)
            nats_KM[smoothing, strength, direction] = np.add.reduceat(nats_KT, start_M, axis=1)
    first = len(sample)
    tokens = int(sample.length_M.sum())
    validation_K = {
        each: np.sum([nats_KM[*each, d][:, :first] for d in DIRECTIONS], axis=(0, 2)) / (2 * tokens)
        for each in candidates
    }
    made = []
    for smoothing in smoothings:
        _, strength = min(
            (each for each in candidates if each[0] == smoothing),
            key=lambda each: validation_K[each].min(),
        )
        losses_K = validation_K[smoothing, strength]
        row = int(losses_K.argmin())
        made.append(
            NGramBaseline(
                smoothing=smoothing,
                order=row + 1,
                strength=strength,
                validation_nats=tuple(losses_K.tolist()),
                split=split,
                context=context,
                fitted_tokens=train.tokens,
                cluster_unit=windows.cluster_unit,
                nats_forward_M=nats_KM[smoothing, strength, "forward"][row, first:],
                nats_backward_M=nats_KM[smoothing, strength, "backward"][row, first:],
                tokens_M=windows.length_M,
                clusters=windows.clusters,
            )
        )
    return NGramBaselines(tuple(made))


def _ids(windows: EvaluationWindows) -> NDArray[np.int64]:
    return np.concatenate([windows.ids(row) for row in range(len(windows))])


def _filled(windows: EvaluationWindows) -> EvaluationWindows:
    if len(windows) == 0:
        raise UserError(
            f"{windows.split.store.path}: split {windows.split.name} has no documents; n-grams "
            "need validation text to choose their order, and text to be scored on"
        )
    return windows
