"""`lmlab doctor`: what it counts against brute force, real training and torch's own counter.

Shapes: V vocabulary, K targets of a micro-batch, U distinct ones.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma2Config, MixtralConfig

from helpers import id_store, random_documents, symbols_tokenizer, tiny_training
from lmlab.cli import main
from lmlab.cli.printing import with_dashes
from lmlab.config.doctor import DoctorConfig
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.config.training import OptimizerConfig, TrainConfig
from lmlab.data.unigram import token_counts
from lmlab.data.windows import TrainingWindows
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.models.head import attach_bias
from lmlab.objectives import from_record
from lmlab.run_folders.checkpoint import Newest
from lmlab.training import cost, doctor
from lmlab.training.doctor import Diagnosis, Memory, Targets, Timing, diagnose, measure_targets
from lmlab.training.doctor_warnings import byte_size
from lmlab.training.hardware import available_cores, available_memory, peak_memory
from lmlab.training.loop import Trainer
from lmlab.training.setup import resolve_run

ALL = ["gpt2", "neox", "llama", "qwen3", "gru", "lstm"]
TIED = ModelConfig(layers=1, heads=2, width=16, tied=True)
V, CONTEXT = 30, 12


def build(architecture: Any = "gpt2", **settings: Any) -> Any:
    chosen = {"layers": 2, "heads": 2, "width": 16, **settings}
    if architecture in ("gru", "lstm"):
        chosen["heads"] = None
    if architecture == "auto":
        chosen = settings
    made = build_config(
        ModelConfig(architecture, **chosen), vocabulary=V, context=CONTEXT, bos_id=28,
        end_of_text_id=29,
    )  # fmt: skip
    return build_model(made, seed=0)


# U


def test_expected_distinct_of_uniform_draws():
    for types, draws in ((7, 3), (1000, 1), (50, 4000)):
        expected = types * (1 - (1 - 1 / types) ** draws)
        assert cost.expected_distinct(np.full(types, 12), draws) == pytest.approx(expected)


def test_expected_distinct_against_brute_force():
    counts_V = np.round(1e4 / np.arange(1, 301))
    counts_V[5] = 0
    generator = np.random.default_rng(0)
    draws = generator.choice(300, (4000, 200), p=counts_V / counts_V.sum())
    distinct = np.array([len(np.unique(row)) for row in draws])
    error = distinct.std() / np.sqrt(len(distinct))
    assert error < 0.1
    assert cost.expected_distinct(counts_V, 200) == pytest.approx(distinct.mean(), abs=4 * error)


def test_expected_distinct_keeps_its_digits():
    rare_V = np.append(np.ones(1000), 1e18)
    rare = 1000 * -np.expm1(-1e-3)
    assert cost.expected_distinct(rare_V, 10**15) == pytest.approx(1 + rare, rel=1e-6)
    zipf_V = 1e15 / np.arange(1, 50001) ** 3
    assert cost.expected_distinct(zipf_V, 1) == pytest.approx(1, rel=1e-12)
    assert cost.expected_distinct(np.array([0, 5, 0]), 100) == 1  # log(1 - 1) on the way
    assert cost.expected_distinct(zipf_V, 0) == 0


@pytest.mark.parametrize("name", ["causal", "headless"])
def test_measured_targets_are_those_of_training(small_store, name):
    windows = TrainingWindows(small_store.split("train"), 8, batch=4, seed=3)
    counts_V = token_counts(small_store.split("train"), small_store.vocabulary)
    objective = from_record({"name": name}, order="backward", tokenizer=small_store.tokenizer)
    made = measure_targets(objective, windows, 2, counts_V, micro_batches=5)
    rows = np.concatenate([windows.ids(windows.indices(step)) for step in range(3)])[:10]
    micro_batches = rows.reshape(5, 16)
    distinct = [len(set(row)) for row in micro_batches]
    assert len(set(distinct)) > 1
    assert (made.per_micro_batch, made.distinct) == (16, pytest.approx(np.mean(distinct)))
    assert made.distinct_deviation == pytest.approx(np.std(distinct, ddof=1))
    assert made.distinct_if_independent == cost.expected_distinct(counts_V, 16)
    entropy = 0.0
    for row in micro_batches:
        share = np.unique(row, return_counts=True)[1] / 16
        entropy -= (share * np.log(share)).sum() / 5
    assert made.least_loss == pytest.approx(np.log(16) - entropy)


# parameters, FLOPs, memory


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ALL)
def test_parameters_by_place(architecture, tied):
    model = build(architecture, tied=tied)
    attach_bias(model, torch.zeros(V), learnt=False)
    made = cost.count_parameters(model)
    assert made.total == sum(p.numel() for p in model.parameters())
    assert made.total == made.body + made.embeddings + made.head
    assert made.head == V + (0 if tied else V * 16)
    assert made.embeddings == V * 16 + (CONTEXT * 16 if architecture == "gpt2" else 0)


@pytest.mark.parametrize("objective", ["causal", "headless"])
@pytest.mark.parametrize("architecture", ALL)
def test_flops_against_torchs_counter(architecture, objective, monkeypatch):
    """A whole micro-batch, forward and backward, attention as plain products. Exact, but for
    recurrent layers: their first state needs no gradient, one of `CONTEXT` such products."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # one opaque call for an LSTM
    model = build(architecture, tied=objective == "headless")
    recurrent = architecture in ("gru", "lstm")
    if not recurrent:
        model.set_attn_implementation("eager")
    made = from_record({"name": objective}, order="forward", tokenizer=symbols_tokenizer(28))
    backbone = Backbone(model)
    ids = np.random.default_rng(0).integers(0, 28, (3, CONTEXT))
    batch = made.reading.batch(list(ids), device=torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        # autocast: without it the loss sums weight gradients by addmm_, which is not counted
        loss, count = made.loss(backbone, batch)
        loss.backward()
    candidates = V if objective == "causal" else len(np.unique(ids))
    flops = cost.Flops(
        cost.body_flops(model),
        cost.attention_flops(model.config, CONTEXT),
        cost.head_flops(16, candidates),
    )
    assert (flops.attention == 0) == recurrent
    tolerance = 1 / 6 / CONTEXT if recurrent else 1e-12
    assert count == 3 * CONTEXT
    # before transformers 5.20 the angles of rotary positions are a product of matrices
    old = Version(transformers.__version__) < Version("5.20")
    angles = sum(m.inv_freq.numel() for m in model.modules() if old and hasattr(m, "inv_freq"))
    counted = counter.get_total_flops() - 2 * CONTEXT * angles
    assert count * flops.total == pytest.approx(counted, rel=tolerance)
    assert cost.uncounted_weights(model) == 0


def test_attention_of_grouped_heads_and_of_layers_without():
    config = Gemma2Config(
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, hidden_size=48,
        num_hidden_layers=3,
        layer_types=["full_attention", "linear_attention", "sliding_attention"],
    )  # fmt: skip
    assert cost.attention_flops(config, 10) == 3 * 2 * 2 * (4 * 8 * 10) * 2


def test_weights_outside_known_layers_are_reported(tmp_path):
    MixtralConfig(
        hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3, max_position_embeddings=16,
    ).save_pretrained(tmp_path)  # fmt: skip
    model = build("auto", path=str(tmp_path))
    experts = sum(p.numel() for n, p in model.named_parameters() if "experts" in n)
    assert experts >= 3 * 3 * 16 * 8
    assert cost.uncounted_weights(model) == pytest.approx(experts, rel=0.1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("objective", ["causal", "headless"])
def test_memory_is_what_training_holds(small_store, tmp_path, monkeypatch, name, objective):
    config = tiny_training(
        small_store, tmp_path, model=TIED, objective=objective, optimizer=OptimizerConfig(name)
    )
    memory = diagnose(config, rounds=0).memory
    trainer = Trainer(resolve_run(config, small_store), small_store, Newest(None, 0, ()))
    gradients = []
    step = trainer.optimizers.step

    def watch(rate):
        gradients.append([p.grad for p in trainer.model.parameters() if p.grad is not None])
        step(rate)

    monkeypatch.setattr(trainer.optimizers, "step", watch)
    trainer.update()

    def held(tensors):
        return sum(t.numel() * t.element_size() for t in tensors)

    states = [s for o in trainer.optimizers._all for s in o.state.values()]
    assert memory.weights == held(trainer.model.parameters())
    assert memory.gradients == held(gradients[0])
    assert memory.optimizer == held(t for state in states for t in state.values())
    assert memory.total == memory.weights + memory.gradients + memory.optimizer


def test_memory_of_the_machine():
    available = available_memory("cpu")
    assert available is None or 1 << 20 < available < 1 << 50
    block = np.ones(1 << 23)  # 64 MiB, touched
    assert (peak_memory("cpu") or 0) > block.nbytes


def test_cores_keep_to_the_environment_of_a_process_on_its_own(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    for asked, cores in {"": 8, "3": 3, "16": 8, "0": 1, "4,2": 8}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert available_cores() == cores
    # torchrun writes 1 where the user set nothing
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert available_cores() == 4


# the diagnosis


def test_diagnosis_of_both_forms(small_store, tmp_path, monkeypatch):
    asked: list[Any] = []

    def seconds(requests, *, rounds, warm_up):
        asked.append((dict(requests), rounds))
        return {name: {"this": 2.0, "other": 3.0}[name] for name in requests}

    monkeypatch.setattr(doctor, "seconds_per_step", seconds)
    causal = tiny_training(small_store, tmp_path, model=TIED)
    headless = dataclasses.replace(causal, objective="headless")
    one, other = diagnose(causal, rounds=5), diagnose(headless)
    assert [list(r) for r, _ in asked] == [["this"], ["this", "other"]] * 2
    assert [rounds for _, rounds in asked] == [1, 5, 1, 12]
    assert asked[1][0]["other"].objective == "headless"
    assert asked[3][0]["other"].objective == "causal"
    assert asked[3][0]["other"].output_bias == "fixed"
    assert asked[3][0]["other"].headless == HeadlessConfig()
    assert (one.measured_speed_up, other.measured_speed_up) == (pytest.approx(2 / 3), 1.5)
    assert one.flops.head == 6 * 16 * small_store.vocabulary
    assert other.flops.head == pytest.approx(6 * 16 * other.targets.distinct)
    assert one.ideal_speed_up == other.ideal_speed_up
    assert one.ideal_speed_up == pytest.approx(one.flops.total / other.flops.total)
    assert one.flops.head_share == one.flops.head / one.flops.total
    figures = other.to_json()
    assert figures["expected_seconds"] == 2.0 * 6
    assert figures["tokens"] == 6 * 4 * 8
    assert (
        figures["epochs"]
        == 6 * 4 / TrainingWindows(small_store.split("train"), 8, batch=4, seed=0).count
    )
    assert not (tmp_path / "config.toml").exists()


def test_an_untied_model_has_no_other_form(small_store, tmp_path, monkeypatch):
    config = tiny_training(small_store, tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr(
        doctor, "seconds_per_step", lambda r, **_: asked.append(list(r)) or {"this": 1.0}
    )
    made = diagnose(config, rounds=3)
    assert asked == [["this"], ["this"]]
    assert (made.other_form, made.measured_speed_up, made.not_timed) == (None, None, None)
    with pytest.raises(UserError, match=r"`model\.tied`"):
        diagnose(dataclasses.replace(config, objective="headless"), rounds=0)


def test_a_form_that_cannot_be_trained_is_named_and_the_rest_is_timed(small_store, tmp_path):
    Gemma2Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=8, max_position_embeddings=32,
        final_logit_softcapping=30.0,
    ).save_pretrained(tmp_path / "c")  # fmt: skip
    model = ModelConfig("auto", path=str(tmp_path / "c"))
    made = diagnose(tiny_training(small_store, tmp_path, model=model), rounds=1)
    assert made.timing is not None
    assert made.timing.other_seconds is None
    assert "caps its logits" in str(made.not_timed)


def test_what_does_not_fit_is_not_tried(small_store, tmp_path, monkeypatch):
    config = tiny_training(small_store, tmp_path, model=TIED)
    needed = diagnose(config, rounds=0).memory.total
    monkeypatch.setattr(doctor, "seconds_per_step", pytest.fail)
    monkeypatch.setattr(doctor, "available_memory", lambda device: needed - 1)
    made = diagnose(config)
    assert made.timing is None
    assert [w for w in made.warnings if f"take {byte_size(needed)}" in w]
    asked: list[Any] = []
    monkeypatch.setattr(
        doctor, "seconds_per_step", lambda r, **_: asked.append(list(r)) or {"this": 1.0}
    )
    monkeypatch.setattr(doctor, "available_memory", lambda device: 2 * needed - 1)
    made = diagnose(config)
    assert asked == [["this"], ["this"]]
    assert "at once" in str(made.not_timed)


# warnings


def fine(**changes: Any) -> Diagnosis:
    """A headless configuration that nothing speaks against."""
    config = TrainConfig(
        store=Path("store"), objective="headless", model=TIED, device="cpu", micro_batch=32
    )
    made = Diagnosis(
        config=config,
        parameters=cost.Parameters(1000, 600, 300, 100),
        flops=cost.Flops(100, 10, 20),
        flops_cross_entropy=cost.Flops(100, 10, 90),
        flops_headless=cost.Flops(100, 10, 20),
        targets=Targets(8192, 2000, 30, 2500, 1.5, 16, 9000),
        memory=Memory(10, 10, 20, 41),
        windows=10_000,
        uncounted_weights=0,
        other_form="causal",
        timing=Timing(1.0, 1.4, 12, 1 << 20),
        not_timed=None,
    )
    return dataclasses.replace(made, **changes)


def of_targets(**changes: Any) -> dict[str, Targets]:
    return {"targets": dataclasses.replace(fine().targets, **changes)}


def of_config(**changes: Any) -> dict[str, TrainConfig]:
    return {"config": dataclasses.replace(fine().config, **changes)}


def test_no_warning_where_all_is_well():
    assert fine().warnings == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (of_targets(distinct=7201), "7,201 distinct targets of a vocabulary of 9,000"),
        ({"flops_cross_entropy": cost.Flops(100, 10, 32)}, "22.5 % .* 1.09 times the speed"),
        ({"timing": Timing(1.25, 1.0, 12, 1)}, "takes 1.25 times as long .* promise 1.54"),
        (of_targets(per_micro_batch=255, least_loss=0.25), "255 .* 5.54 nats, .* loss 0.25"),
        (of_config(micro_batch=16), "`micro_batch` 16, `batch` 32"),
        (of_config(micro_batch=7, batch=7), "7 windows, so 1 in 7 .* mixture or unigram"),
        (of_config(headless=HeadlessConfig(cross_entropy=0.2)), "0.2 computes .* has 0.65 times"),
        (of_config(steps=1251), "4.0 times"),
        ({"windows": 31, **of_config(steps=3)}, "32 windows, but the training split has only 31"),
        ({"memory": Memory(10, 10, 22, 41)}, "take 42 B.* 41 B are available on cpu"),
        ({"uncounted_weights": 7}, "7 weights of the body"),
    ],
)  # fmt: skip
def test_each_warning_names_its_figure(changes, words):
    (warning,) = fine(**changes).warnings
    assert re.search(words, warning)


@pytest.mark.parametrize(
    "changes",
    [
        of_targets(distinct=7199),
        {"flops_cross_entropy": cost.Flops(100, 10, 34)},
        {"timing": Timing(1.0, 1.01, 12, 1)},
        {"timing": None},
        of_targets(per_micro_batch=256),
        of_config(micro_batch=8, batch=8),
        of_config(micro_batch=2, headless=HeadlessConfig(candidates="unigram", draws=2048)),
        of_config(steps=1250),
        {"windows": 32, **of_config(steps=3)},
        {"memory": Memory(10, 10, 21, 41)},
        {"memory": Memory(10, 10, 22, None)},
        {"uncounted_weights": 6},
    ],
)
def test_no_warning_just_before_each_threshold(changes):
    assert fine(**changes).warnings == []


def test_distinct_candidates_are_those_of_the_law(small_store):
    """Draws from twelve symbols are all of them; a micro-batch of 8 targets has fewer."""
    config = TrainConfig(
        small_store.path, objective="headless", model=TIED, context=4, batch=2, device="cpu",
        threads=1, headless=HeadlessConfig(candidates="unigram", draws=4000),
    )  # fmt: skip
    drawn = diagnose(config, rounds=0).targets
    plain = diagnose(dataclasses.replace(config, headless=HeadlessConfig()), rounds=0).targets
    assert plain.distinct <= 8 < 12 <= drawn.distinct <= 14
    assert plain.per_micro_batch == drawn.per_micro_batch == 8


def test_headless_warnings_are_for_headless_configurations():
    poor = {**of_targets(distinct=9000, per_micro_batch=32), **of_config(micro_batch=8)}
    assert len(fine(**poor).warnings) == 3
    poor["config"] = dataclasses.replace(poor["config"], objective="causal")
    assert fine(**poor).warnings == []


def test_bytes_in_words():
    assert [byte_size(b) for b in (0, 1023, 1024, 3 << 29)] == [
        "0 B",
        "1.02e+03 B",
        "1 KiB",
        "1.5 GiB",
    ]


def test_rows_of_the_table():
    rows = {str(name): str(value) for name, value in fine().tables()[0].rows}
    assert "head 20" in rows["FLOPs per token of training"]
    assert rows["the head's share of them"] == "15.4 %"
    assert rows["time, headless"].startswith("16:40, 1 s a step")
    assert rows["time, causal with prior bias"] == "23:20, 1.4 s a step"
    assert rows["speed-up by headless, ideal"] == "1.54 x (by FLOPs)"
    assert rows["speed-up by headless, measured"] == "1.40 x (12 rounds)"


# the command


def test_the_options_are_those_of_train(small_store):
    ours = {f.name: f for f in dataclasses.fields(DoctorConfig)}
    theirs = {f.name: f for f in dataclasses.fields(TrainConfig)}
    assert ours.keys() - theirs.keys() == {"rounds", "results"}
    asked = DoctorConfig(small_store.path, seed=3, objective="headless", rounds=0)
    assert asked.run() == TrainConfig(small_store.path, seed=3, objective="headless")
    assert type(asked.run()) is TrainConfig
    with pytest.raises(UserError, match="`rounds` -1"):
        DoctorConfig(small_store.path, rounds=-1)


def test_doctor_for_train_on_the_command_line(tmp_path, capsys):
    store = id_store(
        tmp_path / "store",
        {
            n: random_documents(9, 20, 60, symbols=40, seed=i)
            for i, n in enumerate(("train", "validation"))
        },
        symbols=40,
    )
    (tmp_path / "run.toml").write_text(
        'objective = "headless"\nsteps = 3\ncontext = 8\nbatch = 4\nthreads = 1\n[model]\n'
        "layers = 1\nheads = 2\nwidth = 16\ntied = true\n"
    )
    words = ("--config", tmp_path / "run.toml", "--store", store.path, "--out", tmp_path / "run")
    run = [str(word) for word in words]
    results = tmp_path / "results"
    own = ["--rounds", "2", "--results", str(results)]
    assert main(["doctor", *run, *own]) == 0
    printed = capsys.readouterr().out
    values = json.loads((results / "results.json").read_text())
    assert f"{values['parameters']['total']:,}" in printed
    assert f"{values['ideal_speed_up']:.2f} x" in printed
    assert f"{values['measured_speed_up']:.2f} x" in printed
    assert f"results: {results / 'results.json'}" in printed
    assert (results / "report.html").is_file()
    assert values["warnings"]
    assert all(f"Warning: {with_dashes(w)}" in printed for w in values["warnings"])
    assert "`" in "".join(values["warnings"])
    assert "`" not in printed
    assert values["timing"]["rounds"] == 2
    assert values["timing"]["seconds"] > 0
    assert values["expected_seconds"] == pytest.approx(3 * values["timing"]["seconds"])
    assert values["options"]["objective"] == "headless"
    assert "results" not in values["options"]
    # the same words, and the run is not in the doctor's way
    assert main(["train", *run]) == 0


@pytest.mark.parametrize("objective", ["masked", "headless-masked"])
def test_masked_models_pay_for_their_head_at_the_predicted_tokens_only(
    small_store, tmp_path, objective
):
    config = tiny_training(
        small_store, tmp_path / "r", objective=objective, batch=16,
        model=ModelConfig("bert", layers=1, heads=2, width=16, tied=True),
    )  # fmt: skip
    made = diagnose(config, rounds=0)
    tokens = 16 * 8
    assert tokens * 0.12 < made.targets.per_micro_batch < tokens * 0.16  # 0.15 of 8, rounded
    share = made.targets.per_micro_batch / tokens
    candidates = {"masked": small_store.vocabulary + 1, "headless-masked": made.targets.distinct}
    assert made.flops.head == pytest.approx(share * 6 * 16 * candidates[objective])
    assert made.other_form == {"masked": "headless-masked", "headless-masked": "masked"}[objective]
    assert made.targets.vocabulary == small_store.vocabulary + 1  # the mask token
    assert made.targets.distinct <= 12  # no special token is ever predicted
