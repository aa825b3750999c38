"""What studies read of finished runs, and where they keep what they measure of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lmlab.config import digest
from lmlab.run_folders.checkpoint import checkpoint_folder, final_step
from lmlab.run_folders.journal import read_journal
from lmlab.training.loop import TrainedRun
from lmlab.training.setup import ResolvedRun

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Validation:
    """A loss on validation text, at a step of training."""

    step: int
    tokens: int
    nats_per_token: float


def validations(run: Path) -> list[Validation]:
    """The losses on validation text of the run in a folder, in the order of its steps."""
    return [
        Validation(record["step"], record["tokens"], record["validation_nats_per_token"])
        for record in read_journal(run / JOURNAL)
        if "validation_nats_per_token" in record
    ]


def is_there(run: ResolvedRun) -> bool:
    """Whether the run is finished."""
    return checkpoint_folder(run.path, final_step(run.path, run.config.steps)).is_dir()


def final_validation(run: TrainedRun | ResolvedRun) -> float:
    """The validation loss of a finished run's last checkpoint (with early stopping, the best), nats
    per token."""
    if isinstance(run, ResolvedRun):
        step = final_step(run.path, run.config.steps)
    else:
        step = int(run.checkpoint.name.removeprefix("step-"))
    return next(v.nats_per_token for v in validations(run.path) if v.step == step)


def count_weights(run: TrainedRun) -> int:
    """Weights of a run's model; an output prior that is not learnt is none of them."""
    with safe_open(run.checkpoint / "model.safetensors", "numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping


def file_beside(run: TrainedRun, name: str, *decided: Any) -> Path:
    """The file `name` beside a run, such as scores/geometry.json, with the digest of the run and of
    all else that decides what is in it."""
    path = run.path / name
    return path.with_stem(f"{path.stem}-{digest([run.identity, *decided])[:12]}")
