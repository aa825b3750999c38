"""Ridge regression from second moments: one solve, or every leave-one-block-out fit at once.

Notable:
- `ridge` is absolute, on the diagonal of S = centred scatter / n. At ridge 0 the solve is a
  pseudo-inverse with an eigenvalue cut-off, and the rank is reported.
- With P = (S + ridge I)^-1 of all blocks, the regression of block i on all others is
  W_i = -(P_ii)^-1 P_i,rest, and the covariance of its residual is
  (P_ii)^-1 - ridge I - ridge W_i W_i^T (block inversion; W (S_zz + ridge I) = S_uz).
- Every solve comes with an estimate of its condition number, so that weights without correct digits
  can be said to have none.

Shapes: P all features, Z features regressed on, U features of the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, get_blas_funcs, get_lapack_funcs

from lmlab.errors import UserError

Array = NDArray[np.float64]
_potrf, _potrs, _potri, _pocon = get_lapack_funcs(
    ("potrf", "potrs", "potri", "pocon"), dtype=np.float64
)
(_syrk,) = get_blas_funcs(("syrk",), dtype=np.float64)


@dataclass(frozen=True)
class Solution:
    """Weights W_UZ = S_uz (S_zz + ridge I)^-1 and how well they are determined."""

    weights_UZ: Array
    rank: int
    condition: float
    """Of S_zz + ridge I: estimated in the 1-norm; at ridge 0 the ratio of the largest to the
    smallest eigenvalue kept."""


def solve_ridge(zz_ZZ: Array, zu_ZU: Array, ridge: float) -> Solution:
    """Weights of the regression whose second moments are given.

    Raises `UserError` for a ridge that is negative, or too small for the features.
    """
    check_ridge(ridge)
    if ridge == 0:
        values_Z, vectors_ZZ = eigh(zz_ZZ)
        kept = values_Z > eigenvalue_cutoff(values_Z)
        if not kept.any():
            return Solution(np.zeros(zu_ZU.T.shape), 0, float("inf"))
        basis_ZK = vectors_ZZ[:, kept]
        weights_ZU = basis_ZK @ ((basis_ZK.T @ zu_ZU) / values_Z[kept, None])
        condition = float(values_Z[kept][-1] / values_Z[kept][0])
        return Solution(weights_ZU.T, int(kept.sum()), condition)
    factor_ZZ, condition = _cholesky(zz_ZZ, ridge)
    weights_ZU, _ = _potrs(factor_ZZ, zu_ZU, lower=1)
    return Solution(np.ascontiguousarray(weights_ZU.T), len(zz_ZZ), condition)


def ridge_inverse(covariance_PP: Array, ridge: float) -> tuple[Array, float]:
    """(S + ridge I)^-1 and the condition number of S + ridge I; S is overwritten.

    Only the lower triangle of the result is set (see `leave_out`).
    """
    check_ridge(ridge)
    factor_PP, condition = _cholesky(covariance_PP, ridge, overwrite=True)
    inverse_PP, info = _potri(factor_PP, lower=1, overwrite_c=1)
    assert info == 0, "dpotri of a factor without zeros on its diagonal"
    return inverse_PP, condition


def leave_out(inverse_PP: Array, block: slice, ridge: float) -> tuple[Array, Array]:
    """Weights (U, P - U) of a block on all others, in their order, and its residual covariance.

    `inverse_PP` is `ridge_inverse`'s.
    """
    start, stop = block.start, block.stop
    own_UU = np.asfortranarray(inverse_PP[block, block])
    rest_UZ = np.empty((len(own_UU), len(inverse_PP) - len(own_UU)), order="F")
    np.negative(inverse_PP[block, :start], out=rest_UZ[:, :start])
    np.negative(inverse_PP[stop:, block].T, out=rest_UZ[:, start:])
    factor_UU, info = _potrf(own_UU, lower=1)
    assert info == 0, "a diagonal block of a positive definite matrix"
    weights_UZ, _ = _potrs(factor_UU, rest_UZ, lower=1, overwrite_b=1)
    conditional_UU, _ = _potri(factor_UU, lower=1)
    residual_UU = _syrk(-ridge, weights_UZ, beta=1, c=conditional_UU, lower=1, overwrite_c=1)
    residual_UU = np.tril(residual_UU) + np.tril(residual_UU, -1).T
    residual_UU[np.diag_indices_from(residual_UU)] -= ridge
    return weights_UZ, residual_UU


def eigenvalue_cutoff(values_D: Array) -> float:
    """Below this an eigenvalue of a covariance is rounding: D eps times the largest."""
    return len(values_D) * np.finfo(np.float64).eps * max(0.0, float(values_D.max(initial=0.0)))


def check_ridge(ridge: float) -> None:
    """`UserError` for a ridge that is negative or not finite."""
    if not 0 <= ridge < float("inf"):
        raise UserError(f"ridge {ridge} must be finite and at least 0")


def _cholesky(matrix_PP: Array, ridge: float, *, overwrite: bool = False) -> tuple[Any, float]:
    """Lower factor of S + ridge I and the condition number; LAPACK reads S as its transpose."""
    # Fortran order without a copy: S is symmetric
    system_PP = matrix_PP.T if overwrite else np.array(matrix_PP.T, order="F")
    system_PP[np.diag_indices_from(system_PP)] += ridge
    norm = max(
        float(np.abs(system_PP[:, i : i + 512]).sum(0).max()) for i in range(0, len(system_PP), 512)
    )
    factor_PP, info = _potrf(system_PP, lower=1, clean=0, overwrite_a=1)
    if info:
        raise UserError(
            f"ridge {ridge:g} is too small for features of this size: their covariance (largest "
            f"column sum {norm:.3g}) is not positive definite within rounding. Use a larger ridge, "
            "or 0 for a pseudo-inverse"
        )
    reciprocal, _ = _pocon(factor_PP, norm, uplo="L")
    # the last digits depend on where its workspace happens to lie, and mean nothing
    condition = float(f"{1 / reciprocal:.6g}") if reciprocal > 0 else float("inf")
    return factor_PP, condition
