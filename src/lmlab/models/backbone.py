"""Hidden states and head of a language model, whatever its architecture.

Losses that are computed in chunks need the hidden states and the output embedding, not the logits.
Most architectures apply a plain linear head; some scale or soft-cap the logits (Gemma, Cohere,
Granite). `Backbone` tries it once on two tokens: where hidden states times output embedding are
what the head gives, and the model leaves that as it is (large values too), it uses them; elsewhere
it asks the model for logits, and `LogitHead` has the scale and the cap. Masked models have a small
dense layer between body and head; it is computed for the states that are asked for only.

Shapes: B batch, T tokens, N states, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from lmlab.errors import UserError
from lmlab.models.behaviour import (
    Behaviour,
    behaviour,
    evaluating,
    padding_is_harmless,
    uncached_option,
)


def _transform(model: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What a masked model does to its last hidden states before the linear head."""
    kind = getattr(getattr(model, "config", None), "model_type", "")
    name = type(model).__name__
    if not name.endswith("ForMaskedLM"):
        return None
    if kind == "bert":
        return model.cls.predictions.transform
    if kind == "modernbert":
        return model.head
    if kind == "distilbert":
        return lambda hidden: model.vocab_layer_norm(
            model.activation(model.vocab_transform(hidden))
        )
    if kind == "roberta":
        head = model.lm_head
        return nn.Sequential(head.dense, nn.GELU(), head.layer_norm)
    return None


@dataclass(frozen=True)
class LogitHead:
    """A linear head whose products with hidden states become logits by a scale and a soft cap."""

    layer: nn.Linear
    scale: float = 1.0
    cap: float | None = None

    @property
    def weight_VD(self) -> torch.Tensor:
        return self.layer.weight

    @property
    def bias_V(self) -> torch.Tensor | None:
        return self.layer.bias

    @property
    def is_linear(self) -> bool:
        """Whether logits are hidden states times output embedding, plus a bias."""
        return self.cap is None and self.scale == 1.0

    def finish_(self, products: torch.Tensor) -> torch.Tensor:
        """Logits in the place of `products` (hidden times embedding, plus bias), any shape."""
        if self.scale != 1.0:
            products.mul_(self.scale)
        if self.cap is not None:
            products.div_(self.cap).tanh_().mul_(self.cap)
        return products

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of states."""
        return self.finish_(nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V))


class Backbone:
    """A language model split into hidden states and head.

    `linear` says whether the head is linear, and then `hidden`, `weight_VD` and `bias_V` exist.
    `model` itself stays as it is; with `compile_body` its body runs through `torch.compile`.
    """

    def __init__(self, model: nn.Module, *, compile_body: bool = False) -> None:
        self.model: Any = model
        self._body: Any = getattr(model, "base_model", None)
        self._head: Any = None
        if self._body is not None and self._body is not model:
            self._head = self.model.get_output_embeddings()
        self._transform = _transform(model)
        self._padding: dict[tuple[int, int], bool] = {}
        self._logit_head = None if self._head is None else self._tried_head()
        self.linear = self._logit_head is not None and self._logit_head.is_linear
        self._call_body: Any = self._body
        if compile_body:
            target = self._body if self.linear else self.model
            self._call_body = torch.compile(target)
        self._compiled_model = self._call_body if compile_body and not self.linear else self.model

    @torch.no_grad()
    def _tried_head(self) -> LogitHead | None:
        """The head, as two tokens show it; None where it is of another kind."""
        ids_BT = probe(self.embedding_VD)
        seen: list[torch.Tensor] = []

        def enlarge(head: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            # Fresh weights give logits so small that a soft cap would not show
            enlarged = output * (100.0 / output.abs().max().clamp_min(1e-6))
            seen.extend((output.clone(), enlarged.clone()))
            return enlarged

        hook = self._head.register_forward_hook(enlarge)
        try:
            with evaluating(self.model):
                # a cache counts the layers of the configuration, of which a decoder may have more
                own = self.model(**inputs_of(self.model, ids_BT, None)).logits
                read = self._body(**inputs_of(self._body, ids_BT, None))
                hidden = self.transformed(read.last_hidden_state)
                products = nn.functional.linear(hidden, self.weight_VD, self.bias_V)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            return None
        finally:
            hook.remove()
        tolerance = 1e-5 if own.dtype in (torch.float32, torch.float64) else 2e-2

        def same(a: torch.Tensor, b: torch.Tensor, absolute: float = tolerance) -> bool:
            return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=absolute)

        if len(seen) != 2 or not same(products, seen[0]):
            return None
        if same(own, seen[1]):
            return LogitHead(self._head)
        config = self.model.config
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        head = LogitHead(self._head, scale, getattr(config, "final_logit_softcapping", None))
        return head if same(head.finish_(seen[1]), own, 1e-4) else None

    @property
    def head(self) -> LogitHead:
        """How the model's logits follow from hidden states.

        Raises `UserError` for a model without an output embedding, or with a head of another kind,
        since what its output embedding means would not be known.
        """
        if self._head is None:
            raise UserError(
                f"{type(self.model).__name__} has no output embedding (an encoder without a "
                "language modelling head?); open a causal or masked language model"
            )
        if self._logit_head is None:
            raise UserError(
                f"{type(self.model).__name__}: its logits are not an output embedding times its "
                "hidden states, scaled or soft-capped, so what is encoded there is not known"
            )
        # the layer may have been exchanged since (`models.head.untied`)
        return replace(self._logit_head, layer=self.model.get_output_embeddings())

    @property
    def weight_VD(self) -> torch.Tensor:
        return self._head.weight

    @property
    def embedding_VD(self) -> torch.Tensor:
        """The input embedding."""
        return self.model.get_input_embeddings().weight

    @property
    def bias_V(self) -> torch.Tensor | None:
        return getattr(self._head, "bias", None)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def behaviour(self) -> Behaviour:
        """What short inputs show of the model (tried out once). `UserError` as `behaviour`."""
        return behaviour(self.model)

    @property
    def bidirectional(self) -> bool:
        """Whether a later token moves an earlier logit."""
        return self.behaviour.bidirectional

    @property
    def takes_padding(self) -> bool:
        """Whether short texts can be padded to one length; lmlab's own classes are made so."""
        kind = getattr(self.model.config, "model_type", "")
        return kind.startswith("lmlab_") or self.behaviour.takes_padding

    def takes_padding_to(
        self, length_M: np.ndarray, padded_M: np.ndarray, *, ends: int = 0
    ) -> bool:
        """Whether texts of these lengths can be padded so, `ends` more positions read: the longest
        of those that grow is tried out, once."""
        grows = length_M < padded_M
        if not grows.any():
            return True
        if not self.takes_padding:
            return False
        at = int(np.argmax(np.where(grows, length_M, 0)))
        sizes = (int(length_M[at]) + ends, int(padded_M[at]) + ends)
        if sizes not in self._padding:
            self._padding[sizes] = padding_is_harmless(
                self.model, *sizes, bidirectional=self.bidirectional
            )
        return self._padding[sizes]

    def hidden(
        self,
        ids_BT: torch.Tensor,
        attention_BT: torch.Tensor | None = None,
        positions_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Last hidden states (B, T, D) of the body; only where there is a head apart from it."""
        assert self._head is not None
        inputs = inputs_of(self._body, ids_BT, attention_BT)
        if positions_BT is not None:
            inputs["position_ids"] = positions_BT
        return self._call_body(**inputs).last_hidden_state

    def transformed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The states that the linear head reads, (..., D), from those of the body."""
        return hidden if self._transform is None else self._transform(hidden)

    def logits(
        self,
        ids_BT: torch.Tensor,
        attention_BT: torch.Tensor | None = None,
        segments_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The model's own logits: (B, T, V), of a classifier (B, C).

        `segments_BT` tells the first text from the second, for models that embed it.
        """
        inputs = inputs_of(self.model, ids_BT, attention_BT)
        if segments_BT is not None:
            inputs["token_type_ids"] = segments_BT
        return self._compiled_model(**inputs).logits


def probe(embedding_VD: torch.Tensor) -> torch.Tensor:
    """Two ids (1, 2) to try a model out on: those with the largest embeddings.

    A padding id has a zero one, whose logits may all be zero and show nothing.
    """
    return embedding_VD.detach().square().sum(1).topk(2).indices[None]


def inputs_of(
    module: Any, ids_BT: torch.Tensor, attention_BT: torch.Tensor | None
) -> dict[str, Any]:
    """The arguments of a model or body that reads ids, without a cache that nobody reads."""
    mask = {} if attention_BT is None else {"attention_mask": attention_BT}
    return {"input_ids": ids_BT, **mask, **uncached_option(module)}
