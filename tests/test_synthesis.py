"""The mean over rows: the five logged arrows, closed forms, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lmlab.errors import UserError
from lmlab.numerics.synthesis import between_variance, pooled_variances, synthesis

# docs/experiments.md, 2026-11-21, "Arrow of time, five languages, small steps": per cent
BY_SEED = [
    [+0.09, -0.56, -0.75],  # English
    [-0.66, -0.75, -0.07],  # French
    [-0.35, -0.55, -0.93],  # German
    [-0.34, -0.87, -0.32],  # Italian
    [+0.08, -0.05, -0.14],  # Spanish
]
ARROWS = [-0.41, -0.49, -0.61, -0.51, -0.04]
HALF_WIDTHS = [1.09, 0.925, 0.74, 0.79, 0.295]
ERRORS = np.array(HALF_WIDTHS) / stats.t.ppf(0.975, 2)


def test_five_arrows_of_which_none_was_seen_are_seen_together():
    variances, deviation, df = pooled_variances(BY_SEED, ERRORS**2)
    assert (deviation, df) == (pytest.approx(0.325, abs=0.0005), 10)
    found = synthesis(ARROWS, variances)
    assert found.low is not None
    assert found.high is not None
    assert found.estimate == pytest.approx(-0.41, abs=0.005)
    assert (found.low, found.high) == pytest.approx((-0.69, -0.14), abs=0.006)
    # alone, the same rows hold zero
    assert all(abs(a) < h for a, h in zip(ARROWS, HALF_WIDTHS, strict=True))


def test_without_pooling_the_row_whose_seeds_agreed_by_chance_leads():
    own = synthesis(ARROWS, ERRORS**2)
    assert own.weights[4] == max(own.weights)
    assert own.estimate == pytest.approx(-0.363, abs=0.001)
    assert max(synthesis(ARROWS, pooled_variances(BY_SEED, ERRORS**2)[0]).weights) < 0.21


def test_rows_of_equal_variance_are_a_plain_mean_with_a_t_interval():
    rng = np.random.default_rng(0)
    y = rng.normal(0, 2, 7)
    found = synthesis(y, np.full(7, 0.01))
    low, high = stats.t.interval(0.95, 6, y.mean(), stats.sem(y))
    assert (found.estimate, found.low, found.high) == pytest.approx((y.mean(), low, high))
    assert found.between**2 == pytest.approx(y.var(ddof=1) - 0.01)


def test_between_variance_solves_its_equation():
    rng = np.random.default_rng(1)
    v = rng.uniform(0.1, 2, 9)
    y = rng.normal(0, np.sqrt(v + 9))
    tau2 = between_variance(y, v)
    w = 1 / (v + tau2)
    assert tau2 > 0
    assert (w * (y - w @ y / w.sum()) ** 2).sum() == pytest.approx(8)


def test_rows_that_agree_too_well_keep_the_error_of_their_own():
    found = synthesis([1.0, 1.0, 1.0, 1.0], [4.0, 4.0, 4.0, 4.0])
    assert found.between == 0
    assert found.standard_error == pytest.approx(1.0)  # sqrt(4 / 4)


def test_coverage_of_the_mean_over_rows_with_pooled_seeds():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(1200):
        rows = rng.normal(0, 0.2, 5)
        seeds = rows[:, None] + rng.normal(0, 0.3, (5, 3))
        variances = seeds.var(axis=1, ddof=1) / 3
        found = synthesis(seeds.mean(1), pooled_variances(list(seeds), variances)[0])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / 1200 <= 0.98


def test_two_rows_have_a_mean_but_no_interval_and_one_has_none():
    found = synthesis([1.0, 3.0], [1.0, 1.0])
    assert (found.estimate, found.low, found.standard_error) == (2.0, None, None)
    with pytest.raises(AssertionError):
        synthesis([1.0], [1.0])
    with pytest.raises(UserError, match="two seeds"):
        pooled_variances([[1.0], [2.0]], [1.0, 1.0])


def test_pooling_takes_the_seeds_part_only():
    # the text's part of a row's variance stays: 5 beyond the seeds' 1
    variances, deviation, df = pooled_variances([[0.0, 2.0], [0.0, 4.0]], [6.0, 9.0])
    assert (deviation, df) == (pytest.approx(np.sqrt(5)), 2)
    assert variances == pytest.approx([5 + 2.5, 5 + 2.5])
