"""Jumps of learning curves and times to a threshold; and why final losses do not do there."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from lmlab.errors import UserError
from lmlab.numerics.random_effects import two_way_interval
from lmlab.numerics.transitions import compare_times, find_jump, logrank_scores, time_below

TIMES = np.arange(1, 21) * 50_000.0  # twenty validations, as a study's run has


def coverage(seeds, share, noise, times, rng):
    """Share of intervals that hold the true arrow: one direction has jumped, the other maybe."""
    held = 0
    text = rng.normal(0, 0.02, (times, 1, 12))
    jumped = rng.random((times, seeds, 1)) < share
    values = 1.0 - jumped + rng.normal(0, noise, (times, seeds, 1)) + text
    for each in values:
        interval = two_way_interval(each)
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= 1 - share <= interval.high
    return 100 * held / times


def test_seeds_about_a_transition_make_the_interval_of_the_final_loss_useless():
    rng = np.random.default_rng(0)
    two = [coverage(2, p, noise, 700, rng) for p in (0.3, 0.5, 0.7) for noise in (0.01, 0.2)]
    three = [coverage(3, p, noise, 700, rng) for p in (0.3, 0.5, 0.7) for noise in (0.01, 0.08)]
    assert 35 < min(two) < 50
    assert 87 < max(two) < 95
    assert 58 < min(three) < 70
    assert 72 < max(three) < 82


def jump_at(time, *, plateau=0.42, floor=0.33, width=0.06, slope=0.02):
    """A curve that falls a little by log time and, about `time`, from plateau to floor."""
    x = np.log(TIMES)
    smooth = plateau - slope * (x - x[0])
    return smooth - (plateau - floor) / (1 + np.exp(-(x - np.log(time)) / width))


def noisy(curve, rng, sd=0.001):
    return curve + rng.normal(0, sd, len(curve))


@pytest.mark.parametrize("time", [2e5, 3e5, 4.5e5, 7e5, 9e5])
def test_a_jump_is_found_where_it_is(time):
    rng = np.random.default_rng(int(time))
    for _ in range(50):
        jump = find_jump(TIMES, noisy(jump_at(time), rng))
        assert jump is not None
        reached = time_below(TIMES, jump_at(time), jump.threshold)
        assert reached is not None
        assert time / 1.25 < reached < 1.25 * time


def smooth_curves():
    """Curves without a jump: power laws, a straight line, one that has ended, a cosine's end."""
    t = TIMES / TIMES[-1]
    yield from (2 + a * t**-b for a in (0.5, 3.0) for b in (0.1, 0.5, 1.0))
    yield 5 - np.log(t)
    yield np.full(20, 0.42)
    yield 3 + t**-0.4 + 0.15 * np.cos(np.pi * t / 2)
    yield 3 + 2 * np.exp(-t / 0.3)


def test_smooth_curves_have_no_jump_with_or_without_noise():
    rng = np.random.default_rng(1)
    for curve in smooth_curves():
        assert find_jump(TIMES, curve) is None
        for sd in (0.001, 0.01, 0.05):
            found = [find_jump(TIMES, noisy(curve, rng, sd)) for _ in range(40)]
            assert sum(jump is not None for jump in found) <= 4


def test_the_fall_off_the_first_plateau_is_no_jump():
    t = TIMES / TIMES[-1]
    curve = 6.0 + 3.0 / (1 + (t / 0.04) ** 4)
    assert find_jump(TIMES, curve) is None
    assert find_jump(TIMES[:3], curve[:3]) is None  # too few to tell


def test_time_below_is_between_the_validations():
    assert time_below([1, 2, 3], [5.0, 4.0, 2.0], 3.0) == 2.5
    assert time_below([1, 2, 3], [5.0, 4.0, 2.0], 4.0) == 2.0
    assert time_below([1, 2], [5.0, 4.0], 6.0) == 1.0
    assert time_below([1, 2], [5.0, 4.0], 3.0) is None
    with pytest.raises(AssertionError):
        time_below([2, 1], [1.0, 1.0], 0.5)


def test_the_log_rank_statistic_is_scipys():
    rng = np.random.default_rng(2)
    for _ in range(20):
        x, y = rng.exponential(1.0, 7), rng.exponential(1.6, 6)
        scores = logrank_scores(
            np.minimum(np.concatenate([x, y]), 1.2), np.concatenate([x, y]) <= 1.2
        )
        first, second = (
            stats.CensoredData(uncensored=z[z <= 1.2], right=np.full((z > 1.2).sum(), 1.2))
            for z in (x, y)
        )
        theirs = stats.logrank(first, second)
        # the same numerator, observed less expected; theirs is divided by its standard error
        assert np.sign(scores[:7].sum()) == np.sign(theirs.statistic)
        assert scores.sum() == pytest.approx(0, abs=1e-12)
        assert scores[:7].sum() == pytest.approx(numerator(x, y, 1.2))


def numerator(x, y, budget):
    """Observed less expected events of the first group, by its definition."""
    total = 0.0
    for t in sorted(z for z in [*x, *y] if z <= budget):
        here = [(z >= t).sum() for z in (x, y)]
        total += (t in x) - here[0] / sum(here)
    return total


def test_the_exact_p_is_the_share_of_all_orders():
    first, second, budget = [1.0, 2.0, 2.5], [3.0, None, None], 4.0
    found = compare_times(first, second, budget)
    assert (found.mean_first, found.mean_second) == pytest.approx((5.5 / 3, 11 / 3))
    assert found.p == pytest.approx(2 / 20)
    assert found.least_p == pytest.approx(2 / 20)
    every = [4.0 if t is None else t for t in [*first, *second]]
    reached = [t is not None for t in [*first, *second]]
    sums = []
    for order in permutations(range(6)):
        scores = logrank_scores(
            np.array([every[i] for i in order]), np.array([reached[i] for i in order])
        )
        sums.append(abs(scores[:3].sum()))
    assert found.p == pytest.approx(np.mean(np.array(sums) >= sums[0] - 1e-12))


def test_the_exact_p_is_uniform_without_a_difference():
    rng = np.random.default_rng(3)
    draws = rng.exponential(1, (500, 2, 4))
    censored = [[[t if t < 1 else None for t in z] for z in pair] for pair in draws]
    p = np.array([compare_times(first, second, 1.0).p for first, second in censored])
    for level in (0.1, 0.2, 0.5):
        assert (p <= level).mean() <= level + 0.05


def test_times_out_of_range_are_refused():
    with pytest.raises(UserError, match="at most the budget"):
        compare_times([5.0], [None], 4.0)
    with pytest.raises(UserError, match="at most 20"):
        compare_times([], [1.0], 4.0)
    assert compare_times([None, None], [None, None], 4.0).p == 1.0
