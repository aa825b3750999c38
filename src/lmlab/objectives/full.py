"""Full cross-entropy as a criterion: a softmax over the whole vocabulary.

Shapes: N positions, V vocabulary.
"""

from __future__ import annotations

import torch

from lmlab.models.backbone import Backbone
from lmlab.numerics.log_sum_exp import nats_of_targets
from lmlab.objectives.base import IGNORED, Batch, Criterion, hidden_states
from lmlab.objectives.cross_entropy import cross_entropy_each_and_best, cross_entropy_sum


class FullCrossEntropy(Criterion):
    """The nats of each target under the softmax of the model's own logits."""

    name = "softmax"

    def sum(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        if backbone.linear:
            return cross_entropy_sum(*_linear(backbone, batch))
        logits_NV = self.logits(backbone, batch)
        total = torch.nn.functional.cross_entropy(
            logits_NV, batch.targets_N, ignore_index=IGNORED, reduction="sum"
        )
        return total, int((batch.targets_N != IGNORED).sum())

    @torch.no_grad()
    def each_and_best(
        self, backbone: Backbone, batch: Batch, *, best: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if backbone.linear:
            return cross_entropy_each_and_best(*_linear(backbone, batch), best=best)
        logits_NV, ignored_N = self.logits(backbone, batch), batch.targets_N == IGNORED
        nats_N = nats_of_targets(logits_NV, batch.targets_N.clamp_min(0))
        best_N = logits_NV.argmax(dim=1) if best else torch.full_like(batch.targets_N, IGNORED)
        return nats_N.masked_fill_(ignored_N, 0.0), best_N.masked_fill_(ignored_N, IGNORED)


def _linear(
    backbone: Backbone, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """States, output embedding, targets and bias."""
    hidden_ND = hidden_states(backbone, batch)
    return hidden_ND, backbone.weight_VD, batch.targets_N, backbone.bias_V
