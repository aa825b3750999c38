"""Products of two primes: easy to multiply forwards, hard to factor backwards.

A line is `p * q   =   product`: two distinct primes p < q below 10^5, five digits each, then the
product's ten digits, least significant first (the order in which one multiplies). Every pair is
equally likely, so the floor is the logarithm of their number, in both directions
(Papadopoulos et al. 2024, arXiv 2401.17505).

Legend: N lines, 30 characters each.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.data.synthetic.source import Spelt, check_ids, sampling

LINE = 30
_LIMIT = 100_000
_P, _Q = slice(0, 5), slice(8, 13)
_POWERS_5 = 10 ** np.arange(4, -1, -1)


class PrimeProducts(Spelt):
    """Lines of 30 characters: prime, ` * `, larger prime, `   =   `, product reversed."""

    alphabet = (*"0123456789", " ", "*", "=")

    @cached_property
    def primes(self) -> NDArray[np.int64]:
        """The 9592 primes below 10^5, ascending (sieve of Eratosthenes)."""
        is_prime = np.ones(_LIMIT, dtype=bool)
        is_prime[:2] = False
        for n in range(2, math.isqrt(_LIMIT) + 1):
            if is_prime[n]:
                is_prime[n * n :: n] = False
        return np.flatnonzero(is_prime).astype(np.int64)

    @property
    def pairs(self) -> int:
        """How many lines there are: pairs p < q."""
        return math.comb(len(self.primes), 2)

    def sample(self, n: int, seed: int) -> NDArray[np.int64]:
        """`n` lines as ids, int64 (n, 30), drawn independently and uniformly."""
        rng = sampling("prime products", n, seed)
        count = len(self.primes)
        # A uniform unordered pair: the second index skips the first.
        first_N = rng.integers(count, size=n)
        second_N = rng.integers(count - 1, size=n)
        second_N += second_N >= first_N
        p_N = self.primes[np.minimum(first_N, second_N)]
        q_N = self.primes[np.maximum(first_N, second_N)]
        return _lines(p_N, q_N)

    def floor(self) -> float:
        """Entropy in nats per character, the same in both directions: ln(pairs) / 30."""
        return math.log(self.pairs) / LINE

    def surprisal(self, ids_NT: ArrayLike) -> NDArray[np.float64]:
        """-ln P of whole lines, nats, (N,): the same for each correct line."""
        ids = check_ids(ids_NT, self.alphabet, LINE)
        p_N, q_N = (ids[:, span] @ _POWERS_5 for span in (_P, _Q))
        possible_N = (
            np.isin(p_N, self.primes)
            & np.isin(q_N, self.primes)
            & (p_N < q_N)
            & np.all(ids == _lines(p_N, q_N), axis=1)
        )
        return np.where(possible_N, math.log(self.pairs), np.inf)


def _lines(p_N: NDArray[np.int64], q_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lines of pairs of numbers below 10^5, as ids."""
    space, times, equals = 10, 11, 12
    ids = np.full((len(p_N), LINE), space, dtype=np.int64)
    ids[:, _P] = _digits(p_N, 5)
    ids[:, 6] = times
    ids[:, _Q] = _digits(q_N, 5)
    ids[:, 16] = equals
    ids[:, 20:30] = _digits(p_N * q_N, 10)[:, ::-1]
    return ids


def _digits(values_N: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Decimal digits, most significant first, padded with zeros: (N, width)."""
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    return values_N[:, None] // powers % 10
