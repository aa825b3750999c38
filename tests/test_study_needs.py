"""What a study says before it trains: runs, tokens, time, disk, memory."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lmlab.config.model import ModelConfig
from lmlab.data.store import TokenStore
from lmlab.run_folders.checkpoint import checkpoint_folder
from lmlab.studies.needs import _seconds, say_needs
from lmlab.studies.run_requests import text_run
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.training.loop import train

CONFIG = ArrowConfig(text=("none",), context=(16,), tokens=64 * 100, batch_tokens=64)


@pytest.fixture
def runs(text_store, tmp_path):
    store = TokenStore(text_store.path)
    config = replace(CONFIG, lab=tmp_path)
    return [
        text_run(
            config, store, context=16, order=order, seed=seed,
            model=ModelConfig("gpt2", size="nano"),
        )
        for seed in range(2)
        for order in ("forward", "backward")
    ]  # fmt: skip


def test_a_study_says_what_it_needs_and_what_is_there(runs, capsys):
    """The issue found the number of tokens only."""
    say_needs("arrow", runs, work=4 * 6400 + 1000)
    said = capsys.readouterr().err
    assert "arrow: 4 runs, 0 of them there already; 25,600 tokens to train on (and 1,000" in said
    assert re.search(r"; about \d+:\d\d here", said)
    assert "; disk " in said
    assert " are free); memory " in said
    short = [replace(run, config=replace(run.config, steps=4)) for run in runs[:1]]
    trained = train(short[0])
    said = capsys.readouterr()
    say_needs("arrow", [*short, *runs[1:]], work=3 * 6400 + 256)
    assert "4 runs, 1 of them there already; 19,200 tokens to train on;" in capsys.readouterr().err
    assert trained.checkpoint == checkpoint_folder(runs[0].path, 4)
    on_disk = sum(f.stat().st_size for f in trained.checkpoint.glob("*.safetensors"))
    say_needs("arrow", runs[1:2], work=6400)
    number, unit = re.findall(r"disk ([\d.]+) (\w+) for", capsys.readouterr().err)[0]
    bytes_said = float(number) * {"KiB": 1024, "MiB": 1024**2}[unit]
    assert bytes_said == pytest.approx(on_disk, rel=0.05)
    say_needs("arrow", short, work=256)
    assert capsys.readouterr().err == "arrow: 1 run, all of them there already\n"


def test_time_is_of_the_steps_that_are_left(runs, monkeypatch):
    tried = []

    def seconds_per_step(kinds, **_):
        tried.extend(kinds.values())
        return dict.fromkeys(kinds, 0.5)

    monkeypatch.setattr("lmlab.studies.needs.seconds_per_step", seconds_per_step)
    # a step is 4 windows; 1,024 windows are scored after as many trained ones as take 1.5 of that
    config = runs[0].config
    assert (config.step_windows, config.evaluation_windows) == (4, 1024)
    every = config.evaluation_interval()
    expected = (400 + 400 / every * 1024 / 4 / 3) * 0.5
    assert _seconds(runs, 0) == pytest.approx(expected)
    assert _seconds(runs, 12_800) == pytest.approx(1.25 * expected)
    assert len(tried) == 2  # once each time: a seed or an order is no other kind of run


def test_few_steps_are_not_worth_a_trial(runs):
    short = [replace(run, config=replace(run.config, steps=3)) for run in runs]
    assert _seconds(short, 0) is None
