"""Similarities of all pairs of several models, calibrated by permutation.

A similarity s becomes (s - m) / (1 - m), m its mean over shuffles of the documents: 0 is what
models without any relation have on this text, 1 is identity.

- Debiased linear CKA, as in `decomposition.similarity`. The unbiased HSIC is n (n - 3) times the
  inner product of the U-centred kernels (Szekely and Rizzo 2014, Ann. Statist. 42), so that CKA is
  the inner product of kernels of norm 1.
- Mutual nearest neighbours (Huh et al. 2024): of the k nearest other rows of a row, by cosine about
  the mean, the share that are the same in both models. It is the inner product of the two relations
  over n k.
- LMD R2: of a ridge regression of one model's rows on another's, fitted on other text; the mean of
  both ways. In the null all is done anew, the choice of the ridge too.

Notable: the shuffles move whole documents, each with its rows in their order, since rows of one
document are alike in every model. Of the first two measures a kernel of rows by rows is held for
each model, so rows are few.

Shapes: M models, N rows, D width, P permutations, R halves, C units of text.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlab.errors import UserError
from lmlab.numerics.scatter import Scatter
from lmlab.progress import Bar
from lmlab.topics.decomposition.intervals import DocumentSums
from lmlab.topics.decomposition.of_models import Embedded, pair_sums, solvable_ridges
from lmlab.topics.decomposition.shares import Pairwise, Ridges, pairwise
from lmlab.topics.decomposition.similarity import document_shuffles

Array = NDArray[np.float64]
Kernels = NDArray[np.float32]
Rows = dict[str, NDArray[np.float32]]
MOST_ROWS = 4096


@dataclass(frozen=True)
class Calibrated:
    """A similarity of all pairs, and the same under each permutation; symmetric."""

    value_MM: Array
    null_PMM: Array

    @property
    def null_mean_MM(self) -> Array:
        return self.null_PMM.mean(0)

    @property
    def calibrated_MM(self) -> Array:
        """1 on the diagonal."""
        return calibrated(self.value_MM, self.null_mean_MM)

    @property
    def p_MM(self) -> Array:
        """Share of permutations, the observed order among them, that are as similar."""
        as_high_MM = (self.null_PMM >= self.value_MM).sum(0)
        return (1 + as_high_MM) / (1 + len(self.null_PMM))


def calibrated(value_MM: Array, null_mean_MM: Array) -> Array:
    """(value - mean of the null) / (1 - mean of the null), 1 on the diagonal."""
    room_MM = 1 - null_mean_MM
    np.fill_diagonal(room_MM, 1.0)
    scaled_MM = (value_MM - null_mean_MM) / room_MM
    np.fill_diagonal(scaled_MM, 1.0)
    return scaled_MM


def grams(rows: Mapping[str, NDArray[np.floating[Any]]]) -> Kernels:
    """Inner products of the rows (N, D) of each model about their mean (M, N, N), by mean 1 on the
    diagonal.

    Raises `UserError` for too many rows, or a model that does not vary.
    """
    n = len(next(iter(rows.values())))
    if n > MOST_ROWS:
        raise UserError(
            f"{n:,} rows: neighbours and CKA hold a value for every two of them, so at most "
            f"{MOST_ROWS:,} can be; lower `held_out_pieces`, or take pieces in place of words"
        )
    made = np.empty((len(rows), n, n), np.float32)
    for gram_NN, (name, rows_ND) in zip(made, rows.items(), strict=True):
        row_ND = np.asarray(rows_ND, np.float64)
        centred_ND = row_ND - row_ND.mean(0)
        square = float((centred_ND**2).sum())
        if square <= 1e-12 * float((row_ND**2).sum()):
            raise UserError(f"'{name}' is the same for every row of the test text")
        scaled_ND = (centred_ND / (square / n) ** 0.5).astype(np.float32)
        np.matmul(scaled_ND, scaled_ND.T, out=gram_NN)
    return made


def centred_kernel(gram_NN: NDArray[np.float32]) -> Array:
    """A U-centred kernel of norm 1, whose inner products are debiased CKA.

    Raises `UserError` for rows whose unbiased HSIC with themselves is not above zero.
    """
    n = len(gram_NN)
    kernel_NN = gram_NN.astype(np.float64)
    np.fill_diagonal(kernel_NN, 0.0)
    sum_N = kernel_NN.sum(1)
    kernel_NN -= (sum_N[:, None] + sum_N[None]) / (n - 2)
    kernel_NN += sum_N.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(kernel_NN, 0.0)
    norm = float(np.linalg.norm(kernel_NN))
    if norm == 0:
        raise UserError("the rows of a model are all alike; CKA needs text that it tells apart")
    return kernel_NN / norm


def neighbour_kernel(gram_NN: NDArray[np.float32], k: int) -> Array:
    """Which rows are among the `k` nearest of each, over sqrt(N k)."""
    n = len(gram_NN)
    norm_N = np.sqrt(np.diagonal(gram_NN))
    cosine_NN = gram_NN / np.where(norm_N == 0, 1.0, norm_N)  # of a row the order is the same
    np.fill_diagonal(cosine_NN, -np.inf)
    nearest_NK = np.argpartition(-cosine_NN, k - 1, axis=1)[:, :k]
    kernel_NN = np.zeros((n, n))
    np.put_along_axis(kernel_NN, nearest_NK, (n * k) ** -0.5, axis=1)
    return kernel_NN


def compared(
    kernels: Sequence[Array], unit_N: NDArray[np.int64], *, permutations: int, seed: int = 0
) -> Calibrated:
    """Inner products of the models' kernels, and of kernels whose documents were shuffled, those of
    each model by themselves. Needs at least two units of text."""
    models, n = len(kernels), len(unit_N)
    flat_MK = np.stack([kernel.astype(np.float32).ravel() for kernel in kernels])
    orders = document_shuffles(unit_N, permutations * models, seed=seed)
    null_PMM = np.empty((permutations, models, models))
    shuffled_MK = np.empty_like(flat_MK)
    for p in range(permutations):
        for m in range(models):
            order_N = orders[p * models + m]
            shuffled_MK[m] = flat_MK[m].reshape(n, n)[order_N][:, order_N].ravel()
        null_PMM[p] = shuffled_MK @ shuffled_MK.T
    return Calibrated((flat_MK @ flat_MK.T).astype(np.float64), null_PMM)


class LinearMaps:
    """Ridge regressions of every model on every other, by documents of the test text."""

    def __init__(self, embedded: Mapping[str, Embedded], *, permutations: int, bar: Bar) -> None:
        """Fits all pairs, and all again `permutations` times; `bar` counts these."""
        rows = {split: gathered(of_split) for split, of_split in embedded.items()}
        pairs, train = _fitted({split: of_split for split, (of_split, _) in rows.items()})
        bar.advance(1)
        sums = pair_sums(embedded, train, pairs)
        self.names = train.names
        self._sums = [[sums.get((t, b)) for b in self.names] for t in self.names]
        nulls: list[Array] = []
        models = len(self.names)
        orders = {
            split: document_shuffles(unit_N, permutations * models, seed=zlib.crc32(split.encode()))
            for split, (_, unit_N) in rows.items()
        }
        for p in range(permutations):
            shuffled = {
                split: {
                    name: of_split[name][orders[split][p * models + m]]
                    for m, name in enumerate(self.names)
                }
                for split, (of_split, _) in rows.items()
            }
            nulls.append(_both_ways(_fitted(shuffled)[0].r2))
            bar.advance(1)
        self.similarity = Calibrated(_both_ways(pairs.r2), np.stack(nulls))

    def r2_of(self, kept_RC: NDArray[np.bool_]) -> Array:
        """The mean of both ways (R, M, M), of each choice of the test documents; the fits stay."""
        models = len(self.names)
        r2_RMM = np.ones((len(kept_RC), models, models))
        for t, row in enumerate(self._sums):
            for b, of_pair in enumerate(row):
                if of_pair is not None:
                    r2_RMM[:, t, b] = of_pair.r2_of(kept_RC)
        return (r2_RMM + r2_RMM.transpose(0, 2, 1)) / 2

    @property
    def documents(self) -> list[int]:
        """The units of `r2_of`, in their order."""
        return _first(self._sums).documents


def gathered(embedded: Embedded) -> tuple[Rows, NDArray[np.int64]]:
    """All rows of each model, and the unit of text of each row, in numbers."""
    parts = list(embedded.units())
    rows = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    return rows, np.concatenate([unit_N for _, unit_N in parts])


def _fitted(rows: Mapping[str, Rows]) -> tuple[Pairwise, Scatter]:
    """All pairs, each at the ridge that is best on validation; and the training scatter."""
    scatters: dict[str, Scatter] = {}
    for split, of_split in rows.items():
        scatters[split] = Scatter()
        scatters[split].update(of_split)
    train = scatters["train"]
    ridges = Ridges(tuple(solvable_ridges(train)), scatters["validation"])
    return pairwise(train, ridge=ridges, test=scatters["test"]), train


def _both_ways(r2: Sequence[Sequence[float | None]]) -> Array:
    r2_MM = np.array([[1.0 if value is None else value for value in row] for row in r2])
    return (r2_MM + r2_MM.T) / 2


def _first(sums: Sequence[Sequence[DocumentSums | None]]) -> DocumentSums:
    return next(of_pair for row in sums for of_pair in row if of_pair is not None)
