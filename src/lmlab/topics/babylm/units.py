"""From what one model gives on a task to units, whose weighted mean is its score.

Notable: a score that is no mean (a correlation, a share of variance) has the pseudo-values of its
delete-one jackknife (Tukey 1958), C s - (C - 1) s_c, whose mean it is but for the correction of its
bias; so it is compared over seeds and units as means are.

Shapes: N items, C units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lmlab.numerics.jackknife import pseudo_values
from lmlab.numerics.random_effects import MINIMUM_CLUSTERS, Clusters
from lmlab.topics.babylm.comparison import Units


def sets_of_items(units: Sequence[str] | None) -> Clusters | None:
    """The sets of a task's items (`Task.units`); None where the items themselves are the units: in
    a task without sets, or with fewer than `MINIMUM_CLUSTERS`."""
    sets = None if units is None else Clusters(units)
    return None if sets is None or sets.clusters < MINIMUM_CLUSTERS else sets


def units_of_items(values_N: ArrayLike, units: Sequence[str] | None, weights_N: ArrayLike) -> Units:
    """Units of values of items with their weights in the score (`Task.units`, `Task.weights`): the
    sets of `sets_of_items`, else the items."""
    values, weights = (np.asarray(v, dtype=np.float64) for v in (values_N, weights_N))
    sets = sets_of_items(units)
    if sets is None:
        return Units(tuple(map(str, range(len(values)))), values, weights)
    sum_C, weight_C = sets.sums([values * weights, weights])
    return Units(tuple(map(str, sets.documents_C.tolist())), sum_C / weight_C, weight_C)


def units_of_jackknife(score: float, without_C: ArrayLike, names: Sequence[str]) -> Units:
    """Units of a score that was computed again without each of C units."""
    return Units(tuple(names), pseudo_values(score, without_C), np.ones(len(names)))
