"""Which of several settings has the least mean, and how sure that is.

Notable: the best is chosen by the losses that it is then compared by, so an adjustment for the
order of the differences (Holm) would not do. Say that k is best where the t test of every other
setting against k rejects at a / (K - 1). A wrong k is only ever named where the test of the truly
best one against it rejects, although it is not worse; there are at most K - 1 such tests, so the
probability of naming a wrong one is at most a, whichever was chosen. (Multiple comparisons with the
best, Hsu 1984, Ann. Statist. 12, with Bonferroni's bound in place of equal variances: a rate that
is too high has losses that vary more.)

Shapes: K settings, S seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lmlab.numerics.random_effects import Interval, interval_over_seeds
from lmlab.numerics.verdicts import Evidence

_LEVEL = 0.95


@dataclass(frozen=True)
class Best:
    """The setting with the least mean, the others against it, and how sure that is."""

    index: int
    """The first of those with the least mean."""
    above: tuple[Interval | None, ...]
    """Each mean less the best one's, paired by seed; all intervals hold together at 95 %. None for
    the best itself."""
    p_values: tuple[float | None, ...]
    """Two-sided, adjusted for the number of settings; None without an interval."""

    @property
    def p_value(self) -> float | None:
        """That of the least certain comparison: whether this one is the best; None for one seed."""
        known = [p for p in self.p_values if p is not None]
        return max(known) if known else None

    @property
    def next(self) -> int | None:
        """The setting with the least mean of the others."""
        others = [(value.estimate, k) for k, value in enumerate(self.above) if value is not None]
        return min(others)[1] if others else None

    @property
    def as_good(self) -> tuple[int, ...]:
        """The others that are not shown to be worse, the least mean first."""
        others = [
            (value.estimate, k)
            for k, value in enumerate(self.above)
            if value is not None and (value.low is None or value.low <= 0)
        ]
        return tuple(k for _, k in sorted(others))


def least_mean(values_KS: ArrayLike) -> Best:
    """The best of K rows by their means, for the same S seeds each."""
    v_KS = np.asarray(values_KS, dtype=np.float64)
    index, comparisons = int(v_KS.mean(axis=1).argmin()), len(v_KS) - 1
    above = tuple(
        None
        if k == index
        else interval_over_seeds(row_S - v_KS[index], level=1 - (1 - _LEVEL) / comparisons)
        for k, row_S in enumerate(v_KS)
    )
    p_values = [value and Evidence.of(value).p_value for value in above]
    return Best(
        index, above, tuple(None if p is None else min(1.0, comparisons * p) for p in p_values)
    )
