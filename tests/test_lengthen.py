"""A finished run goes on: as an unbroken one would where its schedule allows that, else as said."""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
from pathlib import Path

import pytest

import lmlab
from helpers import journal, tiny_training, tree
from lmlab.cli import main
from lmlab.config import to_command_line, to_mapping
from lmlab.config.lengthen import LengthenConfig
from lmlab.config.training import CheckpointConfig, LengthenedConfig, ScheduleConfig, TrainConfig
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import checkpoint_folder, read_json_file
from lmlab.run_folders.rundir import stored_config, stored_identity
from lmlab.training import loop
from lmlab.training.lengthen import longer_run
from lmlab.training.loop import train
from lmlab.training.optimizers import learning_rate_factor, rate_factor
from lmlab.training.stopping import Stopped


def finished(store, out, *, steps=8, kind, warmup=0.25, **changes):
    schedule = ScheduleConfig(kind, warmup=warmup, decay=0.5)
    config = tiny_training(
        store, out, steps=steps, schedule=schedule, evaluate_every=2,
        checkpoints=CheckpointConfig(every=2), **changes,
    )  # fmt: skip
    train(config)
    return config


def learnt(run, step):
    files = tree(checkpoint_folder(run, step))
    return {name: files[name] for name in ("model.safetensors", "optimizer.safetensors")}


@pytest.mark.parametrize(("kind", "start"), [("constant", 8), ("wsd", 4)])
def test_a_longer_run_is_the_unbroken_one(small_store, tmp_path, capsys, kind, start):
    """Whose warm-up has as many steps. Of wsd, the decay is taken back."""
    finished(small_store, tmp_path / "run", kind=kind)
    before = tree(tmp_path / "run")
    longer = longer_run(LengthenConfig(tmp_path / "run", steps=16))
    assert longer.out == tmp_path / "run-16"
    train(longer)
    said = capsys.readouterr().err
    assert f"goes on from {checkpoint_folder(tmp_path / 'run', start)}. The learning rate" in said
    if kind == "wsd":
        assert "to step 9, then decays to 0.0003 at step 16 (steps 5 to 8 of the finished" in said
    finished(small_store, tmp_path / "whole", steps=16, kind=kind, warmup=0.125)
    assert learnt(tmp_path / "run-16", 16) == learnt(tmp_path / "whole", 16)
    assert journal(tmp_path / "run-16") == journal(tmp_path / "whole")
    assert tree(tmp_path / "run") == before
    identities = {stored_identity(tmp_path / name) for name in ("run", "run-16", "whole")}
    assert len(identities) == 3
    record = read_json_file(checkpoint_folder(tmp_path / "run-16", 16) / "lmlab.json")
    assert record["parent"] == str(checkpoint_folder(tmp_path / "run", start))


def test_a_rate_that_has_come_down_is_warmed_up_again(small_store, tmp_path, capsys):
    config = finished(small_store, tmp_path / "run", kind="cosine")
    longer = longer_run(LengthenConfig(tmp_path / "run", tokens=28 * 32))
    assert longer.steps == 28
    train(longer)
    said = capsys.readouterr().err
    assert "had come down to 0.0003: it is warmed up to 0.003 again over 5 steps, then" in said
    rates = [record["learning_rate"] for record in journal(tmp_path / "run-28")]
    assert rates[:8] == [r["learning_rate"] for r in journal(tmp_path / "run")]
    up = [3e-3 * (0.1 + 0.9 * (step + 1) / 5) for step in range(5)]
    down = [3e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi * s / 14))) for s in range(15)]
    assert rates[8:] == pytest.approx(up + down)
    assert journal(tmp_path / "run-28")[:8] == journal(tmp_path / "run")
    assert config.schedule == longer.schedule


def test_without_a_checkpoint_before_its_decay_wsd_is_warmed_up_again(small_store, tmp_path):
    finished(small_store, tmp_path / "run", kind="wsd")
    for step in (2, 4):
        shutil.rmtree(checkpoint_folder(tmp_path / "run", step))
    longer = longer_run(LengthenConfig(tmp_path / "run", steps=16))
    assert (longer.lengthened.from_step, longer.lengthened.rewarm) == (8, True)


def test_lengthened_twice_and_stopped_at_any_step(small_store, tmp_path, monkeypatch):
    finished(small_store, tmp_path / "run", kind="wsd")
    train(longer_run(LengthenConfig(tmp_path / "run", steps=12)))
    twice = longer_run(LengthenConfig(tmp_path / "run-12", steps=16, out=tmp_path / "twice"))
    assert twice.lengthened.from_step == 6  # 12 of wsd decay over the last 6
    update = loop.Trainer.update
    told_at = []

    def told(self):
        if self.step not in told_at:
            told_at.append(self.step)
            signal.raise_signal(signal.SIGINT)
        return update(self)

    monkeypatch.setattr(loop.Trainer, "update", told)
    for _ in range(6, 16):
        with pytest.raises(Stopped):
            train(twice)
    monkeypatch.setattr(loop.Trainer, "update", update)
    train(twice)
    assert told_at == list(range(6, 16))
    shutil.rmtree(tmp_path / "run")  # nothing of it is needed any more
    shutil.rmtree(tmp_path / "run-12")
    train(stored_config(tmp_path / "twice"))
    finished(small_store, tmp_path / "whole", steps=16, kind="wsd", warmup=0.125)
    assert learnt(tmp_path / "twice", 16) == learnt(tmp_path / "whole", 16)
    assert journal(tmp_path / "twice") == journal(tmp_path / "whole")


def test_factors_of_a_run_that_is_not_lengthened_are_as_before():
    config = TrainConfig(store=Path("s"), steps=50)
    factors = [learning_rate_factor(step, 50, config.schedule) for step in range(50)]
    assert [rate_factor(step, config) for step in range(50)] == factors


def test_refusals(small_store, tmp_path, capsys, monkeypatch):
    config = finished(small_store, tmp_path / "run", kind="constant", steps=4)
    run = tmp_path / "run"
    for steps, words in ((4, "has 4 already; give more"), (None, "how long is")):
        with pytest.raises(UserError, match=words):
            longer_run(LengthenConfig(run, steps=steps))
    with pytest.raises(UserError, match="no run"):
        longer_run(LengthenConfig(tmp_path, steps=9))
    with pytest.raises(UserError, match="written by"):
        LengthenedConfig(from_step=3)
    stopping = dataclasses.replace(config, early_stopping=1, out=tmp_path / "stopping")
    train(stopping)
    with pytest.raises(UserError, match="`early_stopping`"):
        longer_run(LengthenConfig(tmp_path / "stopping", steps=9))
    half = dataclasses.replace(config, steps=9, out=tmp_path / "half")
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "update", lambda self: {}["gone"])
        with pytest.raises(KeyError):
            train(half)
    with pytest.raises(UserError, match=r"not finished \(step 0 of 9\)"):
        longer_run(LengthenConfig(tmp_path / "half", steps=99))
    again = to_command_line(TrainConfig, to_mapping(dataclasses.replace(config, steps=6)))
    assert main(["train", *again]) == 2
    assert f"To go on with that one: lmlab lengthen {run} --steps 6" in capsys.readouterr().err


def test_from_the_command_line_and_python(small_store, tmp_path, capsys):
    finished(small_store, tmp_path / "run", kind="constant")
    run = lmlab.lengthen(tmp_path / "run", steps=10)
    assert (run.path, list(run.journal.step)[-1]) == (tmp_path / "run-10", 10)
    command = ["lengthen", str(tmp_path / "run"), "--steps", "10", "--out", str(tmp_path / "b")]
    assert main(command) == 0
    assert "step 10," in capsys.readouterr().out
    assert journal(tmp_path / "b") == journal(run.path)
    assert main(command) == 0  # finished before
