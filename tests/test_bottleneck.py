"""The head as a bottleneck: shares against projections made explicitly, gradients against autograd,
and cases whose share is known.

Shapes: N positions, V columns, D width.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lmlab
from helpers import tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.models.backbone import LogitHead
from lmlab.numerics.head_gradient import kept_gradient
from lmlab.objectives.candidates import mixture, pool, pool_and_own
from lmlab.objectives.contrastive import sum_over_candidates
from lmlab.objectives.logit_gradient import candidates_gradient, softmax_gradient
from lmlab.results import plain
from lmlab.topics.bottleneck.bottleneck import Bottleneck, bottleneck
from lmlab.training.loop import train


def draws(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def projection(columns_KD):
    """On the span of the columns, by numpy's pseudo-inverse."""
    columns = columns_KD.double().numpy()
    return columns @ np.linalg.pinv(columns, rcond=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 12), st.integers(2, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99)
)
def test_kept_shares_are_those_of_explicit_projections(n, v, d, rank, seed):
    gradient, states = draws(n, v, seed=seed), draws(n, d, seed=seed + 1)
    weight = draws(v, min(rank, d), seed=seed + 2) @ draws(min(rank, d), d, seed=seed + 3)
    kept = kept_gradient(gradient, states, weight)
    g, w = gradient.double().numpy(), weight.double().numpy()
    by_w, by_h = projection(weight), projection(states)
    outside = (np.eye(n) - by_h) @ g @ (np.eye(v) - by_w)

    def near(expected):
        return pytest.approx(expected, rel=1e-4, abs=1e-4)

    assert kept.whole_N.numpy() == near((g**2).sum(1))
    assert kept.states_N.numpy() == near(((g @ by_w) ** 2).sum(1))
    assert float(kept.both_N.sum()) == near((g**2).sum() - (outside**2).sum())
    singular = np.linalg.svd(g, compute_uv=False)
    assert kept.rank == np.linalg.matrix_rank(w, rtol=1e-5)
    assert kept.best == near((singular[: kept.rank] ** 2).sum())
    assert kept.reached == near(((g @ w) ** 2).sum())
    assert kept.moved == near(((g @ w @ w.T) ** 2).sum())
    assert float(kept.states_N.sum()) <= kept.best * (1 + 1e-4) + 1e-4


def test_a_head_as_wide_as_its_vocabulary_loses_nothing():
    kept = kept_gradient(draws(30, 6), draws(30, 6, seed=1), draws(6, 6, seed=2))
    assert kept.states_N.numpy() == pytest.approx(kept.whole_N.numpy(), rel=1e-5)


def test_a_random_gradient_keeps_its_rank_over_its_columns():
    kept = kept_gradient(draws(400, 200), draws(400, 20, seed=1), draws(200, 20, seed=2))
    whole = float(kept.whole_N.sum())
    assert float(kept.states_N.sum()) / whole == pytest.approx(20 / 200, abs=0.01)
    both = 1 - (1 - 20 / 200) * (1 - 20 / 400)
    assert float(kept.both_N.sum()) / whole == pytest.approx(both, abs=0.01)


def test_chunks_of_columns_do_not_matter(monkeypatch):
    parts = draws(9, 50), draws(9, 3, seed=1), draws(50, 3, seed=2)
    whole = kept_gradient(*parts)
    monkeypatch.setattr("lmlab.numerics.head_gradient._ENTRIES", 9 * 7)
    chunked = kept_gradient(*parts)
    assert chunked.both_N.numpy() == pytest.approx(whole.both_N.numpy(), rel=1e-5)
    assert chunked.best == pytest.approx(whole.best, rel=1e-5)


@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.5, None), (2.0, 3.0)])
def test_the_softmax_gradient_is_that_of_autograd(scale, cap):
    hidden, weight = draws(7, 4), draws(9, 4, seed=1)
    bias, targets = draws(9, seed=2), torch.tensor([0, 3, -100, 8, 8, 1, -100])
    products = (hidden @ weight.T + bias).requires_grad_()
    logits = scale * products
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    head = LogitHead(torch.nn.Linear(4, 9), scale=scale, cap=cap)
    gradient = softmax_gradient(hidden, weight, targets, bias, head=head)
    assert products.grad is not None
    expected = products.grad[targets != -100]
    assert gradient.gradient_KV.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert len(gradient.states_KD) == 5


@pytest.mark.parametrize("law", ["pool", "own", "mixture"])
def test_the_gradient_over_candidates_reaches_states_and_embeddings_as_in_training(law):
    targets, window = torch.tensor([1, 4, 4, 2, 0, 6]), torch.tensor([0, 0, 1, 1, 2, 2])
    drawn = torch.tensor([3, 3, 1, 7])
    candidates = {
        "pool": lambda: pool(targets, targets),
        "own": lambda: pool_and_own(targets, drawn),
        "mixture": lambda: mixture(targets, window, targets, drawn, torch.full((8,), -2.0794415)),
    }[law]()
    hidden = draws(6, 3).requires_grad_()
    embedding = draws(8, 3, seed=1).requires_grad_()
    sum_over_candidates(hidden, embedding, candidates, temperature=0.5).backward()
    with torch.no_grad():
        weight = embedding[candidates.ids_U]
        gradient = candidates_gradient(hidden.detach(), weight, candidates, temperature=0.5)
    assert hidden.grad is not None
    assert embedding.grad is not None
    reached = gradient.gradient_KV @ gradient.weight_VD
    assert reached.numpy() == pytest.approx(hidden.grad.numpy(), abs=1e-5)
    of_weight = gradient.gradient_KV.T @ gradient.states_KD
    assert of_weight.numpy() == pytest.approx(embedding.grad[candidates.ids_U].numpy(), abs=1e-5)


@pytest.fixture(scope="module")
def models(text_store, tmp_path_factory):
    """A causal, a headless and a masked run of two steps."""
    folder = tmp_path_factory.mktemp("bottleneck")
    width = ModelConfig(architecture="gpt2", layers=1, heads=2, width=16, tied=True)
    runs = {}
    for name, more in {
        "causal": {"model": width},
        "headless": {"model": width, "objective": "headless", "headless": HeadlessConfig()},
        "masked": {
            "model": ModelConfig(architecture="bert", layers=1, heads=2, width=16),
            "objective": "masked",
        },
    }.items():
        runs[name] = train(tiny_training(text_store, folder / name, context=16, **more)).path
    return runs


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("causal", ["cross-entropy"]),
        ("headless", ["contrastive", "cross-entropy"]),
        ("masked", ["cross-entropy"]),
    ],
)
def test_models_of_each_objective(models, text_store, name, losses):
    lm, store = open_model(str(models[name])), text_store
    result = bottleneck([lm], store, context=16, max_windows=12, batch_tokens=64)
    assert [g.loss for g in result.gradients] == losses
    for g in result.gradients:
        assert 0 < g.states.estimate <= g.both.estimate <= 1 + 1e-9
        assert g.states.estimate <= g.best + 1e-6
        assert g.rank <= 16
        assert g.batches == 3
    if name != "masked":
        assert result.gradients[0].positions == sum(
            len(w)
            for w in map(lm.windows(store, "train", context=16, max_windows=12).ids, range(12))
        )
    full = result.gradients[-1]
    assert full.columns == len(lm.backbone.weight_VD)
    assert Bottleneck.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_the_share_of_a_causal_model_is_that_of_its_gradients_by_hand(models, text_store):
    lm, store = open_model(str(models["causal"])), text_store
    result = bottleneck([lm], store, context=16, max_windows=4, batch_tokens=64)
    windows = lm.windows(store, "train", context=16, max_windows=4)
    weight = lm.model.get_output_embeddings().weight.detach()
    by_w, kept, whole = projection(weight), 0.0, 0.0
    for row in range(4):
        ids = torch.from_numpy(np.asarray(windows.ids(row), dtype=np.int64))
        inputs = torch.cat([torch.tensor([lm.tokenizer.bos_id]), ids[:-1]])
        logits = lm.model(inputs[None]).logits[0].detach().requires_grad_()
        torch.nn.functional.cross_entropy(logits, ids, reduction="sum").backward()
        assert logits.grad is not None
        gradient = logits.grad.double().numpy()
        kept += ((gradient @ by_w) ** 2).sum()
        whole += (gradient**2).sum()
    assert result.gradients[0].states.estimate == pytest.approx(kept / whole, rel=1e-4)


def test_the_command_writes_a_page_that_can_be_drawn_again(models, text_store, tmp_path, capsys):
    out = tmp_path / "out"
    both = [str(models["causal"]), str(models["headless"])]
    options = [
        "--store",
        str(text_store.path),
        "--windows",
        "6",
        "--context",
        "16",
        "--out",
        str(out),
    ]
    assert main(["bottleneck", *both, *options]) == 0
    assert "contrastive" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "passes a head of rank" in page
    result = lmlab.read(out)
    assert isinstance(result, Bottleneck)
    assert plain(result.frame()["model"].tolist()) == [g.model for g in result.gradients]
    assert len(result.gradients) == 3


def test_a_batch_holds_a_window(models, text_store):
    lm, store = open_model(str(models["causal"])), text_store
    with pytest.raises(UserError, match="`batch_tokens` 8 must hold one window of 16"):
        bottleneck([lm], store, context=16, batch_tokens=8)
    with pytest.raises(UserError, match="`models` is empty"):
        bottleneck([], store)
