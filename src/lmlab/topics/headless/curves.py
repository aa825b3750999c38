"""Losses of a run while it trains, measured on validation text; of a headless run also what its
own training loss says of cross-entropy, without any head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import entropy

from lmlab.data.splits import TRAIN
from lmlab.data.store import TokenStore
from lmlab.data.unigram import token_counts
from lmlab.run_folders.journal import read_journal
from lmlab.studies.finished_runs import JOURNAL, validations
from lmlab.topics.headless.arms import HEADLESS
from lmlab.training.loop import TrainedRun

_POINTS = 20


@dataclass(frozen=True)
class Curve:
    """One run; its losses are in nats per token."""

    arm: str
    longer: bool
    seed: int
    run: str
    tokens: tuple[int, ...]
    """Read when the validation loss was measured."""
    seconds: tuple[float, ...]
    """Then; steps times the measured time of a step."""
    validation: tuple[float, ...]
    equivalent_tokens: tuple[int, ...]
    equivalent: tuple[float, ...]
    """What the training loss says of cross-entropy (`equivalent_nats`); empty of other losses than
    the published headless one."""


def curve(
    run: TrainedRun, form: tuple[str, bool, int], seconds_per_step: float, unigram_nats: float
) -> Curve:
    """The curve of a run, whose arm, length and seed are its `form`, from its journal;
    `unigram_nats` is the entropy of the unigram distribution."""
    losses = validations(run.path)
    equivalent: list[tuple[int, float]] = []
    if form[0] == HEADLESS:
        equivalent = equivalent_nats(read_journal(run.path / JOURNAL), unigram_nats)
    return Curve(
        *form,
        run.name,
        tokens=tuple(loss.tokens for loss in losses),
        seconds=tuple(loss.step * seconds_per_step for loss in losses),
        validation=tuple(loss.nats_per_token for loss in losses),
        equivalent_tokens=tuple(tokens for tokens, _ in equivalent),
        equivalent=tuple(nats for _, nats in equivalent),
    )


def unigram_entropy(store: TokenStore) -> float:
    """Entropy of the training split's token distribution, in nats."""
    return float(entropy(token_counts(store.split(TRAIN), store.vocabulary)))


def equivalent_nats(
    journal: Sequence[dict[str, Any]], unigram_nats: float
) -> list[tuple[int, float]]:
    """What the training loss of a headless run says of cross-entropy: tokens, nats per token.

    H(unigram) + loss - log K, K the negatives of a step (papers' headless perplexity estimate:
    the loss is cross-entropy less what the unigram distribution knows). Biased upward where K is
    small, and of training text. Means over a twentieth of the run.
    """
    gain_T = np.array([r["loss"] - math.log(r["targets_per_micro_batch"]) for r in journal])
    blocks = np.array_split(np.arange(len(journal)), max(1, min(_POINTS, len(journal))))
    return [
        (journal[block[-1]]["tokens"], unigram_nats + float(gain_T[block].mean()))
        for block in blocks
        if len(block)
    ]
