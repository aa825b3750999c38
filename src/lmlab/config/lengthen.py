"""What `lmlab lengthen` is asked. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmlab.config.numbers import Options


@dataclass(frozen=True)
class LengthenConfig(Options):
    """Go on with a finished run, as a new run: its weights, optimizer, journal and order of the
    text. The finished one stays as it is.

    A constant learning rate goes on; wsd goes on from the last checkpoint before its decay; a rate
    that has come down (cosine, linear) is warmed up again. An interrupted run goes on with the same
    command."""

    one_of = ("steps", "tokens")

    run: Path
    """Folder of the finished run."""
    steps: int | None = None
    """Of both together."""
    tokens: int | None = None
    """In place of steps."""
    threads: int | None = None
    """CPU threads (default: as before, which keeps the bits)."""
    out: Path | None = None
    """Run folder (default: beside the finished run, by its name and the steps)."""
