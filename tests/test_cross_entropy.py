"""Chunked cross-entropy against torch.nn.functional.cross_entropy: value, gradients, memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.numerics.log_sum_exp import log_sum_exp
from lmlab.objectives import cross_entropy as module
from lmlab.objectives.base import Batch
from lmlab.objectives.cross_entropy import (
    cross_entropy_each,
    cross_entropy_each_and_best,
    cross_entropy_sum,
    linear_cross_entropy,
)
from lmlab.objectives.full import FullCrossEntropy

N, D, V = 150, 7, 23


@pytest.fixture(params=[1, 40 * V, 64 * V, 1 << 20], ids=["rows32", "rows40", "rows64", "whole"])
def chunk(request, monkeypatch):
    """Chunks of 32 rows (the least), 40, 64, and all at once."""
    monkeypatch.setitem(module._CHUNK_LOGITS, "cpu", request.param)


def inputs(dtype=torch.float64, *, bias=True, ignored=0.3, scale=1.0):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        made = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return made.to(dtype).requires_grad_()

    targets_N = torch.randint(V, (N,), generator=generator)
    targets_N[torch.rand(N, generator=generator) < ignored] = -100
    return normal(N, D), normal(V, D), targets_N, normal(V) if bias else None


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, [t for t in tensors if t is not None])


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_value_and_gradients_are_those_of_torch(bias, ignored):
    hidden, weight, targets, bias_V = inputs(bias=bias, ignored=ignored)
    logits = linear(hidden, weight, bias_V)
    ours = linear_cross_entropy(hidden, weight, targets, bias_V=bias_V)
    theirs = cross_entropy(logits, targets)
    assert ours.dtype == torch.float64
    assert ours.shape == ()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for a, b in zip(
        gradients(ours * 3, hidden, weight, bias_V),  # scaled by what comes from above
        gradients(theirs * 3, hidden, weight, bias_V),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    total, count = cross_entropy_sum(hidden, weight, targets, bias_V=bias_V)
    assert count == int((targets != -100).sum())
    torch.testing.assert_close(total, theirs * count, rtol=1e-13, atol=0)
    each = cross_entropy_each(hidden, weight, targets, bias_V=bias_V)
    assert each.dtype == torch.float64
    torch.testing.assert_close(
        each, cross_entropy(logits, targets, reduction="none"), rtol=0, atol=1e-12
    )


@pytest.mark.usefixtures("chunk")
def test_gradients_add_up_over_several_backward_passes():
    """With a factor of 1 the saved gradients are handed out uncopied; they must not be changed."""
    hidden, weight, targets, bias_V = inputs()
    total, _ = cross_entropy_sum(hidden, weight, targets, bias_V=bias_V)
    reference = cross_entropy(linear(hidden, weight, bias_V), targets, reduction="sum")
    once = gradients(reference, hidden, weight, bias_V)
    for times in (1, 2, 3):
        total.backward(retain_graph=True)
        for tensor, gradient in zip((hidden, weight, bias_V), once, strict=True):
            assert tensor is not None
            torch.testing.assert_close(tensor.grad, times * gradient, rtol=0, atol=1e-11)


@pytest.mark.usefixtures("chunk")
def test_only_the_gradients_that_are_asked_for():
    hidden, weight, targets, bias_V = inputs()
    theirs = cross_entropy(linear(hidden, weight, bias_V), targets)
    assert bias_V is not None
    for kept in (hidden, weight, bias_V):
        h, w, b = (t if t is kept else t.detach() for t in (hidden, weight, bias_V))
        ours = linear_cross_entropy(h, w, targets, bias_V=b)
        assert ours.requires_grad
        torch.testing.assert_close(
            gradients(ours, kept), gradients(theirs, kept), rtol=0, atol=1e-12
        )
        theirs = cross_entropy(linear(hidden, weight, bias_V), targets)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nothing_to_predict_is_zero_with_zero_gradients(dtype):
    hidden, weight, _, bias_V = inputs(dtype)
    targets = torch.full((N,), -100)
    loss = linear_cross_entropy(hidden, weight, targets, bias_V=bias_V)
    assert float(loss.detach()) == 0
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    for gradient, tensor in zip(
        gradients(loss, hidden, weight, bias_V), (hidden, weight, bias_V), strict=True
    ):
        assert tensor is not None
        assert gradient.shape == tensor.shape
        assert not gradient.any()
    assert not cross_entropy_each(hidden, weight, targets).any()
    # what does not count may be anything
    unusable = hidden.detach().fill_(torch.nan).requires_grad_()
    assert float(linear_cross_entropy(unusable, weight, targets).detach()) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_of_a_thousand_stay_finite(dtype):
    hidden = torch.tensor([[1000.0], [-1000.0], [1000.0]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([0, 0, 2])
    loss, count = cross_entropy_sum(hidden, weight, targets)
    assert (float(loss.detach()), count) == (3000.0, 3)
    reference = cross_entropy(linear(hidden, weight), targets, reduction="sum")
    for a, b in zip(
        gradients(loss, hidden, weight), gradients(reference, hidden, weight), strict=True
    ):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_close_and_sums_in_float32(dtype):
    hidden, weight, targets, bias_V = inputs(dtype)
    exact = [
        t.detach().double().requires_grad_() for t in (hidden, weight, bias_V) if t is not None
    ]
    reference = cross_entropy(linear(*exact), targets)
    ours = linear_cross_entropy(hidden, weight, targets, bias_V=bias_V)
    assert ours.dtype == torch.float32
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    assert float(ours.detach()) == pytest.approx(float(reference.detach()), rel=tolerance)
    for a, b in zip(
        gradients(ours, hidden, weight, bias_V), gradients(reference, *exact), strict=True
    ):
        assert a.dtype == dtype
        assert (a.double() - b).norm() < 2 * tolerance * b.norm()


@pytest.mark.usefixtures("chunk")
def test_under_autocast_products_are_bfloat16_and_gradients_float32():
    hidden, weight, targets, bias_V = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, targets, bias_V=bias_V)
        each = cross_entropy_each(hidden, weight, targets, bias_V=bias_V)
    made = gradients(ours, hidden, weight, bias_V)
    reference = cross_entropy(linear(hidden, weight, bias_V), targets)
    assert ours.dtype == torch.float32
    assert each.dtype == torch.float64
    assert float(ours.detach()) != float(reference.detach())  # bfloat16 really was used
    torch.testing.assert_close(ours, reference, rtol=1e-2, atol=0)
    rounded = linear_cross_entropy(
        hidden.bfloat16().float(), weight.bfloat16().float(), targets, bias_V=bias_V
    )
    torch.testing.assert_close(ours, rounded, rtol=2e-3, atol=0)
    for a, b in zip(made, gradients(reference, hidden, weight, bias_V), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 2e-2 * b.norm()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_ND": torch.zeros(N, D + 1)}, "takes hidden"),
        ({"hidden_ND": torch.zeros(1, N, D)}, "takes hidden"),
        ({"targets_N": torch.zeros(N - 1, dtype=torch.long)}, "takes hidden"),
        ({"bias_V": torch.zeros(V + 1)}, "takes hidden"),
        ({"targets_N": torch.full((N,), V)}, f"from {V} to {V} do not fit the vocabulary of {V}"),
        ({"targets_N": torch.full((N,), -1)}, "do not fit the vocabulary"),
    ],
)
def test_wrong_shapes_and_ids_are_refused(change, message):
    given = {
        "hidden_ND": torch.zeros(N, D),
        "weight_VD": torch.zeros(V, D),
        "targets_N": torch.zeros(N, dtype=torch.long),
        "bias_V": None,
        **change,
    }
    for function in (linear_cross_entropy, cross_entropy_each):
        with pytest.raises(UserError, match=message):
            function(**given)


MEMORY = """
import lmlab, torch
from lmlab.objectives.cross_entropy import linear_cross_entropy
torch.set_num_threads(1)
hidden = torch.randn(4096, 64, requires_grad=True)
weight = torch.randn(50257, 64, requires_grad=True)
targets = torch.randint(50257, (4096,))
linear_cross_entropy(hidden[:64], weight[:100], targets[:64] % 100).backward()  # warm


def status(key):
    return int(open("/proc/self/status").read().split(key)[1].split()[0]) * 1024


def growth(work):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = status("VmRSS:")
    work()
    return status("VmHWM:") - before


print(growth(lambda: linear_cross_entropy(hidden, weight, targets).backward()))
print(growth(lambda: hidden.detach() @ weight.detach().T))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="reads Linux's /proc")
def test_peak_memory_is_a_fifth_of_full_logits():
    """Forward and backward, the weight's gradient included, against one (N, V) float32 array."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, check=True, text=True
    )
    chunked, full = map(int, done.stdout.split())
    assert full == pytest.approx(4096 * 50257 * 4, rel=0.02)  # the measurement sees what it should
    assert chunked < full / 5


LARGE = 49_152


def large_logits(rows):
    """Products of some rows with 49,152 types whose logits fall off as frequencies do."""
    generator = torch.Generator().manual_seed(1)
    hidden_ND = torch.randn(rows, 32, generator=generator)
    weight_VD = torch.randn(LARGE, 32, generator=generator) * 0.4
    bias_V = -1.2 * torch.log(torch.arange(LARGE) + 3.0)
    targets_N = (LARGE ** torch.rand(rows, generator=generator)).long().clamp_max(LARGE - 1)
    return hidden_ND, weight_VD, bias_V, targets_N


def reference_nats(logits_NV, targets_N):
    log_p_NV = logits_NV.double().log_softmax(1)
    return -log_p_NV.gather(1, targets_N[:, None])[:, 0]


def test_float32_sums_do_not_make_tokens_of_a_large_vocabulary_cheaper():
    """Were: 1e-6 to 2e-5 nats too low a token in the mean (49,152 types), on one side."""
    hidden_ND, weight_VD, bias_V, targets_N = large_logits(400)
    logits_NV = hidden_ND @ weight_VD.T
    logits_NV += bias_V
    expected_N = reference_nats(logits_NV, targets_N)
    for each_N in (
        cross_entropy_each(hidden_ND, weight_VD, targets_N, bias_V=bias_V),
        cross_entropy_each_and_best(hidden_ND, weight_VD, targets_N, bias_V=bias_V)[0],
    ):
        assert abs(float((each_N - expected_N).mean())) < 2e-8
        assert float((each_N - expected_N).square().mean()) ** 0.5 < 1e-7
        assert float((each_N - expected_N).abs().max()) < 5e-7


def test_scores_of_a_head_that_is_not_linear_are_as_exact(monkeypatch):
    hidden_ND, weight_VD, bias_V, targets_N = large_logits(64)
    logits_NV = torch.tanh((hidden_ND @ weight_VD.T + bias_V) / 30) * 30
    targets_N[3] = -100
    backbone = Backbone.__new__(Backbone)
    monkeypatch.setattr(Backbone, "linear", False, raising=False)
    monkeypatch.setattr(Backbone, "logits", lambda *_: logits_NV[None])
    batch = Batch(targets_N[None], targets_N[None])
    expected_N = reference_nats(logits_NV, targets_N.clamp_min(0))
    expected_N[3] = 0
    for nats_N in (
        FullCrossEntropy().each(backbone, batch),
        FullCrossEntropy().each_and_best(backbone, batch)[0],
    ):
        assert abs(float((nats_N - expected_N).mean())) < 5e-8
        assert float((nats_N - expected_N).abs().max()) < 5e-7


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 128), (2, 300), (1, 1), (0, 200), (2, 129)])
def test_log_sum_exp_is_that_of_torch(shape):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64) * 50
    logits[..., :1] -= 1e4
    expected = torch.logsumexp(logits, -1)
    torch.testing.assert_close(log_sum_exp(logits), expected, rtol=1e-14, atol=1e-13)
    rounded = torch.logsumexp(logits.float().double(), -1)
    assert log_sum_exp(logits.float()).dtype == torch.float64
    torch.testing.assert_close(log_sum_exp(logits.float()), rounded, rtol=0, atol=2e-6)


def test_log_sum_exp_has_the_gradient_of_a_softmax():
    logits = torch.randn(3, 300, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(log_sum_exp(logits).sum(), logits)
    torch.testing.assert_close(gradient, logits.detach().softmax(1), rtol=0, atol=1e-14)
