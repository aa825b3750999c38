"""Linear regression judged on rows it has not seen, from moments of folds.

Notable:
- All that ordinary least squares and ridge need are sums over rows, kept for each fold apart: the
  fit without a fold is that of the other folds' sums. A rotation of the columns, a subset of them,
  and R2 on the held-out fold come from the same sums, without going over the rows again.
- R2 of a held-out fold is about the fold's own mean; the figure of a fit is the mean over folds.
  In-sample R2 of pure noise is D / N, the held-out one is below zero.
- Directions in which the columns hardly vary are left out (eigenvalues below 1e-12 of the largest);
  `rank` says how many remain.
- Ridge is added to the diagonal of the covariance of the columns (the scatter over n), absolute.

Legend: N rows, D columns, K folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError

FOLDS, SEED = 5, 0
_CUT_OFF = 1e-12
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over rows (x, y): their number, means, and centred scatters."""

    rows: int
    mean_D: Array
    mean_y: float
    scatter_DD: Array
    cross_D: Array
    scatter_y: float

    def rotated(self, rotation_DD: Array) -> Moments:
        """Those of the rows `x @ rotation_DD.T`."""
        q = rotation_DD
        return Moments(
            self.rows, q @ self.mean_D, self.mean_y, q @ self.scatter_DD @ q.T, q @ self.cross_D,
            self.scatter_y,
        )  # fmt: skip


def moments(x_ND: Array, y_N: Array) -> Moments:
    """Of rows that are there all at once."""
    mean_D, mean_y = x_ND.mean(0), float(y_N.mean())
    centred_ND, centred_N = x_ND - mean_D, y_N - mean_y
    return Moments(
        len(x_ND), mean_D, mean_y, centred_ND.T @ centred_ND, centred_N @ centred_ND,
        float(centred_N @ centred_N),
    )  # fmt: skip


def together(parts: list[Moments]) -> Moments:
    """The moments of all rows of the parts."""
    n = sum(p.rows for p in parts)
    mean_D = np.sum([p.rows * p.mean_D for p in parts], axis=0) / n
    mean_y = sum(p.rows * p.mean_y for p in parts) / n
    off = [(p.rows, p.mean_D - mean_D, p.mean_y - mean_y) for p in parts]
    return Moments(
        n,
        mean_D,
        mean_y,
        np.sum([p.scatter_DD for p in parts], axis=0) + sum(r * np.outer(d, d) for r, d, _ in off),
        np.sum([p.cross_D for p in parts], axis=0) + sum(r * d * e for r, d, e in off),
        sum(p.scatter_y for p in parts) + sum(r * e * e for r, _, e in off),
    )


def fold_numbers(rows: int) -> NDArray[np.int64]:
    """The fold (N,) of each row: a seeded random split into parts of equal size, give or take one.

    Raises `UserError` for fewer rows than folds.
    """
    if rows < FOLDS:
        raise UserError(f"{rows} tokens to fit, fewer than the {FOLDS} folds; use more text")
    numbers = np.empty(rows, dtype=np.int64)
    numbers[np.random.default_rng(SEED).permutation(rows)] = np.arange(rows) % FOLDS
    return numbers


@dataclass(frozen=True)
class LinearFit:
    """y ~ slope . x + intercept."""

    slope_D: Array
    intercept: float
    standard_error_D: Array | None
    """Robust to unequal variances (HC3); None with ridge, whose estimates are biased."""
    rank: int
    r2_train: float
    r2_folds: tuple[float, ...]
    fitted_N: Array
    held_out_N: Array
    """Prediction of each row by the fit that has not seen its fold."""

    @property
    def r2_heldout(self) -> float:
        return float(np.mean(self.r2_folds))


def fit_linear(x_ND: ArrayLike, y_N: ArrayLike, *, ridge: float = 0.0) -> LinearFit:
    """Ordinary least squares (ridge 0) or ridge regression with an intercept, and its folds.

    Raises `UserError` for shapes that disagree, values that are not finite, a y without variation,
    or fewer rows than folds.
    """
    x_ND, y_N = np.asarray(x_ND, dtype=np.float64), np.asarray(y_N, dtype=np.float64)
    if x_ND.ndim != 2 or y_N.shape != x_ND.shape[:1]:
        raise UserError(f"x {x_ND.shape} and y {y_N.shape}; give (N, D) and (N,)")
    if not (np.isfinite(x_ND).all() and np.isfinite(y_N).all()):
        raise UserError("x and y must be finite")
    if ridge < 0:
        raise UserError(f"ridge is {ridge}; it must be at least 0")
    fold_N = fold_numbers(len(x_ND))
    parts = [moments(x_ND[fold_N == k], y_N[fold_N == k]) for k in range(FOLDS)]
    whole = together(parts)
    if whole.scatter_y <= 1e-20 * max(1.0, whole.mean_y**2) * len(y_N):
        raise UserError("all values to be fitted are equal; there is nothing to explain")
    slope_D, intercept, rank = _solve(whole, ridge)
    held_out_N = np.empty(len(y_N))
    r2_folds: list[float] = []
    for k in range(FOLDS):
        slope, constant, _ = _solve(together(parts[:k] + parts[k + 1 :]), ridge)
        inside = fold_N == k
        held_out_N[inside] = x_ND[inside] @ slope + constant
        residual = float(((y_N[inside] - held_out_N[inside]) ** 2).sum())
        r2_folds.append(_r2(residual, parts[k].scatter_y))
    fitted_N = x_ND @ slope_D + intercept
    return LinearFit(
        slope_D=slope_D,
        intercept=intercept,
        standard_error_D=None if ridge else _hc3(x_ND - whole.mean_D, y_N - fitted_N, whole),
        rank=rank,
        r2_train=_r2(float(((y_N - fitted_N) ** 2).sum()), whole.scatter_y),
        r2_folds=tuple(r2_folds),
        fitted_N=fitted_N,
        held_out_N=held_out_N,
    )


def r2_of_prediction(y_N: ArrayLike, predicted_N: ArrayLike) -> float:
    """1 - sum (y - predicted)^2 / sum (y - mean y)^2; nothing is fitted."""
    y, predicted = np.asarray(y_N, dtype=np.float64), np.asarray(predicted_N, dtype=np.float64)
    return _r2(float(((y - predicted) ** 2).sum()), float(((y - y.mean()) ** 2).sum()))


def fold_r2(y_N: ArrayLike, predicted_N: ArrayLike) -> tuple[float, ...]:
    """R2 of a held-out prediction in each fold of `fit_linear`, about the fold's own mean."""
    y, predicted = np.asarray(y_N, dtype=np.float64), np.asarray(predicted_N, dtype=np.float64)
    fold_N = fold_numbers(len(y))
    return tuple(r2_of_prediction(y[fold_N == k], predicted[fold_N == k]) for k in range(FOLDS))


def held_out_constant(y_N: ArrayLike) -> Array:
    """The mean (N,) of the values outside each row's fold: the fit of a constant alone."""
    y = np.asarray(y_N, dtype=np.float64)
    fold_N = fold_numbers(len(y))
    outside_K = np.array([y[fold_N != k].mean() for k in range(FOLDS)])
    return outside_K[fold_N]


def sparsity_curve(
    x_ND: ArrayLike, y_N: ArrayLike, sizes: list[int], *, rotation_DD: Array | None = None
) -> Array:
    """Held-out R2 with the k most important columns alone, for each k of `sizes`.

    Importance is |slope| times standard deviation of the column in the fit of all columns; columns
    are ranked and the fit of the chosen ones is made without the fold that is scored.
    `rotation_DD` rotates the columns first: the whole fit is the same, its sparsity is not.
    """
    x_ND, y_N = np.asarray(x_ND, dtype=np.float64), np.asarray(y_N, dtype=np.float64)
    fold_N = fold_numbers(len(x_ND))
    parts = [moments(x_ND[fold_N == k], y_N[fold_N == k]) for k in range(FOLDS)]
    if rotation_DD is not None:
        parts = [part.rotated(rotation_DD) for part in parts]
    r2_KS = np.empty((FOLDS, len(sizes)))
    for k, test in enumerate(parts):
        train = together(parts[:k] + parts[k + 1 :])
        slope_D, _, _ = _solve(train, 0.0)
        order_D = np.argsort(-importance(slope_D, train), kind="stable")
        for i, size in enumerate(sizes):
            r2_KS[k, i] = _held_out(train, test, order_D[:size])
    return r2_KS.mean(0)


def importance(slope_D: Array, of: Moments) -> Array:
    """|slope| times standard deviation of each column: what it adds to the spread of the fit."""
    return np.abs(slope_D) * np.sqrt(np.diag(of.scatter_DD) / of.rows)


def random_rotation(dimensions: int, seed: int) -> Array:
    """A uniformly random orthogonal matrix (D, D)."""
    q_DD, r_DD = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimensions, dimensions)))
    return q_DD * np.sign(np.diag(r_DD))


def _held_out(train: Moments, test: Moments, chosen: NDArray[np.int64]) -> float:
    """R2 on `test` of the fit of the chosen columns on `train`."""
    part = Moments(
        train.rows, train.mean_D[chosen], train.mean_y, train.scatter_DD[np.ix_(chosen, chosen)],
        train.cross_D[chosen], train.scatter_y,
    )  # fmt: skip
    slope, constant, _ = _solve(part, 0.0)
    off = test.mean_y - constant - slope @ test.mean_D[chosen]
    scatter = test.scatter_DD[np.ix_(chosen, chosen)]
    residual = (
        test.scatter_y - 2 * slope @ test.cross_D[chosen] + slope @ scatter @ slope
    ) + test.rows * off**2
    return _r2(float(residual), test.scatter_y)


def _solve(of: Moments, ridge: float) -> tuple[Array, float, int]:
    """Slope, intercept and rank."""
    values, vectors = np.linalg.eigh(of.scatter_DD / of.rows)
    kept = values > _CUT_OFF * max(values[-1], 0.0)
    along = vectors[:, kept].T @ (of.cross_D / of.rows)
    slope_D = vectors[:, kept] @ (along / (values[kept] + ridge))
    return slope_D, of.mean_y - float(slope_D @ of.mean_D), int(kept.sum())


def _hc3(centred_ND: Array, residual_N: Array, whole: Moments) -> Array:
    """MacKinnon and White (1985): sandwich with residuals over one minus leverage."""
    values, vectors = np.linalg.eigh(whole.scatter_DD)
    kept = values > _CUT_OFF * max(values[-1], 0.0)
    inverse_DD = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    influence_ND = centred_ND @ inverse_DD
    leverage_N = np.einsum("nd,nd->n", influence_ND, centred_ND) + 1 / len(residual_N)
    scaled_N = residual_N / np.maximum(1 - leverage_N, 1e-9)
    return np.sqrt(np.einsum("nd,n->d", influence_ND**2, scaled_N**2))


def _r2(residual: float, total: float) -> float:
    if total <= 0:
        raise UserError("the values of a fold are all equal, so it has no R2; use more tokens")
    return 1 - residual / total
