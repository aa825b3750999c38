"""The tour: a small edition of every study, on corpora that need no download, in minutes.

Its parts are studies of their own, with folders of their own; they share runs with one another and
with whoever asks later: the forward and backward models of the arrow and the headless ones of the
headless study are the zoo that is decomposed, and the models that are encoded.

Notable:
- Its text is the docstrings of Python's standard library alone: the same on every machine with one
  version of Python, and enough for so few tokens.
- The budget of a run is a thousandth or less of what the papers use. What a part finds is found of
  such models; several parts find nothing certain, and say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmlab.config import to_mapping
from lmlab.config.model import ModelConfig
from lmlab.durable import write_json, write_text
from lmlab.progress import say
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.study import run_arrow
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.decomposition.study import run_decomposition
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.encoding.study import run_encoding
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.headless.study import run_headless
from lmlab.topics.redraw import read_results, tour_page
from lmlab.topics.tour.options import TourConfig
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.study import run_towers

_TEXT = "docstrings:python"
_TOKENS, _TOWER_TOKENS = 140_000, 60_000
_WINDOWS = 150
_SIZE = "micro"
_TRAINING: dict[str, Any] = {"batch_tokens": 1024, "learning_rate": 2e-3}


@dataclass(frozen=True)
class Part:
    """A study of the tour, and the question that is its heading."""

    title: str
    run: Callable[[Any], object]
    config: Any


PARTS = {
    "arrow": Part(
        "Is text easier to predict forwards than backwards?",
        run_arrow,
        ArrowConfig(
            text=(_TEXT,), context=(128,), size=(_SIZE,), vocabulary=4096, seeds=2,
            tokens=_TOKENS, windows=_WINDOWS, **_TRAINING,
        ),
    ),
    "linear": Part(
        "Is a made-up language, whose floor is known, easier forwards?",
        run_arrow,
        ArrowConfig(
            text=("linear:6:4:1",), seeds=2, tokens=140_000, batch_tokens=1216,
            initializer_range=0.2,
        ),
    ),
    "headless": Part(
        "Can a model learn without a softmax?",
        run_headless,
        HeadlessStudyConfig(
            text=_TEXT, vocabulary=(4096,), arms=("ce-tied-prior", "ce-untied", "headless"),
            model=ModelConfig(size=_SIZE), context=128, seeds=2, tokens=_TOKENS, equal_time=False,
            cost_vocabularies=(4096, 8192), windows=_WINDOWS, **_TRAINING,
        ),
    ),
    "towers": Part(
        "Do two towers with one prediction divide it?",
        run_towers,
        TowersStudyConfig(
            text=(_TEXT,), model=ModelConfig(size="nano"), split=False, single=False,
            vocabulary=4096, context=128, seeds=2, other_seeds=1, tokens=_TOWER_TOKENS,
            probe_tokens=_TOWER_TOKENS // 2, probe_learning_rate=2e-3, windows=_WINDOWS,
            **_TRAINING,
        ),
    ),
    "decomposition": Part(
        "How much of a model is in others?",
        run_decomposition,
        DecompositionStudyConfig(
            text=_TEXT, arms=("forward", "backward", "headless"), size=(_SIZE,), seeds=2,
            vocabulary=4096, context=128, tokens=_TOKENS, embedding=EmbeddingConfig(length=64),
            lengths=(16,), pieces=3000, held_out_pieces=600, **_TRAINING,
        ),
    ),
    "encoding": Part(
        "Where is a token's probability in the output embedding?",
        run_encoding,
        EncodingStudyConfig(
            text=_TEXT, vocabulary=(4096,), arms=("ce-untied", "backward", "headless"),
            size=_SIZE, context=128, tokens=_TOKENS, dynamics=False, windows=24,
            factors=(2.0, 20.0), shares=(0.1, 0.3, 0.5, 0.7, 0.9), **_TRAINING,
        ),
    ),
}  # fmt: skip


def run_tour(config: TourConfig) -> Path:
    """Runs the small editions in `config.lab`; returns the path of the HTML report."""
    lab = config.lab
    out = lab / "tour"
    parts = []
    for number, (name, part) in enumerate(PARTS.items(), start=1):
        say(f"part {number} of {len(PARTS)}: {part.title}")
        part.run(replace(part.config, lab=lab, out=out / name))
        parts.append({"heading": part.title, **read_results(out / name)})
    results = {
        "study": "tour",
        "title": "A tour of lmlab",
        "config": to_mapping(config),
        "environment": parts[0]["environment"],
        "parts": parts,
    }
    write_json(out / "results.json", results)
    write_text(out / "report.html", tour_page(results))
    return out / "report.html"
