"""One mean over the rows of a study, such as languages: random effects between rows.

Each row has an estimate with its sampling variance; the rows' true values differ with a variance
of their own, since another language would have another arrow.

Notable:
- The variance between rows is Paule and Mandel's (1982, J. Res. Natl. Bur. Stand. 87): the one at
  which the weighted sum of squares equals its expectation, rows - 1.
- The interval is that of Hartung and Knapp (2001, Stat. Med. 20) and Sidik and Jonkman (2002,
  Stat. Med. 21): the rows' own scatter about the mean gives its standard error, with Student t of
  rows - 1 degrees of freedom. Where rows agree better than their own errors allow, the scatter is
  not taken for less than those (Roever, Knapp and Friede 2015, BMC Med. Res. Methodol. 15: 99).
- Few seeds measure a row's own variance badly: weights from it follow chance. `pooled_variances`
  takes one seed variance for all rows, with the degrees of freedom of all.

Legend: R rows, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

from lmlab.errors import UserError

MINIMUM_ROWS = 3
"""Below this there is a mean, but no interval: the variance between rows has one degree of freedom
or none."""


@dataclass(frozen=True)
class Synthesis:
    """The mean over rows, in their unit, and how much rows differ beyond their errors."""

    estimate: float
    low: float | None
    high: float | None
    standard_error: float | None
    degrees_of_freedom: float | None
    between: float
    """Standard deviation of the rows' true values about the mean (Paule and Mandel)."""
    rows: int
    level: float
    weights: tuple[float, ...]
    """Share of each row in the mean."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """`low` and `high`, or None without an interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def synthesis(estimates_R: ArrayLike, variances_R: ArrayLike, *, level: float = 0.95) -> Synthesis:
    """Random-effects mean of rows that do not share seeds' noise or text.

    Args:
        estimates_R: a value for each row.
        variances_R: the sampling variance of each, in the unit squared, above 0.

    There are at least two rows.
    """
    y_R = np.asarray(estimates_R, dtype=np.float64)
    v_R = np.asarray(variances_R, dtype=np.float64)
    rows = len(y_R)
    assert y_R.shape == v_R.shape == (rows,)
    assert rows >= 2
    assert np.isfinite([y_R, v_R]).all()
    assert (v_R > 0).all()
    between = between_variance(y_R, v_R)
    w_R = 1 / (v_R + between)
    p_R = w_R / w_R.sum()
    mean = float(p_R @ y_R)
    scatter = float(w_R @ (y_R - mean) ** 2) / (rows - 1)
    error = float(np.sqrt(max(scatter, 1.0) / w_R.sum()))
    low = high = None
    if rows >= MINIMUM_ROWS:
        half = float(stdtrit(rows - 1, (1 + level) / 2)) * error
        low, high = mean - half, mean + half
    return Synthesis(
        mean, low, high, error if rows >= MINIMUM_ROWS else None,
        float(rows - 1) if rows >= MINIMUM_ROWS else None, float(np.sqrt(between)), rows, level,
        tuple(float(p) for p in p_R),
    )  # fmt: skip


def between_variance(estimates_R: NDArray[np.float64], variances_R: NDArray[np.float64]) -> float:
    """Paule and Mandel's variance between rows, 0 where the rows' own errors explain all."""

    def excess(between: float) -> float:
        w_R = 1 / (variances_R + between)
        mean = w_R @ estimates_R / w_R.sum()
        return float(w_R @ (estimates_R - mean) ** 2) - (len(estimates_R) - 1)

    if excess(0.0) <= 0:
        return 0.0
    # at this much the weighted sum of squares is below its expectation
    high = float(((estimates_R - estimates_R.mean()) ** 2).sum())
    return float(brentq(excess, 0.0, high, xtol=1e-12 * high))  # pyright: ignore[reportArgumentType]


def pooled_variances(
    by_seed: Sequence[ArrayLike], variances_R: ArrayLike
) -> tuple[NDArray[np.float64], float, int]:
    """Variances of the rows with one seed variance for all of them.

    Args:
        by_seed: for each row, the value of each seed.
        variances_R: the variance of each row's mean as measured by the row alone, seeds and text.

    Returns the rows' variances with the pooled seed variance in the place of their own, the pooled
    standard deviation between seeds, and its degrees of freedom: sum (S - 1) s^2 / sum (S - 1).

    What a row's variance has beyond the variance of its seeds' mean is the text's, and stays.
    Raises `UserError` where no row has two seeds.
    """
    seeds_R = [np.asarray(values, dtype=np.float64) for values in by_seed]
    df = sum(len(values) - 1 for values in seeds_R)
    if df == 0:
        raise UserError("no row has two seeds; their variance cannot be pooled")
    pooled = sum(float(((v - v.mean()) ** 2).sum()) for v in seeds_R) / df
    own_R = np.array([v.var(ddof=1) / len(v) if len(v) > 1 else 0.0 for v in seeds_R])
    text_R = np.maximum(np.asarray(variances_R, dtype=np.float64) - own_R, 0.0)
    number_R = np.array([len(v) for v in seeds_R])
    return text_R + pooled / number_R, float(np.sqrt(pooled)), df
