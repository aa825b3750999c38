"""Power of a comparison: what its standard error can show, and how many seeds that takes.

The test is the two-sided t test behind every 95 % interval of lmlab: an effect is *seen* where the
interval excludes zero.

Notable:
- Power is exact for a mean of normal values: the square of the t statistic has a noncentral F
  distribution with 1 and df degrees of freedom and noncentrality (effect / standard error)^2
  (Johnson, Kotz and Balakrishnan 1995, Continuous Univariate Distributions 2, chapters 30, 31).
- A standard deviation from a few seeds is itself uncertain by a factor: `deviation_interval`.
- `variance_components` splits the noise of a comparison into seeds, documents, sections of a
  document, and what is left (section and seed together), by the analysis of variance of a nested,
  crossed layout.

Legend: S seeds, C sections, D documents.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import chdtri, ncfdtr, stdtrit

POWER = 0.8
"""The power that is asked for where nothing else is said."""

_MOST = 100_000


def power(
    effect: float, standard_error: float, degrees_of_freedom: float, *, level: float = 0.95
) -> float:
    """Probability that the interval at `level` excludes zero when the true value is `effect`.

    `effect` and `standard_error` in one unit; the standard error is the true one, above 0.
    """
    critical = float(stdtrit(degrees_of_freedom, (1 + level) / 2))
    noncentrality = (effect / standard_error) ** 2
    if noncentrality > 1e4 + 100 * critical**2:  # beyond doubt; the series would be long
        return 1.0
    # Beyond doubt too (less than 1e-20 is missing), and scipy has islands of NaN out there
    if degrees_of_freedom >= 10 and math.sqrt(noncentrality) > critical + 12:
        return 1.0
    return float(1 - ncfdtr(1, degrees_of_freedom, noncentrality, critical**2))


def detectable_effect(
    standard_error: float,
    degrees_of_freedom: float,
    *,
    wanted: float = POWER,
    level: float = 0.95,
) -> float:
    """The true effect that is seen with probability `wanted`, in the unit of the standard error."""
    high = 2.0
    while power(high, 1.0, degrees_of_freedom, level=level) < wanted:
        high *= 2

    def missing(x: float) -> float:
        return power(x, 1.0, degrees_of_freedom, level=level) - wanted

    return standard_error * float(brentq(missing, 0.0, high))  # pyright: ignore[reportArgumentType]


def least_number(enough: Callable[[int], bool], first: int) -> int | None:
    """The least whole number from `first` on that is `enough`, which must hold from there on.

    None where 100,000 are not enough.
    """
    numbers = range(first, _MOST + 1)
    place = bisect_left(numbers, True, key=enough)
    return numbers[place] if place < len(numbers) else None


def deviation_interval(deviation: float, degrees_of_freedom: float) -> tuple[float, float]:
    """95 % interval of a standard deviation of normal values, from the chi-squared distribution."""
    low, high = (
        deviation * math.sqrt(degrees_of_freedom / float(chdtri(degrees_of_freedom, tail)))
        for tail in (0.025, 0.975)
    )
    return low, high


@dataclass(frozen=True)
class VarianceComponents:
    """Where the noise of a comparison comes from: variances in its unit squared, not negative.

    A section's variances are those of a section of mean size; `None` where the layout cannot tell
    (one seed; one document). `*_df` are the degrees of freedom behind the estimates.
    """

    seed: float | None
    document: float | None
    section: float
    residual: float
    """Of seed and section together."""
    seed_df: int
    document_df: int
    section_df: int
    sections_per_document: float


def variance_components(
    values_SC: ArrayLike, documents_C: ArrayLike, *, weights_C: ArrayLike | None = None
) -> VarianceComponents:
    """Variance components of `value[s, c] = mean + seed[s] + document[d(c)] + section[c] + rest`.

    Args:
        values_SC: a value for each seed and section.
        documents_C: the document of each section.
        weights_C: sizes of the sections; the variance of a section is taken to go with 1 / size.

    Mean squares of the nested, crossed layout, set equal to their expectations (Searle, Casella
    and McCulloch 1992, Variance Components, chapter 5); with sizes u_c (mean 1), U_d their sum in
    a document, and x_c the mean over seeds:

    - sum u_c (x_c - x_d)^2 over sections within documents: (C - D) (section + residual / S);
    - sum U_d (x_d - x)^2 over documents: (D - 1) (section + residual / S) + document (C - sum
      U_d^2 / C);
    - sum u_c r_sc^2 over the residuals from both margins: (S - 1) (C - 1) residual;
    - variance of the seeds' means: seed + residual / C.

    A negative estimate becomes 0. There are at least two sections, and all values are finite.
    """
    v_SC = np.asarray(values_SC, dtype=np.float64)
    names, d_C = np.unique(np.asarray(documents_C), return_inverse=True)
    w_C = np.ones(len(d_C)) if weights_C is None else np.asarray(weights_C, dtype=np.float64)
    assert v_SC.shape[1:] == d_C.shape == w_C.shape
    assert np.isfinite(v_SC).all()
    assert (w_C > 0).all()
    seeds, sections = v_SC.shape
    assert sections >= 2
    documents = len(names)
    u_C = w_C / w_C.mean()
    u_D = np.bincount(d_C, u_C)
    x_C = v_SC.mean(0)
    x_D = np.bincount(d_C, u_C * x_C) / u_D
    mean = float(u_C @ x_C) / sections
    m_S = v_SC @ u_C / sections

    residual = 0.0
    if seeds > 1:
        rest_SC = v_SC - x_C - (m_S - mean)[:, None]
        residual = float((rest_SC**2 @ u_C).sum()) / ((seeds - 1) * (sections - 1))
    within_df = sections - documents
    between = float(u_D @ (x_D - mean) ** 2)
    document: float | None = None
    if within_df:
        inside = float(u_C @ (x_C - x_D[d_C]) ** 2) / within_df
        if documents > 1:
            share = sections - float(u_D @ u_D) / sections
            document = max(0.0, (between - (documents - 1) * inside) / share)
    else:  # a section a document: what differs between documents is all there is
        inside, document = between / (documents - 1), 0.0
    seed = None if seeds == 1 else max(0.0, float(m_S.var(ddof=1)) - residual / sections)
    return VarianceComponents(
        seed=seed,
        document=document,
        section=max(0.0, inside - residual / seeds),
        residual=residual,
        seed_df=seeds - 1,
        document_df=documents - 1,
        section_df=within_df or documents - 1,
        sections_per_document=sections / documents,
    )


def difference_components(
    first_SC: ArrayLike, second_RC: ArrayLike, *, weights_C: ArrayLike | None = None
) -> VarianceComponents:
    """Variance components of the mean of the first less that of the second, on the same units (each
    a document of one section), with seeds that each has for itself: S = R of them, at least 2.

    Variances of seeds and of seed and unit together are the sums of both sides', which are
    independent; `seed_df` is that of both. With x_c the difference of the means over seeds, the
    mean of sum u_c (x_c - x)^2 / (C - 1) is section + residual / S (`variance_components`).
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (first_SC, second_RC)]
    seeds, units = sides[0].shape
    assert len(sides[1]) == seeds > 1
    documents_C = np.arange(units)
    first, second = (variance_components(v, documents_C, weights_C=weights_C) for v in sides)
    assert first.seed is not None
    assert second.seed is not None
    mean_1C = (sides[0].mean(0) - sides[1].mean(0))[None]
    both = variance_components(mean_1C, documents_C, weights_C=weights_C)
    residual = first.residual + second.residual
    return VarianceComponents(
        seed=first.seed + second.seed,
        document=0.0,
        section=max(0.0, both.section - residual / seeds),
        residual=residual,
        seed_df=first.seed_df + second.seed_df,
        document_df=units - 1,
        section_df=units - 1,
        sections_per_document=1.0,
    )
