"""Power, sample sizes and variance components: against simulation, other distributions, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from lmlab.numerics.plan import Noise
from lmlab.numerics.power import (
    detectable_effect,
    deviation_interval,
    power,
    variance_components,
)

SEED_SD = 0.325
"""Per cent: standard deviation of the relative arrow between seeds at 1M tokens (the log)."""


def test_three_seeds_see_one_per_cent():
    assert detectable_effect(SEED_SD / math.sqrt(3), 2) == pytest.approx(1.06, abs=0.005)


@pytest.mark.parametrize(("effect", "seeds"), [(1.06, 3), (0.2, 23), (0.5, 6)])
def test_power_is_that_of_another_parametrisation(effect, seeds):
    # the noncentral t integrated over the chi distribution of the standard deviation, both tails
    df, shift = seeds - 1, effect * math.sqrt(seeds) / SEED_SD
    critical = stats.t.ppf(0.975, df)

    def given_scale(s):
        tails = stats.norm.sf(critical * s - shift) + stats.norm.cdf(-critical * s - shift)
        return tails * stats.chi.pdf(s * math.sqrt(df), df) * math.sqrt(df)

    wanted, _ = integrate.quad(given_scale, 0, np.inf)
    assert power(effect, SEED_SD / math.sqrt(seeds), df) == pytest.approx(wanted, abs=1e-7)


def test_simulated_t_tests_reject_as_often_as_the_power_says():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, SEED_SD, (40_000, 6))
    p = np.asarray(stats.ttest_1samp(values, 0, axis=1)[1])
    assert power(0.5, SEED_SD / math.sqrt(6), 5) == pytest.approx((p < 0.05).mean(), abs=0.01)


def test_power_without_an_effect_is_the_level_and_far_beyond_is_one():
    assert power(0.0, 1.0, 4) == pytest.approx(0.05)
    assert power(1e6, 1.0, 1) == 1.0


def test_a_deviation_from_two_degrees_of_freedom_is_uncertain_by_a_factor_of_twelve():
    rng = np.random.default_rng(1)
    low, high = deviation_interval(1.0, 2)
    assert high / low == pytest.approx(12.07, abs=0.01)
    measured = rng.normal(0, 1, (20_000, 3)).std(axis=1, ddof=1)
    held = (measured * low < 1) & (measured * high > 1)
    assert held.mean() == pytest.approx(0.95, abs=0.01)


def layout(rng, seeds, documents, sections, *, sd):
    """Values (S, C) of the nested, crossed model with standard deviations `sd`, and documents."""
    names = np.repeat(np.arange(documents), sections)
    seed, document, section, rest = sd
    return (
        rng.normal(0, seed, (seeds, 1))
        + rng.normal(0, document, documents)[names]
        + rng.normal(0, section, len(names))
        + rng.normal(0, rest, (seeds, len(names)))
    ), names


def test_variance_components_are_right_on_average():
    rng = np.random.default_rng(2)
    found = [
        variance_components(*layout(rng, 4, 8, 5, sd=(0.5, 1.0, 0.7, 0.3))) for _ in range(1500)
    ]
    wanted = {"seed": 0.25, "document": 1.0, "section": 0.49, "residual": 0.09}
    for name, value in wanted.items():
        measured = np.array([getattr(each, name) for each in found])
        error = measured.std() / math.sqrt(len(measured))
        # negative estimates become zero, which shifts the mean a little
        assert abs(measured.mean() - value) < 4 * error + 0.02 * value, name


def test_variance_components_of_a_balanced_layout_by_hand():
    values, names = layout(np.random.default_rng(3), 3, 4, 6, sd=(1.0, 2.0, 1.0, 0.5))
    found = variance_components(values, names)
    x = values.mean(0).reshape(4, 6)
    inside = x.var(axis=1, ddof=1).mean()
    between = x.mean(axis=1).var(ddof=1)
    rest = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
    residual = (rest**2).sum() / (2 * 23)
    assert found.residual == pytest.approx(residual)
    assert found.section == pytest.approx(inside - residual / 3)
    assert found.document == pytest.approx(between - inside / 6)
    assert found.seed == pytest.approx(values.mean(1).var(ddof=1) - residual / 24)
    assert (found.seed_df, found.document_df, found.section_df) == (2, 3, 20)


def test_small_sections_are_noisier_and_do_not_pass_for_document_variance():
    rng = np.random.default_rng(4)
    sizes = np.tile([10.0, 10.0, 10.0, 1.0], 10)
    names = np.repeat(np.arange(10), 4)
    found = [
        variance_components(
            rng.normal(0, 1, (1, 40)) / np.sqrt(sizes / sizes.mean()), names, weights_C=sizes
        )
        for _ in range(800)
    ]
    assert np.mean([each.section for each in found]) == pytest.approx(1.0, abs=0.05)
    assert found[0].seed is None


def test_one_document_leaves_the_document_variance_open():
    found = variance_components(np.random.default_rng(5).normal(size=(2, 6)), np.zeros(6, int))
    assert found.document is None
    with pytest.raises(AssertionError):
        variance_components(np.zeros((2, 1)), np.zeros(1, int))


def test_more_seeds_never_have_less_power():
    """scipy's noncentral F is NaN for some hundreds of degrees of freedom: 414 seeds were asked for
    where 4 are enough."""
    noise = Noise(1.81, None, 0, 0, 1, sides=2)
    powers = [noise.power(3.5, seeds, None) for seeds in (*range(3, 600), 1000, 3000)]
    assert np.isfinite(powers).all()
    assert (np.diff(powers) >= -1e-9).all()
    assert noise.seeds_for(3.5, None, wanted=0.8) == 4
