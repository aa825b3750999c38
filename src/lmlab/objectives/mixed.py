"""Causal and masked language modelling in one model (Charpentier and Samuel 2024, "GPT or BERT: why
not both?").

Each window of a batch is one or the other, by a key of (seed, step, row):

- causal: each token is predicted from those before it;
- masked: chosen tokens are shown as a masked model sees them (`lmlab.data.masking`), the attention
  looks both ways, and each is predicted at the position *before* its own.

So one causal architecture and one head serve both, and what is saved is a stock model that anybody
scores as a causal one. It can also be scored as a masked one (`Mixed.as_masked`).

Notable:
- Which way a window is read is in its attention mask, (T, T) and added to the logits, so the
  architecture must take such a mask; that is tried out.
- Every predicted token counts the same in the loss, of whichever kind. A masked window has fewer of
  them, so with half of the windows masked and 15 % of their tokens predicted, 13 % of the loss is
  theirs. In the paper either kind has the mean over its own tokens.

Shapes: B batch, n tokens of the longest window, T = n positions (as masked: n + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lmlab.config import from_mapping, to_mapping
from lmlab.config.objective import MaskingConfig, MixedConfig
from lmlab.data.masking import Masking, uniform
from lmlab.data.order import FORWARD
from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone, inputs_of
from lmlab.models.behaviour import evaluating, probe_ids
from lmlab.objectives.base import IGNORED, Batch
from lmlab.objectives.causal import Causal
from lmlab.objectives.masked import Masked

_KIND = 5  # the stream of a window's key that decides how it is read
_HIDDEN = np.finfo(np.float32).min
_TRIED = 8
_APART = 1e-4


class Mixed(Causal):
    """Windows are read from the left, or with masks from both sides; scored from the left."""

    name = "mixed"

    def __init__(
        self, *, tokenizer: TextTokenizer, masking: MaskingConfig, settings: MixedConfig
    ) -> None:
        super().__init__(order=FORWARD, bos_id=tokenizer.bos_id)
        self.tokenizer, self.masking, self.settings = tokenizer, masking, settings
        self._masks = Masking(masking, tokenizer)

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> Mixed:
        """`UserError` for another order than forward."""
        if order != FORWARD:
            raise UserError(f"order {order}: a mixed model reads forward and both ways")
        where = "objective record"
        return cls(
            tokenizer=tokenizer,
            masking=from_mapping(MaskingConfig, record["masking"], where=where),
            settings=from_mapping(MixedConfig, record["mixed"], where=where),
        )

    def check(self, backbone: Backbone) -> None:
        """`UserError` for a model that sees later tokens unasked, or that no attention mask lets
        see them."""
        super().check(backbone)
        if not _takes_mask(backbone):
            raise UserError(
                f"{type(backbone.model).__name__} takes no attention mask of position by position, "
                "so it cannot look both ways. Use an attention model (qwen3, llama, gpt2, neox)"
            )

    def arrays(
        self, windows: Sequence[np.ndarray], length: int, keys: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        arrays = super().arrays(windows, length, keys)
        if keys is None:
            return arrays
        inputs, targets = arrays["inputs_BT"], arrays["targets_BT"]
        sees = np.broadcast_to(np.tri(length, dtype=bool), (len(windows), length, length)).copy()
        for row, window in enumerate(windows):
            key, n = int(keys[row]), len(window)
            if uniform(key, _KIND, 1)[0] >= self.settings.masked:
                continue
            seen_n, chosen_n = self._masks.draw(window, key)
            inputs[row, 1:n] = seen_n[:-1]
            targets[row, :n] = np.where(chosen_n, window, IGNORED)
            sees[row, :n, :n] = True
        return {
            **arrays,
            "attention_BT": added(sees),
            "rows_N": np.flatnonzero(targets != IGNORED),
        }

    def as_masked(self) -> AsMasked:
        """The reading that scores each token from both sides."""
        return AsMasked(self)

    def record(self) -> dict[str, Any]:
        return {"masking": to_mapping(self.masking), "mixed": to_mapping(self.settings)}


class AsMasked(Masked):
    """A mixed model scored as a masked one: a window behind BOS, its masked tokens asked for at the
    positions before them."""

    name = "mixed"
    ends = 1

    def __init__(self, mixed: Mixed) -> None:
        super().__init__(tokenizer=mixed.tokenizer, settings=mixed.masking)
        self.mixed = mixed

    def check(self, backbone: Backbone) -> None:
        self.mixed.check(backbone)

    def arrays(
        self, windows: Sequence[np.ndarray], length: int, keys: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        assert keys is None, "it only scores"
        inputs = np.full((len(windows), length + 1), self.bos_id, dtype=np.int64)
        targets = np.full(inputs.shape, IGNORED, dtype=np.int64)
        sees = np.broadcast_to(np.eye(length + 1, dtype=bool), (*inputs.shape, length + 1)).copy()
        for row, window in enumerate(windows):
            n = len(window)
            inputs[row, 1 : n + 1] = targets[row, 1 : n + 1] = window
            sees[row, : n + 1, : n + 1] = True
        return {"inputs_BT": inputs, "targets_BT": targets, "attention_BT": added(sees)}

    def asked_at(self, batch: Batch, rows_N: torch.Tensor) -> Batch:
        return replace(batch, rows_N=rows_N - 1, asked_N=batch.targets_BT.flatten()[rows_N])

    def score(self, batch: Batch, each: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        return self._nats_at(batch, each)[:, :-1]

    def record(self) -> dict[str, Any]:
        return self.mixed.record()


def added(sees_BTT: np.ndarray) -> np.ndarray:
    """What is added to the logits of the attention, (B, 1, T, T)."""
    return np.where(sees_BTT, np.float32(0), np.float32(_HIDDEN))[:, None]


@torch.no_grad()
def _takes_mask(backbone: Backbone) -> bool:
    """Whether with a mask that shows all, a later token moves earlier logits, and one that shows
    what is before changes nothing."""
    ids_1T = probe_ids(backbone.model, _TRIED + 1)[None]
    other_1T = torch.cat([ids_1T[:, : _TRIED - 1], ids_1T[:, _TRIED:]], dim=1)
    ids_1T = ids_1T[:, :_TRIED]
    before, everything = (
        torch.from_numpy(added(sees[None])).to(backbone.device)
        for sees in (np.tri(_TRIED, dtype=bool), np.ones((_TRIED, _TRIED), dtype=bool))
    )

    def read(ids: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        return backbone.model(**inputs_of(backbone.model, ids, attention)).logits[0, :-1].float()

    try:
        with evaluating(backbone.model):
            plain, masked = read(ids_1T, None), read(ids_1T, before)
            moved = read(ids_1T, everything) - read(other_1T, everything)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
            TypeError, ValueError):  # fmt: skip
        return False
    size = float(plain.abs().max())
    return bool((plain - masked).abs().max() <= _APART * size and moved.abs().max() > 0)
