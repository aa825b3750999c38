"""Options of the commands about output embeddings. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from lmlab.config.numbers import at_least, check_each_once
from lmlab.errors import UserError
from lmlab.studies.options import InWindows, OfModel, TextStudy

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class EncodeConfig(OfModel):
    """How the output embedding encodes the mean probability of tokens."""

    split: SplitName = "validation"
    head: Literal["own", "raw"] = "own"
    """raw leaves out the output bias that lmlab gave the model (headless: embeddings alone)."""
    windows: int = 256
    """Average over a random sample of this many windows."""
    ridge: float = 0.0
    """Added to the diagonal of the embedding's covariance; 0: ordinary least squares."""
    rotations: int = 5
    """Random bases that the sparsity is compared with."""


@dataclass(frozen=True)
class SteerConfig(OfModel):
    """Scale the mean probability of tokens by editing their output embeddings, and say what else
    changes."""

    store: Path = field(kw_only=True)
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
    """Ridge of the regression whose slope is the direction (`lmlab encode`)."""
    untie: bool = False
    """Give a tied model an output embedding of its own."""
    other: Path | None = None
    """A store of other text, for side effects out of domain."""
    windows: int = 256
    """Random sample of this many windows of each text."""
    out: Path | None = field(default=None, kw_only=True)
    """Folder for the steered model, a plain transformers one, with the result and its page
    (default: no model, the result below lab/results)."""

    def __post_init__(self) -> None:
        for each in self.token:
            if not re.fullmatch(r"(?s).+=\s*[+\d.].*", each):
                raise UserError(f"`token` {each!r}: give TOKEN=FACTOR with a factor above 0")
        if self.untie and self.method == "bias":
            raise UserError("`untie`: method bias leaves the embedding as it is; leave it out")


def check_shares(*shares: float) -> None:
    """`UserError` for a share of dimensions that cannot be removed."""
    for share in shares:
        if not 0 <= share < 1:
            raise UserError(f"share {share:g} of the dimensions: give one of at least 0, below 1")


@dataclass(frozen=True)
class PruneConfig(OfModel):
    """Remove dimensions of the output embedding, say what it does to the distribution, and write a
    model whose head is smaller."""

    store: Path = field(kw_only=True)
    """Its validation split is the estimation text, its test split the in-domain text."""
    share: float | None = None
    """Share of the dimensions to remove from the model that is written to `out`."""
    untie: bool = False
    """Write a tied model although its smaller head is added to it, so that it gets larger."""
    way: Literal["encoding", "variance", "hidden", "svd", "fisher", "random"] = "encoding"
    """Which dimensions of that model go first: those that add least to the encoding, vary least
    over the vocabulary, are smallest in the states, are the smallest singular directions, change
    the distributions of the estimation text least (fisher), random.
    """
    replace: Literal["mean", "zero"] = "mean"
    """Keep a removed dimension's mean as a bias, or nothing."""
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    """Shares of the curves, which compare all ways and both replacements."""
    margin: float = 0.01
    """Rise in nats per token that does not matter (0.01: perplexity 1 %)."""
    other: Path | None = None
    """A store of other text, for effects out of domain."""
    windows: int = 64
    """Random sample of this many windows of each text."""
    prompts: int = at_least(0, 16)
    """Texts that are continued greedily to compare generation; 0: none."""
    out: Path | None = field(default=None, kw_only=True)
    """Folder for the pruned model (with `share`), the result and its page (default: no model)."""

    def __post_init__(self) -> None:
        if self.share is not None and self.out is None:
            raise UserError("`share` needs `out`, the folder of the pruned model")
        check_shares(*self.shares, self.share or 0)
        if self.untie and self.share is None:
            raise UserError("`untie` is for the model that `share` and `out` write")
        if not self.shares:
            raise UserError("`shares` needs at least one share to compare")


@dataclass(frozen=True)
class DynamicsConfig(InWindows):
    """When in training the output embedding comes to encode frequency, over a run's checkpoints."""

    models: tuple[str, ...]
    """A run (train with `checkpoints.logarithmic` and `checkpoints.per_doubling` 4), or several
    checkpoints, folders or Hub names in their order."""
    follow: bool = False
    """Go on while the run trains, until its last step."""
    pause: float = 5.0
    """Seconds between looks at the run's folder."""
    windows: int = 32
    """Windows of validation text, at each checkpoint."""

    def __post_init__(self) -> None:
        if self.follow and len(self.models) > 1:
            raise UserError("`follow` watches one run")
        if self.pause <= 0:
            raise UserError(f"`pause` {self.pause} must be above 0")


ArmName = Literal[
    "ce-untied", "ce-tied", "ce-prior", "backward", "headless", "llama", "llama-headless"
]
ARM_NAMES: tuple[ArmName, ...] = get_args(ArmName)


@dataclass(frozen=True)
class EncodingStudyConfig(TextStudy):
    """How do output embeddings hold token probability, under different objectives? Trains small
    models, everything else equal, and encodes, steers, prunes and watches each."""

    text: str = "docstrings"
    """File, folder, pattern (novels/*.txt), hf:NAME, or docstrings."""
    vocabulary: tuple[int, ...] = (8192,)
    arms: tuple[ArmName, ...] = ARM_NAMES
    """ce-untied, ce-tied, ce-prior (a learnt log-unigram bias), backward, headless: of
    `architecture`; llama, llama-headless: RMSNorm."""
    architecture: Literal["gpt2", "qwen3", "neox"] = "gpt2"
    """Of all arms but those of Llama."""
    size: Literal["nano", "tiny", "micro", "mini", "small"] = "micro"
    context: int = 128
    tokens: int = 1_000_000
    """Training tokens of each run."""
    batch_tokens: int = 2048
    learning_rate: float = 2e-3
    seed: int = at_least(0, 0)
    dynamics: bool = True
    """Watch each model over its checkpoints. Without, runs of other studies are shared."""
    checkpoints_per_doubling: int = 4
    """Checkpoints for each doubling of the step; more tell apart what happens at nearly the same
    time, and take disk space (about 12 bytes a parameter each)."""
    windows: int = 64
    """Windows of held-out text, for every analysis."""
    factors: tuple[float, ...] = (2.0, 5.0, 20.0)
    """Factors that single tokens are steered by."""
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    """Shares of the dimensions that are pruned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once(self, "vocabulary", "arms", "factors", "shares")
        if min(self.factors) <= 0 or not all(0 < share < 1 for share in self.shares):
            raise UserError("`factors` must be above 0, `shares` between 0 and 1")
