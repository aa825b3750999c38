"""Options of the geometry of a model. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmlab.config.numbers import Options


@dataclass(frozen=True)
class GeometryConfig(Options):
    """Shape of a model's embeddings and hidden states; norms and loss by token frequency."""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    store: Path
    split: Literal["train", "validation", "test"] = "validation"
    context: int | None = None
    """Window in tokens (default: the model's, at most 1024)."""
    windows: int = 256
    """Evaluate a random sample of this many windows."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of results.json and report.html (default: below lab/results, by the digest of these
    options)."""
