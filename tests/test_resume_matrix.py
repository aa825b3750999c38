"""Resumed = never interrupted, for every objective and every kind of step at which it was saved."""

from __future__ import annotations

import dataclasses
import os

import pytest

from kill_matrix import outcome
from lmlab.config.training import CheckpointConfig
from lmlab.training import loop
from lmlab.training.loop import train
from objective_cases import CASES, case_config

EXACT = "Resumed is never interrupted: weights, optimizer and journal byte-identical"
STEPS = 8
SAVED = {"first": [1], "epoch edge": [3], "middle": [4], "last": [STEPS], "each": [1, 3, 4, STEPS]}
"""After which saves a run is killed. Three steps are an epoch of these stores."""


class KilledError(BaseException):
    """Stands for a kill: nothing may catch it."""


def killed_after_saving(monkeypatch, config, step: int) -> None:
    save = loop.Trainer._save

    def interrupted(self, *arguments):
        save(self, *arguments)
        if self.step == step:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_save", interrupted)
        with pytest.raises(KilledError):
            train(config)


def resumed(tmp_path, monkeypatch, cases, name, *, kinds=tuple(SAVED), dropout=0.0, **changes):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing is really cut off
    options = {"steps": STEPS, "checkpoints": CheckpointConfig(every=1), "evaluate_every": 4}
    config = case_config(name, tmp_path, dropout=dropout, **options, **changes)
    train(dataclasses.replace(config, out=tmp_path / "whole"))
    whole = outcome(tmp_path / "whole")
    assert "journal.jsonl" in whole
    for kind in kinds:
        again = dataclasses.replace(config, out=tmp_path / kind)
        with cases.case(f"{name}, saved at {kind}"):
            for step in SAVED[kind]:
                killed_after_saving(monkeypatch, again, step)
            train(again)
            assert outcome(tmp_path / kind) == whole
    cases.check()


@pytest.mark.promise(f"{EXACT} (one objective, quick)")
def test_with_dropout_at_each_kind_of_step(tmp_path, monkeypatch, cases):
    resumed(tmp_path, monkeypatch, cases, "causal-forward", kinds=["each"], dropout=0.1)


@pytest.mark.trust
@pytest.mark.promise(f"{EXACT} (all objectives, eager)")
@pytest.mark.parametrize("name", CASES)
def test_eager(tmp_path, monkeypatch, cases, name):
    resumed(tmp_path, monkeypatch, cases, name)


@pytest.mark.trust
@pytest.mark.promise(f"{EXACT} (all objectives, dropout)")
@pytest.mark.parametrize("name", CASES)
def test_dropout(tmp_path, monkeypatch, cases, name):
    resumed(tmp_path, monkeypatch, cases, name, dropout=0.1)


@pytest.mark.trust
@pytest.mark.promise(f"{EXACT} (compiled)")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # of inductor
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_compiled(tmp_path, monkeypatch, cases, name):
    from torch._inductor import config

    with config.patch(compile_threads=1):  # the cores are busy with other tests
        resumed(tmp_path, monkeypatch, cases, name, kinds=["each"], compile=True)


@pytest.mark.promise(f"{EXACT} (early stopping)")
def test_early_stopping(tmp_path, monkeypatch, cases):
    """Killed after the last save, the best checkpoint has still to be settled."""
    changes = {"early_stopping": 2, "context": 14}
    resumed(tmp_path, monkeypatch, cases, "classification", kinds=["middle", "each"], **changes)
