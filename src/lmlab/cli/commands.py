"""The table of commands: usage, dispatch, help and near-miss hints come from it.

A new command is one entry of `COMMANDS`, beside the dataclass of its options and its function:

    Command("toy", "what it does", options="lmlab.topics.toy.options:ToyConfig",
            function="lmlab.face:toy", positional=("model",))

Notable:
- Options and functions are named as MODULE:NAME and imported when the command runs, so that
  `lmlab --help` and a mistyped option answer at once.
- A function of the public face gets the options as keyword arguments, but for `out`. A function
  with a parameter `config` gets the dataclass of options as it is. A `Result` that either returns
  is saved in `out` (default: a folder below lab/results), and printed; what returns None has done
  that itself.
- Options called `model`, `models`, `forward`, `backward`, `target`, `basis` or `more` name models,
  `store` and `other` token stores (of the splits that `split` or `splits` names, or validation).
  `cli.refusals` looks at them before anything heavy is imported.
- Studies come from `topics.registry.STUDIES`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmlab.topics.registry import STUDIES, Study


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
    processes: bool = False
    """Whether several processes (torchrun) may do it together."""
    any_tokenizer: bool = False
    """Whether its models may have another tokenizer than its store."""
    check: str = ""
    """MODULE:NAME of a function that refuses options before torch is loaded; there is none for
    most."""
    study: bool = False
    """Whether workers can share it: `function` gets `worker` too, and writes its result."""


def _study(name: str, study: Study) -> Command:
    return Command(
        f"study {name}", study.help, study.options, study.function,
        example=study.example, study=True,
    )  # fmt: skip


_ALL = (
    Command(
        "prepare", "text to a token store",
        "lmlab.data.prepare:PrepareConfig", "lmlab.cli.training:prepare",
    ),
    Command(
        "train", "train a model on a store; the same command resumes",
        "lmlab.config.training:TrainConfig", "lmlab.cli.training:train",
        processes=True,
    ),
    Command(
        "doctor", "what a training run will cost here; options as for train",
        "lmlab.config.doctor:DoctorConfig", "lmlab.cli.training:doctor",
    ),
    Command(
        "score", "nats per token and bits per byte of a model on a store",
        "lmlab.topics.scoring.options:ScoreConfig", "lmlab.face:score",
        positional=("model",), processes=True,
    ),
    Command(
        "geometry", "shape of embeddings and hidden states, loss by frequency",
        "lmlab.topics.geometry.options:GeometryConfig", "lmlab.face:geometry",
        positional=("model",),
    ),
    Command(
        "encode", "how the output embedding encodes token probability",
        "lmlab.topics.encoding.options:EncodeConfig", "lmlab.face:encoding",
        positional=("model",), processes=True,
    ),
    Command(
        "steer", "scale tokens' probabilities by editing output embeddings",
        "lmlab.topics.encoding.options:SteerConfig", "lmlab.cli.encoding:steer",
        positional=("model",), check="lmlab.cli.refusals:check_steering",
    ),
    Command(
        "prune", "remove dimensions of the output embedding; a smaller head",
        "lmlab.topics.encoding.options:PruneConfig", "lmlab.cli.encoding:prune",
        positional=("model",), check="lmlab.cli.refusals:check_pruning",
    ),
    Command(
        "dynamics", "when in training the output embedding encodes frequency",
        "lmlab.topics.encoding.options:DynamicsConfig", "lmlab.cli.encoding:dynamics",
        positional=("model",),
    ),
    Command(
        "eval", "LAMBADA, BLiMP, multiple choice and lm-eval's tasks, zero-shot",
        "lmlab.topics.scoring.options:EvalConfig", "lmlab.cli.measuring:evaluate",
        positional=("model",), check="lmlab.cli.refusals:check_head",
    ),
    Command(
        "finetune", "classifiers on labelled texts, from any model, with intervals",
        "lmlab.topics.finetuning.options:FinetuneConfig",
        "lmlab.topics.finetuning.study:run_finetune",
        study=True,
    ),
    Command(
        "sample", "text from a model",
        "lmlab.lm.options:SampleConfig", "lmlab.cli.training:sample",
        positional=("model",), check="lmlab.cli.refusals:check_continues",
    ),
    Command(
        "export", "a model as a standard transformers folder",
        "lmlab.lm.options:ExportConfig", "lmlab.cli.training:export",
        positional=("model",), check="lmlab.cli.refusals:check_export",
    ),
    Command(
        "embed", "text to rows of hidden states, any models",
        "lmlab.topics.decomposition.options:EmbedConfig", "lmlab.cli.measuring:embed",
        processes=True, any_tokenizer=True,
    ),
    Command(
        "decompose", "how much of a model is a linear combination of others",
        "lmlab.topics.decomposition.options:DecomposeConfig", "lmlab.cli.measuring:decompose",
        positional=("target",), processes=True, any_tokenizer=True,
    ),
    Command(
        "apply", "map cheap embeddings to an expensive model's",
        "lmlab.topics.decomposition.options:ApplyConfig", "lmlab.cli.measuring:apply",
        positional=("weights",), any_tokenizer=True,
    ),
    Command(
        "prefer", "which types of token each of two towers predicts better",
        "lmlab.topics.towers.options:PreferConfig", "lmlab.face:prefer",
        positional=("model",), processes=True,
    ),
    Command(
        "arrow", "compare a forward and a backward model on a store",
        "lmlab.topics.arrow.options:ArrowPairConfig", "lmlab.face:arrow",
        positional=("forward", "backward"),
    ),
    Command(
        "plan", "seeds, documents and tokens that it takes to see a difference",
        "lmlab.topics.planning.options:PlanConfig", "lmlab.topics.planning.plan:plan",
        positional=("study",),
    ),
    *(_study(name, study) for name, study in STUDIES.items()),
    Command(
        "report", "draw the report of a finished study again",
        "lmlab.studies.options:ReportConfig", "lmlab.cli.studies:report",
        positional=("study",),
    ),
    Command(
        "tour", "a small edition of the studies, in a few minutes",
        "lmlab.topics.tour.options:TourConfig", "lmlab.cli.studies:tour",
    ),
)  # fmt: skip

COMMANDS = {command.name: command for command in _ALL}


def usage() -> str:
    """What `lmlab --help` shows."""
    lines = ["lmlab: a laboratory for language models", ""]
    for command in COMMANDS.values():
        name = f"  lmlab {command.name}"
        if len(name) >= _COLUMN:
            lines.append(name)
            name = ""
        lines.append(f"{name:<{_COLUMN}}{command.help}")
    return "\n".join([*lines, "", _MORE])


_COLUMN = 24
_MORE = """\
Each command has --help, and --config FILE reads its options from TOML. Studies and finetune are
shared by processes with --worker, started on Slurm with --submit FILE; --status says how far."""
