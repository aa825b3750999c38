"""Options of the commands about output embeddings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmlab.errors import UserError

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class EncodeConfig:
    """How the output embedding encodes the mean probability of tokens:
    lmlab encode MODEL --store STORE"""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    store: Path
    split: SplitName = "validation"
    head: Literal["own", "raw"] = "own"
    """raw leaves out the output bias that lmlab gave the model (headless: embeddings alone)."""
    context: int | None = None
    """Window in tokens (default: the model's, at most 1024)."""
    windows: int = 256
    """Average over a random sample of this many windows."""
    ridge: float = 0.0
    """Added to the diagonal of the embedding's covariance; 0: ordinary least squares."""
    rotations: int = 5
    """Random bases that the sparsity is compared with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of results.json (default: below lab/results, by the digest of these options)."""

    def __post_init__(self) -> None:
        if self.rotations < 1:
            raise UserError("--rotations must be at least 1")
