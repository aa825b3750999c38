"""The tour: a small edition of the studies on corpora that need no download, in a few minutes.

Its parts are studies of their own, with folders of their own; they share runs with one another (the
forward model of the arrow is the untied model of the headless study) and with whoever asks later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lmlab.config.model import ModelConfig
from lmlab.config.studies import ArrowConfig, HeadlessStudyConfig
from lmlab.durable import write_json, write_text
from lmlab.progress import say
from lmlab.studies.arrow import run_arrow
from lmlab.studies.headless import run_headless
from lmlab.studies.redraw import read_results, tour_page


@dataclass(frozen=True)
class Part:
    """A study of the tour and what its sections are called."""

    title: str
    config: ArrowConfig | HeadlessStudyConfig


PARTS = {
    "docstrings": Part(
        "Docstrings of Python packages",
        ArrowConfig(
            corpora=("docstrings",),
            contexts=(128,),
            seeds=2,
            vocabulary=4096,
            tokens=400_000,
            batch_tokens=2048,
            learning_rate=2e-3,
            windows=400,
        ),
    ),
    "headless": Part(
        "Learning without a softmax",
        HeadlessStudyConfig(
            corpus="docstrings",
            vocabularies=(4096,),
            arms=("ce-tied-prior", "ce-untied", "headless"),
            model=ModelConfig(size="micro"),
            context=128,
            seeds=2,
            tokens=400_000,
            batch_tokens=2048,
            learning_rate=2e-3,
            equal_time=False,
            cost_vocabularies=(4096, 32768),
            windows=400,
        ),
    ),
    "linear": Part(
        "A language with a known floor",
        ArrowConfig(
            corpora=("linear:6:4:1",),
            seeds=2,
            tokens=250_000,
            batch_tokens=1216,
            initializer_range=0.2,
        ),
    ),
}


def run_tour(lab: Path) -> Path:
    """Runs the small editions in `lab`; returns the path of the HTML report."""
    out = lab / "tour"
    parts = []
    for number, (name, part) in enumerate(PARTS.items(), start=1):
        say(f"part {number} of {len(PARTS)}: {part.title}")
        config = replace(part.config, lab=lab, out=out / name)
        if isinstance(config, ArrowConfig):
            report = run_arrow(config, title=part.title)
        else:
            report = run_headless(config, title=part.title)
        parts.append(read_results(report.parent))
    results = {
        "study": "tour",
        "title": "A tour of lmlab",
        "environment": parts[0]["environment"],
        "parts": parts,
    }
    write_json(out / "results.json", results)
    write_text(out / "report.html", tour_page(results))
    return out / "report.html"
