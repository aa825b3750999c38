"""The tour: its parts are on one page, and the page is drawn again from results.json alone."""

from __future__ import annotations

import html
import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hostile_text import attack_report, strings
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.results import read_values
from lmlab.studies.parts import LeftToOthers
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.registry import read_result, redraw
from lmlab.topics.tour import second, study
from lmlab.topics.tour.options import TourConfig
from lmlab.topics.tour.tour import QUESTIONS
from lmlab.topics.towers.options import TowersStudyConfig


def small_configs(store: str) -> dict[str, Any]:
    """Those of the parts of the tour, smaller still."""
    text, nano = store, ModelConfig("gpt2", size="nano")
    few: dict[str, Any] = {"tokens": 640, "batch_tokens": 64}
    arrow: dict[str, Any] = {**few, "size": ("nano",), "context": (16,), "vocabulary": 300}
    changes: dict[str, dict[str, Any]] = {
        "arrow": {**arrow, "text": (text,)},
        "headless": {
            **few, "text": text, "vocabulary": (300,), "context": 16,
            "model": replace(nano, architecture="qwen3"), "fine_tune": 0.3, "cost_vocabularies": (),
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
    return {name: replace(config, **changes[name]) for name, config in study.CONFIGS.items()}


@pytest.fixture(scope="module")
def configs(text_store):
    return small_configs(str(text_store.path))


@pytest.fixture(scope="module")
def tour(tmp_path_factory, configs):
    lab = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "CONFIGS", configs)
        return study.run_tour(TourConfig(lab=lab))


@pytest.fixture(scope="module")
def report(tour):
    return tour.config.lab / "tour" / "report.html"


def test_every_study_but_one_is_in_the_tour_and_reads_the_same_text():
    configs = study.CONFIGS
    assert list(configs) == list(QUESTIONS)
    assert configs["linear"].text[0].startswith("linear:")
    texts = {c.text for n, c in configs.items() if n != "linear"}
    assert texts == {("docstrings:python",), "docstrings:python"}
    assert {type(c) for c in configs.values()} == {
        ArrowConfig, HeadlessStudyConfig, TowersStudyConfig, DecompositionStudyConfig,
        EncodingStudyConfig,
    }  # fmt: skip


def test_parts_share_their_runs(tour):
    runs = {path.name for path in (tour.config.lab / "runs").iterdir()}
    # two seeds of: forward and backward of both languages; with the prior, headless, its two
    # fine-tuned heads; cooperative towers (probed twice), with separate losses, independent; one
    # hard minimum, probed
    assert len(runs) == 2 * (4 + 4) + 2 * (3 + 2 + 2) + 2
    assert {model.run for model in tour.encoding.parts[0].models} <= runs
    assert {model.run for model in tour.decomposition.zoo} <= runs
    assert len(tour.decomposition.zoo) == 6


_SECOND = """
import sys
from pathlib import Path
import test_tour
from lmlab.topics.tour import second, study
study.CONFIGS = test_tour.small_configs({store!r})
study.help_tour(Path(sys.argv[1]))
"""


def test_a_second_process_changes_nothing_that_is_found(
    tour, tmp_path, configs, text_store, monkeypatch
):
    code = _SECOND.format(store=str(text_store.path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setattr(second, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(study, "CONFIGS", configs)
    shared = study.run_tour(TourConfig(lab=tmp_path), shared=True)
    runs = [{path.name for path in (t.config.lab / "runs").iterdir()} for t in (shared, tour)]
    assert runs[0] == runs[1]
    for name in QUESTIONS:
        ours, alone = getattr(shared, name).frame(), getattr(tour, name).frame()
        timed = [column for column in alone if "second" in column]
        pd.testing.assert_frame_equal(
            ours.drop(columns=timed), alone.drop(columns=timed), rtol=1e-6, atol=1e-9
        )
    assert read_result(tmp_path / "tour") == shared
    said = (tmp_path / "tour" / "second.log").read_text()
    assert "arrow of time" in said
    assert "Error" not in said


def test_a_part_that_a_second_process_leaves_is_made_here(tmp_path, monkeypatch):
    """The second one is at a part when this one comes to it, and ends; or has ended before."""
    asked = []

    def run(name, lab, **how):
        asked.append((name, how))
        if how:
            raise LeftToOthers("the other is at it")
        return "a result"

    class Second:
        def __init__(self, looks):
            self.looks = looks

        def poll(self):
            self.looks -= 1
            return 1 if self.looks < 0 else None

    monkeypatch.setattr(study, "_run", run)
    for looks, expected in ((3, [{"worker": True}, {}]), (0, [{}])):
        asked.clear()
        second_one: Any = Second(looks)
        assert study._part("arrow", tmp_path, second_one, time.time_ns()) == "a result"
        assert asked == [("arrow", how) for how in expected]


def test_the_second_process_is_asked_for_where_two_threads_are_free(monkeypatch):
    cores = 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv(second.THREADS, "1")
    assert not second.halve_threads()  # somebody has settled it
    monkeypatch.delenv(second.THREADS)
    assert second.halve_threads()
    assert os.environ[second.THREADS] == "2"
    monkeypatch.delenv(second.THREADS)
    cores = 1
    assert not second.halve_threads()
    assert second.THREADS not in os.environ


def test_a_second_process_ends_with_the_tour(tmp_path, monkeypatch):
    sleeps = (sys.executable, "-c", "import time; time.sleep(600)")
    monkeypatch.setattr(second, "COMMAND", sleeps)
    with second.second_process(tmp_path) as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_the_options_of_every_study_are_in_its_results(tour, report, configs):
    """The issue found the tour without them (commands: tests/test_recorded_options.py)."""
    lab = tour.config.lab
    assert json.loads((lab / "tour" / "results.json").read_text())["config"] == {"lab": str(lab)}
    for name, config in configs.items():
        own = read_result(report.parent / name)
        assert own == getattr(tour, name)
        assert vars(own)["config"] == replace(config, lab=lab, out=report.parent / name)


def test_all_parts_are_on_the_page(tour, report):
    page = report.read_text()
    for number, (name, question) in enumerate(QUESTIONS.items(), start=1):
        assert page.count(f"<h2>{html.escape(question)}</h2>") == 1
        assert f'<a href="#part-{number}">{html.escape(question)}</a>' in page
        own = (report.parent / name / "report.html").read_text()
        # the same sections as the study's own page, a level deeper
        for title in re.findall("<h2>(.*?)</h2>", own):
            assert f"<h3>{title}</h3>" in page
        assert page.count(f'<a href="#section-{number}-') == len(re.findall("<h2>", own)) >= 4
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    assert set(re.findall('href="#([^"]+)"', page)) <= set(ids)
    findings = tour.frame()
    assert list(findings["question"]) == list(QUESTIONS.values())
    for question, said in findings.itertuples(index=False):
        assert html.escape(f"{question} {said}") in page
    assert len(tour.figures()) == sum(len(part.figures()) for _, part in tour.parts)


def test_the_page_is_drawn_again_from_results_alone(tour, report):
    page = report.read_bytes()
    assert read_result(report.parent) == tour
    report.unlink()
    assert main(["report", str(report.parent)]) == 0
    assert report.read_bytes() == page


@pytest.mark.trust
@pytest.mark.promise("Script in any string of a study's results does not reach its report alive")
def test_hostile_strings_stay_text(report, cases):
    # what a part refuses, the tour of all parts, which takes far longer to draw, refuses too
    refused: set[str] = set()
    for name in QUESTIONS:
        folder = report.parent / name
        reached = attack_report(folder, cases)
        assert len(reached) > 10, name
        refused |= strings(read_values(folder)) - reached
    assert len(attack_report(report.parent, cases, spared=refused)) > 20


def test_each_part_has_a_report_of_its_own(report):
    for name in QUESTIONS:
        own = report.parent / name / "report.html"
        before = own.read_bytes()
        assert redraw(own.parent) == own
        assert own.read_bytes() == before
