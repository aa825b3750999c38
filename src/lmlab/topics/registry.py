"""The studies, and which class each kind of stored result is of.

Everything is named as MODULE:NAME, and imported when it is first used (`find`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lmlab.errors import UserError
from lmlab.results import Result, read_values


@dataclass(frozen=True)
class Study:
    """What `lmlab study NAME` and `lmlab.study(NAME, ...)` run, by one process or many workers."""

    help: str
    options: str
    """MODULE:NAME of a dataclass that has `lab` and `out`."""
    function: str
    """MODULE:NAME of a function of the options and `worker`, which writes the result."""
    example: str = ""
    """What could stand behind the command's name."""
    usual: tuple[str, ...] = ()
    """Options that `--help` shows."""
    positional: tuple[str, ...] = ()
    """Options that may be given without their names."""
    command: str = ""
    """The name of its command, where that is not `study NAME`."""


_LENGTH = ("tokens", "steps", "epochs", "batch_tokens", "learning_rate", "out")

STUDIES = {
    "arrow": Study(
        "train both directions and measure the arrow of time",
        "lmlab.topics.arrow.options:ArrowConfig",
        "lmlab.topics.arrow.study:run_arrow",
        example="--text novels/ --size micro --tokens 4000000",
        usual=("text", "size", "architecture", "context", "seeds", "order", "vocabulary", *_LENGTH),
    ),
    "headless": Study(
        "train with and without a softmax, and compare the heads",
        "lmlab.topics.headless.options:HeadlessStudyConfig",
        "lmlab.topics.headless.study:run_headless",
        example="--text novels/ --vocabulary 8192 32768 --seeds 3",
        usual=("text", "arms", "size", "context", "seeds", "vocabulary", *_LENGTH),
    ),
    "towers": Study(
        "which tokens two towers with one prediction take",
        "lmlab.topics.towers.options:TowersStudyConfig",
        "lmlab.topics.towers.study:run_towers",
        example="--text novels/ --size micro --seeds 4",
        usual=("text", "size", "fusion", "context", "seeds", "vocabulary", *_LENGTH),
    ),
    "decomposition": Study(
        "how much of each of a zoo of models is in the others",
        "lmlab.topics.decomposition.options:DecompositionStudyConfig",
        "lmlab.topics.decomposition.study:run_decomposition",
        example="--text novels/ --size nano micro --seeds 2",
        usual=("text", "arms", "size", "models", "context", "seeds", "vocabulary", *_LENGTH),
    ),
    "encoding": Study(
        "train models and see how their embeddings hold probability",
        "lmlab.topics.encoding.options:EncodingStudyConfig",
        "lmlab.topics.encoding.study:run_encoding",
        example="--text novels/ --vocabulary 4096",
        usual=("text", "arms", "size", "context", "vocabulary", *_LENGTH),
    ),
    "finetune": Study(
        "classifiers on labelled texts, from any model, with intervals",
        "lmlab.topics.finetuning.options:FinetuneConfig",
        "lmlab.topics.finetuning.study:run_finetune",
        example="lab/forward lab/headless --tasks polarity=reviews/",
        positional=("models",),
        command="finetune",
    ),
}

KINDS = {
    "apply": "lmlab.topics.decomposition.mapping:AppliedMapping",
    "arrow": "lmlab.topics.arrow.between_models:ModelsArrow",
    "arrow study": "lmlab.topics.arrow.family:ArrowStudy",
    "decompose": "lmlab.topics.decomposition.of_models:ModelsDecomposition",
    "decomposition": "lmlab.topics.decomposition.zoo:ZooDecomposition",
    "doctor": "lmlab.training.doctor:Diagnosis",
    "dynamics": "lmlab.topics.encoding.dynamics:Dynamics",
    "embed": "lmlab.topics.decomposition.of_models:Embeddings",
    "encode": "lmlab.topics.encoding.of_model:EncodingResult",
    "encoding": "lmlab.topics.encoding.comparison:EncodingStudy",
    "eval": "lmlab.topics.scoring.zero_shot:Evaluation",
    "finetune": "lmlab.topics.finetuning.metrics:Finetuning",
    "geometry": "lmlab.topics.geometry.geometry:Geometry",
    "headless": "lmlab.topics.headless.comparison:Headless",
    "plan": "lmlab.topics.planning.plan:Plan",
    "prefer": "lmlab.topics.towers.of_model:ModelPreference",
    "prune": "lmlab.topics.encoding.pruning_curves:PruneResult",
    "sample": "lmlab.lm.sampling:Samples",
    "score": "lmlab.topics.scoring.score:Score",
    "steer": "lmlab.topics.encoding.steering_effects:SteeringResult",
    "towers": "lmlab.topics.towers.comparison:TowersStudy",
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
    return cast(type[Result], find(KINDS[kind])).from_json(values, where=where)


def find(place: str) -> Any:
    """What MODULE:NAME names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
