"""Which of several settings has the least mean, and how sure that is.

The best is chosen by the losses that it is then compared by. Two things may still be said:

- It is truly the best where it differs from every other at 5 % (t test, two-sided, paired by seed),
  without any adjustment for their number: winning against all others by luck is rarer than against
  one. (Hung and Fithian 2019, Ann. Statist. 47, prove it for normal values of one variance. For
  paired t tests and variances that differ up to 10,000-fold it is simulated in
  tests/test_tuning.py: a wrong one is named in at most 5 %, of more than two settings in 3 %.)
- The truly best one is among those that do not differ from the least mean at 5 % / (K - 1): it is
  left out only where one of K - 1 tests is wrong (Gupta 1965, Technometrics 7, with Bonferroni's
  bound). That is what the adjusted p-values are for.

Shapes: K settings, S seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lmlab.numerics.random_effects import Interval, interval_over_seeds
from lmlab.numerics.verdicts import Evidence

_LEVEL = 0.05


@dataclass(frozen=True)
class Best:
    """The setting with the least mean, and the others against it. What is None is so for the best
    itself, p-values also with one seed."""

    index: int
    """The first of those with the least mean."""
    above: tuple[Interval | None, ...]
    """Each mean less the best one's, paired by seed; each interval for itself."""
    p_values: tuple[float | None, ...]
    """Two-sided, adjusted for the number of settings."""

    @property
    def p_value(self) -> float | None:
        """Of the least certain comparison, not adjusted: that another is truly the best."""
        plain = [value and Evidence.of(value).p_value for value in self.above]
        return max((p for p in plain if p is not None), default=None)

    @property
    def is_shown(self) -> bool:
        """Whether it is shown to be the best."""
        return self.p_value is not None and self.p_value < _LEVEL

    @property
    def as_good(self) -> tuple[int, ...]:
        """The others that may be the best, the least mean first."""
        others = [
            (value.estimate, k)
            for k, (value, p) in enumerate(zip(self.above, self.p_values, strict=True))
            if value is not None and (p is None or p >= _LEVEL)
        ]
        return tuple(k for _, k in sorted(others))

    @property
    def next(self) -> int | None:
        """The setting with the least mean of the others."""
        others = [(value.estimate, k) for k, value in enumerate(self.above) if value is not None]
        return min(others)[1] if others else None


def least_mean(values_KS: ArrayLike) -> Best:
    """The best of K rows by their means, for the same S seeds each."""
    v_KS = np.asarray(values_KS, dtype=np.float64)
    index = int(v_KS.mean(axis=1).argmin())
    above = tuple(
        None if k == index else interval_over_seeds(row_S - v_KS[index])
        for k, row_S in enumerate(v_KS)
    )
    plain = [value and Evidence.of(value).p_value for value in above]
    adjusted = tuple(None if p is None else min(1.0, (len(v_KS) - 1) * p) for p in plain)
    return Best(index, above, adjusted)
