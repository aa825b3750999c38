"""The difference between two kinds of models on the same windows, in nats per token.

Paired by window, resampled by document, crossed with training seeds: the interval covers other
texts and other seeds (`numerics.random_effects`). Between models of equal tokenizer only.

Legend: S seeds, N windows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lmlab.errors import UserError
from lmlab.numerics.random_effects import Clusters, Interval


def difference_per_token(
    nats_SN: ArrayLike, reference_SN: ArrayLike, tokens_N: ArrayLike, clusters: Clusters
) -> Interval:
    """`sum (nats - reference) / sum tokens` over all seeds and windows, with its 95 % interval.

    Args:
        nats_SN, reference_SN: nats of each window, a row a seed (one dimension: one seed); the
            seeds of both are pairs (equal data order and initial weights).
        tokens_N: tokens of each window.
        clusters: the cluster and document of each window.

    `exp` of it is the ratio of perplexities. Raises `UserError` for shapes that do not fit.
    """
    nats, reference = (
        np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in (nats_SN, reference_SN)
    )
    tokens = np.asarray(tokens_N, dtype=np.float64)
    if (
        nats.ndim != 2
        or nats.shape != reference.shape
        or tokens.shape != nats.shape[1:]
        or (len(clusters),) != tokens.shape
    ):
        raise UserError(
            f"nats_SN {nats.shape}, reference_SN {reference.shape}, tokens_N {tokens.shape} and "
            f"clusters ({len(clusters)}) must have one value for each window and seed"
        )
    return clusters.ratio(nats - reference, np.broadcast_to(tokens, nats.shape))
