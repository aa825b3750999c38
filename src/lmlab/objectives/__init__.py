"""Objectives: one file each. `from_record` rebuilds one from a checkpoint's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmlab.errors import UserError
from lmlab.objectives.base import Objective


def from_record(record: Mapping[str, Any], *, order: str, bos_id: int) -> Objective:
    """The objective that `Objective.record` described. `UserError` for an unknown name."""
    from lmlab.objectives.causal import Causal
    from lmlab.objectives.headless import Headless

    known = {"causal": Causal, "headless": Headless}
    name = record.get("name")
    if name not in known:
        raise UserError(f"unknown objective {name!r}; this lmlab knows {', '.join(known)}")
    return known[name].from_record(dict(record), order=order, bos_id=bos_id)
