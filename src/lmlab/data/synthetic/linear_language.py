"""Linear languages over F2: easy to learn one way, harder the other, equal floors.

A string is `bits` random bits x, seven separators, and y = A x over F2; then every displayed bit
flips with probability `flip`. A is sparse (identity plus a few ones) and its inverse usually is
not, so the backward direction computes a denser map. (Papadopoulos et al. 2024, arXiv 2401.17505.)

Notable:
- The floor is exact. With flips e_in and e_out the shown halves are x' = x + e_in, uniform, and
  y' = A x' + (A e_in + e_out), so the joint entropy is bits ln 2 + H(z), z = A e_in + e_out.
  z has the characteristic function E (-1)^(s.z) = (1 - 2 flip)^(|A^T s| + |s|); its Walsh-Hadamard
  transform over 2^bits points, divided by 2^bits, is the distribution of z.
- The transform works in place, in blocks: 25 bits take 256 MiB and a few seconds.

Legend: N strings, T = 2 bits + 7 characters, m bits.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.data.synthetic.source import (
    Spelt,
    check_ids,
    check_integer,
    entropy,
    keyed_generator,
    sampling,
)
from lmlab.errors import UserError

SEPARATORS = 7
_LARGEST_TRANSFORM = 27
_ATTEMPTS = 10_000
_BLOCK = 1 << 18


class LinearLanguage(Spelt):
    """Strings x, `|||||||`, A x with flipped bits; ids 0 and 1 are bits, 2 the separator.

    Args:
        bits: length of each half, 1 to 62 (the floor is available up to 27).
        extra: random ones added to the identity off its diagonal; A is drawn until invertible.
        flip: probability that a displayed bit is wrong, 0 <= flip < 0.5.
        seed: chooses A.

    Raises `UserError` for arguments out of range or where no invertible A was found.
    """

    def __init__(self, bits: int, extra: int, flip: float, seed: int = 0) -> None:
        check_integer("bits", bits, 1, 62)
        check_integer("extra", extra, 0, bits * (bits - 1))
        check_integer("seed", seed, 0)
        if not 0 <= flip < 0.5:
            raise UserError(f"flip is {flip}; it must be a probability from 0 to below 0.5")
        self.bits, self.extra, self.flip = bits, extra, float(flip)
        self.matrix, self.inverse = _invertible(bits, extra, seed)
        """A and its inverse over F2: (bits, bits), entries 0 and 1."""

    alphabet = ("0", "1", "|")

    @property
    def inverse_density(self) -> float:
        """Share of ones in the inverse of A: how hard the backward direction is."""
        return float(self.inverse.mean())

    def sample(self, n: int, seed: int) -> NDArray[np.int64]:
        """`n` independent strings as ids, int64 (n, 2 bits + 7), without BOS."""
        rng = sampling("linear language: sample", n, seed)
        x_Nm = rng.integers(2, size=(n, self.bits))
        y_Nm = x_Nm @ self.matrix.T % 2
        flips_N2m = rng.random((n, 2, self.bits)) < self.flip
        separator = np.full((n, SEPARATORS), 2)
        return np.concatenate([x_Nm ^ flips_N2m[:, 0], separator, y_Nm ^ flips_N2m[:, 1]], axis=1)

    def floor(self) -> float:
        """Entropy in nats per character without BOS, exact, the same in both directions."""
        return self._floor

    @cached_property
    def _floor(self) -> float:
        return linear_floor(self.matrix, self.flip)

    def surprisal(self, ids_NT: ArrayLike) -> NDArray[np.float64]:
        """-ln P of whole strings, (N,): `m ln 2 - ln P(z)` with z = y' + A x'.

        Infinite where a separator is not in its place. Keeps 8 * 2^m bytes.
        """
        ids = check_ids(ids_NT, self.alphabet, 2 * self.bits + SEPARATORS)
        x_Nm, y_Nm = ids[:, : self.bits], ids[:, -self.bits :]
        bits_N = np.all(x_Nm < 2, axis=1) & np.all(y_Nm < 2, axis=1)
        separated_N = np.all(ids[:, self.bits : -self.bits] == 2, axis=1)
        z_Nm = (y_Nm + x_Nm @ self.matrix.T) % 2
        with np.errstate(divide="ignore"):  # without flips some z never occur
            nats_N = self.bits * math.log(2) - np.log(
                self._noise[z_Nm @ (1 << np.arange(self.bits))]
            )
        return np.where(bits_N & separated_N, nats_N, np.inf)

    @cached_property
    def _noise(self) -> NDArray[np.float64]:
        return noise_distribution(self.matrix, self.flip)


def linear_floor(matrix: ArrayLike, flip: float) -> float:
    """Entropy floor of the language of `matrix` (m x m over F2) in nats per character.

    `[m ln 2 + H(A e_in + e_out)] / (2 m + 7)` (arXiv 2401.17505). Needs 8 * 2^m bytes.

    Raises `UserError` where 2^m would not fit or the matrix is not square over {0, 1}.
    """
    p = noise_distribution(matrix, flip)
    bits = len(p).bit_length() - 1
    blocks = np.array_split(p, max(1, len(p) // _BLOCK))
    noise = math.fsum(entropy(block) for block in blocks)
    return (bits * math.log(2) + noise) / (2 * bits + SEPARATORS)


def noise_distribution(matrix: ArrayLike, flip: float) -> NDArray[np.float64]:
    """P(z) of the noise z = A e_in + e_out, (2^m,); bit i of the index is z's entry i.

    By the transform that this file's docstring derives. Raises `UserError` as `linear_floor`.
    """
    a_mm = np.asarray(matrix)
    if a_mm.ndim != 2 or a_mm.shape[0] != a_mm.shape[1] or not np.isin(a_mm, (0, 1)).all():
        raise UserError(f"the matrix must be square with entries 0 and 1, got shape {a_mm.shape}")
    bits = len(a_mm)
    if bits > _LARGEST_TRANSFORM:
        raise UserError(
            f"the exact floor at {bits} bits needs 2^{bits} numbers; use {_LARGEST_TRANSFORM} or "
            "fewer"
        )
    p = _characteristic_function(a_mm.astype(np.int64), flip)
    walsh_hadamard(p)
    p /= len(p)
    # Rounding of the transform leaves what never occurs a little off zero, on either side
    np.maximum(p, 0.0, out=p)
    return p


def _characteristic_function(a_mm: NDArray[np.int64], flip: float) -> NDArray[np.float64]:
    """(1 - 2 flip)^(|A^T s| + |s|) for every s in 0 .. 2^m - 1."""
    bits = len(a_mm)
    rows_m = a_mm @ (1 << np.arange(bits))  # row i as a bit mask: A^T s is the XOR over s
    low = bits // 2
    low_masks, high_masks = _xor_table(rows_m[:low]), _xor_table(rows_m[low:])
    low_weight = np.bitwise_count(np.arange(len(low_masks)))
    power = (1 - 2 * flip) ** np.arange(2 * bits + 1)
    values = np.empty((len(high_masks), len(low_masks)))
    for high, mask in enumerate(high_masks):
        weight = np.bitwise_count(low_masks ^ mask) + low_weight + high.bit_count()
        values[high] = power[weight]
    return values.reshape(-1)


def _xor_table(masks: NDArray[np.int64]) -> NDArray[np.int64]:
    """XOR of every subset of `masks`; subset s takes mask i if bit i of s is set."""
    table = np.zeros(1, dtype=np.int64)
    for mask in masks:
        table = np.concatenate([table, table ^ mask])
    return table


def walsh_hadamard(values: NDArray[np.float64]) -> None:
    """Replaces `values` (2^m, contiguous) by its Walsh-Hadamard transform, unnormalised.

    The transform is a Kronecker product of 2 x 2 butterflies; six of them at a time are a product
    with a 64 x 64 matrix of signs, which costs more additions but runs at the speed of BLAS.
    """
    size = len(values)
    inner = 1
    while inner < size:
        group = min(64, size // inner)
        index = np.arange(group)
        signs = 1.0 - 2.0 * (np.bitwise_count(index[:, None] & index) % 2)
        if inner == 1:
            rows = values.reshape(-1, group)
            step = max(1, _BLOCK // group)
            for at in range(0, len(rows), step):
                rows[at : at + step] = rows[at : at + step] @ signs
        else:
            columns = max(1, _BLOCK // group)
            for block in values.reshape(-1, group, inner):
                for at in range(0, inner, columns):
                    block[:, at : at + columns] = signs @ block[:, at : at + columns]
        inner *= group


def _invertible(bits: int, extra: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Identity plus `extra` distinct ones off the diagonal, drawn until invertible, and inverse."""
    rng = keyed_generator("linear language: matrix", bits, extra, seed)
    off_diagonal = np.flatnonzero(~np.eye(bits, dtype=bool).reshape(-1))
    for _ in range(_ATTEMPTS):
        matrix = np.eye(bits, dtype=np.int64)
        matrix.reshape(-1)[rng.choice(off_diagonal, size=extra, replace=False)] = 1
        inverse = _inverse_over_f2(matrix)
        if inverse is not None:
            return matrix, inverse
    raise UserError(
        f"no invertible matrix with {extra} extra ones at {bits} bits in {_ATTEMPTS} draws; "
        "choose fewer"
    )


def _inverse_over_f2(matrix: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Inverse over F2 by Gauss-Jordan elimination, None if singular."""
    bits = len(matrix)
    work = np.concatenate([matrix, np.eye(bits, dtype=np.int64)], axis=1)
    for column in range(bits):
        pivots = np.flatnonzero(work[column:, column])
        if len(pivots) == 0:
            return None
        pivot = column + int(pivots[0])
        work[[column, pivot]] = work[[pivot, column]]
        others = work[:, column].astype(bool)
        others[column] = False
        work[others] ^= work[column]
    return work[:, bits:]
