"""Symmetric similarities of two models' features, with what unrelated features would show.

- Linear CKA (Kornblith et al. 2019), debiased: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) with the
  unbiased HSIC of Song et al. (2012, JMLR 13, equation 4), whose kernels leave out the diagonal.
  The plain form |S_xy|_F^2 / (|S_xx|_F |S_yy|_F) is above zero for noise: 0.20 for independent
  white features of 128 dimensions over 500 rows, 0.34 for 768 over 1,500.
- CCA: mean squared canonical correlation over the smaller of the two ranks. Invariant to invertible
  maps. It is not debiased: `cca_floor` is its mean over all permutations of the rows, larger rank /
  (n - 1).
- Procrustes: |S_xy|_*^2 / (tr S_xx tr S_yy), the R2 of the best rotation, reflection and scaling of
  one onto the other; widths may differ (the narrower one is padded with zeros). Not debiased.

Notable:
- In feature space, with centred rows, p_i = |x_i|^2 and q_i = |y_i|^2, the unbiased HSIC is
  (n^2 |S_xy|_F^2 - p.q + (sum p)(sum q) / ((n - 1)(n - 2)) - 2 p.q / (n - 2)) / (n (n - 3)):
  no n x n matrix, and of the rows only their norms.
- Rows of one document are alike in every model, so unrelated models can seem similar over few
  documents. The null keeps each document's rows together, in their order, and shuffles the
  documents of one of the two (seeded). Of rows without documents it is the plain permutation.

All three are the same both ways. Shapes: N rows, X, Y widths of the two models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from lmlab.errors import UserError
from lmlab.numerics.regression import eigenvalue_cutoff
from lmlab.numerics.scatter import Scatter
from lmlab.topics.decomposition.decomposition import check_basis

Array = NDArray[np.float64]
_NULL_ROWS, _PERMUTATIONS, _SEED = 2048, 19, 0


@dataclass(frozen=True)
class Null:
    """A similarity with the documents of one model shuffled."""

    mean: float
    highest: float
    """Of the permutations: with 19, unrelated models are above it one time in 20."""
    permutations: int
    clusters: int
    """What was shuffled: documents, or sections of them."""
    rows: int
    """The first rows, by whole clusters: at most about 2,048."""


@dataclass(frozen=True)
class Similarity:
    """Three similarities of a pair; CCA with the number of directions it is a mean over."""

    cka: float | None
    """Debiased, so it can be below zero; None where a model has no variance beyond noise."""
    cka_null: Null | None
    """None with fewer than two clusters."""
    cca: float
    directions: int
    cca_floor: float
    """The mean CCA over all permutations of the rows; above 1 where rows are too few for CCA."""
    procrustes: float
    procrustes_null: Null | None


class SimilarityRows:
    """What similarities need of the rows behind a scatter, beside it; filled by `update`."""

    def __init__(self, scatter: Scatter) -> None:
        self.scatter = scatter
        self._means = {name: scatter.mean([name]) for name in scatter.names}
        self._norms: dict[str, list[Array]] = {name: [] for name in scatter.names}
        self._sample: dict[str, list[NDArray[np.float32]]] = {name: [] for name in scatter.names}
        self._clusters: list[NDArray[np.int64]] = []
        self._sampled = 0

    def update(self, rows: Mapping[str, ArrayLike], clusters_N: ArrayLike) -> None:
        """Adds aligned rows and the cluster of text of each, in the order of the text."""
        cluster_N = np.asarray(clusters_N)
        room = _NULL_ROWS - self._sampled
        for name, mean_D in self._means.items():
            centred_ND = np.asarray(rows[name], dtype=np.float64) - mean_D
            self._norms[name].append((centred_ND**2).sum(1))
            if room > 0:
                self._sample[name].append(centred_ND[:room].astype(np.float32))
        if room > 0:
            self._clusters.append(cluster_N[:room])
            self._sampled += len(self._clusters[-1])

    def norms(self, name: str) -> Array:
        """Squared norms (N,) of the centred rows. `UserError` unless all rows were seen."""
        norm_N = np.concatenate([np.empty(0), *self._norms[name]])
        if len(norm_N) != self.scatter.n:
            raise UserError(f"{len(norm_N)} rows of '{name}' of the scatter's {self.scatter.n}")
        return norm_N

    def sample(self, name: str) -> NDArray[np.float32]:
        """The first rows (N, D) of a model, centred again."""
        rows_ND = np.concatenate(self._sample[name])
        return rows_ND - rows_ND.mean(0)

    def shuffles(self) -> tuple[list[NDArray[np.int64]], int]:
        """Orders (N,) of the sample's rows, and the number of clusters they shuffle."""
        orders = document_shuffles(np.concatenate(self._clusters), _PERMUTATIONS, seed=_SEED)
        return orders, len(np.unique(np.concatenate(self._clusters)))


def document_shuffles(cluster_N: NDArray[Any], count: int, *, seed: int) -> list[NDArray[np.int64]]:
    """Orders (N,) of rows in which clusters of text change places and the rows of each keep their
    order; none for fewer than two clusters."""
    names, first = np.unique(cluster_N, return_index=True)
    parts = [np.flatnonzero(cluster_N == name) for name in names[np.argsort(first)]]
    if len(parts) < 2:
        return []
    rng = np.random.default_rng(seed)
    return [np.concatenate([parts[i] for i in rng.permutation(len(parts))]) for _ in range(count)]


def similarity(seen: SimilarityRows, a: str, b: str) -> Similarity:
    """Similarities of models `a` and `b` over the rows of `seen` and its scatter.

    Raises `UserError` for names that are not there, a model that does not vary, or fewer than four
    rows.
    """
    scatter = seen.scatter
    check_basis(scatter, a, [b])
    check_basis(scatter, b, [a])
    if scatter.n < 4:
        raise UserError(f"{scatter.n} rows; similarities need at least 4")
    xx, yy = scatter.covariance([a]), scatter.covariance([b])
    xy = scatter.covariance([a], [b])
    white_x, white_y = _whitening(xx), _whitening(yy)
    whitened = white_x.T @ xy @ white_y
    directions = min(whitened.shape)
    p_N, q_N = seen.norms(a), seen.norms(b)
    spread = float(np.trace(xx) * np.trace(yy))
    cka_null, procrustes_null = _nulls(seen, a, b)
    return Similarity(
        cka=_cka(_hsic(xy, p_N, q_N), _hsic(xx, p_N, p_N), _hsic(yy, q_N, q_N)),
        cka_null=cka_null,
        cca=float((whitened**2).sum() / directions),
        directions=directions,
        cca_floor=max(whitened.shape) / (scatter.n - 1),
        procrustes=_nuclear(xy) ** 2 / spread,
        procrustes_null=procrustes_null,
    )


def _nulls(seen: SimilarityRows, a: str, b: str) -> tuple[Null | None, Null | None]:
    """CKA and Procrustes of the sample's rows under each shuffle."""
    orders, clusters = seen.shuffles()
    x_NX, y_NY = seen.sample(a), seen.sample(b)
    n = len(x_NX)
    if not orders or n < 4:
        return None, None
    p_N, q_N = ((rows.astype(np.float64) ** 2).sum(1) for rows in (x_NX, y_NY))
    own_x, own_y = (
        _hsic((rows.T @ rows) / n, norm_N, norm_N) for rows, norm_N in ((x_NX, p_N), (y_NY, q_N))
    )
    spread = float(p_N.sum() * q_N.sum()) / n**2
    cka: list[float] = []
    procrustes: list[float] = []
    for order_N in orders:
        xy = (x_NX.T @ y_NY[order_N]) / n
        value = _cka(_hsic(xy, p_N, q_N[order_N]), own_x, own_y)
        if value is not None:
            cka.append(value)
        procrustes.append(_nuclear(xy) ** 2 / spread)
    return _null(cka, clusters, n), _null(procrustes, clusters, n)


def _null(values: list[float], clusters: int, rows: int) -> Null | None:
    if not values:
        return None
    return Null(float(np.mean(values)), max(values), len(values), clusters, rows)


def _hsic(covariance_XY: NDArray[Any], p_N: Array, q_N: Array) -> float:
    """n (n - 3) times the unbiased HSIC, over n^2, so that it is of the size of the covariance."""
    n = len(p_N)
    both = float(p_N @ q_N)
    whole = n**2 * float((covariance_XY.astype(np.float64) ** 2).sum())
    corrected = whole - both + float(p_N.sum() * q_N.sum()) / ((n - 1) * (n - 2))
    return (corrected - 2 * both / (n - 2)) / n**2


def _cka(xy: float, xx: float, yy: float) -> float | None:
    return xy / (xx * yy) ** 0.5 if xx > 0 and yy > 0 else None


def _nuclear(matrix_XY: NDArray[Any]) -> float:
    return float(np.linalg.norm(matrix_XY, "nuc"))


def _whitening(covariance_DD: Array) -> Array:
    """(D, K): the directions that vary over their standard deviations."""
    values_D, vectors_DD = eigh(covariance_DD)
    varies_D = values_D > eigenvalue_cutoff(values_D)
    return vectors_DD[:, varies_D] / np.sqrt(values_D[varies_D])
