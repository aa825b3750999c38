"""The tour: its parts are on one page, and the page is drawn again from results.json alone."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from hostile_text import attack_report, strings
from lmlab.config import from_mapping
from lmlab.config.model import ModelConfig
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.redraw import read_results, redraw, result_rows
from lmlab.topics.tour import study as tour
from lmlab.topics.tour.options import TourConfig
from lmlab.topics.towers.options import TowersStudyConfig


@pytest.fixture(scope="module")
def parts(text_store):
    """The parts of the tour, smaller still."""
    text, nano = str(text_store.path), ModelConfig(size="nano")
    few: dict[str, Any] = {"tokens": 640, "batch_tokens": 64}
    arrow: dict[str, Any] = {**few, "size": ("nano",), "context": (16,), "vocabulary": 300}
    changes: dict[str, dict[str, Any]] = {
        "arrow": {**arrow, "text": (text,)},
        "headless": {
            **few, "text": text, "vocabulary": (300,), "context": 16, "model": nano,
            "fine_tune": 0.3, "cost_vocabularies": (),
        },
        "linear": arrow,
        "towers": {
            **few, "text": (text,), "context": 16, "model": nano, "vocabulary": 300, "seeds": 2,
            "probe_tokens": 320,
        },
        "decomposition": {
            **few, "text": text, "size": ("nano",), "context": 16, "vocabulary": 300,
            "embedding": EmbeddingConfig(length=10), "lengths": (5,), "pieces": 100,
            "held_out_pieces": 50,
        },
        "encoding": {
            **few, "text": text, "vocabulary": (300,), "context": 16, "size": "nano",
            "windows": 16, "factors": (2.0,), "shares": (0.3,),
        },
    }  # fmt: skip
    return {
        name: replace(part, config=replace(part.config, **changes[name]))
        for name, part in tour.PARTS.items()
    }


@pytest.fixture(scope="module")
def toured(tmp_path_factory, parts):
    lab = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tour, "PARTS", parts)
        return tour.run_tour(TourConfig(lab=lab))


def test_every_study_but_one_is_in_the_tour_and_reads_the_same_text():
    configs = {name: part.config for name, part in tour.PARTS.items()}
    assert configs["linear"].text[0].startswith("linear:")
    texts = {c.text for n, c in configs.items() if n != "linear"}
    assert texts == {("docstrings:python",), "docstrings:python"}
    assert {type(c) for c in configs.values()} == {
        ArrowConfig, HeadlessStudyConfig, TowersStudyConfig, DecompositionStudyConfig,
        EncodingStudyConfig,
    }  # fmt: skip


def test_parts_share_their_runs(toured):
    runs = {path.name for path in (toured.parent.parent / "runs").iterdir()}
    # two seeds of: forward and backward of both languages; with the prior, headless, its two
    # fine-tuned heads; cooperative towers (probed twice), with separate losses, independent; one
    # hard minimum, probed
    assert len(runs) == 2 * (4 + 4) + 2 * (3 + 2 + 2) + 2
    (encoding,) = (r["parts"][0] for r in _parts(toured) if r.get("kind") == "encoding")
    assert {m["run"] for m in encoding["models"]} <= runs
    (zoo,) = (r["zoo"] for r in _parts(toured) if r.get("kind") == "decomposition")
    assert {m["run"] for m in zoo} <= runs
    assert len(zoo) == 6


def test_the_options_of_every_study_are_in_its_results(toured, parts):
    """The issue found the tour without them (commands: tests/test_recorded_options.py)."""
    folder = toured.parent
    values = json.loads((folder / "results.json").read_text())
    assert values["config"] == {"lab": str(folder.parent)}
    for part, (name, study) in zip(values["parts"], parts.items(), strict=True):
        asked = replace(study.config, lab=folder.parent, out=folder / name)
        written = json.loads((folder / name / "results.json").read_text())["config"]
        assert from_mapping(type(asked), written, where=name) == asked
        assert part["config"] == written


def _parts(toured):
    return json.loads((toured.parent / "results.json").read_text())["parts"]


def test_all_parts_are_on_the_page(toured):
    page = toured.read_text()
    for number, (name, part) in enumerate(tour.PARTS.items(), start=1):
        assert page.count(f"<h2>{html.escape(part.title)}</h2>") == 1
        assert f'<a href="#part-{number}">{html.escape(part.title)}</a>' in page
        own = (toured.parent / name / "report.html").read_text()
        # the same sections as the study's own page, a level deeper
        for title in re.findall("<h2>(.*?)</h2>", own):
            assert f"<h3>{title}</h3>" in page
        assert page.count(f'<a href="#section-{number}-') == len(re.findall("<h2>", own)) >= 4
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    assert set(re.findall('href="#([^"]+)"', page)) <= set(ids)
    _, rows = result_rows(toured.parent)
    assert [heading for heading, _ in rows] == [part.title for part in tour.PARTS.values()]
    for heading, said in rows:
        assert html.escape(f"{heading} {said}") in page


def test_the_page_is_drawn_again_from_results_alone(toured):
    page = toured.read_text()
    toured.unlink()
    assert redraw(toured.parent) == toured
    assert toured.read_text() == page


@pytest.mark.trust
@pytest.mark.promise("Script in any string of a study's results does not reach its report alive")
def test_hostile_strings_stay_text(toured, cases):
    # what a part refuses, the tour of all parts, which takes far longer to draw, refuses too
    refused: set[str] = set()
    for name in tour.PARTS:
        folder = toured.parent / name
        reached = attack_report(folder, cases)
        assert len(reached) > 10, name
        refused |= strings(read_results(folder)) - reached
    assert len(attack_report(toured.parent, cases, spared=refused)) > 20


def test_each_part_has_a_report_of_its_own(toured):
    for name in tour.PARTS:
        assert redraw(toured.parent / name).exists()
