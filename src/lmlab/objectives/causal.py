"""Causal language modelling in any order.

A window of n tokens is put in order; the input is BOS and its first n - 1 tokens, the targets are
all n (Papadopoulos et al. 2024). Backward flips the window's ids and then puts the same BOS in
front, so every order scores exactly the same tokens.

Shapes: B batch, T positions, n tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmlab.data.order import check_order, reading_order
from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import IGNORED, Reading


class Causal(Reading):
    """Each token is predicted from those before it in `order`."""

    name = "causal"
    autoregressive = True
    ends = 0
    continuation = "log-likelihood"
    conditions = "each token from BOS and those before it in the window"

    def __init__(self, *, order: str, bos_id: int) -> None:
        self.order, self.bos_id = check_order(order), bos_id

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> Causal:
        return cls(order=order, bos_id=tokenizer.bos_id)

    def check(self, backbone: Backbone) -> None:
        """`UserError` for a model that sees what it is to predict."""
        if backbone.bidirectional:
            raise UserError(
                f"{type(backbone.model).__name__} sees the whole window, also what it is to "
                "predict. Use `objective` masked, or a causal model (qwen3, gpt2, gru, ...)"
            )

    def arrays(
        self, windows: Sequence[np.ndarray], length: int, keys: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        # Padding stands on the right, where a causal model cannot see it from real positions
        inputs = np.full((len(windows), length), self.bos_id, dtype=np.int64)
        targets = np.full((len(windows), length), IGNORED, dtype=np.int64)
        for row, window in enumerate(windows):
            ordered = window[reading_order(self.order, len(window))]
            targets[row, : len(ordered)] = ordered
            inputs[row, 1 : len(ordered)] = ordered[:-1]
        return {"inputs_BT": inputs, "targets_BT": targets}
