"""Which class each kind of stored result is of, so that a results.json can be read again."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from lmlab.errors import UserError
from lmlab.results import Result, read_values

KINDS = {
    "geometry": "lmlab.topics.geometry.geometry:Geometry",
}


def read_result(path: str | Path) -> Result:
    """The result stored in a results.json, or in the folder of one.

    Raises `UserError` where there is none, or where it is of a kind or schema that this lmlab does
    not read.
    """
    path = Path(path)
    values = read_values(path)
    kind = values.get("kind")
    if kind not in KINDS:
        raise UserError(
            f"{path}: a result of kind {kind!r}; this lmlab reads {', '.join(sorted(KINDS))}"
        )
    module, _, name = KINDS[kind].partition(":")
    result_type = cast(type[Result], getattr(importlib.import_module(module), name))
    return result_type.from_json(values, where=str(path))
