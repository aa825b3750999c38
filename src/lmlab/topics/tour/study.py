"""The tour: a small edition of every study, on corpora that need no download, in minutes.

Its parts are studies of their own, with folders of their own; they share runs with one another and
with whoever asks later: the forward and backward models of the arrow and the headless ones of the
headless study are the zoo that is decomposed, and the models that are encoded.

Notable:
- Its text is docstrings of Python's standard library alone: the same on every machine with one
  version of Python. A part of them, in 512 types, so that a model can know more than counting (the
  best Kneser-Ney model of the same text and types) after a few hundred steps.
- What is common to all parts but that of the towers is trained by the recipe of `lmlab train`
  (qwen3, Muon, small steps), at one rate for all arms.
- The budget of a run is a thousandth or less of what the papers use. What a part finds is found of
  such models; several parts find nothing certain, and say so.
- With two cores a second process shares the runs and analyses of every part (`tour.second`).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmlab.config.model import ModelConfig
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig, prepare
from lmlab.data.splits import SplitConfig
from lmlab.data.tokenizers import TokenizerConfig
from lmlab.progress import say
from lmlab.results import PAGE, Result
from lmlab.studies.parts import LeftToOthers
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.study import run_arrow
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.decomposition.study import run_decomposition
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.encoding.study import run_encoding
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.headless.study import run_headless
from lmlab.topics.registry import read_result
from lmlab.topics.tour.options import TourConfig
from lmlab.topics.tour.second import second_process
from lmlab.topics.tour.tour import QUESTIONS, Tour
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.study import run_towers

_TEXT = "docstrings:python"
_DOCUMENTS, _VOCABULARY, _HELD_OUT = 300, 512, 0.08
_CONTEXT = 64
_TOKENS, _TOWER_TOKENS = 450_000, 30_000
_WINDOWS = 300
_BETWEEN_LOOKS = 0.2  # seconds
_ARCHITECTURE, _SIZE = "qwen3", "tiny"
_TRAINING: dict[str, Any] = {"batch_tokens": 1024, "optimizer": "muon", "learning_rate": 8e-3}
_LINEAR_TRAINING: dict[str, Any] = {**_TRAINING, "batch_tokens": 608}

CONFIGS: dict[str, Any] = {
    "linear": ArrowConfig(
        text=("linear:6:4:1",), architecture=(_ARCHITECTURE,), size=(_SIZE,), seeds=2,
        tokens=90_000, **_LINEAR_TRAINING,
    ),
    "arrow": ArrowConfig(
        text=(_TEXT,), context=(_CONTEXT,), architecture=(_ARCHITECTURE,), size=(_SIZE,),
        vocabulary=_VOCABULARY, seeds=2, tokens=_TOKENS, windows=_WINDOWS, **_TRAINING,
    ),
    "headless": HeadlessStudyConfig(
        text=_TEXT, vocabulary=(_VOCABULARY,), arms=("ce-tied-prior", "ce-untied", "headless"),
        model=ModelConfig(_ARCHITECTURE, size=_SIZE), context=_CONTEXT, seeds=2, tokens=_TOKENS,
        equal_time=False, cost_vocabularies=(8192,), windows=_WINDOWS, **_TRAINING,
    ),
    "towers": TowersStudyConfig(
        text=(_TEXT,), model=ModelConfig("gpt2", size="nano"), split=False, single=False,
        vocabulary=_VOCABULARY, context=_CONTEXT, seeds=2, other_seeds=1, tokens=_TOWER_TOKENS,
        probe_tokens=_TOWER_TOKENS // 2, windows=_WINDOWS, batch_tokens=1024,
        learning_rate=2e-3, probe_learning_rate=2e-3,
    ),
    "decomposition": DecompositionStudyConfig(
        text=_TEXT, arms=("forward", "backward", "headless"), architecture=_ARCHITECTURE,
        size=(_SIZE,), seeds=2, vocabulary=_VOCABULARY, context=_CONTEXT, tokens=_TOKENS,
        embedding=EmbeddingConfig(length=48), lengths=(), pieces=2000, held_out_pieces=400,
        **_TRAINING,
    ),
    "encoding": EncodingStudyConfig(
        text=_TEXT, vocabulary=(_VOCABULARY,), arms=("ce-untied", "backward", "headless"),
        architecture=_ARCHITECTURE, size=_SIZE, context=_CONTEXT, tokens=_TOKENS, dynamics=False,
        windows=48, factors=(2.0, 20.0), shares=(0.1, 0.3, 0.5, 0.7, 0.9), **_TRAINING,
    ),
}  # fmt: skip


def _store(lab: Path) -> Path:
    """The store of the tour's text, made if it is not there yet."""
    config = PrepareConfig(
        lab / "stores" / f"docstrings-python-{_DOCUMENTS}",
        CorpusConfig((_TEXT,), max_documents=_DOCUMENTS),
        TokenizerConfig("bpe", _VOCABULARY),
        SplitConfig(validation=_HELD_OUT, test=_HELD_OUT),
    )
    return prepare(config).path


def _on_store(config: Any, lab: Path) -> Any:
    """A part of the tour, with the store of its text for the text."""
    if config.text == _TEXT:
        return replace(config, text=str(_store(lab)))
    return replace(config, text=(str(_store(lab)),)) if config.text == (_TEXT,) else config


_RUN: dict[str, Callable[..., Result]] = {
    "linear": run_arrow,
    "arrow": run_arrow,
    "headless": run_headless,
    "towers": run_towers,
    "decomposition": run_decomposition,
    "encoding": run_encoding,
}


def run_tour(config: TourConfig, *, shared: bool = False) -> Tour:
    """Runs the small editions in `config.lab`, and saves their results and page in its folder
    `tour`. `shared`: with a second process on this machine."""
    out, begun = config.lab / "tour", time.time_ns()
    results: dict[str, Any] = {}
    with second_process(config.lab) if shared else nullcontext() as second:
        for number, (name, question) in enumerate(QUESTIONS.items(), start=1):
            say(f"part {number} of {len(QUESTIONS)}: {question}")
            results[name] = _part(name, config.lab, second, begun)
    result = Tour(config=config, **results)
    result.save(out)
    return result


def help_tour(lab: Path) -> None:
    """What the second process does: its share of each part, and never the page of the tour."""
    begun = time.time_ns()
    for name in QUESTIONS:
        if not _made_since(lab / "tour" / name, begun):
            with suppress(LeftToOthers):
                _run(name, lab, worker=True)


def _part(name: str, lab: Path, second: subprocess.Popen[bytes] | None, begun: int) -> Result:
    """The result of a part, made together with the `second` process, or by it."""
    folder = lab / "tour" / name
    if second is not None and second.poll() is None and not _made_since(folder, begun):
        try:
            return _run(name, lab, worker=True)
        except LeftToOthers:
            while second.poll() is None and not _made_since(folder, begun):
                time.sleep(_BETWEEN_LOOKS)
    return read_result(folder) if _made_since(folder, begun) else _run(name, lab)


def _run(name: str, lab: Path, **how: bool) -> Result:
    config = replace(CONFIGS[name], lab=lab, out=lab / "tour" / name)
    return _RUN[name](_on_store(config, lab), **how)


def _made_since(folder: Path, begun: int) -> bool:
    """Whether the results of a part were saved since; its page is what is saved last."""
    page = folder / PAGE
    return page.exists() and page.stat().st_mtime_ns > begun
