"""Words that a run has seen, and its checkpoints by them.

Repeats count: a run of 10M words and 10 epochs sees 100M. Windows are cut by tokens, so words seen
are tokens seen times the words per token of the training split (of each source, by how often it is
drawn, where sources are sampled).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from lmlab.config.training import BUDGET_EPOCHS, BUDGETS, TrainConfig
from lmlab.data.mixture import slots, source_shares, training_sources
from lmlab.data.splits import TRAIN
from lmlab.data.store import Split, TokenStore
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import (
    checkpoint_folder,
    checkpoint_step,
    checkpoints,
    final_step,
)
from lmlab.run_folders.rundir import stored_config, stored_fingerprint

_COURSE = 2.0**-8
MAIN = "main"
"""The revision that holds the last checkpoint."""


@dataclass(frozen=True)
class WordMark:
    """A number of words, and the first update at which a run has seen so many."""

    words: int
    step: int

    @property
    def name(self) -> str:
        """As BabyLM's revisions are called: chck_1M, chck_100K."""
        for unit, letter in ((1_000_000, "M"), (1000, "K")):
            if self.words % unit == 0:
                return f"chck_{self.words // unit}{letter}"
        return f"chck_{self.words}"


@dataclass(frozen=True)
class WordCheckpoint:
    """A checkpoint of a run by its revision's name: that of a mark, or `main` for the last."""

    name: str
    step: int
    words: int
    """Seen by then."""
    path: Path


def words_per_step(config: TrainConfig, train: Split) -> Fraction:
    """Words that an update of a resolved run sees. `UserError` for a store of unknown words."""
    per_token = Fraction(train.words, train.tokens)
    if config.source_temperature is not None:
        sources = training_sources(train)
        tokens_C = np.array([source.tokens for source in sources])
        slots_C = slots(source_shares(tokens_C, config.source_temperature)).tolist()
        per_token = sum(
            (
                Fraction(slot, sum(slots_C)) * Fraction(source.words.count, source.tokens)
                for slot, source in zip(slots_C, sources, strict=True)
                if source.words is not None  # as those of the split are known
            ),
            Fraction(0),
        )
    return config.step_windows * config.context * per_token


def words_seen(config: TrainConfig, train: Split, step: int) -> int:
    """Words that a resolved run has seen after `step` updates, rounded down."""
    return math.floor(step * words_per_step(config, train))


def word_marks(config: TrainConfig, train: Split) -> list[WordMark]:
    """The words of `checkpoints.words` that a resolved run comes to, each with the first update at
    or past it. The last update stands for what is less than an update away from it."""
    if config.checkpoints.words is None:
        return []
    each = words_per_step(config, train)
    marks = [WordMark(words, math.ceil(words / each)) for words in config.checkpoints.word_counts]
    return [
        WordMark(mark.words, min(mark.step, config.steps))
        for mark in marks
        if mark.step <= config.steps + 1
    ]


def check_words(config: TrainConfig, train: Split) -> None:
    """`UserError` for a resolved run whose text has more words than it may have, or is read more
    often than its budget allows."""
    if config.words is not None and train.words > config.words:
        own = BUDGETS.get(config.budget or "") == config.words
        of = f"`budget` {config.budget}" if own else "`words`"
        raise UserError(
            f"{train.store.path}: its training split has {train.words:,} words, and {of} allows "
            f"{config.words:,}. Prepare less text (`corpus.max_documents`), or give another budget"
        )
    most = math.ceil(BUDGET_EPOCHS * (train.tokens // config.context) / config.step_windows)
    if config.budget is not None and config.steps > most:
        raise UserError(
            f"`steps` {config.steps:,}: `budget` {config.budget} allows {most:,} of "
            f"{config.step_windows} x {config.context} tokens on this store ({BUDGET_EPOCHS} "
            "epochs)"
        )


def word_checkpoints(run: Path) -> list[WordCheckpoint]:
    """The checkpoints of a run by words seen that are there, from few words to many, and its last
    one as `main` once it is finished. One checkpoint may stand for several.

    Raises `UserError` for a folder without a run, and where its store is gone, is another by now,
    or does not know its words.
    """
    return list(_word_checkpoints(run))


def _word_checkpoints(run: Path) -> Iterator[WordCheckpoint]:
    config, train = run_and_split(run)
    last = final_step(run, config.steps)
    named = [(mark.name, mark.step) for mark in word_marks(config, train)]
    for name, step in [*named, (MAIN, last)]:
        path = checkpoint_folder(run, step)
        if path.is_dir():
            yield WordCheckpoint(name, step, words_seen(config, train, step), path)


def course_of(run: Path, config: TrainConfig, train: Split) -> list[WordCheckpoint]:
    """All checkpoints of a run by words seen, but those before 1/256 of its words, where a model
    knows nothing: what learning curves are drawn from. `UserError` for a store of unknown words."""
    seen = [
        WordCheckpoint(path.name, step, words_seen(config, train, step), path)
        for path in checkpoints(run)
        for step in [checkpoint_step(path)]
    ]
    least = _COURSE * max((each.words for each in seen), default=0)
    return sorted((each for each in seen if each.words >= least), key=lambda each: each.words)


def run_and_split(run: Path) -> tuple[TrainConfig, Split]:
    """The resolved configuration of a run, and the training split that it reads; with them
    `words_seen` speaks of any of its steps. `UserError` as `word_checkpoints`."""
    config = stored_config(run)
    store = TokenStore(config.store)
    if store.fingerprint != stored_fingerprint(run):
        raise UserError(f"{run}: {store.path} is another store than the one it was trained on")
    return config, store.split(TRAIN)
