"""The k-grams of a text, counted as a ring, for every k up to an order.

The stream is a ring: its last token is followed by its first. So every k-gram has as many tokens
before it as after it, and the text read backwards has the same k-grams, each reversed.

Notable:
- A k-gram is known by a number, its rank among the distinct k-grams in lexical order. The rank of
  its first k - 1 tokens times V, plus its last token, is the key that ranks it. So keys fit 64 bits
  for any order and vocabulary (V times the stream's length must), and the k-grams that share
  their first k - 1 tokens stand side by side.
- Memory: 8 bytes for each distinct k-gram and twice 4 for its counts, and while counting about 40
  for each token of the stream.

Legend: N tokens of the counted stream, T tokens looked up, K = order + 1, U distinct k-grams,
C distinct (k - 1)-grams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError

IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class KGrams:
    """The distinct k-grams of one length k, in lexical order.

    Attributes:
        keys_U: rank of the first k - 1 tokens times V, plus the last token; increasing.
        counts_U: how often each stands in the ring.
        starts_C: where the k-grams begin that share their first k - 1 tokens.
        left_U: how many different tokens stand before each; None for the longest k.
    """

    keys_U: NDArray[np.int64]
    counts_U: IntArray
    starts_C: IntArray
    left_U: IntArray | None


class NGramCounts:
    """The k-grams of a ring of tokens, for every k up to `order`.

    Args:
        ids_N: the stream; its last token is followed by its first.
        vocabulary: V; ids are below it.
        order: n, the longest k-gram; contexts have n - 1 tokens.

    Raises `UserError` for an order or vocabulary below 1, an empty stream, or ids outside the
    vocabulary.
    """

    def __init__(self, ids_N: ArrayLike, *, vocabulary: int, order: int) -> None:
        if order < 1 or vocabulary < 1:
            raise UserError(f"order {order} and vocabulary {vocabulary} must be at least 1")
        self.vocabulary, self.order = vocabulary, order
        ids = self._checked(ids_N)
        self.tokens = len(ids)
        assert self.tokens * vocabulary < 2**63
        self._levels = _ranked(ids, vocabulary, order)

    def level(self, k: int) -> KGrams:
        """The k-grams of length `k`, 1 to `order`."""
        assert 1 <= k <= self.order
        return self._levels[k - 1]

    def look_up(self, ids_T: ArrayLike) -> IntArray:
        """Ranks (K, T): row k, column t is the k-gram that begins at token t; -1 if never seen.

        `ids_T` too is read as a ring. Row 0 is the empty k-gram, whose rank is 0.
        """
        ids = self._checked(ids_T)
        ranks_KT = np.full((self.order + 1, len(ids)), -1, dtype=_integers(self.tokens))
        ranks_KT[0] = 0
        for k, kgrams in enumerate(self._levels, start=1):
            seen = np.flatnonzero(ranks_KT[k - 1] >= 0)
            keys = ranks_KT[k - 1, seen].astype(np.int64) * self.vocabulary
            keys += np.roll(ids, 1 - k)[seen]
            # Neighbouring searches share cache lines only if the keys are sorted
            keys, by_key = sorted_with_places(keys)
            seen = seen[by_key]
            place = np.minimum(np.searchsorted(kgrams.keys_U, keys), len(kgrams.keys_U) - 1)
            ranks_KT[k, seen] = np.where(kgrams.keys_U[place] == keys, place, -1)
        return ranks_KT

    def _checked(self, ids: ArrayLike) -> NDArray[np.int64]:
        ids_T = np.asarray(ids)
        if ids_T.ndim != 1 or ids_T.size == 0 or ids_T.dtype.kind not in "iu":
            raise UserError(
                f"token ids have shape {ids_T.shape} and type {ids_T.dtype}; pass at least one "
                "integer, in one dimension"
            )
        low, high = int(ids_T.min()), int(ids_T.max())
        if low < 0 or high >= self.vocabulary:
            raise UserError(
                f"token id {low if low < 0 else high} is outside the vocabulary of "
                f"{self.vocabulary}; count and score with the same tokenizer"
            )
        return ids_T.astype(np.int64, copy=False)


def _ranked(ids_N: NDArray[np.int64], vocabulary: int, order: int) -> Sequence[KGrams]:
    tokens = len(ids_N)
    small = _integers(tokens)
    rank_N = np.zeros(tokens, dtype=small)  # of the empty k-gram that begins at each token
    distinct, levels = 1, []
    for k in range(1, order + 1):
        keys_N = rank_N.astype(np.int64)
        keys_N *= vocabulary
        keys_N += np.roll(ids_N, 1 - k)
        keys_N, by_key_N = sorted_with_places(keys_N)
        first_U = np.flatnonzero(np.concatenate([[True], keys_N[1:] != keys_N[:-1]]))
        keys_U, counts_U = keys_N[first_U], np.diff(first_U, append=tokens).astype(small)
        del keys_N
        if levels:
            # Each distinct k-gram is one more token to the left of its last k - 1 tokens
            last = rank_N[(by_key_N[first_U] + 1) % tokens]
            left_U = np.bincount(last, minlength=distinct).astype(small)
            shorter = levels[-1]
            levels[-1] = KGrams(shorter.keys_U, shorter.counts_U, shorter.starts_C, left_U)
        # On a ring every (k - 1)-gram goes on, so none is left out here
        starts_C = np.searchsorted(keys_U, np.arange(distinct) * vocabulary).astype(small)
        levels.append(KGrams(keys_U, counts_U, starts_C, None))
        distinct = len(keys_U)
        rank_N[by_key_N] = np.repeat(np.arange(distinct, dtype=small), counts_U)
    return levels


def sorted_with_places(keys_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], IntArray]:
    """Keys in increasing order, and where each stood. Keys are not negative.

    Numbers are sorted several times faster than places by their numbers (measured: numpy 2.4). So
    where both fit 64 bits, the place is the key's last digits.
    """
    bits = len(keys_N).bit_length()
    if keys_N.max(initial=0) >= 1 << (63 - bits):
        places_N = np.argsort(keys_N)
        return keys_N[places_N], places_N
    both_N = keys_N << bits
    both_N |= np.arange(len(keys_N))
    both_N.sort()
    return both_N >> bits, both_N & ((1 << bits) - 1)


def _integers(largest: int) -> type[np.int32] | type[np.int64]:
    return np.int32 if largest < 2**31 else np.int64
