"""How a run went, or goes: its curve, validation, speed and configuration, read from its folder.

Notable: a long journal is told in at most 400 points, each the mean of as many steps.

Shapes: P points of the curve, E validations, M moments that were timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.config.training import TrainConfig
from lmlab.errors import UserError
from lmlab.results import Result
from lmlab.run_folders.journal import read_journal
from lmlab.run_folders.rundir import stored_config, stored_identity
from lmlab.topics.runs.listing import RUNNING, bytes_below, state_of, tokens_per_byte

_MOST_POINTS = 400


@dataclass(frozen=True)
class TrainingRun(Result, kind="run"):
    """One training run so far. Losses in nats per token for cross-entropy."""

    source = "the files of the run"
    derived = ("seconds_left",)

    name: str
    identity: str
    config: TrainConfig
    state: str
    """finished, running, or stopped."""
    step: int
    tokens: int
    """Targets so far."""
    step_P: np.ndarray
    """The last step of each point."""
    loss_P: np.ndarray
    gradient_norm_P: np.ndarray
    learning_rate_P: np.ndarray
    validation_step_E: np.ndarray
    validations: dict[str, np.ndarray]
    """Each measure at those steps (E), by its name."""
    tokens_per_byte: float | None
    """Of the validation split; None for a masked model, or where the store is gone."""
    timed_step_M: np.ndarray
    tokens_per_second_M: np.ndarray
    seconds: float
    """Of training, by the clock."""
    peak_memory: int | None
    """Bytes."""
    bytes: int
    """On disk."""

    @property
    def seconds_left(self) -> float | None:
        """At its latest speed; None unless it is running and was timed."""
        if self.state != RUNNING or not len(self.tokens_per_second_M) or not self.step:
            return None
        left = self.tokens / self.step * (self.config.steps - self.step)
        return left / float(self.tokens_per_second_M[-1])


def read_run(path: Path) -> TrainingRun:
    """The run in a folder, as far as it is. Raises `UserError` where there is none that has begun,
    or its journal is damaged."""
    config = stored_config(path)
    records = read_journal(path / "journal.jsonl")
    if not records:
        raise UserError(f"{path}: no step was taken yet")
    timed = read_journal(path / "timing.jsonl")
    validated = [r for r in records if any(k.startswith("validation_") for k in r)]
    names = [k for k in (validated[0] if validated else {}) if k.startswith("validation_")]
    store_rate = None if config.reads_both_sides else tokens_per_byte(config.store)
    last = records[-1]
    return TrainingRun(
        name=path.name,
        identity=stored_identity(path),
        config=config,
        state=state_of(path, config.steps, last["step"]),
        step=last["step"],
        tokens=last["tokens"],
        step_P=_column(records, "step", of=-1).astype(np.int64),
        loss_P=_column(records, "loss"),
        gradient_norm_P=_column(records, "gradient_norm"),
        learning_rate_P=_column(records, "learning_rate"),
        validation_step_E=np.array([r["step"] for r in validated], dtype=np.int64),
        validations={n: np.array([r[n] for r in validated], dtype=np.float64) for n in names},
        tokens_per_byte=store_rate,
        timed_step_M=np.array([r["step"] for r in timed], dtype=np.int64),
        tokens_per_second_M=np.array([r["tokens_per_second"] for r in timed], dtype=np.float64),
        seconds=sum(r["seconds"] for r in timed),
        peak_memory=max((r["peak_memory_bytes"] or 0 for r in timed), default=0) or None,
        bytes=bytes_below(path),
    )


def _column(records: list[dict[str, Any]], name: str, *, of: int | None = None) -> np.ndarray:
    """A field of the journal, the mean of each point's steps, or the one at place `of` them."""
    parts = np.array_split([r[name] for r in records], min(_MOST_POINTS, len(records)))
    return np.array([part.mean() if of is None else part[of] for part in parts], dtype=np.float64)
