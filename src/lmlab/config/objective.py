"""What a model is trained to do. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmlab.config.numbers import Options
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
CandidateLaw = Literal["batch", "other-windows", "unigram", "mixture"]


@dataclass(frozen=True)
class HeadlessConfig(Options, prefix="headless."):
    """The contrastive loss of a headless model, and the candidates that a target is told from."""

    temperature: float = 1.0
    cosine: bool = False
    """Divide hidden states and embeddings by their norms; wants a temperature well below 1."""
    duplicates: Literal["count", "unique"] = "count"
    """count: a target that occurs twice is two negatives (as published); unique: one."""
    detach_targets: bool = False
    """No gradient to the embeddings from their part as targets and negatives."""
    cross_entropy: float = 0.0
    """Share of full cross-entropy (with the log-unigram bias) in the loss; 0 is headless alone."""
    candidates: CandidateLaw = "batch"
    """batch: the micro-batch's targets (as published), a share of 1 / windows of them from a row's
    own window, which biases the model against what repeats; other-windows: those of the others;
    unigram: independent draws from the training split's tokens, without bias; mixture: targets and
    draws, weighted so that every row's candidates follow the unigram distribution."""
    draws: int | None = None
    """Of unigram and mixture: how many are drawn for a micro-batch (default: as many as it has
    targets). Of batch: so many of its targets are candidates (default: all)."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"--headless.temperature {self.temperature} must be above 0 and finite")
        if self.draws is not None and self.draws < 1:
            raise UserError(f"--headless.draws {self.draws} must be at least 1")
        if self.draws is not None and self.candidates == "other-windows":
            raise UserError(
                "--headless.draws: the candidates other-windows are all targets of those; leave it "
                "out, or use --headless.candidates batch, unigram or mixture"
            )
        if self.duplicates == "unique" and not self.is_published_law:
            raise UserError(
                "--headless.duplicates unique is for --headless.candidates batch without draws: "
                "other laws need every candidate counted"
            )
        if not 0 <= self.cross_entropy < 1:
            raise UserError(
                f"--headless.cross-entropy {self.cross_entropy} must be at least 0 and below 1; "
                "for cross-entropy alone use --objective causal or masked"
            )

    @property
    def is_published_law(self) -> bool:
        """Whether the candidates are all targets of the micro-batch."""
        return self.candidates == "batch" and self.draws is None

    @property
    def needs_prior(self) -> bool:
        """Whether the candidates follow from the log-unigram distribution."""
        return self.candidates in ("unigram", "mixture")


@dataclass(frozen=True)
class MaskingConfig(Options, prefix="masking."):
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
