"""Two towers that share one prediction: how they are joined, trained, probed. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmlab.config.numbers import Options
from lmlab.errors import UserError

Fusion = Literal["concat", "product", "mixture", "minimum", "independent"]


@dataclass(frozen=True)
class TowersConfig(Options, prefix="towers."):
    """Two towers of the backbone that `model` describes, over shared embeddings twice as wide."""

    fusion: Fusion = "concat"
    """concat: one prediction from both states side by side (He and Toyoizumi 2022); product: of the
    towers' distributions, normalised; mixture: their weighted mean; minimum: each token trains the
    tower that predicts it better; independent: two towers that share nothing (the null N0)."""
    gate: Literal["fixed", "learnt"] = "fixed"
    """Of a mixture: one half each, or weights learnt from the context."""
    losses: Literal["joint", "separate"] = "joint"
    """separate: the same weights as concat, product or a fixed mixture, but each tower predicts
    alone and the loss is the mean of both, so that nothing makes them divide the work (the null
    that differs from joint towers in the loss only)."""
    balance: float = 1.0
    """Of minimum: weight of the penalty that keeps both towers in use."""
    split: bool = False
    """One model of twice the width, whose last states are split at random into two halves that
    stand for towers (the null N1)."""

    def __post_init__(self) -> None:
        if self.gate != "fixed" and self.fusion != "mixture":
            raise UserError("`towers.gate` learnt is for `towers.fusion` mixture")
        if self.balance != 1 and self.fusion != "minimum":
            raise UserError("`towers.balance` is for `towers.fusion` minimum")
        if self.losses == "separate":
            if self.fusion in ("minimum", "independent"):
                raise UserError(
                    f"`towers.losses` separate: the loss of {self.fusion} looks at each tower "
                    "alone as it is; use `towers.fusion` concat, product or mixture"
                )
            if self.gate == "learnt":
                raise UserError(
                    "`towers.losses` separate gives the weights of a mixture no gradient; "
                    "use `towers.gate` fixed"
                )
        if self.split and self.fusion == "independent":
            raise UserError("`towers.split`: halves of one model cannot be independent towers")
