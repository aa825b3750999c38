"""Options of the list of runs. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmlab.config.numbers import Options


@dataclass(frozen=True)
class RunsConfig(Options):
    """The training runs below a folder: what they are, how far, their last losses."""

    folder: Path = Path("lab")
