"""`--track`: a tracker is told the journal; it neither slows nor stops nor changes a run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import lmlab.integrations.trackers as trackers
from helpers import journal, tiny_training, tree
from lmlab.cli import main
from lmlab.config.tracked import TrackedTrainConfig
from lmlab.errors import UserError
from lmlab.integrations.trackers import Tracker, train_tracked


def tracked_config(store, out, *track):
    config = tiny_training(store, out, steps=5, evaluate_every=2)
    values = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return TrackedTrainConfig(**values, track=track)


class Fake:
    """Keeps what it is told."""

    def __init__(self, config=None, path=None):
        self.records, self.closed, self.path = [], False, path
        fakes.append(self)

    def write(self, record):
        self.records.append(dict(record))

    def close(self):
        self.closed = True


fakes: list[Fake] = []


@pytest.fixture
def writer(monkeypatch):
    """Puts a writer in TensorBoard's place."""
    fakes.clear()
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())

    def put(kind):
        monkeypatch.setitem(trackers._WRITERS, "tensorboard", kind)

    return put


def test_a_tracker_gets_the_journal_and_the_run_keeps_its_bytes(small_store, tmp_path, writer):
    writer(Fake)
    with_tracker = train_tracked(tracked_config(small_store, tmp_path / "a", "tensorboard"))
    without = train_tracked(tracked_config(small_store, tmp_path / "b"))
    (fake,) = fakes
    assert fake.records == journal(with_tracker.path)
    assert (fake.closed, fake.path) == (True, with_tracker.path)
    assert with_tracker.identity == without.identity

    def files(run):
        left_out = ("timing.jsonl", "config.toml", ".lock")
        return {name: data for name, data in tree(run.path).items() if name not in left_out}

    assert files(with_tracker) == files(without)
    config = (with_tracker.path / "config.toml").read_text()
    assert (
        config.replace(str(tmp_path / "a"), str(tmp_path / "b"))
        == (without.path / "config.toml").read_text()
    )
    fakes.clear()
    train_tracked(tracked_config(small_store, tmp_path / "a", "tensorboard"))
    assert fakes == []  # a finished run tells nothing


@pytest.mark.parametrize("when", ["opened", "told", "closed"])
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(
    small_store, tmp_path, writer, capsys, when
):
    class Failing(Fake):
        def __init__(self, config, path):
            if when == "opened":
                raise OSError("no server")
            super().__init__(config, path)

        def write(self, record):
            if when == "told":
                raise OSError("no server")

        def close(self):
            raise OSError("no server")

    writer(Failing)
    run = train_tracked(tracked_config(small_store, tmp_path / "run", "tensorboard"))
    assert len(journal(run.path)) == 5
    said = capsys.readouterr().err
    assert said.count("tensorboard failed (OSError: no server); the run goes on") == 1


def test_a_tracker_that_hangs_delays_neither_a_step_nor_the_end(capsys):
    let_go = threading.Event()

    class Hanging(Fake):
        def write(self, record):
            let_go.wait()

    tracker = Tracker("slow", Hanging, waiting=2)
    begun = time.monotonic()
    for step in range(1000):
        tracker({"step": step})
    tracker.close(seconds=0.3)
    assert time.monotonic() - begun < 10  # it would hang for ever
    said = capsys.readouterr().err
    assert said.count("slow is slower than training") == 1
    assert "slow has not ended in 0.3 s" in said
    let_go.set()


def test_a_tracker_that_is_not_there_is_refused_before_training(small_store, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trackers, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install -e '\.\[track\]'"):
            train_tracked(tracked_config(small_store, tmp_path / "run", "trackio"))
        words = ["train", "--store", str(small_store.path), "--out", str(tmp_path / "run")]
        assert main([*words, "--track", "tensorboard"]) == 2
    assert "none-any.whl[track]'" in capsys.readouterr().err
    assert not Path(tmp_path / "run").exists()
    with pytest.raises(UserError, match="once"):
        tracked_config(small_store, tmp_path / "run", "trackio", "trackio")


def test_tensorboard_reads_what_was_written(small_store, tmp_path):
    pytest.importorskip("tensorboard", reason="extra `track`")
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    run = train_tracked(tracked_config(small_store, tmp_path / "run", "tensorboard"))
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    read = [(event.step, event.value) for event in events.Scalars("loss")]
    records = journal(run.path)
    assert [step for step, _ in read] == [record["step"] for record in records]
    assert [value for _, value in read] == pytest.approx([record["loss"] for record in records])
    validated = [r["step"] for r in records if "validation_nats_per_token" in r]
    assert [event.step for event in events.Scalars("validation/nats_per_token")] == validated


def test_trackio_reads_what_was_written(small_store, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # before its import
    pytest.importorskip("trackio", reason="extra `track`")
    from trackio.sqlite_storage import SQLiteStorage

    run = train_tracked(tracked_config(small_store, tmp_path / "run", "trackio"))
    read = SQLiteStorage.get_logs("lmlab", "run")
    records = journal(run.path)
    assert [row["step"] for row in read] == [record["step"] for record in records]
    assert [row["loss"] for row in read] == pytest.approx([record["loss"] for record in records])
