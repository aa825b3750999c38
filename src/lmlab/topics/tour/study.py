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
from dataclasses import replace
from typing import Any, TypeVar

from lmlab.config.model import ModelConfig
from lmlab.progress import say
from lmlab.results import Result
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.study import run_arrow
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.decomposition.study import run_decomposition
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.encoding.study import run_encoding
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.headless.study import run_headless
from lmlab.topics.tour.options import TourConfig
from lmlab.topics.tour.tour import QUESTIONS, Tour
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.study import run_towers

_TEXT = "docstrings:python"
_TOKENS, _TOWER_TOKENS = 140_000, 60_000
_WINDOWS = 150
_SIZE = "micro"
_TRAINING: dict[str, Any] = {"batch_tokens": 1024, "learning_rate": 2e-3}

R = TypeVar("R", bound=Result)

CONFIGS: dict[str, Any] = {
    "arrow": ArrowConfig(
        text=(_TEXT,), context=(128,), size=(_SIZE,), vocabulary=4096, seeds=2,
        tokens=_TOKENS, windows=_WINDOWS, **_TRAINING,
    ),
    "linear": ArrowConfig(
        text=("linear:6:4:1",), seeds=2, tokens=140_000, batch_tokens=1216,
        initializer_range=0.2,
    ),
    "headless": HeadlessStudyConfig(
        text=_TEXT, vocabulary=(4096,), arms=("ce-tied-prior", "ce-untied", "headless"),
        model=ModelConfig("gpt2", size=_SIZE), context=128, seeds=2, tokens=_TOKENS,
        equal_time=False, cost_vocabularies=(4096, 8192), windows=_WINDOWS, **_TRAINING,
    ),
    "towers": TowersStudyConfig(
        text=(_TEXT,), model=ModelConfig("gpt2", size="nano"), split=False, single=False,
        vocabulary=4096, context=128, seeds=2, other_seeds=1, tokens=_TOWER_TOKENS,
        probe_tokens=_TOWER_TOKENS // 2, probe_learning_rate=2e-3, windows=_WINDOWS,
        **_TRAINING,
    ),
    "decomposition": DecompositionStudyConfig(
        text=_TEXT, arms=("forward", "backward", "headless"), size=(_SIZE,), seeds=2,
        vocabulary=4096, context=128, tokens=_TOKENS, embedding=EmbeddingConfig(length=64),
        lengths=(16,), pieces=3000, held_out_pieces=600, **_TRAINING,
    ),
    "encoding": EncodingStudyConfig(
        text=_TEXT, vocabulary=(4096,), arms=("ce-untied", "backward", "headless"),
        size=_SIZE, context=128, tokens=_TOKENS, dynamics=False, windows=24,
        factors=(2.0, 20.0), shares=(0.1, 0.3, 0.5, 0.7, 0.9), **_TRAINING,
    ),
}  # fmt: skip


def run_tour(config: TourConfig) -> Tour:
    """Runs the small editions in `config.lab`, and saves their results and page in its folder
    `tour`."""
    out = config.lab / "tour"

    def part(name: str, run: Callable[[Any], R]) -> R:
        number = list(QUESTIONS).index(name) + 1
        say(f"part {number} of {len(QUESTIONS)}: {QUESTIONS[name]}")
        return run(replace(CONFIGS[name], lab=config.lab, out=out / name))

    result = Tour(
        config=config,
        arrow=part("arrow", run_arrow),
        linear=part("linear", run_arrow),
        headless=part("headless", run_headless),
        towers=part("towers", run_towers),
        decomposition=part("decomposition", run_decomposition),
        encoding=part("encoding", run_encoding),
    )
    result.save(out)
    return result
