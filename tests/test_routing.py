"""A gate between two models: its fit against closed forms and another optimiser, what it gains
against a loop over single windows, and sources where the best gate is known.

Shapes: N tokens, F features.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

import lmlab
from helpers import tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.numerics.gate import (
    chosen_ridge,
    fit_gate,
    mixture_nats,
    responsibility,
)
from lmlab.topics.routing.routing import (
    BETTER,
    CONSTANT,
    EQUAL,
    GATE,
    ORACLE,
    PICKED,
    SINGLE,
    Routing,
    route,
)
from lmlab.training.loop import train

nats = st.floats(0.0, 40.0)


@settings(max_examples=60, deadline=None)
@given(st.floats(-30, 30), nats, nats)
def test_mixture_and_responsibility_are_those_of_the_probabilities(logit, first, second):
    g = 1 / (1 + np.exp(-logit))
    rest = 1 / (1 + np.exp(logit))
    p, q = np.exp(-first), np.exp(-second)
    one = np.array([first]), np.array([second])
    assert float(mixture_nats(logit, *one)[0]) == pytest.approx(-np.log(g * p + rest * q), rel=1e-9)
    made = g * p / (g * p + rest * q)
    assert float(responsibility(logit, *one)[0]) == pytest.approx(made, rel=1e-9, abs=1e-12)


def drawn(n=400, f=3, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, f)) * np.arange(1, f + 1) + 5
    first, second = rng.exponential(2.0, size=(2, n))
    return features, first + (features[:, 0] < 5), second


def test_the_fit_is_that_of_another_optimiser():
    features, first, second = drawn()
    gate = fit_gate(features, first, second, ridge=0.01)
    scaled = (features - features.mean(0)) / features.std(0)

    def loss(parameters):
        g = 1 / (1 + np.exp(-(scaled @ parameters[:3] + parameters[3])))
        mixed = g * np.exp(-first) + (1 - g) * np.exp(-second)
        return -np.log(mixed).mean() + 0.005 * parameters[:3] @ parameters[:3]

    other = minimize(loss, np.zeros(4), method="Nelder-Mead",
                     options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 10_000}).x  # fmt: skip
    assert np.append(gate.weight_F, gate.bias) == pytest.approx(other, abs=1e-4)
    assert gate.logit(features) == pytest.approx(scaled @ other[:3] + other[3], abs=1e-3)


def test_at_the_optimum_the_mean_weight_is_the_mean_responsibility():
    features, first, second = drawn(seed=1)
    gate = fit_gate(features, first, second, ridge=0.1)
    logit = gate.logit(features)
    made = responsibility(logit, first, second)
    assert expit(logit).mean() == pytest.approx(made.mean(), abs=1e-5)


def test_one_weight_is_where_em_ends():
    _, first, second = drawn(seed=2)
    fitted = fit_gate(np.zeros((400, 0)), first, second, ridge=0.0)
    weight = 0.5
    for _ in range(20_000):
        logit = np.log(weight / (1 - weight))
        weight = responsibility(logit, first, second).mean()
    assert float(expit(fitted.bias)) == pytest.approx(weight, abs=1e-4)


def test_a_feature_that_tells_is_used_and_noise_is_shrunk():
    rng = np.random.default_rng(3)
    tells = rng.integers(0, 2, 4000)
    noise = rng.normal(size=(4000, 30))
    first, second = np.where(tells, 0.1, 3.0), np.where(tells, 3.0, 0.1)
    features = np.column_stack([tells, noise]).astype(np.float64)
    folds = np.arange(4000) % 4
    ridge = chosen_ridge(features, first, second, folds, (1e-4, 1e-2, 10.0))
    gate = fit_gate(features, first, second, ridge=ridge)
    assert ridge < 10
    right = expit(gate.logit(features)) > 0.5
    assert (right == (tells == 1)).mean() > 0.99
    assert np.abs(gate.weight_F[1:]).max() < 0.1 * gate.weight_F[0]
    # with equal experts no weight is worth a penalty
    level = np.full(4000, 1.0)
    noise_only = chosen_ridge(noise, level, level + rng.normal(size=4000), folds, (1e-6, 1.0))
    assert noise_only == 1.0


@pytest.fixture(scope="module")
def models(text_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("routing")
    model = ModelConfig(layers=1, heads=2, width=16)
    return {
        name: train(tiny_training(text_store, folder / name, model=model, context=16, **more)).path
        for name, more in {
            "a": {"seed": 0, "steps": 20},
            "b": {"seed": 1, "steps": 20},
            "backward": {"order": "backward"},
        }.items()
    }


@pytest.fixture(scope="module")
def routed(models, text_store):
    first, second = (open_model(str(models[name])) for name in "ab")
    return route(first, second, text_store, single=first, context=16)


def test_each_way_to_predict_is_what_single_windows_give(routed, models, text_store):
    first, second = (open_model(str(models[name])) for name in "ab")
    windows = first.windows(text_store, "test", context=16)
    names = (EQUAL, CONSTANT, GATE, PICKED, ORACLE, SINGLE)
    totals: dict[str, float] = dict.fromkeys(names, 0.0)
    tokens, share = 0, 0.0
    for row in range(len(windows)):
        ids = torch.from_numpy(np.asarray(windows.ids(row), dtype=np.int64))
        inputs = torch.cat([torch.tensor([first.tokenizer.bos_id]), ids[:-1]])[None]
        probability, states = [], []
        for lm in (first, second):
            with torch.no_grad():
                out = lm.model(inputs, output_hidden_states=True)
            chosen = out.logits[0].double().softmax(-1)[torch.arange(len(ids)), ids]
            probability.append(chosen.numpy())
            states.append(out.hidden_states[-1][0].numpy())
        p, q = probability
        scaled = (np.concatenate(states, 1) - routed.gate.mean_F) / routed.gate.scale_F
        g = 1 / (1 + np.exp(-(scaled @ routed.gate.weight_F + routed.gate.bias)))
        c = routed.constant
        for name, mixed in (
            (EQUAL, (p + q) / 2),
            (CONSTANT, c * p + (1 - c) * q),
            (GATE, g * p + (1 - g) * q),
            (PICKED, np.where(g >= 0.5, p, q)),
            (ORACLE, np.maximum(p, q)),
            (SINGLE, p),
        ):
            totals[name] -= np.log(mixed).sum()
        tokens += len(ids)
        share += g.sum()
    assert routed.tokens == tokens
    for name, total in totals.items():
        assert routed.alternative(name).nats.estimate == pytest.approx(total / tokens, abs=2e-5)
    assert routed.weight.estimate == pytest.approx(share / tokens, abs=1e-4)


def test_gains_are_differences_and_parts_add_up(routed):
    best = routed.alternative(BETTER).nats.estimate
    gate = routed.alternative(GATE).nats.estimate
    for alternative in routed.alternatives:
        if alternative.gain is not None:
            assert alternative.gain.estimate == pytest.approx(best - alternative.nats.estimate)
        if alternative.gate_gain is not None:
            assert alternative.gate_gain.estimate == pytest.approx(alternative.nats.estimate - gate)
    assert sum(b.tokens for b in routed.bins) == routed.tokens
    assert sum(d.tokens for d in routed.documents) == routed.tokens
    weight = sum(d.tokens * d.weight for d in routed.documents) / routed.tokens
    for number, alternative in enumerate(routed.alternatives):
        whole = sum(d.tokens * d.nats[number] for d in routed.documents) / routed.tokens
        assert whole == pytest.approx(alternative.nats.estimate, rel=1e-9)
    assert weight == pytest.approx(routed.weight.estimate)
    assert routed.better in (routed.first, routed.second)


def test_a_model_and_itself_gain_nothing(models, text_store):
    lm = open_model(str(models["a"]))
    result = route(lm, lm, text_store, context=16)
    for name in (EQUAL, CONSTANT, GATE, PICKED, ORACLE):
        gain = result.alternative(name).gain
        assert gain is not None
        assert gain.estimate == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_routed_is_refused(models, text_store):
    first, backward = (open_model(str(models[name])) for name in ("a", "backward"))
    with pytest.raises(UserError, match="causal models of one order"):
        route(first, backward, text_store, context=8)
    with pytest.raises(UserError, match="measured on the text that it was fitted on"):
        route(first, first, text_store, split="validation")


def test_the_command_writes_a_page_and_a_result_that_can_be_read(models, text_store, tmp_path):
    out = tmp_path / "out"
    both = [str(models["a"]), str(models["b"])]
    options = ["--store", str(text_store.path), "--context", "16", "--out", str(out)]
    assert main(["route", *both, *options]) == 0
    page = (out / "report.html").read_text()
    assert "With the gate the text costs" in page
    result = lmlab.read(out)
    assert isinstance(result, Routing)
    assert json.loads(json.dumps(result.to_json())) == result.to_json()
    assert result.gate.weight_F.shape == (32,)
    assert main(["route", *both, *options, "--split", "validation"]) == 2
