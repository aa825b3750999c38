"""Masked language modelling: predict chosen tokens of a window from all the others.

A window stands between BOS (CLS) and the end-of-text token (SEP). In training, chosen tokens are
shown as the mask token, a random one or themselves (Devlin et al. 2019; `lmlab.data.masking`), and
only they are computed by the head and counted; the labels are always the original tokens.

Notable:
- Scoring asks for every token of a window once: `1 / rate` passes, each with about that share of
  the tokens masked, all as the mask token. Which token belongs to which pass depends on its
  position alone. The sum over a window is no joint probability (it is in the manner of a
  pseudo-log-likelihood), and is not to be compared with that of a causal model.
- Padding is hidden by the attention mask, which is left out where nothing is padded.

Shapes: B batch, n tokens of the longest window, T = n + 2 positions, N chosen positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lmlab.config import from_mapping, to_mapping
from lmlab.config.objective import MaskingConfig
from lmlab.data.masking import Masking
from lmlab.data.order import FORWARD
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.windows import mix
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import IGNORED, Batch, Reading


class Masked(Reading):
    """Chosen tokens are predicted from both sides."""

    name = "masked"
    continuation = "pseudo-log-likelihood"
    order = FORWARD

    def __init__(self, *, tokenizer: TextTokenizer, settings: MaskingConfig) -> None:
        self.settings = settings
        self.bos_id, self.end_id = tokenizer.bos_id, tokenizer.end_of_text_id
        self.masking = Masking(settings, tokenizer)
        self.passes = math.ceil(1 / settings.rate)
        self.conditions = (
            f"each token once, in {self.passes} passes that mask about 1/{self.passes} each"
        )

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> Masked:
        """`UserError` for another order than forward."""
        if order != FORWARD:
            raise UserError(f"order {order}: a masked model reads both ways; leave it at forward")
        settings = from_mapping(MaskingConfig, record["masking"], where="objective record")
        return cls(tokenizer=tokenizer, settings=settings)

    def check(self, backbone: Backbone) -> None:
        """`UserError` for a model that sees only what is before a token."""
        if not backbone.bidirectional:
            raise UserError(
                f"{type(backbone.model).__name__} is a causal model; it has not learnt to fill in "
                "masks. Use `objective` causal, or a masked model (bert, modernbert, distilbert)"
            )

    def arrays(
        self, windows: Sequence[np.ndarray], length: int, keys: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        arrays = dressed(windows, length, bos_id=self.bos_id, end_id=self.end_id)
        if keys is None:
            return arrays
        targets = arrays["targets_BT"]
        for row, window in enumerate(windows):
            text = slice(1, len(window) + 1)
            seen_n, chosen_n = self.masking.draw(window, int(keys[row]))
            arrays["inputs_BT"][row, text] = seen_n
            targets[row, text] = np.where(chosen_n, window, IGNORED)
        return {**arrays, "rows_N": np.flatnonzero(targets != IGNORED)}

    def questions(self, batch: Batch) -> Iterator[Batch]:
        """What is asked of the model to score a batch: each pass with its positions masked."""
        real_BT = batch.targets_BT != IGNORED
        pass_T = torch.from_numpy(_pass_of_position(real_BT.shape[1], self.passes))
        for number in range(self.passes):
            masked_BT = real_BT & (pass_T == number).to(real_BT.device)
            rows_N = masked_BT.flatten().nonzero().flatten()
            if len(rows_N):
                yield self.hidden_at(batch, rows_N)

    def hidden_at(self, batch: Batch, rows_N: torch.Tensor) -> Batch:
        seen_BT = batch.inputs_BT.clone()
        seen_BT.view(-1)[rows_N] = self.masking.mask_id
        return self.asked_at(replace(batch, inputs_BT=seen_BT), rows_N)

    def score(self, batch: Batch, each: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        return self._nats_at(batch, each)[:, 1:-1]

    def _nats_at(self, batch: Batch, each: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """The nats (B, T) of all questions at the positions that they ask at."""
        nats_N = torch.zeros(
            batch.targets_BT.numel(), dtype=torch.float64, device=batch.targets_BT.device
        )
        for asked in self.questions(batch):
            nats_N[asked.rows_N] = each(asked)
        return nats_N.view(batch.targets_BT.shape)

    def record(self) -> dict[str, Any]:
        return {"masking": to_mapping(self.settings)}


def dressed(
    windows: Sequence[np.ndarray], length: int, *, bos_id: int, end_id: int
) -> dict[str, np.ndarray]:
    """Inputs, targets and (where there is padding) attention (B, T): each window between BOS and
    the end-of-text token, with itself for target; padded to `length` and two more."""
    shape = (len(windows), length + 2)
    inputs = np.full(shape, end_id, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    attention = np.zeros(shape, dtype=np.int64)
    inputs[:, 0] = bos_id
    for row, window in enumerate(windows):
        n = len(window)
        inputs[row, 1 : n + 1] = targets[row, 1 : n + 1] = window
        attention[row, : n + 2] = 1
    arrays = {"inputs_BT": inputs, "targets_BT": targets}
    return arrays if attention.all() else {**arrays, "attention_BT": attention}


def _pass_of_position(positions: int, passes: int) -> np.ndarray:
    """In which pass each position is masked: every block of `passes` has each pass once."""
    blocks = -(-positions // passes)
    random_bp = mix(np.arange(blocks * passes, dtype=np.uint64)).reshape(blocks, passes)
    return np.argsort(random_bp, axis=1).reshape(-1)[:positions]
