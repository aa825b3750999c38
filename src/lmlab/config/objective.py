"""What a model is trained to do. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmlab.errors import UserError

ObjectiveName = Literal[
    "causal",
    "headless",
    "masked",
    "headless-masked",
    "towers",
    "towers-masked",
    "towers-cloze",
    "probe",
    "probe-masked",
    "probe-cloze",
    "classification",
]
HEADLESS_OBJECTIVES = ("headless", "headless-masked")
MASKED_OBJECTIVES = ("masked", "headless-masked", "towers-masked", "probe-masked")
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
                "for cross-entropy alone use --objective causal or masked"
            )


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens a masked model has to predict, and what it sees in their place.

    The defaults are BERT's (Devlin et al. 2019, section 3.1). What is neither masked nor replaced
    stays as it is, and is predicted all the same.
    """

    rate: float = 0.15
    """Share of a window's tokens that are predicted (special tokens never are)."""
    mask: float = 0.8
    """Share of those that the model sees as the mask token."""
    random: float = 0.1
    """Share of those that the model sees as a random token."""
    whole_words: bool = False
    """Choose whole words: all tokens of a word, or none."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UserError(f"--masking.rate {self.rate} must be above 0 and at most 1")
        if min(self.mask, self.random) < 0 or self.mask + self.random > 1:
            raise UserError(
                f"--masking.mask {self.mask} and --masking.random {self.random} are shares of the "
                "predicted tokens: not negative, and at most 1 together"
            )
