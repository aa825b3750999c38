"""GRU and LSTM language models as registered `PreTrainedModel`s.

`import lmlab.models` registers them with transformers' Auto classes, so `from_pretrained` works on
their checkpoints like on any other's. Sizes of the paper: 1x256, 3x512, 5x768 (layers x width).

Notable: `forward` also takes and returns the recurrent state (`past_key_values`), so that
generation costs one step a token; it is a plain tuple of tensors.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    GenerationMixin,
    PreTrainedConfig,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutput,
)
from transformers.modeling_utils import PreTrainedModel

from lmlab.errors import UserError


class RecurrentConfig(PreTrainedConfig):
    """Configuration of a GRU or LSTM language model (`cell`: "gru" or "lstm")."""

    model_type = "lmlab_recurrent"

    cell: str = "lstm"
    vocab_size: int = 50257
    hidden_size: int = 256
    num_hidden_layers: int = 1
    dropout: float = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    output_bias: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    """Only a classifier needs it, to find the last real token."""


class RecurrentPreTrainedModel(PreTrainedModel):
    config_class = RecurrentConfig
    base_model_prefix = "model"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.GRU | nn.LSTM):
            # PyTorch's own default for recurrent layers, uniform in +-1/sqrt(D)
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound)


class RecurrentModel(RecurrentPreTrainedModel):
    """Embedding and recurrent layers; gives hidden states (B, T, D)."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[config.cell]
        between = config.dropout if config.num_hidden_layers > 1 else 0.0
        self.layers = kind(
            config.hidden_size,
            config.hidden_size,
            config.num_hidden_layers,
            batch_first=True,
            dropout=between,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        inputs_embeds: torch.Tensor | None = None,
        **unused: Any,
    ) -> BaseModelOutputWithPast:
        """`attention_mask` may only mask padding on the right, where it changes nothing."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        embedded_BTD = self.dropout(inputs_embeds)
        state = past_key_values if isinstance(past_key_values, tuple) else None
        if state is not None and self.config.cell == "gru":
            state = state[0]
        hidden_BTD, last = self.layers(embedded_BTD, state)
        past = None
        if use_cache:
            past = last if isinstance(last, tuple) else (last,)
        return BaseModelOutputWithPast(
            last_hidden_state=self.dropout(hidden_BTD),
            past_key_values=past,  # pyright: ignore[reportArgumentType]
        )


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """Recurrent backbone with an output embedding, with a bias if the configuration says so."""

    _is_stateful = True  # tells `generate` that the past is a state, not a DynamicCache
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.model = RecurrentModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.output_bias)
        self.post_init()

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: torch.Tensor,
        past_key_values: Any = None,
        attention_mask: torch.Tensor | None = None,  # `generate` refuses what is not named here
        **arguments: Any,
    ) -> dict[str, Any]:
        """One step a token once there is a state; prompts without padding."""
        if attention_mask is not None and not attention_mask.all():
            raise UserError("a recurrent model generates from prompts of one length, unpadded")
        has_state = isinstance(past_key_values, tuple)
        return {
            "input_ids": input_ids[:, -1:] if has_state else input_ids,
            "past_key_values": past_key_values if has_state else None,
            "use_cache": arguments.get("use_cache", True),
        }

    def forward(self, input_ids: torch.Tensor, **arguments: Any) -> CausalLMOutputWithPast:
        output = self.model(input_ids, **arguments)
        return CausalLMOutputWithPast(
            logits=self.lm_head(output.last_hidden_state), past_key_values=output.past_key_values
        )


class RecurrentForSequenceClassification(RecurrentPreTrainedModel):
    """Recurrent backbone with a linear layer on the state of the last token that is no padding."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        assert config.num_labels is not None
        self.num_labels = config.num_labels
        self.model = RecurrentModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, **arguments: Any) -> SequenceClassifierOutput:
        """As transformers' causal classifiers: padding is `config.pad_token_id`, on the right."""
        hidden_BTD = self.model(input_ids, **arguments).last_hidden_state
        position_T = torch.arange(input_ids.shape[1], device=input_ids.device)
        last_B = (position_T * (input_ids != self.config.pad_token_id)).argmax(dim=1)
        rows_B = torch.arange(len(input_ids), device=input_ids.device)
        return SequenceClassifierOutput(logits=self.score(hidden_BTD[rows_B, last_B]))
