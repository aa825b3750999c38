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
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.topics.scoring.difference import difference_per_token


def excess_over_floor(
    nll_SN: ArrayLike, surprisal_N: ArrayLike, tokens_N: ArrayLike, clusters: Clusters
) -> Interval:
    """Mean excess of models over the exact source, nats per token, with its 95 % interval.

    Args:
        nll_SN: nats of each string under the model of each seed (one dimension: one seed).
        surprisal_N: exact nats of each string under its source (`Source.surprisal`).
        tokens_N: tokens of each string.
        clusters: the cluster and document of each string.

    `sum (nll - surprisal) / sum tokens`; interval over seeds and strings as in
    `numerics.random_effects`.

    Raises `UserError` for shapes that do not fit, or a string that the source cannot make.
    """
    nll = np.atleast_2d(np.asarray(nll_SN, dtype=np.float64))
    surprisal = np.asarray(surprisal_N, dtype=np.float64)
    if surprisal.ndim != 1 or nll.shape[1:] != surprisal.shape:
        raise UserError(
            f"nll_SN {nll.shape} and surprisal_N {surprisal.shape} must have one value for each "
            "window, which is a whole string"
        )
    if not np.isfinite(surprisal).all():
        n = int(np.flatnonzero(~np.isfinite(surprisal))[0])
        raise UserError(
            f"window {n} is not a string of the source (its probability is 0); the floor is that "
            "of another source, or the windows cut its strings"
        )
    return difference_per_token(nll, np.broadcast_to(surprisal, nll.shape), tokens_N, clusters)
