"""Texts to be looked at word by word: from a command line, files, csv files, standard input.

Imports no torch.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmlab.errors import UserError

STANDARD_INPUT = "standard input"
_ROWS = {".csv": ",", ".tsv": "\t"}
_CUT = "|"


@dataclass(frozen=True)
class Text:
    """A text with the name it has in tables."""

    id: str
    text: str
    cuts: tuple[int, ...] = ()
    """Characters at which its regions begin, from the second on; empty without regions."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UserError(f"{self.id}: there is no text in it; give some, or leave it out")


def texts_of_words(words: Sequence[str]) -> list[Text]:
    """What the words of a command line name: files; else texts, one a word if any holds a blank,
    else all together one. Nothing, or "-", stands for standard input.

    Raises `UserError` for files among other words, and what cannot be read.
    """
    if list(words) in ([], ["-"]):
        return [
            Text(STANDARD_INPUT, _decoded(sys.stdin.buffer.read(), STANDARD_INPUT).rstrip("\r\n"))
        ]
    files = [word for word in words if _is_file(word)]
    if files and len(files) < len(words):
        other = next(word for word in words if word not in files)
        raise UserError(f"{other!r} is no file, and {files[0]} is one; give files or words")
    if files:
        return [text for file in files for text in read_texts(Path(file))]
    if any(Path(word).suffix in (*_ROWS, ".txt") for word in words):
        raise UserError(f"{' '.join(words)}: no such file")
    if any(any(character.isspace() for character in word.strip()) for word in words):
        return [Text(f"text {number}", word) for number, word in enumerate(words, 1)]
    return [Text("text 1", " ".join(words))]


def read_texts(path: Path) -> list[Text]:
    """The texts of a file: a row each of a .csv or .tsv file with the columns `text`, `id`
    (default: the row's number) and `regions` (the text cut by |), else the whole file.

    A line end in a whole file is text like any other; those that end it are left out.

    Raises `UserError`, naming file and row, for what is missing or does not fit together.
    """
    try:
        content = _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix not in _ROWS:
        return [Text(path.name, content.rstrip("\r\n"))]
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=_ROWS[path.suffix])
    if "text" not in (rows.fieldnames or ()):
        raise UserError(f"{path}: no column 'text' (found: {', '.join(rows.fieldnames or ())})")
    texts: list[Text] = []
    try:
        for number, row in enumerate(rows, 1):
            text = row["text"] or ""
            cuts = _cuts(row.get("regions") or "", text, f"{path}: row {number}")
            if not text.strip():
                raise UserError(f"{path}: row {number} has no text; give it some, or remove it")
            texts.append(Text(row.get("id") or str(number), text, cuts))
    except csv.Error as error:
        raise UserError(f"{path}: row {len(texts) + 1} is no csv: {error}") from error
    if not texts:
        raise UserError(f"{path}: no row in it")
    if len({text.id for text in texts}) < len(texts):
        raise UserError(f"{path}: an id stands at two texts; give each its own")
    return texts


def _cuts(regions: str, text: str, where: str) -> tuple[int, ...]:
    """Where the regions of a text begin, from the second on.

    The parts between | spell the text, blanks aside. `UserError` where they do not.
    """
    if not regions.strip():
        return ()
    at, cuts = 0, []
    for number, region in enumerate(regions.split(_CUT)):
        pieces = region.split()
        if not pieces:
            raise UserError(f"{where}: region {number + 1} is empty; leave out its {_CUT}")
        for place, piece in enumerate(pieces):
            at = _skip(text, at)
            if number and not place:
                cuts.append(at)
            if not text.startswith(piece, at):
                raise UserError(
                    f"{where}: region {number + 1} ({region.strip()!r}) is not how the text goes "
                    f"on: {text[at : at + 40]!r}"
                )
            at += len(piece)
    if _skip(text, at) < len(text):
        raise UserError(f"{where}: the regions end before the text does: {text[at : at + 40]!r}")
    return tuple(cuts)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # a text may be no path at all
        return False


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}") from error
