"""Steering: exact undo, closed forms, fixed points, what is written, and what is refused.

Shapes: N contexts, K edited tokens, D width, V vocabulary.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from helpers import symbols_tokenizer, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.models.export import constant_direction
from lmlab.models.head import attach_bias
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.topics.encoding.edits import (
    exact_sizes,
    minimum_norm_direction,
    shifted,
    sparse_direction,
    whitened_direction,
)
from lmlab.topics.encoding.encoding import fit_encoding
from lmlab.topics.encoding.of_model import measure
from lmlab.topics.encoding.steering import plan, steer
from lmlab.topics.encoding.steering_effects import (
    effect,
    jensen_shannon,
    parse_factors,
    steering_effects,
    text_with_tokens,
    write_steered,
)
from lmlab.topics.encoding.token_probability import mean_token_probability, read_texts
from lmlab.training.loop import train
from tolerances import OF_FLOAT32, near

V, SYMBOLS = 60, 12


def model_of(architecture: Any = "gpt2", *, tied=False, vocabulary=V) -> Any:
    config = ModelConfig(architecture, layers=1, heads=2, width=8, tied=tied, initializer_range=0.3)
    built = build_config(config, vocabulary=vocabulary, context=20, bos_id=0, end_of_text_id=1)
    return build_model(built, seed=0).eval()


def windows(n=12, t=9):
    return torch.randint(V, (n, t), generator=torch.Generator().manual_seed(3))


def encoded(model, ids_NT):
    head = model.get_output_embeddings()
    return fit_encoding(head.weight.detach(), mean_token_probability(model, ids_NT))


@torch.no_grad()
def probabilities(model, ids_NT):
    return model(ids_NT).logits.double().softmax(-1).flatten(0, 1).numpy()


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("method", ["minimum_norm", "sparse", "whitened", "complement", "bias"])
@pytest.mark.parametrize("tied", [True, False])
def test_factors_are_met_and_undone_to_the_bit(method, tied):
    model = model_of(tied=tied)
    ids_NT = windows()
    encoding = encoded(model, ids_NT)
    before, p_NV = weights(model), probabilities(model, ids_NT)
    head = model.get_output_embeddings()
    # one dimension alone does not reach far in a model of random weights
    factors = {7: 0.97, 21: 1.05} if method == "sparse" else {7: 0.6, 21: 1.8, 40: 1.1}
    untie = tied and method != "bias"
    with steer(model, factors, encoding, method=method, windows_NT=ids_NT, untie=untie) as made:
        new_NV = probabilities(model, ids_NT)
        for token, factor in factors.items():
            assert new_NV[:, token].mean() / p_NV[:, token].mean() == pytest.approx(
                factor, rel=1e-5
            )
        others = [v for v in range(V) if v not in factors]
        odds_NV = new_NV[:, others] / p_NV[:, others]
        np.testing.assert_allclose(odds_NV, odds_NV[:, :1].repeat(len(others), 1), rtol=1e-4)
        embedding = model.get_input_embeddings().weight
        assert torch.equal(embedding, before["transformer.wte.weight"])
        changed = (model.get_output_embeddings().weight != before["lm_head.weight"]).any(1)
        assert set(changed.nonzero().flatten().tolist()) == (
            set() if method == "bias" else set(factors)
        )
        if method == "complement":
            g_D = constant_direction(model)
            assert g_D is not None
            assert np.abs(made.delta_KD @ g_D.numpy()).max() < 1e-9
    assert model.get_output_embeddings() is head
    same_bits(model, before)
    assert model.config.tie_word_embeddings is tied


def test_undone_after_an_error_too():
    model = model_of()
    before, encoding = weights(model), encoded(model, windows())
    with pytest.raises(KeyError), steer(model, {3: 2.0}, encoding):
        raise KeyError
    same_bits(model, before)


@pytest.mark.parametrize("r", [0.3, 2.0, 20.0])
def test_the_bias_is_its_closed_form(r):
    model = model_of()
    ids_NT = windows()
    encoding, p_NV = encoded(model, ids_NT), probabilities(model, ids_NT)
    with steer(model, {5: r}, encoding, method="bias"):
        new_NV = probabilities(model, ids_NT)
    p_N = p_NV[:, 5]
    np.testing.assert_allclose(new_NV[:, 5], r * p_N / (1 + (r - 1) * p_N), atol=1e-6)
    kl_N = (p_NV * np.log(p_NV / new_NV)).sum(1)
    np.testing.assert_allclose(kl_N, np.log(1 + (r - 1) * p_N) - p_N * np.log(r), atol=1e-6)


@settings(max_examples=15)
@given(st.floats(0.05, 3), st.floats(0.05, 3))
def test_edits_compose(first, second):
    model, encoding = MODEL, ENCODING
    together = plan(model, {4: first * second}, encoding, method="minimum_norm").delta_KD
    apart = [plan(model, {4: r}, encoding, method="minimum_norm").delta_KD for r in (first, second)]
    np.testing.assert_allclose(apart[0] + apart[1], together, atol=1e-12)
    with steer(model, {4: first}, encoding), steer(model, {4: second}, encoding):
        row_D = model.get_output_embeddings().weight[4].detach().clone()
    with steer(model, {4: first * second}, encoding):
        torch.testing.assert_close(model.get_output_embeddings().weight[4], row_D)
    assert not plan(model, {4: 1.0}, encoding, method="minimum_norm").delta_KD.any()


MODEL = model_of()
ENCODING = encoded(MODEL, windows())


def test_the_minimum_norm_edit_is_the_smallest_feasible_one():
    rng = np.random.default_rng(0)
    slope_D = rng.normal(size=8)
    best_D = minimum_norm_direction(slope_D)
    assert slope_D @ best_D == pytest.approx(-1)
    for _ in range(200):
        other_D = rng.normal(size=8)
        other_D /= -(slope_D @ other_D)
        assert np.linalg.norm(other_D) >= np.linalg.norm(best_D)
    covariance_DD = np.diag(rng.uniform(0.5, 2, 8))
    quiet_D = whitened_direction(slope_D, covariance_DD)
    assert slope_D @ quiet_D == pytest.approx(-1)
    for _ in range(200):
        other_D = quiet_D + 0.1 * rng.normal(size=8)
        other_D /= -(slope_D @ other_D)
        assert other_D @ covariance_DD @ other_D > quiet_D @ covariance_DD @ quiet_D * (1 - 1e-3)


def test_the_sparse_edit_keeps_its_limit_with_fewest_dimensions():
    slope_D, deviation_D = np.array([1.0, -3.0, 0.5, 2.0]), np.array([1.0, 0.5, 1.0, 0.1])
    for factor, dimensions in ((5.0, 1), (0.04, 2), (300.0, 3)):
        direction_D = sparse_direction(slope_D, deviation_D, factor)
        assert slope_D @ direction_D == pytest.approx(-1)
        assert (direction_D != 0).sum() == dimensions
        assert (np.abs(np.log(factor) * direction_D) <= 2 * deviation_D + 1e-12).all()
    with pytest.raises(UserError, match="standard deviations"):
        sparse_direction(slope_D, deviation_D, 1e9)


def test_equal_hidden_states_are_steered_exactly_up_to_normalisation():
    rng = np.random.default_rng(1)
    e_VD, h_D = rng.normal(size=(200, 6)), rng.normal(size=6)
    p_V = np.exp(e_VD @ h_D)
    p_V /= p_V.sum()
    direction_D = minimum_norm_direction(fit_encoding(e_VD, p_V).slope_D)
    for r in (0.1, 3.0, 20.0):
        e_VD[9] += np.log(r) * direction_D
        new_V = np.exp(e_VD @ h_D)
        new_V /= new_V.sum()
        assert new_V[9] == pytest.approx(r * p_V[9] / (1 + (r - 1) * p_V[9]))
        e_VD[9] -= np.log(r) * direction_D


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_exact_sizes_meet_their_targets(seed, tokens):
    rng = np.random.default_rng(seed)
    logits_NV = 2 * rng.normal(size=(50, 9))
    log_p_NV = logits_NV - np.logaddexp.reduce(logits_NV, axis=1)[:, None]
    log_p_NK, along_NK = log_p_NV[:, :tokens], rng.uniform(0.3, 1.5, (50, tokens))
    mean_K = np.exp(log_p_NK).mean(0)
    factors_K = rng.uniform(0.1, min(3.0, 0.9 / mean_K.sum()), tokens)
    size_K = exact_sizes(log_p_NK, along_NK, factors_K)
    new_NV = logits_NV.copy()
    new_NV[:, :tokens] += size_K * along_NK
    new_NV = np.exp(new_NV - np.logaddexp.reduce(new_NV, axis=1)[:, None])
    np.testing.assert_allclose(new_NV[:, :tokens].mean(0), factors_K * mean_K, rtol=1e-8)


def test_what_cannot_be_met_is_refused():
    log_p_NK = np.log(np.full((4, 1), 0.2))
    with pytest.raises(UserError, match=r"sum to 1\.2"):
        exact_sizes(log_p_NK, np.ones((4, 1)), np.array([6.0]))
    # as likely to fall as to rise: no size halves it
    along_NK = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    with pytest.raises(UserError, match="no size of edit"):
        exact_sizes(log_p_NK, along_NK, np.array([0.5]))
    model, ids_NT = model_of(), windows()
    encoding = encoded(model, ids_NT)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ({60: 2.0}, {}, "outside the vocabulary"),
        ({3: 0.0}, {}, "above 0"),
        ({3: float("inf")}, {}, "above 0"),
        ({}, {}, "at least one"),
        ({3: 1e6}, {}, "sum to"),
        ({3: 2.0}, {"method": "whitened"}, "needs windows"),
        ({3: 2.0}, {"method": "sideways"}, "unknown method"),
    ]
    for factors, options, message in wrong:
        with pytest.raises(UserError, match=message), steer(model, factors, encoding, **options):
            pass
    with pytest.raises(ValueError, match="tied"), steer(model_of(tied=True), {3: 2.0}, encoding):
        pass
    unchanged: list[tuple[bool, Any]] = [(False, "minimum_norm"), (True, "bias")]
    for tied, method in unchanged:  # --untie did nothing, in silence
        with (
            pytest.raises(UserError, match="leave it out"),
            steer(model_of(tied=tied), {3: 2.0}, encoding, method=method, untie=True),
        ):
            pass
    llama = model_of("llama")
    with (
        pytest.raises(UserError, match="LayerNorm"),
        steer(llama, {3: 2.0}, encoding, method="complement"),
    ):
        pass


# Effects on text


@pytest.fixture(scope="module")
def lm(small_store) -> LanguageModel:
    tokenizer = symbols_tokenizer(SYMBOLS)
    model = model_of(vocabulary=tokenizer.vocabulary)
    attach_bias(model, torch.linspace(-1, 1, tokenizer.vocabulary), learnt=False)
    objective = Objective(Causal(order="backward", bos_id=tokenizer.bos_id), FullCrossEntropy())
    return LanguageModel("made", model, Backbone(model), tokenizer, objective, "untied", 20, {})


@pytest.mark.parametrize("method", ["minimum_norm", "bias"])
def test_effects_are_those_of_the_edited_model(lm, small_store, method):
    made = steering_effects(
        lm, small_store, {2: 3.0, 5: 0.5}, method=method, context=16, max_windows=None
    )
    found = made.effects[0]
    assert (found.method, found.solved, found.text) == (method, True, "estimation")
    before = log_probabilities(lm, small_store)
    encoding = measure(lm, small_store, context=16, max_windows=None).encoding
    assert made.encoding.r2_heldout == encoding.r2_heldout
    with steer(lm, {2: 3.0, 5: 0.5}, encoding, method=method) as predicted:
        after = log_probabilities(lm, small_store)
    estimation = read_texts(lm, small_store, context=16)[0]
    text = text_with_tokens(lm, estimation, (2, 5))
    plain = effect(text, predicted, lm)
    p, q = np.exp(before[0]), np.exp(after[0])
    m = np.log((p + q) / 2)
    js = 0.5 * (p * (before[0] - m) + q * (after[0] - m)).sum(1).mean()
    assert plain.kl.estimate == pytest.approx((p * (before[0] - after[0])).sum(1).mean(), rel=1e-3)
    assert plain.js.estimate == pytest.approx(js, rel=1e-3)
    assert plain.nats.estimate == near(after[1] - before[1])
    for token in plain.tokens:
        assert token.realised.estimate == pytest.approx(
            q[:, token.token].mean() / p[:, token.token].mean(), rel=1e-5
        )
    for token, factor in zip(found.tokens, (3.0, 0.5), strict=True):
        assert token.realised.estimate == pytest.approx(factor, rel=OF_FLOAT32)
        assert token.realised.low is not None
        assert token.realised.high is not None
        assert 0 < token.realised.low < factor < token.realised.high
    page, frame = made.page(), made.frame()
    assert page.count("<figure>") == 2  # a token each
    assert len(frame) == 2 * len(made.effects)
    assert "asked for 3 times its mean probability" in made.summary()


@torch.no_grad()
def log_probabilities(lm, store):
    """Of every position (N, V), and nats per token: one window at a time."""
    from lmlab.data.windows import evaluation_windows

    chosen = evaluation_windows(store.split("validation"), 16)
    rows, nats = [], 0.0
    for row in range(len(chosen)):
        ids = chosen.ids(row)[::-1].copy()
        inputs = torch.tensor([[lm.tokenizer.bos_id, *ids[:-1]]])
        log_p = lm.model(inputs).logits[0].double().log_softmax(-1).numpy()
        rows.append(log_p)
        nats -= log_p[np.arange(len(ids)), ids].sum()
    log_p_NV = np.concatenate(rows)
    return log_p_NV, nats / len(log_p_NV)


def test_jensen_shannon_from_the_edited_tokens_alone():
    rng = np.random.default_rng(2)
    p_NV = rng.dirichlet(np.ones(9), 20)
    shift_NK = rng.normal(size=(20, 2))
    q_NV = p_NV.copy()
    q_NV[:, :2] *= np.exp(shift_NK)
    q_NV /= q_NV.sum(1, keepdims=True)
    m_NV = (p_NV + q_NV) / 2
    expected = 0.5 * (p_NV * np.log(p_NV / m_NV) + q_NV * np.log(q_NV / m_NV)).sum(1)
    log_new, log_ratio = shifted(np.log(p_NV[:, :2]), shift_NK)
    np.testing.assert_allclose(np.exp(log_new), q_NV[:, :2])
    np.testing.assert_allclose(jensen_shannon(np.log(p_NV[:, :2]), log_new, log_ratio), expected)


def test_tokens_are_read_from_texts(text_store):
    tokenizer = text_store.tokenizer
    model = model_of(vocabulary=tokenizer.vocabulary)
    objective = Objective(Causal(order="forward", bos_id=0), FullCrossEntropy())
    lm = LanguageModel(
        "made", model, Backbone(model), tokenizer, objective, "untied", 20, {},
    )  # fmt: skip
    assert parse_factors(lm, ["e=0.5", "==2"]) == {
        int(tokenizer.encode("e")[0]): 0.5, int(tokenizer.encode("=")[0]): 2.0
    }  # fmt: skip
    for given_, message in (
        (" the", "TOKEN=FACTOR"),
        (" the=much", "TOKEN=FACTOR"),
        (" the=-1", "TOKEN=FACTOR"),
        ("zyzzyva=2", "'zyzzyva' is"),
    ):
        with pytest.raises(UserError, match=message):
            parse_factors(lm, [given_])
    with pytest.raises(UserError, match="named twice"):
        parse_factors(lm, ["e=2", "e=3"])


@pytest.mark.parametrize(("architecture", "tied"), [("gpt2", True), ("llama", False)])
def test_the_command_writes_an_ordinary_model(small_store, tmp_path, capsys, architecture, tied):
    config = tiny_training(
        small_store, tmp_path / "run", steps=8,
        model=ModelConfig(architecture, layers=1, heads=2, width=4, tied=tied),
    )  # fmt: skip
    run = train(config).path
    letter = symbols_tokenizer(SYMBOLS).token(3)
    options = [str(run), "--store", str(small_store.path), "--token", f"{letter}=2", "--device",
               "cpu"]  # fmt: skip
    out = tmp_path / "steered"
    if tied:
        assert main(["steer", *options, "--out", str(out)]) == 2
        assert "--untie" in capsys.readouterr().err
        options.append("--untie")
    assert main(["steer", *options, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert ("was tied" in printed) is tied
    results = json.loads((out / "results.json").read_text())
    assert results["effects"][0]["tokens"][0]["realised"]["estimate"] == pytest.approx(
        2, rel=OF_FLOAT32
    )
    assert (out / "report.html").read_text().count("<figure>") == 1
    stock = AutoModelForCausalLM.from_pretrained(out).eval()
    again, original = open_model(out), open_model(run)
    ids_NT = torch.tensor([[12, 3, 4, 5, 3]])
    with torch.no_grad():
        logits = stock(ids_NT).logits
        torch.testing.assert_close(again.model(ids_NT).logits, logits)
        was = original.model(ids_NT).logits
    kept = [v for v in range(logits.shape[-1]) if v != 3]
    torch.testing.assert_close(logits[..., kept], was[..., kept])
    assert not torch.equal(logits[..., 3], was[..., 3])
    assert main(["steer", *options, "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_nothing_is_written_over(lm, small_store, tmp_path):
    made = steering_effects(lm, small_store, {2: 1.5}, context=16, max_windows=8)
    with pytest.raises(UserError, match="exists"):
        write_steered(lm, made, tmp_path)
