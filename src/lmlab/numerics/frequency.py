"""Tokens grouped by how often they occur, and rank correlation with it. Arrays only.

Two kinds of tenths, both rising with frequency (1 the rarest, 10 the most frequent):
- of occurrences: each bin holds about a tenth of the text. The top bin may be two or three tokens,
  the bottom one most of the vocabulary. For what is averaged over text.
- of types: each bin holds a tenth of the tokens that occur at all. For what each token has once.

Equal counts go by token id, so that bins stay near a tenth; bin 0 is for tokens that never occur.

Shapes: V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

DECILES = 10
UNSEEN = "not in the training split"
"""Names bin 0: tokens that the store's training text has none of, whatever a model has seen."""


def decile_name(number: int) -> str:
    """What a bin of either kind is called wherever it is printed."""
    ends = {0: UNSEEN, 1: "1 (rarest)", DECILES: f"{DECILES} (most frequent)"}
    return ends.get(number, str(number))


def occurrence_deciles(counts_V: ArrayLike) -> NDArray[np.int64]:
    """The bin (V,) of each token, 0 to 10, by tenths of all occurrences.

    A token is in one bin as a whole, where the middle of its occurrences lies when the text is
    sorted from the rarest token to the most frequent: a bin differs from a tenth by no more than
    half of the tokens at its edges, and a token of more than a fifth of the text leaves bins empty.
    """
    counts = _checked(counts_V)
    order = np.argsort(counts, kind="stable")
    sorted_counts = counts[order]
    # Twice the middle, in whole numbers: exact, and zero counts cannot reach the total
    twice_middle = 2 * np.cumsum(sorted_counts) - sorted_counts
    bins = np.empty(len(counts), dtype=np.int64)
    bins[order] = 1 + DECILES * twice_middle // (2 * max(1, int(counts.sum())))
    return np.where(counts > 0, bins, 0)


def type_deciles(counts_V: ArrayLike) -> NDArray[np.int64]:
    """The bin (V,) of each token, 0 to 10, by tenths of the tokens that occur."""
    counts = _checked(counts_V)
    order = np.argsort(counts, kind="stable")
    seen = order[counts[order] > 0]
    bins = np.zeros(len(counts), dtype=np.int64)
    bins[seen] = 1 + DECILES * np.arange(len(seen)) // max(1, len(seen))
    return bins


def octaves(counts_V: ArrayLike) -> NDArray[np.int64]:
    """The bin (V,) of each token: 0 if it never occurs, else 1 + floor(log2 count).

    The frequencies of a bin differ by less than a factor of 2.
    """
    return np.frexp(_checked(counts_V).astype(np.float64))[1].astype(np.int64)


def rank_correlation(x_N: ArrayLike, y_N: ArrayLike) -> float | None:
    """Spearman's: Pearson's correlation of the ranks, ties at their mean rank, -1 to 1.

    None where one of both is constant or there are fewer than 3 values.
    """
    x, y = np.asarray(x_N), np.asarray(y_N)
    assert len(x) == len(y)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.asarray(spearmanr(x, y))[0])


def _checked(counts_V: ArrayLike) -> NDArray[np.int64]:
    counts = np.asarray(counts_V)
    assert counts.ndim == 1
    assert np.issubdtype(counts.dtype, np.integer)
    assert (counts >= 0).all()
    return counts.astype(np.int64)
