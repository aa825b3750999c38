"""Logits of given hidden states, for heads that are linear up to a soft cap or a scale.

`Backbone` says whether a head is exactly linear. Some architectures squash or scale the linear
head's logits by a function of their configuration (Gemma, Cohere, Granite); that function is
applied here to any chunk of logits. It is tried out on two tokens, enlarged so that a cap shows.

Notable: any other head is refused. What its output embedding means would not be known.

Shapes: N states, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lmlab.errors import UserError
from lmlab.models.backbone import Backbone, probe


class LogitHead:
    """The output embedding of a model, and how its products with hidden states become logits.

    Raises `UserError` for a model without an output embedding, or with a head of another kind.
    """

    def __init__(self, backbone: Backbone) -> None:
        model: Any = backbone.model
        layer = getattr(model, "get_output_embeddings", lambda: None)()
        if layer is None or getattr(model, "base_model", model) is model:
            raise UserError(
                f"{type(model).__name__} has no output embedding (an encoder without a language "
                "modelling head?); open a causal or masked language model"
            )
        self.layer: nn.Linear = layer
        config = model.config
        self.cap: float | None = None
        self.scale = 1.0
        if not backbone.linear:
            self.cap = getattr(config, "final_logit_softcapping", None)
            self.scale = float(getattr(config, "logit_scale", None) or 1.0)
            self.scale /= float(getattr(config, "logits_scaling", None) or 1.0)
            if not self._tried(backbone):
                raise UserError(
                    f"{type(model).__name__}: its logits are not an output embedding times its "
                    "hidden states, scaled or soft-capped, so what is encoded there is not known"
                )

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

    @torch.no_grad()
    def _tried(self, backbone: Backbone) -> bool:
        model = backbone.model
        ids_BT = probe(backbone.embedding_VD)
        seen: list[torch.Tensor] = []

        def enlarge(head: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            enlarged = output * (100.0 / output.abs().max().clamp_min(1e-6))
            seen.extend((output.clone(), enlarged.clone()))
            return enlarged

        training = model.training
        model.eval()
        hook = self.layer.register_forward_hook(enlarge)
        try:
            own = model(ids_BT).logits
            states = backbone.transformed(model.base_model(input_ids=ids_BT).last_hidden_state)
            products = nn.functional.linear(states, self.weight_VD, self.bias_V)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            return False
        finally:
            hook.remove()
            model.train(training)
        if len(seen) != 2:
            return False
        output, enlarged = seen
        return (
            own.shape == enlarged.shape
            and products.shape == output.shape
            and torch.allclose(self.finish_(enlarged), own, rtol=1e-5, atol=1e-4)
            and torch.allclose(products, output, rtol=1e-5, atol=1e-5)
        )
