"""Differences in nats per token on the same windows: between two kinds of models of one tokenizer,
and between models and a source whose entropy, their floor, is known exactly.

Paired by window, resampled by document, crossed with training seeds: the interval covers other
texts and other seeds (`numerics.random_effects`).

A model's nats minus the source's own surprisal of the same string have the Kullback-Leibler
divergence as their mean (never negative), and far less noise than its nats minus the entropy: the
luck of the held-out sample cancels. The floor is the same in both directions.

Legend: S seeds, N windows (of a source: whole strings).
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
