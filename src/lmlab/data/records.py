"""Records of evaluation tasks: JSON objects from files, folders, archives and the Hub.

A source is a file of JSON lines (also .gz / .zst), a folder of `.jsonl` files, a `.zip` of them, or
`hf:NAME[:CONFIG[:SPLIT]]`. Every record comes with the words that say where it stands, so that a
mistake in it can be named.

Notable: `.zip` members that the Finder adds (`__MACOSX`, `.DS_Store`, `._name`) are left out.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.data.documents import (
    file_suffix,
    files_below,
    hub_rows,
    json_lines,
    read_json_lines,
    valid_text,
)
from lmlab.errors import UserError


@dataclass(frozen=True)
class Record:
    """A JSON object and where it stands."""

    where: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """The text at `key`; `UserError` where there is none, or it is empty or no text."""
        if key not in self.values:
            raise UserError(
                f"{self.where}: no key '{key}' (found: {', '.join(map(str, self.values))}). "
                "docs/evaluation.md has the forms of task files"
            )
        return checked_text(self.values[key], f"{self.where}: '{key}'")

    def optional_text(self, key: str) -> str | None:
        """The text at `key`, None where the key is missing or null."""
        return None if self.values.get(key) is None else self.text(key)


def checked_text(value: Any, what: str) -> str:
    """`value` if it is text that says something; else a `UserError` that begins with `what`."""
    text = valid_text(value, what)
    if not text.strip():
        raise UserError(f"{what} is empty; give it text, or remove the item")
    return text


def read_records(source: str, *, hub_split: str) -> Iterator[Record]:
    """All records of a source, files in sorted order.

    Raises `UserError`, naming file and line, for what is missing, damaged, no UTF-8, no JSON or no
    JSON object, and for a source without a record.
    """
    count = 0
    for where, value in _values(source, hub_split):
        if not isinstance(value, dict):
            raise UserError(
                f"{where}: holds {type(value).__name__}, not an object; a line has to be "
                '{"key": value, ...}'
            )
        yield Record(where, value)
        count += 1
    if count == 0:
        raise UserError(f"{source}: no item in it")


def _values(source: str, hub_split: str) -> Iterator[tuple[str, Any]]:
    if source.startswith("hf:"):
        for row, value in enumerate(hub_rows(source, split=hub_split)):
            yield f"{source}, row {row}", value
        return
    path = Path(source)
    if path.suffix.lower() == ".zip" and path.is_file():
        yield from _zip_values(path)
        return
    for file in _files(path):
        for number, value in read_json_lines(file):
            yield f"{file}, line {number}", value


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(
            f"{path}: no such file or folder. A data set of the Hub is named hf:NAME[:CONFIG]"
        )
    files = [file for file in files_below(path, Counter()) if file_suffix(file) == ".jsonl"]
    files = sorted(file for file in files if not _hidden(file.relative_to(path)))
    if not files:
        raise UserError(f"{path}: no .jsonl file in this folder")
    return files


def _zip_values(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".jsonl"))
            names = [name for name in names if not _hidden(Path(name))]
            if not names:
                raise UserError(f"{path}: no .jsonl file in this archive")
            for name in names:
                with archive.open(name) as file:
                    member = f"{path}/{name}"
                    for number, value in json_lines(file, member):
                        yield f"{member}, line {number}", value
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: damaged archive ({error}); fetch or make it again") from error
    except RuntimeError as error:  # what zipfile raises for an encrypted member
        raise UserError(f"{path}: {error}; unpack it, and name the folder instead") from error


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
