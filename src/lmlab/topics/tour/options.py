"""Options of the tour. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmlab.config.numbers import Options


@dataclass(frozen=True)
class TourConfig(Options):
    """A small edition of the studies on the default corpus, in a few minutes."""

    lab: Path = Path("lab")
