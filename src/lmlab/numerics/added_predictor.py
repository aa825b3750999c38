"""What predictors explain of values that come in clusters, in sample and held out by cluster.

Notable:
- Ordinary least squares needs sums of products only. They are kept for each cluster apart, so that
  the fits to all other clusters, and those to all but two, cost a small solve each.
- In sample, one more predictor takes away 1 / (N - P) of the squared error on the average even if
  it is noise (`share_of_noise`); held out, less than nothing.

Shapes: N rows, C clusters, P predictors, M values to be predicted, Z = 1 + P + M.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
_CUT_OFF = 1e-10


class ClusterSums:
    """Sums of products of rows (1, predictors, values) within each cluster.

    Columns are centred and scaled first, which changes no share of error; predictors that do not
    vary, or are a sum of others, are as good as left out.
    """

    def __init__(self, predictors_NP: ArrayLike, values_NM: ArrayLike, cluster_N: ArrayLike):
        x_NP, y_NM = (np.asarray(v, dtype=np.float64) for v in (predictors_NP, values_NM))
        labels_C, number_N = np.unique(np.asarray(cluster_N), return_inverse=True)
        columns_NZ = np.column_stack([_scaled(x_NP), _scaled(y_NM)])
        columns_NZ = np.column_stack([np.ones(len(columns_NZ)), columns_NZ])
        self.predictors = x_NP.shape[1]
        self.sizes_C = np.bincount(number_N)
        self.products_CZZ = np.zeros((len(labels_C), columns_NZ.shape[1], columns_NZ.shape[1]))
        np.add.at(self.products_CZZ, number_N, columns_NZ[:, :, None] * columns_NZ[:, None, :])

    def in_sample(self, predictors: int, without: int | None = None) -> Array:
        """Squared error (M) of the fit with the first so many predictors to all clusters, or to all
        but one of them, on the rows it was fitted to."""
        total_ZZ = self.products_CZZ.sum(0)
        if without is not None:
            total_ZZ = total_ZZ - self.products_CZZ[without]
        return self._errors(self._weights(total_ZZ[None], predictors), total_ZZ[None])[0]

    def held_out(self, predictors: int, without: int | None = None) -> Array:
        """Squared error (C, M) of each cluster by the fit to all others, or (C - 1, M) as if one of
        them were not there."""
        products_CZZ = self.products_CZZ
        if without is not None:
            products_CZZ = np.delete(products_CZZ, without, axis=0)
        weights_CPM = self._weights(products_CZZ.sum(0) - products_CZZ, predictors)
        return self._errors(weights_CPM, products_CZZ)

    def _weights(self, of_CZZ: Array, predictors: int) -> Array:
        p, first_value = 1 + predictors, 1 + self.predictors
        inverse_CPP = np.linalg.pinv(of_CZZ[:, :p, :p], rcond=_CUT_OFF, hermitian=True)
        return inverse_CPP @ of_CZZ[:, :p, first_value:]

    def _errors(self, weights_CPM: Array, on_CZZ: Array) -> Array:
        p, first_value = weights_CPM.shape[1], 1 + self.predictors
        cross_CPM = on_CZZ[:, :p, first_value:]
        own_CM = np.diagonal(on_CZZ[:, first_value:, first_value:], axis1=1, axis2=2)
        fitted_CPM = on_CZZ[:, :p, :p] @ weights_CPM
        return own_CM + (weights_CPM * (fitted_CPM - 2 * cross_CPM)).sum(1)


def with_products(columns_N: Sequence[Array]) -> Array:
    """The columns and the products of every two of them, (N, P)."""
    scaled = [_scaled(column_N[:, None])[:, 0] for column_N in columns_N]
    pairs = [a * b for i, a in enumerate(scaled) for b in scaled[i + 1 :]]
    return np.column_stack([*scaled, *pairs])


def share_of_noise(rows: int, predictors: int) -> float:
    """What a predictor of pure noise takes away of the squared error that `predictors` and a
    constant leave, on the average: the square of a coordinate of a random direction among
    `rows - 1 - predictors`."""
    return 1 / (rows - 1 - predictors)


def _scaled(columns_NK: Array) -> Array:
    spread_K = columns_NK.std(0)
    return (columns_NK - columns_NK.mean(0)) / np.where(spread_K > 0, spread_K, 1.0)
