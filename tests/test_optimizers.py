"""Optimizers: what decays, what Muon takes, learning rates by hand, state on disk."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lmlab.config.model import ModelConfig
from lmlab.config.training import OptimizerConfig, ScheduleConfig
from lmlab.errors import UserError
from lmlab.models.build import build_config, build_model
from lmlab.training.muon import POLYNOMIALS, Muon, orthogonalised
from lmlab.training.optimizers import Optimizers, learning_rate_factor


def build(architecture, tied=False, layers=1, width=8):
    config = build_config(
        ModelConfig(
            architecture=architecture,
            layers=layers,
            heads=None if architecture in ("gru", "lstm") else 2,
            width=width,
            tied=tied,
        ),
        vocabulary=11,
        context=8,
        bos_id=9,
        end_of_text_id=10,
    )
    return build_model(config, seed=0)


_LLAMA = {
    f"model.layers.0.{n}_proj.weight"
    for n in (
        "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
        "mlp.gate", "mlp.up", "mlp.down",
    )
}  # fmt: skip
MATRICES = {
    "gpt2": {
        f"transformer.h.0.{n}.weight"
        for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    },
    "neox": {
        f"gpt_neox.layers.0.{n}.weight"
        for n in (
            "attention.query_key_value",
            "attention.dense",
            "mlp.dense_h_to_4h",
            "mlp.dense_4h_to_h",
        )
    },
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "gru": {"model.layers.weight_ih_l0", "model.layers.weight_hh_l0"},
    "lstm": {"model.layers.weight_ih_l0", "model.layers.weight_hh_l0"},
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", MATRICES)
def test_only_matrices_of_layers_decay_and_are_muons(architecture, name, tied):
    """With no gradient at all, AdamW and Muon change a weight by decay alone."""
    model = build(architecture, tied)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        nn.init.ones_(p)
        p.grad = torch.zeros_like(p)
    optimizers = Optimizers(model, OptimizerConfig(name, learning_rate=1.0, weight_decay=0.25))
    optimizers.step(0.5)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, torch.ones_like(p))}
    assert changed == MATRICES[architecture]
    for n, p in model.named_parameters():
        if n in changed:
            torch.testing.assert_close(p, torch.full_like(p, 1 - 0.5 * 0.25))
    assert all(p.grad is None for p in model.parameters())
    of_muon = {
        n
        for optimizer in optimizers._all
        if isinstance(optimizer, Muon)
        for n, p in model.named_parameters()
        if any(p is q for g in optimizer.param_groups for q in g["params"])
    }
    assert of_muon == (MATRICES[architecture] if name == "muon" else set())
    assert before.keys() == dict(model.named_parameters()).keys()


def test_adamw_by_hand():
    model = build("gpt2")
    config = OptimizerConfig(betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.1)
    optimizers = Optimizers(model, config)
    name = "transformer.h.0.mlp.c_fc.weight"
    weight = dict(model.named_parameters())[name]
    expected = weight.detach().double().clone()
    m = v = torch.zeros_like(expected)
    generator = torch.Generator().manual_seed(0)
    for step, rate in enumerate((0.01, 0.02, 0.005), start=1):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        assert weight.grad is not None
        g = weight.grad.double()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        expected = expected * (1 - rate * 0.1)
        expected -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        optimizers.step(rate)
    torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-6)


def test_muon_moves_matrices_about_as_far_as_adamw():
    moved = {}
    for name in ("adamw", "muon"):
        model = build("llama", width=32)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizers = Optimizers(model, OptimizerConfig(name, weight_decay=0.0))
        generator = torch.Generator().manual_seed(0)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizers.step(0.01)
        moved[name] = {
            n: float((p.detach() - before[n]).pow(2).mean().sqrt())
            for n, p in model.named_parameters()
            if n in MATRICES["llama"]
        }
    for n in MATRICES["llama"]:
        assert 0.1 < moved["muon"][n] / moved["adamw"][n] < 1.1


def _evened(values: torch.Tensor) -> torch.Tensor:
    """What the iterations make of the singular values of a matrix, one by one, in float64."""
    values = values.double() / (1.01 * values.double().pow(4).sum().pow(1 / 4))
    for a, b, c in POLYNOMIALS:
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize("shape", [(16, 16), (16, 24), (16, 80), (80, 16)])
def test_muon_makes_the_steps_of_its_singular_values(shape):
    """By hand in float64: momentum, a singular value decomposition, decay and length."""
    weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.3, momentum=0.9, products=torch.float32)
    expected, momentum = weight.detach().double(), torch.zeros(shape, dtype=torch.float64)
    for seed in range(3):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(2 + seed))
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient.double()
        left, values, right = torch.linalg.svd(
            0.1 * gradient.double() + 0.9 * momentum, full_matrices=False
        )
        step = left @ torch.diag(_evened(values)) @ right
        expected = (1 - 0.1 * 0.3) * expected - 0.1 * 0.2 * 0.88 * max(shape) ** 0.5 * step
    torch.testing.assert_close(weight.detach().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (32, 128)])
def test_muons_steps_are_as_long_as_those_of_torchs_muon(shape):
    """Which has five other iterations, in bfloat16: and so only about the same direction."""
    ours, theirs = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9}
    optimizers = [
        Muon([ours], products=torch.float32, **settings),
        torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings),
    ]
    for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        optimizer.step()
    moved, expected = ours.detach().flatten(), theirs.detach().flatten()
    assert float(moved.norm() / expected.norm()) == pytest.approx(1, abs=0.1)
    assert float(torch.cosine_similarity(moved, expected, dim=0)) > 0.88


def test_each_polynomial_of_muon_is_the_best_of_its_kind():
    """Chebyshev: among all a x + b x^3 + c x^5 it differs least from 1, at its worst, on the values
    that it gets where its largest differences there are equal, four of them, and change sign."""
    low, high, largest = 0.005, 1.0, math.inf
    for a, b, c in POLYNOMIALS:
        values = torch.logspace(math.log10(low), math.log10(high), 20_001, dtype=torch.float64)
        off = a * values + b * values**3 + c * values**5 - 1
        turns = torch.cat([off[:1], off[1:-1][off.diff()[:-1] * off.diff()[1:] <= 0], off[-1:]])
        assert len(turns) == 4
        assert (turns[1:] * turns[:-1] < 0).all()
        assert float(turns.abs().max() - turns.abs().min()) < 3e-3
        largest = float(off.abs().max())
        low, high = 1 - largest, 1.02 * (1 + largest)
    assert largest == pytest.approx(0.51, abs=0.005)


@pytest.mark.parametrize("columns", [16, 24, 80])
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_orthogonalised_keeps_singular_vectors_and_evens_singular_values(columns, products):
    """Against a singular value decomposition, in float64; of values from 1 down to 0.005 of their
    bound, of one value alone, of all equal ones, and of a small matrix."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(4, 16, 16, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(
        torch.randn(4, columns, 16, generator=generator, dtype=torch.float64)
    )
    spread = torch.logspace(0, math.log10(0.005), 16, dtype=torch.float64)
    alone = torch.tensor([1.0] + 15 * [0.0], dtype=torch.float64)
    values = torch.stack([spread, alone, torch.ones_like(spread), 1e-5 * spread])
    matrices = left @ torch.diag_embed(values) @ right.mT
    evened = left.mT @ orthogonalised(matrices.to(products)).double() @ right
    diagonal = evened.diagonal(dim1=1, dim2=2)
    expected = torch.stack([_evened(row) for row in values])
    exact = products == torch.float32
    torch.testing.assert_close(diagonal, expected, rtol=0, atol=1e-3 if exact else 0.5)
    assert ((diagonal > 0.4) & (diagonal < 1.7))[[0, 2, 3]].all()
    assert float((evened - torch.diag_embed(diagonal)).abs().max()) < (1e-3 if exact else 0.2)


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonalised(torch.zeros(2, 3, 5)).any()
    assert not orthogonalised(torch.zeros(2, 3, 7)).any()


def test_muon_takes_equal_shapes_together_as_it_takes_them_alone():
    gradients = [torch.randn(8, 24), torch.randn(24, 8), torch.randn(8, 8), torch.randn(8, 24)]
    together = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    alone = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for weights in (together, alone):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
    settings = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "products": torch.float32}
    Muon(together, **settings).step()
    for weight in alone:
        Muon([weight], **settings).step()
    for one_of_all, by_itself in zip(together, alone, strict=True):
        torch.testing.assert_close(one_of_all, by_itself, rtol=0, atol=1e-6)


def test_muon_refuses_what_is_no_matrix():
    model = nn.Sequential(nn.Conv1d(2, 3, 4), nn.Linear(3, 3))
    with pytest.raises(UserError, match=r"two-dimensional matrices; '0\.weight'"):
        Optimizers(model, OptimizerConfig("muon"))
    Optimizers(model, OptimizerConfig("adamw"))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", ["gpt2", "lstm"])
def test_state_comes_back_to_the_bit(tmp_path, name, architecture):
    def go_on(model, optimizers, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizers.step(0.01)

    config = OptimizerConfig(name)
    model = build(architecture)
    optimizers = Optimizers(model, config)
    assert optimizers.to_bytes() == Optimizers(build(architecture), config).to_bytes()  # empty
    go_on(model, optimizers, range(3))
    (tmp_path / "o").write_bytes(optimizers.to_bytes())
    other = build(architecture)
    other.load_state_dict({n: t.clone() for n, t in model.state_dict().items()})
    resumed = Optimizers(other, config)
    resumed.load(tmp_path / "o")
    assert resumed.to_bytes() == optimizers.to_bytes()
    go_on(model, optimizers, range(3, 6))
    go_on(other, resumed, range(3, 6))
    assert resumed.to_bytes() == optimizers.to_bytes()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_of_another_model_is_refused(tmp_path):
    model = build("gpt2", layers=2)
    optimizers = Optimizers(model, OptimizerConfig())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizers.step(0.1)
    (tmp_path / "o").write_bytes(optimizers.to_bytes())
    with pytest.raises(UserError, match="belongs to another model"):
        Optimizers(build("gpt2"), OptimizerConfig()).load(tmp_path / "o")
    with pytest.raises(UserError, match="belongs to another model"):
        Optimizers(build("gpt2", layers=2, width=16), OptimizerConfig()).load(tmp_path / "o")
    (tmp_path / "o").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        optimizers.load(tmp_path / "o")


def test_a_weight_without_gradient_has_no_state(tmp_path):
    """A part of an architecture that the loss never reaches must not prevent resuming."""
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    optimizers = Optimizers(model, OptimizerConfig())
    for p in model["used"].parameters():
        p.grad = torch.ones_like(p)
    optimizers.step(0.1)
    (tmp_path / "o").write_bytes(optimizers.to_bytes())
    again = Optimizers(model, OptimizerConfig())
    again.load(tmp_path / "o")
    assert again.to_bytes() == optimizers.to_bytes()


# learning rates, by hand


def rates(steps, **settings):
    schedule = ScheduleConfig(**settings)
    return [learning_rate_factor(step, steps, schedule) for step in range(steps)]


def test_warm_up_reaches_the_peak_at_its_end():
    assert rates(10, kind="constant", warmup=0.4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    assert rates(5, kind="constant", warmup=0.0) == [1] * 5


def test_linear_falls_evenly_to_its_end():
    made = rates(12, kind="linear", warmup=2 / 12, final=0.1)
    assert made[:3] == [0.5, 1.0, 1.0]
    assert made[2:] == pytest.approx([1 - 0.9 * k / 9 for k in range(10)])
    assert made[-1] == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle():
    made = rates(13, kind="cosine", warmup=2 / 13, final=0.2)
    assert made[2] == 1.0
    assert made[7] == pytest.approx(0.6)
    assert made[-1] == pytest.approx(0.2)
    assert made[4] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 0.2)) / 2)


def test_wsd_is_flat_and_then_falls():
    made = rates(20, kind="wsd", warmup=0.1, decay=0.25, final=0.0)
    assert made[:2] == [0.5, 1.0]
    assert made[2:16] == [1.0] * 14
    assert made[15:] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_rates_are_shares_of_the_peak(kind, steps):
    made = rates(steps, kind=kind)
    assert all(0 < rate <= 1 for rate in made)
