"""Every objective as a tiny run: the table that golden losses and the resume matrix go through.

A new objective is one line of `CASES` (and `make golden`); a test fails while one is missing.

Notable: the text comes from Python's own generator, whose stream is the same in every version. Each
symbol follows from the one before with probability 0.7, so that there is something to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from helpers import id_store, symbols_tokenizer, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.config.towers import TowersConfig
from lmlab.config.training import CheckpointConfig, OptimizerConfig, ParentConfig, TrainConfig
from lmlab.data.labelled import Example, LabelledTask
from lmlab.data.labelled_store import labelled_store
from lmlab.data.store import TokenStore
from lmlab.training.loop import train

SYMBOLS = 30


@dataclass(frozen=True)
class Case:
    """A run, and the run whose weights it starts from."""

    settings: Mapping[str, Any]
    parent: str | None = None
    """Name of another case."""
    child: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of `ParentConfig`."""
    labelled: bool = False


def _small(architecture: Any = "gpt2", *, tied: bool = False) -> ModelConfig:
    return ModelConfig(architecture, layers=1, heads=2, width=32, tied=tied)


def _recurrent() -> ModelConfig:
    return ModelConfig("lstm", layers=1, width=32)


_CHILD = {"model": ModelConfig()}  # the parent's architecture is kept

_ADAMW = {"optimizer": OptimizerConfig("adamw", learning_rate=3e-3)}

CASES = {
    "causal-forward": Case({"model": _small(), **_ADAMW}),
    "causal-backward": Case({"model": _small("neox"), "order": "backward", **_ADAMW}),
    "causal-recipe": Case({"model": _small("qwen3")}),
    "masked": Case({"model": _small("bert"), "objective": "masked"}),
    "headless": Case({"model": _small(tied=True), "objective": "headless", "micro_batch": 4}),
    "headless-masked": Case(
        {"model": _small("bert", tied=True), "objective": "headless-masked", "micro_batch": 4}
    ),
    "headless-draws": Case(
        {
            "model": _small(tied=True),
            "objective": "headless",
            "micro_batch": 4,
            "headless": HeadlessConfig(candidates="unigram", draws=40),
        }
    ),
    "headless-others": Case(
        {
            "model": _small(tied=True),
            "objective": "headless",
            "headless": HeadlessConfig(candidates="other-windows"),
        }
    ),
    "headless-mixture": Case(
        {
            "model": _small("bert", tied=True),
            "objective": "headless-masked",
            "micro_batch": 4,
            "headless": HeadlessConfig(candidates="mixture"),
        }
    ),
    "mixed": Case(
        {
            "model": _small("llama", tied=True),
            "objective": "headless",
            "headless": HeadlessConfig(cross_entropy=0.5),
        }
    ),
    "causal-and-masked": Case({"model": _small("qwen3"), "objective": "mixed"}),
    "towers": Case({"model": _small(), "objective": "towers"}),
    "towers-separate": Case(
        {"model": _small(), "objective": "towers", "towers": TowersConfig(losses="separate")}
    ),
    "towers-masked": Case({"model": _small("bert"), "objective": "towers-masked"}),
    "towers-cloze": Case({"model": _recurrent(), "objective": "towers-cloze"}),
    "probe": Case({**_CHILD, "objective": "probe"}, parent="towers"),
    "probe-masked": Case({**_CHILD, "objective": "probe-masked"}, parent="towers-masked"),
    "probe-cloze": Case({**_CHILD, "objective": "probe-cloze"}, parent="towers-cloze"),
    "classification": Case(
        {**_CHILD, "objective": "classification", "context": 14},
        parent="causal-forward",
        labelled=True,
    ),
    "head-fine-tuning": Case(
        {**_CHILD, "output_bias": "learnt"},
        parent="headless",
        child={"untie": True, "freeze_body": True},
    ),
}


def case_config(name: str, folder: Path, *, dropout: float = 0.0, **changes: Any) -> TrainConfig:
    """The run of a case, in `folder`/run unless `changes` say otherwise; trains its parent, which a
    child has its dropout from."""
    case = CASES[name]
    settings: dict[str, Any] = {
        "context": 16,
        "batch": 8,
        "steps": 50,
        "checkpoints": CheckpointConfig(every=50),
        "evaluate_every": 25,
        **case.settings,
    }
    store = labelled_texts(folder) if case.labelled else running_text(folder)
    if case.parent is not None:
        parent = train(case_config(case.parent, folder / "parent", steps=20, dropout=dropout))
        settings["parent"] = ParentConfig(str(parent.path), **case.child)
    else:
        settings["model"] = replace(settings["model"], dropout=dropout)
    return tiny_training(store, **{"out": folder / "run", **settings, **changes})


def sequences(count: int, shortest: int, longest: int, *, seed: int) -> list[np.ndarray]:
    """Ids of a noisy first-order chain."""
    random = Random(seed)
    made = []
    for _ in range(count):
        ids = [int(random.random() * SYMBOLS)]
        length = shortest + int(random.random() * (longest - shortest + 1))
        while len(ids) < length:
            follows = random.random() < 0.7
            ids.append((5 * ids[-1] + 3) % SYMBOLS if follows else int(random.random() * SYMBOLS))
        made.append(np.array(ids))
    return made


def running_text(folder: Path) -> TokenStore:
    """24 windows of 16 tokens a pass, so that three steps of 8 windows are an epoch."""
    path = folder / "text"
    if path.exists():
        return TokenStore(path)
    splits = {"train": sequences(12, 31, 31, seed=1), "validation": sequences(6, 20, 40, seed=2)}
    return id_store(path, splits, symbols=SYMBOLS)


def labelled_texts(folder: Path) -> TokenStore:
    """Texts of two classes, told by whether their first symbol is in the lower half."""
    task = LabelledTask(
        name="toy", source="here", labels=("low", "high"), metrics=("accuracy",),
        train=_examples(24, seed=3), selection=_examples(8, seed=4), reported=_examples(8, seed=5),
    )  # fmt: skip
    return labelled_store(task, symbols_tokenizer(SYMBOLS), length=14, folder=folder)


def _examples(count: int, *, seed: int) -> tuple[Example, ...]:
    texts = sequences(count, 4, 14, seed=seed)
    return tuple(
        Example(
            f"text {i}",
            "".join(chr(0x4E00 + int(symbol)) for symbol in ids),
            None,
            int(2 * ids[0] >= SYMBOLS),
        )
        for i, ids in enumerate(texts)
    )
