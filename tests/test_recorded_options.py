"""results.json holds the options that gave it, for every command that writes one.

The issue found `prune` and the tour without theirs. Commands keep them under "options"; a study is
configured by its result, so it has them under "config" (tests/test_tour.py, test_finetune.py,
test_tuning.py).
"""

from __future__ import annotations

import json

import pytest

from helpers import tiny_training
from lmlab.cli import COMMANDS, main, running
from lmlab.config import from_command_line, to_mapping
from lmlab.config.model import ModelConfig
from lmlab.config.training import ParentConfig
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig, prepare
from lmlab.data.splits import SplitConfig
from lmlab.data.tokenizers import TokenizerConfig
from lmlab.training.loop import train

_SCORED = ["--store", "STORE", "--windows", "6", "--context", "16"]
_EMBEDDED = ["--store", "STORE", "--embedding.length", "8", "--lab", "LAB"]

GIVEN = {
    "doctor": ["--store", "STORE", "--model.layers", "1", "--model.heads", "2", "--model.width",
               "16", "--context", "16", "--batch", "4", "--steps", "8", "--rounds", "1"],
    "score": ["--model", "RUN", *_SCORED],
    "geometry": ["RUN", *_SCORED],
    "bottleneck": ["RUN", *_SCORED],
    "encode": ["RUN", *_SCORED, "--rotations", "1"],
    "steer": ["RUN", *_SCORED, "--token", "e=0.8"],
    "prune": ["RUN", *_SCORED, "--shares", "0.5", "--prompts", "0"],
    "dynamics": ["RUN", *_SCORED],
    "evaluate": ["RUN", "--tasks", "lambada=ITEMS", "--limit", "1"],
    "sample": ["--model", "RUN", "--prompt", "the", "--tokens", "2"],
    "embed": ["--models", "RUN", *_EMBEDDED, "--pieces", "8"],
    "decompose": ["RUN", "--basis", "OTHER", *_EMBEDDED, "--pieces", "60", "--held-out-pieces",
                  "20"],
    "lineage": ["RUN", "OTHER", "BACKWARD", "THIRD", "--store", "MANY", *_EMBEDDED[2:], "--pieces",
                "60", "--permutations", "19", "--halves", "20", "--neighbours", "2"],
    "apply": ["WEIGHTS", "--store", "STORE", "--lab", "LAB", "--neighbours", "2"],
    "prefer": ["PROBE", *_SCORED[:2], "--context", "16"],
    "arrow": ["RUN", "BACKWARD", *_SCORED],
    "compare": ["RUN", "OTHER", *_SCORED],
    "rerank": ["RUN", "BACKWARD", "--judge", "OTHER", "--store", "STORE", "--prompts", "4",
               "--prompt-tokens", "8", "--tokens", "4", "--count", "2"],
    "route": ["RUN", "OTHER", *_SCORED],
    "surprisal": ["RUN", "the model reads"],
    "plan": ["--effect", "0.2", "--seed-sd", "0.3"],
}  # fmt: skip
"""Of each command that measures: options of a tiny use of it, without --out."""

STUDIES = {name for name in COMMANDS if name.startswith("study ")} | {
    "finetune",
    "tune",
    "tour",
}
WRITE_NONE = {
    "watch", "lengthen", "prepare", "train", "runs", "export", "publish", "report", "completion",
}  # fmt: skip
"""A store has a manifest, a run its config.toml; a model's folder and a page are no measurement."""


@pytest.fixture(scope="module")
def places(text_store, text_folder, tmp_path_factory):
    """What the words in capitals stand for."""
    folder = tmp_path_factory.mktemp("recorded")

    def run(name, **changes):
        few = {"context": 16, "steps": 4, "evaluation_windows": 2, "evaluate_every": 100}
        return str(train(tiny_training(text_store, folder / name, **{**few, **changes})).path)

    (folder / "items.jsonl").write_text('{"text": "the model reads"}')
    towers = run("towers", objective="towers")
    many = prepare(
        PrepareConfig(
            out=folder / "many",
            corpus=CorpusConfig(text=(str(text_folder),)),
            tokenizer=TokenizerConfig(vocabulary=300),
            split=SplitConfig(validation=0.2, test=0.4),
        )
    )
    return {
        "STORE": str(text_store.path),
        "LAB": str(folder / "lab"),
        "ITEMS": str(folder / "items.jsonl"),
        "RUN": run("run"),
        "OTHER": run("other", seed=1),
        "THIRD": run("third", seed=2),
        "MANY": str(many.path),
        "BACKWARD": run("backward", order="backward"),
        "PROBE": run("probe", objective="probe", model=ModelConfig(), parent=ParentConfig(towers)),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steer", "RUN", *_SCORED, "--token"], "no token to steer"),
        (["embed", "--models", *_EMBEDDED], "at least one model"),
        (["prune", "RUN", *_SCORED, "--share", "0", "--out", "OUT"], "removes 0 of the 16"),
        (["prune", "RUN", *_SCORED, "--share", "0.99", "--out", "OUT"], "removes 16 of the 16"),
    ],
)
def test_what_would_do_nothing_is_refused(words, message, places, tmp_path, capsys):
    """An empty --token ended in an IndexError, an empty --models in an empty result."""
    places = {**places, "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_command_is_forgotten():
    assert {*GIVEN, *STUDIES, *WRITE_NONE} == set(COMMANDS)


def measure(name, places, out):
    """Runs a command of `GIVEN`; returns its results.json."""
    replaced = [word.replace("ITEMS", places["ITEMS"]) for word in GIVEN[name]]
    place = "--results" if name == "doctor" else "--out"
    words = [*name.split(), *(places.get(w, w) for w in replaced), place, str(out)]
    assert main(words) == 0
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("name", GIVEN)
def test_the_options_of_a_command_are_in_its_results(name, places, tmp_path, monkeypatch):
    read = []

    def remembered(*given, **how):
        read.append(from_command_line(*given, **how))
        return read[-1]

    if name == "apply":
        measure("decompose", places, tmp_path / "decomposed")
        (weights,) = (tmp_path / "decomposed").glob("*.safetensors")
        places = {**places, "WEIGHTS": str(weights)}
    monkeypatch.setattr(running, "from_command_line", remembered)
    values = measure(name, places, tmp_path / "out")
    (config,) = read
    where = "results" if name == "doctor" else "out"
    wanted = {key: value for key, value in to_mapping(config).items() if key != where}
    assert (values["command"], values["options"]) == (name, wanted)
