"""Journals: one JSON object a line, in order of steps, cut back on resume.

`journal.jsonl` holds deterministic fields only, so that a resumed run ends byte-identical;
`timing.jsonl` holds clock, speed and memory, outside that promise.

Notable: a checkpoint keeps the digest of the journal before it, so that a line which was damaged or
edited since is found on resuming.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lmlab.durable import AppendLog, from_json, write_bytes
from lmlab.errors import UserError
from lmlab.processes import is_first

_TAIL_BYTES = 1 << 16  # far more than a record is long


class Journal(AppendLog):
    """Appends records; `sync` makes them survive a power cut."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._digest = hashlib.sha256(path.read_bytes())

    @property
    def sha256(self) -> str:
        """Of all lines, in hexadecimal."""
        return self._digest.hexdigest()

    def append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False)
        self.append_line(line)
        self._digest.update(line.encode("utf-8") + b"\n")


class RunJournals:
    """The two journals of a run's folder, opened together; only the first process writes them."""

    def __init__(self, run: Path) -> None:
        self._open: list[Journal] = []
        try:
            for name in ("journal.jsonl", "timing.jsonl") if is_first() else ():
                self._open.append(Journal(run / name))
        except BaseException:
            self.close()
            raise

    @property
    def sha256(self) -> str | None:
        """Of the steps' records, in the first process."""
        return self._open[0].sha256 if self._open else None

    def append(self, record: dict[str, Any]) -> None:
        """A step's record."""
        for journal in self._open[:1]:
            journal.append(record)

    def append_timing(self, record: dict[str, Any]) -> None:
        """Clock, speed and memory."""
        for journal in self._open[1:]:
            journal.append(record)

    def sync(self) -> None:
        for journal in self._open:
            journal.sync()

    def close(self) -> None:
        for journal in self._open:
            journal.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole records of a journal; a torn last line (a kill while writing) is left out.

    Raises `UserError` for a damaged line that is not the last.
    """
    if not path.exists():
        return []
    return [_record(path, *line) for line in enumerate(_whole_lines(path.read_bytes()), start=1)]


def last_record(path: Path) -> dict[str, Any] | None:
    """The last whole record of a journal that may be growing, without reading all of it; None
    where there is none.

    Raises `UserError` where it is damaged.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = _whole_lines(file.read())
    except FileNotFoundError:
        return None
    if not lines:
        return None
    try:
        return _record(path, -1, lines[-1])
    except UserError as error:
        raise UserError(f"{path}: its last line is damaged") from error


def last_with(path: Path, start: str) -> dict[str, Any] | None:
    """The last whole record of a journal that has a field whose name begins so; None without one.

    Raises `UserError` where that one is damaged.
    """
    content = path.read_bytes() if path.exists() else b""
    content = content[: content.rfind(b"\n") + 1]
    at = content.rfind(f'"{start}'.encode())
    if at < 0:
        return None
    line = content[content.rfind(b"\n", 0, at) + 1 :].partition(b"\n")[0]
    return _record(path, content.count(b"\n", 0, at) + 1, line)


def cut_back(path: Path, step: int, *, every_step: bool = False, sha256: str | None = None) -> None:
    """Keeps the records up to `step`, byte for byte; does nothing where there are no later ones.

    What comes after them may be damaged anywhere: a power cut keeps unsynced pages in any order.

    Raises `UserError` for a damaged line before a record that is kept, for steps out of order,
    where `every_step` has a record but `step` has none, and where the records that are kept do not
    have the digest `sha256`.
    """
    content = path.read_bytes() if path.exists() else b""
    lines = _whole_lines(content)
    steps: list[int] = []
    kept = 0
    damage: UserError | None = None
    for number, line in enumerate(lines, start=1):
        try:
            steps.append(_record(path, number, line)["step"])
        except UserError as error:
            damage = damage or error
            continue
        if steps[-1] > step:
            continue
        if damage:
            raise damage
        kept = number
    if any(recorded > step for recorded in steps[:kept]):
        raise UserError(f"{path}: the steps are out of order; the journal was edited")
    if every_step and step and (kept == 0 or steps[kept - 1] != step):
        raise UserError(
            f"{path}: no record of step {step}, after which the checkpoint was made; the journal "
            "was cut or edited. Put it back, or remove the run folder"
        )
    left = b"".join(line + b"\n" for line in lines[:kept])
    if sha256 is not None and hashlib.sha256(left).hexdigest() != sha256:
        raise UserError(
            f"{path}: not the records that were there when the checkpoint of step {step} was made; "
            "the journal was damaged or edited. Put it back, or remove the run folder"
        )
    if left != content:
        write_bytes(path, left)


def _whole_lines(content: bytes) -> list[bytes]:
    """Without what follows the last newline: that is empty, or torn."""
    return content.split(b"\n")[:-1]


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = from_json(line)
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            raise ValueError("a record is an object with a step")
    except ValueError as error:
        raise UserError(f"{path}, line {number}: damaged: {error}") from error
    return record
