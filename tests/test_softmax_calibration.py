"""Calibration by two scalars: the truth is found, and scipy's minimum is the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from lmlab.numerics import softmax_calibration
from lmlab.numerics.softmax_calibration import fit_two_scalars


def data(a, b, *, rows=4000, vocabulary=30, width=6, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, width)).astype(np.float32)
    embedding = rng.normal(size=(vocabulary, width)).astype(np.float32)
    prior = np.log(rng.dirichlet(np.full(vocabulary, 0.5)) + 1e-4).astype(np.float32)
    scores = a * hidden @ embedding.T + b * prior
    gumbel = rng.gumbel(size=scores.shape)
    return hidden, embedding, prior, (scores + gumbel).argmax(1)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.3, 1.5), (1.7, 0.2)])
def test_the_scalars_that_made_the_data_are_found(a, b):
    made = fit_two_scalars(*data(a, b))
    assert made[0] == pytest.approx(a, abs=0.08)
    assert made[1] == pytest.approx(b, abs=0.12)


def test_it_is_scipys_minimum(monkeypatch):
    hidden, embedding, prior, targets = data(0.5, 1.3, rows=300)

    def loss(at):
        scores = (at[0] * hidden @ embedding.T + at[1] * prior).astype(np.float64)
        log_sum = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
        return (log_sum - scores[np.arange(300), targets]).mean()

    best = minimize(loss, [1.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    made = fit_two_scalars(hidden, embedding, prior, targets)
    assert made[:2] == pytest.approx(best.x, abs=1e-4)
    assert made[2] == pytest.approx(best.fun, abs=1e-8)
    monkeypatch.setattr(softmax_calibration, "_CHUNK", 64)  # two rows at a time
    assert fit_two_scalars(hidden, embedding, prior, targets) == pytest.approx(made, abs=1e-9)


def test_a_prior_without_information_leaves_the_rest():
    hidden, embedding, prior, targets = data(0.8, 0.0)
    made = fit_two_scalars(hidden, embedding, np.full_like(prior, -3.0), targets)
    assert made[0] == pytest.approx(0.8, abs=0.08)
    assert np.isfinite(made).all()
