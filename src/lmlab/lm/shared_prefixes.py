"""Sequences that begin alike, read together: what they share goes through the model once.

Sequences are sorted, and neighbours are laid out in one row as a tree: a token stands once for all
that agree up to it, at the position it has in each, and sees only what is before it there (an
attention mask of its own). Where several sequences go on alike, their next token is also scored
once. Of BLiMP's 134,000 sentences this leaves about half of the positions.

Notable: whether a model can be read so is proved at the sizes in use, through the criterion that
scores. Some know no mask of this kind (recurrent ones), number positions their own way, or attend
within a window, which a mask of ours would override.

Shapes: S sequences, B rows, T positions of a row, N scored pairs of a position and a target, K
scored tokens of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lmlab.models.backbone import Backbone
from lmlab.models.behaviour import probe_ids
from lmlab.objectives.base import IGNORED, Batch, Criterion

_ROW = 128
_BRANCH = 4
_MEAN_APART, _MOST_APART = 1e-5, 1e-3
"""Nats a token by which a score in a tree may differ from the score alone: rounding."""


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
    rows: list[Tree] = []
    before = np.empty(0, dtype=np.int64)
    for s in sorted(range(len(ids_S)), key=lambda s: ids_S[s].tolist()):
        inputs = ids_S[s][:-1]
        shared = _agreeing(before, inputs)
        room = _ROW
        if 2 * shared >= len(inputs):
            room = max(room, 2 * len(inputs), 2 * len(before))
        if not rows or rows[-1].size + len(inputs) - shared > min(room, longest):
            rows.append(Tree([], [], 0))
            shared = 0
        tree = rows[-1]
        path = np.arange(tree.size - shared, tree.size - shared + len(inputs))
        if shared:
            path[:shared] = tree.nodes[-1][:shared]
        tree.sequences.append(s)
        tree.nodes.append(path)
        tree.size += len(inputs) - shared
        before = inputs
    return rows


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
    """Trees of at most `length` positions as a batch, rows filled up with the id `filler`.

    Behind a sequence by itself stands its last token, where there is room: it is only predicted,
    but there are models that choose what they attend to by the length of the text.
    """
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
        if not tree.branched and tree.size < length:
            inputs[row, tree.size] = ids_S[tree.sequences[0]][-1]
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


def can_read_trees(
    criterion: Criterion, backbone: Backbone, rows: Sequence[Tree], *, filler: int, most: int
) -> bool:
    """Whether trees like these give the scores of each sequence alone: proved on a text of random
    ids, with a tree as large as the largest (at most `most` positions) and sequences as long as the
    longest.

    Some models know no mask of this kind, or count columns instead of positions. A window of
    attention that the mask overrides shows as soon as a sequence is longer than the window.
    """
    branched = [tree for tree in rows if tree.branched]
    if not branched:
        return True
    if most < 2 + _BRANCH:
        return False
    if not (backbone.linear and backbone.takes_padding):
        return False
    if next(backbone.model.parameters()).dtype != torch.float32:
        return False
    size = max(tree.size for tree in branched)
    longest = max(len(path) for tree in branched for path in tree.nodes)
    # some of the others may branch where the largest goes straight on
    size = min(max(size, longest + _BRANCH), most)
    tree, ids_S = _trial(backbone, filler, longest=max(2, min(longest, size - _BRANCH)), size=size)
    try:
        together = _nats(criterion, backbone, [tree], ids_S, filler)
        alone = [
            _nats(criterion, backbone, [lone_tree(s, ids_S[s])], ids_S, filler)
            for s in tree.sequences
        ]
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
            TypeError, ValueError):  # fmt: skip
        return False
    apart_K = np.abs(together - np.concatenate(alone))
    return bool(apart_K.mean() <= _MEAN_APART and apart_K.max() <= _MOST_APART)


def _trial(
    backbone: Backbone, filler: int, *, longest: int, size: int
) -> tuple[Tree, list[np.ndarray]]:
    """A tree of `size` positions with a sequence of `longest` inputs: others leave it after a
    quarter, as far as the columns reach, and the last is short and far from what it shares."""
    ids = probe_ids(backbone.model, size + 2).cpu().numpy()
    first = np.concatenate([[filler], ids[: longest - 1]])
    inputs, nodes = [first], [np.arange(longest)]
    filled, shared = longest, max(1, longest // 4)
    last = min(3, longest - 1, (size - longest) // 2)
    while filled < size:
        room = size - last - filled
        kept, new = (shared, min(room, longest - shared)) if room else (1, last)
        inputs.append(np.concatenate([first[:kept], ids[filled : filled + new]]))
        nodes.append(np.concatenate([np.arange(kept), np.arange(filled, filled + new)]))
        filled += new
    target = ids[-1:]
    return (
        Tree(list(range(len(inputs))), nodes, size),
        [np.concatenate([each, target]) for each in inputs],
    )


def _nats(
    criterion: Criterion,
    backbone: Backbone,
    chosen: Sequence[Tree],
    ids_S: Sequence[np.ndarray],
    filler: int,
) -> np.ndarray:
    """Nats of all tokens of the trees' sequences (K), in their order."""
    scored = tree_batch(
        chosen, ids_S, [len(ids) - 1 for ids in ids_S],
        length=max(tree.size for tree in chosen), filler=filler, device=backbone.device,
    )  # fmt: skip
    nats_N = criterion.each(backbone, scored.batch).double().cpu().numpy()
    return nats_N[scored.row_K]
