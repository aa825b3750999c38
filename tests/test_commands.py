"""The table of commands: an entry is all that a command needs, and what it names is there."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmlab.cli import COMMANDS, main
from lmlab.cli.commands import Command
from lmlab.config.numbers import Options
from lmlab.pages.page import Section, Table
from lmlab.pages.report import Report
from lmlab.results import Result
from lmlab.topics.registry import KINDS, find


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
    assert set(command.positional) <= set(options)
    assert command.help
    if command.check:
        assert callable(find(command.check))
    if "config" in parameters:
        assert not command.study or "worker" in parameters
        return
    assert set(parameters) == set(options) - {"out"}
    for name, parameter in parameters.items():
        default = options[name].default
        assert parameter.default == (
            inspect.Parameter.empty if default is dataclasses.MISSING else default
        ), name
