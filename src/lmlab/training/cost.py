"""What a model costs, counted from its shapes: parameters, FLOPs, distinct targets.

Notable:
- FLOPs are those of matrix products, two a multiply-add, and three products where inference has
  one: forward, gradient of the input, gradient of the weight. Norms, activations, softmax and the
  optimizer are left out; they cost memory traffic more than FLOPs, which is why the measured
  speed-up of a form is not its ideal one.
- Attention is counted as the full context x context square, as plain products compute it. A fused
  causal kernel skips up to half of it.
- A layer counts as often as it stands in the model: in a mixture of experts every expert counts.

Shapes: D width, V vocabulary, K targets of a micro-batch, U distinct ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmlab.models.build import parameters

# kinds of layers (transformers' `layer_types`) that compare every position with every other
_SQUARE_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights, shared ones once: a tied head counts with the embeddings."""

    total: int
    body: int
    embeddings: int
    """Of tokens and, where they are learnt, of positions."""
    head: int


@dataclass(frozen=True)
class Flops:
    """FLOPs per token of training, forward and backward."""

    body: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.body + self.attention + self.head

    @property
    def head_share(self) -> float:
        return self.head / self.total


def count_parameters(model: Any) -> Parameters:
    """The parameters of a causal model by place; they may lie on the meta device."""
    embeddings = _embedding_weights(model)
    head = _head_weights(model).keys() - embeddings.keys()
    in_head = sum(_head_weights(model)[i] for i in head)
    total, in_embeddings = parameters(model), sum(embeddings.values())
    return Parameters(total, total - in_embeddings - in_head, in_embeddings, in_head)


def _embedding_weights(model: nn.Module) -> dict[int, int]:
    """Number of weights by identity of the parameter."""
    layers = (m for m in model.modules() if isinstance(m, nn.Embedding))
    return {id(p): p.numel() for m in layers for p in m.parameters()}


def _head_weights(model: Any) -> dict[int, int]:
    head = model.get_output_embeddings()
    return {} if head is None else {id(p): p.numel() for p in head.parameters()}


def _body_matrices(model: Any) -> list[torch.Tensor]:
    """The weights of linear and recurrent layers, embeddings and head left out."""
    head = model.get_output_embeddings()
    matrices: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            matrices.append(module.weight)
        elif isinstance(module, nn.RNNBase):
            matrices += [p for name, p in module.named_parameters() if name.startswith("weight")]
    return matrices


def uncounted_weights(model: Any) -> int:
    """Weights of the body's matrices that `body_flops` cannot count, for their layer is unknown."""
    known = {id(p) for p in _body_matrices(model)}
    known |= _embedding_weights(model).keys() | _head_weights(model).keys()
    return sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in known)


def body_flops(model: Any) -> int:
    """FLOPs per token, forward and backward, of the linear and recurrent layers of the body."""
    return 6 * sum(p.numel() for p in _body_matrices(model))


def attention_flops(config: Any, context: int) -> int:
    """FLOPs per token, forward and backward, of queries x keys and weights x values.

    `config` is the model's transformers configuration; 0 for one without attention. All `context`
    positions are counted for each token.
    """
    config = config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    if not heads:
        return 0
    kinds = getattr(config, "layer_types", None)
    layers = config.num_hidden_layers
    if kinds is not None:
        layers = sum(kind in _SQUARE_ATTENTION for kind in kinds)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_width = getattr(config, "qk_head_dim", None) or width
    value_width = getattr(config, "v_head_dim", None) or width
    return 6 * layers * heads * (key_width + value_width) * context


def head_flops(width: int, candidates: float) -> float:
    """FLOPs per token, forward and backward, of comparing a state with `candidates` embeddings:
    V of them for cross-entropy, U for the headless loss."""
    return 6 * width * candidates


def expected_distinct(counts_V: np.ndarray, draws: int) -> float:
    """Expected number of distinct tokens among independent draws from a unigram distribution.

    `counts_V` need not be normalised. Text is bursty, so its windows hold fewer.

    Source: linearity of expectation; token v is absent with probability (1 - p_v)^draws.
    """
    probability_V = counts_V / counts_V.sum()
    with np.errstate(divide="ignore"):  # a token that is certain: log 0 = -inf, absent never
        absent_V = np.log1p(-probability_V) * draws if draws else np.zeros(len(counts_V))
    return float(-np.expm1(absent_V).sum())
