"""What a model is trained to do. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmlab.errors import UserError

ObjectiveName = Literal["causal", "headless"]
OutputBias = Literal["none", "fixed", "learnt"]


@dataclass(frozen=True)
class HeadlessConfig:
    """The contrastive loss of a headless model, whose negatives are the micro-batch's targets."""

    temperature: float = 1.0
    cosine: bool = False
    """Divide hidden states and embeddings by their norms; wants a temperature well below 1."""
    duplicates: Literal["count", "unique"] = "count"
    """count: a target that occurs twice is two negatives (as published); unique: one."""
    detach_targets: bool = False
    """No gradient to the embeddings from their part as targets and negatives."""
    cross_entropy: float = 0.0
    """Share of full cross-entropy (with the log-unigram bias) in the loss; 0 is headless alone."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"--headless.temperature {self.temperature} must be above 0 and finite")
        if not 0 <= self.cross_entropy < 1:
            raise UserError(
                f"--headless.cross-entropy {self.cross_entropy} must be at least 0 and below 1; "
                "for cross-entropy alone use --objective causal"
            )
