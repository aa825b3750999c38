"""Helpers that synthetic sources share.

Notable:
- Random numbers come from a local generator keyed by (purpose, seed): two sources or two seeds
  never share a stream, and nothing touches the global generator.
- A source without BOS: who trains on it prepends the tokenizer's own.

Legend: N strings, T characters.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError


def keyed_generator(purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for `purpose` (a name) and `key` (integers, not negative)."""
    return np.random.default_rng([zlib.crc32(purpose.encode()), *key])


def check_ids(ids_NT: ArrayLike, alphabet: Sequence[str], length: int | None) -> NDArray[np.int64]:
    """`ids_NT` as int64; `UserError` for another shape or an id that is not in the alphabet."""
    ids = np.asarray(ids_NT)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.shape[1] != (length or ids.shape[1]):
        raise UserError(
            f"ids must be integers of shape (N, {length or 'T'}), got {ids.dtype} {ids.shape}"
        )
    if ids.size and (ids.min() < 0 or ids.max() >= len(alphabet)):
        raise UserError(
            f"id {int(ids.min() if ids.min() < 0 else ids.max())} is not in the alphabet of "
            f"{len(alphabet)} characters"
        )
    return ids.astype(np.int64)


class Spelt:
    """A source whose ids are indices into its alphabet."""

    alphabet: Sequence[str]

    def text(self, ids_NT: ArrayLike) -> list[str]:
        """Rows of ids as strings; `UserError` for an id that is not in the alphabet."""
        letters = np.array(self.alphabet)
        return ["".join(row) for row in letters[check_ids(ids_NT, self.alphabet, None)]]


def sampling(purpose: str, n: int, seed: int) -> np.random.Generator:
    """The generator of `n` strings for a seed; `UserError` for numbers that mean nothing."""
    check_integer("n", n, 0)
    check_integer("seed", seed, 0)
    return keyed_generator(purpose, seed)


def check_integer(name: str, value: int, low: int, high: int | None = None) -> None:
    """Raises `UserError` unless `value` is an integer from `low` to `high`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        wanted = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise UserError(f"{name} is {value!r}; it must be an integer {wanted}")


def entropy(p: NDArray[np.float64]) -> float:
    """Entropy in nats of a distribution; zeros and rounding below zero count nothing."""
    positive = p[p > 0]
    return float(-(positive @ np.log(positive)))
