"""What an objective is: a batch transform, a loss and a score, in two parts.

- A `Reading` makes a batch of texts: what the model sees, and what it has to predict.
- A `Criterion` holds the model's states against what had to be predicted.

The training loop and the analyses ask these two; they never ask for a name.

Shapes: B batch, T positions of the model's input, n tokens of the longest window, N predicted
positions, K of them with a target that counts, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from lmlab.config.objective import objective_name
from lmlab.data.tokenizers import Surround, TextTokenizer
from lmlab.models.backbone import Backbone
from lmlab.objectives.cross_entropy import IGNORED
from lmlab.objectives.logit_gradient import LogitGradient, softmax_gradient

__all__ = ["IGNORED", "Batch", "Criterion", "Objective", "Reading", "hidden_states"]


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
    segments_BT: torch.Tensor | None = None
    """Of pairs of texts: 0 for the first, 1 for the second."""

    @property
    def targets_N(self) -> torch.Tensor:
        """Targets of the computed positions."""
        if self.asked_N is not None:
            return self.asked_N
        targets = self.targets_BT.flatten()
        return targets if self.rows_N is None else targets[self.rows_N]

    @property
    def window_K(self) -> torch.Tensor:
        """The window of each computed position whose target is not -100, numbered through the
        batch."""
        rows_N = self.rows_N
        if rows_N is None:
            rows_N = torch.arange(self.targets_BT.numel(), device=self.targets_BT.device)
        return rows_N[self.targets_N != IGNORED] // self.targets_BT.shape[1]


class Criterion(ABC):
    """How hidden states are held against their targets."""

    name: ClassVar[str]
    depends_on_micro_batch: bool = False
    """Whether gradient accumulation changes the objective."""
    scores_own_logits: bool = True
    """Whether `each` is the softmax of the model's own logits, as `generate` samples them."""

    @classmethod
    def from_record(cls, settings: Mapping[str, Any]) -> Self:
        """From what `record` returned."""
        return cls()

    def record(self) -> dict[str, Any]:
        """The settings, as plain values."""
        return {}

    def check(self, backbone: Backbone) -> None:  # noqa: B027
        """`UserError` if the model cannot serve; every model with a head will do here."""

    @abstractmethod
    def sum(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        """Sum of nats over the targets, with gradient, and the number of targets."""

    @abstractmethod
    def each_and_best(
        self, backbone: Backbone, batch: Batch, *, best: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats of each computed position (N), 0 where nothing counts, and the likeliest id of each
        (N), -100 where nothing counts (everywhere, unless the `best` are asked for)."""

    def logits(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """Logits (N, V) of the computed positions, float32 at least, whose softmax is what `each`
        scores by: the model's own."""
        if backbone.linear:
            hidden_ND = hidden_states(backbone, batch)
            logits_NV = nn.functional.linear(hidden_ND, backbone.weight_VD, backbone.bias_V)
        else:
            logits_NV = backbone.logits(batch.inputs_BT, batch.attention_BT).flatten(0, 1)
            logits_NV = logits_NV if batch.rows_N is None else logits_NV[batch.rows_N]
        return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))

    def logit_gradients(self, backbone: Backbone, batch: Batch) -> dict[str, LogitGradient]:
        """Gradients in the logits by the name of their loss, the one that was trained with first.

        Raises `UserError` for a model whose logits are not those of an output embedding.
        """
        head = backbone.head
        hidden_ND = hidden_states(backbone, batch)
        targets_N, linear = batch.targets_N, head.is_linear
        gradient = softmax_gradient(
            hidden_ND, head.weight_VD, targets_N, head.bias_V, head=None if linear else head
        )
        return {"cross-entropy": gradient}

    @torch.no_grad()
    def each(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """Nats of each computed position (N), 0 where nothing counts; no gradient."""
        return self.each_and_best(backbone, batch, best=False)[0]


class Reading(ABC):
    """What a model sees of a text, and what it has to predict of it."""

    name: ClassVar[str]
    autoregressive: ClassVar[bool] = False
    """Whether the nats of a window's tokens add up to those of the window."""
    ends: int = 2
    """Positions of the input beyond those of a window: BOS before it, end-of-text behind it."""
    continuation: ClassVar[Literal["log-likelihood", "pseudo-log-likelihood"] | None] = None
    """What the nats of a text's last tokens add up to; None where nothing of use."""
    order: str
    conditions: str
    """What each token is scored from, in words."""

    @classmethod
    @abstractmethod
    def from_record(
        cls, record: Mapping[str, Any], *, order: str, tokenizer: TextTokenizer
    ) -> Reading:
        """From what `record` returned. `UserError` for an order that it cannot read in."""

    @abstractmethod
    def check(self, backbone: Backbone) -> None:
        """`UserError` for a model that cannot be read so."""

    @abstractmethod
    def arrays(
        self, windows: Sequence[Any], length: int, keys: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """The fields of `batch`, on the CPU."""

    def surround(self, config: Any, context: int) -> Surround:
        """What stands around a text of at most `context` tokens in the input of a model of this
        transformers configuration."""
        segments = self.ends > 0 and getattr(config, "type_vocab_size", 1) > 1
        return Surround(ends=self.ends == 2, longest=context + self.ends, segments=segments)

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
        arrays = self.arrays(windows, length or max(map(len, windows)), keys)
        fields: dict[str, Any] = {
            name: torch.from_numpy(array).to(device, non_blocking=True)
            for name, array in arrays.items()
        }
        return Batch(**fields)

    def questions(self, batch: Batch) -> Iterator[Batch]:
        """What the model reads to score `batch`; the computed positions (`rows_N`) of all of them
        are the scored tokens, each once. Here one question: all targets of the batch at once."""
        yield replace(batch, rows_N=(batch.targets_BT != IGNORED).flatten().nonzero().flatten())

    def hidden_at(self, batch: Batch, rows_N: torch.Tensor) -> Batch:
        """The question for the tokens at `rows_N` alone; what shows them to the model is hidden."""
        return self.asked_at(batch, rows_N)

    def asked_at(self, batch: Batch, rows_N: torch.Tensor) -> Batch:
        """The question for the tokens at `rows_N` alone."""
        return replace(batch, rows_N=rows_N)

    def score(self, batch: Batch, each: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """Nats (B, n) of each token in the order of reading, from those that `each` gives of the
        computed positions (N) of a question."""
        nats_BT = each(batch).view(batch.targets_BT.shape)
        return nats_BT[:, 1:-1] if self.ends else nats_BT

    def record(self) -> dict[str, Any]:
        """The settings, as plain values."""
        return {}


@dataclass(frozen=True)
class Objective:
    """One way to train a model and to score text with it. Units: nats."""

    reading: Reading
    criterion: Criterion

    @property
    def name(self) -> str:
        return objective_name(self.reading.name, self.criterion.name)

    @property
    def order(self) -> str:
        return self.reading.order

    def check(self, backbone: Backbone) -> None:
        """`UserError` if the model cannot serve this objective."""
        self.reading.check(backbone)
        self.criterion.check(backbone)

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        """Sum of nats over the targets, with gradient, and the number of targets."""
        return self.criterion.sum(backbone, batch)

    @torch.no_grad()
    def score(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """Nats (B, n) of each token in the order of reading, 0 beyond a window; no gradient."""
        return self.reading.score(batch, lambda asked: self.criterion.each(backbone, asked))

    def record(self) -> dict[str, Any]:
        """What `objectives.from_record` needs to build this objective again."""
        return {"name": self.name, **self.reading.record(), **self.criterion.record()}


def hidden_states(backbone: Backbone, batch: Batch) -> torch.Tensor:
    """The states (N, D) that the head reads, of the computed positions."""
    hidden_BTD = backbone.hidden(batch.inputs_BT, batch.attention_BT, batch.positions_BT)
    hidden_ND = hidden_BTD.flatten(0, 1)
    if batch.rows_N is not None:
        hidden_ND = hidden_ND[batch.rows_N]
    return backbone.transformed(hidden_ND)
