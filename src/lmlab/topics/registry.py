"""What a command is, the studies, and which class each kind of stored result is of.

Everything is named as MODULE:NAME, and imported when it is first used (`find`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from lmlab.durable import write_text
from lmlab.errors import UserError
from lmlab.results import PAGE, RESULTS, Result, read_values


@dataclass(frozen=True)
class Command:
    """One command of `lmlab`."""

    name: str
    help: str
    """What it does, in a line of the usage."""
    options: str
    """MODULE:NAME of the dataclass of its options (`lmlab.config.numbers.Options`)."""
    function: str
    """MODULE:NAME of what it calls."""
    positional: tuple[str, ...] = ()
    """Options that may be given without their names, in this order."""
    example: str = ""
    """What could stand behind its name."""
    usual: tuple[str, ...] = ()
    """Options that `--help` shows; the others need `--help all` (none: all that are in no section).
    """
    processes: bool = False
    """Whether several processes (torchrun) may do it together."""
    any_tokenizer: bool = False
    """Whether its models may have another tokenizer than its store."""
    check: str = ""
    """MODULE:NAME of a function that refuses options before torch is loaded; there is none for
    most."""


TRAIN = (
    "size", "architecture", "objective", "order", "context", "batch", "steps", "tokens", "epochs",
    "budget", "learning_rate", "seed", "out",
)  # fmt: skip
"""The usual options of a training run."""
_LENGTH = ("tokens", "steps", "epochs", "batch_tokens", "learning_rate", "out")

_STUDIES = (
    Command(
        "study arrow",
        "train both directions and measure the arrow of time",
        "lmlab.topics.arrow.options:ArrowConfig",
        "lmlab.topics.arrow.study:run_arrow",
        example="--text novels/ --size micro --tokens 4000000",
        usual=("text", "size", "architecture", "context", "seeds", "order", "vocabulary", *_LENGTH),
    ),
    Command(
        "study headless",
        "train with and without a softmax, and compare the heads",
        "lmlab.topics.headless.options:HeadlessStudyConfig",
        "lmlab.topics.headless.study:run_headless",
        example="--text novels/ --vocabulary 8192 32768 --seeds 3",
        usual=("text", "arms", "size", "context", "seeds", "vocabulary", *_LENGTH),
    ),
    Command(
        "study towers",
        "which tokens two towers with one prediction take",
        "lmlab.topics.towers.options:TowersStudyConfig",
        "lmlab.topics.towers.study:run_towers",
        example="--text novels/ --size micro --seeds 4",
        usual=("text", "size", "fusion", "context", "seeds", "vocabulary", *_LENGTH),
    ),
    Command(
        "study decomposition",
        "how much of each of a zoo of models is in the others",
        "lmlab.topics.decomposition.options:DecompositionStudyConfig",
        "lmlab.topics.decomposition.study:run_decomposition",
        example="--text novels/ --size nano micro --seeds 2",
        usual=("text", "arms", "size", "models", "context", "seeds", "vocabulary", *_LENGTH),
    ),
    Command(
        "study encoding",
        "train models and see how their embeddings hold probability",
        "lmlab.topics.encoding.options:EncodingStudyConfig",
        "lmlab.topics.encoding.study:run_encoding",
        example="--text novels/ --vocabulary 4096",
        usual=("text", "arms", "size", "context", "vocabulary", *_LENGTH),
    ),
    Command(
        "study babylm",
        "which recipe learns most from the same words, on all tasks",
        "lmlab.topics.babylm.options:BabyLMStudyConfig",
        "lmlab.topics.babylm.study:run_babylm",
        example="--text childes.train --data evaluation_data/ --seeds 3",
        usual=(
            "text",
            "data",
            "recipes",
            "size",
            "context",
            "seeds",
            "vocabulary",
            "tokens",
            "steps",
            "epochs",
            "batch_tokens",
            "out",
        ),
    ),
    Command(
        "finetune",
        "classifiers on labelled texts, from any model, with intervals",
        "lmlab.topics.finetuning.options:FinetuneConfig",
        "lmlab.topics.finetuning.study:run_finetune",
        example="lab/forward lab/headless --tasks polarity=reviews/",
        positional=("models",),
    ),
    Command(
        "tune",
        "which settings of train are best, of all combinations",
        "lmlab.topics.tuning.options:TuneConfig",
        "lmlab.topics.tuning.study:run_tune",
        positional=("store",),
        example="lab/novels --over learning-rate 1e-3 2e-3 4e-3 --over batch 8 16 --steps 500",
        usual=("over", "seeds", "halving", *TRAIN),
    ),
)

STUDIES = {command.name.split()[-1]: command for command in _STUDIES}
"""Workers can share them: the function gets `worker` too, and writes its result."""

KINDS = {
    "apply": "lmlab.topics.decomposition.mapping:AppliedMapping",
    "arrow": "lmlab.topics.arrow.between_models:ModelsArrow",
    "arrow study": "lmlab.topics.arrow.family:ArrowStudy",
    "babylm": "lmlab.topics.babylm.comparison:BabyLMStudy",
    "bottleneck": "lmlab.topics.bottleneck.bottleneck:Bottleneck",
    "compare": "lmlab.topics.comparing.compare:ModelsCompared",
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
    "lineage": "lmlab.topics.lineage.lineage:Lineage",
    "plan": "lmlab.topics.planning.plan:Plan",
    "prefer": "lmlab.topics.towers.of_model:ModelPreference",
    "prune": "lmlab.topics.encoding.pruning_curves:PruneResult",
    "rerank": "lmlab.topics.reranking.reranking:Reranking",
    "route": "lmlab.topics.routing.routing:Routing",
    "run": "lmlab.topics.runs.training_run:TrainingRun",
    "sample": "lmlab.lm.sampling:Samples",
    "score": "lmlab.topics.scoring.score:Score",
    "steer": "lmlab.topics.encoding.steering_effects:SteeringResult",
    "suite": "lmlab.topics.babylm.model_score:SuiteScore",
    "surprisal": "lmlab.topics.surprisal.surprisal:Surprisal",
    "tour": "lmlab.topics.tour.tour:Tour",
    "towers": "lmlab.topics.towers.comparison:TowersStudy",
    "tune": "lmlab.topics.tuning.tuning:Tuning",
}


_ADDED: dict[str, type[Result]] = {}
_Kind = TypeVar("_Kind", bound=type[Result])


def register_result(cls: _Kind) -> _Kind:
    """Lets `lmlab.read` know a result of your own, in this process; stands above its class.

    Raises `UserError` for what is no dataclass of a kind that lmlab does not have.
    """
    if "__dataclass_fields__" not in vars(cls) or not issubclass(cls, Result):
        raise UserError(f"{cls!r}: a result is a frozen dataclass that inherits from Result")
    if cls.kind in KINDS:
        raise UserError(f"{cls.__qualname__}: lmlab has results of kind {cls.kind!r}; name another")
    _ADDED[cls.kind] = cls
    return cls


def read_result(path: str | Path) -> Result:
    """The result stored in a results.json, or in the folder of one.

    Raises `UserError` where there is none, or where it is of a kind or schema that this lmlab does
    not read.
    """
    values = read_values(Path(path))
    kind = values.get("kind")
    if kind in _ADDED:
        return _ADDED[str(kind)].from_json(values, where=str(path))
    if kind not in KINDS:
        raise UserError(
            f"{path}: a result of kind {kind!r}; this lmlab reads {', '.join(sorted(KINDS))}. One "
            "of your own is read after lmlab.extend.register_result, in every process anew"
        )
    return cast(type[Result], find(KINDS[kind])).from_json(values, where=str(path))


def redraw(folder: Path) -> Path:
    """Writes report.html beside results.json again; returns its path."""
    if not (file := folder / RESULTS).exists():
        raise UserError(f"{folder}: no {RESULTS}; run the study first")
    result = read_result(file)
    try:
        page = result.page()
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{file}: made by another version of lmlab, or edited ({error!r})"
        ) from error
    write_text(folder / PAGE, page)
    return folder / PAGE


def find(place: str) -> Any:
    """What MODULE:NAME names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
