"""The arrow of time: is text easier to predict forwards than backwards?

Two models, equal in everything but direction, score the same windows. Both factor the same joint
probability, so for perfect models the sums of nats agree; what is left is what was learnt.
(Papadopoulos, Wenger and Hongler, ICML 2024, arXiv 2401.17505.)

Notable:
- Paired by window, resampled by document, crossed with training seeds: the interval covers both
  other texts and other seeds. One seed gives "text only"; fewer than five documents give an
  interval over their sections, "these documents only".
- The paper reports two scales, `relative` and `ratio`. The interval is computed for `relative` and
  carried over to `ratio` exactly, so the two never disagree about zero.

Legend: S seeds, N windows, C clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from lmlab.errors import UserError
from lmlab.numerics.power import VarianceComponents, variance_components
from lmlab.numerics.random_effects import Basis, Clusters, linearised_ratio
from lmlab.numerics.verdicts import Evidence, Finding, verdict


@dataclass(frozen=True)
class Arrow:
    """The arrow between two directions; positive means forward is easier.

    Attributes:
        relative: 2 (sum b - sum f) / (sum b + sum f), over all seeds and windows.
        ratio: sum b / sum f - 1, which is relative / (1 - relative / 2); infinite if sum f is 0.
        interval: 95 % interval of `relative`; None if there are too few texts (see `note`).
        ratio_interval: the same for `ratio`; None too where it would reach infinity.
        standard_error, degrees_of_freedom: of `relative`.
        seeds, clusters, documents, windows: how many of each.
        basis: which variation the interval covers, see `numerics.random_effects`.
        note: what limits the interval, in words; empty if nothing does.
        difference: for each seed, nats backward minus nats forward, summed over the windows.
        relative_by_seed: `relative` of each seed alone.
    """

    relative: float
    ratio: float
    interval: tuple[float, float] | None
    ratio_interval: tuple[float, float] | None
    standard_error: float | None
    degrees_of_freedom: float | None
    seeds: int
    clusters: int
    documents: int
    windows: int
    basis: Basis
    note: str
    difference: tuple[float, ...]
    relative_by_seed: tuple[float, ...]

    derived = ("verdict", "finding", "p_value", "bound", "detectable")

    @property
    def evidence(self) -> Evidence:
        """The relative arrow as what verdicts are worded from."""
        low, high = self.interval or (None, None)
        return Evidence(
            self.relative, low, high, self.standard_error, self.degrees_of_freedom, self.seeds,
            self.documents,
        )  # fmt: skip

    @property
    def finding(self) -> Finding:
        """Where the interval lies; above: forward is easier."""
        return self.evidence.finding

    @property
    def p_value(self) -> float | None:
        """Two-sided, of the t test that belongs to the interval."""
        return self.evidence.p_value

    @property
    def bound(self) -> float | None:
        """The arrow's size is below this with 95 %."""
        return self.evidence.bound

    @property
    def detectable(self) -> float | None:
        """The arrow that would have been seen with 80 %."""
        return self.evidence.detectable

    @property
    def verdict(self) -> str:
        """The finding in words: a difference only where the interval excludes zero, and of these
        models or documents only where there are few (`numerics.verdicts`)."""
        return verdict(
            self.evidence, above="forward is easier", below="backward is easier", size=per_cent,
            seen=lower_loss("backward"),
        )  # fmt: skip


def lower_loss(order: str) -> tuple[str, str]:
    """What is seen of given models, where the arrow is above zero and below it."""
    return "the forward loss is lower", f"the {order} loss is lower"


def arrow_of_time(
    nll_forward_SN: ArrayLike,
    nll_backward_SN: ArrayLike,
    clusters_N: ArrayLike,
    documents_N: ArrayLike | None = None,
) -> Arrow:
    """Compares two directions on the same windows.

    Args:
        nll_forward_SN, nll_backward_SN: nats summed over each window, not negative; a row for each
            seed, or one dimension for one seed. Column n is the same window in both.
        clusters_N: the cluster of each window (document or section): integers or strings.
        documents_N: the document of each window, likewise; default: every cluster is a document.

    Interval: random effects over seeds and documents on the ratio of sums
    (b - f) / ((b + f) / 2); see `numerics.random_effects`.

    Raises `UserError` for shapes that do not fit, no windows, a value that is not finite or is
    negative, or if every window costs 0 nats in both directions.
    """
    forward_SN = _checked("nll_forward_SN", nll_forward_SN)
    backward_SN = _checked("nll_backward_SN", nll_backward_SN)
    return _arrow(forward_SN, backward_SN, Clusters(clusters_N, documents_N))


def _arrow(
    forward_SN: NDArray[np.float64], backward_SN: NDArray[np.float64], clusters: Clusters
) -> Arrow:
    """`arrow_of_time` of checked nats and of clusters that several arrows may share."""
    if forward_SN.shape != backward_SN.shape:
        raise UserError(
            f"nll_forward_SN has shape {forward_SN.shape} and nll_backward_SN "
            f"{backward_SN.shape}; score the same windows with the same number of seeds"
        )
    seeds, windows = forward_SN.shape
    if len(clusters) != windows:
        raise UserError(
            f"clusters_N has shape {clusters.cluster_N.shape}; pass one label for each of "
            f"{windows} windows"
        )

    difference_SN = backward_SN - forward_SN
    mean_SN = (backward_SN + forward_SN) / 2
    if not mean_SN.any():
        raise UserError(
            "every window costs 0 nats in both directions, so the relative arrow is not defined; "
            "check that the windows hold scored tokens"
        )
    result = clusters.ratio(difference_SN, mean_SN)
    relative = float(difference_SN.sum() / mean_SN.sum())
    interval = ratio_interval = None
    note = result.note
    if result.low is not None and result.high is not None:
        interval = (result.low, result.high)
        if result.high < 2:
            # `relative` lies in [-2, 2]; its lower end -2 is a ratio of -1.
            ratio_interval = (_ratio(max(result.low, -2.0)), _ratio(result.high))
        else:
            note = "; ".join(filter(None, [note, "the ratio's interval reaches infinity"]))
    totals_S = mean_SN.sum(1)
    sums_S = difference_SN.sum(1)
    by_seed_S = np.divide(sums_S, totals_S, out=np.zeros(seeds), where=totals_S > 0)
    return Arrow(
        relative=relative,
        ratio=_ratio(relative),
        interval=interval,
        ratio_interval=ratio_interval,
        standard_error=result.standard_error,
        degrees_of_freedom=result.degrees_of_freedom,
        seeds=seeds,
        clusters=clusters.clusters,
        documents=clusters.documents,
        windows=windows,
        basis=result.basis,
        note=note,
        difference=tuple(float(d) for d in sums_S),
        relative_by_seed=tuple(float(r) for r in by_seed_S),
    )


@dataclass(frozen=True)
class PositionArrow:
    """The arrow at some positions of the window: those read after `first` to `last` tokens."""

    first: int
    last: int
    arrow: Arrow
    p_adjusted: float | None = None
    """For the false discovery rate of all bins (Benjamini and Hochberg); None without a test."""

    @property
    def middle(self) -> float:
        """Where the bin is drawn; positions count from 1 there."""
        return (self.first + self.last) / 2 + 1


def arrow_by_position(
    nll_forward_SNb: ArrayLike,
    nll_backward_SNb: ArrayLike,
    clusters_N: ArrayLike,
    edges: ArrayLike,
    documents_N: ArrayLike | None = None,
) -> tuple[PositionArrow, ...]:
    """The arrow at equal amounts of context, a value for each bin of positions.

    Position k is predicted from BOS and k tokens of the window: those before it forwards, those
    after it backwards. So the two sides of a bin are different tokens of the same windows, and
    only the sum over all bins scores the same joint. Each interval is for its bin alone.

    Args:
        nll_forward_SNb, nll_backward_SNb: nats summed within each bin, (seeds, windows, bins), or
            without seeds for one seed.
        clusters_N, documents_N: as in `arrow_of_time`.
        edges: of the bins, (bins + 1,), as `objectives.evaluate.position_edges`. Bins that no
            window reaches, or whose losses are all zero, are left out.

    Raises `UserError` as `arrow_of_time`, and for edges that do not fit.
    """
    both = [np.asarray(nll, dtype=np.float64) for nll in (nll_forward_SNb, nll_backward_SNb)]
    bounds = np.asarray(edges)
    if any(nll.ndim not in (2, 3) or nll.shape[-1] != len(bounds) - 1 for nll in both):
        raise UserError(
            f"nats by position have shapes {both[0].shape} and {both[1].shape}; the last dimension "
            f"must be the {len(bounds) - 1} bins of positions"
        )
    clusters = Clusters(clusters_N, documents_N)
    bins = [
        PositionArrow(
            int(bounds[b]),
            int(bounds[b + 1]) - 1,
            _arrow(
                _checked("nll_forward_SNb", both[0][..., b]),
                _checked("nll_backward_SNb", both[1][..., b]),
                clusters,
            ),
        )
        for b in range(len(bounds) - 1)
        if any(nll[..., b].any() for nll in both)
    ]
    tested = [p for each in bins if (p := each.arrow.p_value) is not None]
    adjusted = iter(false_discovery_control(tested).tolist() if tested else [])
    return tuple(
        each if each.arrow.p_value is None else replace(each, p_adjusted=next(adjusted))
        for each in bins
    )


def arrow_components(
    nll_forward_SN: ArrayLike, nll_backward_SN: ArrayLike, clusters: Clusters
) -> VarianceComponents | None:
    """Variance components of the relative arrow, in its unit squared; None for a single cluster.

    As `arrow_of_time`; of the same linearised ratio as the interval.
    """
    forward_SN, backward_SN = (
        np.atleast_2d(np.asarray(nll, dtype=np.float64))
        for nll in (nll_forward_SN, nll_backward_SN)
    )
    if clusters.clusters < 2:
        return None
    values_SC, size_C = linearised_ratio(
        clusters.sums(backward_SN - forward_SN), clusters.sums((backward_SN + forward_SN) / 2)
    )
    kept_C = size_C > 0
    return variance_components(
        values_SC[:, kept_C], clusters.documents_C[kept_C], weights_C=size_C[kept_C]
    )


def per_cent(value: float) -> str:
    """The size of an arrow, without sign."""
    return f"{100 * value:.2f} %"


def _ratio(relative: float) -> float:
    """sum b / sum f - 1 from 2 (sum b - sum f) / (sum b + sum f)."""
    return relative / (1 - relative / 2) if relative < 2 else math.inf


def _checked(name: str, nll: ArrayLike) -> NDArray[np.float64]:
    """`nll` as float64 with two dimensions, or a `UserError` that names the first bad entry."""
    nll_SN = np.asarray(nll, dtype=np.float64)
    if nll_SN.ndim == 1:
        nll_SN = nll_SN[None, :]
    if nll_SN.ndim != 2 or nll_SN.size == 0:
        raise UserError(
            f"{name} has shape {np.shape(nll)}; pass (seeds, windows) or (windows,), at least one"
        )
    bad = np.argwhere(~np.isfinite(nll_SN) | (nll_SN < 0))
    if len(bad):
        s, n = bad[0]
        raise UserError(
            f"{name}: seed {s}, window {n} is {nll_SN[s, n]}; nats must be finite and not "
            f"negative ({len(bad)} such entries). Score that model again"
        )
    return nll_SN
