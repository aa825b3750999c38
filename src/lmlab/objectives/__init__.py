"""Objectives, each a reading and a criterion. `from_record` rebuilds one from a record.

A new reading or criterion has a file of its own here, its name and options in
`lmlab.config.objective`, and is registered in `from_record`. Those from outside of lmlab stand in
`lmlab.objectives.added`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmlab.config.objective import pair_of
from lmlab.data.tokenizers import TextTokenizer
from lmlab.objectives.base import Criterion, Objective, Reading


def from_record(record: Mapping[str, Any], *, order: str, tokenizer: TextTokenizer) -> Objective:
    """The objective that `Objective.record` described. `UserError` for an unknown name."""
    from lmlab.objectives.added import CRITERIA, READINGS
    from lmlab.objectives.causal import Causal
    from lmlab.objectives.classification import LabelCriterion, WholeText
    from lmlab.objectives.cloze import Cloze
    from lmlab.objectives.full import FullCrossEntropy
    from lmlab.objectives.headless import Contrastive
    from lmlab.objectives.masked import Masked
    from lmlab.objectives.mixed import Mixed
    from lmlab.objectives.towers import FusedTowers, TowerProbes

    readings: tuple[type[Reading], ...] = (
        Causal,
        Masked,
        Mixed,
        Cloze,
        WholeText,
        *READINGS.values(),
    )
    criteria: tuple[type[Criterion], ...] = (
        FullCrossEntropy,
        Contrastive,
        FusedTowers,
        TowerProbes,
        LabelCriterion,
        *CRITERIA.values(),
    )
    pair = pair_of(record.get("name"))
    (reading_kind,) = (kind for kind in readings if kind.name == pair.reading)
    (criterion_kind,) = (kind for kind in criteria if kind.name == pair.criterion)
    reading = reading_kind.from_record(record, order=order, tokenizer=tokenizer)
    of_the_rest = {k: v for k, v in record.items() if k not in {"name", *reading.record()}}
    return Objective(reading, criterion_kind.from_record(of_the_rest))
