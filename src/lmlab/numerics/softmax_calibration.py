"""Two scalars that calibrate a softmax of similarities and a prior, by Newton's method.

p(v | x) = softmax_v(a s[x, v] + b log q[v]): a sharpens or softens the similarity, b weighs the
prior. The loss is convex in (a, b), and its derivatives are moments of the softmax, so a few steps
over the data reach the least to rounding. Arrays only.

Legend: N rows, D width, V vocabulary, R rows of a chunk; index 2 is (a, b).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_STEPS = 30
_CHUNK = 1 << 22


def fit_two_scalars(
    hidden_ND: NDArray[np.float32],
    embedding_VD: NDArray[np.float32],
    log_prior_V: NDArray[np.float32],
    targets_N: NDArray[np.int64],
    *,
    seen: Callable[[float], None] = lambda rows: None,
) -> tuple[float, float, float]:
    """(a, b, mean nats per row) with the least mean of -log p(target).

    `seen` is told of rows as they are read, each several times.

    Newton's method from (1, 1) with halved steps where the loss does not fall. Gradient: the mean
    of (z at the target - E z), z = (s, log q); Hessian: the mean covariance of z under the softmax.

    There is at least one row.
    """
    assert targets_N.shape == hidden_ND.shape[:1] != (0,)
    assert embedding_VD.shape == (len(log_prior_V), hidden_ND.shape[1])
    data = (hidden_ND, embedding_VD, log_prior_V, targets_N, seen)
    at_2 = np.ones(2)
    loss, gradient_2, hessian_22 = _moments(at_2, *data)
    for _ in range(_STEPS):
        # a prior that is the same for every token says nothing about b: least squares leaves it
        step_2 = -np.linalg.lstsq(hessian_22, gradient_2, rcond=1e-9)[0]
        if np.abs(step_2).max() < 1e-7:
            break
        for _ in range(_STEPS):
            moved = _moments(at_2 + step_2, *data)
            if moved[0] <= loss:
                break
            step_2 = step_2 / 2
        else:
            break  # no smaller loss along the step: rounding
        at_2, (loss, gradient_2, hessian_22) = at_2 + step_2, moved
    return float(at_2[0]), float(at_2[1]), loss


def _moments(
    at_2: NDArray[np.float64],
    hidden_ND: NDArray[np.float32],
    embedding_VD: NDArray[np.float32],
    log_prior_V: NDArray[np.float32],
    targets_N: NDArray[np.int64],
    seen: Callable[[float], None],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Mean loss, its gradient (2) and Hessian (2, 2) at (a, b)."""
    rows = max(1, _CHUNK // len(log_prior_V))
    total, gradient_2, hessian_22 = 0.0, np.zeros(2), np.zeros((2, 2))
    for start in range(0, len(hidden_ND), rows):
        s_RV = (hidden_ND[start : start + rows] @ embedding_VD.T).astype(np.float64)
        wanted_R = targets_N[start : start + rows]
        at_R = np.arange(len(wanted_R))
        scores_RV = at_2[0] * s_RV + at_2[1] * log_prior_V
        scores_RV -= scores_RV.max(axis=1, keepdims=True)
        p_RV = np.exp(scores_RV)
        sums_R1 = p_RV.sum(axis=1, keepdims=True)
        total += float((np.log(sums_R1[:, 0]) - scores_RV[at_R, wanted_R]).sum())
        p_RV /= sums_R1
        weighted_RV = p_RV * s_RV
        mean_R2 = np.stack([weighted_RV.sum(1), p_RV @ log_prior_V], axis=1)
        target_R2 = np.stack([s_RV[at_R, wanted_R], log_prior_V[wanted_R]], axis=1)
        gradient_2 += (mean_R2 - target_R2).sum(0)
        second_22 = np.array([
            [np.einsum("rv,rv->", weighted_RV, s_RV), (weighted_RV @ log_prior_V).sum()],
            [0.0, (p_RV @ log_prior_V.astype(np.float64) ** 2).sum()],
        ])  # fmt: skip
        second_22[1, 0] = second_22[0, 1]
        hessian_22 += second_22 - mean_R2.T @ mean_R2
        seen(float(len(wanted_R)))
    n = len(hidden_ND)
    return total / n, gradient_2 / n, hessian_22 / n
