"""N-gram models: counting with several smoothings, in either direction.

An n-gram model is fitted exactly, so its arrow of time owes nothing to optimisation, architecture
or seeds: only to the text and to the smoothing. And the smoothing matters: of the same counts, one
finds forward easier and another finds nothing.

All of them are interpolated. With c the tokens before x and c' those without the first,

    p(x | c) = seen(c x) + left(c) p(x | c'),     p(x) = seen(x) + left / V

where `left(c)` is what `seen` leaves of 1. Where c was never seen, p(x | c) = p(x | c').

- "modified Kneser-Ney" (Chen and Goodman, "An empirical study of smoothing techniques for language
  modeling", 1998, section 3): seen = (n - D(n)) / sum of n over x, with three discounts for n of
  1, 2, and 3 or more. In the longest k-grams n is the count; in shorter ones it is the number of
  different tokens to the left of the k-gram.
- "Kneser-Ney": the same with one discount, whatever n.
- "absolute discounting": one discount, and n is the count everywhere (Ney, Essen and Kneser 1994).
- "MacKay-Peto": seen = count(c x) / (count(c) + s), with s the strength in pseudo-counts ("A
  hierarchical Dirichlet language model", 1995; here with one s for every k).
- "additive": the same, but what is left goes to 1 / V at once and not to p(x | c').

Notable:
- A backward model is the forward model of the reversed text, to the bit. So its arrow is that of
  one smoothing, not of counts: the two directions of "additive" have equal sums on any ring (see
  `WindowContexts.nats`), and those of the others need not.
- A window starts cold. Where fewer than n - 1 tokens are known, the longest k-gram that fits has
  its counts discounted, as in a model of that order, and not the numbers of tokens to its left.
- A unigram's discount is 0.5 for every smoothing. Almost every type of a vocabulary is in its
  text, so types seen once or twice, on which the estimates rest, are few or none.

Legend: T tokens scored, M windows, K = order + 1 (ranks) or order (models), U distinct k-grams.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError
from lmlab.topics.counting.counts import IntArray, KGrams, NGramCounts

Direction = Literal["forward", "backward"]
Smoothing = Literal[
    "modified Kneser-Ney", "Kneser-Ney", "absolute discounting", "MacKay-Peto", "additive"
]
Discounts = tuple[float, float, float]
"""What is taken from an n of 1, of 2, and of 3 or more."""

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
SMOOTHINGS: tuple[Smoothing, ...] = get_args(Smoothing)
WITH_STRENGTH: frozenset[Smoothing] = frozenset({"MacKay-Peto", "additive"})
"""Smoothings that have a strength to choose; the others estimate their discounts."""

_DISCOUNT = 0.5
_UNIGRAM: Discounts = (_DISCOUNT, _DISCOUNT, _DISCOUNT)


def estimated_discounts(numbers_U: ArrayLike, *, modified: bool) -> Discounts:
    """Discounts from n_r, how many k-grams have the number r.

    One discount is Y = n1 / (n1 + 2 n2) (Ney, Essen and Kneser 1994). Modified, they are
    1 - 2Y n2/n1, 2 - 3Y n3/n2 and 3 - 4Y n4/n3 (Chen and Goodman 1998, equation 26).

    Fallbacks: three discounts become the one where one of n1 to n4 is zero or a discount is not
    above 0 or takes more than there is; the one becomes 0.5 where n1 or n2 is zero. So a context
    always leaves something, whatever the alphabet.
    """
    n1, n2, n3, n4 = (
        int(n) for n in np.bincount(np.minimum(np.asarray(numbers_U), 5), minlength=6)[1:5]
    )
    if not (n1 and n2):
        return _DISCOUNT, _DISCOUNT, _DISCOUNT
    y = n1 / (n1 + 2 * n2)
    if modified and n3 and n4:
        three = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < discount <= number for number, discount in enumerate(three, start=1)):
            return three
    return y, y, y


class WindowContexts:
    """Windows looked up in counts once, to be scored with several smoothings and strengths.

    A window starts cold: its first token (backward: its last) is predicted from no context, the
    next from one token, and so on up to k - 1 for a model of order k. No window sees another.

    Args:
        counts: of the text in `direction` (see `in_direction`).
        ids_T: the windows, one after the other, as written.
        length_M: tokens of each; None if `ids_T` is a ring.
        direction: the direction of `counts`.

    Raises `UserError` for ids outside the vocabulary and lengths that do not fit.
    """

    def __init__(
        self,
        counts: NGramCounts,
        ids_T: ArrayLike,
        length_M: ArrayLike | None,
        direction: Direction,
    ) -> None:
        ids_T = np.asarray(ids_T)
        self._counts, self._direction = counts, direction
        self._ranks_KT = counts.look_up(in_direction(ids_T, direction))
        tokens = self._ranks_KT.shape[1]
        if length_M is None:
            self._room_T = np.full(tokens, counts.order - 1)
        else:
            self._room_T = _room(in_direction(np.asarray(length_M), direction), tokens)

    def nats(self, smoothing: Smoothing, strength: float | None = None) -> NDArray[np.float64]:
        """Nats (order, T) of each token, in the positions of the text as given; row k - 1 is of the
        model of order k. `strength` is for "MacKay-Peto" and "additive".

        The two directions of "additive" have equal sums, on any ring. Forward, a token costs
        log(count(c) + s) - log(count(c x) + s / V), where c x is the n-gram that ends at it;
        backward, x c is the n-gram that begins at it. Round a ring, the n-grams that end at its
        tokens and those that begin at them are one multiset, and so are their contexts, the ring's
        (n - 1)-grams. Both sums therefore add the same terms in another order. Where the rest goes
        to shorter contexts, it depends on which end is predicted, and the sums may differ.
        """
        if strength is None:
            p_KT = self._discounted(smoothing)
        else:
            p_KT = self._with_pseudo_counts(strength, to_shorter=smoothing == "MacKay-Peto")
        for k in range(1, len(p_KT)):
            np.copyto(p_KT[k], p_KT[k - 1], where=self._room_T < k)
        nats_KT = -np.log(p_KT)
        return nats_KT[:, ::-1] if self._direction == "backward" else nats_KT

    def _discounted(self, smoothing: Smoothing) -> NDArray[np.float64]:
        counts = self._counts
        p_KT = np.empty((counts.order, len(self._room_T)))
        shorter_T = np.full(len(self._room_T), 1 / counts.vocabulary)
        for k in range(1, counts.order + 1):
            kgrams = counts.level(k)
            discounts = _UNIGRAM
            modified = smoothing == "modified Kneser-Ney"
            if k > 1:
                discounts = estimated_discounts(kgrams.counts_U, modified=modified)
            seen_T, left_T = self._shares(k, kgrams, kgrams.counts_U, discounts)
            p_KT[k - 1] = seen_T + left_T * shorter_T
            if smoothing == "absolute discounting":
                shorter_T = p_KT[k - 1]
            elif kgrams.left_U is not None:
                if k > 1:
                    discounts = estimated_discounts(kgrams.left_U, modified=modified)
                seen_T, left_T = self._shares(k, kgrams, kgrams.left_U, discounts)
                shorter_T = seen_T + left_T * shorter_T
        return p_KT

    def _shares(
        self, k: int, kgrams: KGrams, numbers_U: IntArray, discounts: Discounts
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What each token's k-gram takes itself, and what its context leaves to shorter ones."""
        taken_U = np.array([0.0, *discounts])[np.minimum(numbers_U, 3)]
        total_C = np.add.reduceat(numbers_U, kgrams.starts_C, dtype=np.int64)
        left_C = np.add.reduceat(taken_U, kgrams.starts_C) / total_C
        kgram_T, context_T = self._at(k, k), self._at(k - 1, k)
        seen_T, left_T = np.zeros(len(kgram_T)), np.ones(len(kgram_T))
        known = np.flatnonzero(context_T >= 0)
        left_T[known] = left_C[context_T[known]]
        known = np.flatnonzero(kgram_T >= 0)
        kept = numbers_U[kgram_T[known]] - taken_U[kgram_T[known]]
        seen_T[known] = kept / total_C[context_T[known]]
        return seen_T, left_T

    def _with_pseudo_counts(self, strength: float, *, to_shorter: bool) -> NDArray[np.float64]:
        p_KT = np.empty((self._counts.order, len(self._room_T)))
        mean_T = uniform_T = np.full(len(self._room_T), 1 / self._counts.vocabulary)
        for k, (whole_T, given_T) in enumerate(self._occurrences, start=1):
            p_KT[k - 1] = (whole_T + strength * mean_T) / (given_T + strength)
            mean_T = p_KT[k - 1] if to_shorter else uniform_T
        return p_KT

    @cached_property
    def _occurrences(self) -> list[tuple[IntArray, IntArray]]:
        """For each k, how often the ring has each token's k-gram, and the context of that."""
        counts_KT = np.full(self._ranks_KT.shape, self._counts.tokens)
        for k in range(1, len(counts_KT)):
            ranks_T = self._ranks_KT[k]
            counts_KT[k] = np.where(ranks_T >= 0, self._counts.level(k).counts_U[ranks_T], 0)
        return [
            (np.roll(counts_KT[k], k - 1), np.roll(counts_KT[k - 1], k - 1))
            for k in range(1, len(counts_KT))
        ]

    def _at(self, length: int, k: int) -> IntArray:
        """Rank of the first `length` tokens of the k-gram that ends at each token."""
        # Ranks are by first token, which is k - 1 before the last
        return np.roll(self._ranks_KT[length], k - 1)


def in_direction(array: NDArray[Any], direction: Direction) -> NDArray[Any]:
    """A stream (or windows, or their lengths) in the order in which `direction` reads it."""
    return array[::-1] if direction == "backward" else array


def _room(length_M: NDArray[Any], tokens: int) -> NDArray[np.int64]:
    """How many tokens of its own window each token has before it."""
    if length_M.ndim != 1 or length_M.dtype.kind not in "iu" or (length_M < 1).any():
        raise UserError("length_M must hold integers in one dimension, each at least 1")
    if length_M.sum() != tokens:
        raise UserError(
            f"the lengths of {len(length_M)} windows add up to {length_M.sum()}, but there are "
            f"{tokens} token ids; pass the windows one after the other"
        )
    return np.arange(tokens) - np.repeat(np.cumsum(length_M) - length_M, length_M)
