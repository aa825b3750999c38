"""`lmlab plan`: seeds and documents for a difference, from typed and from measured noise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lmlab.cli import main
from lmlab.durable import write_json
from lmlab.errors import UserError
from lmlab.numerics.plan import Noise
from lmlab.numerics.power import VarianceComponents
from lmlab.numerics.random_effects import two_way_interval
from lmlab.topics.arrow.arrow import arrow_of_time
from lmlab.topics.arrow.comparison import Comparison
from lmlab.topics.arrow.counting import FitWithArrow
from lmlab.topics.arrow.family import ArrowStudy
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.headless.arms import REFERENCE, ROWS
from lmlab.topics.headless.comparison import Headless, RowResult, VocabularyResult
from lmlab.topics.headless.costs import StepTimes
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.planning.options import PlanConfig
from lmlab.topics.planning.plan import Plan, plan
from lmlab.topics.registry import read_result


def test_the_logged_seed_noise_sees_one_per_cent_with_three_seeds_and_a_fifth_with_23(
    tmp_path, capsys
):
    asked = ["--effect", "0.2", "--seed-sd", "0.325", "--out", str(tmp_path)]
    assert main(["plan", *asked]) == 0
    printed = capsys.readouterr().out
    assert "takes 23 seeds of each side" in printed
    result = read_result(tmp_path)
    assert isinstance(result, Plan)
    assert result.seeds_for_this_text == 23
    first = result.designs[0]
    assert (first.seeds, first.documents) == (3, None)
    assert first.detectable == pytest.approx(1.06, abs=0.005)
    assert result.frame().iloc[0].tolist() == [3, first.detectable]
    page = (tmp_path / "report.html").read_text()
    assert page == result.page()
    assert "nothing of others than the given ones" in page


def test_planned_power_is_the_share_of_simulated_intervals_without_zero():
    noise = Noise(seed=0.4, document=0.6, section=0.5, residual=0.2, sections=3)
    rng, seeds, documents, times = np.random.default_rng(0), 4, 12, 600
    effect = noise.detectable(seeds, documents, wanted=0.8)
    seen = 0
    for _ in range(times):
        values = rng.normal(0, 0.4, (seeds, 1)) + rng.normal(0, 0.6, documents) + effect
        values = values + rng.normal(0, 0.5 / math.sqrt(3), documents)
        interval = two_way_interval(values + rng.normal(0, 0.2 / math.sqrt(3), (seeds, documents)))
        assert interval.low is not None
        seen += interval.low > 0
    # the interval's degrees of freedom are estimated, the plan's are not
    assert seen / times == pytest.approx(0.8, abs=0.07)


def arrow_study(folder, *components: VarianceComponents | None):
    """The results of a study whose comparisons have these components; returns its folder."""
    nats_M = np.arange(1.0, 10)
    arrow = arrow_of_time(nats_M, nats_M, np.arange(9))
    comparison = Comparison(
        "c", "bpe", "gpt2", "backward", 16, "document", 9 * 9000, arrow, None, (), (), (), None,
        None,
    )  # fmt: skip
    comparisons = tuple(replace(comparison, components=each) for each in components)
    study = ArrowStudy("title", ArrowConfig(tokens=1_000_000), (), comparisons, (), ())
    write_json(folder / "results.json", study.to_json())
    return folder


COMPONENTS = VarianceComponents(
    seed=1e-5, document=4e-6, section=2e-6, residual=1e-6, seed_df=2, document_df=9,
    section_df=20, sections_per_document=3.0,
)  # fmt: skip


def test_a_finished_study_gives_its_noise_pooled_over_its_comparisons(tmp_path):
    folder = arrow_study(tmp_path, COMPONENTS, replace(COMPONENTS, seed=4e-5, seed_df=4))
    result = plan(PlanConfig(folder, effect=0.5))
    measured, interval = result.measured, result.seed_interval
    # per cent; (2 * 1e-5 + 4 * 4e-5) / 6
    assert measured.noise.seed == pytest.approx(100 * math.sqrt(3e-5))
    assert measured.noise.document == pytest.approx(0.2)
    assert (measured.seed_df, measured.document_df, measured.unit) == (6, 18, "%")
    assert interval is not None
    assert interval.deviation[0] < measured.noise.seed < interval.deviation[1]
    row = next(row for row in result.enough if row.documents is not None)
    assert row.documents is not None
    assert row.training_tokens == 2 * row.seeds * 1_000_000
    assert row.scored_tokens == row.documents * 9000
    assert measured.noise.power(0.5, row.seeds, row.documents) >= 0.8
    if row.documents > 5:
        assert measured.noise.power(0.5, row.seeds, row.documents - 1) < 0.8
    assert f"For other texts too: {row.seeds} seeds and" in result.page()
    assert len(result.tables()) == 2


def test_few_documents_leave_other_texts_open(tmp_path):
    folder = arrow_study(tmp_path, replace(COMPONENTS, document_df=1))
    result = plan(PlanConfig(folder, effect=0.5))
    assert result.measured.noise.document is None
    assert result.enough == ()


def test_a_headless_study_gives_the_seeds_of_its_paired_differences(tmp_path):
    nats = {REFERENCE: (5.0, 5.1, 5.3), "headless": (4.9, 5.2, 5.1)}
    rows = tuple(
        RowResult(
            row,
            nats[row.key],
            bits_per_byte=(None,) * 3,
            difference=None if row.key == REFERENCE else two_way_interval(np.eye(3)),
            repeated=None,
            new=None,
        )
        for row in ROWS
        if row.key in nats
    )
    arrow = arrow_of_time(np.ones((3, 9)), np.ones((3, 9)), np.arange(9))
    counted = FitWithArrow("Kneser-Ney", 2, None, (5.2, 5.0), 10, 5.0, 5.0, arrow)
    part = VocabularyResult(
        300, "store", "", training_tokens_available=10,
        step_times=StepTimes({}), weights={}, rates={}, tokens_scored=10, repeated_share=0.5,
        documents=9, clusters=9, cluster_unit="documents", rows=rows, curves=(), above_counting={},
        counted=counted, tasks=(), geometry={},
    )  # fmt: skip
    study = Headless("corpus", HeadlessStudyConfig(), (part,), ())
    write_json(tmp_path / "results.json", study.to_json())
    result = plan(PlanConfig(tmp_path, effect=0.1))
    assert result.measured.noise.seed == pytest.approx(np.std([-0.1, 0.1, -0.2], ddof=1))
    assert result.measured.unit == "nats per token"


def test_plans_that_make_no_sense(tmp_path):
    options: dict[str, Any]
    for options, said in (
        ({"effect": 0.0, "seed_sd": 1.0}, "above 0"),
        ({"effect": 0.2}, "finished study, or `seed_sd`"),
        ({"effect": 0.2, "seed_sd": 0.0}, "nothing to plan"),
        ({"effect": 0.2, "seed_sd": 1.0, "section_sd": 1.0}, "`document_sd`"),
        ({"effect": 0.2, "seed_sd": 1.0, "seeds": (2, 3)}, "from 3 on"),
        ({"effect": 0.2, "seed_sd": 1.0, "power": 1.0}, "`power`"),
    ):
        with pytest.raises(UserError, match=said):
            PlanConfig(**options)
    with pytest.raises(UserError, match="without variance components"):
        plan(PlanConfig(arrow_study(tmp_path, None), effect=1))
    with pytest.raises(UserError, match="give `seed_sd`"):
        plan(PlanConfig(arrow_study(tmp_path, replace(COMPONENTS, seed=None, seed_df=0)), effect=1))
    plan(PlanConfig(effect=1, seed_sd=1)).save(tmp_path)
    with pytest.raises(
        UserError, match=r"a result of kind 'plan'; .* an arrow, a headless or a babylm"
    ):
        plan(PlanConfig(tmp_path, effect=1))
