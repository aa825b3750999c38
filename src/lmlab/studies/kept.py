"""What is measured once and kept in a file: values of dataclasses as JSON, arrays as safetensors.

The name of a file says what decides its content. What is damaged is measured again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from lmlab.config import from_mapping
from lmlab.durable import check_seal, from_json, packed, sealed, write_bytes, write_json
from lmlab.results import plain

T = TypeVar("T")


def kept(file: Path, kind: type[T], measure: Callable[[], T]) -> T:
    """The value of dataclass `kind` in `file`; measured and written where it is not there."""
    try:
        return from_mapping(kind, from_json(file.read_bytes()), where=str(file))
    except (FileNotFoundError, ValueError, TypeError):
        value = measure()
        write_json(file, plain(value))
        return value


def kept_arrays(file: Path, measure: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in `file`; measured and written where it is not there."""
    try:
        return load(check_seal(file.read_bytes()))
    except (FileNotFoundError, SafetensorError, ValueError):
        arrays = measure()
        write_bytes(file, sealed(packed(arrays)))
        return arrays
