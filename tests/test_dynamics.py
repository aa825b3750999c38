"""Dynamics: crossings, intervals, what a snapshot measures, watching a run that goes on.

Shapes: K checkpoints, N tokens, V vocabulary.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from helpers import tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig
from lmlab.data.unigram import token_counts
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.numerics.folded_regression import fold_numbers, fold_r2
from lmlab.run_folders.checkpoint import checkpoint_folder, checkpoints
from lmlab.topics.encoding.dynamics import (
    Captured,
    Dynamics,
    Watch,
    captured,
    crossing,
    step_of,
    watch_run,
)
from lmlab.topics.encoding.of_model import measure
from lmlab.topics.encoding.tables import captured_words
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train
from tolerances import OF_FLOAT32, near


def test_a_crossing_is_found_between_checkpoints_on_a_logarithmic_scale():
    steps_K = np.array([0.0, 1, 3, 7, 15])
    assert crossing(steps_K, np.array([0, 0, 0.9, 0.95, 1])).step == pytest.approx(3)
    assert crossing(steps_K, np.array([0, 0, 0.8, 1.0, 1])).step == pytest.approx(2**2.5 - 1)
    assert crossing(steps_K, np.array([1.0, 0, 0, 0, 1])).step == 0
    assert crossing(steps_K, np.array([0, 0, 0, 0, -0.1])).step is None


def test_a_crossing_has_checkpoints_around_it():
    steps_K = np.array([2.0, 4, 8, 16])
    for values, after, by in (
        ([0, 0.5, 0.95, 1], 4, 8),
        ([0.9, 0.5, 0.95, 1], 0, 2),
        ([0, 0.5, 0.95, -1], None, None),
    ):
        captured_at = crossing(steps_K, np.array(values))
        assert (captured_at.after, captured_at.by) == (after, by)


def dynamics_of(frequency: Captured, loss: Captured) -> Dynamics:
    return Dynamics("a", "b", 1, (), (), (), frequency, loss)


@pytest.mark.parametrize(
    ("frequency", "loss", "order"),
    [
        ((116.0, 64.0, 128.0), (98.0, 64.0, 128.0), "not decided"),
        ((116.0, 108.0, 128.0), (98.0, 91.0, 108.0), "loss first"),
        ((98.0, 91.0, 108.0), (116.0, 108.0, 128.0), "frequency first"),
        ((100.0, 91.0, 128.0), (98.0, 91.0, 108.0), "not decided"),
        ((None, None, None), (98.0, 91.0, 108.0), None),
    ],
)
def test_which_came_first_is_not_decided_between_the_same_checkpoints(frequency, loss, order):
    """Was: "after it", from 116 against 98, both between the checkpoints at 64 and 128."""
    made = dynamics_of(
        Captured(frequency[0], None, None, *frequency[1:]), Captured(loss[0], None, None, *loss[1:])
    )
    assert made.order == order
    said = captured_words(made)
    assert ("not decided" in said) == (order == "not decided")
    assert ("In this run" in said) == (order not in ("not decided", None))


def test_the_interval_covers_the_step_and_narrows_with_tokens():
    rng = np.random.default_rng(0)
    steps_K = np.array([0.0, 1, 2, 4, 8, 16, 32])
    share_K = np.array([0.0, 0.1, 0.3, 0.6, 0.8, 0.95, 1.0]) * 0.9

    def made(tokens):
        target_KN = np.tile(rng.normal(size=tokens), (7, 1))
        noise_KN = rng.normal(size=(7, tokens))
        return captured(steps_K, target_KN, noise_KN * np.sqrt(1 - share_K)[:, None])

    whole = crossing(steps_K, share_K)
    expected = whole.step
    assert expected is not None
    few, many = made(100), made(3000)
    for found in (few, many):
        assert found.low is not None
        assert found.high is not None
        assert found.low < expected < found.high
        assert found.after is not None
        assert found.by is not None
        assert found.after <= found.low < found.high <= found.by
    assert (many.after, many.by) == (whole.after, whole.by)
    assert many.high - many.low < 0.4 * (few.high - few.low)  # type: ignore[operator]
    never = captured(steps_K, np.tile(rng.normal(size=50), (7, 1)), 2 * rng.normal(size=(7, 50)))
    assert (never.step, never.low) == (None, None)


def test_steps_are_read_from_names():
    assert step_of("runs/a-step-9/checkpoints/step-00000500", 3) == 500
    assert step_of("pythia-70m-step1000", 3) == 1000
    assert step_of("models/last", 3) == 3


@pytest.fixture(scope="module")
def run(small_store, tmp_path_factory):
    config = tiny_training(
        small_store, tmp_path_factory.mktemp("dynamics") / "run", steps=8,
        model=ModelConfig(layers=1, heads=2, width=4),
        checkpoints=CheckpointConfig(every=100, logarithmic=True),
    )  # fmt: skip
    return train(config).path


def test_a_snapshot_is_what_the_other_analyses_find(run, small_store):
    watch = Watch(small_store, max_windows=1000)
    snapshots = list(watch_run(run, watch))
    assert [s.step for s in snapshots] == [0, 1, 2, 4, 8]
    lm = open_model(run)
    encoded = measure(lm, small_store, max_windows=None)
    last = snapshots[-1]
    assert last.r2_alpha == pytest.approx(encoded.encoding.embedding_alone.r2, abs=OF_FLOAT32)
    assert last.loss == near(score(lm, small_store).nats_per_token)
    counts_V = token_counts(small_store.split("train"), 14)[:12]
    unigram_V = (counts_V + 1) / (counts_V + 1).sum()
    log_alpha_V = np.log(encoded.statistics.alpha_V[:12])
    kl = float(unigram_V @ (np.log(unigram_V) - log_alpha_V))
    assert last.unigram_kl == near(kl)
    made = watch.result(str(run))
    assert (made.moved[0], made.moved[-1]) == (0, 1)
    assert (np.diff(made.moved) > 0).all()
    # the film shows the held-out fit that R2 is of
    assert [sample.step for sample in made.film] == [1, 2, 4, 8]
    for sample in made.film:
        (snapshot,) = (s for s in snapshots if s.step == sample.step)
        fold_N = fold_numbers(len(sample.known_N))
        assert len(fold_N) == 12
        order_N = np.argsort(np.random.default_rng(0).permutation(12))
        r2 = fold_r2(sample.known_N[order_N], sample.predicted_N[order_N])
        assert np.mean(r2) == pytest.approx(snapshot.r2_frequency)
    assert made.page().count("<figure>") == 3
    assert list(made.frame().step) == [0, 1, 2, 4, 8]


def test_following_waits_for_the_last_step_and_skips_what_is_damaged(run, small_store, capsys):
    hidden = checkpoint_folder(run, 8)
    aside = hidden.with_name(".hidden")
    hidden.rename(aside)
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            aside.rename(hidden)

    seen = list(watch_run(run, Watch(small_store, max_windows=2), follow=True, pause=3, wait=wait))
    assert [s.step for s in seen] == [0, 1, 2, 4, 8]
    assert waited == [3, 3]
    file = checkpoints(run)[1] / "config.json"
    content = file.read_bytes()
    file.write_bytes(b"{}")
    try:
        seen = list(watch_run(run, Watch(small_store, max_windows=2)))
    finally:
        file.write_bytes(content)
    assert [s.step for s in seen] == [0, 2, 4, 8]
    assert "skipped" in capsys.readouterr().err


def test_the_command_and_what_it_refuses(run, small_store, text_store, tmp_path, capsys):
    store = ["--store", str(small_store.path), "--device", "cpu", "--windows", "4"]
    assert main(["dynamics", str(run), *store, "--out", str(tmp_path / "a")]) == 0
    assert "step        8" in capsys.readouterr().out
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert [s["step"] for s in results["snapshots"]] == [0, 1, 2, 4, 8]
    first, *others = [str(checkpoint_folder(run, step)) for step in (0, 4, 8)]
    assert main(["dynamics", first, *others, *store, "--out", str(tmp_path / "b")]) == 0
    again = json.loads((tmp_path / "b" / "results.json").read_text())["snapshots"]
    assert [s["r2_alpha"] for s in again] == [
        s["r2_alpha"] for s in results["snapshots"] if s["step"] in (0, 4, 8)
    ]
    for arguments, message in (
        ([str(tmp_path)], "neither a run"),
        ([str(run), "--store", str(text_store.path)], "another tokenizer"),
    ):
        assert main(["dynamics", arguments[0], *store, *arguments[1:]]) == 2
        assert message in capsys.readouterr().err
    watch = Watch(small_store, max_windows=2)
    watch.look(run)
    with pytest.raises(UserError, match="at least two"):
        watch.result("x")


def test_revisions_of_the_hub(text_store, text_folder, tmp_path):
    # a cache of the Hub's, with two revisions of a model, is what an offline machine has of it
    run = train(tiny_training(
        text_store, tmp_path / "run", steps=4,
        model=ModelConfig(layers=1, heads=2, width=8), checkpoints=CheckpointConfig(every=2),
    )).path  # fmt: skip
    cache = tmp_path / "cache" / "models--some--model"
    for step in (2, 4):
        sha = f"{step:040d}"
        (cache / "snapshots" / sha).mkdir(parents=True)
        for file in checkpoint_folder(run, step).iterdir():
            if not file.name.startswith(("lmlab", "manifest", "state", "optimizer")):
                shutil.copy(file, cache / "snapshots" / sha)
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / f"step{step}").write_text(sha)
    store, out = str(tmp_path / "store"), tmp_path / "out"
    commands = [
        ["prepare", "--text", str(text_folder), "--out", store,
         "--split.validation", "0.2", "--split.test", "0.1",
         "--tokenizer.kind", "pretrained", "--tokenizer.name", "some/model@step2"],
        ["dynamics", "some/model@step2", "some/model@step4", "--store", store,
         "--context", "8", "--windows", "4", "--out", str(out)],
    ]  # fmt: skip
    script = f"from lmlab.cli import main; [exit(1) for c in {commands!r} if main(c)]"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_CACHE": str(cache.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((out / "results.json").read_text())
    assert [snapshot["step"] for snapshot in found["snapshots"]] == [2, 4]
    assert found["snapshots"][0]["loss"] != found["snapshots"][1]["loss"]


def test_copies_of_one_checkpoint_are_no_trajectory(run, small_store, tmp_path, capsys):
    first, last = (checkpoint_folder(run, step) for step in (0, 8))
    copies = [shutil.copytree(last, tmp_path / name) for name in ("step-00000009", "step-00000010")]
    options = ["--store", str(small_store.path), "--out", str(tmp_path / "out")]
    assert main(["dynamics", str(last), *map(str, copies), *options]) == 2
    assert "all 3 checkpoints have the same weights" in capsys.readouterr().err
    assert main(["dynamics", str(first), str(last), str(copies[0]), *options]) == 0
    printed = capsys.readouterr()
    assert f"{copies[0]} has the same weights as {last}" in printed.err
    assert "Checkpoints with the same weights" in printed.out
    values = json.loads((tmp_path / "out" / "results.json").read_text())
    assert values["same_weights"] == [[str(copies[0]), str(last)]]


def test_a_terminal_without_utf8_costs_no_result(run, small_store, tmp_path, monkeypatch):
    """R² in the table of `encode` ended the command in a UnicodeEncodeError, after all the work."""
    nowhere = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(nowhere, encoding="ascii"))
    command = ["encode", str(run), "--store", str(small_store.path), "--rotations", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert b"R?" in nowhere.getvalue()
    assert (tmp_path / "out" / "results.json").is_file()


def test_results_are_there_before_anything_is_printed(run, small_store, tmp_path, monkeypatch):
    """`| head` ends a command at its first line."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as broken:
        monkeypatch.setattr("sys.stdout", broken)
        for name in ("score --model", "encode", "geometry", "sample --model"):
            store = [] if name.startswith("sample") else ["--store", str(small_store.path)]
            out = tmp_path / name.split()[0]
            assert main([*name.split(), str(run), *store, "--out", str(out)]) in (0, 141)
            assert (out / "results.json").is_file(), name
