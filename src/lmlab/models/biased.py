"""Llama with an output bias, as a registered class.

A Llama ends in an RMSNorm, which has no direction that is the same in every context: an output bias
cannot be folded into its stock weights (`lmlab.models.export` does so for LayerNorm models). After
`import lmlab.models` it loads like any other model.
"""

from __future__ import annotations

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


class BiasedLlamaConfig(LlamaConfig):
    """Configuration of a Llama whose head has a bias."""

    model_type = "lmlab_biased_llama"


class BiasedLlamaForCausalLM(LlamaForCausalLM):
    """Llama with an output bias."""

    config_class = BiasedLlamaConfig

    def __init__(self, config: BiasedLlamaConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        self.post_init()


AutoConfig.register(BiasedLlamaConfig.model_type, BiasedLlamaConfig)
AutoModelForCausalLM.register(BiasedLlamaConfig, BiasedLlamaForCausalLM)
