"""The head as a bottleneck: how much of the gradient of the logits reaches the body of a model.

What is computed of a batch of positions, and why, stands in `lmlab.numerics.head_gradient`; which
gradient a loss has in the logits, in `lmlab.objectives.logit_gradient`.

Notable:
- The model reads as in training: a masked model's tokens are masked by chance, a headless model has
  the batch's targets for candidates, or what its law of candidates says. Dropout is off.
- Weights, states and gradients are those of the model as it is saved. So for a trained model it is
  the gradient that is left; checkpoints of a run show the course.

Shapes: K predicted positions, M windows, C clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from lmlab.data.store import TokenStore
from lmlab.data.windows import key, row_keys
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.models.behaviour import evaluating
from lmlab.numerics.head_gradient import KeptGradient, kept_gradient
from lmlab.numerics.random_effects import Interval, two_way_ratio
from lmlab.objectives.evaluate import can_pad, window_batches
from lmlab.progress import Bar, track
from lmlab.results import Result

_SEED = 0


@dataclass(frozen=True)
class HeadGradient:
    """What of one loss's gradient passes the head of one model.

    Shares are of the squared norm; intervals are over text, for this one model.
    """

    model: str
    loss: str
    columns: int
    """Logits of a position: the types, or (mean over batches) the distinct candidates."""
    rank: int
    """Of the head, at most its width (the least over batches)."""
    positions: int
    batches: int
    states: Interval
    """Share that a change of the states can use."""
    both: Interval
    """Share that a change of the states and of the head's weights can use."""
    random_states: float
    """The share expected of a gradient that has no direction in common with the head."""
    random_both: float
    best: float
    """The share that the best head of this rank would let through, for these positions."""
    alignment: float
    """Cosine of the gradient and the change of the logits where the states follow theirs."""

    @property
    def suppressed(self) -> float:
        """Share of the gradient's norm (not squared) that does not reach the states."""
        return 1 - self.states.estimate**0.5


@dataclass(frozen=True)
class Bottleneck(Result, kind="bottleneck"):
    """How much of the gradient of the logits passes the heads of models."""

    store: str
    split: str
    context: int
    windows: int
    documents: int
    clusters: int
    cluster_unit: str
    batch_tokens: int
    gradients: tuple[HeadGradient, ...]
    """Of each model in its order, the loss that it was trained with first."""


def bottleneck(
    models: Sequence[LanguageModel],
    store: TokenStore,
    *,
    split: str = "train",
    context: int | None = None,
    max_windows: int | None = 64,
    batch_tokens: int = 2048,
    bar: Bar | None = None,
) -> Bottleneck:
    """How much of the gradient of the logits passes the head of each model.

    All models read the same windows, of `context` tokens (default: the shortest of the models' own,
    at most 1024). `batch_tokens` tokens make a batch: its states are what an update of the head can
    reach, and its targets are candidates of a headless loss. `bar` counts tokens.

    Raises `UserError` for no model, a store of another tokenizer, a context that a model cannot
    take or that a batch does not hold, or a model without an output embedding.
    """
    if not models:
        raise UserError("`models` is empty; give at least one")
    context = min(lm.window(context) for lm in models)
    if context > batch_tokens:
        raise UserError(
            f"`batch_tokens` {batch_tokens} must hold one window of {context} tokens; raise it, or "
            "lower `context`"
        )
    windows = models[0].windows(store, split, context=context, max_windows=max_windows)
    names, cluster_M = np.unique(windows.cluster_M, return_inverse=True)
    gradients: list[HeadGradient] = []
    total = len(models) * float(windows.length_M.sum())
    progress = nullcontext(bar) if bar else track("bottleneck", total, "tokens")
    with progress as counted:
        for lm in models:
            lm.check_store(store)
            sums: dict[str, _Sums] = {}
            padded = can_pad(lm.backbone, lm.objective, windows)
            at_once = max(1, batch_tokens // context)
            batches = window_batches(windows, at_once, padded=padded)
            for number, (rows, length) in enumerate(batches):
                ids = [windows.ids(int(row)) for row in rows]
                _read(lm, ids, length, number, cluster_M[rows], len(names), sums)
                counted.advance(float(windows.length_M[rows].sum()))
            documents_C = windows.clusters.documents_C
            gradients += [seen.measured(lm.name, loss, documents_C) for loss, seen in sums.items()]
    return Bottleneck(
        store=str(store.path),
        split=split,
        context=context,
        windows=len(windows),
        documents=windows.clusters.documents,
        clusters=len(names),
        cluster_unit=windows.cluster_unit,
        batch_tokens=batch_tokens,
        gradients=tuple(gradients),
    )


class _Sums:
    """Sums over batches of one loss of one model."""

    def __init__(self, clusters: int) -> None:
        self.whole_C, self.states_C, self.both_C = np.zeros((3, clusters))
        self.best = self.reached = self.moved = 0.0
        self.random_states = self.random_both = 0.0
        self.ranks: list[int] = []
        self.columns: list[int] = []
        self.positions = 0

    def add(self, kept: KeptGradient, cluster_K: np.ndarray) -> None:
        clusters = len(self.whole_C)
        for total_C, each_K in (
            (self.whole_C, kept.whole_N),
            (self.states_C, kept.states_N),
            (self.both_C, kept.both_N),
        ):
            total_C += np.bincount(cluster_K, each_K.cpu().numpy(), clusters)
        self.best += kept.best
        self.reached += kept.reached
        self.moved += kept.moved
        count, whole = len(cluster_K), float(kept.whole_N.sum())
        outside = 1 - kept.rank / kept.columns
        self.random_states += whole * (1 - outside)
        self.random_both += whole * (1 - (1 - kept.states_rank / count) * outside)
        self.ranks.append(kept.rank)
        self.columns.append(kept.columns)
        self.positions += count

    def measured(self, model: str, loss: str, documents_C: np.ndarray) -> HeadGradient:
        whole = float(self.whole_C.sum())
        if not whole:
            raise UserError(f"{model}: the gradient is zero; there is nothing to pass the head")
        states, both = (
            two_way_ratio(kept_C[None], self.whole_C[None], documents_C=documents_C)
            for kept_C in (self.states_C, self.both_C)
        )
        return HeadGradient(
            model=model,
            loss=loss,
            columns=round(float(np.mean(self.columns))),
            rank=min(self.ranks),
            positions=self.positions,
            batches=len(self.ranks),
            states=states,
            both=both,
            random_states=self.random_states / whole,
            random_both=self.random_both / whole,
            best=self.best / whole,
            alignment=self.reached / (whole * self.moved) ** 0.5 if self.moved else 0.0,
        )


@torch.no_grad()
def _read(
    lm: LanguageModel,
    ids: list[np.ndarray],
    length: int,
    number: int,
    cluster_B: np.ndarray,
    clusters: int,
    sums: dict[str, _Sums],
) -> None:
    """Adds what one batch of windows shows."""
    batch = lm.objective.reading.batch(
        ids,
        device=lm.backbone.device,
        length=length,
        keys=row_keys(range(len(ids)), _SEED, number),
    )
    batch = replace(batch, key=key(_SEED, number))
    with evaluating(lm.model):
        gradients = lm.objective.criterion.logit_gradients(lm.backbone, batch)
    cluster_K = cluster_B[batch.window_K.cpu().numpy()]
    if not len(cluster_K):
        return  # a masked model may hide none of a few tokens
    for loss, gradient in gradients.items():
        kept = kept_gradient(gradient.gradient_KV, gradient.states_KD, gradient.weight_VD)
        sums.setdefault(loss, _Sums(clusters)).add(kept, cluster_K)
