"""Estimates of a preference: against other code, closed forms, and simulated text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmlab.errors import UserError
from lmlab.numerics.preference import (
    adjusted_p_values,
    agreement,
    class_tests,
    error_per_token,
    exact_permutation,
    label_test,
    permuted_within,
    random_halves,
    reliability,
    residuals,
    router_gain,
    shrunken,
    split_means,
    swap_test,
    type_means,
    weighted_correlation,
)
from lmlab.numerics.random_effects import two_way_interval


def simulated(
    seed, *, types=60, groups=10, spread=0.0, tokens=40, noise=1.0, document=0.0, mean=0.0
):
    """Counts and sums of a text whose types have true differences of standard deviation `spread`,
    with an effect of each document on each type; returns the truth (V), too."""
    rng = np.random.default_rng(seed)
    truth_V = mean + spread * rng.standard_normal(types)
    count_GV = rng.poisson(tokens / np.arange(1, types + 1) ** 0.5, (groups, types)).astype(float)
    shift_GV = truth_V + document * rng.standard_normal((groups, types))
    error_GV = noise * np.sqrt(count_GV) * rng.standard_normal((groups, types))
    return count_GV, count_GV * shift_GV + error_GV, truth_V


def test_the_mean_of_a_type_is_that_of_the_interval_over_clusters():
    count_GV, sum_GV, _ = simulated(0, spread=0.3, document=0.2, tokens=6)
    made = type_means(count_GV, sum_GV, minimum_groups=5)
    checked = 0
    for v in range(count_GV.shape[1]):
        used = count_GV[:, v] > 0
        if used.sum() < 5:
            assert np.isnan(made.p_V[v])
            continue
        expected = two_way_interval(
            (sum_GV[used, v] / count_GV[used, v])[None], weights_C=count_GV[used, v]
        )
        checked += 1
        assert made.mean_V[v] == pytest.approx(expected.estimate)
        assert made.standard_error_V[v] == pytest.approx(expected.standard_error)
        assert made.degrees_of_freedom_V[v] == pytest.approx(expected.degrees_of_freedom)
        assert expected.standard_error is not None
        t = expected.estimate / expected.standard_error
        p = 2 * stats.t.sf(abs(t), expected.degrees_of_freedom)
        assert made.p_V[v] == pytest.approx(p)
    assert checked > 40
    assert np.isnan(made.p_V).sum() == 60 - checked


def test_a_known_advantage_of_types_lies_in_its_interval():
    inside, all_types, rejected = 0, 0, 0
    for seed in range(60):
        count_GV, sum_GV, truth_V = simulated(seed, spread=0.3, document=0.1, groups=12)
        made = type_means(count_GV, sum_GV, minimum_groups=12)
        known = ~np.isnan(made.p_V)
        half_V = stats.t.ppf(0.975, made.degrees_of_freedom_V) * made.standard_error_V
        inside += int((np.abs(made.mean_V - truth_V) <= half_V)[known].sum())
        rejected += int((np.abs(made.mean_V) > half_V)[known].sum())
        all_types += int(known.sum())
    assert 0.935 < inside / all_types < 0.975
    assert rejected / all_types > 0.4


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 30))
def test_adjusted_p_values_by_definition(values, missing):
    """The least p m / rank of those that are as large (Benjamini and Hochberg 1995)."""
    p_N = np.array(values)
    by_rank = np.sort(p_N) * len(p_N) / np.arange(1, len(p_N) + 1)
    expected_N = [min(1.0, by_rank[np.sort(p_N) >= p].min()) for p in p_N]
    with_gap = np.insert(p_N, min(missing, len(p_N)), np.nan)
    made = adjusted_p_values(with_gap)
    assert np.isnan(made[np.isnan(with_gap)]).all()
    np.testing.assert_allclose(made[~np.isnan(with_gap)], expected_N)


def test_residuals_are_those_of_weighted_least_squares():
    rng = np.random.default_rng(0)
    x_KV, y_RV, w_RV = rng.normal(size=(2, 30)), rng.normal(size=(3, 30)), rng.random((3, 30))
    w_RV[:, :5] = 0
    made = residuals(y_RV, w_RV, x_KV)
    design = np.column_stack([np.ones(30), *x_KV])
    for r in range(3):
        root = np.sqrt(w_RV[r])[:, None]
        fitted = np.linalg.lstsq(design * root, y_RV[r] * root[:, 0], rcond=None)[0]
        np.testing.assert_allclose(made[r], y_RV[r] - design @ fitted, atol=1e-10)


def test_the_variance_between_types_is_unbiased_whatever_the_noise():
    """Also without any true variance, where estimates fall on both sides of zero."""
    for spread in (0.0, 0.2):
        found = []
        for seed in range(300):
            count_GV, sum_GV, truth_V = simulated(
                seed, spread=spread, noise=2.0, mean=0.5, types=30
            )
            halves = split_means(count_GV, sum_GV, random_halves(10, 4, seed))
            weight_V = count_GV.sum(0)
            centre = truth_V @ weight_V / weight_V.sum()
            true = ((truth_V - centre) ** 2) @ weight_V / weight_V.sum()
            found.append(reliability(halves)[1] - true)
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found)) < 3 * error + 1e-12
        if not spread:
            assert 0.3 < np.mean(np.array(found) > 0) < 0.7


def test_reliability_is_the_squared_correlation_with_the_truth():
    made, true = [], []
    for seed in range(40):
        count_GV, sum_GV, truth_V = simulated(
            seed, spread=0.3, noise=2.0, types=300, tokens=60, document=0.0
        )
        count_GV[:] = 6  # with equal weights the step-up of Spearman and Brown is exact
        rng = np.random.default_rng(seed + 1000)
        sum_GV = 6 * truth_V + 2.0 * np.sqrt(6) * rng.standard_normal(count_GV.shape)
        made.append(reliability(split_means(count_GV, sum_GV, random_halves(10, 4, seed)))[0])
        true.append(np.corrcoef(sum_GV.sum(0), truth_V)[0, 1] ** 2)
    assert np.mean(made) == pytest.approx(np.mean(true), abs=0.02)


def test_a_type_that_one_half_lacks_has_no_weight():
    count_GV = np.array([[4.0, 2, 0, 0], [4, 0, 1, 0], [4, 2, 0, 0], [4, 0, 3, 0]])
    sum_GV = count_GV * np.array([0.1, -50.0, 70.0, 0])
    first_RG = np.array([[True, False, True, False]])
    halves = split_means(count_GV, sum_GV, first_RG)
    assert halves.weight_RV.tolist() == [[8.0, 0, 0, 0]]
    # alone it has nothing to differ from
    assert reliability(halves) == (0.0, pytest.approx(0.0, abs=1e-20))


def test_halves_are_as_even_as_can_be():
    for groups in (6, 7):
        first_RG = random_halves(groups, 50, 0)
        assert (first_RG.sum(1) == groups // 2).all()
        assert 0 < first_RG[:, 0].mean() < 1


def test_what_differs_by_noise_alone_shrinks_to_nothing():
    count_GV, sum_GV, truth_V = simulated(1, spread=0.4, types=400, noise=1.5)
    n_V = count_GV.sum(0)
    per_token = error_per_token(count_GV, sum_GV)
    assert per_token == pytest.approx(1.5**2, rel=0.1)
    mean_V = np.where(n_V > 0, sum_GV.sum(0) / np.maximum(n_V, 1), 0)
    made_V = shrunken(mean_V, n_V, between=0.16, per_token=per_token)
    seen = n_V > 0
    centred_V = truth_V - truth_V @ n_V / n_V.sum()
    raw_error = np.mean((mean_V - mean_V @ n_V / n_V.sum() - centred_V)[seen] ** 2)
    assert np.mean((made_V - centred_V)[seen] ** 2) < raw_error
    assert (made_V[~seen] == 0).all()
    assert (shrunken(mean_V, n_V, between=-0.1, per_token=per_token) == 0).all()


def test_a_router_gains_what_the_types_allow_and_nothing_from_noise():
    gains, possible, nothing = [], [], []
    for seed in range(30):
        count_GV, sum_GV, truth_V = simulated(seed, spread=0.5, tokens=200, mean=0.1)
        first_RG = random_halves(10, 4, seed)
        n_V = count_GV.sum(0)
        gains.append(router_gain(count_GV, sum_GV, first_RG))
        total = truth_V @ n_V
        possible.append((min(0.0, total) - np.minimum(truth_V, 0) @ n_V) / n_V.sum())
        count_GV, sum_GV, _ = simulated(seed, spread=0.0, tokens=200, mean=0.0)
        nothing.append(router_gain(count_GV, sum_GV, first_RG))
    assert np.mean(gains) == pytest.approx(np.mean(possible), rel=0.05)
    assert np.mean(nothing) <= 0
    assert np.mean(nothing) > -0.02


def test_a_router_is_scored_against_the_better_tower_of_the_other_half():
    # two halves; type 0 is better in tower 1, type 1 in tower 2
    count_GV = np.array([[10.0, 10.0], [10.0, 10.0], [10.0, 10.0], [10.0, 10.0]])
    sum_GV = np.array([[8.0, -3.0], [8.0, -5.0], [8.0, -3.0], [8.0, -5.0]])
    first_RG = np.array([[True, False, True, False]])
    # halves of 40 tokens; tower 1 is the better one; type 1 to tower 2 saves 10 or 6
    assert router_gain(count_GV, sum_GV, first_RG) == pytest.approx((10 / 40 + 6 / 40) / 2)


def test_agreement_does_not_mind_which_tower_is_called_first():
    first_RG = random_halves(12, 10, 0)
    count_GV, one_GV, truth_V = simulated(3, spread=0.5, groups=12)
    other_GV = count_GV * truth_V + np.random.default_rng(9).normal(size=count_GV.shape)
    halves, same, turned = (
        split_means(count_GV, s, first_RG) for s in (one_GV, other_GV, -other_GV)
    )
    assert agreement(halves, same) == pytest.approx(agreement(halves, turned))
    assert agreement(halves, same) > 0.8
    unrelated = [
        agreement(
            split_means(*simulated(s, spread=0.5, groups=12, types=200)[:2], first_RG),
            split_means(*simulated(s + 500, spread=0.5, groups=12, types=200)[:2], first_RG),
        )
        for s in range(20)
    ]
    assert np.mean(unrelated) < 0.15  # about 1 / sqrt(types): preferences that agree by chance


def uniform(p_values):
    """Of a discrete p-value: how often it is at most each level, never more than chance allows."""
    p = np.asarray(p_values)
    shares = [np.mean(p <= level) for level in (0.05, 0.1, 0.25, 0.5, 0.75)]
    return np.abs(np.array(shares) - [0.05, 0.1, 0.25, 0.5, 0.75]).max()


def test_swapped_towers_give_uniform_p_values():
    null = [
        swap_test(*simulated(seed, types=15, groups=12, document=0.3, tokens=15)[:2],
                  times=99, seed=seed)
        for seed in range(1000)
    ]  # fmt: skip
    assert uniform(null) < 0.045
    found = [
        swap_test(*simulated(seed, spread=0.5, groups=12)[:2], times=99, seed=seed)
        for seed in range(20)
    ]
    assert np.mean(np.array(found) <= 0.05) > 0.9


def test_permuted_labels_give_uniform_p_values():
    bins_V = np.arange(30) // 10  # a type's tokens fall with its number
    null, found = [], []
    for seed in range(1000):
        for spread, into in ((0.0, null), (0.6, found))[: 1 if seed >= 20 else 2]:
            count_GV, sum_GV, _ = simulated(seed, types=30, spread=spread, tokens=20)
            # all types of a frequency alike, frequencies not: that is no preference of types
            sum_GV = sum_GV + count_GV * bins_V
            halves = split_means(count_GV, sum_GV, random_halves(10, 1, seed))
            into.append(label_test(halves, bins_V, times=99, seed=seed))
    assert uniform(null) < 0.045
    assert np.mean(np.array(found) <= 0.05) > 0.9


def test_permutations_stay_within_bins():
    bins_V = np.array([1, 0, 1, 1, 0, 2])
    made = list(permuted_within(bins_V, 200, 0))
    assert all((bins_V[order_V] == bins_V).all() for order_V in made)
    assert all(sorted(order_V) == list(range(6)) for order_V in made)
    assert len({tuple(order_V) for order_V in made}) == 12  # 3! * 2! * 1!


def test_classes_are_tested_against_others_of_their_frequency():
    rng = np.random.default_rng(0)
    bins_V = np.repeat(np.arange(4), 25)
    inside_CV = np.stack([rng.random(100) < 0.4, bins_V == 3, rng.random(100) < 0.5])
    values_V = bins_V + 0.1 * rng.standard_normal(100) + 0.2 * inside_CV[0]
    p = class_tests(values_V, np.ones(100), inside_CV, bins_V, times=499, seed=0)
    assert p[0] < 0.01
    assert p[1] == 1  # a class that is a bin cannot be told from its frequency
    assert p[2] > 0.02
    with pytest.raises(UserError, match="must have types"):
        class_tests(values_V, np.ones(100), np.zeros((1, 100), bool), bins_V, times=9, seed=0)


def test_the_exact_permutation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for a, b in ((4, 4), (3, 5), (2, 3)):
        x: Any = rng.normal(size=a) + 0.5
        y: Any = rng.normal(size=b)
        expected = stats.permutation_test(
            (x, y), lambda x, y: x.mean() - y.mean(), alternative="greater", n_resamples=10**6
        ).pvalue
        assert exact_permutation(x, y) == pytest.approx(expected)
    ours, null = np.arange(10.0, 14.0), np.arange(0.0, 4.0)
    assert exact_permutation(ours.astype(np.float64), null.astype(np.float64)) == pytest.approx(
        1 / 70
    )
    with pytest.raises(UserError, match="at least 1 each"):
        exact_permutation(np.array([]), np.ones(3))


def test_independent_pairs_are_said_to_divide_labour_as_often_as_the_test_allows():
    """4 + 4 runs, all independent towers with reliable preferences of their own: at 5 %, 3 of 70
    assignments are significant."""
    first_RG = random_halves(8, 2, 0)
    rng = np.random.default_rng(1)
    fired = 0
    for case in range(1000):
        spread = rng.uniform(0, 0.5)
        values = [
            reliability(split_means(*simulated(
                (case, run), types=25, groups=8, tokens=10, spread=spread, document=0.2,
                mean=rng.normal(),
            )[:2], first_RG))[1]
            for run in range(8)
        ]  # fmt: skip
        fired += exact_permutation(np.array(values[:4]), np.array(values[4:])) <= 0.05
    assert 0.035 <= fired / 1000 <= 0.065


def test_a_correlation_without_variation_is_zero():
    ones = np.ones((1, 4))
    assert weighted_correlation(ones, np.arange(4.0)[None], ones).tolist() == [0.0]
