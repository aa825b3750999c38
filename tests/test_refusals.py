"""What is refused at once: without torch, without a model, without text."""

from __future__ import annotations

import subprocess
import sys

import pytest

from helpers import tree
from lmlab.cli import main

_PROGRAM = """
import sys
from lmlab.cli import main
status = main(sys.argv[1:])
assert not {"torch", "transformers"} & sys.modules.keys(), "torch was loaded"
sys.exit(status)
"""
_MISSING = "/no/such/place"


def _commands(store):
    """Commands, and what each is refused for."""
    here, there = ["--store", str(store.path)], ["--store", _MISSING]
    for command in ("score", "geometry", "encode", "prune", "dynamics", "prefer", "embed"):
        named = {"score": "--model", "embed": "--models"}.get(command)
        model = [] if named is None else [named]
        yield [command, *model, _MISSING, *here], "neither a run, a checkpoint"
        yield [command, *model, "name", *there], "not a token store"
    yield ["steer", _MISSING, *here, "--token", "a=2"], "neither a run"
    yield ["arrow", "name", _MISSING, *here], "neither a run"
    yield ["decompose", "name", "--basis", _MISSING, *here], "neither a run"
    yield ["score", "--model", "name", *here, "--split", "test"], "no split"
    yield ["decompose", "name", "--basis", "other", *here], "no split"
    out = ["--out", str(store.path)]
    yield ["prune", "name", *here, "--share", "0.5", *out], "exists"
    yield ["steer", "name", *here, "--token", "a=2", *out], "exists"


def test_what_can_be_told_at_once_is_told_before_a_model_is_opened(
    small_store, capsys, monkeypatch
):
    """Refusals took 20 s: torch, a model and a text were loaded for a path that is not there."""
    before = tree(small_store.path)
    for name in ("lmlab.lm.language_model._foreign", "lmlab.lm.encoder.load_body"):
        monkeypatch.setattr(name, pytest.fail)
    for arguments, why in _commands(small_store):
        assert main(arguments) == 2, arguments
        assert why in capsys.readouterr().err, arguments
    assert tree(small_store.path) == before


@pytest.mark.parametrize("command", ["score", "prune"])
def test_a_refusal_loads_no_torch(small_store, command):
    model = ["--model", _MISSING] if command == "score" else [_MISSING]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, command, *model, "--store", str(small_store.path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "neither a run" in done.stderr
