"""What is refused at once: without torch, without a model, without text."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers import id_store, tree
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
    for command in (["evaluate", _MISSING, "--tasks", "blimp=x"], ["sample", "--model", _MISSING]):
        yield command, "neither a run, a checkpoint"
    yield ["export", _MISSING, "--out", _MISSING], "neither a run"
    yield ["apply", _MISSING, *here, "--split", "validation"], "cannot be read as a mapping"
    yield ["apply", _MISSING, *there], "not a token store"
    yield ["export", "name", "--out", str(store.path)], "exists"
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


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--token", " the"], "TOKEN=FACTOR"),
        (["--token", "a=2", "--untie", "--method", "bias"], "leave it out"),
    ],
)
def test_options_of_steer_that_cannot_be_are_refused_as_options(options, why, small_store, capsys):
    assert main(["steer", "name", "--store", str(small_store.path), *options]) == 2
    assert why in " ".join(capsys.readouterr().err.split())


def _saved(folder, store, **changed):
    """The files of a transformers model, without weights that could be loaded."""
    folder.mkdir()
    described = {"model_type": "gpt2", "tie_word_embeddings": True, **changed}
    (folder / "config.json").write_text(json.dumps(described))
    save_file({"wte.weight": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((store.path / "tokenizer" / name).read_bytes())
    return folder


def test_what_the_files_of_a_model_tell_is_refused_before_its_weights_are_loaded(
    small_store, tmp_path, capsys, monkeypatch
):
    """Another vocabulary, a tied head, missing files: told of only after the weights were read."""
    for name in ("lmlab.lm.language_model._foreign", "lmlab.lm.language_model._own"):
        monkeypatch.setattr(name, pytest.fail)
    tied = _saved(tmp_path / "tied", small_store)
    untied = _saved(tmp_path / "untied", small_store, tie_word_embeddings=False)
    own = _saved(tmp_path / "own", small_store)
    record = {
        "tokenizer_fingerprint": small_store.manifest["tokenizer_fingerprint"],
        "head": "untied",
        "objective": {"name": "masked", "masking": {}},
    }
    (own / "lmlab.json").write_text(json.dumps(record))
    ids = [[1, 2, 3]]
    other = id_store(tmp_path / "other", {"train": ids, "validation": ids}, symbols=40)
    store, token = ["--store", str(small_store.path)], ["--token", "a=2"]
    written = ["--share", "0.5", "--out", str(tmp_path / "out")]
    cases = [
        (["steer", str(tied), *store, *token], "--untie"),
        (["prune", str(tied), *store, *written], "--untie"),
        (["steer", str(untied), *store, *token, "--untie"], "not tied"),
        (["prune", str(untied), *store, *written, "--untie"], "not tied"),
        *(
            ([command, str(model), "--store", str(other.path)], "another tokenizer")
            for command in ("encode", "geometry", "dynamics")
            for model in (tied, own)
        ),
        (["arrow", "name", str(tied), "--store", str(other.path), "--split", "validation"],
         "another tokenizer"),
        (["evaluate", str(tied), "--tasks", "blimp=x", "--head", "calibrated",
          "--store", str(other.path)], "another tokenizer"),
        (["sample", "--model", str(tied / "config.json")], "is a file"),
        (["sample", "--model", str(own)], "masked model"),
        (["prune", str(own), *store, *written, "--untie"], "not tied"),
    ]  # fmt: skip
    for name, message in (
        ("tokenizer*", "no file of a tokenizer"),
        ("model.safetensors", "no weights"),
        ("config.json", "no config.json"),
    ):
        part = _saved(tmp_path / f"without {name.strip('*')}", small_store)
        for file in part.glob(name):
            file.unlink()
        cases.append((["sample", "--model", str(part)], message))
    for arguments, why in cases:
        assert main(arguments) == 2, arguments
        assert why in capsys.readouterr().err, arguments


@pytest.mark.parametrize("command", ["score", "prune"])
def test_a_refusal_loads_no_torch(small_store, command):
    model = ["--model", _MISSING] if command == "score" else [_MISSING]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, command, *model, "--store", str(small_store.path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "neither a run" in done.stderr
