"""Directions that matter least on a text, against brute force, optimisation and theorems.

Shapes: N contexts, V types, D width, K kept directions.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.numerics.text_directions import least_first, mean_fisher
from tolerances import OF_FLOAT32

WIDTH, TYPES, CONTEXTS = 5, 11, 40


def text(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing_DD = rng.normal(size=(WIDTH, WIDTH))
    hidden_ND = rng.normal(size=(CONTEXTS, WIDTH)) @ mixing_DD + rng.normal(size=WIDTH)
    return rng.normal(size=(TYPES, WIDTH)), rng.normal(size=TYPES), hidden_ND


def covariance(hidden_ND: np.ndarray) -> np.ndarray:
    return np.cov(hidden_ND, rowvar=False, bias=True)


def lost(hidden_ND: np.ndarray, removing_DD: np.ndarray) -> np.ndarray:
    """The part (N, D) of centred states that goes."""
    return (hidden_ND - hidden_ND.mean(0)) @ removing_DD


@given(st.integers(0, 10_000), st.integers(1, WIDTH - 1))
def test_logits_are_approximated_as_well_as_any_of_this_rank(seed, removed):
    embedding_VD, _, hidden_ND = text(seed)
    centred_VD = embedding_VD - embedding_VD.mean(0)
    basis_DD, back_DD = least_first(centred_VD.T @ centred_VD, covariance(hidden_ND))
    np.testing.assert_allclose(basis_DD.T @ back_DD, np.eye(WIDTH), atol=1e-6)
    gone_ND = lost(hidden_ND, basis_DD[:, :removed] @ back_DD[:, :removed].T)
    error = ((gone_ND @ centred_VD.T) ** 2).sum()
    singular = np.linalg.svd((hidden_ND - hidden_ND.mean(0)) @ centred_VD.T, compute_uv=False)
    least = (singular[WIDTH - removed : WIDTH] ** 2).sum()  # Eckart and Young
    assert error == pytest.approx(least, rel=1e-5)


def test_the_mean_fisher_is_the_mean_covariance_of_the_embedding():
    embedding_VD, bias_V, hidden_ND = text(0)
    logits_NV = hidden_ND @ embedding_VD.T + bias_V
    p_NV = np.exp(logits_NV - np.logaddexp.reduce(logits_NV, axis=1)[:, None])
    expected_DD = np.mean(
        [np.cov(embedding_VD, rowvar=False, bias=True, aweights=p_V) for p_V in p_NV], axis=0
    )
    found_DD = mean_fisher(embedding_VD, bias_V, hidden_ND)
    np.testing.assert_allclose(found_DD, expected_DD, rtol=OF_FLOAT32, atol=1e-5)


def test_half_the_fisher_is_the_second_order_of_the_divergence():
    embedding_VD, bias_V, hidden_ND = text(1)
    step_D = 1e-3 * np.random.default_rng(2).normal(size=WIDTH)

    def log_p(states_ND: np.ndarray) -> np.ndarray:
        logits_NV = states_ND @ embedding_VD.T + bias_V
        return logits_NV - np.logaddexp.reduce(logits_NV, axis=1)[:, None]

    before_NV, after_NV = log_p(hidden_ND), log_p(hidden_ND + step_D)
    kl = (np.exp(before_NV) * (before_NV - after_NV)).sum(1).mean()
    fisher_DD = mean_fisher(embedding_VD, bias_V, hidden_ND)
    assert kl == pytest.approx(step_D @ fisher_DD @ step_D / 2, rel=0.02)


@given(st.integers(0, 10_000), st.integers(1, WIDTH - 1))
def test_no_other_projection_costs_less(seed, removed):
    embedding_VD, bias_V, hidden_ND = text(seed)
    metric_DD = mean_fisher(embedding_VD, bias_V, hidden_ND)
    basis_DD, back_DD = least_first(metric_DD, covariance(hidden_ND))

    def cost(removing_DD: np.ndarray) -> float:
        gone_ND = lost(hidden_ND, removing_DD)
        return float(np.einsum("nd,de,ne->", gone_ND, metric_DD, gone_ND))

    chosen = cost(basis_DD[:, :removed] @ back_DD[:, :removed].T)
    rng = np.random.default_rng(seed)
    for _ in range(20):  # any rank, any angle: what stays is of rank WIDTH - removed
        kept_DK, read_DK = rng.normal(size=(2, WIDTH, WIDTH - removed))
        assert chosen <= cost(np.eye(WIDTH) - kept_DK @ read_DK.T) * (1 + 1e-9)


def test_directions_that_a_text_does_not_fill_go_first():
    embedding_VD, bias_V, hidden_ND = text(3)
    hidden_ND[:, 2] = 1.5  # never moves
    basis_DD, back_DD = least_first(
        mean_fisher(embedding_VD, bias_V, hidden_ND), covariance(hidden_ND)
    )
    assert np.isfinite(basis_DD).all()
    gone_ND = lost(hidden_ND, basis_DD[:, :1] @ back_DD[:, :1].T)
    assert np.abs(gone_ND).max() < 1e-3
