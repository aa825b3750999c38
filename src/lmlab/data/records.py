"""Records of evaluation tasks: lines and JSON objects from files, folders, archives and the Hub.

A source is a file of lines (also .gz / .zst), a folder of such files, a `.zip` of them, or
`hf:NAME[:CONFIG[:SPLIT]]`. Every record comes with the words that say where it stands, so that a
mistake in it can be named.

Notable: `.zip` members that the Finder adds (`__MACOSX`, `.DS_Store`, `._name`) are left out.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.data.documents import (
    COMPRESSIONS,
    file_suffix,
    files_below,
    hub_rows,
    json_values,
    read_text_lines,
    text_lines,
    valid_text,
)
from lmlab.errors import UserError

JSON_LINES = (".jsonl",)


@dataclass(frozen=True)
class Record:
    """A JSON object and where it stands."""

    where: str
    values: dict[str, Any]
    file: str = ""
    """Name of its file, endings left out; of the Hub's that of the configuration or data set."""

    def text(self, key: str) -> str:
        """The text at `key`; `UserError` where there is none, or it is empty or no text."""
        return checked_text(self.value(key), f"{self.where}: '{key}'")

    def value(self, key: str) -> Any:
        """What is at `key`; `UserError` where the key is missing."""
        if key not in self.values:
            raise UserError(
                f"{self.where}: no key '{key}' (found: {', '.join(map(str, self.values))}). "
                "docs/evaluation.md has the forms of task files"
            )
        return self.values[key]

    def optional_text(self, key: str) -> str | None:
        """The text at `key`, None where the key is missing or null."""
        return None if self.values.get(key) is None else self.text(key)


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, maybe in an archive."""

    path: Path
    member: str = ""
    """Its name in the archive that `path` is."""

    @property
    def where(self) -> str:
        """What errors call it."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def suffix(self) -> str:
        """The ending of its name, that of a compression left out."""
        return file_suffix(Path(self.member or self.path))

    @property
    def name(self) -> str:
        """Its name, endings left out."""
        name = Path(self.member or self.path)
        return (name.with_suffix("") if name.suffix.lower() in COMPRESSIONS else name).stem

    def lines(self) -> Iterator[tuple[int, str]]:
        """Number (from 1) and text of each line that is not blank; `UserError` names a bad one."""
        if not self.member:
            yield from read_text_lines(self.path)
            return
        with _archive(self.path) as archive, archive.open(self.member) as file:
            yield from text_lines(file, self.where)

    def records(self) -> Iterator[Record]:
        """The objects of a file of JSON lines; `UserError` names a line that is none."""
        for number, value in json_values(self.lines(), self.where):
            yield Record(*_object(f"{self.where}, line {number}", value), self.name)


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
    for record in _records(source, hub_split):
        yield record
        count += 1
    if count == 0:
        raise UserError(f"{source}: no item in it")


def _records(source: str, hub_split: str) -> Iterator[Record]:
    if source.startswith("hf:"):
        named = [*source.split(":"), ""]
        name = named[2] or named[1].rpartition("/")[2]
        for row, value in enumerate(hub_rows(source, split=hub_split)):
            yield Record(*_object(f"{source}, row {row}", value), name)
        return
    for file in source_files(source, JSON_LINES):
        yield from file.records()


def _object(where: str, value: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: holds {type(value).__name__}, not an object; a line has to be "
            '{"key": value, ...}'
        )
    return where, value


def source_files(source: str | Path, suffixes: tuple[str, ...] | None) -> list[SourceFile]:
    """The files of a folder or an archive that end so (None: all of them), in sorted order; or the
    one file named.

    Raises `UserError` for what is missing or damaged, and where there is no such file.
    """
    path = Path(source)
    if path.suffix.lower() == ".zip" and path.is_file():
        with _archive(path) as archive:
            names = [name for name in sorted(archive.namelist()) if not _hidden(Path(name))]
        files = [SourceFile(path, name) for name in names if not name.endswith("/")]
    elif path.is_file():
        return [SourceFile(path)]
    elif path.is_dir():
        below = (file.relative_to(path) for file in files_below(path, Counter()))
        files = [SourceFile(path / name) for name in sorted(below) if not _hidden(name)]
    else:
        raise UserError(
            f"{path}: no such file or folder. A data set of the Hub is named hf:NAME[:CONFIG]"
        )
    if suffixes is None:
        return files
    found = [file for file in files if file.suffix in suffixes]
    if not found:
        what = "folder" if path.is_dir() else "archive"
        raise UserError(f"{path}: no {' or '.join(suffixes)} file in this {what}")
    return found


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip, opened; `UserError` that names it for damage found while it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: damaged archive ({error}); fetch or make it again") from error
    except RuntimeError as error:  # what zipfile raises for an encrypted member
        raise UserError(f"{path}: {error}; unpack it, and name the folder instead") from error


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
