"""Studies that several processes share: their folder, and the workers to start. Imports no torch.

Notable: whether a study is shared is not part of its configuration, so it has the same folder and
the same results either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmlab.config import digest, to_mapping
from lmlab.config.numbers import Options
from lmlab.errors import UserError


def study_folder(study: str, config: Any) -> Path:
    """The folder of a study's result: `config.out`, or in `config.lab` by the digest of what
    decides the result, that is the settings without their places and the device."""
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
