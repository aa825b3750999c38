"""Comparisons of the arrow study taken together, and budgets that end among jumps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lmlab.numerics.random_effects import Clusters, two_way_interval
from lmlab.topics.arrow.arrow import PositionArrow, arrow_components, arrow_of_time
from lmlab.topics.arrow.comparison import Comparison, Curve, Excess, Floor, ModelResult, transition
from lmlab.topics.arrow.family import ArrowStudy, means_over_corpora, with_adjusted
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.study import run_arrow
from lmlab.topics.arrow.tables import comparison_words, mean_words
from test_synthesis import ARROWS, BY_SEED, ERRORS
from test_transitions import TIMES, jump_at


def logged(corpus: str, relative: float, error: float, by_seed: list[float]) -> Comparison:
    """A comparison of the log, whose figures are per cent."""
    half = float(stats.t.ppf(0.975, 2)) * error
    arrow = replace(
        arrow_of_time(np.ones((3, 5)), np.ones((3, 5)), np.arange(5)),
        relative=relative / 100,
        interval=((relative - half) / 100, (relative + half) / 100),
        standard_error=error / 100,
        degrees_of_freedom=2.0,
        relative_by_seed=tuple(each / 100 for each in by_seed),
    )
    model = ModelResult("m", 5.0, None, (5.0,), Curve((1, 2), (6.0, 5.0)))
    return Comparison(
        corpus, "bpe", "gpt2 micro, context 256", "backward", 256, "document", 5, arrow, None,
        (PositionArrow(0, 0, arrow),), (model,), (model,), None, None,
    )  # fmt: skip


LANGUAGES = ("English", "French", "German", "Italian", "Spanish")


@pytest.fixture
def languages():
    rows = zip(LANGUAGES, ARROWS, ERRORS.tolist(), BY_SEED, strict=True)
    return [logged(*row) for row in rows]


def test_five_languages_undecided_alone_are_one_finding_together(languages):
    (mean,) = means_over_corpora(languages)
    # -0.69 from figures that were not rounded
    said = "backward is easier (−0.41 %, 95 % interval −0.68 % to −0.14 %;"
    assert mean_words(mean).startswith(said)
    assert (mean.seed_df, mean.corpora) == (10, LANGUAGES)
    assert mean.seed_sd == pytest.approx(0.00325, abs=5e-6)
    assert mean.finding == "below"
    study = ArrowStudy("title", ArrowConfig(), (), with_adjusted(languages), (), (mean,))
    said = study.summary()
    assert said.startswith("Mean over 5 corpora (gpt2 micro, context 256): backward is easier")
    assert "seen in 0 of 5 comparisons, p-values adjusted for so many (Holm)." in said


def test_a_mean_needs_three_corpora_and_leaves_out_jumps(languages):
    assert means_over_corpora(languages[:2]) == ()
    jumps = transition(curves([3e5]), curves([8e5]))
    assert jumps is not None
    languages[0] = replace(languages[0], transition=replace(jumps, inside=True))
    (mean,) = means_over_corpora(languages)
    assert (mean.mean.rows, mean.left_out) == (4, ("English",))
    excess = Excess(two_way_interval(np.eye(5)), ())
    known = [replace(each, floor=Floor(1.0, None, excess, excess)) for each in languages[:3]]
    assert means_over_corpora([*known, *languages[3:]]) == ()


def test_p_values_of_a_study_are_adjusted_together(languages):
    p = [0.01, 0.02, 0.03, 0.2, 0.5]
    tested = [
        replace(
            c, arrow=replace(c.arrow, relative=c.arrow.standard_error * stats.t.isf(each / 2, 2))
        )
        for c, each in zip(languages, p, strict=True)
    ]
    assert [c.p_adjusted for c in with_adjusted(tested)] == pytest.approx(
        [0.05, 0.08, 0.09, 0.4, 0.5]
    )


def curves(times):
    return [Curve(tuple(TIMES), tuple(jump_at(time))) for time in times]


def test_a_budget_that_ends_among_jumps_leaves_final_losses_undecided(languages):
    found = transition(curves([3e5, 4e5, 3.5e5]), curves([8e5, 5e6, 5e6]))
    assert found is not None
    assert found.inside
    assert [t is None for t in found.times.second] == [False, True, True]
    assert found.times.p == found.times.least_p == pytest.approx(0.1)
    said = comparison_words(replace(languages[0], transition=found))
    assert said.startswith("final losses decide nothing here (−0.41 %")
    assert "forward falls below 0.3" in said
    assert "in 3 of 3 runs" in said
    assert "backward falls below 0.3" in said
    assert "in 1 of 3 runs" in said


def test_jumps_long_before_the_end_leave_the_verdict_as_it_is(languages):
    found = transition(curves([2e5, 3e5]), curves([4e5, 3.5e5]))
    assert found is not None
    assert not found.inside
    first = languages[0]
    assert comparison_words(replace(first, transition=found)) == comparison_words(first)
    smooth = [Curve(tuple(TIMES), tuple(5 - np.log(TIMES / 1e6)))] * 2
    assert transition(smooth, smooth) is None
    assert transition([Curve((), ())], [Curve((), ())]) is None


def test_variance_components_of_an_arrow_are_those_of_its_windows():
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(30), 40)
    clusters = np.repeat(np.arange(120), 10)
    forward = np.full((6, 1200), 100.0)
    seeds = rng.normal(0, 0.004, (6, 1))
    relative = 0.01 + seeds + rng.normal(0, 0.006, 30)[documents]
    relative = relative + rng.normal(0, 0.003, 120)[clusters]
    found = arrow_components(forward * (1 - relative / 2), forward * (1 + relative / 2),
                             Clusters(clusters, documents))  # fmt: skip
    assert found is not None
    assert found.seed is not None
    assert found.document is not None
    assert found.seed**0.5 == pytest.approx(seeds.std(ddof=1), rel=0.01)
    assert found.document**0.5 == pytest.approx(0.006, rel=0.25)
    assert found.section**0.5 == pytest.approx(0.003, rel=0.2)
    assert found.residual == pytest.approx(0, abs=1e-9)
    assert (found.seed_df, found.document_df, found.sections_per_document) == (5, 29, 4)
    assert arrow_components(forward, forward, Clusters(np.zeros(1200, dtype=int))) is None


def test_the_page_draws_the_mean_as_a_diamond(tmp_path, text_folder):
    config = ArrowConfig(
        text=(str(text_folder),), size=("nano",), context=(16,), seeds=2, vocabulary=300,
        tokens=600, batch_tokens=64, lab=tmp_path, out=tmp_path / "study",
    )  # fmt: skip
    result = run_arrow(config)
    (comparison,) = result.comparisons
    assert result.means == ()
    assert comparison.components is not None
    assert comparison.components.seed_df == 1
    of_corpora = []
    for corpus, relative in (("a", 0.01), ("b", 0.012), ("c", 0.009), ("d", 0.013)):
        arrow = replace(
            comparison.arrow,
            relative=relative,
            standard_error=0.002,
            degrees_of_freedom=4.0,
            interval=(relative - 0.02, relative + 0.02),
            documents=9,
            relative_by_seed=(relative - 0.001, relative + 0.001),
        )
        times = transition(curves([3e5, 5e6]), curves([9e5, 5e6])) if corpus == "d" else None
        of_corpora.append(replace(comparison, corpus=corpus, arrow=arrow, transition=times))
    of_corpora = with_adjusted(of_corpora)
    study = replace(result, comparisons=of_corpora, means=means_over_corpora(of_corpora))
    page = study.page()
    assert "Mean over 3 corpora" in page
    assert "When the curves jump" in page
    assert "The budget ends among the jumps of d" in page
    assert "Mean over 3 corpora" not in replace(study, means=()).page()


def test_one_pair_is_no_verdict_about_directions():
    rng = np.random.default_rng(1)
    forward = rng.uniform(90, 110, 400)
    documents = np.arange(400) // 20
    one = arrow_of_time(forward, forward * 1.03, documents)
    assert one.verdict == (
        "no verdict from one seed: the forward loss is lower for these two models on this text"
    )
    two = arrow_of_time([forward] * 2, [forward * 1.03] * 2, documents)
    assert two.verdict == (
        "no verdict from 2 seeds: the forward loss is lower for these 2 pairs of models on this "
        "text"
    )
    three = arrow_of_time([forward] * 3, [forward * 1.03] * 3, documents)
    assert three.verdict == "forward is easier"
