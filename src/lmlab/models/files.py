"""A model as the files plain transformers reads, in memory and from disk.

Only safetensors and JSON: lmlab writes and reads no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from lmlab.config.hub import where_from
from lmlab.errors import UserError
from lmlab.models.head import own_bias

_PICKLED = (
    " (lmlab reads weights as safetensors only, since a pickle such as a .bin file can run code; "
    "if you trust it, convert it with transformers' save_pretrained and open that folder)"
)


def load_pretrained(name: str, *, masked: bool) -> Any:
    """A float32 causal (or masked) model of a folder or the Hub, from safetensors only.

    Raises `UserError` where it cannot be loaded, or has no weights for a part of the model. No
    code that comes with a model is run.
    """
    model, missing = _load(AutoModelForMaskedLM if masked else AutoModelForCausalLM, name)
    _refuse(name, model, missing)
    return model


def load_classifier(name: str, *, fresh: int | None, seed: int = 0, **settings: Any) -> Any:
    """A float32 sequence classifier of a folder or the Hub, from safetensors only.

    With `fresh` outputs, it is the body of a language model and a new head, whose weights come
    from `seed`; else it has to be a classifier already. `settings` go to its configuration.

    Raises `UserError` as `load_pretrained`.
    """
    if fresh is not None:
        settings["num_labels"] = fresh
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, missing = _load(AutoModelForSequenceClassification, name, **settings)
    body = f"{model.base_model_prefix}."
    if fresh is not None:  # BERT's pooler is counted to the body, but language models have none
        missing = {key for key in missing if key.startswith(body) and ".pooler." not in key}
    _refuse(name, model, missing)
    return model


def load_body(name: str) -> Any:
    """The model without any head, as `load_pretrained`.

    A pooler may lack weights: it reads the last hidden states and does not change them.
    """
    model, missing = _load(AutoModel, name)
    _refuse(name, model, {key for key in missing if not key.startswith("pooler.")})
    return model


def _load(kind: Any, name: str, **settings: Any) -> tuple[Any, set[str]]:
    """The model, and its weights that the files do not hold."""
    bars, level = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    transformers_logging.disable_progress_bar()  # a bar for a load of milliseconds is noise
    transformers_logging.set_verbosity_error()  # of missing weights we speak ourselves
    try:
        model, loaded = kind.from_pretrained(
            **where_from(name),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **settings,
        )
    except (OSError, ValueError, RuntimeError, AssertionError, SafetensorError) as error:
        hint = _PICKLED if ".safetensors" in str(error) and ".bin" in str(error) else ""
        # a list of every architecture there is follows
        said = str(error).partition("\nModel type should be one of")[0]
        raise UserError(f"{name}: the model cannot be loaded: {said}{hint}") from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
    # transformers made float weights of a .gguf file's; nothing is quantized any more
    vars(model.config).pop("quantization_config", None)
    return model, set(loaded["missing_keys"])


def _refuse(name: str, model: Any, missing: set[str]) -> None:
    """`UserError` where weights are missing: transformers would go on with random ones."""
    if not missing:
        return
    body = getattr(model, "base_model", model)
    inside = {f"{model.base_model_prefix}.{key}" for key in body.state_dict()}
    hint = ""
    if body is not model and not missing & inside:
        hint = (
            ". Only the head is missing: this is an encoder of text (a sentence encoder, or a "
            "model saved without its head), which gives tokens no probability; `lmlab embed` and "
            "`lmlab decompose` read such models"
        )
    raise UserError(
        f"{name} lacks weights of a {type(model).__name__}: {', '.join(sorted(missing)[:3])}{hint}"
    )


def language_model_kinds(config: Any) -> tuple[bool, bool]:
    """Of a transformers configuration: whether its architecture has a masked language model, and
    whether it has a causal one. Which of them a model is, only the model tells (`behaviour`)."""
    kind = config.model_type
    fills = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    continues = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind.startswith("lmlab_")
    return fills, continues


OF_EXPORT = ("auto_map", "lmlab_order", "lmlab_reads")
"""What the config.json of an exported model says beside the model's configuration."""


def model_files(
    model: PreTrainedModel,
    *,
    whole: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach,
    reads: Mapping[str, str] | None = None,
    auto_map: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """`model.safetensors`, `config.json` and `generation_config.json` as bytes.

    `whole` makes a whole tensor of each weight, where they are shards. `reads` is added to both
    configurations, `auto_map` to that of the model; those of another model that this one was made
    from are left out.

    A weight shared by several names (a tied output embedding) is written once, under its first
    name, as transformers does. An output bias of our own is left out (see `models.head`).
    """
    tensors = {
        name: whole(tensor).detach().cpu().contiguous()
        for name, tensor in _own_weights(model).items()
    }
    model.config.architectures = [type(model).__name__]
    drop_export_notes(model.config)
    config = model.config.to_json_string(use_diff=True)
    generation = GenerationConfig.from_model_config(model.config).to_json_string()
    if reads:  # with that mark transformers would drop what it does not know
        generation = _with(generation, {**reads, "_from_model_config": False})
    if reads or auto_map:
        config = _with(config, {**(reads or {}), **({"auto_map": auto_map} if auto_map else {})})
    return {
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
        "config.json": config.encode(),
        "generation_config.json": generation.encode(),
    }


def drop_export_notes(config: Any) -> None:
    """Takes from a configuration what was said there of the exported model it was read from."""
    for name in OF_EXPORT:
        vars(config).pop(name, None)


def _with(text: str, more: Mapping[str, Any]) -> str:
    return json.dumps({**json.loads(text), **more}, indent=2, sort_keys=True) + "\n"


def _own_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that a model's files hold, each under its first name."""
    seen = set() if (bias_V := own_bias(model)) is None else {id(bias_V)}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor
    return weights


@torch.no_grad()
def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Copies the weights of a safetensors file into `model`.

    Raises `UserError` where the file is damaged or belongs to another model.
    """
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from error
    for name, tensor in _own_weights(model).items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise UserError(f"{path}: does not fit this model (weight '{name}')")
        tensor.copy_(tensors.pop(name))
    if tensors:
        raise UserError(f"{path}: does not fit this model (extra weight '{next(iter(tensors))}')")
