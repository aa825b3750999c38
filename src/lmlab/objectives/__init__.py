"""Objectives: one file each. `from_record` rebuilds one from a checkpoint's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.objectives.base import Objective


def from_record(record: Mapping[str, Any], *, order: str, tokenizer: TextTokenizer) -> Objective:
    """The objective that `Objective.record` described. `UserError` for an unknown name."""
    from lmlab.objectives.causal import Causal
    from lmlab.objectives.classification import Classification
    from lmlab.objectives.cloze import Cloze
    from lmlab.objectives.headless import Headless, HeadlessMasked
    from lmlab.objectives.masked import Masked
    from lmlab.objectives.towers import (
        ProbedTowers,
        ProbedTowersCloze,
        ProbedTowersMasked,
        Towers,
        TowersCloze,
        TowersMasked,
    )

    of_towers = (
        Towers,
        TowersMasked,
        TowersCloze,
        ProbedTowers,
        ProbedTowersMasked,
        ProbedTowersCloze,
    )
    known = {
        "causal": Causal,
        "headless": Headless,
        "masked": Masked,
        "headless-masked": HeadlessMasked,
        "classification": Classification,
        "cloze": Cloze,
        **{kind.name: kind for kind in of_towers},
    }
    name = record.get("name")
    if name not in known:
        raise UserError(f"unknown objective {name!r}; this lmlab knows {', '.join(known)}")
    return known[name].from_record(dict(record), order=order, tokenizer=tokenizer)
