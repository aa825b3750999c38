"""Pruning: removed terms, the in-memory form, the model that is written, metrics and tests.

Shapes: N contexts, D width, V vocabulary.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from helpers import tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.training import OptimizerConfig, ParentConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.topics.encoding import token_probability
from lmlab.topics.encoding.encoding import fit_encoding
from lmlab.topics.encoding.of_model import Head, output_head
from lmlab.topics.encoding.pruning import (
    DIRECTIONS,
    WAYS,
    Point,
    Removal,
    compare_heads,
    narrowed,
    prunable,
    pruned,
    removal_order,
)
from lmlab.topics.encoding.pruning_curves import (
    PruneResult,
    check_can_write,
    chosen_weights,
    narrow_model,
    prune,
    pruned_parameters,
)
from lmlab.topics.encoding.steering_effects import steering_effects
from lmlab.topics.encoding.token_probability import read_texts
from lmlab.training.loop import train
from lmlab.training.optimizers import Optimizers
from tolerances import OF_FLOAT32, near

WIDTH = 8


def trained(architecture, store, folder):
    config = tiny_training(
        store, folder / "run", steps=4, context=48,
        model=ModelConfig(
            architecture, layers=1, heads=2, width=WIDTH, tied=architecture == "gpt2",
            initializer_range=0.3,
        ),
    )  # fmt: skip
    return train(config).path


@pytest.fixture(scope="module", params=["gpt2", "neox", "llama", "qwen3"])
def run(request, small_store, tmp_path_factory):
    return trained(request.param, small_store, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def lm(run) -> LanguageModel:
    return open_model(run)


IDS = torch.tensor([[12, 3, 4, 5, 3, 0, 7], [12, 1, 1, 8, 9, 2, 2]])


@torch.no_grad()
def logits_and_states(model) -> tuple[np.ndarray, np.ndarray]:
    states = model.base_model(IDS).last_hidden_state
    return model(IDS).logits.double().numpy(), states.double().numpy()


def order_of(lm, way, hidden_ND):
    head = output_head(lm)
    alpha_V = np.random.default_rng(0).dirichlet(np.ones(len(head.embedding_VD)))
    return removal_order(way, fit_encoding(head.embedding_VD, alpha_V), head, hidden_ND)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("replace", ["mean", "zero"])
def test_removed_terms_in_memory_and_in_the_smaller_model(lm, way, replace):
    model, before = lm.model, {k: v.clone() for k, v in lm.model.state_dict().items()}
    logits, states = logits_and_states(model)
    hidden_ND = states.reshape(-1, WIDTH)
    embedding_VD = output_head(lm).embedding_VD
    order = order_of(lm, way, hidden_ND)
    weights = narrowed(Removal(order, 3, replace), output_head(lm), hidden_ND.mean(0))
    gone_DD = order.basis_DD[:, :3] @ order.back_DD[:, :3].T
    removed = (states - hidden_ND.mean(0) * (replace == "mean")) @ gone_DD
    expected = logits - removed @ embedding_VD.T
    with pruned(model, weights):
        np.testing.assert_allclose(logits_and_states(model)[0], expected, atol=2e-5)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    made = narrow_model(lm, weights)
    np.testing.assert_allclose(logits_and_states(made)[0], expected, atol=2e-5)
    assert made.base_model is not model.base_model
    head = made.lm_head
    assert head.out.weight.shape == (len(embedding_VD), WIDTH - 3)
    assert (head.project is None) is (way not in DIRECTIONS)


def test_orders_are_what_they_say(lm):
    hidden_ND = np.random.default_rng(1).normal(size=(50, WIDTH)) * np.arange(WIDTH, 0, -1)
    embedding_VD = output_head(lm).embedding_VD
    of_hidden = order_of(lm, "hidden", hidden_ND).axes_D
    assert of_hidden is not None
    magnitude_D = np.abs(hidden_ND).mean(0)
    assert (np.diff(magnitude_D[of_hidden]) >= 0).all()
    of_variance = order_of(lm, "variance", hidden_ND).axes_D
    assert (np.diff(embedding_VD.std(0)[of_variance]) >= 0).all()
    basis_DD = order_of(lm, "svd", hidden_ND).basis_DD
    sizes = np.linalg.norm(embedding_VD @ basis_DD, axis=0)
    assert (np.diff(sizes) >= 0).all()
    np.testing.assert_allclose(
        np.sort(sizes), np.sort(np.linalg.svd(embedding_VD, compute_uv=False)), rtol=OF_FLOAT32
    )
    random = [order_of(lm, "random", hidden_ND).axes_D for _ in range(2)]
    assert random[0] is not None
    np.testing.assert_array_equal(random[0], random[1])
    with pytest.raises(UserError, match="unknown way"):
        order_of(lm, "magic", hidden_ND)


@pytest.mark.parametrize("way", WAYS)
def test_metrics_are_those_of_both_distributions(way):
    rng = np.random.default_rng(2)
    embedding_VD, hidden_ND = rng.normal(size=(30, 6)), rng.normal(size=(40, 6))
    offset_V, targets_N = rng.normal(size=30), rng.integers(0, 30, 40)
    alpha_V = rng.dirichlet(np.ones(30))
    head = Head(embedding_VD, offset_V, False)
    order = removal_order(way, fit_encoding(embedding_VD, alpha_V), head, hidden_ND)
    weights = narrowed(Removal(order, 2, "mean"), head, hidden_ND.mean(0))
    points = compare_heads(
        hidden_ND, targets_N, Clusters(np.arange(40) % 8), head,
        [Removal(order, 2, "mean"), Removal(order, 0, "zero")], hidden_ND.mean(0),
    )  # fmt: skip

    def log_softmax(logits_NV):
        return logits_NV - np.logaddexp.reduce(logits_NV, axis=1)[:, None]

    a = log_softmax(hidden_ND @ embedding_VD.T + offset_V)
    b = log_softmax(hidden_ND @ weights.weight_VD.T + weights.bias_V)
    m = np.log((np.exp(a) + np.exp(b)) / 2)
    found = points[0]
    assert found.kl.estimate == pytest.approx((np.exp(a) * (a - b)).sum(1).mean(), rel=1e-4)
    js = 0.5 * (np.exp(a) * (a - m) + np.exp(b) * (b - m)).sum(1).mean()
    assert found.js.estimate == pytest.approx(js, rel=1e-4)
    rows = np.arange(40)
    rise = (a[rows, targets_N] - b[rows, targets_N]).mean()
    assert found.nats.estimate == near(rise)
    assert found.same_best.estimate == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    assert points[1].kl.estimate == pytest.approx(0, abs=1e-5)
    assert points[1].same_best.estimate == 1


def point(share: float, low: float | None, high: float | None) -> Point:
    rise = Interval(0.0, low, high, None, None, 0.95, 1, 9, 9, "text only", "")
    return Point("svd", "mean", share, 0, rise, rise, rise, rise)


def test_the_largest_share_passes_at_all_smaller_ones():
    points = [
        point(0.3, 0.001, 0.02), point(0.1, -0.001, 0.002), point(0.2, 0.001, 0.009),
        point(0.4, -0.001, 0.004),
    ]  # fmt: skip
    (made,) = prunable(points, margin=0.01)
    assert (made.within_margin, made.not_significant) == (0.2, 0.1)
    (none,) = prunable([point(0.1, None, None)], margin=0.01)
    assert (none.within_margin, none.not_significant) == (0.0, 0.0)


LOAD = """
import sys
import lmlab.models
import torch
from transformers import AutoModelForCausalLM
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
made = model.eval()(torch.tensor([[12, 3, 4, 5, 3, 0, 7], [12, 1, 1, 8, 9, 2, 2]])).logits
print(*made.detach().flatten().tolist())
"""


def test_the_command_writes_a_smaller_head_that_loads_elsewhere(small_store, tmp_path, capsys):
    out, run = tmp_path / "pruned", trained("neox", small_store, tmp_path)
    options: list[Any] = [
        str(run), "--store", str(small_store.path), "--windows", "12", "--shares", "0.5",
        "--device", "cpu", "--prompts", "2",
    ]  # fmt: skip
    writing = [*options, "--share", "0.5", "--out", str(out)]
    assert main(["prune", *writing]) == 0
    assert "50% of the multiplications" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["chosen"]["removed"] == 4
    assert results["options"]["share"] == 0.5
    assert results["options"]["model"] == str(run)
    result = PruneResult.from_json(results)
    assert result.page() == (out / "report.html").read_text()
    assert result.page().count("<figure>") == 2
    (text,) = results["texts"]  # this store has no test split
    assert len(text["points"]) == 2 * len(WAYS)
    assert {p["same_generation"] is None for p in text["points"] if p["replace"] == "mean"} == {
        False
    }
    done = subprocess.run([sys.executable, "-c", LOAD, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = open_model(out)
    assert "4 of 8 dimensions" in again.head
    made = prune(open_model(run), small_store, shares=[0.5], share=0.5, max_windows=12, prompts=0)
    assert made.chosen is not None
    original = open_model(run)
    with pruned(original.model, chosen_weights(original, made.chosen)):
        expected = logits_and_states(original.model)[0]
    there = np.array([float(x) for x in done.stdout.split()]).reshape(expected.shape)
    np.testing.assert_allclose(there, expected, atol=2e-5)
    assert main(["prune", *writing]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["encoding", "fisher"])
def test_a_pruned_model_is_trained_on(small_store, tmp_path, way):
    """Its head is for the optimizer what it stands for: it was decayed, and Muon orthogonalised
    the gradients of its vocabulary."""
    run, out = trained("qwen3", small_store, tmp_path), tmp_path / "pruned"
    written: list[Any] = [
        str(run), "--store", str(small_store.path), "--windows", "4", "--shares", "0.5",
        "--device", "cpu", "--prompts", "0", "--share", "0.25", "--way", way, "--out", str(out),
    ]  # fmt: skip
    assert main(["prune", *written]) == 0
    config = tiny_training(
        small_store, tmp_path / "child", steps=3, context=48, model=ModelConfig(),
        parent=ParentConfig(str(out)),
    )  # fmt: skip
    before, after = (open_model(each).model for each in (out, train(config).path))
    assert type(after) is type(before)
    assert after.lm_head.out.in_features == WIDTH - 2
    weights = dict(before.named_parameters())
    moved = {name: not torch.equal(weights[name], p) for name, p in after.named_parameters()}
    assert all(moved.values())
    assert ("lm_head.project.weight" in moved) == (way == "fisher")
    muon, adamw = Optimizers(after, OptimizerConfig(name="muon", weight_decay=0.5))._all
    assert all(group["weight_decay"] == 0 for group in adamw.param_groups)
    head = {id(p) for p in after.lm_head.parameters()}
    assert head <= {id(p) for group in adamw.param_groups for p in group["params"]}
    assert not head & {id(p) for group in muon.param_groups for p in group["params"]}


def test_a_tied_model_is_not_enlarged_unasked(small_store, tmp_path, capsys, monkeypatch):
    """`prune` untied and enlarged a tied model without a word or an option."""
    run, out = trained("gpt2", small_store, tmp_path), tmp_path / "pruned"
    options: list[Any] = [
        str(run), "--store", str(small_store.path), "--windows", "4", "--shares", "0.5",
        "--device", "cpu", "--prompts", "0", "--share", "0.25", "--out", str(out),
    ]  # fmt: skip
    lm = open_model(run)
    with monkeypatch.context() as patched:
        patched.setattr(
            "lmlab.topics.encoding.pruning_curves.read_texts", pytest.fail
        )  # refused before text is read
        assert main(["prune", *options]) == 2
        with pytest.raises(UserError, match="`untie`"):
            prune(lm, small_store, shares=[0.5], share=0.25)
    refused = capsys.readouterr().err
    before = sum(p.numel() for p in lm.model.parameters())
    assert "is tied" in refused
    assert "--untie" in refused
    assert not out.exists()
    assert main(["prune", *options, "--untie"]) == 0
    printed = capsys.readouterr().out
    after = sum(p.numel() for p in open_model(out).model.parameters())
    assert after > before
    assert f"{after:,} parameters in place of {before:,}" in refused
    assert f"Parameters: {before:,} before, {after:,} after (the model was tied" in printed
    results = json.loads((out / "results.json").read_text())
    assert results["parameters"] == {"before": before, "after": after}
    assert results["tied"] is True
    assert results["options"]["untie"] is True


@pytest.mark.parametrize("way", ["encoding", "svd", "fisher"])
def test_parameters_are_those_of_the_written_model(lm, way):
    head = output_head(lm)
    order = order_of(lm, way, np.random.default_rng(0).normal(size=(20, WIDTH)))
    weights = narrowed(Removal(order, 2, "zero"), head, np.zeros(WIDTH))
    made = pruned_parameters(lm, 0.25, way=way)
    assert made.before == sum(p.numel() for p in lm.model.parameters())
    assert made.after == sum(p.numel() for p in narrow_model(lm, weights).parameters())
    if lm.head != "tied":
        with pytest.raises(UserError, match="is not tied; leave it out"):
            check_can_write(lm, 0.25, way=way, untie=True)


def test_a_head_chosen_by_a_text_is_written_from_its_result(small_store, tmp_path):
    lm = open_model(trained("neox", small_store, tmp_path))
    result = prune(
        lm, small_store, shares=[0.25], share=0.25, way="fisher", max_windows=12, prompts=0,
        replacements=["mean"],
    )  # fmt: skip
    again = PruneResult.from_json(json.loads(json.dumps(result.to_json())))
    assert again.chosen is not None
    weights = chosen_weights(lm, again.chosen)
    assert weights.weight_VE.shape[1] == 6
    (text,) = read_texts(lm, small_store, context=None, max_windows=12)
    hidden_ND = text.states.hidden_ND.double().cpu().numpy()
    head = output_head(lm)
    before_NV, after_NV = (
        torch.from_numpy(hidden_ND @ weight_VD.T + bias_V).log_softmax(1)
        for weight_VD, bias_V in (
            (head.embedding_VD, head.bias_V), (weights.weight_VD, weights.bias_V),
        )
    )  # fmt: skip
    kl = (before_NV.exp() * (before_NV - after_NV)).sum(1).mean().item()
    (point,) = (p for p in result.texts[0].points if p.way == "fisher")
    assert point.kl.estimate == pytest.approx(kl, rel=1e-3)


def test_narrowed_heads_are_not_kept():
    """Every narrowed head was held twice: 80 heads of SmolLM2 are 16 GB."""
    rng = np.random.default_rng(0)
    embedding_VD, hidden_ND = rng.normal(size=(4000, 32)), rng.normal(size=(16, 32))
    encoding = fit_encoding(embedding_VD, rng.dirichlet(np.ones(4000)))
    head = Head(embedding_VD, None, False)
    orders = [removal_order(way, encoding, head, hidden_ND) for way in WAYS]
    removals = [
        Removal(order, removed, how)
        for order in orders
        for removed in range(2, 16, 2)
        for how in ("mean", "zero")
    ]
    tracemalloc.start()
    compare_heads(
        hidden_ND, np.zeros(16, dtype=np.int64), Clusters(np.arange(16)),
        head, removals, hidden_ND.mean(0),
    )  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(removals) == 14 * len(WAYS)
    assert peak < 5 * embedding_VD.nbytes  # a head with half of the dimensions is 0.5 of it


def test_every_text_is_read_once(lm, store_with_test, monkeypatch):
    """`prune` and `steer` read the estimation text twice, once for the encoding."""
    read: list[str] = []
    states = token_probability.store_states

    def counted(lm: Any, windows: Any, *, label: str, share: bool = False) -> Any:
        read.append(label)
        return states(lm, windows, label=label, share=share)

    monkeypatch.setattr(token_probability, "store_states", counted)
    prune(lm, store_with_test, shares=[0.5], prompts=0, max_windows=4)
    steering_effects(lm, store_with_test, {2: 0.9}, method="bias", max_windows=4)
    assert read == ["estimation", "in domain"] * 2


def test_a_sample_of_a_text_that_was_read_is_that_of_fewer_windows(lm, store_with_test):
    whole = read_texts(lm, store_with_test, max_windows=9)[0].sample(4)
    few = read_texts(lm, store_with_test, max_windows=4)[0]
    np.testing.assert_array_equal(whole.windows.start_M, few.windows.start_M)
    np.testing.assert_array_equal(whole.states.start_N, few.states.start_N)
    np.testing.assert_array_equal(whole.states.targets_N, few.states.targets_N)
    np.testing.assert_allclose(
        whole.states.hidden_ND.numpy(), few.states.hidden_ND.numpy(), atol=1e-5
    )


def test_what_cannot_be_pruned(lm, small_store, capsys):
    with pytest.raises(UserError, match=r"share 1"):
        prune(lm, small_store, shares=[1.0])
    assert main(["prune", "x", "--store", "y", "--share", "0.5"]) == 2
    assert "--share needs --out" in capsys.readouterr().err
    lm.model.config.model_type = "unheard_of"
    head = output_head(lm)
    order = order_of(lm, "random", np.ones((4, WIDTH)))
    weights = narrowed(Removal(order, 2, "zero"), head, np.zeros(WIDTH))
    with pytest.raises(UserError, match="'unheard_of' cannot be written"):
        narrow_model(lm, weights)
