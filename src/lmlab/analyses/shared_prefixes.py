"""Sequences that begin alike, read together: what they share goes through the model once.

Sequences are sorted, and neighbours are laid out in one row as a tree: a token stands once for all
that agree up to it, at the position it has in each, and sees only what is before it there (an
attention mask of its own). Where several sequences go on alike, their next token is also scored
once. Of BLiMP's 134,000 sentences this leaves about half of the positions.

Notable: whether a model can be read so is tried out on two short sequences, through the criterion
that scores: some know no mask of this kind (recurrent ones), or number positions their own way.

Shapes: S sequences, B rows, T positions of a row, N scored pairs of a position and a target, K
scored tokens of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lmlab.models.backbone import Backbone
from lmlab.objectives.base import IGNORED, Batch, Criterion

_ROW = 128
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
_TOLERANCE = 1e-4


@dataclass
class Tree:
    """Sequences that share a row: `nodes[i]` are the positions of `sequences[i]`'s inputs."""

    sequences: list[int]
    nodes: list[np.ndarray]
    size: int

    @property
    def branched(self) -> bool:
        return len(self.sequences) > 1


@dataclass(frozen=True)
class Scored:
    """What a batch scores, and which sequence has which of it: (sequence, row of the batch)."""

    batch: Batch
    sequence_K: np.ndarray
    row_K: np.ndarray


def lone_tree(number: int, ids: np.ndarray) -> Tree:
    """A sequence by itself."""
    return Tree([number], [np.arange(len(ids) - 1)], len(ids) - 1)


def trees(ids_S: Sequence[np.ndarray], *, longest: int) -> list[Tree]:
    """Every sequence in one tree, of inputs `ids[:-1]`; alone where nothing is gained.

    A tree has at most 128 positions, or twice its longest sequence where one shares half of itself
    with its neighbour (the choices of a question), and at most `longest`.
    """
    made: list[Tree] = []
    before = np.empty(0, dtype=np.int64)
    for s in sorted(range(len(ids_S)), key=lambda s: ids_S[s].tolist()):
        inputs = ids_S[s][:-1]
        shared = _agreeing(before, inputs)
        room = _ROW
        if 2 * shared >= len(inputs):
            room = max(room, 2 * len(inputs), 2 * len(before))
        if not made or made[-1].size + len(inputs) - shared > min(room, longest):
            made.append(Tree([], [], 0))
            shared = 0
        tree = made[-1]
        path = np.arange(tree.size - shared, tree.size - shared + len(inputs))
        if shared:
            path[:shared] = tree.nodes[-1][:shared]
        tree.sequences.append(s)
        tree.nodes.append(path)
        tree.size += len(inputs) - shared
        before = inputs
    return made


def _agreeing(a: np.ndarray, b: np.ndarray) -> int:
    """How many ids two sequences begin with in common."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def tree_batch(
    chosen: Sequence[Tree],
    ids_S: Sequence[np.ndarray],
    scored_S: Sequence[int],
    *,
    length: int,
    filler: int,
    device: torch.device,
) -> Scored:
    """Trees of at most `length` positions as a batch, rows filled up with the id `filler`."""
    shape = (len(chosen), length)
    inputs, positions = np.full(shape, filler), np.zeros(shape, dtype=np.int64)
    branched = any(tree.branched for tree in chosen)
    sees = np.zeros((*shape, length), dtype=bool) if branched else None
    if sees is not None:
        sees[:, np.arange(length), np.arange(length)] = True  # padding too: it needs some column
    place_K: list[np.ndarray] = []
    target_K: list[np.ndarray] = []
    sequence_K: list[np.ndarray] = []
    for row, tree in enumerate(chosen):
        filled = 0
        for s, path in zip(tree.sequences, tree.nodes, strict=True):
            n, scored = len(path), scored_S[s]
            new = int(np.searchsorted(path, filled))
            inputs[row, path[new:]] = ids_S[s][new:-1]
            if sees is not None:
                positions[row, path[new:]] = np.arange(new, n)
                sees[row, path[new:, None], path] = np.tri(n - new, n, new, dtype=bool)
            filled = max(filled, int(path[-1]) + 1)
            place_K.append(row * length + path[n - scored :])
            target_K.append(ids_S[s][len(ids_S[s]) - scored :])
            sequence_K.append(np.full(scored, s))
    pairs_K2 = np.stack([np.concatenate(place_K), np.concatenate(target_K)], axis=1)
    pairs_N2, row_K = np.unique(pairs_K2, axis=0, return_inverse=True)

    def put(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    places_N, targets_N = put(pairs_N2[:, 0].copy()), put(pairs_N2[:, 1].copy())
    targets_BT = torch.full(shape, IGNORED, device=device)
    if sees is None:  # one target a position, as any criterion takes them
        targets_BT.view(-1)[places_N] = targets_N
        batch = Batch(put(inputs), targets_BT, None, places_N)
    else:
        hidden = np.float32(torch.finfo(torch.float32).min)
        attention = put(np.where(sees, np.float32(0), hidden))[:, None]
        batch = Batch(put(inputs), targets_BT, attention, places_N, put(positions), targets_N)
    return Scored(batch, np.concatenate(sequence_K), row_K.reshape(-1))


def can_read_trees(criterion: Criterion, backbone: Backbone, *, filler: int) -> bool:
    """Whether two sequences get the same scores in one row as each alone."""
    if not backbone.linear or next(backbone.model.parameters()).dtype != torch.float32:
        return False
    # a window of attention counts columns, and the trial is shorter than any window
    if any(getattr(backbone.model.config, name, None) is not None for name in _WINDOWS):
        return False
    a, b = (i % backbone.weight_VD.shape[0] for i in (5, 7))
    ids_S = [np.array([filler, a, b, a, a]), np.array([filler, a, a, b, b])]
    settings = {"length": 8, "filler": filler, "device": backbone.device}
    apart = tree_batch([lone_tree(s, ids_S[s]) for s in range(2)], ids_S, [4, 4], **settings)
    try:
        together = tree_batch(trees(ids_S, longest=8), ids_S, [4, 4], **settings)
        nats_K, other_K = (
            criterion.each(backbone, of.batch)[torch.from_numpy(of.row_K).to(backbone.device)]
            for of in (apart, together)
        )
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    order_K = np.argsort(together.sequence_K, kind="stable")
    return torch.allclose(nats_K, other_K[order_K], rtol=_TOLERANCE, atol=_TOLERANCE)
