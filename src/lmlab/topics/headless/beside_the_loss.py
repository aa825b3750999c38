"""Beside the losses of the headless study: equivalent perplexity, geometry, cost by vocabulary.

Notable: what is measured is kept in the lab folder under the digest of what decides it, so that a
study that resumes has the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.config import digest, to_mapping
from lmlab.data.splits import TRAIN
from lmlab.data.store import TokenStore
from lmlab.data.unigram import token_counts
from lmlab.durable import from_json, write_json
from lmlab.lm.language_model import open_model
from lmlab.progress import say
from lmlab.topics.geometry.geometry import geometry
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.training.growth import step_cost
from lmlab.training.hardware import available_cores, resolve_device
from lmlab.training.loop import TrainedRun

_WINDOWS = 200
_POINTS = 20


def unigram_entropy(store: TokenStore) -> float:
    """Entropy of the training split's token distribution, in nats."""
    counts_V = token_counts(store.split(TRAIN), store.vocabulary).astype(np.float64)
    share_V = counts_V[counts_V > 0] / counts_V.sum()
    return float(-(share_V * np.log(share_V)).sum())


def equivalent_nats(journal: Sequence[dict[str, Any]], entropy: float) -> list[list[float]]:
    """What the training loss of a headless run says of cross-entropy: tokens, nats per token.

    H(unigram) + loss - log K, K the negatives of a step (papers' headless perplexity estimate:
    the loss is cross-entropy less what the unigram distribution knows). Biased upward where K is
    small, and of training text. Means over a twentieth of the run.
    """
    if not journal:
        return []
    blocks = np.array_split(np.arange(len(journal)), min(_POINTS, len(journal)))
    return [
        [
            journal[int(block[-1])]["tokens"],
            entropy
            + float(
                np.mean(
                    [
                        journal[i]["loss"] - math.log(journal[i]["targets_per_micro_batch"])
                        for i in block
                    ]
                )
            ),
        ]
        for block in blocks
    ]


def kept_geometry(
    config: HeadlessStudyConfig, store: TokenStore, run: TrainedRun
) -> dict[str, Any]:
    """The geometry of a run's last checkpoint, kept beside it."""
    windows = min(config.windows or _WINDOWS, _WINDOWS)
    decided = [run.identity, store.fingerprint, config.split, config.context, windows, "geometry 1"]
    file = run.path / "scores" / f"geometry-{digest(decided)[:12]}.json"
    kept = _read(file)
    if kept is None:
        made = geometry(
            open_model(run.checkpoint),
            store,
            split=config.split,
            context=config.context,
            max_windows=windows,
        )
        kept = made.to_json()
        write_json(file, kept)
    return kept


def measured_growth(config: HeadlessStudyConfig) -> list[dict[str, Any]]:
    """Time and memory of a step of cross-entropy and of the headless loss at each vocabulary."""
    asked = {
        "model": to_mapping(config.model),
        "context": config.context,
        "batch": config.batch_tokens // config.context,
        "vocabularies": sorted(config.cost_vocabularies),
        "machine": [resolve_device("auto"), available_cores()],
    }
    file = config.lab / "speeds" / f"growth-{digest(asked)[:12]}.json"
    kept = _read(file)
    if kept is None:
        kept = {"rows": []}
        for vocabulary in asked["vocabularies"]:
            say(f"measuring a step with a vocabulary of {vocabulary:,}")
            costs = {
                name: asdict(
                    step_cost(
                        config.model,
                        headless=name == "headless",
                        vocabulary=vocabulary,
                        context=config.context,
                        batch=asked["batch"],
                    )
                )
                for name in ("cross-entropy", "headless")
            }
            kept["rows"].append({"vocabulary": vocabulary, **costs})
        write_json(file, kept)
    return kept["rows"]


def _read(file: Path) -> dict[str, Any] | None:
    """What was kept; None where there is nothing, or it is damaged and must be measured again."""
    try:
        values = from_json(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) else None
