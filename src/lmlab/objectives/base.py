"""What an objective is: a batch transform, a loss and a score.

The training loop and the analyses know only this protocol; they never ask for a name.

Shapes: B batch, T positions of the sequence (= tokens of the longest window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from lmlab.models.backbone import Backbone


@dataclass(frozen=True)
class Batch:
    """What the model reads and what it has to predict; -100 marks positions that do not count."""

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor


class Objective(Protocol):
    """One way to train a model and to score text with it."""

    order: str
    depends_on_micro_batch: bool
    """Whether gradient accumulation changes the objective."""

    @property
    def scores_own_logits(self) -> bool:
        """Whether `score` is the softmax of the model's own logits, as `generate` samples them."""
        ...

    def check(self, backbone: Backbone) -> None:
        """`UserError` if the model cannot serve this objective."""
        ...

    def batch(
        self, windows: Sequence[np.ndarray], *, device: torch.device, length: int | None = None
    ) -> Batch:
        """Ids in reading order to a batch on `device`, padded to `length` (default: longest)."""
        ...

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        """Sum of nats over the targets, with gradient, and the number of targets."""
        ...

    def score(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """Nats (B, T) of each target, 0 where nothing counts; no gradient."""
        ...

    def record(self) -> dict[str, Any]:
        """What `objectives.from_record` needs to build this objective again."""
        ...
