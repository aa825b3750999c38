"""Headless language modelling: contrastive weight tying in any order.

Each output state has to find the input embedding of its target among those of the micro-batch's
other targets (Godey, de la Clergerie and Sagot, ICLR 2024, arXiv 2309.08351); there is no softmax
over the vocabulary while training.

Notable:
- The optimum of the loss is log p(v | context) - log p(v) up to a constant of the context, p(v) the
  marginal of the batch. So embeddings plus the log-unigram distribution as output bias are a
  language model with no fine-tuning, and that is how this objective scores text.
- Negatives are the targets of the micro-batch: gradient accumulation changes the objective.
- A share of full cross-entropy can be mixed in; with the same bias both have the same optimum.

Shapes: N rows, D width, V vocabulary, B batch, T positions.
"""

from __future__ import annotations

from typing import Any

import torch

from lmlab.config import from_mapping, to_mapping
from lmlab.config.objective import HeadlessConfig
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import Batch
from lmlab.objectives.causal import Causal
from lmlab.objectives.contrastive import contrastive_loss, contrastive_sum, unit_rows
from lmlab.objectives.cross_entropy import cross_entropy_each, cross_entropy_sum

__all__ = ["Headless", "contrastive_loss"]


class Headless(Causal):
    """Predict each token's embedding from the tokens before it in `order`. Units: nats."""

    depends_on_micro_batch = True

    @property
    def scores_own_logits(self) -> bool:
        return self.settings.temperature == 1 and not self.settings.cosine

    def __init__(self, *, order: str, bos_id: int, settings: HeadlessConfig) -> None:
        super().__init__(order=order, bos_id=bos_id)
        self.settings = settings

    @classmethod
    def from_record(cls, record: dict[str, Any], *, order: str, bos_id: int) -> Headless:
        """From what `record` returned."""
        settings = {k: v for k, v in record.items() if k != "name"}
        return cls(
            order=order,
            bos_id=bos_id,
            settings=from_mapping(HeadlessConfig, settings, where="objective record"),
        )

    def check(self, backbone: Backbone) -> None:
        """`UserError` unless the output embedding is the input embedding."""
        if not backbone.linear or backbone.weight_VD is not backbone.embedding_VD:
            raise UserError(
                "a headless model has its input embedding for output embedding: train with "
                "--model.tied (an architecture that scales or caps its logits cannot serve)"
            )

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        hidden_ND = backbone.hidden(batch.inputs_BT).flatten(0, 1)
        targets_N = batch.targets_BT.flatten()
        s = self.settings
        total, count = contrastive_sum(
            hidden_ND,
            backbone.embedding_VD,
            targets_N,
            temperature=s.temperature,
            cosine=s.cosine,
            duplicates=s.duplicates,
            detach_targets=s.detach_targets,
        )
        if s.cross_entropy:
            hidden, weight = self._similarity(hidden_ND, backbone.embedding_VD)
            full, _ = cross_entropy_sum(hidden, weight, targets_N, bias_V=backbone.bias_V)
            total = (1 - s.cross_entropy) * total + s.cross_entropy * full
        return total, count

    @torch.no_grad()
    def score(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        hidden_ND = backbone.hidden(batch.inputs_BT).flatten(0, 1)
        hidden, weight = self._similarity(hidden_ND, backbone.embedding_VD)
        nats_N = cross_entropy_each(
            hidden, weight, batch.targets_BT.flatten(), bias_V=backbone.bias_V
        )
        return nats_N.view(batch.targets_BT.shape)

    def _similarity(
        self, hidden_ND: torch.Tensor, embedding_VD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two factors whose product is the similarity that the loss compares."""
        if self.settings.cosine:
            hidden_ND, embedding_VD = unit_rows(hidden_ND), unit_rows(embedding_VD)
        if self.settings.temperature != 1:
            hidden_ND = hidden_ND / self.settings.temperature
        return hidden_ND, embedding_VD

    def record(self) -> dict[str, Any]:
        return {"name": "headless", **to_mapping(self.settings)}
