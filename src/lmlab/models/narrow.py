"""Models whose head reads fewer dimensions than the body has: registered classes.

logits = states[kept] W' + b', or states P W' + b' where directions other than the axes were
removed (P is D x D'). W' has D' columns, so the head costs D' / D of the multiplications, plus
D x D' for P. After `import lmlab.models` they load like any other model.

Shapes: D width, D' kept dimensions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lmlab.errors import UserError
from lmlab.models.head import OutputEmbedding, with_settings

_OLD_HEAD = "embed_out"
"""The head of GPT-NeoX where transformers is older; it is called `lm_head` today."""


class NarrowHead(nn.Module):
    """`out` applied to some dimensions of the states (`kept`), or to a projection of them.

    For the optimizer it is what it replaces, an output embedding: no weight decay, no Muon.
    """

    def __init__(self, width: int, dimensions: int, vocabulary: int, *, projected: bool) -> None:
        super().__init__()
        self.project = OutputEmbedding(width, dimensions, bias=False) if projected else None
        if not projected:
            self.register_buffer("kept", torch.arange(dimensions))
        self.out = OutputEmbedding(dimensions, vocabulary)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.project is not None:
            return self.out(self.project(hidden))
        kept: Any = self.kept
        return self.out(hidden.index_select(-1, kept))


class _Narrow:
    """What the classes have in common: the head (`head_dimensions` and `head_projected` of the
    configuration), and no output embedding to tie or resize."""

    _tied_weights_keys: Any = None

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # pyright: ignore[reportCallIssue]
        model: Any = self
        model._modules.pop(_OLD_HEAD, None)
        model.lm_head = NarrowHead(
            config.hidden_size, config.head_dimensions, config.vocab_size,
            projected=config.head_projected,
        )  # fmt: skip
        model.post_init()

    def get_output_embeddings(self) -> None:
        """None: the head is no plain linear layer."""


class NarrowGPT2Config(GPT2Config):
    model_type = "lmlab_narrow_gpt2"


class NarrowGPT2LMHeadModel(_Narrow, GPT2LMHeadModel):
    config_class = NarrowGPT2Config


class NarrowGPTNeoXConfig(GPTNeoXConfig):
    model_type = "lmlab_narrow_gpt_neox"


class NarrowGPTNeoXForCausalLM(_Narrow, GPTNeoXForCausalLM):
    config_class = NarrowGPTNeoXConfig

    @property
    def embed_out(self) -> Any:
        return self.lm_head


class NarrowLlamaConfig(LlamaConfig):
    model_type = "lmlab_narrow_llama"


class NarrowLlamaForCausalLM(_Narrow, LlamaForCausalLM):
    config_class = NarrowLlamaConfig


class NarrowQwen3Config(Qwen3Config):
    model_type = "lmlab_narrow_qwen3"
    head_dimensions: int = 1
    head_projected: bool = False


class NarrowQwen3ForCausalLM(_Narrow, Qwen3ForCausalLM):
    config_class = NarrowQwen3Config


NARROW: dict[str, tuple[Any, Any]] = {
    "gpt2": (NarrowGPT2Config, NarrowGPT2LMHeadModel),
    "gpt_neox": (NarrowGPTNeoXConfig, NarrowGPTNeoXForCausalLM),
    "llama": (NarrowLlamaConfig, NarrowLlamaForCausalLM),
    "qwen3": (NarrowQwen3Config, NarrowQwen3ForCausalLM),
}
"""The configuration and the class with a narrow head, by the type of the stock model."""


def check_narrow(model: Any) -> None:
    """`UserError` for an architecture that has no narrow class."""
    kind = model.config.model_type
    if kind not in NARROW:
        raise UserError(
            f"a model of type '{kind}' cannot be written with a smaller head; lmlab knows how for "
            f"{', '.join(NARROW)}"
        )


@torch.no_grad()
def with_narrow_head(
    model: Any,
    weight_VE: torch.Tensor,
    bias_V: torch.Tensor,
    *,
    kept_E: torch.Tensor | None = None,
    projection_DE: torch.Tensor | None = None,
) -> Any:
    """A model with the body of `model` and a head of E dimensions: axes `kept_E`, or a projection.

    `UserError` for an architecture that has no narrow class.
    """
    check_narrow(model)
    config_kind, model_kind = NARROW[model.config.model_type]
    config = with_settings(
        config_kind, model.config, tie_word_embeddings=False,
        head_dimensions=weight_VE.shape[1], head_projected=projection_DE is not None,
    )  # fmt: skip
    narrow = model_kind(config)
    narrow.base_model.load_state_dict(model.base_model.state_dict())
    head = narrow.lm_head
    head.out.weight.copy_(weight_VE)
    head.out.bias.copy_(bias_V)
    if projection_DE is not None:
        head.project.weight.copy_(projection_DE.T)
    else:
        assert kept_E is not None
        head.kept.copy_(kept_E)
    return narrow.to(weight_VE.device).eval()
