"""Windows of a split, and which of them make the batch of a step.

Training windows are contiguous, non-overlapping runs of the split's stream. The batch is a pure
function of (seed, step): index = step * batch + row, epoch = index // N, and the window is a keyed
bijection(seed, epoch) of index mod N. So there is no loader state, and any step can be computed
alone.

Evaluation windows never cross a document: each document is cut into runs of `context` tokens from
its start, the last one shorter. Each window is scored from BOS alone (no context from before it).
They carry their document, the unit of resampling, and their cluster: a section of about 4000
tokens, or the document where it is shorter. Sections are resampled only where documents are few.

Shapes: N training windows, B rows of a batch, n tokens a window (context), M evaluation windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lmlab.data.store import Split
from lmlab.errors import UserError
from lmlab.numerics.random_effects import Clusters

SECTION_TOKENS = 4000
_FEISTEL_ROUNDS = 6
_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def mix(value: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: a bijection of uint64 whose output bits look independent."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def key(*parts: int) -> int:
    """A 63-bit key of integers (seed, step, ...); different tuples give unrelated keys."""
    state = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
    for part in (len(parts), *parts):
        with np.errstate(over="ignore"):
            state = mix(state + np.uint64(part & int(_MASK)) + np.uint64(0x9E3779B97F4A7C15))
    return int(state[0]) >> 1


def row_keys(rows: range, *parts: int) -> np.ndarray:
    """63-bit keys (rows,) int64 of `parts` and each row; different rows give unrelated keys."""
    with np.errstate(over="ignore"):
        steps = np.arange(rows.start, rows.stop, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (mix(mix(np.uint64(key(*parts)) + steps)) >> np.uint64(1)).astype(np.int64)


def keyed_bijection(
    index_B: np.ndarray, size: int | np.ndarray, bijection_key: int | np.ndarray
) -> np.ndarray:
    """Maps indices below `size` one-to-one onto range(size), keyed.

    `size` and `bijection_key` are one for all, or one for each index.

    A Feistel network over the next even number of bits, walked until the value is below `size`
    (at most four times as many values as `size`, so a few rounds on average).
    """
    value_B = np.asarray(index_B, dtype=np.uint64).copy()
    size_B = np.broadcast_to(np.asarray(size, dtype=np.uint64), value_B.shape)
    last_B = np.maximum(size_B, np.uint64(2)) - np.uint64(1)
    assert np.all(size_B > 0)
    assert np.all(last_B < 1 << 53)  # as floats these are exact, and so is their number of bits
    shift_B = ((np.frexp(last_B.astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    mask_B = (np.uint64(1) << shift_B) - np.uint64(1)
    round_R1 = np.arange(_FEISTEL_ROUNDS, dtype=np.uint64)[:, None]
    keys_R = mix(np.asarray(bijection_key, dtype=np.uint64) + round_R1)
    keys_RB = np.broadcast_to(keys_R, (_FEISTEL_ROUNDS, *value_B.shape))
    todo_B = np.ones(value_B.shape, dtype=bool)
    while todo_B.any():
        shift, mask, keys = shift_B[todo_B], mask_B[todo_B], keys_RB[:, todo_B]
        left, right = value_B[todo_B] >> shift, value_B[todo_B] & mask
        for round_key in keys:
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        value_B[todo_B] = (left << shift) | right
        todo_B = value_B >= size_B
    return value_B.astype(np.int64)


def batch_indices(step: int, batch: int, count: int, seed: int) -> np.ndarray:
    """Which (B,) of `count` items make the batch of `step` (from 0); each once an epoch."""
    index_B = step * batch + np.arange(batch)
    epoch_B = index_B // count
    chosen_B = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epoch_B):
        rows = epoch_B == epoch
        chosen_B[rows] = keyed_bijection(index_B[rows] % count, count, key(seed, int(epoch)))
    return chosen_B


class TrainingWindows:
    """The training windows of a split, and the batch of each step."""

    def __init__(self, split: Split, context: int, *, batch: int, seed: int) -> None:
        if context < 1 or batch < 1:
            raise UserError(f"context {context} and batch {batch} must be at least 1")
        self.split, self.context, self.batch, self.seed = split, context, batch, seed
        self.count = split.tokens // context
        if self.count == 0:
            raise UserError(
                f"{split.store.path}: split {split.name} has {split.tokens} tokens, not one window "
                f"of {context}. Use a shorter `context` or more text."
            )

    def indices(self, step: int) -> np.ndarray:
        """Window numbers (B,) of the batch of `step` (counted from 0)."""
        return batch_indices(step, self.batch, self.count, self.seed)

    def start(self, index: int) -> int:
        """Where window `index` begins in the split's stream."""
        return index * self.context

    def ids(self, indices_B: np.ndarray) -> np.ndarray:
        """Ids (B, n) int64 of windows, in reading order."""
        starts = [self.start(int(index)) for index in indices_B]
        return np.stack([self.split.read(start, start + self.context) for start in starts])

    def documents(self, index: int) -> list[str]:
        """Names of the documents that window `index` touches (for messages)."""
        starts_M, start = self.split.documents_M3[:, 0], self.start(index)
        first = int(np.searchsorted(starts_M, start, side="right")) - 1
        last = int(np.searchsorted(starts_M, start + self.context, side="left"))
        return self.split.names[max(first, 0) : last]


@dataclass(frozen=True)
class EvaluationWindows:
    """All evaluation windows of a split."""

    split: Split
    context: int
    start_M: np.ndarray
    length_M: np.ndarray
    clusters: Clusters
    """The cluster of each window, and its document, counted from 0 in the split."""
    cluster_unit: str
    """What a cluster is: "document" or "section of about 4000 tokens"."""

    @property
    def cluster_M(self) -> np.ndarray:
        return self.clusters.cluster_N

    @property
    def document_names(self) -> dict[int, str]:
        """The names of the windows' documents, by their numbers."""
        return {int(d): self.split.names[d] for d in np.unique(self.clusters.document_N)}

    def chosen(self, rows: np.ndarray) -> EvaluationWindows:
        """Some of the windows."""
        return replace(
            self,
            start_M=self.start_M[rows],
            length_M=self.length_M[rows],
            clusters=self.clusters[rows],
        )

    def ids(self, row: int) -> np.ndarray:
        """Ids (length) int64 of one window, in reading order."""
        start = int(self.start_M[row])
        return self.split.read(start, start + int(self.length_M[row]))

    @cached_property
    def text_bytes_M(self) -> np.ndarray | None:
        """UTF-8 bytes of the text of each window; None where the tokenizer does not tell, lost some
        of the text, or makes another number of the first window's document than the store has."""
        bytes_V = self.split.store.tokenizer.bytes_V
        if bytes_V is None or self.split.loss or not len(self):
            return None
        start, tokens, size = self.split.documents_M3[self.clusters.document_N[0]]
        if bytes_V[self.split.read(start, start + tokens)].sum() != size:
            return None
        return np.array([bytes_V[self.ids(row)].sum() for row in range(len(self))], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.start_M)


def repeated(ids_n: np.ndarray) -> np.ndarray:
    """Of each id (n, in reading order) whether it stands earlier in the window, too."""
    _, first, number_n = np.unique(ids_n, return_index=True, return_inverse=True)
    return first[number_n] < np.arange(len(ids_n))


def evaluation_windows(
    split: Split, context: int, *, max_windows: int | None = None, seed: int = 0
) -> EvaluationWindows:
    """The evaluation windows of a split, or a keyed random sample of `max_windows` of them.

    Raises `UserError` for a context or sample below 1.
    """
    if context < 1 or (max_windows is not None and max_windows < 1):
        raise UserError(f"context {context} and number of windows {max_windows} must be at least 1")
    first_M, tokens_M = split.documents_M3[:, 0], split.documents_M3[:, 1]
    per_document_M = -(-tokens_M // context)
    ends_M = np.cumsum(per_document_M)
    count = int(ends_M[-1]) if len(ends_M) else 0
    if max_windows is None or max_windows >= count:
        rows = np.arange(count)
    else:  # of the sample only: a split may have more windows than memory has room for
        rows = np.sort(keyed_bijection(np.arange(max_windows), count, key(seed, 0xE7A1)))
    document = np.searchsorted(ends_M, rows, side="right")
    within = rows - (ends_M - per_document_M)[document]
    start = first_M[document] + within * context
    length = np.minimum(context, tokens_M[document] - within * context)
    # A remainder of less than half a section joins the section before it
    sections_M = np.maximum(1, np.round(tokens_M / SECTION_TOKENS)).astype(np.int64)
    section = np.minimum(within * context // SECTION_TOKENS, sections_M[document] - 1)
    cluster = (np.cumsum(sections_M) - sections_M)[document] + section
    unit = "document" if (sections_M == 1).all() else f"section of about {SECTION_TOKENS} tokens"
    return EvaluationWindows(split, context, start, length, Clusters(cluster, document), unit)


def evaluation_tokens(split: Split, context: int, *, max_windows: int | None = None) -> int:
    """How many tokens the `evaluation_windows` have: what it takes to score a model on them."""
    return int(evaluation_windows(split, context, max_windows=max_windows).length_M.sum())
