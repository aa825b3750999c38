"""Which class each kind of stored result is of, so that a results.json can be read again."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lmlab.errors import UserError
from lmlab.results import Result, read_values

KINDS = {
    "apply": "lmlab.topics.decomposition.applying:AppliedMapping",
    "arrow": "lmlab.topics.arrow.between_models:ModelsArrow",
    "decompose": "lmlab.topics.decomposition.of_models:ModelsDecomposition",
    "decomposition": "lmlab.topics.decomposition.zoo:ZooDecomposition",
    "dynamics": "lmlab.topics.encoding.dynamics:Dynamics",
    "embed": "lmlab.topics.decomposition.of_models:Embeddings",
    "encode": "lmlab.topics.encoding.of_model:EncodingResult",
    "encoding": "lmlab.topics.encoding.comparison:EncodingStudy",
    "finetune": "lmlab.topics.finetuning.metrics:Finetuning",
    "geometry": "lmlab.topics.geometry.geometry:Geometry",
    "headless": "lmlab.topics.headless.comparison:Headless",
    "plan": "lmlab.topics.planning.plan:Plan",
    "prune": "lmlab.topics.encoding.pruning_curves:PruneResult",
    "score": "lmlab.topics.scoring.score:Score",
    "steer": "lmlab.topics.encoding.steering_effects:SteeringResult",
}


def read_result(path: str | Path) -> Result:
    """The result stored in a results.json, or in the folder of one.

    Raises `UserError` where there is none, or where it is of a kind or schema that this lmlab does
    not read.
    """
    return from_values(read_values(Path(path)), where=str(path))


def from_values(values: Mapping[str, Any], *, where: str) -> Result:
    """The result of any kind that `to_json` wrote; `where` names the source in errors."""
    kind = values.get("kind")
    if kind not in KINDS:
        raise UserError(
            f"{where}: a result of kind {kind!r}; this lmlab reads {', '.join(sorted(KINDS))}"
        )
    module, _, name = KINDS[kind].partition(":")
    result_type = cast(type[Result], getattr(importlib.import_module(module), name))
    return result_type.from_json(values, where=where)
