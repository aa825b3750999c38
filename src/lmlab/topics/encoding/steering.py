"""Steering: scale the mean probability of chosen tokens by editing their output embeddings.

Notable:
- The context manager puts back what it edits, so that undoing is exact to the bit. Only the rows of
  these tokens change; other tokens keep their odds among each other exactly.
- With windows, the sizes of the edits are solved so that the mean probabilities over them come out
  exactly (`topics.encoding.edits`); without, they are those that the encoding predicts.
- A tied model's input embedding would change too, so it must be untied first (`untie`).
- `bias` is the yardstick: the same log r added to the token's logit in every context.

Shapes: N positions, K edited tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.models.backbone import Backbone
from lmlab.models.export import constant_direction
from lmlab.models.head import editable_head, is_tied
from lmlab.numerics.log_sum_exp import log_sum_exp
from lmlab.topics.encoding.edits import (
    METHODS,
    Method,
    check_targets,
    complement_direction,
    exact_sizes,
    minimum_norm_direction,
    sparse_direction,
    whitened_direction,
)
from lmlab.topics.encoding.encoding import Encoding
from lmlab.topics.encoding.token_probability import backbone_of, window_states

Array = NDArray[np.float64]
_CHUNK_LOGITS = 1 << 22


@dataclass(frozen=True)
class Steering:
    """An edit: what is added to the rows of `tokens`, or to their logits."""

    method: Method
    tokens: tuple[int, ...]
    factors: tuple[float, ...]
    """Asked for."""
    direction_KD: Array
    """A . d = -1 for each; empty for `bias`."""
    size_K: Array
    """Multiples of the directions (logits for `bias`); log factor unless solved for windows."""
    solved: bool

    @property
    def delta_KD(self) -> Array:
        """What is added to the rows."""
        return self.size_K[:, None] * self.direction_KD

    def shift(self, hidden_ND: Array) -> Array:
        """What is added to the logits (N, K) of the edited tokens."""
        if self.method == "bias":
            return np.broadcast_to(self.size_K, (len(hidden_ND), len(self.size_K)))
        return hidden_ND @ self.delta_KD.T


@dataclass(frozen=True)
class Contexts:
    """States of some contexts, and the log-probabilities of the tokens to be edited there."""

    hidden_ND: Array
    log_p_NK: Array

    @property
    def covariance_DD(self) -> Array:
        return np.cov(self.hidden_ND.T, bias=True)


@contextmanager
def steer(
    model: Any,
    factors: Mapping[int, float],
    encoding: Encoding,
    *,
    method: Method = "minimum_norm",
    windows_NT: Any = None,
    untie: bool = False,
) -> Iterator[Steering]:
    """Scales the mean probabilities of tokens (id: factor) while the context lasts.

    `model` is a `LanguageModel` or a transformers model; `encoding` is of its output embedding.
    `windows_NT` are the text over which the factors are to be met exactly, fed as given; method
    `whitened` needs them. Undone on leaving, to the bit.

    Raises `UserError` for a tied model without `untie`, a head that is not linear, a token outside
    the vocabulary, a factor that is not positive, and targets that sum to 1 or more or cannot be
    met.
    """
    bare = model.model if isinstance(model, LanguageModel) else model
    check_can_steer(bare, method=method, untie=untie)
    tokens = tuple(factors)
    contexts = None
    if windows_NT is not None:
        states = torch.cat(list(window_states(model, windows_NT)))
        contexts = contexts_of(backbone_of(model), states, tokens)
    edit = plan(bare, factors, encoding, method=method, contexts=contexts, solve=True)
    with applied(bare, edit):
        yield edit


def check_can_steer(model: Any, *, method: Method, untie: bool) -> None:
    """`UserError` where rows of the output embedding cannot be edited on their own, and for `untie`
    where there is nothing to untie."""
    if not Backbone(model).head.is_linear:
        raise UserError(
            f"{type(model).__name__} scales or caps its logits; steering knows linear heads only"
        )
    if untie and method == "bias":
        raise UserError("`untie`: method bias leaves the embedding as it is; leave it out")
    if untie and not is_tied(model):
        raise UserError(f"`untie`: {type(model).__name__} is not tied; leave it out")
    if is_tied(model) and not (untie or method == "bias"):
        raise UserError(
            f"{type(model).__name__} is tied: an edit of its output embedding would change what it "
            "reads too. Untie it first (`untie`): the model gets a head of its own"
        )


def plan(
    model: Any,
    factors: Mapping[int, float],
    encoding: Encoding,
    *,
    method: Method,
    contexts: Contexts | None = None,
    solve: bool = False,
) -> Steering:
    """The edit that `steer` makes; with `solve`, exact over the contexts that are given.

    Raises `UserError` as `steer`, and for `complement` without a LayerNorm before the head.
    """
    weight_VD = model.get_output_embeddings().weight
    tokens = tuple(factors)
    _check_factors(factors, len(weight_VD), encoding)
    factor_K = np.array([factors[token] for token in tokens], dtype=np.float64)
    slope_D = encoding.slope_D
    if slope_D.shape != weight_VD.shape[1:]:
        raise UserError(
            f"the encoding has {len(slope_D)} dimensions, the embedding {weight_VD.shape[1]}"
        )
    if method == "bias":
        direction_KD = np.empty((len(tokens), 0))
    elif method == "sparse":
        deviation_D = weight_VD.detach().double().cpu().numpy()[encoding.tokens].std(0)
        direction_KD = np.stack([sparse_direction(slope_D, deviation_D, r) for r in factor_K])
    else:
        direction_KD = np.tile(_direction(model, slope_D, method, contexts), (len(tokens), 1))
    sizes_K, solved = np.log(factor_K), False
    if solve and contexts is not None:
        along_NK = (
            np.ones_like(contexts.log_p_NK)
            if method == "bias"
            else contexts.hidden_ND @ direction_KD.T
        )
        sizes_K, solved = exact_sizes(contexts.log_p_NK, along_NK, factor_K), True
    return Steering(method, tokens, tuple(factor_K.tolist()), direction_KD, sizes_K, solved)


def _direction(model: Any, slope_D: Array, method: Method, contexts: Contexts | None) -> Array:
    if method == "minimum_norm":
        return minimum_norm_direction(slope_D)
    if method == "whitened":
        if contexts is None:
            raise UserError("method whitened needs windows: it looks at the states' covariance")
        return whitened_direction(slope_D, contexts.covariance_DD)
    if method == "complement":
        constant_D = constant_direction(model)
        if constant_D is None:
            raise UserError(
                f"{type(model).__name__} has no LayerNorm before its head (RMSNorm has no constant "
                "direction); method complement is for LayerNorm models"
            )
        return complement_direction(slope_D, constant_D.cpu().numpy())
    raise UserError(f"unknown method {method!r}; there are {', '.join(METHODS)}")


def _check_factors(factors: Mapping[int, float], vocabulary: int, encoding: Encoding) -> None:
    if not factors:
        raise UserError("no token to steer; give at least one with its factor")
    for token, factor in factors.items():
        if not 0 <= token < vocabulary:
            raise UserError(f"token {token} is outside the vocabulary of {vocabulary}")
        if not (factor > 0 and math.isfinite(factor)):
            raise UserError(f"factor {factor} of token {token}: it must be above 0 and finite")
    check_targets(np.array([factor * encoding.alpha_V[token] for token, factor in factors.items()]))


@contextmanager
def applied(model: Any, steering: Steering) -> Iterator[None]:
    """The model with an edit, for the duration; untied where it was tied (see `steer`)."""
    name, added = "weight", steering.delta_KD
    if steering.method == "bias":
        name, added = "bias", steering.size_K
    with editable_head(model, name) as head:
        edited = getattr(head, name).detach()
        rows_K = torch.tensor(steering.tokens, device=edited.device)
        change = torch.from_numpy(np.ascontiguousarray(added)).to(edited.device)
        edited[rows_K] = (edited[rows_K].double() + change).to(edited.dtype)
        yield


@torch.no_grad()
def contexts_of(backbone: Backbone, hidden_ND: torch.Tensor, tokens: tuple[int, ...]) -> Contexts:
    """Log-probabilities of `tokens` at given states, in chunks."""
    head = backbone.head
    for token in tokens:
        if not 0 <= token < len(head.weight_VD):
            raise UserError(f"token {token} is outside the vocabulary of {len(head.weight_VD)}")
    rows_K = torch.tensor(tokens, device=hidden_ND.device)
    parts: list[torch.Tensor] = []
    for part in hidden_ND.split(max(1, _CHUNK_LOGITS // len(head.weight_VD))):
        logits_CV = head.logits(part).to(torch.promote_types(part.dtype, torch.float32))
        parts.append((logits_CV[:, rows_K] - log_sum_exp(logits_CV)[:, None]).cpu())
    return Contexts(hidden_ND.double().cpu().numpy(), torch.cat(parts).numpy())
