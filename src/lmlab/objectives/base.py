"""What an objective is: a batch transform, a loss and a score.

The training loop and the analyses know only this protocol; they never ask for a name.

Shapes: B batch, T positions of the model's input, n tokens of the longest window, N predicted
positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from lmlab.models.backbone import Backbone
from lmlab.objectives.cross_entropy import IGNORED

__all__ = ["IGNORED", "Batch", "Criterion", "Objective", "WithCriterion", "hidden_states"]


@dataclass(frozen=True)
class Batch:
    """What the model reads and what it has to predict."""

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor
    """-100 marks positions that do not count."""
    attention_BT: torch.Tensor | None = None
    """0 where a bidirectional model must not look; None if it may look everywhere. Or what is added
    to the logits of the attention: (B, 1, T, T)."""
    rows_N: torch.Tensor | None = None
    """The positions that have a target, numbered through the batch; None: all are computed."""
    positions_BT: torch.Tensor | None = None
    """Where each token stands, if that is not its column."""
    asked_N: torch.Tensor | None = None
    """Targets of `rows_N`, where a position may have several."""
    key: int | None = None
    """Decides what is drawn for the micro-batch as a whole; None outside training."""

    @property
    def targets_N(self) -> torch.Tensor:
        """Targets of the computed positions."""
        if self.asked_N is not None:
            return self.asked_N
        targets = self.targets_BT.flatten()
        return targets if self.rows_N is None else targets[self.rows_N]


class Criterion(Protocol):
    """How hidden states are held against their targets."""

    @property
    def depends_on_micro_batch(self) -> bool: ...

    @property
    def scores_own_logits(self) -> bool: ...

    def check(self, backbone: Backbone) -> None:
        """`UserError` if the model cannot serve."""
        ...

    def sum(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        """Sum of nats over the targets, with gradient, and the number of targets."""
        ...

    def each(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """Nats of each computed position (N), 0 where nothing counts; no gradient."""
        ...

    def each_and_best(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """`each`, and the likeliest id of each computed position (N), -100 where nothing counts."""
        ...


class Objective(Protocol):
    """One way to train a model and to score text with it."""

    order: str

    @property
    def depends_on_micro_batch(self) -> bool:
        """Whether gradient accumulation changes the objective."""
        ...

    @property
    def scores_own_logits(self) -> bool:
        """Whether `score` is the softmax of the model's own logits, as `generate` samples them."""
        ...

    @property
    def autoregressive(self) -> bool:
        """Whether the nats of a window's tokens add up to those of the window."""
        ...

    @property
    def conditions(self) -> str:
        """What each token is scored from, in words."""
        ...

    def check(self, backbone: Backbone) -> None:
        """`UserError` if the model cannot serve this objective."""
        ...

    def batch(
        self,
        windows: Sequence[Any],
        *,
        device: torch.device,
        length: int | None = None,
        keys: np.ndarray | None = None,
    ) -> Batch:
        """Windows to a batch on `device`, padded to `length` (the longest).

        A window is its ids in reading order, or a `LabelledText`. `keys` (one a window) decide
        what is random about a batch; without them it is for scoring.
        """
        ...

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        """Sum of nats over the targets, with gradient, and the number of targets."""
        ...

    def questions(self, batch: Batch) -> Iterator[Batch]:
        """What the model reads to score `batch`; the computed positions (`rows_N`) of all of them
        are the scored tokens, each once."""
        ...

    def score(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """Nats (B, n) of each token in the order of reading, 0 beyond a window; no gradient."""
        ...

    def record(self) -> dict[str, Any]:
        """What `objectives.from_record` needs to build this objective again."""
        ...


class WithCriterion:
    """What objectives have in common whose loss is that of a criterion."""

    criterion: Criterion

    @property
    def depends_on_micro_batch(self) -> bool:
        return self.criterion.depends_on_micro_batch

    @property
    def scores_own_logits(self) -> bool:
        return self.criterion.scores_own_logits

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        return self.criterion.sum(backbone, batch)

    def questions(self, batch: Batch) -> Iterator[Batch]:
        """One question: all targets of the batch at once."""
        yield replace(batch, rows_N=(batch.targets_BT != IGNORED).flatten().nonzero().flatten())


def hidden_states(backbone: Backbone, batch: Batch) -> torch.Tensor:
    """The states (N, D) that the head reads, of the computed positions."""
    hidden_BTD = backbone.hidden(batch.inputs_BT, batch.attention_BT, batch.positions_BT)
    hidden_ND = hidden_BTD.flatten(0, 1)
    if batch.rows_N is not None:
        hidden_ND = hidden_ND[batch.rows_N]
    return backbone.transformed(hidden_ND)
