"""An n-gram model in one piece: counts of a text, and the windows that are looked up in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmlab.topics.counting.counts import NGramCounts
from lmlab.topics.counting.ngram import Direction, Smoothing, WindowContexts, in_direction


class NGram:
    """N-gram models of every order up to one, with one smoothing, in one direction."""

    def __init__(
        self,
        ids_N: Any,
        *,
        vocabulary: int,
        order: int,
        smoothing: Smoothing = "modified Kneser-Ney",
        strength: float | None = None,
        direction: Direction = "forward",
    ) -> None:
        self.smoothing: Smoothing = smoothing
        self.direction: Direction = direction
        self.strength = strength
        self.counts = NGramCounts(
            in_direction(np.asarray(ids_N), direction), vocabulary=vocabulary, order=order
        )

    def score(self, ids_T: Any, length_M: Any) -> np.ndarray:
        """Nats (order, T) of each token of windows."""
        context = WindowContexts(self.counts, ids_T, length_M, self.direction)
        return context.nats(self.smoothing, self.strength)

    def score_ring(self, ids_T: Any) -> np.ndarray:
        """Nats (order, T) of each token of a ring, row k - 1 from k - 1 tokens of context."""
        context = WindowContexts(self.counts, ids_T, None, self.direction)
        return context.nats(self.smoothing, self.strength)
