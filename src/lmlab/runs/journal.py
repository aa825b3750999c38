"""Journals: one JSON object a line, in order of steps, cut back on resume.

`journal.jsonl` holds deterministic fields only, so that a resumed run ends byte-identical;
`timing.jsonl` holds clock, speed and memory, outside that promise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmlab.durable import AppendLog, write_bytes
from lmlab.errors import UserError


class Journal:
    """Appends records; `sync` makes them survive a power cut."""

    def __init__(self, path: Path) -> None:
        self._log = AppendLog(path)

    def append(self, record: dict[str, Any]) -> None:
        self._log.append(json.dumps(record, allow_nan=False))

    def sync(self) -> None:
        self._log.sync()

    def close(self) -> None:
        self._log.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole records of a journal; a torn last line (a kill while writing) is left out.

    Raises `UserError` for a damaged line that is not the last.
    """
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if number == len(lines):
            break  # what follows the last newline is empty, or torn
        try:
            record = json.loads(line.decode("utf-8"))
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("a record is an object with a step")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: damaged: {error}") from error
        records.append(record)
    return records


def cut_back(path: Path, step: int) -> None:
    """Keeps the records up to `step`, byte for byte; does nothing where there are no later ones."""
    if not path.exists():
        return
    records = read_journal(path)
    kept = sum(1 for record in records if record["step"] <= step)
    if any(record["step"] > step for record in records[:kept]):
        raise UserError(f"{path}: the steps are out of order; the journal was edited")
    lines = path.read_bytes().split(b"\n")
    content = b"".join(line + b"\n" for line in lines[:kept])
    if content != path.read_bytes():
        write_bytes(path, content)
