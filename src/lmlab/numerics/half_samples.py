"""Half of the texts, many times: how far a statistic that is no smooth function of sums would
change with other texts.

The values over random halves of the units, drawn without replacement, lie about the estimate as it
lies about the truth: a half has half the units and none twice, and the two shares cancel (the
delete-d jackknife with d half of the units; Wu 1986, Ann. Statist. 14; Shao and Wu 1989, Ann.
Statist. 17; for trees Felsenstein 1985, Evolution 39).

Notable: a bootstrap draws units twice, and rows that occur twice are each other's nearest
neighbours in every model. The delete-one jackknife fails for what changes in steps, as trees do.

Shapes: R draws, C units of text.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS, Interval, these_documents


def half_samples(units: int, draws: int, *, seed: int = 0) -> NDArray[np.bool_]:
    """Which units are in each random half (R, C)."""
    assert units >= 2
    rng = np.random.default_rng(seed)
    rank_RC = rng.random((draws, units)).argsort(1).argsort(1)
    return rank_RC < units // 2


def half_sample_interval(
    estimate: float, values_R: ArrayLike, *, units: int, documents: int, level: float = 0.95
) -> Interval:
    """Interval over text, for these models: percentiles of the values over halves of the units,
    widened to the estimate where it lies outside.

    `documents` is how many the units are from; fewer than five give an interval for these only.
    """
    value_R = np.asarray(values_R, np.float64)
    low, high = np.quantile(value_R, [(1 - level) / 2, (1 + level) / 2])
    over_texts = documents >= MINIMUM_DOCUMENTS
    notes = ["one model each: the interval covers the choice of text, not of the seed"]
    if not over_texts:
        notes.insert(0, these_documents(documents))
    return Interval(
        estimate, min(float(low), estimate), max(float(high), estimate), float(value_R.std()),
        None, level, 1, units, documents,
        "text only" if over_texts else "these documents only", "; ".join(notes),
    )  # fmt: skip
