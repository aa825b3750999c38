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

from lmlab.numerics.random_effects import MINIMUM_CLUSTERS, Clusters
from lmlab.topics.babylm.comparison import Units


def units_of_items(values_N: ArrayLike, sets: Sequence[str] | None) -> Units:
    """Units of values of items: their sets, each weighing the same; where there are fewer than
    `MINIMUM_CLUSTERS`, the items, each set weighing the same; without sets the items."""
    values = np.asarray(values_N, dtype=np.float64)
    items = tuple(map(str, range(len(values))))
    if sets is None:
        return Units(items, values, np.ones(len(values)))
    clusters = Clusters(sets)
    count_C = clusters.sums(np.ones(len(sets)))[0]
    if len(count_C) >= MINIMUM_CLUSTERS:
        names = tuple(map(str, clusters.documents_C.tolist()))
        return Units(names, clusters.sums(values)[0] / count_C, np.ones(len(count_C)))
    size = dict(zip(clusters.documents_C.tolist(), count_C.tolist(), strict=True))
    return Units(items, values, np.array([1 / size[name] for name in sets]))


def units_of_jackknife(score: float, without_C: ArrayLike, names: Sequence[str]) -> Units:
    """Units of a score that was computed again without each of C units."""
    without = np.asarray(without_C, dtype=np.float64)
    count = len(without)
    return Units(tuple(names), count * score - (count - 1) * without, np.ones(count))
