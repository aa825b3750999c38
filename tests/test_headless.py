"""Headless training: the loss it uses, the head it gets for free, the bias beside the model.

Shapes: K targets, V vocabulary, X contexts.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers import journal, symbols_tokenizer, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.config.training import TrainConfig
from lmlab.data.unigram import log_unigram, token_counts
from lmlab.errors import UserError
from lmlab.lm.calibrated_head import calibrate
from lmlab.lm.export import export_model
from lmlab.lm.language_model import open_model
from lmlab.lm.sampling import sample
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.models.head import attach_bias
from lmlab.objectives import from_record
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.contrastive import contrastive_loss
from lmlab.objectives.headless import Contrastive
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train
from lmlab.training.setup import resolve_run

TIED = ModelConfig(layers=1, heads=2, width=16, tied=True)


def tiny_backbone(*, tied=True, bias=None):
    config = ModelConfig(layers=1, heads=2, width=16, tied=tied)
    model = build_model(
        build_config(config, vocabulary=14, context=8, bos_id=12, end_of_text_id=13), seed=0
    )
    if bias is not None:
        attach_bias(model, bias, learnt=False)
    return Backbone(model.eval())


def batch_of(objective, count=3):
    windows = list(np.random.default_rng(0).integers(0, 12, (count, 8)))
    windows[0] = windows[0][:5]  # padded
    return objective.reading.batch(windows, device=torch.device("cpu"))


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_loss_is_cross_entropy_over_the_batch(order):
    objective = Objective(Causal(order=order, bos_id=12), Contrastive(HeadlessConfig()))
    backbone = tiny_backbone()
    batch = batch_of(objective)
    total, count = objective.loss(backbone, batch)
    targets = batch.targets_BT.flatten()
    real = targets != -100
    hidden = backbone.hidden(batch.inputs_BT).flatten(0, 1)[real]
    embedding = backbone.weight_VD
    logits_KK = hidden @ embedding[targets[real]].T
    expected = torch.nn.functional.cross_entropy(
        logits_KK, torch.arange(len(logits_KK)), reduction="sum"
    )
    assert count == int(real.sum()) == 21
    torch.testing.assert_close(total, expected)


def test_the_mix_is_of_both_losses():
    bias_V = torch.randn(14)
    backbone = tiny_backbone(bias=bias_V)
    plain = Objective(Causal(order="forward", bos_id=12), Contrastive(HeadlessConfig()))
    batch = batch_of(plain)
    mixed = Objective(
        Causal(order="forward", bos_id=12), Contrastive(HeadlessConfig(cross_entropy=0.25))
    )
    targets = batch.targets_BT.flatten()
    full = torch.nn.functional.cross_entropy(
        backbone.logits(batch.inputs_BT).flatten(0, 1), targets, reduction="sum"
    )
    alone, _ = plain.loss(backbone, batch)
    torch.testing.assert_close(mixed.loss(backbone, batch)[0], 0.75 * alone + 0.25 * full)


@pytest.mark.parametrize(
    "settings", [HeadlessConfig(), HeadlessConfig(temperature=0.5), HeadlessConfig(0.2, True)]
)
def test_it_scores_with_its_similarity_and_the_bias(settings):
    bias_V = torch.randn(14)
    backbone = tiny_backbone(bias=bias_V)
    objective = Objective(Causal(order="forward", bos_id=12), Contrastive(settings))
    batch = batch_of(objective)
    hidden = backbone.hidden(batch.inputs_BT)
    embedding = backbone.weight_VD
    if settings.cosine:
        hidden = hidden / hidden.norm(dim=-1, keepdim=True)
        embedding = embedding / embedding.norm(dim=-1, keepdim=True)
    logits = hidden @ embedding.T / settings.temperature + bias_V
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets_BT.flatten(), reduction="none"
    )
    torch.testing.assert_close(
        objective.score(backbone, batch).flatten(), expected.detach().double(), atol=1e-5, rtol=1e-5
    )
    again = from_record(objective.record(), order="forward", tokenizer=symbols_tokenizer(12))
    assert isinstance(again.criterion, Contrastive)
    assert (again.name, again.criterion.settings) == ("headless", settings)


def test_the_optimum_and_the_prior_are_the_distribution():
    """Pointwise mutual information: free logits trained on a large batch, with p(v | x) known."""
    rng = np.random.default_rng(0)
    p_XV = rng.dirichlet(np.full(6, 0.7), size=4)
    counts_XV = np.round(5000 * p_XV / 4).astype(int) + 1  # the batch, exactly
    contexts = torch.tensor(np.repeat(np.repeat(np.arange(4), 6), counts_XV.reshape(-1)))
    targets = torch.tensor(np.repeat(np.tile(np.arange(6), 4), counts_XV.reshape(-1)))
    states_XD = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    embedding_VD = torch.eye(6, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [states_XD], max_iter=2000, max_eval=4000, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = contrastive_loss(states_XD[contexts], embedding_VD, targets)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[arg-type]
    prior_V = np.log(counts_XV.sum(0) / counts_XV.sum())
    logits_XV = states_XD.detach().numpy() @ embedding_VD.numpy().T + prior_V
    made_XV = np.exp(logits_XV) / np.exp(logits_XV).sum(1, keepdims=True)
    expected_XV = counts_XV / counts_XV.sum(1, keepdims=True)
    assert made_XV == pytest.approx(expected_XV, abs=1e-5)
    raw_XV = np.exp(logits_XV - prior_V)
    assert np.abs(raw_XV / raw_XV.sum(1, keepdims=True) - expected_XV).max() > 0.05


def test_unigram_counts_are_those_of_the_stream(small_store):
    split = small_store.split("train")
    ids = split.read(0, split.tokens)
    counts = token_counts(split, small_store.vocabulary)
    assert [int((ids == v).sum()) for v in range(small_store.vocabulary)] == counts.tolist()
    smoothed = np.exp(log_unigram(counts))
    assert smoothed.sum() == pytest.approx(1)
    assert smoothed[12] == pytest.approx(1 / (len(ids) + small_store.vocabulary))  # BOS: never


@pytest.fixture(scope="module")
def headless_run(small_store, tmp_path_factory):
    config = tiny_training(
        small_store, tmp_path_factory.mktemp("run") / "r", objective="headless", model=TIED
    )
    return train(config)


def test_a_headless_checkpoint_is_a_language_model(headless_run, small_store):
    lm = open_model(headless_run.path)
    raw = open_model(headless_run.path, raw_head=True)
    assert lm.head == "tied + fixed log-unigram bias"
    assert raw.head == "tied, its output bias left out"
    prior = torch.from_numpy(log_unigram(token_counts(small_store.split("train"), 14))).float()
    torch.testing.assert_close(lm.backbone.bias_V, prior, rtol=0, atol=0)
    ids = torch.randint(12, (2, 8))
    with torch.no_grad():
        ours, theirs = lm.model(ids).logits, raw.model(ids).logits
        stock = AutoModelForCausalLM.from_pretrained(headless_run.checkpoint).eval()
        torch.testing.assert_close(stock(ids).logits, theirs, rtol=0, atol=0)
    torch.testing.assert_close(ours, theirs + prior)
    values = [score(s, small_store).nats_per_token for s in (lm, raw)]
    assert values[0] != values[1]
    assert len(sample(lm, count=2, tokens=3).texts) == 2


def test_an_export_scores_as_the_checkpoint_does(headless_run, small_store, tmp_path):
    lm = open_model(headless_run.path)
    folder = export_model(lm, tmp_path / "e")
    exported = open_model(folder)
    nats = [score(s, small_store).nats_M for s in (lm, exported)]
    assert nats[0] == pytest.approx(nats[1], abs=1e-4)
    assert exported.head == "untied"
    stock = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(12, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, lm.model(ids).logits)
    with pytest.raises(UserError, match="exists"):
        export_model(lm, folder)
    raw = export_model(open_model(headless_run.path, raw_head=True), tmp_path / "raw")
    assert open_model(raw).head == "tied, its output bias left out"


def test_a_calibrated_head_is_no_worse_on_the_text_it_was_fitted_to(headless_run, small_store):
    lm = open_model(headless_run.path)
    made, fitted = calibrate(lm, small_store)
    before, after = (score(s, small_store).nats_per_token for s in (lm, made))
    assert after == pytest.approx(fitted.nats_per_token, abs=1e-5)
    assert after < before
    assert fitted.tokens == score(lm, small_store).tokens
    prior_V = lm.backbone.bias_V
    assert prior_V is not None
    ids = torch.randint(12, (2, 8))
    with torch.no_grad():
        expected = (lm.model(ids).logits - prior_V) * fitted.similarity
        expected += fitted.prior * prior_V
        torch.testing.assert_close(made.model(ids).logits, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="two scalars"):
        calibrate(open_model(headless_run.path, raw_head=True), small_store)


def test_the_journal_tells_how_many_negatives(headless_run, small_store, tmp_path):
    assert {record["targets_per_micro_batch"] for record in journal(headless_run.path)} == {32.0}
    train(tiny_training(small_store, tmp_path / "plain"))
    assert all("targets_per_micro_batch" not in r for r in journal(tmp_path / "plain"))


@pytest.mark.parametrize("kind", ["fixed", "learnt"])
def test_cross_entropy_from_the_prior(small_store, tmp_path, kind):
    run = train(tiny_training(small_store, tmp_path / kind, output_bias=kind))
    prior = torch.from_numpy(log_unigram(token_counts(small_store.split("train"), 14))).float()
    bias_V = open_model(run.path).backbone.bias_V
    assert bias_V is not None
    assert torch.equal(bias_V, prior) == (kind == "fixed")
    assert (bias_V - prior).abs().max() < 0.1
    # fresh logits are near zero, so training begins at the unigram's cross-entropy
    first = journal(tmp_path / kind)[0]["loss"]
    assert first < np.log(12) + 0.1


def test_identities_of_plain_runs_know_nothing_of_it(small_store, tmp_path):
    plain = resolve_run(tiny_training(small_store, tmp_path / "a"), small_store)
    values = plain.config.identity_values(store_fingerprint="x", parent=None)
    assert "headless" not in values
    assert "output_bias" not in values
    biased = tiny_training(small_store, tmp_path / "a", output_bias="fixed")
    assert plain.identity != resolve_run(biased, small_store).identity


def test_what_cannot_be_headless(small_store, tmp_path):
    untied = tiny_training(small_store, tmp_path / "u", objective="headless")
    with pytest.raises(UserError, match=r"`model\.tied`"):
        train(untied)
    with pytest.raises(UserError, match="has no gradient"):
        TrainConfig(tmp_path, objective="headless", output_bias="learnt")
    with pytest.raises(UserError, match="are for `objective` headless"):
        TrainConfig(tmp_path, headless=HeadlessConfig(temperature=2.0))
    for make in (
        lambda: HeadlessConfig(temperature=0.0),
        lambda: HeadlessConfig(cross_entropy=1.0),
    ):
        with pytest.raises(UserError, match="must be"):
            make()


def test_no_text_is_sampled_where_the_models_own_logits_are_others(small_store, tmp_path):
    config = tiny_training(
        small_store, tmp_path / "c", objective="headless", model=TIED,
        headless=HeadlessConfig(temperature=0.2, cosine=True),
    )  # fmt: skip
    run = train(config)
    with pytest.raises(UserError, match="a cosine or a temperature"):
        sample(open_model(run.path))
    with pytest.raises(UserError, match="a cosine or a temperature"):
        export_model(open_model(run.path), tmp_path / "e")
