"""Matrices as a random factor: the interval over them, and the levels of the arrow study.

Shapes: D draws, S seeds.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lmlab.numerics.draws import mean_over_draws
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.report import ONE_MATRIX
from lmlab.topics.arrow.study import run_arrow
from lmlab.topics.arrow.tables import level_words


def test_the_interval_is_student_t_over_the_means_of_the_draws():
    values_DS = np.random.default_rng(0).normal(size=(5, 3))
    made = mean_over_draws(values_DS)
    mean_D = values_DS.mean(1)
    low, high = stats.t.interval(0.95, 4, loc=mean_D.mean(), scale=stats.sem(mean_D))
    assert (made.estimate, made.low, made.high) == pytest.approx((mean_D.mean(), low, high))
    assert (made.draws, made.seeds) == (5, 3)
    assert made.sd_seeds == pytest.approx(np.sqrt(values_DS.var(1, ddof=1).mean()))
    with pytest.raises(AssertionError):
        mean_over_draws(values_DS[:1])
    assert mean_over_draws(values_DS[:, :1]).sd_seeds is None


def test_a_selected_matrix_is_not_its_level():
    """An interval over the seeds of one matrix was taken for one of linear languages."""
    rng = np.random.default_rng(1)
    covered = {"matrices": 0, "one matrix": 0}
    for _ in range(2000):
        matrix_D, seeds_DS = rng.normal(size=(4, 1)), 0.5 * rng.normal(size=(4, 3))
        values_DS = 0.3 + matrix_D + seeds_DS
        made = mean_over_draws(values_DS)
        covered["matrices"] += made.low <= 0.3 <= made.high
        low, high = stats.t.interval(
            0.95, 2, loc=values_DS[0].mean(), scale=stats.sem(values_DS[0])
        )
        covered["one matrix"] += low <= 0.3 <= high
    assert covered["matrices"] / 2000 == pytest.approx(0.95, abs=0.015)
    assert covered["one matrix"] / 2000 < 0.75


def test_variance_between_draws_is_told_from_that_of_seeds():
    rng = np.random.default_rng(2)
    values_DS = 2 * rng.normal(size=(4000, 1)) + 0.7 * rng.normal(size=(4000, 2))
    made = mean_over_draws(values_DS)
    assert made.sd_draws == pytest.approx(2, rel=0.05)
    assert made.sd_seeds == pytest.approx(0.7, rel=0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    lab = tmp_path_factory.mktemp("lab")
    config = ArrowConfig(
        text=("linear:3:1:1-3", "linear:3:2:4"), size=("nano",), seeds=2, tokens=260,
        batch_tokens=130, context=(16,), lab=lab, out=lab / "study",
    )  # fmt: skip
    return run_arrow(config)


def test_several_matrices_of_a_level_are_one_row_over_matrices(finished):
    (level,) = finished.levels
    assert level.matrices == (1, 2, 3)
    assert len(finished.comparisons) == 4
    of_level = finished.comparisons[:3]
    runs = {model.name for c in of_level for _, models in c.sides for model in models}
    assert len(runs) == 12
    difference_D = [
        np.mean(c.floor.other.by_seed) - np.mean(c.floor.forward.by_seed) for c in of_level
    ]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(difference_D), scale=stats.sem(difference_D))
    found = level.difference
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (np.mean(difference_D), low, high)
    )
    page, rows = finished.page(), finished.tables()[0].rows
    assert "Matrices as they come" in page
    assert rows[-1][1] == level_words(level)
    assert "95 % over 3 matrices as they come, seeds 1 to 3" in rows[-1][1]
    assert ONE_MATRIX[:60] in page  # linear:3:2:4 is one matrix by name


def test_a_level_has_the_verdict_of_every_other_comparison(finished):
    """Was words of its own: no bound where nothing was decided, and a verdict from two matrices."""
    (level,) = finished.levels

    def said(values):
        return level_words(replace(level, difference=mean_over_draws(np.array(values)[:, None])))

    assert said([0.1, 0.11, 0.12]).startswith("forward is easier; backward is +0.1100 nats")
    assert said([-0.1, -0.11, -0.12]).startswith("backward is easier; ")
    assert said([0.1, 0.1001]).startswith("forward is easier for these 2 matrices; ")
    low, high = stats.t.interval(0.95, 2, loc=0.2, scale=stats.sem([0.1, 0.1, 0.4]))
    assert low < 0
    assert said([0.1, 0.1, 0.4]).startswith(
        f"not decided: any difference is below {high:.4f} nats per token with 95 %; "
    )


def test_matrices_of_a_level_share_no_seed(finished):
    seeds: dict[str, set[int]] = {}
    for path in (finished.config.lab / "runs").rglob("config.toml"):
        training = tomllib.loads(path.read_text())
        seeds.setdefault(training["store"], set()).add(training["seed"])
    assert sorted(map(sorted, seeds.values())) == [[0, 1], [0, 1], [2, 3], [4, 5]]
