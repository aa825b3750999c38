"""The arrow of each document: which documents read forwards more than others, and whether other
passages of them and other training seeds would say the same.

Notable:
- The windows of a document are dealt in turn into two halves, so that both are of its whole
  length. What two parts that share neither passages nor seeds have in common is the document's.
- Reliability is a covariance of such parts over the variance of what is reported, the mean over
  seeds and halves (Cronbach, Rajaratnam and Gleser 1963). Of halves alone that is the stepped-up
  correlation of Spearman and Brown.
- The most forward document of many is so in part by luck. `expected` draws each towards the mean
  by the reliability (Kelley 1947).

Shapes: S seeds, N windows, D documents; n windows of one document.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lmlab.errors import UserError
from lmlab.numerics.bounded import within
from lmlab.numerics.jackknife import jackknife_interval
from lmlab.numerics.preference import adjusted_p_values
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS, Clusters, Interval
from lmlab.numerics.verdicts import Evidence
from lmlab.topics.scoring.score import Score

Array = NDArray[np.float64]
_MINIMUM_WINDOWS = 4  # two of each half; fewer say nothing of a document
_NEAR_ONE = 0.999  # the scale of the interval is endless at 1


@dataclass(frozen=True)
class DocumentArrow:
    """The relative arrow of one document, 2 (b - f) / (b + f), positive where it reads forwards."""

    name: str
    tokens: int
    nats_per_token: float
    """Mean of both directions and all seeds."""
    relative: float
    """Of sums over all seeds and windows of the document."""
    low: float | None
    high: float | None
    """95 % over the document's windows and the seeds; None where it has fewer than five windows."""
    p_adjusted: float | None
    """For the false discovery rate among all documents; None without an interval."""
    halves: tuple[float, float]
    """The same in two halves of the document that share no window, means over seeds."""
    expected: float
    """What other passages and, where there are several seeds, other seeds are expected to show."""


@dataclass(frozen=True)
class DocumentArrows:
    """The arrows of documents, from the most forward to the most backward."""

    documents: tuple[DocumentArrow, ...]
    left_out: int
    """Documents of fewer than four windows."""
    seeds: int
    passages: Interval
    """Reliability for other passages of the same documents, read by the same models."""
    trainings: Interval | None
    """Reliability for other training seeds on the same passages; None with one seed."""
    both: Interval | None
    """Reliability for other passages and other seeds; None with one seed."""
    spread: float
    """Standard deviation between documents beyond error, a share of the loss; 0 if none is seen."""

    derived = ("reliability", "differ", "clear")

    @property
    def reliability(self) -> Interval:
        """For all that the models and passages allow: of both, or of passages with one seed."""
        return self.passages if self.both is None else self.both

    @property
    def differ(self) -> bool:
        """Documents are shown to differ: the interval of the reliability lies above 0."""
        return self.reliability.low is not None and self.reliability.low > 0

    @property
    def clear(self) -> tuple[int, int]:
        """How many documents read forwards, and backwards, at a false discovery rate of 5 %."""
        found = [d for d in self.documents if d.p_adjusted is not None and d.p_adjusted <= 0.05]
        forwards = sum(d.relative > 0 for d in found)
        return forwards, len(found) - forwards


def document_arrows(forward: Sequence[Score], other: Sequence[Score]) -> DocumentArrows | None:
    """The arrow of each document by models of both directions, a score a seed, all of the same
    windows; None where fewer than five documents have four windows."""
    f_SN, b_SN = (np.stack([score.nats_M for score in side]) for side in (forward, other))
    first = forward[0]
    return arrows_by_document(
        f_SN, b_SN, first.tokens_M, first.clusters.document_N, first.document_names
    )


def arrows_by_document(
    nll_forward_SN: Array,
    nll_backward_SN: Array,
    tokens_N: NDArray[np.int64],
    documents_N: NDArray[np.int64],
    names: dict[int, str],
) -> DocumentArrows | None:
    """Which documents read forwards more than others, and how reliably.

    Args:
        nll_forward_SN, nll_backward_SN: nats summed over each window, a row for each seed. Column n
            is the same window in both.
        tokens_N: scored tokens of each window.
        documents_N: the document of each window; its windows in the order of reading.
        names: of documents, by their numbers; one without a name is called by its number.

    None where fewer than five documents have four windows. Raises `UserError` for shapes that do
    not fit.
    """
    shape = nll_forward_SN.shape
    if (
        len(shape) != 2
        or nll_backward_SN.shape != shape
        or {*tokens_N.shape, *documents_N.shape} != {shape[1]}
    ):
        raise UserError(
            f"nll_forward_SN has shape {shape}, nll_backward_SN {nll_backward_SN.shape}, tokens_N "
            f"{tokens_N.shape} and documents_N {documents_N.shape}; pass (seeds, windows) twice, "
            "then (windows,) twice"
        )
    seeds = len(nll_forward_SN)
    order_N = np.argsort(documents_N, kind="stable")
    number_D, first_D = np.unique(documents_N[order_N], return_index=True)
    rows = dict(zip(number_D.tolist(), np.split(order_N, first_D[1:]), strict=True))
    kept = {d: of_d for d, of_d in rows.items() if len(of_d) >= _MINIMUM_WINDOWS}
    if len(kept) < MINIMUM_DOCUMENTS:
        return None

    def relative(of_d: NDArray[np.int64], *, by_seed: bool) -> Array:
        f_S, b_S = (nll_SN[:, of_d].sum(1) for nll_SN in (nll_forward_SN, nll_backward_SN))
        if not by_seed:
            f_S, b_S = f_S.sum(keepdims=True), b_S.sum(keepdims=True)
        sum_S = f_S + b_S
        return np.divide(2 * (b_S - f_S), sum_S, out=np.zeros(len(sum_S)), where=sum_S > 0)

    of_seed = partial(relative, by_seed=True)
    first_SD, second_SD = (
        np.stack([of_seed(of_d[half::2]) for of_d in kept.values()], axis=1) for half in (0, 1)
    )
    halves_2D = np.array([[tokens_N[r[half::2]].sum() for r in kept.values()] for half in (0, 1)])
    weight_D = 2 / (1 / halves_2D).sum(0)
    sides = nll_forward_SN, nll_backward_SN
    evidence = [_evidence(sides[0][:, r], sides[1][:, r]) for r in kept.values()]
    relative_D = np.array([relative(r, by_seed=False)[0] for r in kept.values()])
    p_D = np.array([np.nan if e.p_value is None else e.p_value for e in evidence])
    passages, trainings, both = _reliabilities(first_SD, second_SD, weight_D)
    trust = max(0.0, (passages if both is None else both).estimate)
    mean = float(weight_D @ relative_D / weight_D.sum())
    both_halves_D = _mean(first_SD, second_SD)
    variance = float(_covariances(both_halves_D, both_halves_D, weight_D)[0])
    tokens_D = halves_2D.sum(0)
    nats_D = np.array([sum(side[:, r].mean(0).sum() for side in sides) / 2 for r in kept.values()])
    adjusted_D = p_D if np.isnan(p_D).all() else adjusted_p_values(p_D)
    documents = [
        DocumentArrow(
            name=names.get(d, str(d)),
            tokens=int(tokens_D[i]),
            nats_per_token=float(nats_D[i] / tokens_D[i]),
            relative=float(relative_D[i]),
            low=evidence[i].low,
            high=evidence[i].high,
            p_adjusted=None if np.isnan(adjusted_D[i]) else float(adjusted_D[i]),
            halves=(float(first_SD[:, i].mean()), float(second_SD[:, i].mean())),
            expected=mean + trust * (float(relative_D[i]) - mean),
        )
        for i, d in enumerate(kept)
    ]
    return DocumentArrows(
        documents=tuple(sorted(documents, key=lambda document: -document.relative)),
        left_out=len(rows) - len(kept),
        seeds=seeds,
        passages=passages,
        trainings=trainings,
        both=both,
        spread=float(np.sqrt(trust * variance)),
    )


def _evidence(forward_Sn: Array, backward_Sn: Array) -> Evidence:
    """The arrow of one document over its windows and the seeds."""
    mean_Sn = (forward_Sn + backward_Sn) / 2
    if not mean_Sn.any():
        return Evidence(0.0, None, None, None, None, len(mean_Sn), 1)
    windows = Clusters(np.arange(mean_Sn.shape[1]))
    return Evidence.of(windows.ratio(backward_Sn - forward_Sn, mean_Sn))


def _reliabilities(
    first_SD: Array, second_SD: Array, weight_D: Array
) -> tuple[Interval, Interval | None, Interval | None]:
    """For other passages, other seeds, and both."""
    seeds = len(first_SD)
    covariances = partial(_covariances, weight_D=weight_D)
    whole_SD = (first_SD + second_SD) / 2
    mean_D = _mean(first_SD, second_SD)
    variance = covariances(mean_D, mean_D)

    def interval(shared: Array) -> Interval:
        ratio = np.divide(shared, variance, out=np.zeros_like(shared), where=variance > 0)
        # of halves whose correlation is r this is arctanh r, whose spread hardly depends on r
        scaled = -0.5 * np.log(1 - np.minimum(ratio, _NEAR_ONE))
        cut = jackknife_interval(
            float(scaled[0]), scaled[1:], weight_D, back=lambda value: 1 - math.exp(-2 * value)
        )
        return replace(within(cut, -1, 1), note=_NOTE, seeds=seeds)

    def between_seeds(one_SD: Array, other_SD: Array) -> Array:
        """Mean covariance of one seed's `one` with another seed's `other`."""
        all_pairs = covariances(one_SD.sum(0), other_SD.sum(0))
        same = sum(covariances(one, other) for one, other in zip(one_SD, other_SD, strict=True))
        return (all_pairs - same) / (seeds * (seeds - 1))

    passages = interval(covariances(first_SD.mean(0), second_SD.mean(0)))
    if seeds < 2:
        return passages, None, None
    return (
        passages,
        interval(between_seeds(whole_SD, whole_SD)),
        interval((between_seeds(first_SD, second_SD) + between_seeds(second_SD, first_SD)) / 2),
    )


_NOTE = "over documents, for these trainings; documents like these"


def _mean(first_SD: Array, second_SD: Array) -> Array:
    return ((first_SD + second_SD) / 2).mean(0)


def _covariances(x_D: Array, y_D: Array, weight_D: Array) -> Array:
    """The weighted covariance over all documents, then without each: (1 + D,)."""
    x_D, y_D = x_D - x_D.mean(), y_D - y_D.mean()

    def sums(values_D: Array) -> Array:
        weighted_D = weight_D * values_D
        return np.concatenate([[weighted_D.sum()], weighted_D.sum() - weighted_D])

    total = sums(np.ones_like(x_D))
    return sums(x_D * y_D) / total - sums(x_D) * sums(y_D) / total**2
