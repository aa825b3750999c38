"""How far models stay above the entropy of a source that is known exactly.

A model's nats minus the source's own surprisal of the same string have the Kullback-Leibler
divergence as their mean (never negative), and far less noise than its nats minus the entropy: the
luck of the held-out sample cancels. The floor is the same in both directions.

Legend: S seeds, N windows (whole strings).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lmlab.errors import UserError
from lmlab.numerics.random_effects import Interval, sums_by_cluster, two_way_ratio


def excess_over_floor(
    nll_SN: ArrayLike, surprisal_N: ArrayLike, tokens_N: ArrayLike, clusters_N: ArrayLike
) -> Interval:
    """Mean excess of models over the exact source, nats per token, with its 95 % interval.

    Args:
        nll_SN: nats of each string under the model of each seed (one dimension: one seed).
        surprisal_N: exact nats of each string under its source (`Source.surprisal`).
        tokens_N: tokens of each string.
        clusters_N: the cluster of each string.

    `sum (nll - surprisal) / sum tokens`; interval over seeds and strings as in
    `numerics.random_effects`.

    Raises `UserError` for shapes that do not fit, or a string that the source cannot make.
    """
    nll = np.atleast_2d(np.asarray(nll_SN, dtype=np.float64))
    surprisal = np.asarray(surprisal_N, dtype=np.float64)
    tokens, labels = np.asarray(tokens_N, dtype=np.float64), np.asarray(clusters_N)
    if nll.ndim != 2 or any(a.shape != nll.shape[1:] for a in (surprisal, tokens, labels)):
        raise UserError(
            f"nll_SN {nll.shape}, surprisal_N {surprisal.shape}, tokens_N {tokens.shape} and "
            f"clusters_N {labels.shape} must have one value for each window"
        )
    if not np.isfinite(surprisal).all():
        n = int(np.flatnonzero(~np.isfinite(surprisal))[0])
        raise UserError(
            f"window {n} is not a string of the source (its probability is 0); the floor is that "
            "of another source, or the windows cut its strings"
        )
    return two_way_ratio(
        sums_by_cluster(nll - surprisal, labels),
        sums_by_cluster(np.broadcast_to(tokens, nll.shape), labels),
    )
