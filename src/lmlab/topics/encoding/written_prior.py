"""Can a headless model's prior be written into its embedding, so that a head without bias predicts?

A headless model predicts by E h + log p. With E'_w = E_w + log p_w d the bias becomes
log p_w (d . h): exact where d . h = 1 in every context. For a LayerNorm model such a d exists,
along g = 1 / gamma (`models.export` uses it), a bias in disguise; so there d is looked for in the
orthogonal complement of g. Directions, all with mean d . h = 1 over the estimation text:

- encoding: along the slope A of the encoding.
- mean state: along E[h], the shortest.
- least variance: along Cov(h)^-1 E[h], the nearest to 1 in mean square.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.models.export import constant_direction
from lmlab.numerics.random_effects import Interval
from lmlab.objectives.cross_entropy import cross_entropy_each
from lmlab.topics.encoding.of_model import Measured
from lmlab.topics.encoding.token_probability import States

Array = NDArray[np.float64]
_RIDGE = 1e-3  # of the mean variance of a dimension


@dataclass(frozen=True)
class WrittenPrior:
    """One head on the test split."""

    head: str
    nats_per_token: float
    difference: Interval
    """To the head with the bias, nats per token; above zero is worse."""
    deviation: float | None
    """Standard deviation of d . h over the test contexts, whose mean should be 1; None for heads
    without a direction."""


@torch.no_grad()
def written_prior(lm: LanguageModel, measured: Measured, states: States) -> list[WrittenPrior]:
    """Heads of a model with an output prior: with the bias, without, and written along directions.

    Directions come from what was `measured` on one text, and are judged on the `states` of another.
    Raises `UserError` for a model without an output bias.
    """
    head, moments = measured.head, measured.statistics
    if head.offset_V is None:
        raise UserError(f"{lm.name} has no output bias that could be written into its head")
    constant_D = constant_direction(lm.model)
    mean_D, covariance_DD = moments.mean_hidden_D, moments.covariance_DD
    inside_DD = np.eye(len(mean_D))
    if constant_D is not None:
        g_D = constant_D.cpu().numpy()
        inside_DD -= np.outer(g_D, g_D) / (g_D @ g_D)
    ridge = _RIDGE * float(np.trace(covariance_DD)) / len(mean_D)
    white_D = inside_DD @ np.linalg.solve(
        inside_DD @ covariance_DD @ inside_DD + ridge * np.eye(len(mean_D)), inside_DD @ mean_D
    )
    directions = {
        "written along the encoding": inside_DD @ measured.encoding.slope_D,
        "written along the mean state": inside_DD @ mean_D,
        "written with least variance": white_D,
    }
    base_N = _nats(states, head.embedding_VD, head.offset_V)
    heads = [_judged("with the bias", states, base_N, base_N, None)]
    heads.append(_judged("without", states, _nats(states, head.embedding_VD, None), base_N, None))
    test_ND = states.hidden_ND.double().cpu().numpy()
    # the prior up to a constant, which no softmax sees; small numbers move the embedding least
    log_p_V = head.offset_V - head.offset_V.mean()
    for name, direction_D in directions.items():
        d_D = direction_D / float(direction_D @ mean_D)
        nats_N = _nats(states, head.embedding_VD + np.outer(log_p_V, d_D), None)
        heads.append(_judged(name, states, nats_N, base_N, float((test_ND @ d_D).std())))
    return heads


def _nats(states: States, embedding_VD: Array, bias_V: Array | None) -> Array:
    kind, device = states.hidden_ND.dtype, states.hidden_ND.device
    nats_N = cross_entropy_each(
        states.hidden_ND,
        torch.from_numpy(embedding_VD).to(device, kind),
        states.targets_N,
        bias_V=None if bias_V is None else torch.from_numpy(bias_V).to(device, kind),
    )
    return nats_N.double().cpu().numpy()


def _judged(
    name: str, states: States, nats_N: Array, base_N: Array, deviation: float | None
) -> WrittenPrior:
    difference = states.clusters.ratio(nats_N - base_N, np.ones(len(nats_N)))
    return WrittenPrior(name, float(nats_N.mean()), difference, deviation)
