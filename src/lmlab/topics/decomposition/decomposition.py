"""Decomposition: how much of one model is a linear combination of others (Zhang, EMNLP 2022).

A model is a vector-valued function of text. The target u is approximated by the basis models z:
u = sum_i W_i z_i + b, W = cov(u, z) (cov(z, z) + ridge I)^-1. R2 = 1 - mean |u - W z - b|^2 /
mean |u - mean(u)|^2: one ratio pooled over dimensions, the mean taken on the scored split.

Notable:
- Fits and scores need scatters only (`numerics.scatter`), no rows.
- All leave-one-out fits come from one inverse (`numerics.regression`). Where that is too
  ill-conditioned for its digits to be trusted, each is solved by itself.
- A few dimensions of large variance can rule the pooled R2. Beside it stand R2 by dimension and R2
  of the whitened target, whose directions count alike: 1 - tr(A R) / tr(A S_uu), A the
  pseudo-inverse of the target's training covariance, R the second moment of the residual.
- Pure noise has a training R2 of p / (n - 1) on average: `train_floor`.

Shapes: N rows, U width of the target, Z width of the basis, D width of a basis model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from lmlab.errors import UserError
from lmlab.numerics.regression import (
    Solution,
    check_ridge,
    eigenvalue_cutoff,
    leave_out,
    ridge_inverse,
    solve_ridge,
)
from lmlab.numerics.scatter import Scatter

Array = NDArray[np.float64]
TRUSTED_CONDITION = 1e12
"""Beyond this the weights have fewer than about four correct digits."""


@dataclass(frozen=True)
class Fit:
    """How well one split is fitted."""

    n: int
    r2: float
    by_dimension_U: Array
    """R2 of each dimension of the target; NaN for one that does not vary."""
    whitened: float


@dataclass(frozen=True)
class FitSummary:
    """What is known of a decomposition, without its weights."""

    target: str
    basis: tuple[str, ...]
    features: int
    """Width of the whole basis."""
    ridge: float
    train: Fit
    test: Fit | None
    rank: int
    """Of the basis features; less than `features` only at ridge 0."""
    condition: float
    """Of the matrix that was solved with."""
    effective_dimensions: float
    """Of the target: (sum v)^2 / sum v^2 of the variances of its dimensions in training."""

    @property
    def r2_train(self) -> float:
        return self.train.r2

    @property
    def r2_test(self) -> float | None:
        """None without a test split."""
        return None if self.test is None else self.test.r2

    @property
    def train_floor(self) -> float:
        """The training R2 that noise in the place of the basis has on average, p / (n - 1)."""
        return min(1.0, self.rank / max(1, self.train.n - 1))

    @property
    def note(self) -> str:
        """What a reader must know of the numbers; empty otherwise."""
        if self.condition > TRUSTED_CONDITION:
            return (
                f"condition number {self.condition:.1e}: the weights have few correct digits (R2 "
                "suffers less); use a larger ridge"
            )
        return ""


@dataclass(frozen=True)
class Decomposition(FitSummary):
    """A target as a linear combination of basis models: u = sum_i weights[i] z_i + bias."""

    weights: dict[str, Array]
    """By basis model, (U, D)."""
    bias: Array

    def summary(self) -> FitSummary:
        """The same without the weights."""
        return FitSummary(**{f.name: getattr(self, f.name) for f in fields(FitSummary)})

    def predict(self, rows: Mapping[str, ArrayLike]) -> Array:
        """The target's rows (N, U) from those of the basis models, (N, D) each.

        Raises `UserError` for a basis model that is missing or has another width.
        """
        return mapped(rows, self.weights, self.bias)


def mapped(
    rows: Mapping[str, ArrayLike], weights: Mapping[str, NDArray[Any]], bias: NDArray[Any]
) -> NDArray[Any]:
    """sum_i rows_i W_i^T + b (N, U), computed in the type of `bias`.

    Raises `UserError` for a basis model that is missing or has another width.
    """
    total: Any = 0
    for name, weights_UD in weights.items():
        if name not in rows:
            raise UserError(f"no rows of the basis model '{name}'; the basis is {tuple(weights)}")
        rows_ND = np.asarray(rows[name], dtype=bias.dtype)
        if rows_ND.ndim != 2 or rows_ND.shape[1] != weights_UD.shape[1]:
            raise UserError(
                f"rows of '{name}' have shape {rows_ND.shape}, not (N, {weights_UD.shape[1]})"
            )
        total = total + rows_ND @ weights_UD.T
    return total + bias


def decompose(
    train: Scatter,
    target: str,
    basis: Sequence[str],
    *,
    ridge: float = 1e-6,
    test: Scatter | None = None,
) -> Decomposition:
    """The regression of `target` on the models of `basis`, scored on `train` and `test`.

    `ridge` is added to the diagonal of S = centred scatter / n, absolute; 0 takes a pseudo-inverse
    and reports the rank.

    Raises `UserError` for names that are not in the scatters, a target in its own basis, a target
    that does not vary, a negative ridge, or one too small to solve with.
    """
    check_basis(train, target, basis)
    solved = solve_ridge(train.covariance(basis), train.covariance(basis, [target]), ridge)
    residual_UU = _train_residual(train, target, basis, solved, ridge)
    return _decomposition(train, target, basis, ridge, test, solved, residual_UU)


def leave_one_out(
    train: Scatter, *, ridge: float = 1e-6, test: Scatter | None = None
) -> dict[str, Decomposition]:
    """Each model of `train` decomposed into all others; as so many `decompose`.

    Raises `UserError` as `decompose`, and for fewer than two models.
    """
    check_ridge(ridge)
    if len(train.names) < 2:
        raise UserError(f"leave-one-out needs at least two models; there are {len(train.names)}")
    others = {target: [name for name in train.names if name != target] for target in train.names}
    for target, basis in others.items():
        check_basis(train, target, basis)
    if ridge == 0:
        return {t: decompose(train, t, basis, ridge=0, test=test) for t, basis in others.items()}
    inverse_PP, condition = ridge_inverse(train.covariance(), ridge)
    if condition > TRUSTED_CONDITION:
        return {
            t: decompose(train, t, basis, ridge=ridge, test=test) for t, basis in others.items()
        }
    fits, start = {}, 0
    for target, width in train.widths.items():
        weights_UZ, residual_UU = leave_out(inverse_PP, slice(start, start + width), ridge)
        solved = Solution(weights_UZ, weights_UZ.shape[1], condition)
        fits[target] = _decomposition(
            train, target, others[target], ridge, test, solved, residual_UU
        )
        start += width
    return fits


def decompose_each(
    train: Scatter,
    basis: Mapping[str, Sequence[str]],
    ridges: Mapping[str, float],
    *,
    test: Scatter | None = None,
) -> dict[str, Decomposition]:
    """Every target of `basis` at its ridge: one target on its basis, or each model of a whole set
    on all others, by one inverse for each different ridge. Raises `UserError` as `decompose`."""
    if len(basis) == 1:
        return {t: decompose(train, t, basis[t], ridge=r, test=test) for t, r in ridges.items()}
    fits = {r: leave_one_out(train, ridge=r, test=test) for r in set(ridges.values())}
    return {t: fits[r][t] for t, r in ridges.items()}


def check_basis(train: Scatter, target: str, basis: Sequence[str]) -> None:
    """`UserError` unless `target` varies and `basis` names other models, each once."""
    for name in (target, *basis):
        if name not in train.widths:
            raise UserError(f"no model '{name}' here; there are {', '.join(train.names)}")
    if not basis or len(set(basis)) != len(basis):
        raise UserError(f"the basis needs at least one model, each once; got {list(basis)}")
    if target in basis:
        raise UserError(f"'{target}' is in its own basis; leave it out")
    check_varies(train, target, "training")


def check_varies(scatter: Scatter, name: str, split: str) -> None:
    """`UserError` for a model whose features are the same for every text, within rounding."""
    variance = float(np.trace(scatter.covariance([name])))
    mean_D = scatter.mean([name])
    if variance <= 1e-20 * float(mean_D @ mean_D) or variance == 0:
        raise UserError(
            f"'{name}' is the same for every row of the {split} text, so no share of its variance "
            "can be explained; is it the model and the text you meant?"
        )


def residual_moment(
    scatter: Scatter, target: str, basis: Sequence[str], weights_UZ: Array, bias_U: Array
) -> Array:
    """Mean of r r^T over the rows of `scatter`, r = u - W z - b, (U, U)."""
    cross_UU = weights_UZ @ scatter.covariance(basis, [target])
    error_U = scatter.mean([target]) - bias_U - weights_UZ @ scatter.mean(basis)
    return (
        scatter.covariance([target])
        - cross_UU
        - cross_UU.T
        + weights_UZ @ scatter.covariance(basis) @ weights_UZ.T
        + np.outer(error_U, error_U)
    )


def _train_residual(
    train: Scatter, target: str, basis: Sequence[str], solved: Solution, ridge: float
) -> Array:
    """S_uu - W S_zu - ridge W W^T, since W (S_zz + ridge I) = S_uz."""
    weights_UZ = solved.weights_UZ
    explained_UU = weights_UZ @ train.covariance(basis, [target])
    return train.covariance([target]) - explained_UU - ridge * weights_UZ @ weights_UZ.T


def _decomposition(
    train: Scatter,
    target: str,
    basis: Sequence[str],
    ridge: float,
    test: Scatter | None,
    solved: Solution,
    residual_UU: Array,
) -> Decomposition:
    weights_UZ = solved.weights_UZ
    bias_U = train.mean([target]) - weights_UZ @ train.mean(basis)
    covariance_UU = train.covariance([target])
    whitening_UU = _pseudo_inverse(covariance_UU)
    variance_U = np.diag(covariance_UU)
    fit_test = None
    if test is not None:
        check_varies(test, target, "test")
        moment_UU = residual_moment(test, target, basis, weights_UZ, bias_U)
        fit_test = _fit(test.n, moment_UU, test.covariance([target]), whitening_UU)
    ends = np.cumsum([train.widths[name] for name in basis])[:-1]
    return Decomposition(
        target=target,
        basis=tuple(basis),
        features=weights_UZ.shape[1],
        ridge=ridge,
        train=_fit(train.n, residual_UU, covariance_UU, whitening_UU),
        test=fit_test,
        rank=solved.rank,
        condition=solved.condition,
        effective_dimensions=float(variance_U.sum() ** 2 / (variance_U**2).sum()),
        weights=dict(zip(basis, np.split(weights_UZ, ends, axis=1), strict=True)),
        bias=bias_U,
    )


def _fit(n: int, residual_UU: Array, covariance_UU: Array, whitening_UU: Array) -> Fit:
    residual_U, variance_U = np.diag(residual_UU), np.diag(covariance_UU)
    varies_U = variance_U > np.finfo(np.float64).eps * variance_U.max()
    by_dimension_U = np.full(len(variance_U), np.nan)
    by_dimension_U[varies_U] = 1 - residual_U[varies_U] / variance_U[varies_U]
    whitened = 1 - float((whitening_UU * residual_UU).sum() / (whitening_UU * covariance_UU).sum())
    return Fit(n, 1 - float(residual_U.sum() / variance_U.sum()), by_dimension_U, whitened)


def _pseudo_inverse(covariance_UU: Array) -> Array:
    values_U, vectors_UU = eigh(covariance_UU)
    kept = values_U > eigenvalue_cutoff(values_U)
    return (vectors_UU[:, kept] / values_U[kept]) @ vectors_UU[:, kept].T
