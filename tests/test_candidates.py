"""Laws of a headless loss's candidates: exact against brute force, and what each does to the model.

Brute force writes every row's candidates out, one by one, as a list of ids with weights; it shares
nothing with the code under test.

Shapes: N rows, D width, V vocabulary, M draws, W windows, T tokens a window.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from candidate_toy import TOKENS, Toy
from helpers import journal, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.config.training import TrainConfig
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.objectives import contrastive as module
from lmlab.objectives.base import Batch
from lmlab.objectives.candidates import (
    Candidates,
    chosen_rows,
    mixture,
    other_windows,
    pool_and_own,
    unigram_draws,
)
from lmlab.objectives.contrastive import contrastive_loss, sum_over_candidates
from lmlab.objectives.cross_entropy import linear_cross_entropy
from lmlab.objectives.headless import Contrastive, candidates_of
from lmlab.training.loop import train
from lmlab.training.setup import resolve_run

D, V, W, T, M = 5, 19, 4, 6, 13
PRIOR_V = torch.log_softmax(torch.linspace(0, 3, V, dtype=torch.float64), 0)


def inputs(seed=0):
    """Hidden states, embedding, targets of W windows (some left out), and draws."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(W * T, D, generator=generator, dtype=torch.float64).requires_grad_()
    embedding = torch.randn(V, D, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(V, (W, T), generator=generator)
    targets[1, 2:4] = -100
    draws = torch.randint(V, (M,), generator=generator)
    return hidden, embedding, targets, draws


def brute_force(hidden, embedding, targets, law, draws, subset=()):
    """The sum over rows, each with its candidates written out."""
    subset = list(subset) or [False] * targets.numel()
    flat = targets.reshape(-1).tolist()
    kept = [i for i, t in enumerate(flat) if t != -100]
    unigram = PRIOR_V.exp()
    total = hidden.new_zeros(())
    for k, i in enumerate(kept):
        window = i // T
        elsewhere = [flat[j] for j in kept if j // T != window]
        inside = [flat[j] for j in kept if j // T == window]
        weighted: Any = {
            "subset": [(flat[i], 1.0)]
            + [(flat[j], 1.0) for n, j in enumerate(kept) if subset[n] and n != k],
            "other-windows": [(flat[i], 1.0)] + [(v, 1.0) for v in elsewhere],
            "unigram": [(flat[i], 1.0)] + [(int(v), 1.0) for v in draws],
        }.get(law)
        if law == "mixture":
            everyone = inside + elsewhere + draws.tolist()
            more = len(elsewhere) + len(draws)
            weighted = [
                (v, float(len(everyone) * unigram[v] / (inside.count(v) + more * unigram[v])))
                for v in everyone
            ]
        ids = torch.tensor([int(v) for v, _ in weighted])
        weights = torch.tensor([w for _, w in weighted], dtype=torch.float64)
        scores = embedding[ids] @ hidden[i] + weights.log()
        total = total + torch.logsumexp(scores, 0) - embedding[flat[i]] @ hidden[i]
    return total


def ours(law, targets, draws, subset=None):
    kept = targets.reshape(-1) != -100
    ids = targets.reshape(-1)[kept]
    window = torch.arange(W).repeat_interleave(T)[kept]
    if law == "unigram":
        return pool_and_own(ids, draws)
    if law == "subset":
        return pool_and_own(ids, ids[subset], counted_K=subset)
    if law == "other-windows":
        return other_windows(ids, window, ids)
    return mixture(ids, window, ids, draws, PRIOR_V)


@pytest.fixture(params=[(1, 1), (7, 3), (1000, 1000)], ids=str)
def chunk(request, monkeypatch):
    rows, cached = request.param
    monkeypatch.setattr(module, "_LEAST_ROWS", rows)
    monkeypatch.setitem(module._CHUNK_LOGITS, "cpu", 1)
    monkeypatch.setitem(module._CACHED_LOGITS, "cpu", cached * V)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("law", ["unigram", "subset", "other-windows", "mixture"])
def test_each_law_is_its_candidates_written_out(law):
    hidden, embedding, targets, draws = inputs()
    kept = targets.reshape(-1) != -100
    subset = chosen_rows(int(kept.sum()), 9, key=5)
    assert int(subset.sum()) == 9
    made = sum_over_candidates(hidden[kept], embedding, ours(law, targets, draws, subset))
    expected = brute_force(hidden, embedding, targets, law, draws, subset)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-11)
    for a, b in zip(
        torch.autograd.grad(made * 3, (hidden, embedding)),
        torch.autograd.grad(expected * 3, (hidden, embedding)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_draws_that_lack_a_target_were_refused():
    """A target that no candidate is enters its own row, once, and no other row."""
    hidden, embedding, targets, draws = inputs()
    targets, draws = targets.reshape(-1), draws[draws > 8]
    assert (targets < 8).any()
    rows = targets != -100
    added = contrastive_loss(hidden, embedding, targets, candidate_ids_M=draws, target_added=True)
    expected = brute_force(hidden, embedding, targets.view(W, T), "unigram", draws) / rows.sum()
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-12)
    only_missing = contrastive_loss(hidden, embedding, targets, candidate_ids_M=draws)
    scores = hidden[rows] @ embedding[draws].T
    own = (hidden[rows] * embedding[targets[rows]]).sum(1)
    absent = ~torch.isin(targets[rows], draws)
    scores = torch.cat([scores, torch.where(absent, own, -math.inf)[:, None]], 1)
    expected = (torch.logsumexp(scores, 1) - own).mean()
    torch.testing.assert_close(only_missing, expected, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(only_missing, (hidden, embedding)),
        torch.autograd.grad(expected, (hidden, embedding)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_draws_as_many_as_the_unigram_says_are_cross_entropy_with_the_prior():
    """The limit of many draws, by draws in exact proportion: loss and gradients."""
    hidden, embedding, targets, _ = inputs()
    targets = targets.reshape(-1)
    counts = torch.arange(1, V + 1)
    prior_V = (counts / counts.sum()).double().log()
    rows = targets != -100
    full = linear_cross_entropy(hidden, embedding, targets, bias_V=prior_V)
    d_full = torch.autograd.grad(full, (hidden, embedding))
    gaps = []
    for times in (1, 10, 1000):
        draws = torch.arange(V).repeat_interleave(times * counts)
        made = contrastive_loss(
            hidden, embedding, targets, candidate_ids_M=draws, target_added=True
        )
        shift = math.log(len(draws)) + prior_V[targets[rows]].mean()
        gaps.append(abs(float((made - full - shift).detach())))
        d_made = torch.autograd.grad(made, (hidden, embedding))
        gaps[-1] += sum(float((a - b).abs().max()) for a, b in zip(d_made, d_full, strict=True))
    assert gaps[0] > 0.01
    assert gaps[1] < gaps[0] / 5
    assert gaps[2] < gaps[1] / 50


def test_the_mixtures_sum_estimates_the_softmaxs_without_bias():
    """Given its own window, the mean over other windows and draws of a row's sum over candidates is
    the sum over the vocabulary with the prior."""
    prior = PRIOR_V.exp().numpy()
    rng = np.random.default_rng(0)
    own, scores = rng.choice(V, T, p=prior), rng.normal(size=V)
    target = torch.tensor(own)
    sums = []
    for _ in range(4000):
        others, draws = rng.choice(V, 3 * T, p=prior), rng.choice(V, M, p=prior)
        made = mixture(
            target, torch.zeros(T, dtype=torch.long), torch.tensor(np.append(own, others)),
            torch.tensor(draws), PRIOR_V,
        )  # fmt: skip
        weights = np.zeros(V)
        weights[made.ids_U.numpy()] = made.weight_WU[0].numpy()
        sums.append(weights @ np.exp(scores) / (4 * T + M))
    expected = prior @ np.exp(scores)
    error = float(np.std(sums)) / math.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx(expected, abs=4 * error)
    assert error < 0.01 * expected
    # without the weights the own window's share would count
    plain = (np.exp(scores)[own].sum() + (3 * T + M) * expected) / (4 * T + M)
    assert abs(plain - expected) > 10 * error


def test_draws_are_of_the_distribution_and_of_the_key_alone():
    draws = unigram_draws(PRIOR_V, 200_000, key=7)
    share_V = np.bincount(draws.numpy(), minlength=V) / len(draws)
    expected_V = PRIOR_V.exp().numpy()
    assert np.abs(share_V - expected_V).max() < 5 * np.sqrt(expected_V.max() / len(draws))
    assert torch.equal(unigram_draws(PRIOR_V, 50, key=7), unigram_draws(PRIOR_V, 50, key=7))
    assert torch.equal(unigram_draws(PRIOR_V.float(), 50, key=7)[:50], draws[:50])
    assert not torch.equal(unigram_draws(PRIOR_V, 50, key=8), draws[:50])
    impossible = torch.tensor([0.5, 0.0, 0.5, 0.0]).log()
    assert set(unigram_draws(impossible, 1000, key=0).tolist()) == {0, 2}


def test_windows_are_those_of_the_targets():
    targets = torch.tensor([[5, -100, 6], [-100, -100, 7]])
    batch = Batch(torch.zeros_like(targets), targets)
    assert batch.window_K.tolist() == [0, 0, 1]
    chosen = replace(batch, rows_N=torch.tensor([0, 5]))
    assert chosen.window_K.tolist() == [0, 1]


def test_the_theory_said_the_marginal_where_it_is_a_mixture():
    """Trained to the end with 2 and 8 windows, the published law has the excess of log p / q with q
    a mixture of the own window and the marginal: 0.19 and 0.028 nats, and not 0."""
    toy = Toy()
    assert toy.theory(2) == pytest.approx(0.190, abs=5e-4)
    assert toy.theory(8) == pytest.approx(0.028, abs=5e-4)

    def published(hidden, embedding, targets, _):
        return contrastive_loss(hidden, embedding, targets)

    made = {windows: toy.trained(published, windows, steps=1500) for windows in (2, 8)}
    assert made[2] == pytest.approx(0.192, rel=0.2)
    assert made[8] == pytest.approx(0.0220, rel=0.2)


@pytest.mark.slow
def test_the_bias_falls_with_the_number_of_windows():
    toy = Toy()
    made = [
        toy.trained(lambda h, e, t, _: contrastive_loss(h, e, t), windows, steps=2500)
        for windows in (2, 4, 8, 16, 32)
    ]
    assert made == sorted(made, reverse=True)
    assert made == pytest.approx([0.192, 0.069, 0.022, 0.0068, 0.0020], rel=0.25)


@pytest.mark.parametrize("law", ["unigram", "mixture"])
def test_draws_have_no_bias(law):
    """At 2 windows, where the published law is 0.19 nats off. Independent draws and the corrected
    mixture end as near the floor as cross-entropy with the prior, up to their noise."""
    toy = Toy()
    log_unigram_V = toy.unigram_V.log()
    window_K = torch.arange(2 * TOKENS) // TOKENS

    def loss(hidden, embedding, targets, step):
        draws = unigram_draws(log_unigram_V, 256, key=step)
        made = (
            pool_and_own(targets, draws)
            if law == "unigram"
            else mixture(targets, window_K, targets, draws, log_unigram_V)
        )
        return sum_over_candidates(hidden, embedding, made) / len(targets)

    def full(hidden, embedding, targets, _):
        return linear_cross_entropy(hidden, embedding, targets, bias_V=log_unigram_V)

    floor = toy.trained(full, 2)
    assert toy.trained(loss, 2) == pytest.approx(floor, abs=0.002)
    assert floor < 0.006


def test_the_laws_of_a_micro_batch_are_those_of_its_settings():
    """A headless objective's candidates, from its batch; draws follow from the batch's key."""
    targets = torch.tensor([[1, 2, 1], [3, -100, 2]])
    batch = Batch(torch.zeros_like(targets), targets, key=11)

    def made(**settings: Any) -> Candidates:
        return candidates_of(HeadlessConfig(**settings), batch, PRIOR_V)

    plain = made()
    assert plain.ids_U.tolist() == [1, 2, 3]
    assert plain.weight_WU.tolist() == [[2, 2, 1]]
    assert plain.own_K is None
    others = made(candidates="other-windows")
    assert others.weight_WU.tolist() == [[0, 1, 1], [2, 1, 0]]
    assert others.own_weight().tolist() == [1, 2, 1, 1, 2]
    drawn = made(candidates="unigram", draws=50)
    expected = pool_and_own(targets[targets != -100], unigram_draws(PRIOR_V, 50, key=11))
    assert torch.equal(drawn.weight_WU, expected.weight_WU)
    assert int(made(candidates="unigram").weight_WU.sum()) == 5
    assert int(made(draws=2).weight_WU.sum()) == 2
    assert made(candidates="mixture", draws=3).weight_WU.shape[0] == 2


def test_settings_that_make_no_law(small_store, tmp_path, monkeypatch):
    settings: dict[str, Any]
    for settings, said in (
        ({"draws": 0}, "draws` 0 must be at least 1"),
        ({"candidates": "other-windows", "draws": 5}, "leave it out"),
        ({"candidates": "unigram", "duplicates": "unique"}, "need every candidate counted"),
    ):
        with pytest.raises(UserError, match=said):
            HeadlessConfig(**settings)
    with pytest.raises(UserError, match="at least 2 windows"):
        TrainConfig(
            tmp_path, objective="headless", batch=4, micro_batch=1,
            headless=HeadlessConfig(candidates="other-windows"),
        )  # fmt: skip
    with pytest.raises(UserError, match="leave it fixed"):
        TrainConfig(
            tmp_path, objective="headless", output_bias="learnt",
            headless=HeadlessConfig(candidates="mixture", cross_entropy=0.5),
        )  # fmt: skip
    subset = Contrastive(HeadlessConfig(draws=4))
    monkeypatch.setattr("lmlab.objectives.headless.world", lambda: 2)
    backbone = Backbone(
        build_model(
            build_config(
                ModelConfig(layers=1, heads=2, width=16, tied=True),
                vocabulary=small_store.vocabulary, context=8, bos_id=0, end_of_text_id=1,
            ),
            seed=0,
        )
    )  # fmt: skip
    with pytest.raises(UserError, match="in one process only"):
        subset.check(backbone)


def test_the_published_laws_runs_keep_their_identity(small_store, tmp_path):
    """Runs from before there were other laws are found again; every other law is another run."""

    def identity(**settings: Any) -> str:
        config = tiny_training(
            small_store, tmp_path / "a", objective="headless",
            model=ModelConfig(layers=1, heads=2, width=16, tied=True),
            headless=HeadlessConfig(**settings),
        )  # fmt: skip
        run = resolve_run(config, small_store)
        assert ("candidates" in run.deciding["headless"]) == bool(settings)
        return run.identity

    laws: list[dict[str, Any]] = [
        {},
        {"draws": 9},
        {"candidates": "unigram"},
        {"candidates": "unigram", "draws": 9},
    ]
    assert len({identity(**law) for law in laws}) == 4


def test_draws_alone_do_not_depend_on_the_micro_batch(small_store, tmp_path):
    model = ModelConfig(layers=1, heads=2, width=16, tied=True)
    settings: dict[str, Any]
    for settings, depends in (
        ({}, True),
        ({"candidates": "mixture"}, True),
        ({"candidates": "unigram"}, True),
        ({"candidates": "unigram", "draws": 30}, False),
    ):
        config = tiny_training(
            small_store, tmp_path / str(settings), objective="headless", model=model,
            headless=HeadlessConfig(**settings),
        )  # fmt: skip
        record = journal(train(config).path)[-1]
        assert ("targets_per_micro_batch" in record) == depends
