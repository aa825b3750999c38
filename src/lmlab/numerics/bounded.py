"""Intervals of quantities that have a natural bound: positive ratios, shares, correlations.

Notable: a symmetric interval of a factor can reach below zero, where no factor lies ([-749.6,
863.3] for a factor of 57). On the log scale it cannot, and factors of 2 and of 1/2 are as far from
1. Over 6 clusters whose factors are log-normal with standard deviation 1, a symmetric interval of
95 % covered 83 % and reached below zero in 53 % of trials, this one covered 91 %
(12: tests/test_bounded.py). Of a share the error that is 0 where all units agree says nothing of
other units (0 of 5 is not a share of exactly 0): `share_bounds`.

Legend: C clusters of text. Arrays only.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from lmlab.errors import UserError
from lmlab.numerics.jackknife import jackknife_interval
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS, Interval

ROUNDING = 1e-9
"""A spread below this is none."""


def positive_ratio_interval(
    numerator_C: ArrayLike,
    denominator_C: ArrayLike,
    *,
    documents: int | None = None,
    level: float = 0.95,
) -> Interval:
    """Interval of sum numerator / sum denominator, both positive, for one model over text.

    Student t on the logarithm of the ratio, whose standard error is the delete-one jackknife's
    (`numerics.jackknife`), and back: the ends are positive, and the interval of the inverse ratio
    is the inverse interval. `documents` as in `jackknife_interval`. `standard_error` is that of the
    ratio, by the slope of exp.

    Raises `UserError` for values that are negative, not finite, or zero in sum, also without one of
    the clusters.
    """
    top_C, below_C = (np.asarray(v, dtype=np.float64) for v in (numerator_C, denominator_C))
    assert top_C.shape == below_C.shape == (len(top_C),) != (0,)
    without_2C = np.stack([values_C.sum() - values_C for values_C in (top_C, below_C)])
    for values_C in (top_C, below_C):
        if not np.isfinite(values_C).all() or (values_C < 0).any() or values_C.sum() <= 0:
            raise UserError("a positive ratio needs sums that are finite, not negative and not 0")
    if len(top_C) > 1 and (without_2C <= 0).any():
        raise UserError("one cluster holds all there is; a positive ratio needs several")
    return jackknife_interval(
        math.log(top_C.sum() / below_C.sum()),
        np.zeros(1) if len(top_C) == 1 else np.log(without_2C[0] / without_2C[1]),
        below_C,
        documents=documents,
        back=math.exp,
        level=level,
    )


def within(interval: Interval, low: float, high: float) -> Interval:
    """The part of an interval where its quantity can lie, a share between 0 and 1 say: what is cut
    off holds no value, so the coverage stays."""
    if interval.low is None or interval.high is None:
        return interval
    return replace(
        interval, low=min(max(interval.low, low), high), high=max(min(interval.high, high), low)
    )


def share_bounds(
    share: float, standard_error: float, degrees_of_freedom: float, *, units: int, level: float
) -> tuple[float, float]:
    """The interval of a share of 0 to 1 by Wilson's formula (1927), with Student's t.

    The number in the formula is that of independent answers which would have this standard error,
    n = p (1 - p) / error^2: fewer than there are where answers of one cluster are alike (Kish's
    effective sample size, 1965). Where the error is 0, all units agree and n is their number.
    """
    if standard_error > ROUNDING:
        n, df = share * (1 - share) / standard_error**2, degrees_of_freedom
    else:
        n, df = units, units - 1
    t2 = float(stdtrit(df, (1 + level) / 2)) ** 2
    middle = (share + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2 * share * (1 - share) / n + (t2 / (2 * n)) ** 2) / (1 + t2 / n)
    # the share itself lies in it; at 0 and 1 rounding would leave it out
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def rank_correlation_bounds(
    correlation: float, items: int, *, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval of Spearman's correlation by Fisher's z, whose variance is
    (1 + r^2 / 2) / (n - 3) (Bonett and Wright 2000, Psychometrika 65); None for 3 items or fewer.

    A correlation of exactly 1 or -1 has no z. It is taken for the next smaller one, that of one
    swap of neighbours, 1 - 12 / (n (n^2 - 1)), and its interval reaches to the end.
    """
    if items <= 3:
        return None
    largest = 1 - 12 / (items * (items**2 - 1))
    r = min(max(correlation, -largest), largest)
    half = float(ndtri((1 + level) / 2)) * math.sqrt((1 + r**2 / 2) / (items - 3))
    low, high = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    return (-1.0 if correlation < -largest else low), (1.0 if correlation > largest else high)


def share_interval(interval: Interval) -> Interval:
    """The interval of a mean that is a share of 0 to 1, within it and not empty at its ends."""
    if interval.standard_error is None or interval.degrees_of_freedom is None:
        return interval
    share = round(interval.estimate, 12)  # a sum of weights is not 1 to the last bit
    units = interval.documents if interval.documents >= MINIMUM_DOCUMENTS else interval.clusters
    low, high = share_bounds(
        share,
        interval.standard_error,
        interval.degrees_of_freedom,
        units=units,
        level=interval.level,
    )
    return replace(interval, estimate=share, low=low, high=high)


def unless_all_agree(interval: Interval, values: ArrayLike) -> Interval:
    """No bounds where all values are the same: their spread of 0 says nothing of others."""
    if np.ptp(np.asarray(values)) > ROUNDING:
        return interval
    note = "no interval: the same value for every item"
    return replace(interval, low=None, high=None, standard_error=None, basis="none", note=note)
