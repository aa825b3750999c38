"""Options of the arrow of time, between two models and as a study. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmlab.config.model import RECURRENT, RECURRENT_SIZES, SIZES
from lmlab.config.numbers import check_each_once
from lmlab.errors import UserError
from lmlab.studies.options import InWindows, TextStudy


@dataclass(frozen=True)
class ArrowPairConfig(InWindows):
    """Compare two models, one forward and one backward, on the same windows of a store."""

    forward: str
    backward: str
    split: Literal["train", "validation", "test"] = "test"
    windows: int | None = None


Architecture = Literal["qwen3", "gpt2", "neox", "llama", "gru", "lstm"]


TokenizerKind = Literal["bpe", "bpe-reversed", "bytes"]


@dataclass(frozen=True)
class ArrowConfig(TextStudy):
    """Is text easier to predict forwards than backwards? Trains both directions, everything else
    equal, for every combination of the lists below, and compares them on held-out text."""

    text: tuple[str, ...] = ("docstrings",)
    """Files, folders, patterns (novels/*.txt), hf:NAME, docstrings, or a synthetic source
    (linear:BITS:EXTRA[:SEED], primes, markov:STATES[:SEED], map:IMAGES:FAN_IN[:SEED],
    spam:SYMBOLS:LENGTH); a row of the result each. linear:BITS:EXTRA:FIRST-LAST: several matrices
    as they come, with a mean over them.
    """
    tokenizer: tuple[TokenizerKind, ...] = ("bpe",)
    """bpe-reversed: BPE learnt on reversed text, the paper's control."""
    architecture: tuple[Architecture, ...] = ("gpt2",)
    size: tuple[str, ...] = ("micro",)
    """nano, tiny, micro, mini, small, gpt1, medium, xl; for gru and lstm 1x256, 3x512, 5x768."""
    context: tuple[int, ...] = (256,)
    seeds: int = 3
    """In each direction. A verdict about directions takes three."""
    order: tuple[str, ...] = ()
    """Further orders to compare with forward: permutation:SEED."""
    vocabulary: int = 8192
    tokens: int = 4_000_000
    """Training tokens of each run."""
    batch_tokens: int = 2048
    """Tokens a step. Small models with little text learn more from many small steps."""
    learning_rate: float = 1e-3
    dropout: float = 0.0
    initializer_range: float | None = None
    """Standard deviation of the initial weights (default: transformers' 0.02)."""
    compile: bool = False
    split: Literal["test", "validation"] = "test"
    """The held-out text on which the directions are compared."""
    windows: int | None = None
    """Compare on a random sample of this many windows (default: all)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once(self, "text", "tokenizer", "architecture", "size", "context")
        combinations = self.models()
        known = [*SIZES, *RECURRENT_SIZES]
        for size in self.size:
            if size not in known:
                raise UserError(f"`size` {size}: the sizes are {', '.join(known)}")
        for architecture in self.architecture:
            if not any(a == architecture for a, _ in combinations):
                own = RECURRENT_SIZES if architecture in RECURRENT else SIZES
                raise UserError(f"`architecture` {architecture} needs `size` of {', '.join(own)}")
        for size in self.size:
            if not any(s == size for _, s in combinations):
                raise UserError(f"`size` {size}: no architecture asked for has this size")
        for order in self.order:
            kind, _, seed = order.partition(":")
            if kind != "permutation" or not seed.isdigit():
                raise UserError(f"`order` {order}: give permutation:SEED")

    def models(self) -> list[tuple[Architecture, str]]:
        """The combinations of architecture and size that exist."""
        return [
            (architecture, size)
            for architecture in self.architecture
            for size in self.size
            if size in (RECURRENT_SIZES if architecture in RECURRENT else SIZES)
        ]
