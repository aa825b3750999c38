"""Ctrl-C and SIGTERM: the step is finished and saved, and what goes on ends as if never stopped."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

from helpers import journal, tiny_training, tree
from lmlab.cli import main
from lmlab.config import to_command_line, to_mapping
from lmlab.config.training import CheckpointConfig, TrainConfig
from lmlab.data.store import TokenStore
from lmlab.run_folders.checkpoint import checkpoint_folder, checkpoints, newest_checkpoint
from lmlab.studies.status import study_status
from lmlab.training import loop
from lmlab.training.loop import train
from lmlab.training.setup import resolve_run
from lmlab.training.stopping import Stopped, ended_by_sigterm

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STEPS = 7
PROMISE = pytest.mark.promise(
    "Ctrl-C or SIGTERM at any step: saved after that step, and resumed = never stopped"
)


def exact_part(run):
    files = tree(run)
    return {n: d for n, d in files.items() if n not in ("timing.jsonl", "config.toml", ".lock")}


def config_of(store, out, **changes):
    settings = {"steps": STEPS, "checkpoints": CheckpointConfig(every=4), **changes}
    return tiny_training(store, out, **settings)


@pytest.fixture(scope="module")
def whole(small_store, tmp_path_factory):
    """What a run that nobody stopped leaves."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(config_of(small_store, out))
    return exact_part(out)


@pytest.fixture
def told(monkeypatch):
    """Sends signals in the midst of the update after which a run has done `step` steps."""

    def tell(step, *numbers):
        update = real

        def told_within(self):
            if self.step == step - 1:
                for number in numbers:
                    signal.raise_signal(number)
            return update(self)

        monkeypatch.setattr(loop.Trainer, "update", told_within)

    real = loop.Trainer.update
    yield tell
    monkeypatch.setattr(loop.Trainer, "update", real)


@PROMISE
@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_at_any_step_and_resumed(small_store, tmp_path, told, whole, step, number):
    handlers = [signal.getsignal(each) for each in SIGNALS]
    config = config_of(small_store, tmp_path / "run")
    told(step, number)
    with pytest.raises(Stopped) as stopped:
        train(config)
    assert stopped.value.number == number
    saved = checkpoint_folder(tmp_path / "run", step)
    assert newest_checkpoint(tmp_path / "run").path == saved
    assert [record["step"] for record in journal(tmp_path / "run")] == list(range(1, step + 1))
    if step < STEPS:
        assert f"after step {step} of {STEPS}, saved in {saved}" in str(stopped.value)
    else:
        assert "is finished" in str(stopped.value)
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    if step + 1 < STEPS:
        told(step + 1, number)
        with pytest.raises(Stopped):
            train(config)
    told(0)
    train(config)
    assert exact_part(tmp_path / "run") == whole  # what was saved beside the schedule is gone


def test_a_second_signal_stops_at_once(small_store, tmp_path, told, whole):
    config = config_of(small_store, tmp_path / "run")
    told(2, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(config)
    assert not isinstance(stopped.value, Stopped)
    told(3, signal.SIGINT, signal.SIGTERM)
    with ended_by_sigterm(), pytest.raises(Stopped) as ended:
        train(config)
    assert (ended.value.number, str(ended.value)) == (signal.SIGTERM, "")
    assert checkpoints(tmp_path / "run") == []
    told(0)
    train(config)
    assert exact_part(tmp_path / "run") == whole


def test_a_signal_that_is_ignored_stays_so(small_store, tmp_path, told, whole):
    """As `nohup` asks for."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        told(2, signal.SIGINT)
        train(config_of(small_store, tmp_path / "run"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert exact_part(tmp_path / "run") == whole


def test_a_stop_does_not_change_where_early_stopping_ends(small_store, tmp_path, told):
    settings = {"early_stopping": 2, "evaluate_every": 1, "steps": 12}
    config = config_of(small_store, tmp_path / "run", **settings)
    train(dataclasses.replace(config, out=tmp_path / "whole"))
    told(5, signal.SIGTERM)
    with pytest.raises(Stopped):
        train(config)
    told(0)
    train(config)
    assert exact_part(tmp_path / "run") == exact_part(tmp_path / "whole")


def test_checkpoints_by_the_clock_decide_nothing(small_store, tmp_path, whole, monkeypatch):
    schedule = CheckpointConfig(every=4, minutes=1e-9, keep=2)
    config = config_of(small_store, tmp_path / "run", checkpoints=schedule)
    never = dataclasses.replace(config, checkpoints=dataclasses.replace(schedule, minutes=0))
    identities = {resolve_run(each, small_store).identity for each in (config, never)}
    assert len(identities) == 1
    there = []
    advance = loop.Bar.advance

    def look(self, *given):
        there.append([int(p.name[-8:]) for p in checkpoints(tmp_path / "run")])
        advance(self, *given)

    monkeypatch.setattr(loop.Bar, "advance", look)
    train(config)
    assert there == [[1], [2], [3], [4], [4, 5], [4, 6], [4, 7]]
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == whole["journal.jsonl"]
    train(never)  # is the same run, and finished
    train(dataclasses.replace(never, out=tmp_path / "never"))
    assert exact_part(tmp_path / "run") == exact_part(tmp_path / "never")


def test_a_passing_checkpoint_that_a_kill_left_is_removed(small_store, tmp_path, told, whole):
    config = config_of(small_store, tmp_path / "run")
    told(6, signal.SIGINT)
    with pytest.raises(Stopped):
        train(config)
    left = tree(checkpoint_folder(tmp_path / "run", 6))
    told(0)
    train(config)
    for name, data in left.items():  # as if killed between saving and removing
        (place := checkpoint_folder(tmp_path / "run", 6) / name).parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    train(config)
    assert exact_part(tmp_path / "run") == whole


def command_of(config: TrainConfig) -> list[str]:
    return ["train", *to_command_line(TrainConfig, to_mapping(config))]


def test_the_command_says_where_and_how_to_go_on(small_store, tmp_path, told, capsys, whole):
    command = command_of(config_of(small_store, tmp_path / "my run"))
    told(3, signal.SIGINT)
    assert main(command) == 130
    said = capsys.readouterr().err
    assert f"saved in {checkpoint_folder(tmp_path / 'my run', 3)}. " in said
    told(0)
    (shown,) = (line for line in said.splitlines() if "The same command goes on" in line)
    assert shown.partition("goes on: ")[2].startswith("lmlab train --store ")
    assert f"--out '{tmp_path / 'my run'}'" in shown
    assert main(command) == 0
    assert exact_part(tmp_path / "my run") == whole


def test_a_real_sigterm_and_a_real_resume(small_store, tmp_path):
    """From outside, at a moment that nothing in the run knows of."""
    config = config_of(small_store, tmp_path / "run", steps=4000)
    command = [sys.executable, "-m", "lmlab", *command_of(config)]
    log = tmp_path / "run" / "journal.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            if log.exists() and log.read_bytes().count(b"\n") >= 5:
                process.terminate()
                break
            time.sleep(0.001)
        _, said = process.communicate()
    assert process.returncode == 143, said
    newest = newest_checkpoint(tmp_path / "run")
    assert newest.step == len(journal(tmp_path / "run")) >= 5
    assert f"after step {newest.step} of 4,000, saved in {newest.path}" in said.replace("\n", " ")


@pytest.mark.parametrize("worker", [[], ["--worker"]])
def test_a_study_saves_its_run_and_says_how_to_go_on(text_folder, tmp_path, told, capsys, worker):
    words = [
        "study", "arrow", "--text", text_folder, "--size", "nano", "--context", 16, "--seeds", 1,
        "--vocabulary", 300, "--steps", 5, "--batch-tokens", 64, "--windows", 10,
        "--lab", tmp_path, "--out", tmp_path / "study", *worker,
    ]  # fmt: skip
    command = [str(word) for word in words]
    told(3, signal.SIGTERM)
    assert main(command) == 143
    said = capsys.readouterr().err
    assert "stopped after step 3 of 5, saved in" in said
    assert "The same command goes on: lmlab study arrow --text" in said
    rows = study_status(tmp_path / "study", tmp_path)
    assert [(row.state, row.step) for row in rows] == [("waiting", 3), ("waiting", 0)]
    told(0)
    assert main(command) == 0
    assert "resuming" in capsys.readouterr().err


def test_sigterm_between_runs_ends_a_command_with_143(monkeypatch, capsys, small_store):
    def verify(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(TokenStore, "verify", verify)
    assert main(["train", "--store", str(small_store.path), "--steps", "1"]) == 143
    said = capsys.readouterr().err
    assert "interrupted; what is finished is saved. The same command goes on: lmlab train" in said
    assert signal.getsignal(signal.SIGTERM) == before
