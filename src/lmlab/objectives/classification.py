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

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, mse_loss

from lmlab.data.labelled_store import LabelledSplit, LabelledText
from lmlab.data.order import check_order, reading_order
from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import Batch
from lmlab.objectives.evaluate import batches_of_a_length

_PAD_MULTIPLE = 16


class Classification:
    """Predict the class or value of a text. Units: nats, or squared error."""

    depends_on_micro_batch = False
    scores_own_logits = True
    autoregressive = False
    conditions = "the label from the whole text"

    def __init__(
        self,
        *,
        order: str,
        tokenizer: TextTokenizer,
        classes: Sequence[str],
        both_ways: bool,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.order, self.classes, self.both_ways = check_order(order), tuple(classes), both_ways
        self.bos_id, self.end_id = tokenizer.bos_id, tokenizer.end_of_text_id
        self.weights = None if weights is None else tuple(weights)

    @classmethod
    def from_record(
        cls, record: dict[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> Classification:
        """From what `record` returned."""
        return cls(
            order=order,
            tokenizer=tokenizer,
            classes=record["classes"],
            both_ways=record["both_ways"],
            weights=record["weights"],
        )

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

    def batch(
        self,
        windows: Sequence[LabelledText],
        *,
        device: torch.device,
        length: int | None = None,
        keys: np.ndarray | None = None,
    ) -> Batch:
        ends = 1 if self.both_ways else 0
        length = length or max(len(text.ids) for text in windows)
        shape = (len(windows), 1 + length + ends)
        inputs = np.full(shape, self.end_id, dtype=np.int64)
        attention = np.zeros(shape, dtype=np.int64)
        inputs[:, 0] = self.bos_id
        for row, text in enumerate(windows):
            n = len(text.ids)
            inputs[row, 1 : n + 1] = text.ids[reading_order(self.order, n)]
            attention[row, : 1 + n + ends] = 1
        kind = np.int64 if self.classes else np.float32
        targets = np.array([[text.label] for text in windows], dtype=kind)
        inputs_BT, targets_B1, attention_BT = (
            torch.from_numpy(each).to(device) for each in (inputs, targets, attention)
        )
        return Batch(inputs_BT, targets_B1, attention_BT)

    def outputs_of(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """Logits (B, C), of regression values (B, 1), in float32."""
        assert batch.attention_BT is not None
        segments = None
        if getattr(backbone.model.config, "type_vocab_size", 1) > 1:
            # the second text begins after the first END; the END belongs to what it ends
            ends_BT = (batch.inputs_BT == self.end_id).long()
            segments = (ends_BT.cumsum(1) - ends_BT).clamp_max(1) * batch.attention_BT
        logits_BC = backbone.logits(batch.inputs_BT, batch.attention_BT, segments)
        return logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        weights = None
        if self.weights is not None:
            weights = torch.tensor(self.weights, device=batch.inputs_BT.device)
        each_B = self._each(self.outputs_of(backbone, batch), batch, weights)
        return each_B.sum(), len(each_B)

    def questions(self, batch: Batch) -> Iterator[Batch]:
        """One question: the label of each text."""
        yield batch

    @torch.no_grad()
    def score(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        return self._each(self.outputs_of(backbone, batch), batch, None)[:, None]

    def _each(
        self, outputs_BC: torch.Tensor, batch: Batch, weights_C: torch.Tensor | None
    ) -> torch.Tensor:
        if not self.classes:
            return mse_loss(outputs_BC, batch.targets_BT, reduction="none")[:, 0]
        target_B = batch.targets_BT[:, 0]
        return cross_entropy(outputs_BC, target_B, weight=weights_C, reduction="none")

    def mean_loss(self, outputs_NC: np.ndarray, label_N: np.ndarray) -> float:
        """Unweighted nats (or squared error) of a text, the mean over all of them."""
        if not self.classes:
            return float(((outputs_NC[:, 0] - label_N) ** 2).mean())
        target_N = torch.from_numpy(label_N.astype(np.int64))
        return float(cross_entropy(torch.from_numpy(outputs_NC), target_N))

    def record(self) -> dict[str, Any]:
        return {
            "name": "classification",
            "classes": list(self.classes),
            "both_ways": self.both_ways,
            "weights": None if self.weights is None else list(self.weights),
        }


@torch.no_grad()
def outputs_for(
    objective: Classification, backbone: Backbone, texts: LabelledSplit, *, batch: int
) -> np.ndarray:
    """The model's outputs (N, C) for all texts, in evaluation mode and float64.

    A text is padded by its own length only, so its output does not depend on its batch.
    """
    padded_N = -(-texts.length_N // _PAD_MULTIPLE) * _PAD_MULTIPLE
    longest = int(texts.length_N.max())
    made = np.empty((len(texts), objective.outputs))
    training = backbone.model.training
    backbone.model.eval()
    try:
        for rows, length in batches_of_a_length(np.minimum(padded_N, longest), lambda _: batch):
            texts_B = [texts.text(int(row)) for row in rows]
            given = objective.batch(texts_B, device=backbone.device, length=length)
            made[rows] = objective.outputs_of(backbone, given).double().cpu().numpy()
    finally:
        backbone.model.train(training)
    return made


def predictions(classes: Sequence[str], outputs_NC: np.ndarray) -> np.ndarray:
    """The likeliest class of each text, or its value (N)."""
    return outputs_NC.argmax(axis=1) if classes else outputs_NC[:, 0]
