"""Scores of evaluation windows: the one loop that training's validation and the analyses share.

Notable: a window is padded to a multiple of 32 that depends on its own length only, so its score
does not depend on the batch it lands in (beyond the rounding of a matrix product).

Shapes: M windows, n context.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lmlab.data.windows import EvaluationWindows
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import Objective
from lmlab.progress import Bar

_PAD_MULTIPLE = 32


@dataclass(frozen=True)
class WindowNats:
    """Nats summed per window, and per position of the sequence (after how many seen tokens)."""

    nats_M: np.ndarray
    tokens_M: np.ndarray
    position_nats_n: np.ndarray
    position_tokens_n: np.ndarray

    @property
    def nats_per_token(self) -> float:
        return float(self.nats_M.sum() / self.tokens_M.sum())


def evaluate(
    objective: Objective,
    backbone: Backbone,
    windows: EvaluationWindows,
    *,
    batch: int,
    bar: Bar | None = None,
) -> WindowNats:
    """Scores all windows, `batch` at a time, in evaluation mode and without gradients.

    `bar` counts scored tokens. Sums are float64.
    """
    n = windows.context
    padded_M = np.minimum(n, -(-windows.length_M // _PAD_MULTIPLE) * _PAD_MULTIPLE)
    rows_by_length = np.argsort(-padded_M, kind="stable")
    nats_M = np.zeros(len(windows))
    position_nats, position_tokens = np.zeros(n), np.zeros(n, dtype=np.int64)
    model = backbone.model
    training = model.training
    model.eval()
    try:
        at = 0
        while at < len(rows_by_length):
            length = int(padded_M[rows_by_length[at]])
            rows = rows_by_length[at : at + batch]
            rows = rows[padded_M[rows] == length]
            at += len(rows)
            ids = [windows.ids(int(row)) for row in rows]
            made = objective.batch(ids, device=backbone.device, length=length)
            nats_BT = objective.score(backbone, made).double().cpu().numpy()
            nats_M[rows] = nats_BT.sum(axis=1)
            position_nats[:length] += nats_BT.sum(axis=0)
            lengths_B = windows.length_M[rows]
            position_tokens[:length] += (np.arange(length) < lengths_B[:, None]).sum(axis=0)
            if bar:
                bar.advance(float(lengths_B.sum()))
    finally:
        model.train(training)
    return WindowNats(nats_M, windows.length_M.copy(), position_nats, position_tokens)


def evaluation_batch(context: int, device: torch.device) -> int:
    """Windows a batch that keep a processor busy without using much memory."""
    tokens = 1 << 16 if device.type == "cuda" else 1 << 12
    return max(1, tokens // context)
