"""What a study measures once and keeps in a file of its lab folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lmlab.config import from_mapping
from lmlab.durable import from_json, write_json
from lmlab.results import plain

T = TypeVar("T")


def kept(file: Path, kind: type[T], measure: Callable[[], T]) -> T:
    """The value of dataclass `kind` in `file`; measured and written where it is not there, or is
    damaged. The name of the file says what decides the value."""
    try:
        return from_mapping(kind, from_json(file.read_bytes()), where=str(file))
    except (FileNotFoundError, ValueError, TypeError):
        value = measure()
        write_json(file, plain(value))
        return value
