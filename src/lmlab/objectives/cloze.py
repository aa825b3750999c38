"""Cloze scoring: each token from all others of its window, seen by a model that hides it itself.

A window stands between BOS and the end-of-text token, as for masked models, but nothing is masked:
the model's state of a position must not have seen that position (forward and backward towers). One
pass scores every token. The sum over a window is no joint probability: these are cloze scores, and
not likelihoods.

Shapes: B batch, n tokens of the longest window, T = n + 2 positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmlab.data.order import FORWARD
from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.towers import TwoTower
from lmlab.objectives.base import Reading
from lmlab.objectives.masked import dressed


class Cloze(Reading):
    """Each token is predicted from all others of its window, in one pass."""

    name = "cloze"
    order = FORWARD
    conditions = "each token from all others of its window (cloze scores, not likelihoods)"

    def __init__(self, *, bos_id: int, end_id: int) -> None:
        self.bos_id, self.end_id = bos_id, end_id

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> Cloze:
        """`UserError` for another order than forward."""
        if order != FORWARD:
            raise UserError(f"order {order}: these towers read both ways; leave it at forward")
        return cls(bos_id=tokenizer.bos_id, end_id=tokenizer.end_of_text_id)

    def check(self, backbone: Backbone) -> None:
        """`UserError` for a model whose states have seen what they are to predict."""
        if not (isinstance(backbone.model, TwoTower) and backbone.model.config.cloze):
            raise UserError(
                f"{type(backbone.model).__name__} has no towers that read from both ends; train "
                "some: `objective` towers-cloze `model.architecture` lstm"
            )

    def arrays(
        self, windows: Sequence[np.ndarray], length: int, keys: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        return dressed(windows, length, bos_id=self.bos_id, end_id=self.end_id)
