"""Llama and Qwen3 with an output bias, as registered classes.

They end in an RMSNorm, which has no direction that is the same in every context: an output bias
cannot be folded into their stock weights (`lmlab.models.export` does so for LayerNorm models).
After `import lmlab.models` they load like any other model.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)


class _Biased:
    """A model whose head has a bias."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # pyright: ignore[reportCallIssue]
        model: Any = self
        model.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        model.post_init()


class BiasedLlamaConfig(LlamaConfig):
    model_type = "lmlab_biased_llama"


class BiasedLlamaForCausalLM(_Biased, LlamaForCausalLM):
    config_class = BiasedLlamaConfig


class BiasedQwen3Config(Qwen3Config):
    model_type = "lmlab_biased_qwen3"


class BiasedQwen3ForCausalLM(_Biased, Qwen3ForCausalLM):
    config_class = BiasedQwen3Config


BIASED: dict[str, tuple[Any, Any]] = {
    "llama": (BiasedLlamaConfig, BiasedLlamaForCausalLM),
    "qwen3": (BiasedQwen3Config, BiasedQwen3ForCausalLM),
}
"""The configuration and the class with a bias, by the type of the stock model."""
