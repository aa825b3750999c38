"""Resumed = never interrupted, byte for byte: weights, optimizer, journal."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time

import pytest

from helpers import failing_at, journal, run_folder, tiny_training, tree
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig, MaskingConfig
from lmlab.config.towers import TowersConfig
from lmlab.config.training import CheckpointConfig, OptimizerConfig, ParentConfig
from lmlab.durable import on_operation
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import checkpoint_folder, checkpoints
from lmlab.training import loop
from lmlab.training.loop import train


class KilledError(BaseException):
    """Stands for a kill: nothing may catch it."""


def exact_part(run):
    """What the promise covers: everything but the clock."""
    files = tree(run)
    return {n: d for n, d in files.items() if n not in ("timing.jsonl", "config.toml", ".lock")}


def train_until(monkeypatch, config, step):
    """Trains, and is killed at the beginning of the update after `step` updates."""
    update = loop.Trainer.update

    def interrupted(self):
        if self.step == step:
            raise KilledError
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "update", interrupted)
        with pytest.raises(KilledError):
            train(config)


CASES = {
    "forward": {},
    "backward": {"order": "backward"},
    "permutation": {"order": "permutation:3"},
    "muon": {"optimizer": OptimizerConfig("muon")},
    "dropout": {"model": ModelConfig(layers=2, heads=2, width=16, dropout=0.1)},
    "accumulated": {
        "micro_batch": 2,
        "model": ModelConfig("neox", layers=1, heads=2, width=16, dropout=0.1),
    },
    "lstm": {"model": ModelConfig("lstm", layers=2, width=16, dropout=0.1), "order": "backward"},
    "tied": {"model": ModelConfig("llama", layers=1, heads=2, width=16, tied=True)},
    "headless": {
        "objective": "headless",
        "model": ModelConfig(layers=1, heads=2, width=16, tied=True),
        "micro_batch": 2,
    },
    "headless and cross-entropy": {
        "objective": "headless",
        "headless": HeadlessConfig(cross_entropy=0.5),
        "output_bias": "learnt",
        "order": "backward",
        "model": ModelConfig(layers=1, heads=2, width=16, tied=True, dropout=0.1),
    },
    "masked": {
        "objective": "masked",
        "masking": MaskingConfig(whole_words=True),
        "model": ModelConfig("bert", layers=1, heads=2, width=16, dropout=0.1),
    },
    "headless masked": {
        "objective": "headless-masked",
        "model": ModelConfig("modernbert", layers=1, heads=2, width=16, tied=True),
        "micro_batch": 2,
    },
    "towers": {
        "objective": "towers",
        "model": ModelConfig(layers=1, heads=2, width=16, dropout=0.1),
        "micro_batch": 2,
    },
    "a mixture of towers": {
        "objective": "towers",
        "towers": TowersConfig("mixture", gate="learnt"),
        "model": ModelConfig("llama", layers=1, heads=2, width=16),
        "order": "backward",
    },
    "the minimum of masked towers": {
        "objective": "towers-masked",
        "towers": TowersConfig("minimum", balance=0.5),
        "model": ModelConfig("bert", layers=1, heads=2, width=16, dropout=0.1),
    },
    "halves of one model": {
        "objective": "towers",
        "towers": TowersConfig(split=True),
        "model": ModelConfig("neox", layers=1, heads=2, width=16),
    },
    "towers from both ends": {
        "objective": "towers-cloze",
        "towers": TowersConfig("product"),
        "model": ModelConfig("lstm", layers=2, width=16, dropout=0.1),
    },
    "learnt bias": {"output_bias": "learnt"},
    "several sources": {"source_temperature": 2.0},
    "bfloat16": {"dtype": "bfloat16", "optimizer": OptimizerConfig("muon"), "threads": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_interrupted_twice_is_never_interrupted(
    small_store, store_of_three, tmp_path, monkeypatch, case
):
    store = store_of_three if case == "several sources" else small_store
    config = tiny_training(store, tmp_path / "whole", steps=8, **CASES[case])
    config = dataclasses.replace(config, checkpoints=CheckpointConfig(every=3))
    train(config)
    halved = dataclasses.replace(config, out=tmp_path / "halved")
    for step in (5, 7):  # after checkpoints 3 and 6
        train_until(monkeypatch, halved, step)
        assert [r["step"] for r in journal(tmp_path / "halved")] == list(range(1, step + 1))
    train(halved)
    assert exact_part(tmp_path / "halved") == exact_part(tmp_path / "whole")
    with_bias = config.output_prior() is not None and not config.is_masked  # theirs is in the model
    assert len(exact_part(tmp_path / "whole")) == 3 * (9 + with_bias) + 1


@pytest.mark.parametrize(
    ("trained", "probed", "model"),
    [
        ("towers", "probe", ModelConfig(layers=1, heads=2, width=16, dropout=0.1)),
        ("towers-masked", "probe-masked", ModelConfig("bert", layers=1, heads=2, width=16)),
        ("towers-cloze", "probe-cloze", ModelConfig("lstm", layers=1, width=16)),
    ],
)
def test_interrupted_probes_are_never_interrupted(
    small_store, tmp_path, monkeypatch, trained, probed, model
):
    towers = tiny_training(small_store, tmp_path / "towers", objective=trained, model=model)
    train(towers)
    config = tiny_training(
        small_store, tmp_path / "whole", objective=probed, model=ModelConfig(), steps=8,
        parent=ParentConfig(str(tmp_path / "towers")), checkpoints=CheckpointConfig(every=3),
    )  # fmt: skip
    train(config)
    halved = dataclasses.replace(config, out=tmp_path / "halved")
    for step in (5, 7):
        train_until(monkeypatch, halved, step)
    train(halved)
    assert exact_part(tmp_path / "halved") == exact_part(tmp_path / "whole")
    train(dataclasses.replace(config, out=tmp_path / "again"))
    assert exact_part(tmp_path / "again") == exact_part(tmp_path / "whole")


def test_interrupted_before_the_first_checkpoint(small_store, tmp_path, monkeypatch):
    config = tiny_training(small_store, tmp_path / "run")
    train_until(monkeypatch, config, 1)
    assert not checkpoints(run_folder(config))
    train(config)
    train(dataclasses.replace(config, out=tmp_path / "whole"))
    assert exact_part(run_folder(config)) == exact_part(tmp_path / "whole")


def test_interrupted_right_after_the_checkpoint_of_step_0(small_store, tmp_path, monkeypatch):
    schedule = CheckpointConfig(every=4, logarithmic=True)
    config = tiny_training(small_store, tmp_path / "run", checkpoints=schedule)
    train_until(monkeypatch, config, 0)
    assert [p.name for p in checkpoints(run_folder(config))] == ["step-00000000"]
    train(config)
    train(dataclasses.replace(config, out=tmp_path / "whole"))
    assert exact_part(run_folder(config)) == exact_part(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_a_damaged_newest_checkpoint_costs_one_interval(
    small_store, tmp_path, monkeypatch, capsys, kind
):
    config = tiny_training(small_store, tmp_path / "run")
    train_until(monkeypatch, config, 5)
    model = checkpoint_folder(run_folder(config), 4) / "model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data if kind == "flipped" else data[:-1])
    train(config)
    said = capsys.readouterr().err
    assert f"skipping a checkpoint: {model}: missing, truncated or changed" in said
    assert "after step 2" in said
    train(dataclasses.replace(config, out=tmp_path / "whole"))
    ours = {n: d for n, d in exact_part(run_folder(config)).items() if ".damaged-" not in n}
    assert ours == exact_part(tmp_path / "whole")
    assert len(list((run_folder(config) / "checkpoints").glob("*.damaged-*"))) == 1


@pytest.mark.parametrize("number", range(0, 60, 7))
def test_a_full_disk_while_training_loses_nothing(small_store, tmp_path, number):
    config = tiny_training(small_store, tmp_path / "run", steps=4)
    error = OSError(28, "No space left on device")
    with failing_at(number, error), pytest.raises(UserError) as caught:
        train(config)
    assert "the disk is full while writing" in str(caught.value)
    assert str(run_folder(config)) in str(caught.value)
    train(config)
    train(dataclasses.replace(config, out=tmp_path / "whole"))
    assert exact_part(run_folder(config)) == exact_part(tmp_path / "whole")
    assert on_operation("write", tmp_path) is None


@pytest.mark.promise(
    "Other settings on resuming: said to be no longer bitwise, refused by --strict"
)
def test_other_settings_are_said_or_refused(small_store, tmp_path, monkeypatch, capsys):
    config = tiny_training(small_store, tmp_path / "run", threads=1)
    train_until(monkeypatch, config, 5)
    before = exact_part(run_folder(config))
    with pytest.raises(
        UserError, match=r"`strict`, and settings differ \(threads: 1 then, 2 now\)"
    ):
        train(dataclasses.replace(config, threads=2, strict=True))
    assert exact_part(run_folder(config)) == before
    capsys.readouterr()
    train(dataclasses.replace(config, threads=2))
    assert "resuming equivalently, not bitwise: threads: 1 then, 2 now" in capsys.readouterr().err
    assert journal(run_folder(config))[-1]["step"] == 6


TRAIN = """
import json, sys
from pathlib import Path
from lmlab.config import from_mapping
from lmlab.config.training import TrainConfig
from lmlab.training.loop import train
train(from_mapping(TrainConfig, json.loads(sys.argv[1]), where="test"))
"""


def test_killed_at_any_instant_and_resumed_is_never_killed(small_store, tmp_path):
    """SIGKILL from outside, at two moments that nothing in the run knows of."""
    from lmlab.config import to_mapping

    config = tiny_training(
        small_store, tmp_path / "run", steps=300, batch=16, context=16, evaluate_every=10,
        model=ModelConfig(layers=2, heads=2, width=32, dropout=0.1),
        checkpoints=CheckpointConfig(every=7, keep=3),
    )  # fmt: skip
    command = [sys.executable, "-c", TRAIN, json.dumps(to_mapping(config))]
    killed = 0
    for lines in (20, 90):
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            log = run_folder(config) / "journal.jsonl"
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if log.exists() and log.read_bytes().count(b"\n") >= lines:
                    process.kill()
                    break
                time.sleep(0.001)
            _, error = process.communicate()
        assert process.returncode == -signal.SIGKILL, error
        killed += 1
    assert killed == 2
    train(config)
    train(dataclasses.replace(config, out=tmp_path / "whole"))
    assert exact_part(run_folder(config)) == exact_part(tmp_path / "whole")
    assert not [p for p in (run_folder(config) / "checkpoints").iterdir() if p.name.startswith(".")]
