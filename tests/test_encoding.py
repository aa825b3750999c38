"""Token probability and its encoding: streaming against the full softmax, closed forms, nulls.

Shapes: N positions, T positions of a window, D width, V vocabulary.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2Model,
)

from helpers import symbols_tokenizer, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.objective import MaskingConfig
from lmlab.data.windows import evaluation_windows
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.models.head import attach_bias
from lmlab.numerics.folded_regression import (
    fit_linear,
    fold_numbers,
    moments,
    random_rotation,
    sparsity_curve,
    together,
)
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.masked import Masked
from lmlab.topics.encoding import token_probability
from lmlab.topics.encoding.encoding import (
    error_by_frequency,
    fit_encoding,
    null_fits,
    predict_first_order,
    predict_second_order,
    sparsity,
)
from lmlab.topics.encoding.of_model import EncodingResult, encode, measure
from lmlab.topics.encoding.tables import errors_table
from lmlab.topics.encoding.token_probability import encoding_statistics, mean_token_probability
from lmlab.training.loop import train
from tolerances import NATS_A_TOKEN

V = 97


def model_of(
    architecture: Any = "gpt2", *, tied=False, bias=False, vocabulary=V, context=40
) -> Any:
    config = ModelConfig(
        architecture, layers=2, heads=2, width=16, tied=tied, initializer_range=0.3
    )
    built = build_config(config, vocabulary=vocabulary, context=context, bos_id=0, end_of_text_id=1)
    masked = architecture in ("bert", "modernbert", "distilbert")
    model = build_model(built, seed=0, masked=masked).eval()
    if bias:
        attach_bias(model, 2 * random(vocabulary, seed=7), learnt=False)
    return model


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def windows(n=7, t=11, vocabulary=V, seed=3):
    return torch.randint(vocabulary, (n, t), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def full_softmax(model, ids_NT):
    return model(ids_NT).logits.double().softmax(-1).flatten(0, 1)


# Streaming


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "qwen3"])
@pytest.mark.parametrize(("tied", "bias"), [(True, False), (False, True)])
def test_streaming_is_the_full_softmax(architecture, tied, bias):
    model = model_of(architecture, tied=tied, bias=bias)
    ids_NT = windows()
    p_NV = full_softmax(model, ids_NT)
    made = encoding_statistics(model, ids_NT.numpy())
    assert made.alpha_V.dtype == np.float64
    np.testing.assert_allclose(made.alpha_V, p_NV.mean(0).numpy(), rtol=1e-5)
    assert made.alpha_V.sum() == pytest.approx(1, abs=1e-12)
    with torch.no_grad():
        h_ND = model.base_model(ids_NT).last_hidden_state.flatten(0, 1).double().numpy()
        log_z_N = model(ids_NT).logits.double().logsumexp(-1).flatten().numpy()
    np.testing.assert_allclose(made.mean_hidden_D, h_ND.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.covariance_DD, np.cov(h_ND.T, bias=True), rtol=1e-4, atol=1e-5)
    joint = np.cov(np.column_stack([h_ND, log_z_N]).T, bias=True)
    np.testing.assert_allclose(made.covariance_log_z_D, joint[-1, :-1], rtol=1e-4, atol=1e-5)
    assert made.variance_log_z == pytest.approx(joint[-1, -1], rel=1e-4)
    assert made.mean_log_z == pytest.approx(log_z_N.mean(), rel=1e-5)
    assert made.positions == 77


def test_chunks_of_any_size_and_batches_give_the_same(monkeypatch):
    model = model_of(bias=True)
    ids_NT = windows(9, 13)
    expected = mean_token_probability(model, ids_NT)
    for contexts, rows in ((16, 5), (1, 97), (64, 1)):
        monkeypatch.setattr(token_probability, "_MOST_CONTEXTS", {"cpu": contexts})
        monkeypatch.setattr(token_probability, "_BLOCK_LOGITS", {"cpu": rows * contexts})
        for batch in (1, 2, 9):
            made = mean_token_probability(model, ids_NT, batch=batch)
            np.testing.assert_allclose(made, expected, rtol=NATS_A_TOKEN)


def test_no_chunk_overflows_however_large_the_logits():
    model = model_of()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)
    ids_NT = windows()
    made = mean_token_probability(model, ids_NT)
    np.testing.assert_allclose(made, full_softmax(model, ids_NT).mean(0), rtol=1e-4, atol=1e-12)


SMALL: dict[str, Any] = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["soft-capped", "scaled"])
def test_soft_capped_and_scaled_heads(kind):
    torch.manual_seed(0)
    model: Any = (
        Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0))
        if kind == "soft-capped"
        else CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25))
    )
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    model.eval()
    assert not Backbone(model).linear
    ids_NT = windows()
    made = mean_token_probability(model, ids_NT)
    np.testing.assert_allclose(made, full_softmax(model, ids_NT).mean(0), rtol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "distilbert"])
def test_a_masked_model_is_asked_for_each_position_once(architecture):
    model = model_of(architecture, tied=True)
    ids_NT = windows(3, 6)
    p = []
    for window_T in ids_NT:
        for t in range(6):
            seen_T = window_T.clone()
            seen_T[t] = 5
            p.append(full_softmax(model, seen_T[None])[t])
    made = mean_token_probability(model, ids_NT, mask_id=5, batch=4)
    np.testing.assert_allclose(made, torch.stack(p).mean(0), rtol=1e-5)
    with pytest.raises(UserError, match="mask_id"):
        mean_token_probability(model, ids_NT)


def test_models_and_ids_that_do_not_serve():
    encoder = GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=V))
    with pytest.raises(UserError, match="no output embedding"):
        mean_token_probability(encoder, windows())
    model = model_of()
    for ids, message in ((windows() + 90, "ids 0 to 96"), (windows()[0], r"ids \(N, T\)"),
                         (np.ones((2, 3)), "integer ids")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            mean_token_probability(model, ids)


# The fit


def test_equal_hidden_states_are_encoded_exactly():
    rng = np.random.default_rng(0)
    e_VD, h_D = rng.normal(size=(300, 8)) + 0.5, rng.normal(size=8) * 2
    logits_V = e_VD @ h_D
    alpha_V = np.exp(logits_V - logits_V.max())
    made = fit_encoding(e_VD, alpha_V / alpha_V.sum())
    assert made.r2_train == pytest.approx(1)
    assert made.r2_heldout == pytest.approx(1)
    np.testing.assert_allclose(made.slope_D, -h_D, rtol=1e-9)
    assert made.spearman == pytest.approx(1)


def gaussian_world(*, spread, shift=0.0, seed=0, contexts=4000):
    """Mean probabilities of an embedding over Gaussian hidden states, and their statistics."""
    rng = np.random.default_rng(seed)
    e_VD = rng.normal(size=(400, 6)) * 0.7
    h_ND = rng.normal(size=6) * 1.5 + spread * rng.normal(size=(contexts, 6))
    shifted_VD = e_VD + shift * rng.normal(size=6)
    logits_NV = h_ND @ shifted_VD.T
    log_z_N = np.logaddexp.reduce(logits_NV, axis=1)
    alpha_V = np.exp(logits_NV - log_z_N[:, None]).mean(0)
    joint = np.cov(np.column_stack([h_ND, log_z_N]).T, bias=True)
    statistics = token_probability.EncodingStatistics(
        alpha_V, h_ND.mean(0), joint[:-1, :-1], joint[-1, :-1], float(log_z_N.mean()),
        float(joint[-1, -1]), contexts,
    )  # fmt: skip
    return shifted_VD, alpha_V, statistics


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_second_order_holds_under_a_shift_of_all_embeddings(shift):
    e_VD, alpha_V, statistics = gaussian_world(spread=0.5, shift=shift)
    y_V = -np.log(alpha_V)

    def r2(predicted_V):
        return 1 - ((y_V - predicted_V) ** 2).sum() / ((y_V - y_V.mean()) ** 2).sum()

    assert r2(predict_second_order(e_VD, statistics)) > 0.99
    spread_V = np.einsum("vd,de,ve->v", e_VD, statistics.covariance_DD, e_VD) / 2
    without = predict_first_order(e_VD, statistics) - spread_V - statistics.variance_log_z / 2
    assert (r2(without) > 0.9) == (shift == 0)


def test_a_shift_of_all_embeddings_changes_neither_alpha_nor_fit():
    model = model_of()
    ids_NT = windows(20, 11)
    before = mean_token_probability(model, ids_NT)
    e_VD = model.get_output_embeddings().weight.detach().clone().double()
    first = fit_encoding(e_VD, before)
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(random(16, seed=5))
    after = mean_token_probability(model, ids_NT)
    np.testing.assert_allclose(after, before, rtol=1e-4)
    second = fit_encoding(model.get_output_embeddings().weight.detach(), after)
    np.testing.assert_allclose(second.slope_D, first.slope_D, atol=1e-4)
    assert second.r2_heldout == pytest.approx(first.r2_heldout, abs=1e-4)


def test_the_bias_is_an_offset():
    model = model_of(bias=True)
    statistics = encoding_statistics(model, windows(20, 11))
    head = model.get_output_embeddings()
    e_VD, b_V = head.weight.detach().numpy(), head.bias.detach().numpy()
    made = fit_encoding(e_VD, statistics.alpha_V, offset_V=b_V)
    assert made.r2_train > fit_encoding(e_VD, statistics.alpha_V).r2_train
    np.testing.assert_allclose(made.target_N, -np.log(statistics.alpha_V))
    plain = fit_linear(e_VD, b_V - np.log(statistics.alpha_V))
    np.testing.assert_allclose(made.slope_D, plain.slope_D)
    np.testing.assert_allclose(made.held_out_N, plain.held_out_N - b_V)
    first_V = predict_first_order(e_VD, statistics, offset_V=b_V)
    np.testing.assert_allclose(first_V, predict_first_order(e_VD, statistics) - b_V, rtol=1e-5)


def test_r2_has_one_target_with_and_without_a_bias():
    """Was: R2 of -log alpha plus the bias, another target than that of a model without one."""
    rng = np.random.default_rng(7)
    e_VD, b_V = rng.normal(size=(400, 6)), 3 * rng.normal(size=400)
    noise_V = 0.5 * rng.normal(size=400)
    logits_V = 0.2 * e_VD @ rng.normal(size=6) + b_V + noise_V
    alpha_V = np.exp(logits_V - np.logaddexp.reduce(logits_V))
    y_V, fold_V = -np.log(alpha_V), fold_numbers(400)

    def explained(x_VD, offset_V):
        """Held-out R2 and root mean square error, by plain least squares."""
        error_V = np.empty(400)
        for k in range(5):
            design = np.column_stack([x_VD, np.ones(400)])
            known = y_V + offset_V
            solution = np.linalg.lstsq(design[fold_V != k], known[fold_V != k])[0]
            error_V[fold_V == k] = (known - design @ solution)[fold_V == k]
        left = [(error_V[fold_V == k] ** 2).sum() for k in range(5)]
        spread = [((y_V[fold_V == k] - y_V[fold_V == k].mean()) ** 2).sum() for k in range(5)]
        return float(np.mean(1 - np.divide(left, spread))), float(np.sqrt((error_V**2).mean()))

    made = fit_encoding(e_VD, alpha_V, offset_V=b_V)
    none_V0, zero_V = np.empty((400, 0)), np.zeros(400)
    assert made.bias_alone is not None
    for part, x_VD, offset_V in (
        (made.embedding_alone, e_VD, zero_V), (made.bias_alone, none_V0, b_V)
    ):  # fmt: skip
        assert (part.r2, part.root_mean_square) == pytest.approx(explained(x_VD, offset_V))
    assert (made.r2_heldout, made.root_mean_square) == pytest.approx(explained(e_VD, b_V))
    assert made.r2_heldout > made.bias_alone.r2 > 0.8
    assert made.embedding_alone.r2 < 0.3
    # the same distribution from an embedding that holds the bias has the same target and fit
    folded_VD = np.column_stack([e_VD, b_V])
    folded = fit_encoding(folded_VD, alpha_V)
    assert folded.bias_alone is None
    assert folded.embedding_alone.r2 == folded.r2_heldout
    assert folded.r2_heldout == pytest.approx(made.r2_heldout, abs=0.01)
    assert folded.root_mean_square == pytest.approx(made.root_mean_square, abs=0.02)
    np.testing.assert_allclose(folded.target_N, made.target_N)
    # the in-sample R2 and the nulls are of that target too
    residual_V = y_V + b_V - fit_linear(e_VD, y_V + b_V).fitted_N
    total = ((y_V - y_V.mean()) ** 2).sum()
    assert made.r2_train == pytest.approx(1 - (residual_V**2).sum() / total)
    nulls = null_fits(e_VD, made, counts_V=np.round(1e6 * alpha_V))
    assert nulls == null_fits(e_VD, fit_encoding(e_VD, alpha_V), counts_V=np.round(1e6 * alpha_V))


def test_held_out_r2_of_noise_is_not_above_zero_and_in_sample_is():
    rng = np.random.default_rng(1)
    fits = [fit_linear(rng.normal(size=(300, 20)), rng.normal(size=300)) for _ in range(50)]
    assert np.mean([fit.r2_heldout for fit in fits]) <= 0
    assert np.mean([fit.r2_train for fit in fits]) == pytest.approx(20 / 299, abs=0.01)


def test_the_fit_is_numpys_and_folds_are_refits():
    rng = np.random.default_rng(2)
    x_ND = rng.normal(size=(203, 5)) @ rng.normal(size=(5, 5)) + 3
    y_N = x_ND @ rng.normal(size=5) + rng.normal(size=203)
    made = fit_linear(x_ND, y_N)
    design = np.column_stack([x_ND, np.ones(203)])
    solution, (residual,), _, _ = np.linalg.lstsq(design, y_N)
    np.testing.assert_allclose(made.slope_D, solution[:-1])
    assert made.intercept == pytest.approx(solution[-1])
    assert made.r2_train == pytest.approx(1 - residual / ((y_N - y_N.mean()) ** 2).sum())
    fold_N = fold_numbers(203)
    assert np.ptp(np.bincount(fold_N)) <= 1
    for k in range(5):
        test = fold_N == k
        part = np.linalg.lstsq(design[~test], y_N[~test])[0]
        error = y_N[test] - design[test] @ part
        np.testing.assert_allclose(made.held_out_N[test], design[test] @ part)
        total = ((y_N[test] - y_N[test].mean()) ** 2).sum()
        assert made.r2_folds[k] == pytest.approx(1 - (error**2).sum() / total)
    # HC3: each row left out moves the slope by its influence; their spread is the standard error
    inverse = np.linalg.inv(design.T @ design)
    leverage = np.einsum("nd,de,ne->n", design, inverse, design)
    scaled = (y_N - design @ solution) / (1 - leverage)
    sandwich = inverse @ (design.T * scaled**2) @ design @ inverse
    assert made.standard_error_D is not None
    np.testing.assert_allclose(made.standard_error_D, np.sqrt(np.diag(sandwich))[:-1])
    ridge = fit_linear(x_ND, y_N, ridge=0.7)
    centred = x_ND - x_ND.mean(0)
    expected = np.linalg.solve(
        centred.T @ centred / 203 + 0.7 * np.eye(5), centred.T @ (y_N - y_N.mean()) / 203
    )
    np.testing.assert_allclose(ridge.slope_D, expected)
    assert ridge.standard_error_D is None


@given(st.integers(1, 4), st.integers(2, 30), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_moments_of_parts_are_those_of_the_whole(d, n, m, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n + m, d)) + 5, rng.normal(size=n + m) - 2
    whole, parts = moments(x, y), together([moments(x[:n], y[:n]), moments(x[n:], y[n:])])
    for name in ("rows", "mean_D", "mean_y", "scatter_DD", "cross_D", "scatter_y"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-8)


def test_the_sparsity_curve_is_refits_of_the_best_columns_and_rotation_hides_it():
    rng = np.random.default_rng(3)
    x_ND = rng.normal(size=(500, 12))
    y_N = 3 * x_ND[:, 4] - 2 * x_ND[:, 7] + 0.5 * rng.normal(size=500)
    curve = sparsity_curve(x_ND, y_N, [1, 2, 12])
    for value, columns in zip(curve, ([4], [4, 7], list(range(12))), strict=True):
        assert value == pytest.approx(fit_linear(x_ND[:, columns], y_N).r2_heldout)
    rotation_DD = random_rotation(12, 0)
    np.testing.assert_allclose(rotation_DD @ rotation_DD.T, np.eye(12), atol=1e-12)
    rotated = sparsity_curve(x_ND, y_N, [1, 2, 12], rotation_DD=rotation_DD)
    assert rotated[-1] == pytest.approx(curve[-1])
    assert rotated[1] < curve[1] - 0.1
    alpha_V = np.exp(-y_N - np.logaddexp.reduce(-y_N))
    made = sparsity(x_ND, fit_encoding(x_ND, alpha_V))
    assert made.needed == 2
    assert all(needed is not None and needed > 2 for needed in made.rotated_needed)


def test_nulls_explain_nothing_and_counts_explain_what_they_are():
    rng = np.random.default_rng(4)
    e_VD = rng.normal(size=(600, 10))
    counts_V = rng.integers(0, 1000, 600)
    alpha_V = (counts_V + 1) ** 0.7 * np.exp(0.1 * rng.normal(size=600))
    encoding = fit_encoding(e_VD, alpha_V / alpha_V.sum())
    found = null_fits(e_VD, encoding, counts_V=counts_V)
    for name in ("random embedding", "permuted", "norm alone"):
        assert found[name] < 0.03
    assert found["log counts"] > 0.9


def test_errors_by_frequency_cover_all_tokens():
    e_VD, alpha_V, _ = gaussian_world(spread=1.0)
    encoding = fit_encoding(e_VD, alpha_V, exclude=[3, 5])
    assert encoding.excluded == 2
    bins = error_by_frequency(encoding, np.arange(1, 401))
    assert [b.bin for b in bins] == list(range(1, 11))
    assert sum(b.tokens for b in bins) == 398
    square = sum(b.tokens * b.root_mean_square**2 for b in bins)
    error_N = encoding.target_N - encoding.held_out_N
    assert square == pytest.approx((error_N**2).sum())


def test_the_first_of_eleven_classes_of_frequency_is_named():
    """`encode` printed "tenth 0" to "tenth 10" and did not say that the first are no tenth."""
    e_VD, alpha_V, _ = gaussian_world(spread=1.0)
    counts_V = np.arange(400)
    counts_V[:40] = 0
    encoding = fit_encoding(e_VD, alpha_V)
    bins = error_by_frequency(encoding, counts_V)
    assert bins[0].tokens == (counts_V[encoding.tokens] == 0).sum() > 0
    names = [str(row[0]) for row in errors_table(bins).rows]
    assert names[0] == "not in the training split"
    assert "tenth" not in names[0]
    assert names[1:] == ["1 (rarest)", *map(str, range(2, 10)), "10 (most frequent)"]


def test_tokens_without_probability_are_counted_and_what_is_wrong_refused():
    rng = np.random.default_rng(5)
    e_VD, alpha_V = rng.normal(size=(40, 3)), rng.random(40)
    alpha_V[[2, 9]] = 0
    made = fit_encoding(e_VD, alpha_V, exclude=np.arange(40) > 36)
    assert (made.zero_alpha, made.excluded, len(made.tokens)) == (2, 3, 35)
    for wrong, message in (
        ({"alpha_V": alpha_V[:-1]}, "give"),
        ({"alpha_V": -alpha_V}, "not negative"),
        ({"offset_V": np.ones(3)}, "offset"),
        ({"exclude": [40]}, "ends at 39"),
        ({"exclude": np.ones(3, dtype=bool)}, "mask"),
        ({"alpha_V": np.where(np.arange(40) < 4, 0.1, 0.0)}, "folds"),
        ({"alpha_V": np.full(40, 0.1)}, "equal"),
        ({"ridge": -1.0}, "ridge"),
    ):
        with pytest.raises(UserError, match=message):
            fit_encoding(**{"embedding_VD": e_VD, "alpha_V": alpha_V, **wrong})


# Stores


def lm_of(architecture: Any = "gpt2", *, order="forward", rows=0) -> LanguageModel:
    """A fresh model of random weights; `rows` more in its embedding than the tokenizer has ids."""
    tokenizer = symbols_tokenizer(12)
    masked = architecture == "bert"
    tokenizer = tokenizer.with_mask() if masked else tokenizer
    model = model_of(architecture, vocabulary=tokenizer.vocabulary + rows, tied=True, context=42)
    objective = (
        Objective(Masked(tokenizer=tokenizer, settings=MaskingConfig(rate=0.3)), FullCrossEntropy())
        if masked
        else Objective(Causal(order=order, bos_id=tokenizer.bos_id), FullCrossEntropy())
    )
    return LanguageModel("made here", model, Backbone(model), tokenizer, objective, "tied", 40, {})


@pytest.mark.parametrize(
    ("architecture", "order"), [("gpt2", "forward"), ("gpt2", "backward"), ("bert", "forward")]
)
def test_a_store_is_read_as_the_objective_scores_it(architecture, order, small_store):
    """Against one window at a time, scored by the objective, with nothing padded."""
    lm = lm_of(architecture, order=order)
    chosen = token_probability.choose_windows(lm, small_store, split="validation")
    states = list(token_probability.store_states(lm, chosen, label="test"))
    hidden_ND = torch.cat([s.hidden_ND for s in states])
    targets_N = torch.cat([s.targets_N for s in states])
    assert len(hidden_ND) == chosen.length_M.sum()
    log_p = (hidden_ND @ lm.backbone.weight_VD.T).detach()
    if lm.backbone.bias_V is not None:
        log_p = log_p + lm.backbone.bias_V.detach()
    nats = torch.nn.functional.cross_entropy(log_p, targets_N, reduction="sum")
    expected = 0.0
    for row in range(len(chosen)):
        batch = lm.objective.reading.batch([chosen.ids(row)], device=torch.device("cpu"))
        expected += float(lm.objective.score(lm.backbone, batch).sum())
    assert float(nats) == pytest.approx(expected, rel=1e-5)
    by_cluster = np.bincount(np.concatenate([s.clusters.cluster_N for s in states]))
    windows_of = np.unique(chosen.cluster_M, return_inverse=True)[1]
    np.testing.assert_array_equal(by_cluster, np.bincount(windows_of, chosen.length_M))
    made = token_probability.store_statistics(lm, chosen)
    np.testing.assert_allclose(made.alpha_V, log_p.double().softmax(-1).mean(0).numpy(), rtol=1e-5)


def test_padded_rows_and_special_tokens_are_left_out_of_the_fit(small_store):
    lm = lm_of(rows=50)
    measured = measure(lm, small_store, max_windows=20)
    assert len(measured.statistics.alpha_V) == 64
    assert measured.encoding.tokens.max() < 12
    result = encode(lm, small_store, max_windows=20, rotations=1)
    assert result.padded == 50
    assert result.encoding.excluded == 52


def test_the_command_on_a_trained_run(small_store, text_store, tmp_path, capsys):
    config = tiny_training(
        small_store, tmp_path / "run", objective="headless",
        model=ModelConfig(layers=1, heads=2, width=4, tied=True), steps=30,
    )  # fmt: skip
    run = train(config).path
    out = tmp_path / "out"
    options = ["--store", str(small_store.path), "--device", "cpu", "--out", str(out)]
    assert main(["encode", str(run), *options]) == 0
    said = capsys.readouterr().out
    for row in ("R² of -log mean probability", "root mean square error", "the bias alone"):
        assert row in said
    result = EncodingResult.from_json(json.loads((out / "results.json").read_text()))
    assert result == encode(open_model(run), small_store)
    raw = [*options[:-1], str(tmp_path / "raw"), "--head", "raw"]
    assert main(["encode", str(run), *raw]) == 0
    other = EncodingResult.from_json(json.loads((tmp_path / "raw" / "results.json").read_text()))
    assert other.encoding.r2_heldout != result.encoding.r2_heldout
    assert (other.encoding.bias_alone, result.encoding.bias_alone is None) == (None, False)
    assert main(["encode", str(run), "--store", str(text_store.path)]) == 2
    assert "another tokenizer" in capsys.readouterr().err


def test_a_model_whose_distribution_is_not_its_logits_is_refused(small_store):
    from lmlab.config.objective import HeadlessConfig
    from lmlab.objectives.headless import Contrastive

    lm = lm_of()
    objective = Objective(
        Causal(order="forward", bos_id=12), Contrastive(HeadlessConfig(cosine=True))
    )
    cosine = LanguageModel("cosine", lm.model, lm.backbone, lm.tokenizer, objective, "tied", 40, {})
    with pytest.raises(UserError, match="cosine"):
        encode(cosine, small_store)
    with pytest.raises(UserError, match="cosine"):
        mean_token_probability(cosine, windows(2, 3, 12))
    with pytest.raises(UserError, match="at most 40"):
        encode(lm, small_store, context=41)
    assert len(evaluation_windows(small_store.split("validation"), 40)) > 3


def test_the_page_of_a_model_shows_the_arrays_that_its_result_keeps(small_store):
    """The arrays behind every figure were dropped, and `encode` had no page."""
    lm = lm_of()
    result = encode(lm, small_store, max_windows=20, rotations=2)
    measured = measure(lm, small_store, max_windows=20)
    encoding, sample = measured.encoding, result.sample
    order = np.argsort(sample.id_N)  # twelve tokens: all of them are drawn
    np.testing.assert_array_equal(sample.id_N[order], encoding.tokens)
    np.testing.assert_allclose(sample.actual_N, -np.log(measured.statistics.alpha_V[sample.id_N]))
    np.testing.assert_array_equal(sample.predicted_N[order], encoding.held_out_N)
    # the map keeps the distances that two principal components keep
    rows_ND = measured.head.embedding_VD[sample.id_N]
    u, s, _ = np.linalg.svd(rows_ND - rows_ND.mean(0))
    distances = np.abs(u[:, :2] * s[:2])
    np.testing.assert_allclose(np.abs(sample.map_N2), distances, atol=1e-9)
    np.testing.assert_allclose(result.map_variance, s[:2] ** 2 / (s**2).sum())
    page = result.page()
    assert page.count("<figure>") == len(result.figures()) == 4
    for words in ("random bases", "root mean square error", "principal component", "The rarest"):
        assert words in page
    frame = result.frame()
    assert frame.set_index("measure").value["R², in sample"] == encoding.r2_train
    assert list(result.frame(1)["tokens"]) == [error.tokens for error in result.errors]
