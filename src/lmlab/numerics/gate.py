"""A gate between two predictors: the weight of each in a mixture, from features of the context.

With p_1, p_2 the probabilities that the predictors give to what came, features x and the weight
g = sigmoid(w x + b), the mixture has the likelihood g p_1 + (1 - g) p_2. Its nats have the gradient
g - r in the logit of g, where r = g p_1 / (g p_1 + (1 - g) p_2) is the responsibility of the first
(Jacobs et al. 1991, Neural Computation 3, "Adaptive mixtures of local experts"). So at the optimum
the mean responsibility is the mean weight, and a gate whose weights are calibrated has that in
every bin of weights.

Notable: everything is deterministic (L-BFGS in float64 from zero weights). Features are centred and
scaled, and the penalty is ridge / 2 |w|^2 per token, none on b.

Shapes: N tokens, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

_MOST_ITERATIONS = 300


@dataclass(frozen=True)
class Gate:
    """A linear gate on features."""

    mean_F: np.ndarray
    scale_F: np.ndarray
    weight_F: np.ndarray
    """Of features that were centred and scaled."""
    bias: float

    def logit(self, features_NF: NDArray[np.floating]) -> NDArray[np.float64]:
        """Log odds of the first predictor (N,)."""
        effective_F = self.weight_F / self.scale_F
        return features_NF @ effective_F + (self.bias - float(self.mean_F @ effective_F))


def mixture_nats(
    logit_N: NDArray[np.float64] | float,
    first_N: NDArray[np.float64],
    second_N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """-ln(g p_1 + (1 - g) p_2) from the log odds of g and the nats of both, (N,)."""
    return -np.logaddexp(log_expit(logit_N) - first_N, log_expit(np.negative(logit_N)) - second_N)


def responsibility(
    logit_N: NDArray[np.float64] | float,
    first_N: NDArray[np.float64],
    second_N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The probability that the first made what came, given the gate and both, (N,)."""
    return expit(logit_N + second_N - first_N)


def fit_gate(
    features_NF: NDArray[np.floating],
    first_N: NDArray[np.float64],
    second_N: NDArray[np.float64],
    *,
    ridge: float,
) -> Gate:
    """The gate with the least penalised nats. Without features (F = 0) it is one weight for all."""
    features_NF = np.asarray(features_NF, dtype=np.float64)
    mean_F, scale_F = features_NF.mean(0), features_NF.std(0)
    scale_F = np.where(scale_F > 1e-12, scale_F, 1.0)
    scaled_NF = (features_NF - mean_F) / scale_F
    count, width = features_NF.shape

    def nats_and_gradient(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight_F, bias = parameters[:width], parameters[width]
        logit_N = scaled_NF @ weight_F + bias
        slope_N = (expit(logit_N) - responsibility(logit_N, first_N, second_N)) / count
        gradient = np.append(slope_N @ scaled_NF + ridge * weight_F, slope_N.sum())
        nats = mixture_nats(logit_N, first_N, second_N).mean()
        return float(nats + ridge / 2 * weight_F @ weight_F), gradient

    start = np.zeros(width + 1)
    fitted = minimize(
        nats_and_gradient, start, jac=True, method="L-BFGS-B",
        options={"maxiter": _MOST_ITERATIONS, "gtol": 1e-8, "ftol": 1e-12},
    ).x  # fmt: skip
    return Gate(mean_F, scale_F, fitted[:width], float(fitted[width]))


def chosen_ridge(
    features_NF: NDArray[np.floating],
    first_N: NDArray[np.float64],
    second_N: NDArray[np.float64],
    fold_N: NDArray[np.integer],
    ridges: Sequence[float],
) -> float:
    """The ridge whose gates have the least nats on folds that they were not fitted on."""
    folds = np.unique(fold_N)
    assert len(folds) > 1
    totals = []
    for ridge in ridges:
        total = 0.0
        for fold in folds:
            held_N = fold_N == fold
            gate = fit_gate(features_NF[~held_N], first_N[~held_N], second_N[~held_N], ridge=ridge)
            logit_N = gate.logit(features_NF[held_N])
            total += mixture_nats(logit_N, first_N[held_N], second_N[held_N]).sum()
        totals.append(total)
    return ridges[int(np.argmin(totals))]
