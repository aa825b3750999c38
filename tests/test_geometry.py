"""Geometry: figures of rows against closed forms and numpy, hidden states against the library's own
one window at a time, tenths of frequency, the command and its page.

Shapes: N rows, D width, V vocabulary, T positions.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from helpers import symbols_tokenizer, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.objective import MaskingConfig
from lmlab.data.unigram import token_counts
from lmlab.data.windows import evaluation_windows
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.models.layers import layer_states
from lmlab.numerics.frequency import occurrence_deciles, rank_correlation, type_deciles
from lmlab.numerics.geometry import Cloud, RowMoments, cloud, singular_values, spectrum
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.masked import Masked
from lmlab.results import plain
from lmlab.topics.geometry.geometry import Geometry, geometry
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train
from tolerances import near

SYMBOLS = 12
CPU = torch.device("cpu")


def of_rows(rows_ND: Any) -> RowMoments:
    rows_ND = np.asarray(rows_ND, dtype=np.float64)
    moments = RowMoments(rows_ND.shape[1])
    moments.update(rows_ND)
    return moments


def random_rows(n, d, *, seed=0, offset=0.0):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) + offset


# Rows


def test_orthonormal_rows_fill_all_directions():
    rows_DD, _ = np.linalg.qr(random_rows(7, 7))
    made = cloud(of_rows(rows_DD))
    assert made.mean_cosine == pytest.approx(0, abs=1e-14)
    assert made.uncentred.effective_rank == pytest.approx(7)
    assert made.uncentred.entropy == pytest.approx(np.log(7))
    assert made.uncentred.normalised_entropy == pytest.approx(1)
    # about their mean, seven points lie in six directions
    assert made.centred.effective_rank == pytest.approx(6)
    assert made.participation_ratio == pytest.approx(6)
    assert made.mean_norm == pytest.approx(1)


def test_rows_along_one_direction_have_rank_one():
    direction_D = np.array([3.0, 0.0, -4.0])
    made = cloud(of_rows(np.outer([1, 2, 5], direction_D)))
    assert made.mean_cosine == pytest.approx(1)
    assert made.uncentred.effective_rank == pytest.approx(1)
    assert made.uncentred.entropy == pytest.approx(0, abs=1e-12)
    assert made.centred.effective_rank == pytest.approx(1)
    assert made.participation_ratio == pytest.approx(1)
    assert made.mean_norm == pytest.approx(5 * 8 / 3)


def test_equal_rows_have_no_spread_about_their_mean():
    made = cloud(of_rows(np.tile([0.1, 0.7, 1e3], (50, 1))))
    assert made.mean_cosine == pytest.approx(1)
    assert made.centred.entropy is None
    assert made.centred.effective_rank is None
    assert made.participation_ratio is None


def test_mean_cosine_is_that_of_all_pairs_and_rows_of_zero_are_counted_apart():
    rows_ND = random_rows(40, 5, offset=0.7)
    rows_ND[[3, 20]] = 0
    unit_ND = np.delete(rows_ND, [3, 20], axis=0)
    unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
    pairs = np.triu_indices(38, k=1)
    made = cloud(of_rows(rows_ND))
    assert made.mean_cosine == pytest.approx((unit_ND @ unit_ND.T)[pairs].mean(), abs=1e-13)
    assert (made.rows, made.zero_rows) == (40, 2)
    assert made.mean_norm == pytest.approx(np.linalg.norm(rows_ND, axis=1).mean())


@pytest.mark.parametrize("n", [4, 60])
def test_singular_values_and_what_follows_are_numpys(n):
    rows_ND = random_rows(n, 6, offset=2.0)
    made = cloud(of_rows(rows_ND))
    for about, found, centred in (
        (rows_ND, made.uncentred, False),
        (rows_ND - rows_ND.mean(0), made.centred, True),
    ):
        s = np.linalg.svd(about, compute_uv=False)
        ours_D = singular_values(of_rows(rows_ND), centred=centred)
        np.testing.assert_allclose(ours_D[: len(s)], s, rtol=1e-7, atol=1e-6)
        p = s[s > 1e-9] / s.sum()
        entropy = -(p * np.log(p)).sum()
        assert found.entropy == pytest.approx(entropy, abs=1e-5)
        assert found.effective_rank == pytest.approx(np.exp(entropy), rel=1e-5)
        assert found.normalised_entropy == pytest.approx(entropy / np.log(6), abs=1e-5)
    eigenvalues = np.linalg.eigvalsh(np.cov(rows_ND.T))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert made.participation_ratio == pytest.approx(expected)


def same(a: RowMoments, b: RowMoments) -> None:
    assert (a.rows, a.zero_rows) == (b.rows, b.zero_rows)
    for name in ("sum_of_norms", "sum_D", "sum_of_unit_rows_D", "second_DD"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-10)


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, 9), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_streaming_in_any_grouping_is_the_whole(d, sizes, seed):
    rows_ND = np.random.default_rng(seed).integers(-3, 4, (sum(sizes), d)).astype(float)
    whole = of_rows(rows_ND)
    streamed = RowMoments(d)
    for row_D in rows_ND:
        streamed.update(row_D[None])
    same(streamed, whole)
    parts = RowMoments(d)
    for part in np.split(rows_ND, np.cumsum(sizes)[:-1]):
        parts.update(part)
    same(parts, whole)


def test_what_has_no_figures_says_so():
    with pytest.raises(UserError, match="no rows"):
        cloud(RowMoments(3))
    with pytest.raises(UserError, match="row 1 has nan in dimension 0"):
        of_rows([[0.0, 1.0], [np.nan, 1.0]])
    made = cloud(of_rows([[0.0, 0.0]]))
    assert made.mean_cosine is None
    assert spectrum([0.0, 0.0]).entropy is None
    assert spectrum([2.0]).normalised_entropy is None
    json.dumps(plain(made), allow_nan=False)


# Frequencies


def test_tenths_of_the_text_hold_a_tenth_each():
    rng = np.random.default_rng(0)
    counts_V = rng.permutation((1e5 / np.arange(1, 3001)).astype(np.int64))
    counts_V[[5, 6]] = 0
    bins_V = occurrence_deciles(counts_V)
    assert (bins_V[[5, 6]] == 0).all()
    assert (bins_V[counts_V > 0] > 0).all()
    total = counts_V.sum()
    held = np.bincount(bins_V, counts_V)[1:]
    np.testing.assert_allclose(held[:5] / total, 0.1, atol=0.002)
    rarest = [0, *(counts_V[bins_V == k].min() for k in range(2, 11)), 0]
    for k in range(10):  # off by no more than half of the token at either edge
        assert abs(held[k] - total / 10) <= (rarest[k] + rarest[k + 1]) / 2
    for k in range(1, 10):  # bins rise with frequency
        assert counts_V[bins_V == k].max() <= counts_V[bins_V == k + 1].min()


def test_a_token_of_half_the_text_is_in_one_bin():
    assert occurrence_deciles([50, 25, 25, 0]).tolist() == [8, 2, 4, 0]
    assert occurrence_deciles([0, 0]).tolist() == [0, 0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_tenths_of_the_vocabulary_hold_a_tenth_each(counts):
    counts_V = np.array(counts)
    bins_V = type_deciles(counts_V)
    seen = counts_V > 0
    assert ((bins_V > 0) == seen).all()
    sizes = np.bincount(bins_V, minlength=11)[1:]
    assert np.abs(sizes - seen.sum() / 10).max() < 1
    assert all(
        counts_V[bins_V == k].max(initial=0) <= counts_V[bins_V > k].min(initial=99)
        for k in range(1, 10)
    )


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 9, 50), rng.normal(size=50)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y)[0])
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2], [1, 2]) is None
    with pytest.raises(AssertionError):
        occurrence_deciles([0.5, 1.0])


# Models


def lm_of(architecture: Any, *, order="forward", tied=True, context=40) -> LanguageModel:
    """A fresh model of random weights, large enough to matter."""
    masked = architecture in ("bert", "modernbert", "distilbert")
    tokenizer = symbols_tokenizer(SYMBOLS)
    tokenizer = tokenizer.with_mask() if masked else tokenizer
    settings: dict[str, Any] = {} if architecture in ("gru", "lstm") else {"heads": 2}
    config = ModelConfig(
        architecture, layers=2, width=16, tied=tied, initializer_range=0.3, **settings
    )
    built = build_config(
        config,
        vocabulary=tokenizer.vocabulary,
        context=context + 2 * masked,
        bos_id=tokenizer.bos_id,
        end_of_text_id=tokenizer.end_of_text_id,
    )
    model = build_model(built, seed=0, masked=masked).eval()
    objective = (
        Objective(Masked(tokenizer=tokenizer, settings=MaskingConfig(rate=0.3)), FullCrossEntropy())
        if masked
        else Objective(Causal(order=order, bos_id=tokenizer.bos_id), FullCrossEntropy())
    )
    return LanguageModel(
        architecture, model, Backbone(model), tokenizer, objective, "tied" if tied else "untied",
        context, {},
    )  # fmt: skip


def one_at_a_time(lm: LanguageModel, store, context: int) -> dict[str, Cloud]:
    """Clouds of the library's own hidden states: each window alone, so nothing is padded."""
    windows = evaluation_windows(store.split("validation"), context)
    model, masked = lm.model, not lm.objective.reading.autoregressive
    tokenizer, states = lm.tokenizer, {}
    for row in range(len(windows)):
        ids = windows.ids(row)[::-1] if lm.order == "backward" else windows.ids(row)
        # of a causal model the last token is never an input
        inputs = [tokenizer.bos_id, *ids, tokenizer.end_of_text_id][: None if masked else -2]
        with torch.no_grad():
            made = model(
                input_ids=torch.tensor([inputs], dtype=torch.long), output_hidden_states=True
            )
            real = slice(1, len(ids) + 1) if masked else slice(1, len(ids))
            *layers, last = (h[0, real].double().numpy() for h in made.hidden_states)
            head = model.cls.predictions.transform if masked else torch.nn.Identity()
            final = head(made.hidden_states[-1])[0, real].double().numpy()
        names = ["embeddings"] + [f"block {i}" for i in range(1, len(layers))]
        for name, rows in zip(names, layers, strict=True):
            states.setdefault(name, []).append(rows)
        if masked:  # BERT has no final norm: the last of them is what the last block gives
            states.setdefault(f"block {len(layers)}", []).append(last)
        states.setdefault("final", []).append(final)
    return {name: cloud(of_rows(np.concatenate(rows))) for name, rows in states.items()}


@pytest.mark.parametrize(
    ("architecture", "order"), [("gpt2", "forward"), ("gpt2", "backward"), ("bert", "forward")]
)
def test_hidden_states_are_the_librarys_without_padding_and_bos(architecture, order, small_store):
    lm = lm_of(architecture, order=order)
    made = geometry(lm, small_store, context=40, max_windows=None)
    lengths = evaluation_windows(small_store.split("validation"), 40).length_M
    assert len(np.unique(lengths)) > 3  # so some were padded
    outside = 0 if architecture == "bert" else len(lengths)
    assert made.layers["final"].rows == lengths.sum() - outside
    assert list(made.layers) == ["embeddings", "block 1", "block 2", "final"]
    expected = one_at_a_time(lm, small_store, 40)
    for name, wanted in expected.items():
        found = made.layers[name]
        assert found.rows == wanted.rows
        for figure in ("mean_cosine", "mean_norm", "participation_ratio"):
            assert getattr(found, figure) == pytest.approx(getattr(wanted, figure), rel=1e-4), name
        assert found.uncentred.effective_rank == pytest.approx(
            wanted.uncentred.effective_rank, rel=1e-4
        )
        assert found.centred.entropy == pytest.approx(wanted.centred.entropy, rel=1e-4)


def test_the_last_blocks_output_is_the_one_before_the_final_norm():
    lm = lm_of("gpt2")
    batch = lm.objective.reading.batch([np.arange(9) % SYMBOLS], device=CPU)
    states = layer_states(lm.backbone, batch.inputs_BT)
    normed = lm.model.transformer.ln_f(states["block 2"])
    torch.testing.assert_close(normed, states["final"])
    assert not torch.allclose(states["block 2"], states["final"])
    head = torch.nn.functional.linear(states["final"], lm.model.lm_head.weight)
    torch.testing.assert_close(head, lm.model(batch.inputs_BT).logits)


@pytest.mark.parametrize("architecture", ["neox", "llama", "modernbert", "distilbert"])
def test_other_architectures_give_each_block(architecture, small_store):
    made = geometry(lm_of(architecture), small_store, context=16, max_windows=6)
    assert list(made.layers) == ["embeddings", "block 1", "block 2", "final"]
    assert (made.windows, made.split) == (6, "validation")


def test_recurrent_models_give_what_the_head_reads(small_store):
    lm = lm_of("gru", tied=False)
    made = geometry(lm, small_store, context=16, max_windows=6)
    assert list(made.layers) == ["final"]
    assert "no states of its layers" in made.page()


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_losses_of_the_tenths_together_are_the_loss(architecture, small_store):
    lm = lm_of(architecture)
    made = geometry(lm, small_store, context=40, max_windows=None)
    whole = score(lm, small_store, context=40)
    assert sum(b.tokens for b in made.loss_bins) == made.tokens == whole.tokens
    together = sum(b.tokens * b.loss.estimate for b in made.loss_bins) / made.tokens
    assert together == pytest.approx(made.loss.estimate, rel=1e-12)
    assert made.loss.estimate == near(whole.nats_per_token)
    interval = whole.interval
    assert made.loss.low == near(interval.low)
    assert made.loss.basis == "text only"
    assert sum(b.share_of_training_text for b in made.loss_bins) == pytest.approx(1)


def test_a_tenths_loss_is_that_of_its_tokens_and_its_interval_is_over_text(small_store):
    lm = lm_of("gpt2", order="backward")
    made = geometry(lm, small_store, context=40, max_windows=None)
    counts_V = token_counts(small_store.split("train"), small_store.vocabulary)
    counts_V[SYMBOLS:] = 0  # BOS and end of text
    bins_V = occurrence_deciles(counts_V)
    windows = evaluation_windows(small_store.split("validation"), 40)
    nats: dict[int, list[float]] = {}
    for row in range(len(windows)):
        ids = windows.ids(row)[::-1].copy()
        inputs = torch.tensor([[lm.tokenizer.bos_id, *ids[:-1]]])
        with torch.no_grad():
            log_p = lm.model(inputs).logits[0].log_softmax(-1)
        for t, token in enumerate(ids):
            nats.setdefault(int(bins_V[token]), []).append(-float(log_p[t, token]))
    assert [b.bin for b in made.loss_bins] == sorted(nats)
    for b in made.loss_bins:
        assert b.tokens == len(nats[b.bin])
        assert b.loss.estimate == pytest.approx(np.mean(nats[b.bin]), rel=1e-5)
        assert b.types == (bins_V[:SYMBOLS] == b.bin).sum()
        assert (b.loss.low is None) == (b.loss.clusters < 5)
    assert any(b.loss.low is not None and b.loss.low < b.loss.estimate for b in made.loss_bins)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_their_norms_by_frequency(tied, small_store):
    lm = lm_of("gpt2", tied=tied)
    made = geometry(lm, small_store, context=40, max_windows=4)
    weight_VD = lm.model.get_input_embeddings().weight.detach().numpy()
    assert made.tied is tied
    assert made.input_embedding == cloud(of_rows(weight_VD))
    assert made.output_embedding is not None
    assert (made.output_embedding == made.input_embedding) is tied
    counts_V = token_counts(small_store.split("train"), small_store.vocabulary)[:SYMBOLS]
    norm_V = np.linalg.norm(weight_VD[:SYMBOLS].astype(float), axis=1)  # BOS, end: no part
    norms = made.input_norms
    assert norms.spearman == pytest.approx(spearmanr(counts_V, norm_V)[0])
    assert norms.types == SYMBOLS == sum(b.types for b in norms.bins)
    together = sum(b.types * b.mean_norm for b in norms.bins) / SYMBOLS
    assert together == pytest.approx(norm_V.mean())
    assert norms.bins[0].lowest_count == counts_V.min()


def test_what_cannot_be_measured_is_refused(small_store, store_of_three, text_store):
    lm = lm_of("gpt2")
    with pytest.raises(UserError, match="at most 40 tokens"):
        geometry(lm, small_store, context=41)
    with pytest.raises(UserError, match="another tokenizer"):
        geometry(lm, text_store)
    with pytest.raises(UserError, match="use longer windows"):
        geometry(lm, small_store, context=1)
    made = geometry(lm, store_of_three, context=2, max_windows=9)
    assert "too few" in made.note
    assert "too few" in made.page()


def test_the_command_on_a_trained_headless_run(small_store, tmp_path, capsys):
    config = tiny_training(
        small_store,
        tmp_path / "run",
        objective="headless",
        model=ModelConfig(layers=2, heads=2, width=16, tied=True),
    )
    run = train(config).path
    out = tmp_path / "out"
    options = ["--store", str(small_store.path), "--windows", "20", "--device", "cpu"]
    assert main(["geometry", str(run), *options, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "effective rank" in printed
    results = json.loads((out / "results.json").read_text())
    assert results["command"] == "geometry"
    assert results["objective"] == "headless"
    lm, store = open_model(run), small_store
    assert results["layers"] == geometry(lm, store, max_windows=20).to_json()["layers"]
    page = (out / "report.html").read_text()
    assert page == Geometry.from_json(results).page()
    assert page.count("<figure>") == 4
    assert "which is also the output embedding" in page
