"""Studies that several processes share: their folder, and the workers to start. Imports no torch.

Notable: whether a study is shared is not part of its configuration, so it has the same folder and
the same results either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lmlab.config import digest, to_mapping
from lmlab.config.numbers import Options
from lmlab.config.training import whole_steps
from lmlab.errors import UserError


@dataclass(frozen=True)
class StudyLength(Options):
    """How long each run of a study is: its `tokens`, or one of these in their place."""

    one_of = ("tokens", "steps", "epochs")

    steps: int | None = field(default=None, kw_only=True)
    """In place of tokens: steps of batch_tokens."""
    epochs: float | None = field(default=None, kw_only=True)
    """In place of tokens: times that the training split is read (of one text and vocabulary)."""

    def set_tokens(self) -> None:
        """Counts `steps` in tokens. `UserError` for tokens that are not one step."""
        asked: Any = self
        if self.steps is not None:
            object.__setattr__(self, "tokens", self.steps * asked.batch_tokens)
            object.__setattr__(self, "steps", None)
        whole_steps(asked.tokens, asked.batch_tokens)


def study_folder(study: str, config: Any) -> Path:
    """The folder of a study's result: `config.out`, or in `config.lab` by the digest of what
    decides the result, that is the settings without their places and the device."""
    assert getattr(config, "epochs", None) is None or study == "finetune", "in_tokens comes first"
    if config.out is not None:
        return config.out
    decided = {k: v for k, v in to_mapping(config).items() if k not in ("lab", "out", "device")}
    return config.lab / f"{study}-{digest(decided)[:8]}"


@dataclass(frozen=True)
class SubmitConfig:
    """Workers that `--submit FILE` starts, and what each of them gets."""

    workers: int = 2
    cluster: Literal["slurm", "local"] = "slurm"
    """local: processes of this machine, which outlive the command that started them."""
    hours: float = 24.0
    """Then Slurm ends a worker; its run goes on from the last checkpoint with the next worker.
    Local workers have no limit."""
    cpus: int = 1
    """Cores of a worker."""
    gpus: int = 0
    """Of a worker; local workers all see the first so many."""
    memory_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    """Shell lines to run first: module load, export, source."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("cpus", 1), ("gpus", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.hours < math.inf:
            raise UserError(f"hours must be above 0 and finite, not {self.hours}")
        if self.memory_gb is not None and not 0 < self.memory_gb < math.inf:
            raise UserError(f"memory_gb must be above 0 and finite, not {self.memory_gb}")
        asked = [n for n in ("partition", "account", "qos", "constraint") if getattr(self, n)]
        if self.cluster == "local" and asked:
            raise UserError(f"{', '.join(asked)} is for Slurm; this cluster is local")


@dataclass(frozen=True)
class ReportConfig(Options):
    """Draw the report of a finished study again, from its results.json."""

    study: Path
    """Folder that holds results.json."""
