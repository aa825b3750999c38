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


@dataclass(frozen=True)
class SteerConfig:
    """Scale the mean probability of tokens by editing their output embeddings, and say what else
    changes: lmlab steer MODEL --store STORE --token " the=0.5" " of=2" --out FOLDER"""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    store: Path
    """Its validation split is the text on which the factors are to hold; its test split is the
    in-domain text."""
    token: tuple[str, ...]
    """TOKEN=FACTOR each; a leading space often belongs to a token."""
    method: Literal["minimum_norm", "sparse", "whitened", "complement", "bias"] = "minimum_norm"
    """sparse: fewest dimensions; whitened: least variance over contexts; complement: nothing along
    the direction in which a LayerNorm model's states are constant; bias: a plain output bias."""
    exact: bool = True
    """Solve for sizes that meet the factors exactly on the validation split; else as predicted."""
    ridge: float = 0.0
    """Of the regression whose slope is the direction (`lmlab encode`)."""
    untie: bool = False
    """Give a tied model an output embedding of its own."""
    other: Path | None = None
    """A store of other text, for side effects out of domain."""
    context: int | None = None
    """Window in tokens (default: the model's, at most 1024)."""
    windows: int = 256
    """Random sample of this many windows of each text."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder for the steered model, a plain transformers one, and results.json (default: no model,
    only results.json below lab/results)."""
