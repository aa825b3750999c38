"""Which backbone, and how large: the configuration of a model. Imports no torch.

The named sizes are those of Papadopoulos et al. 2024 (layers / heads / width): nano 3/3/48 to
XL 48/25/1600 for attention, and 1x256, 3x512, 5x768 (layers x width) for GRU and LSTM. Beside them
stands tiny, 2/4/128, the default: it learnt more than micro, twice as deep, in the time that micro
takes for 0.15 to 2 million tokens (docs/experiments.md, "two layers learn more than four").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from lmlab.config.numbers import Options
from lmlab.errors import UserError


class Size(NamedTuple):
    layers: int
    heads: int
    width: int


SIZES = {
    "nano": Size(3, 3, 48),
    "tiny": Size(2, 4, 128),
    "micro": Size(4, 4, 128),
    "mini": Size(6, 6, 192),
    "small": Size(10, 10, 380),
    "gpt1": Size(12, 12, 768),
    "medium": Size(24, 16, 1024),
    "xl": Size(48, 25, 1600),
}
RECURRENT_SIZES = {"1x256": Size(1, 1, 256), "3x512": Size(3, 1, 512), "5x768": Size(5, 1, 768)}
_DEFAULT, _DEFAULT_RECURRENT = "tiny", "1x256"
ATTENTION, RECURRENT = ("gpt2", "neox", "llama", "qwen3"), ("gru", "lstm")
MASKED = ("bert", "modernbert", "distilbert")
WRITES = {
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
}
"""Layers by which the blocks of an architecture write to what all blocks add to."""


@dataclass(frozen=True)
class ModelConfig(Options, prefix="model."):
    """A backbone and its size; layers, heads and width override the named size."""

    architecture: Literal[
        "gpt2", "neox", "llama", "qwen3", "gru", "lstm", "bert", "modernbert", "distilbert", "auto"
    ] = "qwen3"
    """qwen3 has what small models of today have: RMSNorm, gated layers, rotary positions, normed
    queries and keys. bert, modernbert and distilbert are for masked objectives, the others for
    causal ones; auto: any transformers architecture, from the configuration named by
    `model.path`."""
    size: str | None = None
    """nano, tiny, micro, mini, small, gpt1, medium, xl (default: tiny, which learnt more than
    micro in the same minutes, on three kinds of text, mostly one seed; long runs may want more);
    for gru and lstm 1x256 (default), 3x512, 5x768."""
    layers: int | None = None
    heads: int | None = None
    width: int | None = None
    tied: bool = False
    """Output embedding = input embedding."""
    dropout: float = 0.0
    initializer_range: float | None = None
    """Standard deviation of the initial weights (default: transformers' 0.02); of gru and lstm, the
    embeddings only."""
    zero_init: bool | None = None
    """Start with zeros where a block writes its results back, so that a fresh model is its
    embedding and its head alone (default: of qwen3 and llama, untied, without
    `initializer_range`)."""
    path: str | None = None
    """For architecture auto: folder or Hub name whose config.json is used (not its weights)."""

    def __post_init__(self) -> None:
        if (self.architecture == "auto") != (self.path is not None):
            raise UserError("`model.architecture` auto and `model.path` go together")
        if self.dropout >= 1:
            raise UserError(f"`model.dropout` {self.dropout} must be at least 0 and below 1")
        scale = self.initializer_range
        if scale is not None and not 0 < scale < 1:
            raise UserError(f"`model.initializer_range` {scale} must be above 0 and below 1")
        if self.zero_init and self.architecture not in WRITES:
            raise UserError(
                f"`model.zero_init`: known for {', '.join(WRITES)}, not for {self.architecture}; "
                "leave it out"
            )
        if self.architecture != "auto":
            self.dimensions()
        elif (self.size, self.layers, self.heads, self.width, scale) != (None,) * 5 or (
            self.tied or self.dropout
        ):
            raise UserError(
                f"`model.architecture` auto takes size, tying, dropout and initial weights from "
                f"{self.path}; change them in its config.json"
            )

    @property
    def starts_at_zero(self) -> bool:
        """Whether what the blocks of fresh weights write is zero."""
        if self.zero_init is None:
            modern = self.architecture in ("qwen3", "llama")
            return modern and not self.tied and self.initializer_range is None
        return self.zero_init

    @property
    def decided_size(self) -> str | None:
        """The named size of which an attention model has what is not given, if anything."""
        all_given = None not in (self.layers, self.heads, self.width)
        if all_given or self.architecture not in (*ATTENTION, *MASKED):
            return self.size
        return self.size or _DEFAULT

    def dimensions(self) -> Size:
        """Layers, heads and width after the overrides."""
        recurrent = self.architecture in RECURRENT
        known = RECURRENT_SIZES if recurrent else SIZES
        size = self.size or (_DEFAULT_RECURRENT if recurrent else _DEFAULT)
        if size not in known:
            raise UserError(
                f"`model.size` {size}: {self.architecture} has the sizes {', '.join(known)}"
            )
        base = known[size]
        chosen = Size(
            *(
                own if given is None else given
                for given, own in zip((self.layers, self.heads, self.width), base, strict=True)
            )
        )
        if not recurrent and chosen.width % chosen.heads:
            raise UserError(f"width {chosen.width} is not a multiple of {chosen.heads} heads")
        if self.architecture in ("neox", "llama", "qwen3") and (chosen.width // chosen.heads) % 2:
            raise UserError(
                f"width {chosen.width} / {chosen.heads} heads gives an odd head width, which "
                "rotary positions cannot use"
            )
        return chosen
