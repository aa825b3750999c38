"""Comparisons of the arrow study taken together, and budgets that end among jumps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from lmlab.numerics.random_effects import Clusters
from lmlab.topics.arrow import study as study
from lmlab.topics.arrow.arrow import arrow_components, arrow_of_time
from lmlab.topics.arrow.comparison import transition
from lmlab.topics.arrow.family import mean_words, means_over_corpora, with_adjusted
from lmlab.topics.arrow.findings import verdict
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.report import arrow_page, summary
from test_synthesis import ARROWS, BY_SEED, ERRORS
from test_transitions import TIMES, jump_at


def logged_cell(corpus, relative, error, by_seed):
    """A comparison of the log as `results.json` would hold it."""
    half = float(stats.t.ppf(0.975, 2)) * error
    return {
        "corpus": corpus,
        "label": "gpt2 micro, context 256",
        "tokenizer": "bpe",
        "order": "backward",
        "floor": None,
        "transition": None,
        "by_position": [],
        "arrow": {
            "relative": relative / 100,
            "interval": [(relative - half) / 100, (relative + half) / 100],
            "standard_error": error / 100,
            "relative_by_seed": [each / 100 for each in by_seed],
            "seeds": 3,
            "documents": 5,
            "p_value": float(2 * stats.t.sf(abs(relative) / error, 2)),
            "verdict": "not decided",
            "basis": "seeds and text",
        },
    }


LANGUAGES = ("English", "French", "German", "Italian", "Spanish")


@pytest.fixture
def languages():
    rows = zip(LANGUAGES, ARROWS, ERRORS.tolist(), BY_SEED, strict=True)
    return [logged_cell(*row) for row in rows]


def test_five_languages_undecided_alone_are_one_finding_together(languages):
    (mean,) = means_over_corpora(languages)
    # -0.69 from figures that were not rounded
    said = "backward is easier (−0.41 %, 95 % interval −0.68 % to −0.14 %;"
    assert mean_words(mean).startswith(said)
    assert (mean["seed_df"], mean["corpora"]) == (10, list(LANGUAGES))
    assert mean["seed_sd"] == pytest.approx(0.00325, abs=5e-6)
    said = summary(with_adjusted(languages), [mean])
    assert said.startswith("Mean over 5 corpora (gpt2 micro, context 256): backward is easier")
    assert "seen in 0 of 5 comparisons, p-values adjusted for so many (Holm)." in said


def test_a_mean_needs_three_corpora_and_leaves_out_jumps(languages):
    assert means_over_corpora(languages[:2]) == []
    languages[0]["transition"] = {"inside": True}
    (mean,) = means_over_corpora(languages)
    assert (mean["rows"], mean["left_out"]) == (4, ["English"])
    for cell in languages[:3]:
        cell["floor"] = {}
    assert means_over_corpora(languages) == []


def test_p_values_of_a_study_are_adjusted_together(languages):
    p = [0.01, 0.02, 0.03, 0.2, 0.5]
    for cell, value in zip(languages, p, strict=True):
        cell["arrow"]["p_value"] = value
        cell["by_position"] = [{"p_value": value}, {"p_value": None}, {"p_value": 0.04}]
    adjusted = with_adjusted(languages)
    found = [cell["arrow"]["p_adjusted"] for cell in adjusted]
    assert found == pytest.approx([0.05, 0.08, 0.09, 0.4, 0.5])
    assert [b["p_adjusted"] for b in adjusted[0]["by_position"]] == pytest.approx(
        [0.02, None, 0.04]
    )


def curves(times):
    return [[[t, y] for t, y in zip(TIMES, jump_at(time), strict=True)] for time in times]


def test_a_budget_that_ends_among_jumps_leaves_final_losses_undecided(languages):
    found = transition(curves([3e5, 4e5, 3.5e5]), curves([8e5, 5e6, 5e6]))
    assert found is not None
    assert found["inside"]
    assert [t is None for t in found["second"]] == [False, True, True]
    assert found["p"] == found["least_p"] == pytest.approx(0.1)
    said = verdict({**languages[0], "transition": found})
    assert said.startswith("final losses decide nothing here (−0.41 %")
    assert "forward falls below 0.3" in said
    assert "in 3 of 3 runs" in said
    assert "backward falls below 0.3" in said
    assert "in 1 of 3 runs" in said


def test_jumps_long_before_the_end_leave_the_verdict_as_it_is(languages):
    found = transition(curves([2e5, 3e5]), curves([4e5, 3.5e5]))
    assert found is not None
    assert not found["inside"]
    assert verdict({**languages[0], "transition": found}) == verdict(languages[0])
    smooth = [[[t, 5 - np.log(t / 1e6)] for t in TIMES]] * 2
    assert transition(smooth, smooth) is None
    assert transition([[]], [[]]) is None


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
        corpora=(str(text_folder),), sizes=("nano",), contexts=(16,), seeds=2, vocabulary=300,
        tokens=600, batch_tokens=64, lab=tmp_path, out=tmp_path / "study",
    )  # fmt: skip
    report = study.run_arrow(config)
    results = json.loads((report.parent / "results.json").read_text())
    (cell,) = results["cells"]
    assert results["means"] == []
    assert cell["components"]["seed_df"] == 1
    cells = []
    for corpus, relative in (("a", 0.01), ("b", 0.012), ("c", 0.009), ("d", 0.013)):
        arrow = {**cell["arrow"], "relative": relative, "standard_error": 0.002, "p_value": 0.2}
        arrow |= {"interval": [relative - 0.02, relative + 0.02], "documents": 9}
        arrow |= {"relative_by_seed": [relative - 0.001, relative + 0.001]}
        times = transition(curves([3e5, 5e6]), curves([9e5, 5e6])) if corpus == "d" else None
        cells.append({**cell, "corpus": corpus, "arrow": arrow, "transition": times})
    cells = with_adjusted(cells)
    page = arrow_page({**results, "cells": cells, "means": means_over_corpora(cells)})
    assert "Mean over 3 corpora" in page
    assert "When the curves jump" in page
    assert "The budget ends among the jumps of d" in page
    plain = arrow_page({**results, "cells": cells, "means": []})
    assert "Mean over 3 corpora" not in plain


def test_one_pair_is_no_verdict_about_directions():
    rng = np.random.default_rng(1)
    forward = rng.uniform(90, 110, 400)
    documents = np.arange(400) // 20
    one = arrow_of_time(forward, forward * 1.03, documents)
    assert one.verdict == "forward is easier for these two models on this text"
    two = arrow_of_time([forward] * 2, [forward * 1.03] * 2, documents)
    assert two.verdict == "forward is easier for these 2 pairs of models on this text"
    three = arrow_of_time([forward] * 3, [forward * 1.03] * 3, documents)
    assert three.verdict == "forward is easier"
