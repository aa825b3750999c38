"""Causal language modelling in any order.

A window of n tokens is put in order; the input is BOS and its first n - 1 tokens, the targets are
all n (Papadopoulos et al. 2024). Backward flips the window's ids and then puts the same BOS in
front, so every order scores exactly the same tokens.

Shapes: B batch, T positions, V vocabulary, n tokens of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lmlab.data.order import check_order, reading_order
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import Batch
from lmlab.objectives.cross_entropy import IGNORED, cross_entropy_each, cross_entropy_sum


class Causal:
    """Predict each token from those before it in `order`. Units: nats."""

    depends_on_micro_batch = False

    @property
    def scores_own_logits(self) -> bool:
        return True

    def __init__(self, *, order: str, bos_id: int) -> None:
        self.order, self.bos_id = check_order(order), bos_id

    @classmethod
    def from_record(cls, record: dict[str, Any], *, order: str, bos_id: int) -> Causal:
        """From what `record` returned."""
        return cls(order=order, bos_id=bos_id)

    def check(self, backbone: Backbone) -> None:
        """Every causal model will do."""

    def batch(
        self, windows: Sequence[np.ndarray], *, device: torch.device, length: int | None = None
    ) -> Batch:
        length = length or max(len(window) for window in windows)
        # Padding stands on the right, where a causal model cannot see it from real positions
        inputs = np.full((len(windows), length), self.bos_id, dtype=np.int64)
        targets = np.full((len(windows), length), IGNORED, dtype=np.int64)
        for row, window in enumerate(windows):
            ordered = window[reading_order(self.order, len(window))]
            targets[row, : len(ordered)] = ordered
            inputs[row, 1 : len(ordered)] = ordered[:-1]
        return Batch(
            torch.from_numpy(inputs).to(device, non_blocking=True),
            torch.from_numpy(targets).to(device, non_blocking=True),
        )

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        targets_N = batch.targets_BT.flatten()
        if backbone.linear:
            hidden_BTD = backbone.hidden(batch.inputs_BT)
            return cross_entropy_sum(
                hidden_BTD.flatten(0, 1), backbone.weight_VD, targets_N, bias_V=backbone.bias_V
            )
        total = _from_logits(backbone, batch, reduction="sum")
        return total, int((targets_N != IGNORED).sum())

    @torch.no_grad()
    def score(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        targets_N = batch.targets_BT.flatten()
        if backbone.linear:
            hidden_BTD = backbone.hidden(batch.inputs_BT)
            nats_N = cross_entropy_each(
                hidden_BTD.flatten(0, 1), backbone.weight_VD, targets_N, bias_V=backbone.bias_V
            )
        else:
            nats_N = _from_logits(backbone, batch, reduction="none")
        return nats_N.view(batch.targets_BT.shape)

    def record(self) -> dict[str, Any]:
        return {"name": "causal"}


def _from_logits(backbone: Backbone, batch: Batch, *, reduction: str) -> torch.Tensor:
    """Nats of the targets where the head is not linear: the model's own logits, held whole."""
    logits_NV = backbone.logits(batch.inputs_BT).flatten(0, 1)
    return torch.nn.functional.cross_entropy(
        logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)),
        batch.targets_BT.flatten(),
        ignore_index=IGNORED,
        reduction=reduction,
    )
