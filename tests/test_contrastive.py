"""Contrastive weight tying against its published definition, and the identities of that loss.

The reference holds K x K logits and takes cross-entropy over arange(K), with gradients by autograd;
it shares nothing with the code under test.
"""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import is_tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmlab.errors import UserError
from lmlab.objectives import contrastive as module
from lmlab.objectives.contrastive import contrastive_loss, gathered_targets
from lmlab.objectives.cross_entropy import linear_cross_entropy

N, D, V = 60, 7, 23


def inputs(dtype=torch.float64, *, n=N, ignored=0.3, scale=1.0, seed=0):
    """Hidden states, embedding, targets with repetitions; about half of the vocabulary occurs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        made = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return made.to(dtype).requires_grad_()

    targets = (torch.rand(n, generator=generator) ** 3 * V * 0.7).long()
    targets[torch.rand(n, generator=generator) < ignored] = -100
    return normal(n, D), normal(V, D), targets


def published(hidden, embedding, targets, *, temperature=1.0, candidates=None):
    """The definition: each row's target among the batch's targets (or `candidates`), all of them.

    Gradients reach the embedding through every occurrence of its rows.
    """
    hidden, targets = hidden[targets != -100], targets[targets != -100]
    if candidates is None:
        logits_KK = hidden @ embedding[targets].T / temperature
        return cross_entropy(logits_KK, torch.arange(len(targets)))
    logits_KM = hidden @ embedding[candidates].T / temperature
    own_K = (hidden * embedding[targets]).sum(1) / temperature
    return (torch.logsumexp(logits_KM, 1) - own_K).mean()


def exactly(tensor):
    return tensor.detach().double().requires_grad_()


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors, retain_graph=True)


def assert_same(ours, theirs, *tensors, tolerance=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    for a, b in zip(gradients(ours * 3, *tensors), gradients(theirs * 3, *tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.fixture(params=[(1, 1), (7, 2), (40, 9), (1000, 1000)], ids=lambda rows: f"{rows}")
def chunk(request, monkeypatch):
    """Chunks of 1, 7, 40 and all rows, and as few or fewer of them at a time in the cache."""
    rows, cached = request.param
    monkeypatch.setattr(module, "_LEAST_ROWS", rows)
    monkeypatch.setitem(module._CHUNK_LOGITS, "cpu", 1)
    monkeypatch.setitem(module._CACHED_LOGITS, "cpu", cached * 13)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 5.0])
def test_value_and_gradients_are_those_of_the_definition(ignored, temperature):
    hidden, embedding, targets = inputs(ignored=ignored)
    ours = contrastive_loss(hidden, embedding, targets, temperature=temperature)
    assert ours.dtype == torch.float64
    assert ours.shape == ()
    theirs = published(hidden, embedding, targets, temperature=temperature)
    assert_same(ours, theirs, hidden, embedding)


def test_gradients_are_those_of_finite_differences():
    hidden, embedding, targets = inputs(n=9)
    assert torch.autograd.gradcheck(
        lambda h, e: contrastive_loss(h, e, targets, temperature=0.7), (hidden, embedding)
    )
    assert torch.autograd.gradcheck(
        lambda h, e: contrastive_loss(h, e, targets, cosine=True), (hidden, embedding)
    )


@given(st.lists(st.integers(-1, V - 1), max_size=40), st.integers(0, 1000))
def test_any_targets(ids, seed):
    """One target, all equal, all different, none: the definition holds, and with it its bound."""
    hidden, embedding, _ = inputs(n=len(ids), scale=3.0, seed=seed)
    targets = torch.tensor(ids, dtype=torch.long)
    targets[targets == -1] = -100
    kept = targets[targets != -100]
    ours = contrastive_loss(hidden, embedding, targets)
    if len(kept) == 0:
        assert float(ours.detach()) == 0
        assert not any(g.any() for g in gradients(ours, hidden, embedding))
        return
    assert_same(ours, published(hidden, embedding, targets), hidden, embedding, tolerance=1e-11)
    share = kept.bincount().double() / len(kept)
    entropy = -torch.xlogy(share, share).sum()
    assert float(ours.detach()) >= math.log(len(kept)) - float(entropy) - 1e-12


def test_rows_that_do_not_occur_get_exactly_zero():
    hidden, embedding, targets = inputs()
    (gradient,) = gradients(contrastive_loss(hidden, embedding, targets), embedding)
    occur = torch.zeros(V, dtype=torch.bool)
    occur[targets[targets != -100]] = True
    assert 3 < int(occur.sum()) < V - 3
    assert gradient.layout == torch.strided
    assert not gradient[~occur].any()
    assert gradient[occur].any(1).all()


def test_lower_bound_is_reached_by_states_that_know_their_target():
    """An infimum: log K - H of the batch's unigram distribution."""
    targets = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    bound = math.log(8) - (0.5 * math.log(2) + 0.25 * math.log(4) + 0.25 * math.log(8))
    embedding = torch.eye(4, dtype=torch.float64)
    for certainty, gap in ((5, 0.05), (20, 1e-7), (1000, 1e-15)):
        loss = float(contrastive_loss(certainty * embedding[targets], embedding, targets))
        assert bound <= loss + 1e-15
        assert loss == pytest.approx(bound, abs=gap)


def test_value_at_random_initialisation():
    """About log K + s^2 / 2, with s^2 the variance of the logits."""
    torch.manual_seed(0)
    targets = torch.randint(2000, (3000,))
    loss = contrastive_loss(torch.randn(3000, 64), torch.randn(2000, 64) * 0.1, targets)
    assert float(loss) == pytest.approx(math.log(3000) + 64 * 0.1**2 / 2, abs=0.03)


@pytest.mark.parametrize("duplicates", ["count", "unique"])
def test_whole_vocabulary_once_is_full_cross_entropy(duplicates):
    hidden, embedding, targets = inputs()
    ours = contrastive_loss(
        hidden, embedding, targets, candidate_ids_M=torch.randperm(V), duplicates=duplicates
    )
    assert_same(ours, cross_entropy(hidden @ embedding.T, targets), hidden, embedding)
    assert_same(ours, linear_cross_entropy(hidden, embedding, targets), hidden, embedding)


def test_candidates_are_a_multiset_and_may_hold_ignored_ids():
    hidden, embedding, targets = inputs()
    kept = targets[targets != -100]
    more = torch.cat([kept, torch.tensor([V - 1, V - 1, V - 2, int(kept[0])])])
    ours = contrastive_loss(hidden, embedding, targets, candidate_ids_M=more)
    theirs = published(hidden, embedding, targets, candidates=more)
    assert_same(ours, theirs, hidden, embedding)
    padded = torch.cat([torch.tensor([-100]), more.flip(0), torch.tensor([-100])])
    assert torch.equal(ours, contrastive_loss(hidden, embedding, targets, candidate_ids_M=padded))
    itself = contrastive_loss(hidden, embedding, targets, candidate_ids_M=targets)
    assert torch.equal(itself, contrastive_loss(hidden, embedding, targets))


def test_unique_takes_each_candidate_once():
    hidden, embedding, targets = inputs()
    distinct = targets[targets != -100].unique()
    assert len(distinct) < int((targets != -100).sum())
    ours = contrastive_loss(hidden, embedding, targets, duplicates="unique")
    theirs = published(hidden, embedding, targets, candidates=distinct)
    assert_same(ours, theirs, hidden, embedding)
    equal = torch.full((N,), 3)
    assert float(contrastive_loss(hidden, embedding, equal, duplicates="unique").detach()) == 0


def test_cosine_is_the_loss_of_cosine_similarities():
    hidden, embedding, targets = inputs(scale=30.0)
    rows, kept = hidden[targets != -100], targets[targets != -100]
    similarity_KK = cosine_similarity(rows[:, None], embedding[kept][None], dim=2)
    theirs = cross_entropy(similarity_KK / 0.1, torch.arange(len(kept)))
    ours = contrastive_loss(hidden, embedding, targets, cosine=True, temperature=0.1)
    assert_same(ours, theirs, hidden, embedding)
    longer = contrastive_loss(hidden * 7, embedding / 5, targets, cosine=True, temperature=0.1)
    torch.testing.assert_close(ours, longer, rtol=1e-13, atol=0)
    nothing = torch.zeros(N, D, dtype=torch.float64, requires_grad=True)
    flat = contrastive_loss(nothing, embedding, targets, cosine=True)
    torch.testing.assert_close(float(flat.detach()), math.log(len(kept)))
    assert gradients(flat, nothing)[0].isfinite().all()


def test_detached_targets_leave_the_embedding_alone():
    hidden, embedding, targets = inputs()
    ours = contrastive_loss(hidden, embedding, targets, detach_targets=True)
    theirs = published(hidden, embedding.detach(), targets)
    assert_same(ours, theirs, hidden)
    assert torch.autograd.grad(ours, embedding, allow_unused=True) == (None,)


@pytest.mark.parametrize("kept", [0, 1])
def test_only_the_gradients_that_are_asked_for(kept):
    hidden, embedding, targets = inputs()
    h, e = (t if i == kept else t.detach() for i, t in enumerate((hidden, embedding)))
    asked = (h, e)[kept]
    assert_same(contrastive_loss(h, e, targets), published(h, e, targets), asked)
    with torch.no_grad():
        plain = contrastive_loss(hidden, embedding, targets)
    assert not plain.requires_grad
    assert torch.equal(plain, contrastive_loss(hidden, embedding, targets).detach())


def test_gradients_add_up_and_are_not_differentiated_again():
    hidden, embedding, targets = inputs()
    loss = contrastive_loss(hidden, embedding, targets)
    once = gradients(loss, hidden, embedding)
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        for tensor, gradient in zip((hidden, embedding), once, strict=True):
            torch.testing.assert_close(tensor.grad, times * gradient, rtol=0, atol=1e-12)
    with pytest.raises(UserError, match="cannot be differentiated twice"):
        torch.autograd.grad(loss, hidden, create_graph=True)


def test_order_of_rows_and_a_shift_of_all_embeddings_change_nothing():
    hidden, embedding, targets = inputs()
    loss = contrastive_loss(hidden, embedding, targets)
    order = torch.randperm(N)
    shuffled = contrastive_loss(hidden[order], embedding, targets[order])
    assert_same(shuffled, loss, hidden, embedding)
    # Every logit of a row moves by hidden . shift, which softmax does not see
    shift = torch.randn(D, dtype=torch.float64)
    assert_same(contrastive_loss(hidden, embedding + shift, targets), loss, hidden, embedding)
    names = torch.randperm(V)  # the names of tokens do not matter
    renamed = torch.where(targets == -100, targets, names[targets.clamp(min=0)])
    embedding_renamed = torch.empty_like(embedding).index_copy(0, names, embedding)
    assert_same(contrastive_loss(hidden, embedding_renamed, renamed), loss, hidden, embedding)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 5, 4096])
def test_one_target_gives_zero_and_equal_ones_log_k(dtype, k):
    hidden = (torch.randn(k, D) * 30).to(dtype).requires_grad_()
    embedding = (torch.randn(V, D) * 30).to(dtype).requires_grad_()
    loss = contrastive_loss(hidden, embedding, torch.full((k,), 11))
    assert float(loss.detach()) == pytest.approx(math.log(k), rel=1e-7, abs=0)
    for gradient in gradients(loss, hidden, embedding):
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nothing_to_predict_is_zero_with_zero_gradients(dtype):
    hidden, embedding, _ = inputs(dtype)
    targets = torch.full((N,), -100)
    hidden.data.fill_(torch.nan)  # what does not count may be anything
    for candidates in (None, targets, torch.tensor([1, 2])):
        loss = contrastive_loss(hidden, embedding, targets, candidate_ids_M=candidates)
        assert float(loss.detach()) == 0
        assert loss.dtype == torch.promote_types(dtype, torch.float32)
        for gradient, tensor in zip(
            gradients(loss, hidden, embedding), (hidden, embedding), strict=True
        ):
            assert gradient.shape == tensor.shape
            assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_logits_of_a_thousand_stay_finite(dtype):
    hidden = torch.tensor([[1000.0], [-1000.0], [1000.0], [1000.0]], dtype=dtype)
    embedding = torch.tensor([[1.0], [-1.0], [0.0]], dtype=dtype, requires_grad=True)
    hidden.requires_grad_()
    targets = torch.tensor([0, 0, 1, 0])
    loss = 4 * contrastive_loss(hidden, embedding, targets)
    # Candidates 0 (three times) and 1: log 3, 2000 + log 1, 2000 + log 3, log 3
    assert float(loss.detach()) == pytest.approx(4000 + 3 * math.log(3), rel=1e-6)
    exact = exactly(hidden), exactly(embedding)
    reference = published(*exact, targets) * 4
    for a, b in zip(gradients(loss, hidden, embedding), gradients(reference, *exact), strict=True):
        assert a.isfinite().all()
        assert (a.double() - b).norm() < (1e-2 if dtype == torch.bfloat16 else 1e-6) * b.norm()


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_close_and_sums_in_float32(dtype):
    hidden, embedding, targets = inputs(dtype)
    exact = exactly(hidden), exactly(embedding)
    reference = published(*exact, targets)
    ours = contrastive_loss(hidden, embedding, targets)
    assert ours.dtype == torch.float32
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    assert float(ours.detach()) == pytest.approx(float(reference.detach()), rel=tolerance)
    for a, b in zip(gradients(ours, hidden, embedding), gradients(reference, *exact), strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() < 2 * tolerance * b.norm()


def test_bfloat16_gradient_of_a_row_that_is_almost_certain():
    """p - 1 is rounded, not p: otherwise 0.999 would become 1 and its gradient 0."""
    hidden = torch.tensor([[7.0], [-7.0]], dtype=torch.bfloat16, requires_grad=True)
    embedding = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16)
    loss = contrastive_loss(hidden, embedding, torch.tensor([0, 1]))
    expected = -0.5 / (1 + math.exp(7))
    torch.testing.assert_close(
        gradients(loss, hidden)[0].double(),
        torch.tensor([[expected], [-expected]], dtype=torch.float64),
        rtol=1e-2,
        atol=0,
    )


@pytest.mark.usefixtures("chunk")
def test_under_autocast_products_are_bfloat16_and_gradients_float32():
    hidden, embedding, targets = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = contrastive_loss(hidden, embedding, targets)
        cosine = contrastive_loss(hidden, embedding, targets, cosine=True)
    reference = published(hidden, embedding, targets)
    assert ours.dtype == cosine.dtype == torch.float32
    # bfloat16 really was used: float32 would be nearer
    assert abs(float(ours.detach()) - float(reference.detach())) > 1e-5
    torch.testing.assert_close(ours, reference, rtol=1e-2, atol=0)
    torch.testing.assert_close(
        cosine, contrastive_loss(hidden, embedding, targets, cosine=True), rtol=1e-2, atol=0
    )
    for a, b in zip(
        gradients(ours, hidden, embedding), gradients(reference, hidden, embedding), strict=True
    ):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 2e-2 * b.norm()


class Largest(TorchDispatchMode):
    """Sees every tensor that an operation returns, backward included; keeps the largest size."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.elements = max(
            [self.elements, *(t.numel() for t in tree_leaves(made) if is_tensor(t))]
        )
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_is_larger_than_a_chunk_or_a_gradient(dtype, monkeypatch):
    k, v, d, chunk = 3000, 20_000, 8, 300_000
    monkeypatch.setitem(module._CHUNK_LOGITS, "cpu", chunk)
    hidden = torch.randn(k, d, dtype=dtype, requires_grad=True)
    embedding = torch.randn(v, d, dtype=dtype, requires_grad=True)
    targets = torch.randint(1000, (k,))
    with Largest() as ours:
        contrastive_loss(hidden, embedding, targets).backward()
    assert chunk / 2 < ours.elements <= max(chunk, v * d)
    with Largest() as theirs:
        published(hidden, embedding, targets).backward()
    assert theirs.elements == k * k  # the measurement sees what it should


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_ND": torch.zeros(N, D + 1)}, "takes hidden"),
        ({"hidden_ND": torch.zeros(1, N, D)}, "takes hidden"),
        ({"targets_N": torch.zeros(N - 1, dtype=torch.long)}, "takes hidden"),
        ({"candidate_ids_M": torch.zeros(1, N, dtype=torch.long)}, "takes hidden"),
        ({"targets_N": torch.full((N,), V)}, f"target ids from {V} to {V} do not fit .* {V}"),
        ({"targets_N": torch.full((N,), -1)}, "do not fit the vocabulary"),
        ({"candidate_ids_M": torch.tensor([0, V])}, f"candidate ids from 0 to {V} do not fit"),
        ({"target_added": True}, "is for candidates of their own"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.nan}, "positive number"),
        ({"temperature": math.inf}, "positive number"),
        ({"duplicates": "drop"}, "duplicates is 'drop'; say 'count'"),
    ],
)
def test_what_has_no_meaning_is_refused(change, message):
    given = {
        "hidden_ND": torch.zeros(N, D),
        "embedding_VD": torch.zeros(V, D),
        "targets_N": torch.zeros(N, dtype=torch.long),
        **change,
    }
    with pytest.raises(UserError, match=message):
        contrastive_loss(**given)


def test_gathered_targets_of_one_process_are_its_own():
    assert gathered_targets(torch.tensor([3, -100, 1, 3])).tolist() == [3, 1, 3]


RANK = """
import sys, lmlab, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from torch import distributed
from lmlab.objectives.contrastive import contrastive_loss, gathered_targets

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group(
    "gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=2
)
given = load_file(folder / f"given{rank}.safetensors")
hidden, embedding = (given[name].requires_grad_() for name in ("hidden", "embedding"))
candidates = gathered_targets(given["targets"])
count = int((given["targets"] != -100).sum())
total = count * contrastive_loss(
    hidden, embedding, given["targets"], candidate_ids_M=candidates
)
counts = torch.tensor(count)
distributed.all_reduce(counts)
(total / counts).backward()
loss = total.detach() / counts
distributed.all_reduce(loss)
distributed.all_reduce(embedding.grad)  # a replicated parameter: summed, as for any other loss
nothing = gathered_targets(torch.full((3,), -100))
made = {"d_hidden": hidden.grad, "d_embedding": embedding.grad, "loss": loss}
made |= {"candidates": candidates, "nothing": nothing}
save_file(made, folder / f"made{rank}.safetensors")
distributed.destroy_process_group()
"""


def test_two_ranks_are_one_rank_of_twice_the_batch(tmp_path):
    """Different numbers of targets on the ranks: 60 rows with gaps, and 13."""
    hidden, embedding, targets = inputs(n=73)
    parts = (slice(0, 60), slice(60, 73))
    ranks = []
    for rank, part in enumerate(parts):
        given = {"hidden": hidden[part].detach(), "targets": targets[part]}
        given = {name: tensor.contiguous() for name, tensor in given.items()}
        save_file(given | {"embedding": embedding.detach()}, tmp_path / f"given{rank}.safetensors")
        command = [sys.executable, "-c", RANK, str(tmp_path), str(rank)]
        ranks.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    theirs = published(hidden, embedding, targets)
    d_hidden, d_embedding = gradients(theirs, hidden, embedding)
    for rank, part in enumerate(parts):
        made = load_file(tmp_path / f"made{rank}.safetensors")
        assert torch.equal(made["candidates"], targets[targets != -100])
        assert len(made["nothing"]) == 0
        ours = made["loss"], made["d_hidden"], made["d_embedding"]
        expected = theirs.detach(), d_hidden[part], d_embedding
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
