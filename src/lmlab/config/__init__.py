"""Configuration: frozen dataclasses filled from defaults, then a TOML file, then the command line.

Notable:
- An unknown key is an error that names the nearest known one; nothing is ignored.
- The dataclass lives beside the component it configures; this file only fills, checks, writes and
  digests them. None of it imports torch, so `lmlab --help` stays quick.
- TOML has no null: a key whose value is None is left out, and read back as the default None.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from lmlab.config.spelling import Word, is_table, names_of, path_taken, takes, words_by_place
from lmlab.errors import UserError

T = TypeVar("T")
NOT_OPTIONS = "lmlab"
"""The table of a TOML file that holds no options: what lmlab notes about a run."""
_NOT_FINITE = ("nan", "inf", "-inf")  # as results store them; JSON has no such numbers


def from_mapping(kind: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Builds dataclass `kind` from nested `values`; `where` names the source in errors.

    Raises `UserError` for an unknown key (naming the nearest known), a missing one, or a value of
    the wrong type.
    """
    _check_one_of(kind, [k for k, v in values.items() if v is not None], where=f"{where}: ")
    filled, missing = _filled(kind, values, where)
    if missing:
        raise UserError(f"{where}: missing key '{missing[0]}'")
    return kind(**filled)


def _filled(kind: type, values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The arguments of dataclass `kind` that `values` give, and the names of those they lack."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    if of_result := getattr(kind, "stored_fields", None):
        values = of_result(values, where=where)
    derived = getattr(kind, "derived", ())  # what a result stores for other readers only
    filled: dict[str, Any] = {}
    for key, value in values.items():
        if key in derived:
            continue
        if key not in fields:
            hint = did_you_mean(key, fields) or f"known keys: {', '.join(fields)}"
            raise UserError(f"{where}: unknown key '{key}'; {hint}")
        filled[key] = _convert(hints[key], value, where=f"{where}: {key}")
    required = [name for name, f in fields.items() if f.default is f.default_factory]
    return filled, [name for name in required if name not in filled]


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """A hint at the nearest of the known words; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean '{near[0]}'?" if near else ""


def from_keywords(kind: type[T], keywords: Mapping[str, Any], *, where: str) -> T:
    """Builds dataclass `kind` from flat `keywords`: fields of its own, and those of its sections by
    their own names where only one section has such a field, else as SECTION_FIELD.

    Raises `UserError` for an unknown keyword (naming the nearest), one that several sections have,
    or a value of the wrong type.
    """
    names = names_of(kind)
    nested: dict[str, Any] = {}
    for name, value in keywords.items():
        try:
            *sections, last = names.find(name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        plain = _plain(value)
        several = takes(names.hints[*sections, last]) > 2  # one value stands for a list of it
        inner[last] = [plain] if several and not isinstance(plain, list | dict) else plain
    return from_mapping(kind, nested, where=where)


def option_values(
    kind: type, name: str, values: Iterable[Any], *, where: str
) -> tuple[str, tuple[Any, ...]]:
    """The whole name of an option of dataclass `kind`, and `values` for it, each of its type.

    A text may stand for a number, as on a command line; one with commas for several.

    Raises `UserError` for an unknown name (naming the nearest) and a value of another type.
    """
    names = names_of(kind)
    try:
        place = names.find(name.replace("-", "_"))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    hint = names.hints[place]
    meant = [Word(v) if isinstance(v, str) else v for v in values]
    if takes(hint) > 1:
        meant = [[*map(Word, v.split(","))] if isinstance(v, str) else v for v in meant]
    whole = ".".join(place)
    return whole, tuple(_convert(hint, v, where=f"{where}: `{whole}`") for v in meant)


def _check_one_of(kind: type, names: Iterable[str], *, where: str = "") -> None:
    """`UserError` for more than one of the options that say the same in different words."""
    exclusive = getattr(kind, "one_of", ())
    if len(given := [f"`{name}`" for name in exclusive if name in names]) > 1:
        raise UserError(f"{where}{' and '.join(given)}: give one of them")


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        nothing = value is None or (isinstance(value, Word) and value.lower() == "none")
        if nothing and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        failures: list[UserError] = []
        # where one value or a list may be meant, a list of one is tried as that one first
        listed = any(typing.get_origin(option) is tuple for option in options)
        only = value[0] if listed and isinstance(value, list | tuple) and len(value) == 1 else value
        for option in options:
            meant = value if typing.get_origin(option) is tuple else only
            try:
                return _convert(option, meant, where=where)
            except UserError as error:
                failures.append(error)
        raise failures[0]
    if origin is Literal:
        if value not in arguments:
            hint = did_you_mean(str(value), map(str, arguments), cutoff=0.6)
            allowed = ", ".join(map(repr, arguments)) + (f"; {hint}" if hint else "")
            raise UserError(f"{where}: {value!r} is not one of {allowed}")
        return arguments[arguments.index(value)]
    if origin in (tuple, list, Sequence) or hint is list:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, got {value!r}")
        items = arguments or (Any,)
        if origin is not tuple or items[1:] == (Ellipsis,):
            items = items[:1] * len(value)
        if len(value) != len(items):
            raise UserError(f"{where}: expected {len(items)} values, got {len(value)}")
        converted = (
            _convert(item, v, where=f"{where}[{i}]")
            for i, (item, v) in enumerate(zip(items, value, strict=True))
        )
        return tuple(converted) if origin is tuple else list(converted)
    value = value.meant(hint) if isinstance(value, Word) else value
    if from_plain := getattr(hint, "from_plain", None):
        return from_plain(value, where=where)
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a table of keys, got {value!r}")
        if origin is None:
            return from_mapping(typing.cast(type, hint), value, where=where)
        of_key, item = arguments
        return {
            int(key) if of_key is int else key: _convert(item, v, where=f"{where}: {key}")
            for key, v in value.items()
        }
    if getattr(origin or hint, "__name__", "") == "ndarray":
        return _array(value, where=where)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and (isinstance(value, float) or type(value) is int or value in _NOT_FINITE):
        return float(value)
    if hint is Any or type(value) is hint or (hint is str and isinstance(value, str)):
        return value
    raise UserError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")


def _array(value: Any, *, where: str) -> Any:
    """Nested lists as an array of float64, int64 or bool."""
    import numpy as np

    def numbers(item: Any) -> Any:
        if isinstance(item, list | tuple):
            return [numbers(v) for v in item]
        return float(item) if item in _NOT_FINITE else item

    try:
        array = np.array(numbers(value))
    except ValueError as error:
        raise UserError(f"{where}: rows of different lengths") from error
    if array.dtype.kind not in "fib":
        raise UserError(f"{where}: expected numbers, got {value!r}")
    return array


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values (paths as text, tuples as lists, None left out)."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def to_command_line(kind: type, values: Mapping[str, Any]) -> list[str]:
    """The options that make these plain values of the defaults of dataclass `kind`;
    `from_command_line` reads them back."""
    usual = {
        f.name: _plain(
            f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        )
        for f in dataclasses.fields(kind)
    }
    hints = names_of(kind).hints
    tables = [name for name in values if is_table(hints.get((name,)))]
    words = _options({k: v for k, v in values.items() if k not in tables}, usual, "--")
    for table in tables:
        for name, given in values[table].items():
            words += [f"--{table}", name.replace("_", "-")]
            words += [",".join(map(str, v)) if isinstance(v, list) else str(v) for v in given]
    return words


def _options(values: Mapping[str, Any], usual: Mapping[str, Any], start: str) -> list[str]:
    words: list[str] = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if value == usual.get(key):
            continue
        if isinstance(value, Mapping):
            words += _options(value, usual.get(key) or {}, f"{start}{name}.")
        elif isinstance(value, bool):
            words.append(start + name if value else f"{start}no-{name}")
        else:
            given = [str(each) for each in (value if isinstance(value, list) else [value])]
            if len(given) == 1 and given[0].startswith("-"):
                words.append(f"{start}{name}={given[0]}")  # or it would pass for an option
            else:
                words += [start + name, *given]
    return words


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a mapping; `UserError` names the file and the parser's line."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such configuration file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, not a TOML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error


def to_toml(values: Mapping[str, Any]) -> str:
    """Nested plain values as TOML text."""
    import tomli_w

    return tomli_w.dumps(values)


def from_command_line(
    kind: type[T], arguments: Sequence[str], *, program: str, positional: Sequence[str] = ()
) -> T:
    """Defaults < `--config FILE` (TOML) < options: the resolved configuration.

    `positional` names options that may be given without their names, in this order.

    Raises `UserError` for an option that is unknown or missing, or whose value cannot be, and for a
    wrong TOML file.
    """
    rest, where, values = list(arguments), program, {}
    if (file := path_taken(rest, "--config")) is not None:
        where = str(file)
        values = {k: v for k, v in read_toml(file).items() if k != NOT_OPTIONS}
    words, hints = words_by_place(kind, rest, positional), names_of(kind).hints
    asked, exclusive = {place[0] for place in words}, getattr(kind, "one_of", ())
    _check_one_of(kind, asked)
    _check_one_of(kind, values, where=f"{where}: ")
    if asked & {*exclusive}:  # the same in other words
        values = {k: v for k, v in values.items() if k not in exclusive}
    _filled(kind, values, where)  # the file's own mistakes are named before those of words
    for place, given in words.items():
        option = f"`{'.'.join(place)}`"
        section = values
        for name in place[:-1]:
            section = section.setdefault(name, {})
        table = hints.get(place[:-1])
        hint = typing.get_args(table)[1] if is_table(table) else hints[place]
        if not given and takes(hint) == 1:
            raise UserError(f"{option} needs a value")
        value = given if takes(hint) > 1 else given[0]
        section[place[-1]] = _convert(hint, value, where=option)
    filled, missing = _filled(kind, values, where)
    if missing:
        needed = (n.removesuffix("s").upper() if n in positional else f"`{n}`" for n in missing)
        raise UserError(f"needs {', '.join(needed)}; '{program} --help' says what for")
    made = kind(**filled)
    _check_plain(to_mapping(made), "")
    return made


def _check_plain(values: Mapping[str, Any], start: str) -> None:
    """`UserError` for what JSON, and so results and identities of runs, cannot hold."""
    for key, value in values.items():
        name = start + key
        if isinstance(value, Mapping):
            _check_plain(value, f"{name}.")
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, float) and not math.isfinite(each):
                raise UserError(f"`{name}` {each}: give a finite number")
            if isinstance(each, str) and any("\ud800" <= c <= "\udfff" for c in each):
                raise UserError(f"`{name}` {each!r}: not UTF-8; give the file another name")


def digest(values: Any) -> str:
    """sha256 (hexadecimal) of plain values in canonical JSON: the identity of a configuration."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
