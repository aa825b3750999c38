"""What a comparison may say: reach, bounds in the place of "no difference", families."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmlab.numerics.verdicts import Evidence, holm, power_words, reach, verdict


def evidence(estimate, error, *, df=8.0, seeds: int | None = 4, documents=9):
    half = stats.t.ppf(0.975, df) * error
    return Evidence(estimate, estimate - half, estimate + half, error, df, seeds, documents)


def words(found, **options):
    return verdict(
        found,
        above="forward is easier",
        below="backward is easier",
        size=lambda value: f"{value:.2f} %",
        **options,
    )


def test_one_seed_says_nothing_of_directions():
    """What was wrong: "forward is easier for these two models" of one pair whose difference two
    seeds of one model could have made."""
    assert words(evidence(3.12, 0.15, seeds=1)) == (
        "no verdict from one seed: the difference is above zero for these two models on this text"
    )
    assert words(evidence(3.12, 0.15, seeds=1), seen=("a", "b")).startswith(
        "no verdict from one seed: a for these two models"
    )
    assert words(evidence(3.12, 0.15, seeds=1, documents=2)).endswith("on these documents")
    assert words(evidence(-1, 0.1, seeds=1), models="classifiers").endswith(
        "for these two classifiers on this text"
    )
    assert not evidence(3.12, 0.15, seeds=1).general


def test_two_seeds_give_no_general_verdict_and_three_do():
    assert words(evidence(-0.86, 0.05, seeds=2), seen=("a", "b")) == (
        "no verdict from 2 seeds: b for these 2 pairs of models on this text"
    )
    assert words(evidence(-0.86, 0.05, seeds=3)) == "backward is easier"
    assert reach(3, 5) == reach(None, 5) == ""
    assert not evidence(1, 0.1, seeds=2).general
    assert evidence(1, 0.1, seeds=3).general


def test_fewer_than_five_documents_are_these_documents():
    assert words(evidence(1, 0.1, documents=4)) == "forward is easier on these documents"
    assert not evidence(1, 0.1, documents=4).general
    assert words(evidence(1, 0.1, seeds=None, documents=1)).endswith("on these documents")


def test_no_difference_seen_is_a_bound_of_the_difference():
    found = evidence(0.1, 0.2)
    assert words(found).startswith("not decided: any difference is below 0.56 % with 95 %")
    # the least margin for which two one-sided tests at 2.5 % both reject, the interval's level
    assert found.bound is not None
    p = [stats.t.sf((found.bound + sign * 0.1) / 0.2, 8) for sign in (1, -1)]
    assert max(p) == pytest.approx(0.025)
    assert found.bound == pytest.approx(0.1 + stats.t.ppf(0.975, 8) * 0.2)
    assert evidence(-0.1, 0.2).bound == found.bound
    assert words(Evidence(0.1, None, None, None, None, 1, 2)) == "no interval"


def test_the_bound_holds_the_true_difference_in_95_of_100_studies():
    rng = np.random.default_rng(0)
    for truth in (0.0, 0.1, 0.5):
        values = rng.normal(truth, 1, (2000, 6))
        errors = values.std(axis=1, ddof=1) / np.sqrt(6)
        bounds = [
            evidence(m, e, df=5).bound for m, e in zip(values.mean(axis=1), errors, strict=True)
        ]
        held = (np.array(bounds, dtype=float) >= truth).mean()
        assert held >= 0.94, truth


def test_what_would_have_been_seen_is_seen_in_80_of_100():
    rng = np.random.default_rng(1)
    found = evidence(0.1, 1 / np.sqrt(5), df=4)
    assert found.detectable is not None
    values = rng.normal(found.detectable, 1, (20_000, 5))
    p = np.asarray(stats.ttest_1samp(values, 0, axis=1)[1])
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.015)
    assert power_words(found, lambda v: f"{v:.1f}").startswith("a difference of 1.7 would")
    assert power_words(Evidence(0.1, None, None, None, None, 1, 2), str) == ""


def test_the_p_value_agrees_with_the_interval():
    rng = np.random.default_rng(2)
    for _ in range(50):
        values = rng.normal(0.5, 1, 7)
        found = evidence(values.mean(), stats.sem(values), df=6)
        assert found.p_value == pytest.approx(stats.ttest_1samp(values, 0)[1])
        assert found.p_value is not None
        assert (found.p_value < 0.05) == (found.finding in ("above", "below"))
    assert evidence(0.0, 0.0).p_value == 1
    assert evidence(0.1, 0.0).p_value == 0


def test_two_groups_of_runs_are_compared_by_welchs_test():
    rng = np.random.default_rng(4)
    a, b = rng.normal(1, 1, 5).tolist(), rng.normal(0, 3, 4).tolist()
    found = Evidence.of_two_groups(a, b, 9)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    ends = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.p_value == pytest.approx(theirs[1])
    assert found.seeds == 4
    assert Evidence.of_two_groups([1.0], b, 9).finding == "none"
    assert Evidence.of_two_groups([1.0, 1.0], [0.0, 0.0], 9).finding == "above"


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_step_down_procedure_rejects(p):
    adjusted = holm(p)
    rejected = set()
    for k, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - k) > 0.05:
            break
        rejected.add(i)
    assert {i for i, a in enumerate(adjusted) if a is not None and a <= 0.05} == rejected


def test_a_family_without_any_difference_seldom_finds_one():
    values = np.random.default_rng(3).normal(0, 1, (2000, 10, 6))
    p = np.asarray(stats.ttest_1samp(values, 0, axis=2)[1])
    adjusted = np.array([holm(family.tolist()) for family in p], dtype=float)
    assert (p < 0.05).any(1).mean() > 0.3
    assert (adjusted < 0.05).any(1).mean() < 0.065
