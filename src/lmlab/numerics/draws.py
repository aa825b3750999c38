"""A mean over random draws of a source, each with several seeds: the draw is the unit.

Notable: what one draw shows, however many seeds and texts stand behind it, says nothing of others.
With y_ds = mu + m_d + e_ds, seeds of their own in each draw and as many in each, the mean over all
has variance (var m + var e / S) / D, which the variance between the draws' means estimates whole:
Student's t with D - 1 degrees of freedom is exact for normal m and e (the balanced nested design of
Searle, Casella and McCulloch, Variance Components, 1992, chapter 3).

Shapes: D draws, S seeds of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

_LEVEL = 0.95


@dataclass(frozen=True)
class DrawnMean:
    """A mean over draws with its interval over draws, seeds and what is inside them."""

    estimate: float
    low: float
    high: float
    standard_error: float
    level: float
    draws: int
    seeds: int
    """Of each draw."""
    sd_draws: float
    """Between draws, without the share of the seeds: moments, 0 where they give less."""
    sd_seeds: float | None
    """Between seeds of one draw; None for one seed, whose share is then in `sd_draws`."""


def mean_over_draws(values_DS: ArrayLike) -> DrawnMean:
    """The mean of the draws' means; at least two draws, as many seeds of each."""
    values = np.asarray(values_DS, dtype=np.float64)
    assert np.isfinite(values).all()
    draws, seeds = values.shape
    assert draws >= 2 and seeds >= 1  # noqa: PT018
    mean_D = values.mean(axis=1)
    between = float(mean_D.var(ddof=1))
    within = float(values.var(axis=1, ddof=1).mean()) if seeds > 1 else None
    error = math.sqrt(between / draws)
    half = float(stdtrit(draws - 1, (1 + _LEVEL) / 2)) * error
    estimate = float(mean_D.mean())
    return DrawnMean(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        standard_error=error,
        level=_LEVEL,
        draws=draws,
        seeds=seeds,
        sd_draws=math.sqrt(max(0.0, between - (within or 0.0) / seeds)),
        sd_seeds=None if within is None else math.sqrt(within),
    )
