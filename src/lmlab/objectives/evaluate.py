"""Scores of evaluation windows: the one loop that training's validation and the analyses share.

Notable: a window is padded to a multiple of 32 that depends on its own length only, so its score
does not depend on the batch it lands in (beyond the rounding of a matrix product). Models that see
padding whatever the mask get windows of one length in a batch instead.

Nats are kept for each window and each bin of positions (`position_edges`): enough for intervals by
position over any clusters of windows, at a fraction of the size of the nats of each token. Beside
them, those of the tokens that stand earlier in their window.

Shapes: M windows, B of them in a batch, T tokens, b bins of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from lmlab.data.order import reading_order
from lmlab.data.windows import EvaluationWindows, repeated
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.behaviour import evaluating
from lmlab.objectives.base import Objective
from lmlab.processes import shared_out, sum_over_processes
from lmlab.progress import Bar

_PAD_MULTIPLE = 32
_PRODUCTS = 1 << 35  # a few seconds of one core
_SINGLE_UP_TO, _SINGLE_AT_FIRST = 64, 8


@dataclass(frozen=True)
class WindowNats:
    """Nats of each window, summed within bins of positions (after how many seen tokens)."""

    nats_Mb: np.ndarray
    tokens_M: np.ndarray
    repeated_nats_M: np.ndarray
    """Of the tokens whose id stands earlier in the window, in the order of reading."""
    repeated_M: np.ndarray
    """How many those are."""

    @property
    def nats_per_token(self) -> float:
        return float(self.nats_Mb.sum() / self.tokens_M.sum())


def position_edges(context: int) -> np.ndarray:
    """Edges of the bins of positions, 0 to `context`.

    Each position alone in windows of up to 64 tokens; in longer ones the first 8 alone, then bins
    that grow by a quarter.
    """
    if context <= _SINGLE_UP_TO:
        return np.arange(context + 1)
    edges = list(range(_SINGLE_AT_FIRST + 1))
    while edges[-1] < context:
        edges.append(min(context, round(edges[-1] * 1.25)))
    return np.array(edges)


def tokens_by_position(tokens_M: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Tokens of windows of `tokens_M` tokens in each bin of positions: (M, b)."""
    return np.diff(np.minimum(edges, np.asarray(tokens_M)[:, None]), axis=1)


def batches_of_a_length(
    padded_M: np.ndarray, batch: Callable[[int], int]
) -> Iterator[tuple[np.ndarray, int]]:
    """All rows, the longest first, at most `batch(length)` of one padded length, with it."""
    for length in np.unique(padded_M)[::-1].tolist():
        rows = np.flatnonzero(padded_M == length)
        size = batch(length)
        if size < 1:
            raise UserError(f"batch {size} must be at least 1; with less nothing would be read")
        for start in range(0, len(rows), size):
            yield rows[start : start + size], length


def window_batches(
    windows: EvaluationWindows, batch: int, *, padded: bool = True
) -> Iterator[tuple[np.ndarray, int]]:
    """All windows, at most `batch` at a time: their rows, and the length that all are padded to;
    unless `padded`, all have that length."""
    length_M = _padded_lengths(windows) if padded else windows.length_M
    return batches_of_a_length(length_M, lambda _: batch)


def can_pad(backbone: Backbone, objective: Objective, windows: EvaluationWindows) -> bool:
    """Whether a model gives windows of several lengths, padded to one, the scores of each alone
    (tried out at the sizes in use)."""
    return backbone.takes_padding_to(
        windows.length_M, _padded_lengths(windows), ends=objective.reading.ends
    )


def _padded_lengths(windows: EvaluationWindows) -> np.ndarray:
    multiple = -(-windows.length_M // _PAD_MULTIPLE) * _PAD_MULTIPLE
    return np.minimum(windows.context, multiple)


def evaluate(
    objective: Objective,
    backbone: Backbone,
    windows: EvaluationWindows,
    *,
    batch: int,
    padded: bool = True,
    share: bool = True,
    bar: Bar | None = None,
) -> WindowNats:
    """Scores all windows, `batch` at a time, in evaluation mode and without gradients.

    `bar` counts scored tokens. Unless `padded`, the windows of a batch have one length. Sums are
    float64. Several processes `share` the batches out, and each has all results; a window is in
    the same batch whatever their number.
    """
    edges = position_edges(windows.context)
    nats_Mb = np.zeros((len(windows), len(edges) - 1))
    repeated_M2 = np.zeros((len(windows), 2))  # nats and tokens
    batches = token_nats(
        objective, backbone, windows, batch=batch, padded=padded, share=share, bar=bar
    )
    for rows, ids, nats_BT in batches:
        starts = edges[:-1][edges[:-1] < nats_BT.shape[1]]
        nats_Mb[rows, : len(starts)] = np.add.reduceat(nats_BT, starts, axis=1)
        for row, window, nats_T in zip(rows, ids, nats_BT, strict=True):
            seen_n = repeated(window[reading_order(objective.order, len(window))])
            repeated_M2[row] = nats_T[: len(window)][seen_n].sum(), seen_n.sum()
    if share:
        nats_Mb, repeated_M2 = sum_over_processes(nats_Mb), sum_over_processes(repeated_M2)
    nats_M, repeated_M = repeated_M2.T
    return WindowNats(nats_Mb, windows.length_M.copy(), nats_M, repeated_M.astype(np.int64))


def token_nats(
    objective: Objective,
    backbone: Backbone,
    windows: EvaluationWindows,
    *,
    batch: int,
    padded: bool = True,
    share: bool = True,
    bar: Bar | None = None,
) -> Iterator[tuple[np.ndarray, list[np.ndarray], np.ndarray]]:
    """Batches of windows: their rows (B), their ids, and the nats (B, T) of each token in the order
    of reading, 0 beyond a window. Arguments as of `evaluate`; of several processes that `share`
    the batches out, each has its own ones."""
    with evaluating(backbone.model):
        batches = window_batches(windows, batch, padded=padded)
        for (rows, length), is_mine in shared_out(batches):
            if is_mine or not share:
                ids = [windows.ids(int(row)) for row in rows]
                asked = objective.reading.batch(ids, device=backbone.device, length=length)
                yield rows, ids, objective.score(backbone, asked).double().cpu().numpy()
            if bar:
                bar.advance(float(windows.length_M[rows].sum()))


def batch_tokens(model: nn.Module) -> int:
    """Tokens a pass that keep a processor busy without using much memory. On a CPU, of a large
    model no more than it reads in a few seconds, so that progress is seen."""
    parameters = list(model.parameters())
    if parameters[0].is_cuda:
        return 1 << 16
    return max(1, min(1 << 12, _PRODUCTS // sum(p.numel() for p in parameters)))


def evaluation_batch(context: int, model: nn.Module) -> int:
    """Windows a batch."""
    return max(1, batch_tokens(model) // context)
