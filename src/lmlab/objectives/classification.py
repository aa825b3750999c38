"""Classification and regression of whole texts or pairs, over the body of a language model.

The model is transformers' own `...ForSequenceClassification`: an encoder is read at its first
token (CLS), a causal model at its last real one.

Notable:
- An encoder reads `BOS text END`, of a pair `BOS text END other END`; a causal model `BOS text`, of
  a pair `BOS text END other`, in its own order, so that a backward model ends at the first word.
- A batch is padded on the right with the end-of-text token. An encoder's attention mask hides it;
  a causal model cannot see it from the last real token.
- Class-balanced loss weighs class c by N / (C n_c) (King and Zeng 2001). Its mean over the training
  texts is 1, and the sum over a batch is divided by the number of texts, not by their weights.

Shapes: B texts of a batch, T positions, C classes (1 for regression), N texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, mse_loss

from lmlab.data.labelled_store import LabelledSplit, LabelledText
from lmlab.data.order import check_order, reading_order
from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.behaviour import evaluating
from lmlab.objectives.base import Batch, Criterion, Objective, Reading
from lmlab.objectives.evaluate import batches_of_a_length

_PAD_MULTIPLE = 16


class WholeText(Reading):
    """The label is predicted from the whole text."""

    name = "whole-text"
    conditions = "the label from the whole text"

    def __init__(self, *, order: str, tokenizer: TextTokenizer, both_ways: bool) -> None:
        self.order, self.both_ways = check_order(order), both_ways
        self.ends = 2 if both_ways else 1
        self.bos_id, self.end_id = tokenizer.bos_id, tokenizer.end_of_text_id

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> WholeText:
        return cls(order=order, tokenizer=tokenizer, both_ways=record["both_ways"])

    def check(self, backbone: Backbone) -> None:
        """Every classifier will do."""

    def arrays(
        self, windows: Sequence[LabelledText], length: int, keys: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """The targets (B, 1) are classes or values, in float32."""
        shape = (len(windows), length + self.ends)
        inputs = np.full(shape, self.end_id, dtype=np.int64)
        attention = np.zeros(shape, dtype=np.int64)
        inputs[:, 0] = self.bos_id
        for row, text in enumerate(windows):
            n = len(text)
            inputs[row, 1 : n + 1] = text.ids[reading_order(self.order, n)]
            attention[row, : n + self.ends] = 1
        # the second text begins after the first END; the END belongs to what it ends
        end = (inputs == self.end_id).astype(np.int64)
        segments = np.minimum(end.cumsum(axis=1) - end, 1) * attention
        return {
            "inputs_BT": inputs,
            "targets_BT": np.array([[text.label] for text in windows], dtype=np.float32),
            "attention_BT": attention,
            "segments_BT": segments,
        }

    def score(self, batch: Batch, each: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        return each(batch)[:, None]

    def record(self) -> dict[str, Any]:
        return {"both_ways": self.both_ways}


class LabelCriterion(Criterion):
    """The nats of a text's class, or the squared error of its value."""

    name = "labels"

    def __init__(self, classes: Sequence[str], weights: Sequence[float] | None = None) -> None:
        self.classes = tuple(classes)
        self.weights = None if weights is None else tuple(weights)

    @classmethod
    def from_record(cls, settings: Mapping[str, Any]) -> LabelCriterion:
        return cls(settings["classes"], settings["weights"])

    @property
    def outputs(self) -> int:
        """How many numbers the model gives for a text."""
        return len(self.classes) or 1

    def check(self, backbone: Backbone) -> None:
        """`UserError` unless the model gives as many numbers as there are classes."""
        given = getattr(backbone.model.config, "num_labels", None)
        if given != self.outputs or not type(backbone.model).__name__.endswith("Classification"):
            raise UserError(
                f"{type(backbone.model).__name__} is no classifier of {self.outputs} outputs"
            )

    def outputs_of(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """Logits (B, C), of regression values (B, 1), in float32."""
        embeds_segments = getattr(backbone.model.config, "type_vocab_size", 1) > 1
        logits_BC = backbone.logits(
            batch.inputs_BT, batch.attention_BT, batch.segments_BT if embeds_segments else None
        )
        return logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))

    def sum(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        weights = None
        if self.weights is not None:
            weights = torch.tensor(self.weights, device=batch.inputs_BT.device)
        each_B = self._each(self.outputs_of(backbone, batch), batch, weights)
        return each_B.sum(), len(each_B)

    @torch.no_grad()
    def each_and_best(
        self, backbone: Backbone, batch: Batch, *, best: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        outputs_BC = self.outputs_of(backbone, batch)
        best_B = outputs_BC.argmax(dim=1) if self.classes else outputs_BC[:, 0]
        return self._each(outputs_BC, batch, None), best_B

    def _each(
        self, outputs_BC: torch.Tensor, batch: Batch, weights_C: torch.Tensor | None
    ) -> torch.Tensor:
        if not self.classes:
            return mse_loss(outputs_BC, batch.targets_BT, reduction="none")[:, 0]
        target_B = batch.targets_BT[:, 0].long()
        return cross_entropy(outputs_BC, target_B, weight=weights_C, reduction="none")

    def mean_loss(self, outputs_NC: np.ndarray, label_N: np.ndarray) -> float:
        """Unweighted nats (or squared error) of a text, the mean over all of them."""
        if not self.classes:
            return float(((outputs_NC[:, 0] - label_N) ** 2).mean())
        target_N = torch.from_numpy(label_N.astype(np.int64))
        return float(cross_entropy(torch.from_numpy(outputs_NC), target_N))

    def record(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            "weights": None if self.weights is None else list(self.weights),
        }


def label_criterion(objective: Objective) -> LabelCriterion:
    """The criterion of a classifier. `UserError` for the objective of a language model."""
    if not isinstance(objective.criterion, LabelCriterion):
        raise UserError(f"'{objective.name}' is the objective of a language model, no classifier's")
    return objective.criterion


@torch.no_grad()
def outputs_for(
    objective: Objective, backbone: Backbone, texts: LabelledSplit, *, batch: int
) -> np.ndarray:
    """The model's outputs (N, C) for all texts, in evaluation mode and float64.

    A text is padded by its own length only, so its output does not depend on its batch.
    """
    labels = label_criterion(objective)
    padded_N = -(-texts.length_N // _PAD_MULTIPLE) * _PAD_MULTIPLE
    longest = int(texts.length_N.max())
    outputs_NC = np.empty((len(texts), labels.outputs))
    with evaluating(backbone.model):
        for rows, length in batches_of_a_length(np.minimum(padded_N, longest), lambda _: batch):
            texts_B = [texts.text(int(row)) for row in rows]
            given = objective.reading.batch(texts_B, device=backbone.device, length=length)
            outputs_NC[rows] = labels.outputs_of(backbone, given).double().cpu().numpy()
    return outputs_NC


def predictions(classes: Sequence[str], outputs_NC: np.ndarray) -> np.ndarray:
    """The likeliest class of each text, or its value (N)."""
    return outputs_NC.argmax(axis=1) if classes else outputs_NC[:, 0]
