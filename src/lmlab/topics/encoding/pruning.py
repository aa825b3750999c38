"""Pruning: remove dimensions of the output embedding, and see what it does to the distribution.

Removing dimension i takes h_i E_wi from every logit. It is left at zero, or its mean over a text is
kept as a constant, folded into a bias: mean(h_i) E_wi.

Ways to choose what goes first:
- encoding: least |A_i| sd(E_i), what the dimension adds to the encoded probability.
- variance: least sd(E_i) over the vocabulary.
- hidden: least mean |h_i|.
- svd: smallest singular values of the embedding (directions, not axes: the best approximation).
- random: a seeded order.

Notable:
- All metrics are against the unpruned model on the same contexts, with intervals over documents of
  text, for this one model.
- "No significant change" is easily had from little text. The stated test is that of
  non-inferiority: a share passes if the upper end of the 95 % interval of the rise in nats per
  token stays below a margin, at this share and all smaller ones. The share up to which no rise is
  significant (the interval reaches down to 0) is given beside it.

Shapes: N contexts, D width, E kept dimensions, V vocabulary, C clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from lmlab.errors import UserError
from lmlab.models.head import editable_head
from lmlab.numerics.bounded import within
from lmlab.numerics.log_sum_exp import log_sum_exp
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.progress import track
from lmlab.topics.encoding.encoding import Encoding
from lmlab.topics.encoding.of_model import Head

Way = Literal["encoding", "variance", "hidden", "svd", "random"]
WAYS: tuple[Way, ...] = get_args(Way)
Replacement = Literal["zero", "mean"]
Array = NDArray[np.float64]

_CHUNK_LOGITS = 1 << 21
_SEED = 0


@dataclass(frozen=True)
class Order:
    """Directions of the states in the order of their removal."""

    way: Way
    basis_DD: Array
    """Orthonormal directions as columns, the first goes first; axes except for svd."""
    axes_D: NDArray[np.int64] | None
    """Numbers of the axes in that order; None for svd."""


@dataclass(frozen=True)
class Removal:
    """What goes from a head, and what stays in its place."""

    order: Order
    removed: int
    replace: Replacement


@dataclass(frozen=True)
class NarrowWeights:
    """A head without some directions: logits = (h basis) weight' + bias."""

    removed: int
    kept_E: NDArray[np.int64] | None
    basis_DE: Array
    weight_VE: Array
    bias_V: Array

    @property
    def weight_VD(self) -> Array:
        """The same head on all dimensions."""
        if self.kept_E is None:
            return self.weight_VE @ self.basis_DE.T
        weight_VD = np.zeros((len(self.weight_VE), len(self.basis_DE)))
        weight_VD[:, self.kept_E] = self.weight_VE
        return weight_VD


def removal_order(way: Way, encoding: Encoding, embedding_VD: Array, hidden_ND: Array) -> Order:
    """Which directions go first. `UserError` for an unknown way."""
    text_ND = embedding_VD[encoding.tokens]
    width = embedding_VD.shape[1]
    if way == "svd":
        return singular_order(embedding_VD)
    if way == "random":
        axes = np.random.default_rng(_SEED).permutation(width)
    else:
        key = {
            "encoding": lambda: np.abs(encoding.slope_D) * text_ND.std(0),
            "variance": lambda: text_ND.std(0),
            "hidden": lambda: np.abs(hidden_ND).mean(0),
        }.get(way)
        if key is None:
            raise UserError(f"unknown way {way!r}; there are {', '.join(WAYS)}")
        axes = np.argsort(key(), kind="stable")
    return axes_order(way, axes)


def axes_order(way: Way, axes_D: NDArray[np.int64]) -> Order:
    """The order that takes these axes, the first first."""
    return Order(way, np.eye(len(axes_D))[:, axes_D], axes_D)


def singular_order(embedding_VD: Array) -> Order:
    """The singular directions of an embedding, that of the smallest value first."""
    return Order("svd", np.linalg.eigh(embedding_VD.T @ embedding_VD)[1], None)


def narrowed(removal: Removal, head: Head, mean_hidden_D: Array) -> NarrowWeights:
    """The head without the first directions of an order."""
    order, removed = removal.order, removal.removed
    kept_DE = order.basis_DD[:, removed:]
    bias_V = _constant(removal, head, mean_hidden_D)
    if order.axes_D is None:
        return NarrowWeights(removed, None, kept_DE, head.embedding_VD @ kept_DE, bias_V)
    axes = np.sort(order.axes_D[removed:])
    basis_DE = np.eye(len(order.axes_D))[:, axes]
    return NarrowWeights(removed, axes, basis_DE, head.embedding_VD[:, axes], bias_V)


def _constant(removal: Removal, head: Head, mean_hidden_D: Array) -> Array:
    """The bias (V,) of the narrow head: its own, and the mean of what was removed."""
    bias_V = head.bias_V.copy()
    if removal.replace == "mean":
        gone_DR = removal.order.basis_DD[:, : removal.removed]
        bias_V += head.embedding_VD @ (gone_DR @ (gone_DR.T @ mean_hidden_D))
    return bias_V


@dataclass(frozen=True)
class Point:
    """Metrics of one head against the unpruned one."""

    way: Way
    replace: Replacement
    share: float
    """Of the dimensions, removed."""
    removed: int
    kl: Interval
    """Mean KL(unpruned || pruned), nats."""
    js: Interval
    nats: Interval
    """Rise of the nats per token; perplexity rises by its exponential."""
    same_best: Interval
    """Share of contexts with the same likeliest token."""
    same_generation: Interval | None = None
    """Share of greedily generated tokens that agree, over prompts; None where not generated."""


@torch.no_grad()
def compare_heads(
    hidden_ND: Array,
    targets_N: NDArray[np.int64],
    clusters: Clusters,
    head: Head,
    removals: Sequence[Removal],
    mean_hidden_D: Array,
) -> list[Point]:
    """Every removal against the unpruned head, on the same contexts; float32 logits.

    No narrowed head is made: its logits are those of the whole head at states without the removed
    directions, so that what is held does not grow with the number of removals but for their biases.
    Removals of one way must have one order.
    """
    weight = torch.from_numpy(head.embedding_VD).float()
    bias = torch.from_numpy(head.bias_V).float()
    bases = {each.order.way: torch.from_numpy(each.order.basis_DD).float() for each in removals}
    biases = [torch.from_numpy(_constant(each, head, mean_hidden_D)).float() for each in removals]
    # replacements of one removal differ in the bias alone
    products: dict[tuple[Way, int], list[int]] = {}
    for number, each in enumerate(removals):
        products.setdefault((each.order.way, each.removed), []).append(number)
    states = torch.from_numpy(hidden_ND).float()
    targets = torch.from_numpy(targets_N)
    metrics_HN4 = np.empty((len(removals), len(states), 4))
    rows = max(1, _CHUNK_LOGITS // len(weight))
    with track("pruned heads", float(len(states)), "positions") as bar:
        for start in range(0, len(states), rows):
            part, wanted = states[start : start + rows], targets[start : start + rows, None]
            log_p = _log_softmax(part @ weight.T + bias)
            p, best = log_p.exp(), log_p.argmax(1)
            own = _row_products(p, log_p)
            for (way, removed), numbers in products.items():
                turned = part @ bases[way]
                turned[:, :removed] = 0
                logits = (turned @ bases[way].T) @ weight.T
                for number in numbers:
                    log_q = _log_softmax(logits + biases[number])
                    q = log_q.exp()
                    m = (p + q).mul_(0.5)
                    # as differences of entropies: fewer passes over all logits
                    mixed = _row_products(m, m.clamp_min(1e-30).log_())
                    columns = torch.stack(
                        (
                            own - _row_products(p, log_q),
                            0.5 * (own + _row_products(q, log_q)) - mixed,
                            (log_p.gather(1, wanted) - log_q.gather(1, wanted))[:, 0],
                            (log_q.argmax(1) == best).float(),
                        ),
                        dim=1,
                    )
                    metrics_HN4[number, start : start + len(part)] = columns.numpy()
            bar.advance(float(len(part)))
    ones_N = np.ones(len(states))
    width = head.embedding_VD.shape[1]
    means_H4 = [[clusters.ratio(of_N, ones_N) for of_N in of_N4.T] for of_N4 in metrics_HN4]
    return [
        Point(
            way=removal.order.way,
            replace=removal.replace,
            share=removal.removed / width,
            removed=removal.removed,
            kl=within(kl, 0, math.inf),
            js=within(js, 0, math.log(2)),
            nats=nats,
            same_best=within(same_best, 0, 1),
        )
        for removal, (kl, js, nats, same_best) in zip(removals, means_H4, strict=True)
    ]


def _log_softmax(logits_NV: torch.Tensor) -> torch.Tensor:
    return logits_NV - log_sum_exp(logits_NV)[:, None].float()


def _row_products(a_NV: torch.Tensor, b_NV: torch.Tensor) -> torch.Tensor:
    """Sum of products within each row (N,)."""
    return torch.bmm(a_NV[:, None], b_NV[:, :, None])[:, 0, 0]


@dataclass(frozen=True)
class Prunable:
    """The largest shares of the grid that pass a test, at the share and all smaller ones."""

    way: Way
    replace: Replacement
    margin: float
    """Nats per token."""
    within_margin: float
    """Upper end of the 95 % interval of the rise below the margin."""
    not_significant: float
    """The interval reaches down to 0."""


def prunable(points: Sequence[Point], *, margin: float) -> list[Prunable]:
    """One for each way and replacement among the points."""
    by_kind: dict[tuple[Way, Replacement], list[Point]] = {}
    for point in sorted(points, key=lambda point: point.share):
        by_kind.setdefault((point.way, point.replace), []).append(point)
    return [
        Prunable(
            *kind,
            margin=margin,
            within_margin=_largest(of_kind, lambda bounds: bounds[1] <= margin),
            not_significant=_largest(of_kind, lambda bounds: bounds[0] <= 0),
        )
        for kind, of_kind in by_kind.items()
    ]


def _largest(points: Sequence[Point], passes: Callable[[tuple[float, float]], bool]) -> float:
    """The share up to which all points have a rise whose bounds pass; 0 if the first has none."""
    passed = takewhile(lambda p: p.nats.bounds is not None and passes(p.nats.bounds), points)
    return max((point.share for point in passed), default=0.0)


@contextmanager
def pruned(model: Any, weights: NarrowWeights) -> Iterator[None]:
    """The model with directions of its head removed in memory; undone on leaving, to the bit."""
    with editable_head(model, "weight", "bias") as head:
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weights.weight_VD))
            head.bias.copy_(torch.from_numpy(weights.bias_V))
        yield
