"""From a `ModelConfig` to a transformers model with fresh weights.

Notable:
- GPT-2 gets the activation `gelu_pytorch_tanh`: the same function as its stock `gelu_new`, as one
  fused kernel (benchmarks/train_throughput.py shows what it is worth).
- Initial weights come from a seed alone: the global generator is seeded inside a fork and put back.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

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
    Qwen3Config,
)
from transformers.modeling_utils import PreTrainedModel

from lmlab.config.hub import where_from
from lmlab.config.model import RECURRENT, ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.errors import UserError
from lmlab.models.behaviour import declared_length
from lmlab.models.files import drop_export_notes
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
    layers, heads, width = config.dimensions()
    if config.architecture in RECURRENT:
        return RecurrentConfig(
            cell=config.architecture,
            hidden_size=width,
            num_hidden_layers=layers,
            dropout=config.dropout,
            **shared,
        )
    # GPT-2 and DistilBERT take these names beside their own
    shared |= {
        "max_position_embeddings": context,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    kind, settings = _KINDS[config.architecture]
    shared |= dict.fromkeys(settings.dropouts, config.dropout)
    if settings.inner is not None:
        gated = -(-8 * width // 3 // 16) * 16  # three matrices have the weights of two of 4 width
        shared[settings.inner] = gated if settings.gated else 4 * width
    if config.architecture == "gpt2":
        shared["activation_function"] = "gelu_pytorch_tanh"
    elif config.architecture == "neox":
        # A quarter of each head is rotated (Pythia), in whole pairs
        rotary = max(2, width // heads // 4 // 2 * 2)
        shared["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10000.0,
            # half an id more than the fraction, so that int(head width * fraction) is exact
            "partial_rotary_factor": (rotary + 0.5) / (width // heads),
        }
    elif config.architecture == "qwen3":
        shared |= {"head_dim": width // heads, "num_key_value_heads": heads}
    elif config.architecture == "modernbert":
        shared |= {"cls_token_id": bos_id, "sep_token_id": end_of_text_id}
    return kind(**shared)


class _Settings(NamedTuple):
    """What an architecture's configuration calls its dropouts and the width of its inner layer."""

    dropouts: tuple[str, ...]
    inner: str | None = "intermediate_size"
    gated: bool = False


_KINDS: dict[str, tuple[type[PreTrainedConfig], _Settings]] = {
    "gpt2": (GPT2Config, _Settings(("resid_pdrop", "embd_pdrop", "attn_pdrop"), None)),
    "neox": (GPTNeoXConfig, _Settings(("hidden_dropout", "attention_dropout"))),
    "llama": (LlamaConfig, _Settings(("attention_dropout",), gated=True)),
    "qwen3": (Qwen3Config, _Settings(("attention_dropout",), gated=True)),
    "bert": (BertConfig, _Settings(("hidden_dropout_prob", "attention_probs_dropout_prob"))),
    "modernbert": (
        ModernBertConfig,
        _Settings(("embedding_dropout", "attention_dropout", "mlp_dropout"), gated=True),
    ),
    "distilbert": (DistilBertConfig, _Settings(("dropout", "attention_dropout"), "hidden_dim")),
}


def _auto_config(path: str, changes: dict[str, Any], context: int) -> PreTrainedConfig:
    try:
        loaded: PreTrainedConfig = AutoConfig.from_pretrained(
            **where_from(path), trust_remote_code=False, **changes
        )
    except Exception as error:
        raise UserError(f"`model.path` {path}: no usable transformers config: {error}") from error
    drop_export_notes(loaded)
    declared = declared_length(loaded)
    if declared is not None and declared[1] < context:
        raise UserError(
            f"`model.path` {path} allows {declared[1]} positions ({declared[0]} of its "
            f"configuration), fewer than the {context} needed; give a shorter `context`"
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


@torch.no_grad()
def write_nothing(model: torch.nn.Module, layers: Collection[str]) -> None:
    """Sets to zero the layers of every block whose names end so, in place.

    Each block then adds nothing at first. Gradients reach these layers from the first step on, and
    what is before them from the second.
    """
    written = [m for name, m in model.named_modules() if name.endswith(tuple(layers))]
    assert written
    for layer in written:
        for weight in layer.parameters():
            weight.zero_()


def parameters(model: torch.nn.Module) -> int:
    """Number of weights, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
