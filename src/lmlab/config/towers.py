"""Two towers that share one prediction: how they are joined, trained, probed. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmlab.errors import UserError

TOWER_OBJECTIVES = ("towers", "towers-masked", "towers-cloze")
PROBE_OBJECTIVES = ("probe", "probe-masked", "probe-cloze")
CLOZE_OBJECTIVES = ("towers-cloze", "probe-cloze")
Fusion = Literal["concat", "product", "mixture", "minimum", "independent"]


@dataclass(frozen=True)
class TowersConfig:
    """Two towers of the backbone that --model describes, over shared embeddings twice as wide."""

    fusion: Fusion = "concat"
    """concat: one prediction from both states side by side (He and Toyoizumi 2022); product: of the
    towers' distributions, normalised; mixture: their weighted mean; minimum: each token trains the
    tower that predicts it better; independent: two towers that share nothing (the null N0)."""
    gate: Literal["fixed", "learnt"] = "fixed"
    """Of a mixture: one half each, or weights learnt from the context."""
    balance: float = 1.0
    """Of minimum: weight of the penalty that keeps both towers in use."""
    split: bool = False
    """One model of twice the width, whose last states are split at random into two halves that
    stand for towers (the null N1)."""

    def __post_init__(self) -> None:
        if self.gate != "fixed" and self.fusion != "mixture":
            raise UserError("--towers.gate learnt is for --towers.fusion mixture")
        if not 0 <= self.balance < float("inf"):
            raise UserError(f"--towers.balance {self.balance} must be at least 0 and finite")
        if self.balance != 1 and self.fusion != "minimum":
            raise UserError("--towers.balance is for --towers.fusion minimum")
        if self.split and self.fusion == "independent":
            raise UserError("--towers.split: halves of one model cannot be independent towers")


@dataclass(frozen=True)
class PreferConfig:
    """Which types of token each of two towers predicts better: lmlab prefer RUN --store STORE

    RUN holds probes (lmlab train --objective probe --parent.path TOWERS), or towers whose fusion
    gives each a distribution, which is then calibrated by a temperature.
    """

    run: str
    """Run folder or checkpoint."""
    store: Path
    split: Literal["train", "validation", "test"] = "validation"
    """What is scored; towers without probes are calibrated on validation, or on test if that is
    scored."""
    context: int | None = None
    """Window in tokens (default: the model's, at most 1024)."""
    windows: int | None = None
    """Score a random sample of this many windows (default: all)."""
    seed: int = 0
    """Of splits into halves and of permutations."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of results.json (default: below lab/results, by the digest of these options)."""
