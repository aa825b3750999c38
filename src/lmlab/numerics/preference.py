"""Which of two predictors is better at which types, from sums by group of text and type.

The data are, for each group of clusters g and type v, the number of tokens n_gv and the sum of
their differences d_gv = sum (l_2 - l_1), positive where predictor 1 is better. Groups are the units
of resampling: all tokens of a document are in one.

Notable:
- What is reliable is found by splitting groups into halves: the covariance of the halves' means
  estimates the variance between types without any model of the error (halves share none).
- Types are weighted by the harmonic mean of their tokens in both halves, so a type that is missing
  from one half has no weight: it is never "perfect", and never "equal".
- Residuals on difficulty and log frequency are taken in each half for itself.

Legend: G groups, V types, K covariates, R splits or permutations. Arrays only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr
from scipy.stats import false_discovery_control

from lmlab.errors import UserError
from lmlab.numerics.random_effects import bell_mccaffrey

Array = NDArray[np.float64]
_ROUNDING = 1e-12


@dataclass(frozen=True)
class TypeMeans:
    """Means of types with errors clustered by group; nan where a type is in too few groups."""

    mean_V: Array
    standard_error_V: Array
    degrees_of_freedom_V: Array
    p_V: Array
    """Two-sided, of a mean of zero."""


def type_means(count_GV: Array, sum_GV: Array, *, minimum_groups: int) -> TypeMeans:
    """The mean of each type, with an error that allows for any dependence within groups.

    The variance is that of a weighted mean of groups with the leverage correction of Bell and
    McCaffrey (2002), and the degrees of freedom the harmonic mean of theirs and of groups - 1, as
    in `numerics.random_effects`. Types in fewer than `minimum_groups` groups get nan.
    """
    n_V = count_GV.sum(0)
    groups_V = (count_GV > 0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_V = sum_GV.sum(0) / n_V
        p_GV = count_GV / n_V
        x_GV = np.where(count_GV > 0, sum_GV / count_GV, 0.0)
        square_V = (p_GV**2).sum(0)
        g_GV = p_GV**2 / (1 - 2 * p_GV + square_V)
        error_V = np.sqrt((g_GV * np.where(count_GV > 0, x_GV - mean_V, 0.0) ** 2).sum(0))
        df_V = 2 / (1 / bell_mccaffrey(p_GV, g_GV) + 1 / (groups_V - 1))
        p_V = 2 * stdtr(df_V, -np.abs(mean_V) / error_V)
    few_V = groups_V < minimum_groups
    error_V, df_V, p_V = (np.where(few_V, np.nan, each) for each in (error_V, df_V, p_V))
    return TypeMeans(mean_V, error_V, df_V, p_V)


def adjusted_p_values(p_N: Array) -> Array:
    """Adjusted p-values (N); those at most q are found at a false discovery rate of q. nan stays,
    and is not counted.

    Benjamini and Hochberg 1995, by scipy.
    """
    q_N = np.full(len(p_N), np.nan)
    tested_N = ~np.isnan(p_N)
    q_N[tested_N] = false_discovery_control(p_N[tested_N])
    return q_N


def residuals(values_RV: Array, weights_RV: Array, covariates_KV: Array) -> Array:
    """Residuals (R, V) of weighted least squares on the covariates and a constant.

    Without covariates (K = 0) that is the difference from the weighted mean.
    """
    design_VK = np.vstack([np.ones(values_RV.shape[1]), covariates_KV]).T
    gram_RKK = np.einsum("vk,rv,vj->rkj", design_VK, weights_RV, design_VK, optimize=True)
    moment_RK = (weights_RV * values_RV) @ design_VK
    fitted_RK = np.linalg.pinv(gram_RKK, hermitian=True) @ moment_RK[..., None]
    return values_RV - fitted_RK[..., 0] @ design_VK.T


@dataclass(frozen=True)
class Halves:
    """Means of types in both halves of R splits, and the weight of each type."""

    first_RV: Array
    second_RV: Array
    weight_RV: Array


def random_halves(groups: int, splits: int, seed: int) -> NDArray[np.bool_]:
    """Which groups (R, G) are in the first half of each split; halves differ by one at most."""
    rng = np.random.default_rng(seed)
    half = np.arange(groups) < groups // 2
    return np.stack([rng.permutation(half) for _ in range(splits)])


def split_means(
    count_GV: Array, sum_GV: Array, first_RG: NDArray[np.bool_], covariates_KV: Array | None = None
) -> Halves:
    """Means of types in both halves, without what the covariates explain (default: the mean)."""
    first = first_RG.astype(np.float64)
    n_1, n_2 = first @ count_GV, (1 - first) @ count_GV
    with np.errstate(divide="ignore", invalid="ignore"):
        weight_RV = np.nan_to_num(2 / (1 / n_1 + 1 / n_2))
        means = [
            np.where(n > 0, total / n, 0.0)
            for n, total in ((n_1, first @ sum_GV), (n_2, (1 - first) @ sum_GV))
        ]
    if covariates_KV is None:
        covariates_KV = np.empty((0, count_GV.shape[1]))
    halves = [residuals(each, weight_RV, covariates_KV) for each in means]
    return Halves(halves[0], halves[1], weight_RV)


def weighted_correlation(x_RV: Array, y_RV: Array, weight_RV: Array) -> Array:
    """Correlations (R); 0 where one side does not vary. Means are taken out here."""
    x, y = (
        each - ((weight_RV * each).sum(-1) / weight_RV.sum(-1))[..., None] for each in (x_RV, y_RV)
    )
    covariance = (weight_RV * x * y).sum(-1)
    scale = np.sqrt((weight_RV * x**2).sum(-1) * (weight_RV * y**2).sum(-1))
    return np.where(scale > _ROUNDING, covariance / np.maximum(scale, _ROUNDING), 0.0)


def reliability(halves: Halves) -> tuple[float, float]:
    """Reliability of the types' means over all groups, and the variance between types.

    Mean over splits; the correlation of halves is stepped up to the whole by Spearman and Brown,
    2 r / (1 + r). The variance is in squared units of the means, and may come out below zero.
    """
    r = float(weighted_correlation(halves.first_RV, halves.second_RV, halves.weight_RV).mean())
    total_R = halves.weight_RV.sum(-1)
    covariance_R = (halves.weight_RV * halves.first_RV * halves.second_RV).sum(-1) / total_R
    stepped_up = 2 * r / (1 + r) if r > -1 else -1.0
    return max(-1.0, stepped_up), float(covariance_R.mean())


def error_per_token(count_GV: Array, sum_GV: Array) -> float:
    """The variance f such that the mean of a type of n tokens has about the error variance f / n.

    Mean over types of n times their clustered variance, weighted by their groups less one.
    """
    means = type_means(count_GV, sum_GV, minimum_groups=2)
    weight_V = np.maximum((count_GV > 0).sum(0) - 1, 0).astype(np.float64)
    known_V = weight_V > 0
    scaled_V = count_GV.sum(0)[known_V] * means.standard_error_V[known_V] ** 2
    return float(scaled_V @ weight_V[known_V] / max(weight_V.sum(), 1.0))


def shrunken(mean_V: Array, count_V: Array, *, between: float, per_token: float) -> Array:
    """Deviations of types from their token-weighted mean, each by how far it is to be trusted.

    between / (between + per_token / n), the posterior mean of normal types with normal errors; 0
    for types never seen, and everywhere if types do not differ.
    """
    seen_V = count_V > 0
    mean = float(mean_V[seen_V] @ count_V[seen_V] / count_V.sum())
    if between <= 0:
        return np.zeros(len(mean_V))
    trust_V = between / (between + per_token / np.maximum(count_V, 1))
    return np.where(seen_V, trust_V * (np.nan_to_num(mean_V) - mean), 0.0)


def router_gain(count_GV: Array, sum_GV: Array, first_RG: NDArray[np.bool_]) -> float:
    """Nats per token saved by sending each type to the predictor that is better at it.

    Decided on one half by the sign of the shrunken mean, counted on the other against the better
    predictor of that other half; mean over both ways and all splits. The saving of a router that
    knows nothing is at most 0.
    """
    _, between = reliability(split_means(count_GV, sum_GV, first_RG))
    per_token = error_per_token(count_GV, sum_GV)
    gains = []
    for decided in (first_RG, ~first_RG):
        chosen = decided.astype(np.float64)
        for n_V, sum_V, rest_V, rest in zip(
            chosen @ count_GV,
            chosen @ sum_GV,
            (1 - chosen) @ sum_GV,
            (1 - chosen) @ count_GV.sum(1),
            strict=True,
        ):
            mean = sum_V.sum() / n_V.sum()
            mean_V = np.where(n_V > 0, sum_V / np.maximum(n_V, 1), mean)
            to_second_V = mean + shrunken(mean_V, n_V, between=between, per_token=per_token) < 0
            gains.append((min(0.0, rest_V.sum()) - rest_V[to_second_V].sum()) / rest)
    return float(np.mean(gains))


def agreement(first: Halves, second: Halves) -> float:
    """Correlation of two runs' type means, their sign chosen on one half and used on the other.

    Which predictor is called 1 is arbitrary in each run; choosing the sign on the tokens that are
    then correlated would make any two runs agree. Mean over both ways and all splits.
    """
    weight_RV = np.sqrt(first.weight_RV * second.weight_RV)
    first_R, second_R = (
        weighted_correlation(a, b, weight_RV)
        for a, b in ((first.first_RV, second.first_RV), (first.second_RV, second.second_RV))
    )
    return float((np.sign(first_R) * second_R + np.sign(second_R) * first_R).mean() / 2)


def swap_test(count_GV: Array, sum_GV: Array, *, times: int, seed: int) -> float:
    """p-value of types that do not differ: the predictors are swapped in each group at random.

    The statistic is the variance between types, sum_v S_v^2 / n_v - (sum_v S_v)^2 / n with
    S_v = sum_g d_gv, after the overall mean is taken out; where the swapped data are as likely as
    the data, the p-value is uniform.
    """
    rng = np.random.default_rng(seed)
    n_V = count_GV.sum(0)
    seen_V = n_V > 0
    mean = sum_GV.sum() / count_GV.sum()
    centred_GV = (sum_GV - mean * count_GV)[:, seen_V]

    def statistic(sign_RG: Array) -> Array:
        sum_RV = sign_RG @ centred_GV
        return (sum_RV**2 / n_V[seen_V]).sum(1) - sum_RV.sum(1) ** 2 / n_V.sum()

    observed = float(statistic(np.ones((1, len(sum_GV))))[0])
    signs = rng.choice([-1.0, 1.0], (times, len(sum_GV)))
    return _p_value(observed, statistic(signs))


def _p_value(observed: float, permuted_R: Array) -> float:
    """Share of permutations at least as large, the observed one counted among them."""
    as_large = int((permuted_R >= observed - 1e-9 * abs(observed)).sum())
    return (1 + as_large) / (1 + len(permuted_R))


def permuted_within(
    bins_V: NDArray[np.int64], times: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Permutations (V) of types, each within its bin; `times` of them."""
    rng = np.random.default_rng(seed)
    order_V = np.argsort(bins_V, kind="stable")
    for _ in range(times):
        permuted_V = np.empty(len(bins_V), dtype=np.int64)
        # sorted by bin, then by a random number: each bin's places get its types in random order
        permuted_V[order_V] = np.lexsort((rng.random(len(bins_V)), bins_V))
        yield permuted_V


def label_test(halves: Halves, bins_V: NDArray[np.int64], *, times: int, seed: int) -> float:
    """p-value of types of one bin that are alike: the labels of one half are permuted within bins.

    The statistic is the sum of products of both halves' scores in the first split, types in both
    only; a score is the difference from the bin's mean times the square root of the weight. Means
    of few tokens are noisier, and would not be exchangeable with those of many.
    """
    seen_V = halves.weight_RV[0] > 0
    bins_V = bins_V[seen_V]
    weight_V = halves.weight_RV[0, seen_V]
    x_V, y_V = (
        np.sqrt(weight_V) * _from_bins(each[0, seen_V], weight_V, bins_V)
        for each in (halves.first_RV, halves.second_RV)
    )
    permuted = [float(x_V @ y_V[order_V]) for order_V in permuted_within(bins_V, times, seed)]
    return _p_value(float(x_V @ y_V), np.array(permuted))


def _from_bins(values_V: Array, weights_V: Array, bins_V: NDArray[np.int64]) -> Array:
    """Differences from the weighted mean of each bin."""
    total, weight = (np.bincount(bins_V, w) for w in (weights_V * values_V, weights_V))
    return values_V - (total / np.maximum(weight, _ROUNDING))[bins_V]


def class_tests(
    values_V: Array,
    weights_V: Array,
    inside_CV: NDArray[np.bool_],
    bins_V: NDArray[np.int64],
    *,
    times: int,
    seed: int,
) -> list[float]:
    """p-values (C) of classes whose weighted mean is that of other types of their frequency.

    Two-sided, of the difference from all types outside, both counted from the means of their bins:
    labels are permuted within bins, weights stay with their types.

    Raises `UserError` for a class of no types, or of all.
    """
    weighted_V = weights_V * _from_bins(values_V, weights_V, bins_V)
    weight, total = weights_V.sum(), weighted_V.sum()

    def differences(labels_CV: NDArray[np.bool_]) -> Array:
        inside_C = labels_CV @ weights_V
        if not ((inside_C > 0) & (inside_C < weight)).all():
            raise UserError("a class must have types, and there must be others")
        sums_C = labels_CV @ weighted_V
        return np.abs(sums_C / inside_C - (total - sums_C) / (weight - inside_C))

    observed_C = differences(inside_CV)
    permuted_RC = np.stack(
        [differences(inside_CV[:, order_V]) for order_V in permuted_within(bins_V, times, seed)]
    )
    return [_p_value(float(o), p_R) for o, p_R in zip(observed_C, permuted_RC.T, strict=True)]


def exact_permutation_of_pairs(values_NN: Array, ours: int) -> float:
    """One-sided p-value that pairs among the first `ours` runs have a larger mean than pairs among
    the others, over all assignments of runs (not of pairs, which share runs).

    Raises `UserError` unless both kinds have a pair and 20 runs at most are there.
    """
    runs = len(values_NN)
    if min(ours, runs - ours) < 2 or runs > 20:
        raise UserError(f"{ours} of {runs} runs: pairs need at least 2 of each kind, at most 20")

    def statistic(chosen: tuple[int, ...]) -> float:
        rest = [i for i in range(runs) if i not in chosen]
        means = [
            np.mean([values_NN[i, j] for i, j in combinations(kind, 2)]) for kind in (chosen, rest)
        ]
        return float(means[0] - means[1])

    statistics = np.array([statistic(chosen) for chosen in combinations(range(runs), ours)])
    return float((statistics >= statistics[0] - _ROUNDING).mean())


def exact_permutation(ours: NDArray[np.float64], null: NDArray[np.float64]) -> float:
    """One-sided p-value that runs of the first kind have the larger mean, over all assignments.

    4 against 4 runs reach 1/70 at best. Raises `UserError` for a kind without runs, or so many that
    they cannot be enumerated.
    """
    values = np.concatenate([ours, null])
    if not len(ours) or not len(null) or len(values) > 20:
        raise UserError(f"{len(ours)} against {len(null)} runs: at least 1 each, at most 20")
    chosen = np.array(list(combinations(range(len(values)), len(ours))))
    sums = values[chosen].sum(1)
    observed = sums[0]
    tolerance = _ROUNDING * np.abs(values).sum()
    return float((sums >= observed - tolerance).mean())
