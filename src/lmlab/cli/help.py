"""`lmlab COMMAND --help`: an example and the usual options; `--help all` shows every option.

Imports no torch. What an option is for is the docstring below its field.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lmlab.cli.commands import Command
from lmlab.cli.printing import with_dashes
from lmlab.config.spelling import Place, is_table, names_of, takes

_COLUMN = 26
_LAST = ("device", "lab", "out")  # of the options that many commands have


@dataclass(frozen=True)
class Option:
    """One option as a reader meets it."""

    name: str
    """`--learning-rate NUMBER`, and in full where it is none of the usual ones of its command,
    `--optimizer.weight-decay NUMBER`; of a positional one, `MODEL`."""
    text: str
    """What it is for, and its default."""
    words: tuple[str, ...] = ()
    """As which it is written: `--weight-decay`, `--optimizer.weight-decay`; none of a positional
    one."""
    choices: tuple[str, ...] = ()
    """What it takes, where that is one of a few words."""
    section: str = ""
    """The section that it stands in; none of the command's own."""


@dataclass(frozen=True)
class Help:
    """What there is to say of a command."""

    usage: str
    about: str
    usual: Sequence[Option]
    """The positional ones first."""
    others: Sequence[Option]


def command_help(command: Command, kind: type, *, everything: bool, more: str = "") -> str:
    """The help of a command whose options are `kind`."""
    told = help_of(command, kind)
    lines = [told.usage, "", told.about, ""]
    if command.example:
        lines += [f"Example: lmlab {command.name} {command.example}", ""]
    shown = [*told.usual, *told.others] if everything else told.usual
    lines += [line for option in shown for line in _lines(option)]
    if left := len(told.usual) + len(told.others) - len(shown):
        lines += ["", f"{left} more options: lmlab {command.name} --help all"]
    lines += ["", "--config FILE reads any of these from TOML first." + more]
    return "\n".join(lines)


def help_of(command: Command, kind: type) -> Help:
    """What there is to say of a command whose options are `kind`."""
    names = names_of(kind)
    every = sorted(names.hints, key=lambda place: place[0] in _LAST)
    first = [names.find(name) for name in command.positional]
    usual = [names.find(name) for name in command.usual] or [p for p in every if len(p) == 1]
    shown = list(dict.fromkeys([*first, *_needed(kind), *usual]))
    several = ["..." if takes(names.hints[place]) > 1 else "" for place in first]
    capitals = [_capital(place) + dots for place, dots in zip(first, several, strict=True)]

    def option(place: Place) -> Option:
        if place in first:
            return _option((_capital(place),), kind, place, names.hints[place], described=False)
        ways = dict.fromkeys(map(_dashed, (names.short(place), ".".join(place))))
        ordered = tuple(ways) if place in shown else tuple(reversed(ways))
        return _option(ordered, kind, place, names.hints[place], described=True)

    return Help(
        usage=" ".join([f"lmlab {command.name}", *capitals, "[options]"]),
        about=with_dashes(inspect.cleandoc(kind.__doc__ or "")),
        usual=[option(place) for place in shown],
        others=[option(place) for place in every if place not in shown],
    )


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def _capital(place: Place) -> str:
    return place[-1].removesuffix("s").upper()


def _needed(kind: type) -> list[Place]:
    missing = dataclasses.MISSING
    return [
        (f.name,)
        for f in dataclasses.fields(kind)
        if f.default is missing and f.default_factory is missing
    ]


def _option(
    ways: tuple[str, ...], kind: type, place: Place, hint: Any, *, described: bool
) -> Option:
    """An option: the ways to write its name, the one to show first, and what it takes; what it is
    for; its default."""
    for section in place[:-1]:
        kind = typing.get_type_hints(kind)[section]
    field = next(f for f in dataclasses.fields(kind) if f.name == place[-1])
    default = "needed" if (place[-1],) in _needed(kind) else _words(_default(field))
    # what stands for "as it is best", says so in its text
    said = f"({default})" if default and (described or default != "needed") else ""
    words = with_dashes(_texts(kind).get(place[-1], "")).split()
    text = " ".join([*words, *([said] if said else [])])
    written = list(ways)
    name = ways[0]
    if default == "on":
        written += [_no(way) for way in ways]
        name = _no(name, "[no-]")
    name = " ".join([name, *([_takes(hint)] if described and _takes(hint) else [])])
    return Option(
        name, text, tuple(written) if described else (), tuple(_choices(hint)), ".".join(place[:-1])
    )


def _no(name: str, word: str = "no-") -> str:
    """`--section.switch` as what switches it off."""
    section, dot, last = name[2:].rpartition(".")
    return f"--{section}{dot}{word}{last}"


def _lines(option: Option) -> list[str]:
    left = "  " + option.name
    wide = max(60, shutil.get_terminal_size((100, 24)).columns)
    right = textwrap.wrap(option.text, wide - _COLUMN) or [""]
    if len(left) >= _COLUMN:
        right = ["", *right]
    lines = [f"{left:<{_COLUMN}}{right[0]}", *(" " * _COLUMN + line for line in right[1:])]
    return [line.rstrip() for line in lines]


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _words(default: Any) -> str:
    if default is None or default == () or default is dataclasses.MISSING:
        return ""
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return str(default)


def _takes(hint: Any) -> str:
    """What an option of this type takes, in a word."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [each for each in typing.get_args(hint) if each is not type(None)]
        if typing.get_origin(options[-1]) is tuple and len(options) > 1:
            return "|".join(map(_takes, options))
        hint = options[0]
    items = typing.get_args(hint)
    if is_table(hint):
        return "NAME VALUES..."
    if typing.get_origin(hint) is tuple:
        return f"{_takes(items[0])}..." if Ellipsis in items else " ".join(map(_takes, items))
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, items))
    return {"int": "N", "float": "NUMBER", "Path": "PATH", "bool": ""}.get(hint.__name__, "TEXT")


def _choices(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return list(map(str, typing.get_args(hint)))
    if is_table(hint):
        return []
    return list(dict.fromkeys(word for each in typing.get_args(hint) for word in _choices(each)))


@cache
def _texts(kind: type) -> dict[str, str]:
    """The docstrings that stand below the fields of a dataclass and of those it is made of."""
    texts: dict[str, str] = {}
    for each in kind.__mro__:
        if not dataclasses.is_dataclass(each):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str() as text)
                ):
                    texts.setdefault(name, text)
    return texts
