"""The tour: its parts are on one page, and the page is drawn again from results.json alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lmlab.studies import tour
from lmlab.studies.redraw import redraw, result_rows


@pytest.fixture(scope="module")
def toured(tmp_path_factory, text_folder):
    lab = tmp_path_factory.mktemp("lab")
    small = {"sizes": ("nano",), "seeds": 2, "tokens": 600, "batch_tokens": 64, "windows": 40}
    parts = {
        name: replace(part, config=replace(part.config, contexts=(16,), vocabulary=300, **small))
        for name, part in tour.PARTS.items()
    }
    text = parts["docstrings"]
    parts["docstrings"] = replace(text, config=replace(text.config, corpora=(str(text_folder),)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tour, "PARTS", parts)
        return tour.run_tour(lab)


def test_the_tour_has_a_text_and_a_linear_language():
    corpora = [part.config.corpora for part in tour.PARTS.values()]
    assert corpora[0] == ("docstrings",)
    assert corpora[1][0].startswith("linear:")


def test_all_parts_are_on_the_page(toured):
    page = toured.read_text()
    results = json.loads((toured.parent / "results.json").read_text())
    assert len(results["parts"]) == len(tour.PARTS)
    for part in tour.PARTS.values():
        assert page.count(f"<h2>{part.title}: ") >= 5
    assert page.count("known floor") >= 2  # the part's title, and its section
    _, rows = result_rows(toured.parent)
    assert len(rows) == len(tour.PARTS)
    for _, said in rows:
        assert said.split(" (")[0] in page


def test_the_page_is_drawn_again_from_results_alone(toured):
    page = toured.read_text()
    toured.unlink()
    assert redraw(toured.parent) == toured
    assert toured.read_text() == page


def test_each_part_has_a_report_of_its_own(toured):
    for name in tour.PARTS:
        assert redraw(toured.parent / name).exists()
