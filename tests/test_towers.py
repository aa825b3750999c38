"""Two towers: fusions, one pass for both, what each may see, probes, models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers import id_store, journal, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.config.training import OptimizerConfig, ParentConfig, TrainConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_model, build_towers_config
from lmlab.models.files import load_pretrained, model_files
from lmlab.models.towers import with_probes
from lmlab.objectives.base import IGNORED, Batch, Objective
from lmlab.objectives.cloze import Cloze
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.towers import FusedTowers, joint_nats, tower_nats, tower_rows
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train
from tolerances import near

VOCABULARY, CONTEXT = 50, 12
ARCHITECTURES = (
    "gpt2",
    "neox",
    "llama",
    "qwen3",
    "bert",
    "modernbert",
    "distilbert",
    "lstm",
    "gru",
)
MASKED = ("bert", "modernbert", "distilbert")
FUSIONS = ("concat", "product", "mixture", "minimum", "independent")


def towers(
    architecture: Any = "gpt2", fusion: Any = "concat", *, width=16, cloze=False, seed=1, **how
):
    heads = None if architecture in ("lstm", "gru") else 2
    config = build_towers_config(
        ModelConfig(architecture, layers=2, heads=heads, width=width),
        TowersConfig(fusion, **how),
        cloze=cloze, vocabulary=VOCABULARY, context=CONTEXT, bos_id=48, end_of_text_id=49,
    )  # fmt: skip
    model: Any = build_model(config, seed=seed, masked=architecture in MASKED)
    # fresh weights are so small that all predictions are alike
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def ids(rows=3, length=CONTEXT, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 48, (rows, length)))


def batch_of(ids_BT):
    targets_BT = ids_BT.roll(-1, 1).clone()
    targets_BT[:, -2:] = IGNORED
    return Batch(ids_BT, targets_BT)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_towers_in_one_pass_are_each_tower_alone(architecture):
    model = towers(architecture, width=32)
    attention_BT = torch.ones(3, CONTEXT, dtype=torch.long)
    attention_BT[1, 7:] = 0
    given = attention_BT if architecture in MASKED else None
    model.model.one_pass = True
    together = model.model.tower_states(ids(), given)
    assert bool(model.model._together) == (architecture not in ("lstm", "gru"))
    model.model.one_pass = False
    alone = model.model.tower_states(ids(), given)
    real_BT = attention_BT.bool()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[real_BT], other[real_BT], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "modernbert"])
def test_gradients_of_one_pass_are_those_of_each_tower_alone(architecture):
    model = towers(architecture).requires_grad_(True)
    gradients = []
    for model.model.one_pass in (True, False):
        model.zero_grad()
        model(ids()).logits.square().mean().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "lstm"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_saved_model_is_read_again_with_the_same_logits(tmp_path, architecture, fusion):
    how: dict[str, Any] = {"gate": "learnt"} if fusion == "mixture" else {}
    model = towers(architecture, fusion, **how)
    for name, data in model_files(model).items():
        (tmp_path / name).write_bytes(data)
    read = load_pretrained(str(tmp_path), masked=architecture in MASKED).eval()
    assert torch.equal(read(ids()).logits, model(ids()).logits)
    separate = len(read.model.embeddings)
    assert separate == (2 if fusion == "independent" else 1)
    assert all(
        read.heads[k].weight is read.model.embeddings[k].token.weight for k in range(separate)
    )
    names = load_file(tmp_path / "model.safetensors").keys()
    assert sum("token" in name or name.endswith("heads.0.weight") for name in names) == separate


def test_concat_without_its_layers_is_a_product_of_experts_with_a_split_embedding():
    model = towers("gpt2", "concat")
    model.model.norm = nn.Identity()
    model.model.transform = nn.Identity()
    first, second = model.model.tower_states(ids())
    embedding_VE, bias_V = model.heads[0].weight, model.heads[0].bias
    experts = [
        torch.log_softmax(states @ embedding_VE[:, half].T, -1)
        for states, half in ((first, slice(0, 16)), (second, slice(16, 32)))
    ]
    expected = torch.log_softmax(experts[0] + experts[1] + bias_V, -1)
    made = torch.log_softmax(model(ids()).logits, -1)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


def test_a_product_is_the_normalised_product_of_its_towers():
    model = towers("gpt2", "product")
    each = []
    for k in (0, 1):
        model.view = k
        each.append(model(ids()).logits)
    model.view = None
    expected = torch.log_softmax(each[0] + each[1] - model.heads[0].bias, -1)
    made = torch.log_softmax(model(ids()).logits, -1)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "gate"),
    [("mixture", "fixed"), ("mixture", "learnt"), ("minimum", "fixed"), ("independent", "fixed")],
)
def test_a_mixture_is_the_weighted_mean_of_its_towers(fusion, gate):
    model = towers("gpt2", fusion, gate=gate)
    each = []
    for k in (0, 1):
        model.view = k
        each.append(model(ids()).logits.softmax(-1))
    model.view = None
    states = model.model.tower_states(ids())
    share = torch.full((3, CONTEXT, 1), 0.5)
    if gate == "learnt":
        share = model.model.gate(torch.cat(states, -1)).sigmoid()
        assert share.std() > 0
    expected = share * each[0] + (1 - share) * each[1]
    torch.testing.assert_close(model(ids()).logits.exp(), expected, rtol=1e-5, atol=1e-7)
    assert Backbone(model).linear is False


@pytest.mark.parametrize("fusion", FUSIONS)
def test_scores_from_states_are_those_of_the_models_own_logits(fusion):
    model = towers("gpt2", fusion)
    batch = batch_of(ids())
    rows = tower_rows(model, batch)
    expected_N = FullCrossEntropy().each(Backbone(model), batch)
    torch.testing.assert_close(
        joint_nats(model, rows, batch.targets_N), expected_N, rtol=1e-5, atol=1e-5
    )
    if fusion == "concat":
        return
    made_KN = tower_nats(model, rows, batch.targets_N)
    for k in (0, 1):
        model.view = k
        expected_N = FullCrossEntropy().each(Backbone(model), batch)
        torch.testing.assert_close(made_KN[k], expected_N, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_losses_are_what_they_are_named_for(fusion):
    model = towers("gpt2", fusion)
    criterion, backbone, batch = FusedTowers(0.7), Backbone(model), batch_of(ids())
    criterion.check(backbone)
    total, count = criterion.sum(backbone, batch)
    real_N = batch.targets_N != IGNORED
    assert count == int(real_N.sum()) == 30
    if fusion in ("concat", "product", "mixture"):
        expected = joint_nats(model, tower_rows(model, batch), batch.targets_N).sum()
    else:
        nats_KN = tower_nats(model, tower_rows(model, batch), batch.targets_N)[:, real_N]
        expected = nats_KN.mean(0).sum()
        if fusion == "minimum":
            share = torch.sigmoid(nats_KN[1] - nats_KN[0]).mean()
            expected = nats_KN.min(0).values.sum() + 0.7 * 30 * (2 * share - 1) ** 2
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    assert criterion.depends_on_micro_batch == (fusion == "minimum")


@pytest.mark.parametrize("fusion", ["concat", "product", "mixture"])
def test_separate_losses_differ_from_joint_ones_in_the_loss_alone(fusion):
    """N0 differs from joint towers in loss, embeddings and weights at once; this null in one."""
    joint, separate = towers("gpt2", fusion), towers("gpt2", fusion, losses="separate")
    first, second = joint.state_dict(), separate.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    batch = batch_of(ids())
    states = separate.model.tower_states(ids())
    embedding_VE, bias_V = separate.heads[0].weight, separate.heads[0].bias
    real_N = batch.targets_N != IGNORED
    each = []
    for k, states_BTD in enumerate(states):
        if fusion == "concat":  # by hand: the other tower's states are zeros
            parts = [torch.zeros_like(states_BTD), torch.zeros_like(states_BTD)]
            parts[k] = states_BTD
            read = separate.model.transform(separate.model.norm(torch.cat(parts, -1)))
        else:
            read = separate.model.transforms[k](states_BTD)
        log_p_NV = torch.log_softmax(read @ embedding_VE.T + bias_V, -1).flatten(0, 1)[real_N]
        each.append(-log_p_NV.gather(1, batch.targets_N[real_N, None])[:, 0])
    criterion = FusedTowers(1.0)
    criterion.check(Backbone(separate))
    total, count = criterion.sum(Backbone(separate), batch)
    assert float(total) == pytest.approx(float(each[0].sum() + each[1].sum()) / 2, rel=1e-5)
    assert count == int(real_N.sum())
    mixed_N = joint_nats(separate, tower_rows(separate, batch), batch.targets_N)[real_N]
    expected_N = -torch.log((torch.exp(-each[0]) + torch.exp(-each[1])) / 2)
    torch.testing.assert_close(mixed_N.float(), expected_N, rtol=1e-5, atol=1e-5)
    logits = separate(ids()).logits.flatten(0, 1)[real_N]
    torch.testing.assert_close(
        -logits.gather(1, batch.targets_N[real_N, None])[:, 0], expected_N, rtol=1e-5, atol=1e-5
    )


def test_a_tower_with_a_separate_loss_learns_nothing_from_the_other(tmp_path):
    model = towers("gpt2", losses="separate").requires_grad_(True)
    batch = batch_of(ids())
    rows = tower_rows(model, batch)
    for k in (0, 1):
        model.zero_grad()
        model.view = k
        model(ids()).logits.square().sum().backward()
        model.view = None
        touched = {
            n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum()
        }
        assert not [n for n in touched if n.startswith(f"model.towers.{1 - k}.")]
        assert f"model.projections.{k}.weight" in touched
        assert f"model.projections.{1 - k}.weight" not in touched
        changed = (rows[0] + k, rows[1] + 1 - k)
        nats = [tower_nats(model, r, batch.targets_N)[k] for r in (rows, changed)]
        torch.testing.assert_close(*nats, rtol=0, atol=1e-6)
    for name, data in model_files(model).items():
        (tmp_path / name).write_bytes(data)
    read = load_pretrained(str(tmp_path), masked=False).eval()
    assert torch.equal(read(ids()).logits, model(ids()).logits)


def test_independent_towers_share_nothing():
    model = towers("gpt2", "independent").requires_grad_(True)
    for k in (0, 1):
        model.zero_grad()
        model.view = k
        model(ids()).logits.square().sum().backward()
        model.view = None
        touched = {
            n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum()
        }
        untouched = {n for n, _ in model.named_parameters()} - touched
        assert all(f".{k}." in name for name in touched)
        assert all(f".{1 - k}." in name for name in untouched)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "qwen3", "lstm"])
@pytest.mark.parametrize("fusion", ["concat", "mixture"])
def test_causal_towers_never_see_the_future(architecture, fusion):
    model = towers(architecture, fusion)
    changed = ids()
    changed[:, 8:] = (changed[:, 8:] + 1) % 48
    before, after = model(ids()).logits, model(changed).logits
    torch.testing.assert_close(after[:, :8], before[:, :8], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after[:, 8:], before[:, 8:], atol=1e-3)
    for one, other in zip(
        model.model.tower_states(ids()), model.model.tower_states(changed), strict=True
    ):
        torch.testing.assert_close(one[:, :8], other[:, :8], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(one[:, 8:], other[:, 8:], atol=1e-3)


@pytest.mark.parametrize("architecture", ["lstm", "gru"])
@pytest.mark.parametrize("position", [0, 5, 11])
def test_one_recurrent_tower_reads_forward_and_one_backward(architecture, position):
    model = towers(architecture, cloze=True)
    changed = ids()
    changed[:, position] = (changed[:, position] + 1) % 48
    before_KBTD, after_KBTD = (model.model.tower_states(x) for x in (ids(), changed))
    at_T = torch.arange(CONTEXT)
    for k, sees in enumerate((at_T > position, at_T < position)):
        difference_T = (before_KBTD[k] - after_KBTD[k]).abs().amax((0, 2))
        assert (difference_T[sees] > 1e-6).all()
        assert (difference_T[~sees] == 0).all()


def test_padding_changes_no_score_of_towers_from_both_ends():
    model = towers("lstm", cloze=True)
    objective, backbone = (
        Objective(Cloze(bos_id=48, end_id=49), FullCrossEntropy()),
        Backbone(model),
    )
    objective.check(backbone)
    windows = [ids(1, n, seed=n)[0].numpy() for n in (3, 10, 7)]
    device = torch.device("cpu")
    padded_Bn = objective.score(backbone, objective.reading.batch(windows, device=device))
    for row, window in enumerate(windows):
        alone_1n = objective.score(backbone, objective.reading.batch([window], device=device))
        assert alone_1n.shape == (1, len(window))
        torch.testing.assert_close(padded_Bn[row, : len(window)], alone_1n[0], rtol=1e-5, atol=1e-5)
        assert (padded_Bn[row, len(window) :] == 0).all()


def test_halves_of_one_model_are_its_states_in_a_drawn_order():
    model = towers("gpt2", split=True)
    assert len(model.model.towers) == 1
    assert model.model.towers[0].config.n_embd == 32
    assert model.model.towers[0].config.n_head == 4
    permutation = model.model.permutation
    assert sorted(permutation.tolist()) == list(range(32))
    assert permutation.tolist() != list(range(32))
    other = towers("gpt2", split=True, seed=2)
    assert not torch.equal(other.model.permutation, permutation)
    assert "model.permutation" in model.state_dict()
    first, second = model.model.tower_states(ids())
    whole = model.model.towers[0](
        inputs_embeds=model.model.projections[0](model.model.embeddings[0](ids()))
    ).last_hidden_state
    torch.testing.assert_close(torch.cat([first, second], -1), whole[..., permutation])


TRAINED = {
    "probe": ("towers", ModelConfig(layers=1, heads=2, width=16, dropout=0.2)),
    "probe-masked": ("towers-masked", ModelConfig("bert", layers=1, heads=2, width=16)),
    "probe-cloze": ("towers-cloze", ModelConfig("lstm", layers=1, width=16)),
}


@pytest.fixture(scope="module", params=TRAINED)
def probed(request, small_store, tmp_path_factory):
    """Towers of 20 steps and their probes of 30."""
    folder = tmp_path_factory.mktemp(request.param)
    objective, model = TRAINED[request.param]
    parent = train(
        tiny_training(small_store, folder / "towers", objective=objective, model=model, steps=20)
    )
    config = tiny_training(
        small_store, folder / "probes", objective=request.param, model=ModelConfig(), steps=30,
        parent=ParentConfig(str(parent.path)),
    )  # fmt: skip
    return parent, train(config), config


def test_probes_train_alone_and_learn(probed):
    parent, run, _ = probed
    before, after = (load_file(r.checkpoint / "model.safetensors") for r in (parent, run))
    assert all(torch.equal(before[name], after[name]) for name in before)
    added = {name for name in after if name not in before}
    assert added
    assert all(name.startswith("model.probes.") for name in added)
    losses = [
        r["validation_nats_per_token"]
        for r in journal(run.path)
        if "validation_nats_per_token" in r
    ]
    assert losses[-1] < losses[0]


def test_a_tower_is_an_ordinary_model(probed, small_store):
    parent, run, _ = probed
    joint = score(open_model(parent.path), small_store).nats_per_token
    assert score(open_model(run.path), small_store).nats_per_token == near(joint)
    each = []
    for number in (1, 2):
        lm = open_model(f"{run.path}@{number}")
        assert lm.backbone.linear
        assert lm.head == f"of tower {number}"
        assert open_model(f"{run.checkpoint}@{number}").objective.record() == lm.objective.record()
        each.append(score(lm, small_store).nats_per_token)
    assert each[0] != each[1]
    last = journal(run.path)[-1]["validation_nats_per_token"]
    assert sum(each) / 2 == pytest.approx(last, rel=0.1)  # a sample of the same split
    with pytest.raises(UserError, match="train their probes first"):
        open_model(f"{parent.path}@1")


def test_probes_start_equal_and_their_towers_are_in_evaluation_mode(probed):
    parent, run, _ = probed
    model = open_model(parent.path).model
    made = with_probes(model, seed=3)
    made.train()
    first, second = (dict(p.named_parameters()) for p in made.model.probes)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert float(first["head.weight"].detach().std()) == pytest.approx(0.02, rel=0.2)
    assert [p.requires_grad for n, p in made.named_parameters() if ".probes." not in n].count(
        True
    ) == 0
    states = [made.model.tower_states(torch.arange(8)[None]) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))  # dropout would differ
    assert made.model.probes.training
    with pytest.raises(UserError, match="has its probes already"):
        with_probes(open_model(run.path).model, seed=0)


def test_probes_of_equal_towers_stay_equal(small_store, tmp_path, monkeypatch):
    """The null of one tower twice, with the same probe: no preference, to the bit."""
    model = ModelConfig(layers=1, heads=2, width=16)
    config = tiny_training(small_store, tmp_path / "t", objective="towers", model=model)
    parent = train(config)

    def twice(found, *, seed):
        with torch.no_grad():
            for part in (found.model.projections, found.model.towers):
                part[1].load_state_dict(part[0].state_dict())
        return with_probes(found, seed=seed)

    monkeypatch.setattr("lmlab.training.parent.with_probes", twice)
    run = train(
        tiny_training(
            small_store, tmp_path / "p", objective="probe", model=ModelConfig(), steps=20,
            parent=ParentConfig(str(parent.path)),
        )
    )  # fmt: skip
    weights = load_file(run.checkpoint / "model.safetensors")
    of_first = {n: w for n, w in weights.items() if n.startswith("model.probes.0")}
    assert len(of_first) == 6
    for name, weight in of_first.items():
        assert torch.equal(weight, weights[name.replace("probes.0", "probes.1")])


def test_what_cannot_be_trained_is_said(small_store, tmp_path):
    plain = train(tiny_training(small_store, tmp_path / "plain"))
    how = {"objective": "probe", "model": ModelConfig()}
    with pytest.raises(UserError, match="has no towers to be probed"):
        train(
            tiny_training(small_store, tmp_path / "a", parent=ParentConfig(str(plain.path)), **how)
        )
    with pytest.raises(UserError, match=r"it needs `parent\.path`"):
        TrainConfig(store=tmp_path, objective="probe")
    with pytest.raises(UserError, match="are for `objective` towers"):
        TrainConfig(store=tmp_path, towers=TowersConfig("product"))
    with pytest.raises(UserError, match=r"cannot train `model\.architecture` bert"):
        TrainConfig(store=tmp_path, objective="towers", model=ModelConfig("bert"))
    with pytest.raises(UserError, match="recurrent"):
        train(tiny_training(small_store, tmp_path / "b", objective="towers-cloze"))
    with pytest.raises(UserError, match="halves of one model"):
        TowersConfig("independent", split=True)
    with pytest.raises(UserError, match="looks at each tower alone as it is"):
        TowersConfig("independent", losses="separate")
    with pytest.raises(UserError, match="no gradient"):
        TowersConfig("mixture", gate="learnt", losses="separate")
    with pytest.raises(UserError, match="leave out @1"):
        open_model(f"{plain.path}@1")
    parent = train(tiny_training(small_store, tmp_path / "t", objective="towers"))
    with pytest.raises(UserError, match="probe or probe-masked"):
        train(
            tiny_training(
                small_store, tmp_path / "c", parent=ParentConfig(str(parent.path)),
                **{**how, "objective": "probe-cloze"},
            )
        )  # fmt: skip


def test_an_identity_of_towers_counts_only_what_is_used(small_store, tmp_path):
    from lmlab.training.setup import resolve_run

    plain = tiny_training(small_store, tmp_path)
    made = replace(plain, objective="towers")
    identities = {
        resolve_run(config, small_store).identity
        for config in (
            plain,
            made,
            replace(made, towers=TowersConfig("product")),
            replace(made, towers=TowersConfig(split=True)),
            replace(made, towers=TowersConfig(losses="separate")),
        )
    }
    assert len(identities) == 5
    # runs that were made before there were separate losses keep their names
    values = made.identity_values(store_fingerprint="", parent=None)["towers"]
    assert values == {"fusion": "concat", "gate": "fixed", "balance": 1.0, "split": False}
    assert "towers" not in plain.identity_values(store_fingerprint="", parent=None)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_towers_learn_what_there_is_to_learn(tmp_path, fusion):
    """Text that counts in a circle: all but the first token of a window is certain."""
    documents = [(np.arange(20) + start) % 6 for start in range(12)]
    store = id_store(tmp_path / "s", {"train": documents, "validation": documents[:6]}, symbols=6)
    run = train(
        tiny_training(
            store, tmp_path / "r", objective="towers", steps=60, batch=8, context=10,
            model=ModelConfig(layers=1, heads=2, width=16), towers=TowersConfig(fusion),
            optimizer=OptimizerConfig(learning_rate=1e-2), evaluate_every=60,
        )
    )  # fmt: skip
    nats = score(open_model(run.path), store).nats_per_token
    assert np.log(6) / 10 < nats < 1.2  # without learning, log 6 = 1.79
