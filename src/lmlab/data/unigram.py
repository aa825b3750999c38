"""The unigram distribution of a split: what a model knows before it has read anything.

Shapes: V vocabulary.
"""

from __future__ import annotations

import numpy as np

from lmlab.data.store import Split

_CHUNK = 1 << 24


def token_counts(split: Split, vocabulary: int) -> np.ndarray:
    """How often each token stands in the split's stream: (V,) int64, end-of-text tokens too."""
    counts_V = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, split.tokens, _CHUNK):
        ids = split.read(start, min(split.tokens, start + _CHUNK))
        counts_V += np.bincount(ids, minlength=vocabulary)
    return counts_V


def log_unigram(counts_V: np.ndarray) -> np.ndarray:
    """log((count + 1) / (N + V)), (V,) float64: add-one smoothing, in nats."""
    smoothed = counts_V + 1.0
    return np.log(smoothed / smoothed.sum())
