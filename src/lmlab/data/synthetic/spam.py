"""One symbol, repeated: trivial to describe, and a test of the output layer (SpamLang).

Each string is one of V symbols, T times. Once the first is read everything is certain, so the best
model pays ln V for it and nothing more. Godey and Artzi (arXiv 2603.10145, 2026) report that models
fail to learn the rule once V is large, since the gradient must pass an output layer of much lower
rank than V.

Legend: N strings, T characters, V symbols.
"""

from __future__ import annotations

import math
import sys
import unicodedata
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.data.synthetic.source import Spelt, check_ids, check_integer, sampling

_MOST_SYMBOLS = 100_000


class Spam(Spelt):
    """Strings of one symbol each, all of `symbols` equally likely.

    Args:
        symbols: V, 2 to 100,000. They are letters of Unicode, in its order.
        length: T, how often a string repeats its symbol.

    Raises `UserError` for arguments out of range.
    """

    def __init__(self, symbols: int, length: int) -> None:
        check_integer("symbols", symbols, 2, _MOST_SYMBOLS)
        check_integer("length", length, 1)
        self.symbols, self.length = symbols, length
        self.alphabet = _letters()[:symbols]

    def sample(self, n: int, seed: int) -> NDArray[np.int64]:
        """`n` strings as ids, int64 (n, T)."""
        symbols_N = sampling("spam: sample", n, seed).integers(self.symbols, size=n)
        return np.repeat(symbols_N[:, None], self.length, axis=1)

    def floor(self) -> float:
        """Entropy in nats per character, the same in both directions: ln V / T."""
        return math.log(self.symbols) / self.length

    def surprisal(self, ids_NT: ArrayLike) -> NDArray[np.float64]:
        """-ln P of whole strings, nats, (N,): ln V, infinite where two symbols differ."""
        ids = check_ids(ids_NT, self.alphabet, self.length)
        return np.where((ids == ids[:, :1]).all(axis=1), math.log(self.symbols), np.inf)


@cache
def _letters() -> list[str]:
    """Single letters that Unicode's normal form leaves as they are."""
    letters = (c for c in map(chr, range(ord("A"), sys.maxunicode + 1)) if c.isalpha())
    kept = (c for c in letters if unicodedata.normalize("NFC", c) == c)
    return [c for c, _ in zip(kept, range(_MOST_SYMBOLS), strict=False)]
