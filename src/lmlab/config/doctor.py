"""What `lmlab doctor` is asked: the options of `lmlab train`, and two of its own. Imports no torch.

Notable: `--out` is the run's folder, as in train, so that a command line of train serves as it is.
Nothing is written there: a results.json in it would keep the run from starting.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmlab.config.numbers import at_least
from lmlab.config.training import TrainConfig


@dataclass(frozen=True)
class DoctorConfig(TrainConfig):
    """What will this training cost? Takes the options of `lmlab train`: parameters, FLOPs, memory,
    expected time on this machine, and whether headless training can pay. Trains nothing."""

    rounds: int | None = at_least(0, None)
    """Steps of each form that are timed (default: as many as fit in a minute, 3 to 12); 0: none."""
    results: Path | None = None
    """Folder of results.json (default: below lab/results, by the digest of these options)."""
