"""A model as the files plain transformers reads, in memory and from disk.

Only safetensors and JSON: lmlab writes and reads no pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GenerationConfig,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as transformers_logging

from lmlab.errors import UserError
from lmlab.models.head import own_bias


def load_pretrained(name: str, *, masked: bool) -> Any:
    """A float32 causal (or masked) model of a folder or the Hub, from safetensors only.

    Raises `UserError` where it cannot be loaded, or has no weights for a part of the model. No
    code that comes with a model is run.
    """
    return _load(AutoModelForMaskedLM if masked else AutoModelForCausalLM, name)


def load_body(name: str) -> Any:
    """The model without any head, as `load_pretrained`.

    A pooler may lack weights: it reads the last hidden states and does not change them.
    """
    return _load(AutoModel, name, not_needed="pooler.")


def _load(kind: Any, name: str, *, not_needed: str | None = None) -> Any:
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar for a load of milliseconds is noise
    try:
        model, loaded = kind.from_pretrained(
            name,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: the model cannot be loaded: {error}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    missing = sorted(
        key
        for key in loaded["missing_keys"]
        if not_needed is None or not key.startswith(not_needed)
    )
    if missing:  # transformers would go on with random weights
        raise UserError(
            f"{name} lacks weights of a {type(model).__name__}: {', '.join(missing[:3])}"
        )
    return model


def model_files(model: PreTrainedModel) -> dict[str, bytes]:
    """`model.safetensors`, `config.json` and `generation_config.json` as bytes.

    A weight shared by several names (a tied output embedding) is written once, under its first
    name, as transformers does. An output bias of our own is left out (see `models.head`).
    """
    tensors: dict[str, torch.Tensor] = {}
    seen = _left_out(model)
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place in seen:
            continue
        seen.add(place)
        tensors[name] = tensor.detach().cpu().contiguous()
    model.config.architectures = [type(model).__name__]
    generation = GenerationConfig.from_model_config(model.config)
    return {
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
        "config.json": model.config.to_json_string(use_diff=True).encode(),
        "generation_config.json": generation.to_json_string().encode(),
    }


def _left_out(model: torch.nn.Module) -> set[tuple[int, torch.Size]]:
    """What is not the model's own: places of tensors that its files do not hold."""
    bias_V = own_bias(model)
    return set() if bias_V is None else {(bias_V.data_ptr(), bias_V.shape)}


@torch.no_grad()
def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Copies the weights of a safetensors file into `model`.

    Raises `UserError` where the file is damaged or belongs to another model.
    """
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from error
    own = model.state_dict(keep_vars=True)
    seen = _left_out(model)
    for name, tensor in own.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place in seen:
            continue
        seen.add(place)
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise UserError(f"{path}: does not fit this model (weight '{name}')")
        tensor.copy_(tensors.pop(name))
    if tensors:
        raise UserError(f"{path}: does not fit this model (extra weight '{next(iter(tensors))}')")
