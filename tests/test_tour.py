"""The tour: its parts are on one page, and the page is drawn again from results.json alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hostile_text import attack_report
from lmlab.config.model import ModelConfig
from lmlab.config.studies import ArrowConfig, HeadlessStudyConfig
from lmlab.studies import tour
from lmlab.studies.redraw import redraw, result_rows


@pytest.fixture(scope="module")
def toured(tmp_path_factory, text_folder):
    lab = tmp_path_factory.mktemp("lab")
    small: dict[str, Any] = {"seeds": 2, "tokens": 640, "batch_tokens": 64, "windows": 40}
    arrow: dict[str, Any] = {**small, "sizes": ("nano",), "contexts": (16,), "vocabulary": 300}
    changes: dict[str, dict[str, Any]] = {
        "docstrings": {**arrow, "corpora": (str(text_folder),)},
        "headless": {
            **small, "corpus": str(text_folder), "vocabularies": (300,), "context": 16,
            "model": ModelConfig(size="nano"), "fine_tune": 0.3, "cost_vocabularies": (),
        },
        "linear": arrow,
    }  # fmt: skip
    parts = {
        name: replace(part, config=replace(part.config, **changes[name]))
        for name, part in tour.PARTS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tour, "PARTS", parts)
        return tour.run_tour(lab)


def test_the_tour_has_a_text_and_a_linear_language():
    text, headless, linear = (part.config for part in tour.PARTS.values())
    assert isinstance(text, ArrowConfig)
    assert isinstance(headless, HeadlessStudyConfig)
    assert isinstance(linear, ArrowConfig)
    assert text.corpora == (headless.corpus,) == ("docstrings",)
    assert linear.corpora[0].startswith("linear:")


def test_the_forward_run_of_the_arrow_is_the_untied_run_of_the_headless_study(toured):
    _, headless, _ = json.loads((toured.parent / "results.json").read_text())["parts"]
    untied = [c["run"] for c in headless["parts"][0]["curves"] if c["arm"] == "ce-untied"]
    runs = {path.name for path in (toured.parent.parent / "runs").iterdir()}
    assert set(untied) <= runs
    # forward and backward of both languages, two headless arms and two fine-tuned heads, 2 seeds
    assert len(runs) == 2 * (4 + 2 + 2)


def test_all_parts_are_on_the_page(toured):
    page = toured.read_text()
    results = json.loads((toured.parent / "results.json").read_text())
    assert len(results["parts"]) == len(tour.PARTS)
    for part in tour.PARTS.values():
        assert page.count(f"<h2>{part.title}: ") >= 4
    assert page.count("known floor") >= 2  # the part's title, and its section
    _, rows = result_rows(toured.parent)
    assert len(rows) == 2 + len(results["parts"][1]["parts"][0]["rows"])
    for _, said in rows:
        assert said.split(" (")[0] in page


def test_the_page_is_drawn_again_from_results_alone(toured):
    page = toured.read_text()
    toured.unlink()
    assert redraw(toured.parent) == toured
    assert toured.read_text() == page


@pytest.mark.trust
@pytest.mark.promise("Script in any string of a study's results does not reach its report alive")
def test_hostile_strings_stay_text(toured, cases):
    assert attack_report(toured.parent, cases) > 20


def test_each_part_has_a_report_of_its_own(toured):
    for name in tour.PARTS:
        assert redraw(toured.parent / name).exists()
