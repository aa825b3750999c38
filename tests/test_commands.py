"""The table of commands: an entry is all that a command needs, and what it names is there."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmlab.cli import COMMANDS, main
from lmlab.cli.commands import Command
from lmlab.cli.help import command_help
from lmlab.config import from_command_line
from lmlab.config.numbers import Options
from lmlab.config.spelling import names_of
from lmlab.config.training import TrainConfig
from lmlab.data.prepare import PrepareConfig
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.pages.page import Section, Table
from lmlab.pages.report import Report
from lmlab.results import Result
from lmlab.studies.corpora import in_tokens
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.registry import KINDS, STUDIES, find
from lmlab.topics.scoring.options import ScoreConfig
from lmlab.training.setup import resolve


@dataclass(frozen=True)
class ToyConfig(Options):
    """Counts the windows of a store that would be read."""

    store: Path
    windows: int = 3
    out: Path | None = None


@dataclass(frozen=True)
class Toy(Result, kind="toy", views="toy"):
    windows: int


def toy(store: Path, *, windows: int) -> Toy:
    assert store.is_dir()
    return Toy(windows=windows)


def tables(result: Toy) -> list[Table]:
    return [Table(["windows"], [[result.windows]], "Windows")]


def report(result: Toy) -> Report:
    return Report("Toy", f"{result.windows} windows", [Section("All", tables=tables(result))])


def test_an_entry_is_all_that_a_command_needs(small_store, tmp_path, monkeypatch, capsys):
    module = types.ModuleType("toy")
    vars(module).update(ToyConfig=ToyConfig, toy=toy, tables=tables, report=report, Toy=Toy)
    monkeypatch.setitem(sys.modules, "toy", module)
    monkeypatch.setitem(KINDS, "toy", "toy:Toy")
    monkeypatch.setitem(COMMANDS, "toy", Command("toy", "counts", "toy:ToyConfig", "toy:toy"))
    assert main(["--help"]) == 0
    assert "lmlab toy             counts" in capsys.readouterr().out
    assert main(["toyy"]) == 2
    assert "did you mean 'lmlab toy'" in capsys.readouterr().err
    words = ["toy", "--store", str(small_store.path), "--windows", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "2 windows" in capsys.readouterr().out
    values = json.loads((tmp_path / "results.json").read_text())
    assert (values["command"], values["windows"]) == ("toy", 2)
    assert values["options"] == {"store": str(small_store.path), "windows": 2}
    assert "2 windows" in (tmp_path / "report.html").read_text()
    assert main(["toy", "--store", str(tmp_path)]) == 2
    assert "not a token store" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_what_an_entry_names_is_there_and_fits(command):
    """A function takes the options by name, with the same defaults; what is positional exists."""
    options = {f.name: f for f in dataclasses.fields(find(command.options))}
    parameters = inspect.signature(find(command.function)).parameters
    names = names_of(find(command.options))
    assert all(names.find(name) for name in (*command.positional, *command.usual))
    assert command.help
    if command.check:
        assert callable(find(command.check))
    if "config" in parameters:
        assert command not in STUDIES.values() or "worker" in parameters
        return
    assert set(parameters) == set(options) - {"out"}
    for name, parameter in parameters.items():
        default = options[name].default
        assert parameter.default == (
            inspect.Parameter.empty if default is dataclasses.MISSING else default
        ), name


def test_every_example_is_a_command_line():
    """The help's examples are read as they stand."""
    shown = [command for command in COMMANDS.values() if command.example]
    assert len(shown) >= 20
    for command in shown:
        words = shlex.split(command.example)
        from_command_line(find(command.options), words, program="x", positional=command.positional)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("train --store s --lr 1", "--learning-rate"),
        ("train --store s --batch-size 4", "--batch"),
        ("train --store s --per_device_train_batch_size 4", "--batch"),
        ("train --store s --num-train-epochs 4", "--epochs"),
        ("train --store s --max_iters 4", "--steps"),
        ("train --store s --n-layer 4", "--layers"),
        ("train --store s --block_size 4", "--context"),
        ("train --store s --dataset 4", "--store"),
        ("study arrow --corpora x", "--text"),
        ("study headless --seed 3", "--seeds"),
        ("sample m --max_new_tokens 4", "--tokens"),
        ("ls", "lmlab runs"),
        ("generate m", "lmlab sample"),
        ("eval m", "lmlab evaluate"),
    ],
)
def test_what_users_type_gets_a_hint(words, hint, capsys):
    assert main(words.split()) == 2
    assert f"did you mean {hint}" in capsys.readouterr().err.replace("'", "").replace("?", "")


def test_help_shows_the_usual_first_and_the_rest_on_demand(capsys):
    assert main(["train", "--help"]) == 0
    usual = capsys.readouterr().out
    assert main(["train", "--help", "all"]) == 0
    everything = capsys.readouterr().out
    assert "Example: lmlab train --store" in usual
    assert "--learning-rate" in usual
    assert "--evaluation-windows" not in usual
    for option in (
        "--learning-rate",
        "--evaluation-windows",
        "--checkpoints.per-doubling",
        "--model.path",
    ):
        assert option in everything
    assert "more options: lmlab train --help all" in usual
    assert "more options" not in everything


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_help_writes_options_as_they_are_typed(command):
    """What a docstring calls `batch_tokens` is --batch-tokens."""
    text = command_help(command, find(command.options), everything=True)
    assert not re.search(r"`(?!lmlab\.)[a-z0-9_.]+`", text)  # a name of Python stays


def words_of(kind, *words, positional=()):
    return from_command_line(kind, words, program="x", positional=positional)


def test_words_without_names_may_stand_anywhere():
    first = words_of(ScoreConfig, "m", "--store", "s", positional=("model",))
    assert first == words_of(ScoreConfig, "--store", "s", "m", positional=("model",))
    assert first == words_of(ScoreConfig, "--store", "s", "--model", "m")
    for words in (("m", "n", "--store", "s"), ("--store", "s", "--model", "m", "n")):
        with pytest.raises(UserError, match="'n': no option takes this word"):
            words_of(ScoreConfig, *words, positional=("model",))
    prepared = words_of(PrepareConfig, "a", "b", "--out", "o", positional=("text",))
    assert prepared.corpus.text == ("a", "b")


def test_options_of_sections_have_short_names_where_these_are_clear():
    config = words_of(
        TrainConfig, "--store", "s", "--learning-rate", "0.1", "--tied", "--size=nano"
    )
    assert (config.optimizer.learning_rate, config.model.tied) == (0.1, True)
    assert not words_of(TrainConfig, "--store", "s", "--no-tied").model.tied
    with pytest.raises(UserError, match=r"`path` could be `model\.path` or `parent\.path`"):
        words_of(TrainConfig, "--store", "s", "--path", "x")


def test_length_is_tokens_steps_or_epochs_and_one_of_them(tmp_path):
    given = ("--store", "s", "--batch", "4", "--context", "10")
    assert words_of(TrainConfig, *given, "--tokens", "1000").steps == 25
    with pytest.raises(UserError, match="`steps` and `tokens`: give one of them"):
        words_of(TrainConfig, *given, "--tokens", "1000", "--steps", "3")
    (tmp_path / "c.toml").write_text("steps = 7\n")
    config = ("--config", str(tmp_path / "c.toml"))
    assert words_of(TrainConfig, *config, *given).steps == 7
    assert words_of(TrainConfig, *config, *given, "--tokens", "120").steps == 3
    assert words_of(ArrowConfig, "--steps", "3", "--batch-tokens", "500").tokens == 1500
    with pytest.raises(UserError, match="`tokens` 100 is less than one step of 2,048"):
        ArrowConfig(tokens=100)  # it trained 2,048


def test_epochs_are_those_of_the_training_split(small_store, text_folder, tmp_path):
    asked = TrainConfig(small_store.path, epochs=2.0, batch=4, context=8)
    windows = small_store.split("train").tokens // 8
    assert resolve(asked).steps == math.ceil(2 * windows / 4)
    study = in_tokens(
        ArrowConfig((str(text_folder),), epochs=1.5, vocabulary=300, lab=tmp_path / "lab")
    )
    (store,) = map(TokenStore, (tmp_path / "lab" / "stores").iterdir())
    assert (study.tokens, study.epochs) == (round(1.5 * store.split("train").tokens), None)
    with pytest.raises(UserError, match="`epochs` of several texts"):
        in_tokens(ArrowConfig(("a", "b"), epochs=1.0))


def test_errors_name_parameters_and_the_command_line_its_options(small_store, capsys):
    with pytest.raises(UserError, match=r"`context` 256 does not fit a batch of `batch_tokens` 3"):
        ArrowConfig(batch_tokens=3, tokens=30)
    assert main(["study", "arrow", "--batch-tokens", "3", "--tokens", "30"]) == 2
    said = capsys.readouterr().err
    assert "--batch-tokens" in said
    assert "`" not in said
