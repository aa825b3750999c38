"""Edits of output embeddings that scale tokens' probabilities: their directions, and exact sizes.

An edit of token k adds a_k d_k to its row, which adds a_k d_k . h to its logit. The encoding
-log alpha ~ A . E + B asks for A . (a d) = -log r; directions are scaled so that A . d = -1, and
the edit as predicted by the encoding has a = log r.

Directions:
- minimum_norm: -A / |A|^2, the shortest edit that the encoding lets scale by r.
- sparse: the fewest dimensions, if none moves by more than two of its standard deviations; all of
  them move by equally many. They are those of largest |A_i| sd(E_i).
- whitened: least variance of the added logit over contexts: along Cov(h)^-1 A.
- complement: the shortest edit in the orthogonal complement of g. A LayerNorm model's states are
  constant along g, so an edit along g is an output bias in disguise; this one is not.

Exact sizes: tokens share the normaliser Z, so several edits at once do not multiply. With
P'_k = P_k exp(s_k) / Z', s_k = a_k d_k . h, the a are solved for mean P'_k = r_k mean P_k by
Newton's method over given contexts.

Shapes: N contexts, K edited tokens, D width.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lmlab.errors import UserError

Method = Literal["minimum_norm", "sparse", "whitened", "complement", "bias"]
METHODS: tuple[Method, ...] = get_args(Method)
Array = NDArray[np.float64]

_SPARSE_LIMIT = 2.0  # standard deviations of a dimension
_WHITENING_RIDGE = 1e-3  # of the mean variance of a dimension
_ITERATIONS, _TOLERANCE = 100, 1e-10


def minimum_norm_direction(slope_D: Array) -> Array:
    """d with A . d = -1 and the least norm."""
    square = float(slope_D @ slope_D)
    if square == 0:
        raise UserError("the encoding's slope is zero: no direction of the embedding is encoded")
    return -slope_D / square


def sparse_direction(slope_D: Array, deviation_D: Array, factor: float) -> Array:
    """d for an edit by `factor`, with as few dimensions as the limit on each allows.

    Raises `UserError` where all dimensions at the limit are not enough.
    """
    gain_D = np.abs(slope_D) * deviation_D
    order_D = np.argsort(-gain_D, kind="stable")
    reach_D = np.cumsum(gain_D[order_D]) * _SPARSE_LIMIT
    needed = int(np.searchsorted(reach_D, abs(np.log(factor)) * (1 - 1e-12))) + 1
    if needed > len(slope_D):
        raise UserError(
            f"a factor of {factor:g} needs more than {_SPARSE_LIMIT:g} standard deviations in "
            "every dimension; use `method` minimum_norm, or a factor nearer to 1"
        )
    chosen = order_D[:needed]
    direction_D: Array = np.zeros(len(slope_D))
    direction_D[chosen] = -np.sign(slope_D[chosen]) * deviation_D[chosen] / gain_D[chosen].sum()
    return direction_D


def whitened_direction(slope_D: Array, covariance_DD: Array) -> Array:
    """d with A . d = -1 and the least variance of d . h (plus a trace of the identity)."""
    ridge = _WHITENING_RIDGE * float(np.trace(covariance_DD)) / len(slope_D)
    along_D = np.linalg.solve(covariance_DD + ridge * np.eye(len(slope_D)), slope_D)
    return np.asarray(-along_D / float(slope_D @ along_D), dtype=np.float64)


def complement_direction(slope_D: Array, constant_D: Array) -> Array:
    """d orthogonal to `constant_D` with A . d = -1 and the least norm."""
    inside_D = slope_D - (slope_D @ constant_D) / (constant_D @ constant_D) * constant_D
    return minimum_norm_direction(inside_D)


def shifted(log_p_NK: Array, shift_NK: Array) -> tuple[Array, Array]:
    """Log-probabilities after adding `shift_NK` to the logits, and log(new Z / old Z)."""
    log_ratio_N = np.log1p((np.exp(log_p_NK) * np.expm1(shift_NK)).sum(1))
    return log_p_NK + shift_NK - log_ratio_N[:, None], log_ratio_N


def exact_sizes(log_p_NK: Array, along_NK: Array, factors_K: Array) -> Array:
    """The a (K,) with mean P'_k = factor_k mean P_k over the contexts, s = a d . h (`along_NK`).

    Raises `UserError` for targets that sum to 1 or more, and where no size along these directions
    reaches them.
    """
    mean_K = np.exp(log_p_NK).mean(0)
    target_K = factors_K * mean_K
    check_targets(target_K)
    size_K = np.log(factors_K)

    def off(size_K: Array) -> tuple[Array, Array]:
        log_new_NK, _ = shifted(log_p_NK, size_K * along_NK)
        new_NK = np.exp(log_new_NK)
        return np.log(new_NK.mean(0) / target_K), new_NK

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        error_K, new_NK = off(size_K)
        for _ in range(_ITERATIONS):
            if np.abs(error_K).max() < _TOLERANCE:
                return size_K
            # d log mean P'_k / d a_j = mean of P'_k ([k = j] - P'_j) (d_j . h), over mean P'_k
            moved_NK = new_NK * along_NK
            slope_KK = np.diag(moved_NK.mean(0)) - new_NK.T @ moved_NK / len(new_NK)
            try:
                step_K = np.linalg.solve(slope_KK / new_NK.mean(0)[:, None], -error_K)
            except np.linalg.LinAlgError:
                break
            for _ in range(40):
                trial = off(size_K + step_K)
                if np.isfinite(trial[0]).all() and np.abs(trial[0]).max() < np.abs(error_K).max():
                    break
                step_K = step_K / 2
            else:
                break
            size_K = size_K + step_K
            error_K, new_NK = trial
    worst = int(np.abs(error_K).argmax())
    raise UserError(
        f"no size of edit along this direction scales token number {worst + 1} by "
        f"{factors_K[worst]:g} in this text (nearest: "
        f"{factors_K[worst] * np.exp(error_K[worst]):.4g}); use another `method`, or a factor "
        "nearer to 1"
    )


def check_targets(target_K: Array) -> None:
    """`UserError` for mean probabilities that sum to 1 or more."""
    if float(target_K.sum()) >= 1:
        raise UserError(
            f"the wanted mean probabilities sum to {float(target_K.sum()):.4g}; they must stay "
            f"below 1 together (each: {', '.join(f'{t:.4g}' for t in target_K)})"
        )
