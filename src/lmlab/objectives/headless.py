"""Headless language modelling: contrastive weight tying, causal in any order, or masked.

Each output state has to find the input embedding of its target among those of the micro-batch's
other targets (Godey, de la Clergerie and Sagot, ICLR 2024, arXiv 2309.08351); there is no softmax
over the vocabulary while training.

Notable:
- The optimum of the loss is log p(v | context) - log p(v) up to a constant of the context, p(v) the
  marginal of the batch. So embeddings plus the log-unigram distribution as output bias are a
  language model with no fine-tuning, and that is how this objective scores text.
- Negatives are the targets of the micro-batch, over all processes: gradient accumulation changes
  the objective, the number of processes does not.
- A share of full cross-entropy can be mixed in; with the same bias both have the same optimum.
- The state is the one that the model's own head reads. In BERT and its kin that is after the
  head's small dense layer, which the paper leaves out; it keeps the architecture stock.

Shapes: N rows, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from lmlab.config import from_mapping, to_mapping
from lmlab.config.objective import HeadlessConfig, MaskingConfig
from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import Batch, hidden_states
from lmlab.objectives.causal import Causal
from lmlab.objectives.contrastive import (
    contrastive_loss,
    contrastive_sum,
    gathered_targets,
    unit_rows,
)
from lmlab.objectives.cross_entropy import (
    cross_entropy_each,
    cross_entropy_each_and_best,
    cross_entropy_sum,
)
from lmlab.objectives.masked import Masked
from lmlab.processes import world

__all__ = ["Contrastive", "Headless", "HeadlessMasked", "contrastive_loss"]


class Contrastive:
    """Contrastive weight tying as a criterion; scores by similarity and output bias."""

    depends_on_micro_batch = True

    def __init__(self, settings: HeadlessConfig) -> None:
        self.settings = settings

    @property
    def scores_own_logits(self) -> bool:
        return self.settings.temperature == 1 and not self.settings.cosine

    def check(self, backbone: Backbone) -> None:
        """`UserError` unless the output embedding is the input embedding."""
        if not backbone.linear:
            raise UserError(
                f"{type(backbone.model).__name__} scales or caps its logits, so that a headless "
                "loss is not that of its output embedding: use another --model.architecture"
            )
        if backbone.weight_VD is not backbone.embedding_VD:
            raise UserError(
                "a headless model has its input embedding for output embedding: train with "
                "--model.tied"
            )

    def sum(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        hidden_ND = hidden_states(backbone, batch)
        targets_N = batch.targets_N
        s = self.settings
        total, count = contrastive_sum(
            hidden_ND,
            backbone.embedding_VD,
            targets_N,
            candidate_ids_M=gathered_targets(targets_N) if world() > 1 else None,
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
    def each(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        hidden, weight = self._similarity(hidden_states(backbone, batch), backbone.embedding_VD)
        return cross_entropy_each(hidden, weight, batch.targets_N, bias_V=backbone.bias_V)

    @torch.no_grad()
    def each_and_best(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, weight = self._similarity(hidden_states(backbone, batch), backbone.embedding_VD)
        return cross_entropy_each_and_best(hidden, weight, batch.targets_N, bias_V=backbone.bias_V)

    def _similarity(
        self, hidden_ND: torch.Tensor, embedding_VD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two factors whose product is the similarity that the loss compares."""
        if self.settings.cosine:
            hidden_ND, embedding_VD = unit_rows(hidden_ND), unit_rows(embedding_VD)
        if self.settings.temperature != 1:
            hidden_ND = hidden_ND / self.settings.temperature
        return hidden_ND, embedding_VD


class Headless(Causal):
    """Predict each token's embedding from the tokens before it in `order`. Units: nats."""

    def __init__(self, *, order: str, bos_id: int, settings: HeadlessConfig) -> None:
        super().__init__(order=order, bos_id=bos_id)
        self.settings = settings
        self.criterion = Contrastive(settings)

    @classmethod
    def from_record(
        cls, record: dict[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> Headless:
        """From what `record` returned."""
        return cls(order=order, bos_id=tokenizer.bos_id, settings=_settings(record))

    def record(self) -> dict[str, Any]:
        return {"name": "headless", **to_mapping(self.settings)}


class HeadlessMasked(Masked):
    """Predict the embeddings of masked tokens from both sides. Units: nats."""

    def __init__(
        self, *, tokenizer: TextTokenizer, settings: MaskingConfig, headless: HeadlessConfig
    ) -> None:
        super().__init__(tokenizer=tokenizer, settings=settings)
        self.headless = headless
        self.criterion = Contrastive(headless)

    @classmethod
    def from_record(
        cls, record: dict[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> HeadlessMasked:
        """From what `record` returned. `UserError` for another order than forward."""
        masked = Masked.from_record(record, order=order, tokenizer=tokenizer)
        return cls(tokenizer=tokenizer, settings=masked.settings, headless=_settings(record))

    def record(self) -> dict[str, Any]:
        return {**super().record(), "name": "headless-masked", **to_mapping(self.headless)}


def _settings(record: dict[str, Any]) -> HeadlessConfig:
    values = {k: v for k, v in record.items() if k not in ("name", "masking")}
    return from_mapping(HeadlessConfig, values, where="objective record")
