"""N-gram baselines: what counting alone says about the arrow of time.

An n-gram model is fitted exactly, from one table for both directions, so its arrow owes nothing to
optimisation, architecture or seeds: only to the text and to the prior.

    p(x | c) = (count(c x) + s q(x)) / (count(c) + s)

with the strength s in pseudo-counts and the prior's mean q:

- "uniform": q = 1 / V, which is additive smoothing by s / V.
- "lower order": q(x) = p(x | c'), where c' is c without the token farthest from x, and 1 / V below
  the unigram (MacKay and Peto, "A hierarchical Dirichlet language model", 1995; here with one s for
  every order).

Backward, c is the tokens after x and its k-grams are read in text order: count(x c).

Notable:
- The stream is counted as a ring. So every k-gram has as many tokens before it as after it, and
  count(c) normalises both directions.
- Additive smoothing has no arrow on a ring (see `NGram.score_ring`), and on a window only what its
  two ends leave. The arrow of "lower order" is not zero by construction.
- Counting needs three to four int64 arrays of the stream's size at its peak (2.4 GB measured for
  100M tokens), and keeps two int64 for each distinct k-gram.

Legend: N tokens of a fitted stream, T tokens scored, M windows, K = order + 1, U distinct k-grams,
V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.analyses.arrow import Arrow, arrow_of_time
from lmlab.data.store import TokenStore
from lmlab.data.windows import EvaluationWindows, evaluation_windows
from lmlab.errors import UserError
from lmlab.numerics.random_effects import Clusters

Direction = Literal["forward", "backward"]
Prior = Literal["uniform", "lower order"]

STRENGTHS = tuple(2.0**power for power in range(-3, 19))
"""What `ngram_baseline` chooses from. The loss is flat near its least, so steps of 2 suffice."""
VALIDATION_TOKENS = 1 << 19
"""About as many tokens of validation text choose the strength."""


class NGramCounts:
    """The k-grams of a ring of tokens, for every k up to `order`.

    Args:
        ids_N: the stream; its last token is followed by its first.
        vocabulary: V; ids are below it.
        order: n, the longest k-gram; contexts have n - 1 tokens.

    Raises `UserError` for an empty stream, ids outside the vocabulary, or a k-gram too long to be
    the digits (base V) of an int64 key.
    """

    def __init__(self, ids_N: ArrayLike, *, vocabulary: int, order: int) -> None:
        if order < 1 or vocabulary < 1:
            raise UserError(f"order {order} and vocabulary {vocabulary} must be at least 1")
        if vocabulary**order >= 2**63:
            most = next(k for k in range(order, 0, -1) if vocabulary**k < 2**63)
            raise UserError(
                f"order {order}: {vocabulary} tokens to the power {order} do not fit 64-bit keys; "
                f"with this vocabulary the order is at most {most}"
            )
        self.vocabulary, self.order = vocabulary, order
        ids = self._checked(ids_N)
        self.tokens = len(ids)
        self._tables = [_counted(_keys(ids, k, vocabulary)) for k in range(1, order + 1)]

    def look_up(self, ids_T: ArrayLike) -> NDArray[np.int64]:
        """Counts (K, T) in the fitted ring: row k, column t is the k-gram that begins at token t.

        `ids_T` too is read as a ring. Row 0 counts the empty k-gram: the fitted tokens.
        """
        ids = self._checked(ids_T)
        counts_KT = np.zeros((self.order + 1, len(ids)), dtype=np.int64)
        counts_KT[0] = self.tokens
        for k, (keys_U, counts_U) in enumerate(self._tables, start=1):
            # Neighbouring searches share cache lines only if the keys are sorted
            wanted, index_T = np.unique(_keys(ids, k, self.vocabulary), return_inverse=True)
            place = np.minimum(np.searchsorted(keys_U, wanted), len(keys_U) - 1)
            found = np.where(keys_U[place] == wanted, counts_U[place], 0)
            counts_KT[k] = found[index_T]
        return counts_KT

    def _checked(self, ids: ArrayLike) -> NDArray[np.int64]:
        ids_T = np.asarray(ids)
        if ids_T.ndim != 1 or ids_T.size == 0 or ids_T.dtype.kind not in "iu":
            raise UserError(
                f"token ids have shape {ids_T.shape} and type {ids_T.dtype}; pass at least one "
                "integer, in one dimension"
            )
        low, high = int(ids_T.min()), int(ids_T.max())
        if low < 0 or high >= self.vocabulary:
            raise UserError(
                f"token id {low if low < 0 else high} is outside the vocabulary of "
                f"{self.vocabulary}; count and score with the same tokenizer"
            )
        return ids_T.astype(np.int64, copy=False)


def _keys(ids_T: NDArray[np.int64], k: int, vocabulary: int) -> NDArray[np.int64]:
    """The k-gram that begins at each token of a ring, its ids as digits of one number."""
    keys_T = ids_T.copy()
    for shift in range(1, k):
        keys_T *= vocabulary
        keys_T += np.roll(ids_T, -shift)
    return keys_T


def _counted(keys_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct keys in order, and how often each occurs. Sorts in place, to save a copy."""
    keys_N.sort()
    first_U = np.flatnonzero(np.concatenate([[True], keys_N[1:] != keys_N[:-1]]))
    return keys_N[first_U], np.diff(first_U, append=len(keys_N))


@dataclass(frozen=True)
class NGram:
    """An n-gram model that predicts in either direction.

    Attributes:
        counts: the fitted text; its order is the model's.
        strength: s, the pseudo-counts that the prior weighs in every context.
        prior: where they go, "uniform" or "lower order".

    Raises `UserError` for an unknown prior or a strength that is not positive and finite.
    """

    counts: NGramCounts
    strength: float
    prior: Prior

    def __post_init__(self) -> None:
        if not 0 < self.strength < math.inf:
            raise UserError(
                f"strength is {self.strength}; it must be positive and finite, or k-grams that "
                "were never seen would cost infinitely many nats"
            )
        if self.prior not in get_args(Prior):
            raise UserError(f"prior is {self.prior!r}; choose 'uniform' or 'lower order'")

    def score(
        self, ids_T: ArrayLike, length_M: ArrayLike, direction: Direction = "forward"
    ) -> NDArray[np.float64]:
        """Nats of each token (T) of windows, in the positions of the text as given.

        A window starts cold: its first token (backward: its last) is predicted from no context,
        the next from one token, and so on up to n - 1. No window sees another.

        Args:
            ids_T: the windows, one after the other.
            length_M: tokens of each, at least 1.
            direction: "backward" predicts each token from those after it.
        """
        counts_KT = self.counts.look_up(ids_T)
        return self._nats(counts_KT, _room(length_M, counts_KT.shape[1], direction), direction)

    def score_ring(self, ids_T: ArrayLike, direction: Direction = "forward") -> NDArray[np.float64]:
        """Nats of each token (T) of a ring, each from n - 1 tokens of context.

        With the "uniform" prior the two directions have equal sums, on any ring. Forward, a token
        costs log(count(c) + s) - log(count(c x) + s / V), where c x is the n-gram that ends at it;
        backward, x c is the n-gram that begins at it. Round a ring, the n-grams that end at its
        tokens and those that begin at them are one multiset, and so are their contexts, the ring's
        (n - 1)-grams. Both sums therefore add the same terms in another order. With "lower order"
        the prior's share of an n-gram depends on which end is predicted, and the sums may differ.
        """
        counts_KT = self.counts.look_up(ids_T)
        room_T = np.full(counts_KT.shape[1], self.counts.order - 1)
        return self._nats(counts_KT, room_T, _check_direction(direction))

    def _nats(
        self, counts_KT: NDArray[np.int64], room_T: NDArray[np.int64], direction: Direction
    ) -> NDArray[np.float64]:
        """Nats of each token from at most `room_T` tokens of context."""
        uniform = 1 / self.counts.vocabulary
        p_T = np.full(len(room_T), uniform)
        for context, (fewer_T, more_T) in enumerate(pairwise(counts_KT)):
            if direction == "forward":
                # Rows are by first token; both the context and the k-gram begin `context` before
                whole_T, given_T = np.roll(more_T, context), np.roll(fewer_T, context)
            else:
                whole_T, given_T = more_T, np.roll(fewer_T, -1)
            mean_T = p_T if self.prior == "lower order" else uniform
            made_T = (whole_T + self.strength * mean_T) / (given_T + self.strength)
            p_T = np.where(room_T >= context, made_T, p_T)
        return -np.log(p_T)


def _check_direction(direction: Direction) -> Direction:
    if direction not in get_args(Direction):
        raise UserError(f"direction is {direction!r}; choose 'forward' or 'backward'")
    return direction


def _room(length_M: ArrayLike, tokens: int, direction: Direction) -> NDArray[np.int64]:
    """How many tokens of its own window each token has before it (backward: after it)."""
    _check_direction(direction)
    lengths = np.asarray(length_M)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 1).any():
        raise UserError("length_M must hold integers in one dimension, each at least 1")
    if lengths.sum() != tokens:
        raise UserError(
            f"the lengths of {len(lengths)} windows add up to {lengths.sum()}, but there are "
            f"{tokens} token ids; pass the windows one after the other"
        )
    before_T = np.arange(tokens) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if direction == "forward":
        return before_T
    return np.repeat(lengths, lengths) - 1 - before_T


@dataclass(frozen=True)
class NGramBaseline:
    """An n-gram model's nats on the windows that models are scored on, in both directions."""

    split: str
    context: int
    order: int
    prior: Prior
    strength: float
    fitted_tokens: int
    cluster_unit: str
    nats_forward_M: np.ndarray
    nats_backward_M: np.ndarray
    tokens_M: np.ndarray
    clusters: Clusters

    @property
    def nats_per_token_forward(self) -> float:
        return float(self.nats_forward_M.sum() / self.tokens_M.sum())

    @property
    def nats_per_token_backward(self) -> float:
        return float(self.nats_backward_M.sum() / self.tokens_M.sum())

    @property
    def arrow(self) -> Arrow:
        """Its arrow of time. The interval is over text only: there are no seeds."""
        return arrow_of_time(
            self.nats_forward_M,
            self.nats_backward_M,
            self.clusters.cluster_N,
            self.clusters.document_N,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; per-window arrays are left out."""
        return {
            "split": self.split,
            "context": self.context,
            "order": self.order,
            "prior": self.prior,
            "strength": self.strength,
            "fitted_tokens": self.fitted_tokens,
            "nats_per_token_forward": self.nats_per_token_forward,
            "nats_per_token_backward": self.nats_per_token_backward,
            "tokens": int(self.tokens_M.sum()),
            "cluster": self.cluster_unit,
            "arrow": self.arrow.to_json(),
        }


def ngram_baseline(
    store: TokenStore,
    *,
    split: str,
    context: int,
    order: int,
    prior: Prior = "lower order",
    max_windows: int | None = None,
) -> NGramBaseline:
    """Fits n-grams to a store's train split and scores the evaluation windows of `split`.

    The train split is counted as one ring, end-of-text tokens included. One strength serves both
    directions, the one of `STRENGTHS` with the least sum of both losses on a fixed sample of
    validation windows, so that neither direction is favoured. Where `split` is "validation", the
    strength was chosen on text that is scored here.

    `context` is the window in tokens and `max_windows` a fixed random sample of windows, as in
    `analyses.score`.

    Raises `UserError` if a split is missing or empty, or the order too high for the vocabulary.
    """
    train = store.split("train")
    if train.tokens == 0:
        raise UserError(f"{store.path}: split train has no tokens to fit n-grams to")
    windows = _filled(evaluation_windows(store.split(split), context, max_windows=max_windows))
    sample = _filled(
        evaluation_windows(
            store.split("validation"), context, max_windows=max(1, VALIDATION_TOKENS // context)
        )
    )
    counts = NGramCounts(train.read(0, train.tokens), vocabulary=store.vocabulary, order=order)
    model = _best(counts, prior, sample)
    ids_T = _ids(windows)
    start_M = np.cumsum(windows.length_M) - windows.length_M
    forward_M, backward_M = (
        np.add.reduceat(model.score(ids_T, windows.length_M, direction), start_M)
        for direction in get_args(Direction)
    )
    return NGramBaseline(
        split=split,
        context=context,
        order=order,
        prior=prior,
        strength=model.strength,
        fitted_tokens=counts.tokens,
        cluster_unit=windows.cluster_unit,
        nats_forward_M=forward_M,
        nats_backward_M=backward_M,
        tokens_M=windows.length_M,
        clusters=windows.clusters,
    )


def _best(counts: NGramCounts, prior: Prior, sample: EvaluationWindows) -> NGram:
    """The model with the least loss on a sample, both directions added up."""
    # Counts do not depend on the strength, so they are looked up once for all
    counts_KT = counts.look_up(_ids(sample))
    tokens = counts_KT.shape[1]
    rooms = {d: _room(sample.length_M, tokens, d) for d in get_args(Direction)}

    def loss(model: NGram) -> float:
        return sum(float(model._nats(counts_KT, room_T, d).sum()) for d, room_T in rooms.items())

    return min((NGram(counts, strength, prior) for strength in STRENGTHS), key=loss)


def _ids(windows: EvaluationWindows) -> NDArray[np.int64]:
    return np.concatenate([windows.ids(row) for row in range(len(windows))])


def _filled(windows: EvaluationWindows) -> EvaluationWindows:
    if len(windows) == 0:
        raise UserError(
            f"{windows.split.store.path}: split {windows.split.name} has no documents; n-grams "
            "need validation text to choose their strength, and text to be scored on"
        )
    return windows
