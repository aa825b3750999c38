"""Intervals of positive ratios and of shares: never where no value lies, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import rankdata

from lmlab.errors import UserError
from lmlab.numerics.bounded import (
    positive_ratio_interval,
    rank_correlation_bounds,
    share_bounds,
    share_interval,
    unless_all_agree,
    within,
)
from lmlab.numerics.random_effects import two_way_interval, two_way_ratio


def test_a_factor_has_no_interval_below_zero():
    """Was: [-749.6, 863.3] for a factor of 57, where one cluster rules the sum."""
    before_C = np.array([1.0, 1.2, 0.8, 1.1, 0.9, 1.0])
    after_C = np.array([2.0, 2.2, 330.0, 2.5, 1.7, 3.0])
    symmetric = two_way_ratio(after_C[None], before_C[None])
    assert symmetric.low is not None
    assert symmetric.low < 0
    made = positive_ratio_interval(after_C, before_C)
    assert made.estimate == pytest.approx(after_C.sum() / before_C.sum())
    assert made.low is not None
    assert made.high is not None
    assert 0 < made.low < made.estimate < made.high
    # the ends are as far from the estimate, as factors, and the inverse has the inverse interval
    assert made.high / made.estimate == pytest.approx(made.estimate / made.low)
    other = positive_ratio_interval(before_C, after_C)
    assert other.estimate == pytest.approx(1 / made.estimate)
    # scale does not matter
    scaled = positive_ratio_interval(1e-9 * after_C, before_C)
    assert scaled.high == pytest.approx(1e-9 * made.high)


def test_where_clusters_agree_the_interval_is_that_of_the_ratio_itself():
    rng = np.random.default_rng(0)
    before_C = rng.uniform(1, 2, 40)
    after_C = 3 * before_C * np.exp(0.02 * rng.normal(size=40))
    made = positive_ratio_interval(after_C, before_C)
    plain = two_way_ratio(after_C[None], before_C[None])
    assert (made.estimate, made.low, made.high) == pytest.approx(
        (plain.estimate, plain.low, plain.high), rel=1e-3
    )
    assert made.standard_error == pytest.approx(plain.standard_error, rel=0.03)


@pytest.mark.parametrize(("clusters", "spread", "least"), [(12, 0.3, 0.92), (12, 1.0, 0.86)])
def test_coverage_is_above_that_of_a_symmetric_interval(clusters, spread, least):
    rng = np.random.default_rng(1)
    # sizes and factors are log-normal and independent
    truth = np.exp(spread**2 / 2)
    covered = []
    for _ in range(600):
        before_C = np.exp(rng.normal(0, 0.5, clusters))
        after_C = before_C * np.exp(rng.normal(0, spread, clusters))
        ends = (
            positive_ratio_interval(after_C, before_C),
            two_way_ratio(after_C[None], before_C[None]),
        )
        covered.append(
            [i.low is not None and i.high is not None and i.low <= truth <= i.high for i in ends]
        )
    ours, symmetric = np.mean(covered, axis=0)
    assert ours > least
    assert ours > symmetric - 0.01 + 0.03 * (spread == 1.0)


def test_what_is_no_positive_ratio():
    ones_C = np.ones(6)
    for top_C, below_C, message in (
        (0 * ones_C, ones_C, "not negative and not 0"),
        (ones_C, -ones_C, "not negative"),
        (np.eye(6)[0], ones_C, "one cluster holds all"),
    ):
        with pytest.raises(UserError, match=message):
            positive_ratio_interval(top_C, below_C)
    alone = positive_ratio_interval([3.0], [2.0])
    assert (alone.estimate, alone.low) == (pytest.approx(1.5), None)


def test_shares_end_at_their_bounds():
    made = two_way_interval(np.array([[1.0, 1.0, 1.0, 0.9, 1.0, 1.0]]))
    assert made.high is not None
    assert made.high > 1
    cut = within(made, 0, 1)
    assert (cut.low, cut.high, cut.estimate) == (made.low, 1, made.estimate)
    few = two_way_interval(np.ones((1, 3)))
    assert within(few, 0, 1) == few


def test_the_ends_of_a_share_are_where_it_would_just_be_rejected():
    """Wilson's definition: the shares whose own standard error puts the seen one at t."""
    for share, n in ((0.5, 30), (0.9, 12), (1.0, 5), (0.0, 400)):
        error = np.sqrt(share * (1 - share) / n)
        t = stdtrit(n - 1, 0.975)
        for end in share_bounds(share, error, n - 1, units=n, level=0.95):
            if end not in (0, 1):
                assert abs(share - end) == pytest.approx(t * np.sqrt(end * (1 - end) / n))


@pytest.mark.parametrize(("truth", "alike"), [(0.02, 0.0), (0.98, 0.0), (0.05, 0.3), (0.5, 0.3)])
def test_a_share_of_0_or_1_is_not_certain(truth, alike):
    """Was: standard error 0 where all items agree, an interval of one point that covers nothing.
    20 sets of 5 items whose own shares have a beta law with intraclass correlation `alike`."""
    rng = np.random.default_rng(0)
    strength = (1 - alike) / alike if alike else np.inf
    covered = []
    for _ in range(1500):
        own_C = rng.beta(truth * strength, (1 - truth) * strength, 20) if alike else truth
        seen = two_way_interval(rng.binomial(5, own_C, 20)[None] / 5)
        interval = share_interval(seen)
        assert interval.low is not None
        assert interval.high is not None
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
        assert interval.low < interval.high
        assert seen.low is not None
        assert seen.high is not None
        covered.append([i.low <= truth <= i.high for i in (interval, seen)])  # pyright: ignore
    ours, symmetric = np.mean(covered, axis=0)
    assert ours > 0.93
    assert ours > symmetric - 0.01
    if truth in (0.02, 0.98):
        assert symmetric < 0.89


def test_a_rank_correlation_stays_within_its_ends():
    """Bonett and Wright's error on the scale of Fisher's z, by hand; and where z is infinite."""

    def bounds(correlation, items):
        ends = rank_correlation_bounds(correlation, items)
        assert ends is not None
        return np.array(ends)

    error = np.sqrt((1 + 0.18) / 25)
    assert np.arctanh(bounds(0.6, 28)) == pytest.approx(
        np.arctanh(0.6) + error * np.array([-1, 1]) * 1.959964
    )
    swapped = float(np.corrcoef(np.arange(10), [0, 1, 2, 4, 3, 5, 6, 7, 8, 9])[0, 1])
    assert bounds(1.0, 10) == pytest.approx([bounds(swapped, 10)[0], 1])
    assert bounds(-1.0, 10) == pytest.approx([-1, -bounds(swapped, 10)[0]])
    assert rank_correlation_bounds(0.5, 3) is None


@pytest.mark.slow
@pytest.mark.parametrize("items", [20, 90])
@pytest.mark.parametrize("shares", [None, 10])
def test_intervals_of_rank_correlations_cover(items, shares):
    """Pairs with a normal law, whose Spearman correlation is 6 / pi arcsin(rho / 2); and with
    people's shares in tenths, as of WUG's items, where it is that of 400,000 pairs."""

    def pairs(rng, rho, *shape):
        x = rng.normal(size=shape)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=shape)
        return x, y if shares is None else np.round(shares / (1 + np.exp(-y))) / shares

    def spearman(x, y):
        a, b = (r - r.mean(-1, keepdims=True) for r in (rankdata(x, axis=-1), rankdata(y, axis=-1)))
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))

    rng = np.random.default_rng(0)
    for rho in (0.0, 0.5, 0.9):
        truth = 6 / np.pi * np.arcsin(rho / 2)
        if shares is not None:
            truth = spearman(*pairs(rng, rho, 400_000))
        bounds = [rank_correlation_bounds(float(r), items) or (0, 0)
                  for r in spearman(*pairs(rng, rho, 4000, items))]  # fmt: skip
        covered = np.mean([low <= truth <= high for low, high in bounds])
        assert 0.94 < covered < 0.975, rho


def test_agreement_of_all_has_no_bounds():
    made = two_way_interval(np.ones((2, 8)))
    assert (made.low, made.high) == (1, 1)
    cut = unless_all_agree(made, np.ones((2, 8)))
    assert (cut.bounds, cut.estimate, cut.basis) == (None, 1, "none")
    assert unless_all_agree(made, np.arange(3)) is made
