"""From a `ModelConfig` to a transformers model with fresh weights.

Notable:
- GPT-2 gets the activation `gelu_pytorch_tanh`: the same function as its stock `gelu_new`, as one
  fused kernel (benchmarks/train_throughput.py shows what it is worth).
- Initial weights come from a seed alone: the global generator is seeded inside a fork and put back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedConfig,
)
from transformers.modeling_utils import PreTrainedModel

from lmlab.config.hub import where_from
from lmlab.config.model import MASKED, RECURRENT, ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.errors import UserError
from lmlab.models.behaviour import declared_length
from lmlab.models.recurrent import RecurrentConfig
from lmlab.models.towers import towers_config


def build_config(
    config: ModelConfig, *, vocabulary: int, context: int, bos_id: int, end_of_text_id: int
) -> PreTrainedConfig:
    """The transformers configuration of `config` for a vocabulary and a context.

    Raises `UserError` if an `auto` configuration cannot be read or is too short for the context.
    """
    # no padding id: transformers would warn of padding wherever a text ends
    ids = {"bos_token_id": bos_id, "eos_token_id": end_of_text_id, "pad_token_id": None}
    shared: dict[str, Any] = {
        "vocab_size": vocabulary,
        "tie_word_embeddings": config.tied,
        **ids,
    }
    if config.initializer_range is not None:
        shared["initializer_range"] = config.initializer_range
    if config.architecture == "auto":
        assert config.path is not None
        return _auto_config(config.path, {**ids, "vocab_size": vocabulary}, context)
    if config.architecture in MASKED:
        return _masked_config(config, context, shared)
    layers, heads, width = config.dimensions()
    if config.architecture == "gpt2":
        return GPT2Config(
            n_positions=context,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            activation_function="gelu_pytorch_tanh",
            **shared,
        )
    if config.architecture == "neox":
        # A quarter of each head is rotated (Pythia), in whole pairs
        head_width = width // heads
        rotary = max(2, head_width // 4 // 2 * 2)
        return GPTNeoXConfig(
            max_position_embeddings=context,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                # half an id more than the fraction, so that int(head_width * fraction) is exact
                "partial_rotary_factor": (rotary + 0.5) / head_width,
            },
            hidden_dropout=config.dropout,
            attention_dropout=config.dropout,
            **shared,
        )
    if config.architecture == "llama":
        return LlamaConfig(
            max_position_embeddings=context,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=_gated_width(width),
            attention_dropout=config.dropout,
            **shared,
        )
    return RecurrentConfig(
        cell=config.architecture,
        hidden_size=width,
        num_hidden_layers=layers,
        dropout=config.dropout,
        **shared,
    )


def _gated_width(width: int) -> int:
    """A gated layer has three matrices: 8/3 width keeps the parameters of two of 4 width."""
    return -(-8 * width // 3 // 16) * 16


def _masked_config(config: ModelConfig, context: int, shared: dict[str, Any]) -> PreTrainedConfig:
    layers, heads, width = config.dimensions()
    if config.architecture == "distilbert":
        return DistilBertConfig(
            max_position_embeddings=context,
            dim=width,
            n_layers=layers,
            n_heads=heads,
            hidden_dim=4 * width,
            dropout=config.dropout,
            attention_dropout=config.dropout,
            **shared,
        )
    sizes: dict[str, Any] = {
        "max_position_embeddings": context,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    if config.architecture == "bert":
        return BertConfig(
            intermediate_size=4 * width,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            **sizes,
            **shared,
        )
    return ModernBertConfig(
        intermediate_size=_gated_width(width),
        embedding_dropout=config.dropout,
        attention_dropout=config.dropout,
        mlp_dropout=config.dropout,
        cls_token_id=shared["bos_token_id"],
        sep_token_id=shared["eos_token_id"],
        **sizes,
        **shared,
    )


def _auto_config(path: str, changes: dict[str, Any], context: int) -> PreTrainedConfig:
    try:
        loaded: PreTrainedConfig = AutoConfig.from_pretrained(
            **where_from(path), trust_remote_code=False, **changes
        )
    except Exception as error:
        raise UserError(f"--model.path {path}: no usable transformers config: {error}") from error
    declared = declared_length(loaded)
    if declared is not None and declared[1] < context:
        raise UserError(
            f"--model.path {path} allows {declared[1]} positions ({declared[0]} of its "
            f"configuration), fewer than the {context} needed; give a shorter --context"
        )
    return loaded


def build_towers_config(
    config: ModelConfig, towers: TowersConfig, *, cloze: bool, context: int, **ids: int
) -> PreTrainedConfig:
    """The configuration of two towers of `config` each; `ids` as for `build_config`.

    Raises `UserError` as `build_config`.
    """
    size = config.dimensions()
    if towers.split:
        config = replace(config, heads=2 * size.heads, width=2 * size.width)
        if config.architecture in RECURRENT:
            config = replace(config, heads=None)
    backbone = build_config(replace(config, tied=False), context=context, **ids)
    return towers_config(
        backbone,
        context=context,
        dropout=config.dropout,
        fusion=towers.fusion,
        gate=towers.gate,
        separate=towers.losses == "separate",
        split=towers.split,
        cloze=cloze,
    )


def build_model(config: PreTrainedConfig, *, seed: int, masked: bool = False) -> PreTrainedModel:
    """A model with fresh float32 weights that depend on the configuration and seed alone.

    Raises `UserError` for an architecture that has no causal (`masked`: no masked) language model.
    """
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return kind.from_config(config, dtype=torch.float32)
        except ValueError as error:
            wanted = "masked" if masked else "causal"
            raise UserError(
                f"architecture '{config.model_type}' has no {wanted} language model: {error}"
            ) from error


def parameters(model: torch.nn.Module) -> int:
    """Number of weights, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
