"""Training: what a run writes, what accumulation and precision change, when it stops."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config

from helpers import id_store, journal, random_documents, run_folder, tiny_training, tree
from lmlab.config import digest, from_command_line
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from lmlab.data.windows import TrainingWindows, evaluation_windows
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.objectives.base import Objective
from lmlab.run_folders.checkpoint import checkpoint_folder, checkpoints, verify_checkpoint
from lmlab.topics.scoring.score import score
from lmlab.training import loop
from lmlab.training.hardware import keep_freed_memory, resolve_device, resolve_dtype
from lmlab.training.loop import NonFiniteError, train
from lmlab.training.muon import POLYNOMIALS
from lmlab.training.setup import resolve_run, run_name
from tolerances import near


def weights(run, step):
    return load_file(checkpoint_folder(run, step) / "model.safetensors")


def test_what_a_run_leaves_behind(small_store, tmp_path):
    config = tiny_training(small_store, tmp_path / "run")
    made = train(config)
    assert made.path == tmp_path / "run"
    assert made.checkpoint == checkpoint_folder(tmp_path / "run", 6)
    assert [verify_checkpoint(p) for p in checkpoints(made.path)] == [2, 4, 6]
    assert {p.name for p in made.checkpoint.iterdir()} == {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "lmlab.json", "optimizer.safetensors", "state.json",
        "manifest.json",
    }  # fmt: skip
    record = json.loads((made.checkpoint / "lmlab.json").read_text())
    assert record["objective"] == {"name": "causal"}
    assert (record["order"], record["head"], record["context"]) == ("forward", "untied", 8)
    assert (record["step"], record["run"]) == (6, made.identity)
    assert digest(record["training"]) == made.identity
    assert record["tokenizer_fingerprint"] == small_store.tokenizer.fingerprint
    assert (made.path / "config.toml").read_text().count(made.identity) == 1
    state = json.loads((made.checkpoint / "state.json").read_text())
    assert set(state["numeric"]) >= {"torch", "device", "dtype", "threads", "compile", "world_size"}
    timing = [json.loads(line) for line in (made.path / "timing.jsonl").read_text().splitlines()]
    assert timing[-1]["step"] == 6
    assert timing[-1]["tokens_per_second"] > 0


def test_the_journal_against_plain_transformers(small_store, tmp_path):
    """The first losses and validations are recomputed with the library's own logits."""
    config = tiny_training(
        small_store, tmp_path / "run", steps=3, evaluate_every=1, order="backward",
        checkpoints=CheckpointConfig(logarithmic=True),
        schedule=ScheduleConfig("linear", warmup=0.0, final=0.0),
    )  # fmt: skip
    train(config)
    records = journal(run_folder(config))
    assert [list(r) for r in records] == 3 * [
        ["step", "tokens", "loss", "gradient_norm", "learning_rate", "validation_nats_per_token"]
    ]
    assert [r["step"] for r in records] == [1, 2, 3]
    assert [r["tokens"] for r in records] == [32, 64, 96]
    assert [r["learning_rate"] for r in records] == pytest.approx([3e-3, 1.5e-3, 0])
    windows = TrainingWindows(small_store.split("train"), 8, batch=4, seed=0)
    held_out = evaluation_windows(small_store.split("validation"), 8, max_windows=6)

    def mean_nats(model, rows):
        nats, count = torch.zeros((), dtype=torch.float64), 0
        for row in rows:
            ids = torch.tensor([small_store.bos_id, *row[::-1]])
            logits = model(input_ids=ids[None, :-1]).logits[0].double()
            nats = nats + torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")
            count += len(row)
        return nats / count

    for step, record in enumerate(records):
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint_folder(run_folder(config), step), dtype=torch.float32
        )
        loss = mean_nats(model, windows.ids(windows.indices(step)))
        loss.backward()
        norm = torch.linalg.vector_norm(
            torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
        )
        assert record["loss"] == near(float(loss.detach()))
        assert record["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
        after = AutoModelForCausalLM.from_pretrained(
            checkpoint_folder(run_folder(config), step + 1)
            if step < 2
            else checkpoint_folder(run_folder(config), 3),
            dtype=torch.float32,
        )
        with torch.no_grad():
            expected = mean_nats(after, [held_out.ids(i) for i in range(len(held_out))])
        assert record["validation_nats_per_token"] == near(float(expected))
    # a rate of 0 in the last step: nothing moves
    before, last = weights(run_folder(config), 2), weights(run_folder(config), 3)
    assert all(torch.equal(before[n], last[n]) for n in before)


def test_validation_on_its_schedule(small_store, tmp_path):
    config = tiny_training(small_store, tmp_path / "run", steps=7, evaluate_every=3)
    train(config)
    with_validation = [
        r["step"] for r in journal(run_folder(config)) if "validation_nats_per_token" in r
    ]
    assert with_validation == [3, 6, 7]


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "qwen3", "gru", "lstm"])
def test_every_backbone_learns_a_simple_language(tmp_path, architecture):
    """abcabc...: nothing is left to predict after the first symbol."""
    store = id_store(
        tmp_path / "s",
        {"train": [np.arange(n, n + 50) % 3 for n in range(9)], "validation": [np.arange(40) % 3]},
        symbols=3,
    )
    recurrent = architecture in ("gru", "lstm")
    config = tiny_training(
        store, tmp_path / "run", steps=160 if recurrent else 60, evaluate_every=60,
        model=ModelConfig(architecture, layers=1, heads=None if recurrent else 2, width=16),
        optimizer=OptimizerConfig(learning_rate=2e-2), checkpoints=CheckpointConfig(every=500),
    )  # fmt: skip
    train(config)
    records = journal(run_folder(config))
    assert records[0]["loss"] == pytest.approx(math.log(5), abs=0.2)
    # only the first of 8 symbols is uncertain (end of text aside): ln 3 / 8 = 0.137
    assert records[-1]["validation_nats_per_token"] < 0.35


def test_checkpoint_schedule_and_keep(small_store, tmp_path):
    schedule = CheckpointConfig(every=4, logarithmic=True)
    train(tiny_training(small_store, tmp_path / "a", steps=9, checkpoints=schedule))
    assert [int(p.name[-2:]) for p in checkpoints(tmp_path / "a")] == [0, 1, 2, 4, 8, 9]
    schedule = CheckpointConfig(every=2, keep=2)
    train(tiny_training(small_store, tmp_path / "b", steps=9, checkpoints=schedule))
    assert [int(p.name[-2:]) for p in checkpoints(tmp_path / "b")] == [8, 9]
    # what is saved, and how often, does not change the training
    assert (
        tree(checkpoint_folder(tmp_path / "a", 9))["model.safetensors"]
        == (tree(checkpoint_folder(tmp_path / "b", 9))["model.safetensors"])
    )


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_accumulation_does_not_change_the_objective(small_store, tmp_path, name):
    made = {}
    for micro in (4, 2, 1):
        config = tiny_training(
            small_store, tmp_path / str(micro), micro_batch=micro, steps=4,
            optimizer=OptimizerConfig(name),
        )  # fmt: skip
        train(config)
        made[micro] = (journal(run_folder(config)), weights(run_folder(config), 4))
    for micro in (2, 1):
        for ours, whole in zip(made[micro][0], made[4][0], strict=True):
            assert ours["loss"] == near(whole["loss"])
            assert ours["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-4)
            assert ours["tokens"] == whole["tokens"]
        for n, weight in made[4][1].items():
            torch.testing.assert_close(made[micro][1][n], weight, rtol=0, atol=2e-4)
    assert made[4][1].keys() == made[1][1].keys()


@pytest.mark.parametrize("architecture", ["gpt2", "lstm"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_backward_on_reversed_windows_is_forward_on_the_originals(tmp_path, architecture, dropout):
    """To the bit. The reversed store holds every window of the original stream flipped."""
    context, count = 8, 12
    documents = random_documents(count, context, context, symbols=9, seed=0)
    held_out = random_documents(3, context, context, symbols=9, seed=1)
    runs = {}
    for order, flip in (("forward", 1), ("backward", -1)):
        store = id_store(
            tmp_path / f"{order}-store",
            {"train": [d[::flip] for d in documents], "validation": [d[::flip] for d in held_out]},
            symbols=9,
            end_of_text=False,  # windows are the documents
        )
        model = ModelConfig(architecture, layers=1, width=16, dropout=dropout,
                            heads=None if architecture == "lstm" else 2)  # fmt: skip
        config = tiny_training(store, tmp_path / order, order=order, context=context, model=model)
        train(config)
        runs[order] = run_folder(config)
    names = ["model.safetensors", "optimizer.safetensors"]
    for step in (2, 4, 6):
        one, other = (tree(checkpoint_folder(runs[o], step)) for o in ("forward", "backward"))
        assert all(one[n] == other[n] for n in names)
    assert (runs["forward"] / "journal.jsonl").read_bytes() == (
        runs["backward"] / "journal.jsonl"
    ).read_bytes()


def test_orders_differ_and_seeds_differ(small_store, tmp_path):
    made = {}
    for name, changes in {
        "forward": {},
        "again": {},
        "backward": {"order": "backward"},
        "permutation": {"order": "permutation:1"},
        "seed": {"seed": 1},
    }.items():
        config = tiny_training(small_store, tmp_path / name, **changes)
        train(config)
        made[name] = (run_folder(config) / "journal.jsonl").read_bytes()
    assert made.pop("again") == made["forward"]
    assert len(set(made.values())) == 4


def test_identical_requests_have_one_identity(small_store, tmp_path):
    config = tiny_training(small_store, tmp_path / "a")

    def identity(**changes):
        return resolve_run(dataclasses.replace(config, **changes), small_store).identity

    assert identity(out=Path("b"), threads=2) == identity()
    assert identity(seed=1) != identity()


def test_the_default_folder_is_named_for_what_the_run_is(small_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(
        tiny_training(small_store, tmp_path, steps=1, order="permutation:3", seed=2), out=None
    )
    run = train(config)
    size = config.model.dimensions()
    name = f"qwen3-{size.layers}x{size.width}-permutation-3-s2-{run.identity[:6]}"
    assert run.path == Path("runs") / name
    assert run.checkpoint.is_dir()
    usual = TrainConfig(store=small_store.path, order="backward", seed=1)
    assert run_name(usual, "35a3f5e0") == "qwen3-tiny-backward-s1-35a3f5"
    micro = dataclasses.replace(usual, model=ModelConfig(layers=4))
    assert run_name(micro, "35a3f5e0") == "qwen3-micro-backward-s1-35a3f5"


def test_a_run_of_the_default_size_says_which_that_is(small_store):
    """Defaults change; what a run is does not."""
    resolved = resolve_run(TrainConfig(store=small_store.path, steps=1), small_store)
    assert resolved.config.model.size == resolved.deciding["model"]["size"] == "tiny"
    tiny = TrainConfig(store=small_store.path, steps=1, model=ModelConfig(size="tiny"))
    assert resolve_run(tiny, small_store).identity == resolved.identity
    given = TrainConfig(
        store=small_store.path, steps=1, model=ModelConfig(layers=1, heads=2, width=16)
    )
    assert resolve_run(given, small_store).config.model.size is None
    lstm = TrainConfig(store=small_store.path, steps=1, model=ModelConfig("lstm"))
    assert resolve_run(lstm, small_store).config.model.size is None


def test_runs_of_muons_older_iterations_are_not_taken_for_those_of_now(small_store, tmp_path):
    config = tiny_training(
        small_store, tmp_path / "run", steps=2, optimizer=OptimizerConfig("muon")
    )
    deciding = resolve_run(config, small_store).deciding
    assert deciding["optimizer"]["iterations"] == len(POLYNOMIALS)
    run = train(config)
    file = run.path / "config.toml"
    file.write_text(file.read_text("utf-8").replace(run.identity, "0" * len(run.identity)), "utf-8")
    with pytest.raises(UserError, match=r"another run .*how this version of lmlab trains"):
        train(config)


def test_the_configuration_of_a_run_repeats_it(small_store, tmp_path):
    """`lmlab train --config RUN/config.toml` finds the run finished; with another --out it makes
    the same weights again."""
    run = train(tiny_training(small_store, tmp_path / "run", steps=2))
    options = ["--config", str(run.path / "config.toml")]
    assert train(from_command_line(TrainConfig, options, program="t")) == run
    options += ["--out", str(tmp_path / "again")]
    again = train(from_command_line(TrainConfig, options, program="t"))
    assert again.identity == run.identity
    assert tree(again.checkpoint) == tree(run.checkpoint)


def test_a_finished_run_is_not_done_again(small_store, tmp_path, monkeypatch, capsys):
    config = tiny_training(small_store, tmp_path / "run")
    first = train(config)
    before = tree(first.path)
    monkeypatch.setattr(loop, "Trainer", None)
    assert train(config) == first
    assert "finished before, at step 6" in capsys.readouterr().err
    assert tree(first.path) == before


def test_another_run_in_the_folder_is_refused(small_store, tmp_path):
    config = tiny_training(small_store, tmp_path / "run", steps=2)
    train(config)
    before = tree(tmp_path / "run")
    with pytest.raises(UserError, match=r"another run \(different: seed, steps\).*another `out`"):
        train(dataclasses.replace(config, steps=3, seed=1))
    other = id_store(tmp_path / "other", {"train": [[1] * 50], "validation": [[1, 2]]}, symbols=12)
    with pytest.raises(UserError, match=r"different: store_fingerprint"):
        train(dataclasses.replace(config, store=other.path))
    assert tree(tmp_path / "run") == before


def test_a_damaged_store_is_refused_before_anything_is_written(small_store, tmp_path):
    store = id_store(tmp_path / "s", {"train": [[1] * 50], "validation": [[1, 2]]}, symbols=12)
    shard = tmp_path / "s" / "train-00000.bin"
    data = bytearray(shard.read_bytes())
    data[3] = 2
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00000\.bin: its content is not"):
        train(tiny_training(store, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("micro", [4, 2])
def test_a_non_finite_value_stops_before_the_update(
    small_store, tmp_path, monkeypatch, where, micro
):
    config = tiny_training(
        small_store, tmp_path / "run", checkpoints=CheckpointConfig(every=3), micro_batch=micro
    )
    batch_of_step_5 = TrainingWindows(small_store.split("train"), 8, batch=4, seed=0).indices(4)
    loss = Objective.loss
    seen, models = [], []

    def poisoned(self, backbone, batch):
        models.append(backbone.model)
        total, count = loss(self, backbone, batch)
        seen.append(1)
        if len(seen) == 4 * (4 // micro) + 1:  # first micro-batch of step 5
            if where == "loss":
                return total * float("nan"), count
            total.register_hook(lambda gradient: gradient * float("inf"))
        return total, count

    monkeypatch.setattr("lmlab.objectives.base.Objective.loss", poisoned)
    snapshots = []
    step = loop.Optimizers.step
    monkeypatch.setattr(
        loop.Optimizers, "step",
        lambda self, rate: (step(self, rate), snapshots.append(
            [p.detach().clone() for p in models[-1].parameters()])),
    )  # fmt: skip
    with pytest.raises(NonFiniteError) as caught:
        train(config)
    message = str(caught.value)
    assert "at step 5; nothing was updated" in message
    affected = batch_of_step_5[: micro if where == "loss" else 4]
    assert f"Windows {[int(i) for i in affected]} of {small_store.path}" in message
    windows = TrainingWindows(small_store.split("train"), 8, batch=4, seed=0)
    for name in windows.documents(int(affected[0])):
        assert name in message
    assert "`optimizer.learning_rate`" in message
    assert len(snapshots) == 4
    for p, q in zip(models[-1].parameters(), snapshots[-1], strict=True):
        assert torch.equal(p, q)
    assert [r["step"] for r in journal(run_folder(config))] == [1, 2, 3, 4]
    assert [int(p.name[-2:]) for p in checkpoints(run_folder(config))] == [3]
    # the cause gone, the run goes on and ends like any other
    monkeypatch.undo()
    train(config)
    undisturbed = tiny_training(
        small_store, tmp_path / "other", checkpoints=CheckpointConfig(every=3), micro_batch=micro
    )
    train(undisturbed)
    assert (run_folder(config) / "journal.jsonl").read_bytes() == (
        tmp_path / "other" / "journal.jsonl"
    ).read_bytes()


def test_a_learning_rate_that_explodes_is_stopped(small_store, tmp_path):
    config = tiny_training(
        small_store, tmp_path / "run", steps=200,
        optimizer=OptimizerConfig(learning_rate=1e30), schedule=ScheduleConfig("constant"),
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match=r"at step \d+; nothing was updated"):
        train(config)
    for path in checkpoints(run_folder(config)):
        assert all(t.isfinite().all() for t in load_file(path / "model.safetensors").values())


def test_bfloat16_products_keep_float32_weights_and_come_close(small_store, tmp_path):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = tiny_training(small_store, tmp_path / dtype, dtype=dtype)
        train(config)
        losses[dtype] = [r["loss"] for r in journal(run_folder(config))]
        assert all(t.dtype == torch.float32 for t in weights(run_folder(config), 6).values())
        state = load_file(checkpoint_folder(run_folder(config), 6) / "optimizer.safetensors")
        assert all(t.dtype == torch.float32 for t in state.values())
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.02)


def test_hardware_choices():
    assert resolve_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        assert resolve_device("auto") == "cpu"
        with pytest.raises(UserError, match="no CUDA device here; use `device` cpu"):
            resolve_device("cuda")
    assert resolve_dtype("bfloat16", "cpu") == "bfloat16"
    assert resolve_dtype("auto", "cpu") in ("float32", "bfloat16")
    assert isinstance(keep_freed_memory(), bool)


def test_a_context_longer_than_the_text(small_store, tmp_path):
    with pytest.raises(UserError, match="not one window of 100000"):
        train(tiny_training(small_store, tmp_path / "run", context=100_000))


def test_validation_is_without_dropout(text_store, tmp_path):
    """What validation wrote is what scoring the checkpoint gives, and training goes on with it."""
    model = ModelConfig(layers=1, heads=2, width=16, dropout=0.5)
    config = tiny_training(text_store, tmp_path / "run", model=model, evaluate_every=2)
    train(config)
    for record in journal(run_folder(config))[1::2]:
        lm = open_model(checkpoint_folder(run_folder(config), record["step"]))
        scored = score(lm, text_store, max_windows=6)
        assert record["validation_nats_per_token"] == near(scored.nats_per_token)


def test_a_configuration_by_path_counts_by_content(small_store, tmp_path):
    def identity(folder: Path, layers: int = 1) -> str:
        shape = GPT2Config(n_embd=16, n_layer=layers, n_head=2, n_positions=8)
        shape.save_pretrained(folder)
        config = tiny_training(
            small_store, tmp_path / "run", model=ModelConfig("auto", path=str(folder))
        )
        return resolve_run(config, small_store).identity

    here = identity(tmp_path / "a")
    assert identity(tmp_path / "b") == here
    assert identity(tmp_path / "a", layers=2) != here
