"""Pruning: remove dimensions of the output embedding, and see what it does to the distribution.

Removing dimension i takes h_i E_wi from every logit. It is left at zero, or its mean over a text is
kept as a constant, folded into a bias: mean(h_i) E_wi.

Ways to choose what goes first:
- encoding: least |A_i| sd(E_i), what the dimension adds to the encoded probability.
- variance: least sd(E_i) over the vocabulary.
- hidden: least mean |h_i|.
- svd: smallest singular values of the embedding (directions, not axes: the best approximation).
- fisher: directions that change the predicted distributions of the estimation text least, to second
  order (`lmlab.numerics.text_directions`): the baseline that knows a text.
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
from lmlab.numerics.text_directions import least_first, mean_fisher
from lmlab.progress import track
from lmlab.topics.encoding.encoding import Encoding
from lmlab.topics.encoding.of_model import Head

Way = Literal["encoding", "variance", "hidden", "svd", "fisher", "random"]
WAYS: tuple[Way, ...] = get_args(Way)
DIRECTIONS: tuple[Way, ...] = ("svd", "fisher")
"""Ways that remove directions, and not axes."""
Replacement = Literal["zero", "mean"]
Array = NDArray[np.float64]

_CHUNK_LOGITS, _CACHED_LOGITS = 1 << 22, 1 << 18
_SEED = 0


@dataclass(frozen=True)
class Order:
    """Directions of the states in the order of their removal."""

    way: Way
    basis_DD: Array
    """Directions along which a state is measured, as columns; the first goes first."""
    axes_D: NDArray[np.int64] | None
    """Numbers of the axes in that order; None where directions are no axes."""
    back_DD: Array
    """Directions along which it is written back: the same where they are orthonormal."""


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
    """Along which a state is measured."""
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


def removal_order(way: Way, encoding: Encoding, head: Head, hidden_ND: Array) -> Order:
    """Which directions go first, by a head and the states of a text. `UserError` for an unknown
    way."""
    embedding_VD = head.embedding_VD
    text_ND = embedding_VD[encoding.tokens]
    width = embedding_VD.shape[1]
    if way == "svd":
        return singular_order(embedding_VD)
    if way == "fisher":
        metric_DD = mean_fisher(embedding_VD, head.bias_V, hidden_ND)
        covariance_DD = np.cov(hidden_ND, rowvar=False, bias=True)
        basis_DD, back_DD = least_first(metric_DD, covariance_DD)
        return Order(way, basis_DD, None, back_DD)
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
    basis_DD = np.eye(len(axes_D))[:, axes_D]
    return Order(way, basis_DD, axes_D, basis_DD)


def singular_order(embedding_VD: Array) -> Order:
    """The singular directions of an embedding, that of the smallest value first."""
    basis_DD = np.linalg.eigh(embedding_VD.T @ embedding_VD)[1]
    return Order("svd", basis_DD, None, basis_DD)


def narrowed(removal: Removal, head: Head, mean_hidden_D: Array) -> NarrowWeights:
    """The head without the first directions of an order."""
    order, removed = removal.order, removal.removed
    bias_V = _constant(removal, head, mean_hidden_D)
    if order.axes_D is None:
        weight_VE = head.embedding_VD @ order.back_DD[:, removed:]
        return NarrowWeights(removed, None, order.basis_DD[:, removed:], weight_VE, bias_V)
    axes = np.sort(order.axes_D[removed:])
    basis_DE = np.eye(len(order.axes_D))[:, axes]
    return NarrowWeights(removed, axes, basis_DE, head.embedding_VD[:, axes], bias_V)


def _constant(removal: Removal, head: Head, mean_hidden_D: Array) -> Array:
    """The bias (V,) of the narrow head: its own, and the mean of what was removed."""
    bias_V = head.bias_V.copy()
    if removal.replace == "mean":
        gone = slice(removal.removed)
        basis_DR, back_DR = removal.order.basis_DD[:, gone], removal.order.back_DD[:, gone]
        bias_V += head.embedding_VD @ (back_DR @ (basis_DR.T @ mean_hidden_D))
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


def compare_heads(
    hidden_ND: Array,
    targets_N: NDArray[np.int64],
    clusters: Clusters,
    head: Head,
    removals: Sequence[Removal],
    mean_hidden_D: Array,
) -> list[Point]:
    """Every removal against the unpruned head, on the same contexts (`metrics_of_heads`)."""
    metrics_HN4 = metrics_of_heads(hidden_ND, targets_N, head, removals, mean_hidden_D)
    ones_N = np.ones(len(hidden_ND))
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


@torch.no_grad()
def metrics_of_heads(
    hidden_ND: Array,
    targets_N: NDArray[np.int64],
    head: Head,
    removals: Sequence[Removal],
    mean_hidden_D: Array,
) -> Array:
    """Every removal against the unpruned head at each context, (H, N, 4): KL(unpruned || pruned)
    and JS in nats, the rise of the target's nats, and 1 where the likeliest token is the same;
    float32 logits.

    No narrowed head is made. What one removal of a way keeps, the next smaller one keeps as well.
    So the logits of all are had from the largest removal to the smallest, each by the product of
    the directions that come back: together one product with the embedding a way. Removals of one
    way must have one order.
    """
    weight_VD = torch.from_numpy(head.embedding_VD).float()
    bias_V = torch.from_numpy(head.bias_V).float()
    biases = [torch.from_numpy(_constant(each, head, mean_hidden_D)).float() for each in removals]
    orders = {each.order.way: each.order for each in removals}
    nested = {way: _nested(order, removals) for way, order in orders.items()}
    weight_DV = weight_VD.T.contiguous()
    turned = {way: _turned(order, weight_DV) for way, order in orders.items()}
    states = torch.from_numpy(hidden_ND).float()
    targets = torch.from_numpy(targets_N)
    metrics_HN4 = np.empty((len(removals), len(states), 4))
    rows = max(1, _CHUNK_LOGITS // len(weight_VD))
    with track("pruned heads", float(len(states)), "positions") as bar:
        for start in range(0, len(states), rows):
            part_RD = states[start : start + rows]
            whole = _Whole(part_RD @ weight_DV + bias_V, targets[start : start + rows])
            for way, (basis_DD, along_DV) in turned.items():
                part = part_RD @ basis_DD
                logits_RV, kept_from = torch.zeros_like(whole.p_RV), part_RD.shape[1]
                for removed, numbers in nested[way]:
                    block = slice(removed, kept_from)
                    logits_RV.addmm_(part[:, block], along_DV[block])
                    kept_from = removed
                    for number in numbers:
                        here = metrics_HN4[number, start : start + len(part)]
                        here[:] = whole.against(logits_RV, biases[number])
            bar.advance(float(len(part_RD)))
    return metrics_HN4


def _nested(order: Order, removals: Sequence[Removal]) -> list[tuple[int, list[int]]]:
    """How many directions go, the most first, and the numbers of the removals that remove so many;
    they differ in their biases."""
    by_removed: dict[int, list[int]] = {}
    for number, each in enumerate(removals):
        if each.order.way == order.way:
            by_removed.setdefault(each.removed, []).append(number)
    return sorted(by_removed.items(), reverse=True)


def _turned(order: Order, weight_DV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The directions (D, D), and the embedding along each as a row (D, V)."""
    basis_DD = torch.from_numpy(order.basis_DD).float()
    if order.axes_D is None:
        return basis_DD, torch.from_numpy(order.back_DD).float().T @ weight_DV
    return basis_DD, weight_DV[torch.from_numpy(order.axes_D)]


class _Whole:
    """The unpruned head at R contexts, with which pruned ones are compared.

    A few rows at a time, so that what is computed of them stays in the processor's cache.
    """

    def __init__(self, logits_RV: torch.Tensor, targets_R: torch.Tensor) -> None:
        log_z_R = log_sum_exp(logits_RV)
        self.targets_R1 = targets_R[:, None]
        self.best_R1 = logits_RV.argmax(1, keepdim=True)
        self.target_nats_R = log_z_R - logits_RV.gather(1, self.targets_R1)[:, 0]
        log_p_RV = logits_RV - log_z_R[:, None].float()
        self.p_RV = log_p_RV.exp()
        self.negative_entropy_R = torch.linalg.vecdot(self.p_RV, log_p_RV)

    def against(self, logits_RV: torch.Tensor, bias_V: torch.Tensor) -> Array:
        """KL and JS (nats), rise of the target's nats, and whether the likeliest token is the same:
        (R, 4), of a head with these logits before its bias.

        With q = exp(l) / Z: KL = log Z - p . l - H(p), and JS is a difference of entropies.
        """
        result_R4 = torch.empty(len(logits_RV), 4, dtype=torch.float64)
        rows = max(1, _CACHED_LOGITS // logits_RV.shape[1])
        for start in range(0, len(logits_RV), rows):
            at = slice(start, start + rows)
            p, own = self.p_RV[at], self.negative_entropy_R[at]
            logits = logits_RV[at] + bias_V
            largest = logits.amax(1, keepdim=True)
            q = (logits - largest).exp_()
            z = q.sum(1)
            log_z = z.log() + largest[:, 0]
            q.div_(z[:, None])
            kl = own - torch.linalg.vecdot(p, logits) + log_z
            other = torch.linalg.vecdot(q, logits) - log_z
            sum_pq = q.add_(p).clamp_min_(1e-30)
            mixed = 0.5 * torch.linalg.vecdot(sum_pq, sum_pq.log()) - math.log(2)
            nats = log_z - logits.gather(1, self.targets_R1[at])[:, 0]
            same = logits.gather(1, self.best_R1[at]) >= largest
            columns = (kl, 0.5 * (own + other) - mixed, nats - self.target_nats_R[at], same[:, 0])
            result_R4[at] = torch.stack([column.double() for column in columns], dim=1)
        return result_R4.numpy()


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
