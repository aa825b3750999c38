"""An output bias of our own on a model's head: fixed at the log-unigram prior, or learnt from it.

Notable: the bias is a parameter of the head itself, so the model's own logits, `generate` and every
analysis have it. Stock causal architectures have no place for it in their files: it lies beside
`model.safetensors` as `head.safetensors`, and plain transformers reads the model without it. Masked
architectures have a bias of their own, which takes its values and is saved with the weights.

Shapes: D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from lmlab.errors import UserError

HEAD_FILE = "head.safetensors"
_OWN = "lmlab_output_bias"


class OutputEmbedding(nn.Linear):
    """A linear head beside the model's own one, for the optimizer an embedding like that."""


@torch.no_grad()
def with_untied_head(model: Any, weight_VD: torch.Tensor) -> Any:
    """A copy of `model` whose head is `weight_VD` (V, D), untied; an output bias of ours goes."""
    untied_model = copy.deepcopy(model)
    native_V = None if own_bias(model) is not None else model.get_output_embeddings().bias
    untied_model.config.tie_word_embeddings = False
    untied_model.set_output_embeddings(_linear(weight_VD, native_V, model.get_output_embeddings()))
    return untied_model


def with_settings(kind: Any, config: Any, **settings: Any) -> Any:
    """A configuration of the class `kind` with all that `config` says, and other settings."""
    left_out = ("model_type", "architectures", "dtype", "transformers_version")
    values = {k: v for k, v in config.to_dict().items() if k not in left_out}
    return kind(**{**values, **settings})


@torch.no_grad()
def with_one_more_token(model: Any) -> Any:
    """A copy of `model` with a row for one more token, in the input and output embedding and in the
    output bias: the mean of the others, so that it begins as no token in particular.

    Built anew, since transformers' own resizing leaves untied heads with biases of two lengths.
    """
    config = copy.deepcopy(model.config)
    config.get_text_config().vocab_size += 1
    with torch.random.fork_rng(devices=[]):
        grown = type(model)(config)
    shapes = {name: value.shape for name, value in grown.state_dict().items()}
    grown.load_state_dict({
        name: value if value.shape == shapes[name] else torch.cat([value, value.mean(0)[None]])
        for name, value in model.state_dict().items()
    })  # fmt: skip
    return grown.train(model.training)


@contextmanager
def untied(model: Any) -> Iterator[None]:
    """A tied model with an output embedding of its own, equal to the tied one, for the duration."""
    tied, was = model.get_output_embeddings(), model.config.tie_word_embeddings
    with torch.no_grad():
        head = _linear(tied.weight, tied.bias, tied)
    if own_bias(model) is not None:
        setattr(head, _OWN, True)
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)
    try:
        yield
    finally:
        model.set_output_embeddings(tied)
        model.config.tie_word_embeddings = was


@contextmanager
def editable_head(model: Any, *names: Literal["weight", "bias"]) -> Iterator[Any]:
    """The output layer, whose parameters of these names may be edited in place for the duration: a
    tied weight is untied, a bias that is not there is one of zeros. Undone to the bit."""
    with ExitStack() as undo:
        if "weight" in names and is_tied(model):
            undo.enter_context(untied(model))
        head = model.get_output_embeddings()
        if "bias" in names and head.bias is None:
            attach_bias(model, torch.zeros(len(head.weight)), learnt=False)
            undo.callback(detach_bias, model)
        edited: list[torch.Tensor] = [getattr(head, name) for name in names]
        saved = [parameter.detach().clone() for parameter in edited]
        try:
            yield head
        finally:
            with torch.no_grad():
                for parameter, before in zip(edited, saved, strict=True):
                    parameter.copy_(before)


def is_tied(model: Any) -> bool:
    """Whether the output embedding is the input embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _linear(weight_VD: torch.Tensor, bias_V: torch.Tensor | None, like: nn.Linear) -> nn.Linear:
    """A linear layer of its own with these weights, of the kind of `like`."""
    vocabulary, width = weight_VD.shape
    kind: dict[str, Any] = {"device": like.weight.device, "dtype": like.weight.dtype}
    head = nn.Linear(width, vocabulary, bias=bias_V is not None, **kind)
    head.weight.copy_(weight_VD)
    if bias_V is not None:
        head.bias.copy_(bias_V)
    return head


def attach_bias(model: Any, bias_V: torch.Tensor, *, learnt: bool) -> None:
    """Gives the model's head `bias_V` (V), trained with the rest if `learnt`.

    Raises `UserError` where the head is no linear layer, has been given one already, or has another
    vocabulary.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"{type(model).__name__}: the head is no linear layer, so it cannot take an output bias"
        )
    if own_bias(model) is not None:
        raise UserError(f"{type(model).__name__}: the head has an output bias of ours already")
    if bias_V.shape != head.weight.shape[:1]:
        raise UserError(
            f"an output bias of shape {tuple(bias_V.shape)} does not fit a vocabulary of "
            f"{len(head.weight)}"
        )
    if head.bias is not None:
        with torch.no_grad():
            head.bias.copy_(bias_V)
        head.bias.requires_grad_(learnt)
        return
    bias = bias_V.detach().to(head.weight.device, head.weight.dtype, copy=True)
    head.bias = nn.Parameter(bias, requires_grad=learnt)
    setattr(head, _OWN, True)


def detach_bias(model: Any) -> None:
    """Takes away what `attach_bias` gave to a head that had no bias."""
    head = model.get_output_embeddings()
    assert own_bias(model) is not None
    head.bias = None
    delattr(head, _OWN)


def own_bias(model: Any) -> nn.Parameter | None:
    """The bias that `attach_bias` gave; None without one."""
    if not hasattr(model, "get_output_embeddings"):
        return None
    head = model.get_output_embeddings()
    return head.bias if getattr(head, _OWN, False) else None


def head_files(
    model: Any, *, whole: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach
) -> dict[str, bytes]:
    """`head.safetensors` of a model with a bias of our own; nothing without one.

    `whole` makes a whole tensor of it, where it is shards.
    """
    bias_V = own_bias(model)
    if bias_V is None:
        return {}
    return {HEAD_FILE: save({"output_bias": whole(bias_V).detach().cpu().contiguous()})}


def read_bias(folder: Path) -> torch.Tensor | None:
    """The output bias (V) in a checkpoint's folder; None if it has none. `UserError` if damaged."""
    path = folder / HEAD_FILE
    try:
        return load(path.read_bytes())["output_bias"]
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as an output bias: {error}") from error
