"""Options of embedding, decomposing and applying. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lmlab.config.model import SIZES
from lmlab.config.numbers import Options, at_least, check_each_once
from lmlab.errors import UserError
from lmlab.studies.options import OnStore, TextStudy

Arm = Literal["forward", "backward", "headless", "masked", "tower"]
Pooling = Literal["mean", "first", "last", "published"]


@dataclass(frozen=True)
class EmbeddingConfig(Options, prefix="embedding."):
    """What of a model becomes a row, and of how much text."""

    length: int = 128
    """Tokens of the store's tokenizer in a piece of text; every model reads the same text."""
    unit: Literal["piece", "word"] = "piece"
    """piece: one row a piece; word: one row a word, the mean of the model's tokens in it, so that
    models of different tokenizers are compared word by word."""
    pooling: Pooling = "mean"
    """mean: over the tokens of the text; first, last: what the model reads first (CLS, BOS) and
    last; published: the sum over all tokens, special ones too, over the padded length."""
    layer: int | None = at_least(0, None)
    """Which states: 0 is what the first block reads, 3 what block 3 gives (default: the last hidden
    states, after the final norm)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast, faster where the processor has it; about three digits."""
    batch_tokens: int = 8192
    """Tokens a forward pass at most, padding included; does not change the rows beyond rounding."""

    def __post_init__(self) -> None:
        if self.unit == "word" and self.pooling != "mean":
            raise UserError(
                f"`embedding.pooling` {self.pooling} is for whole pieces; the tokens of a word are "
                "averaged"
            )


@dataclass(frozen=True)
class EmbedConfig(OnStore):
    """Embed text with any models, lab or Hub, and keep the rows."""

    models: tuple[str, ...]
    """Run folders, checkpoints, saved transformers models, or Hub names."""
    store: Path = field(kw_only=True)
    """Its text is what the models read; its tokenizer only cuts it into pieces."""
    split: Literal["train", "validation", "test"] = "train"
    pieces: int | None = 20_000
    """At most this many, a fixed random sample."""
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    lab: Path = Path("lab")
    """Rows are kept in its folder embeddings, by model and text."""

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError("`models`: name at least one model to embed the text with")


@dataclass(frozen=True)
class DecomposeConfig(OnStore):
    """How much of one model is a linear combination of others; or of each model of a set, of all
    others, which are then given as `models`."""

    store: Path = field(kw_only=True)
    """Its text is what the models read; its tokenizer only cuts it into pieces. Fitted on the
    training split, the ridge chosen on validation, scored on test."""
    target: str | None = None
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    basis: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    pieces: int = at_least(2, 20_000)
    """Pieces of training text, at most: a fixed random sample."""
    held_out_pieces: int = at_least(2, 2_000)
    """Pieces of validation text and of test text, at most."""
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    ridge: float | None = None
    """On the diagonal of the covariance (default: the best on validation, for each target)."""
    folds: int = at_least(0, 0)
    """Cross-validate the training text in this many folds, and take the same as the groups of a
    jackknife of the training uncertainty (0: neither)."""
    shapley: bool = False
    """Also share each R2 out among the basis models."""
    lab: Path = Path("lab")
    """Rows are kept in its folder embeddings, by model and text."""
    out: Path | None = field(default=None, kw_only=True)
    """Folder of results.json and of the weights (default: below lab/results, by the digest of these
    options)."""

    def __post_init__(self) -> None:
        single, whole = self.target is not None or self.basis, bool(self.models)
        if bool(single) == whole or (single and (self.target is None or not self.basis)):
            raise UserError("give TARGET and `basis`, or `models` for a whole set")
        if whole and len(self.models) < 2:
            raise UserError("`models`: a set needs at least two models")
        if self.folds == 1:
            raise UserError("`folds` 1: give at least 2, or 0 for none")

    @property
    def splits(self) -> tuple[str, ...]:
        """What is read of the store."""
        return "train", "validation", "test"

    @property
    def names(self) -> tuple[str, ...]:
        """All models, the target first."""
        return self.models if self.target is None else (self.target, *self.basis)


@dataclass(frozen=True)
class DecompositionStudyConfig(TextStudy):
    """How much of a language model is in others? Trains a small zoo (forward, backward, headless
    and masked models and pairs of towers, several seeds of each) on one corpus and decomposes each
    into all others."""

    text: str = "docstrings"
    """File, folder, pattern (novels/*.txt), hf:NAME, or docstrings."""
    arms: tuple[Arm, ...] = ("forward", "backward", "headless", "masked", "tower")
    """forward, backward: cross-entropy; headless: contrastive weight tying; masked: ModernBERT;
    tower: each of two towers that share one prediction."""
    architecture: Literal["gpt2", "qwen3", "llama", "neox"] = "gpt2"
    """Of all but masked models."""
    size: tuple[str, ...] = ("micro",)
    """nano, tiny, micro, mini, small, gpt1, medium, xl."""
    seeds: int = 2
    models: tuple[str, ...] = ()
    """Further models that join the set: run folders, transformers models, Hub names."""
    vocabulary: int = 8192
    context: int = 256
    tokens: int = 4_000_000
    """Training tokens of each run."""
    batch_tokens: int = 2048
    """Tokens a step."""
    learning_rate: float = 1e-3
    masked_learning_rate: float = 5e-4
    """Learning rate of masked models."""
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    lengths: tuple[int, ...] = (16, 32, 64)
    """R2 is also taken at these lengths of text, besides `embedding.length`."""
    pieces: int = at_least(2, 20_000)
    """Pieces of training text, at most."""
    held_out_pieces: int = at_least(2, 2_000)
    """Pieces of validation text and of test text, at most."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    _rates = ("learning_rate", "masked_learning_rate")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once(self, "arms", "size")
        for size in self.size:
            if size not in SIZES:
                raise UserError(f"`size` {size}: the sizes are {', '.join(SIZES)}")
        if len(self.arms) * len(self.size) * self.seeds + len(self.models) < 2:
            raise UserError("a set needs at least two models: more arms, sizes, seeds or `models`")
        longest = max(self.embedding.length, *self.lengths, 1)
        if longest >= self.context:
            raise UserError(
                f"`lengths` and `embedding.length` must be below `context` {self.context}"
            )

    def all_lengths(self) -> list[int]:
        """Lengths of text, ascending, each once."""
        return sorted({*self.lengths, self.embedding.length})


@dataclass(frozen=True)
class ApplyConfig(OnStore):
    """Map basis embeddings to the target's by weights that `lmlab decompose` wrote, and compare
    with the true target."""

    weights: Path
    """A .safetensors file of `lmlab decompose`."""
    split: Literal["train", "validation", "test"] = "test"
    pieces: int = at_least(2, 2_000)
    neighbours: int = 10
    """Retrieval agreement: how many of a row's nearest neighbours are the same."""
    lab: Path = Path("lab")
    out: Path | None = field(default=None, kw_only=True)
    """Folder of results.json and of the mapped rows (default: below lab/results, by the digest of
    these options)."""
