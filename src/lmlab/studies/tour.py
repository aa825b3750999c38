"""The tour: a small edition of the studies on corpora that need no download, in a few minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lmlab.config.studies import ArrowConfig
from lmlab.studies.arrow import run_arrow

ARROW = ArrowConfig(
    corpora=("docstrings",),
    sizes=("micro",),
    contexts=(128,),
    seeds=2,
    vocabulary=4096,
    tokens=800_000,
    windows=800,
)


def run_tour(lab: Path) -> Path:
    """Runs the small edition in `lab`; returns the path of the HTML report."""
    return run_arrow(replace(ARROW, lab=lab, out=lab / "tour"), title="A tour of lmlab")
