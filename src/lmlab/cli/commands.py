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

from lmlab.topics.registry import STUDIES, TRAIN, Command

_ALL = (
    Command(
        "prepare", "text to a token store",
        "lmlab.data.prepare:PrepareConfig", "lmlab.cli.training:prepare",
        positional=("text",), example="novels/ --vocabulary 4096 --out lab/novels",
        usual=(
            "tokenizer.kind", "vocabulary", "separator", "lines", "split.test", "split.validation",
        ),
    ),
    Command(
        "train", "train a model on a store; the same command resumes",
        "lmlab.config.tracked:TrackedTrainConfig", "lmlab.cli.training:train",
        example="--store lab/novels --size micro --steps 500 --out lab/forward",
        usual=TRAIN, processes=True,
    ),
    Command(
        "lengthen", "go on with a finished run, as a new and longer one",
        "lmlab.config.lengthen:LengthenConfig", "lmlab.cli.training:lengthen",
        positional=("run",), example="lab/forward --steps 1000", processes=True,
    ),
    Command(
        "doctor", "what a training run will cost here; options as for train",
        "lmlab.config.doctor:DoctorConfig", "lmlab.cli.training:doctor",
        example="--store lab/novels --size small --tokens 10000000",
        usual=(*TRAIN, "rounds", "results"),
    ),
    Command(
        "runs", "the training runs below a folder",
        "lmlab.topics.runs.options:RunsConfig", "lmlab.cli.runs:runs",
        positional=("folder",), example="lab --where objective=headless --sort bits_per_byte",
    ),
    Command(
        "watch", "follow a run or a study in the terminal",
        "lmlab.topics.runs.options:WatchConfig", "lmlab.cli.runs:watch",
        positional=("folder",), example="lab/forward",
    ),
    Command(
        "score", "nats per token and bits per byte of a model on a text or a store",
        "lmlab.topics.scoring.options:ScoreConfig", "lmlab.face:score",
        positional=("model",), example="lab/forward --store lab/novels", processes=True,
    ),
    Command(
        "compare", "any models on the same text or tasks: differences, ranking, where they lie",
        "lmlab.topics.comparing.options:CompareConfig", "lmlab.cli.measuring:compare",
        positional=("kinds",), check="lmlab.cli.refusals:check_compared",
        example="lab/forward lab/headless --text unseen/", any_tokenizer=True,
    ),
    Command(
        "route", "a gate between two finished models, token by token, and what it gains",
        "lmlab.topics.routing.options:RouteConfig", "lmlab.face:route",
        positional=("first", "second"), example="lab/speech lab/novels --store lab/both",
    ),
    Command(
        "rerank", "continuations of a forward model chosen by a backward one, judged by a third",
        "lmlab.topics.reranking.options:RerankConfig", "lmlab.face:rerank",
        positional=("forward", "backward"),
        example="lab/forward lab/backward --judge lab/other --store lab/novels",
    ),
    Command(
        "surprisal", "surprisal of each word or token of a text, and the text in colour",
        "lmlab.topics.surprisal.options:SurprisalConfig", "lmlab.cli.measuring:surprisal",
        positional=("model", "text"),
        example='lab/forward "The horse raced past the barn fell."',
    ),
    Command(
        "geometry", "shape of embeddings and hidden states, loss by frequency",
        "lmlab.topics.geometry.options:GeometryConfig", "lmlab.face:geometry",
        positional=("model",), example="lab/forward --store lab/novels",
    ),
    Command(
        "bottleneck", "how much of the gradient of the logits passes the head",
        "lmlab.topics.bottleneck.options:BottleneckConfig", "lmlab.face:bottleneck",
        positional=("models",), example="lab/forward lab/headless --store lab/novels",
    ),
    Command(
        "encode", "how the output embedding encodes token probability",
        "lmlab.topics.encoding.options:EncodeConfig", "lmlab.face:encoding",
        positional=("model",), example="lab/forward --store lab/novels", processes=True,
    ),
    Command(
        "steer", "scale tokens' probabilities by editing output embeddings",
        "lmlab.topics.encoding.options:SteerConfig", "lmlab.cli.encoding:steer",
        positional=("model",), check="lmlab.cli.refusals:check_steering",
        example='lab/forward --store lab/novels --token " the=0.5" " of=2" --out lab/steered',
    ),
    Command(
        "prune", "remove dimensions of the output embedding; a smaller head",
        "lmlab.topics.encoding.options:PruneConfig", "lmlab.cli.encoding:prune",
        positional=("model",), check="lmlab.cli.refusals:check_pruning",
        example="lab/forward --store lab/novels --share 0.3 --out lab/pruned",
    ),
    Command(
        "dynamics", "when in training the output embedding encodes frequency",
        "lmlab.topics.encoding.options:DynamicsConfig", "lmlab.cli.encoding:dynamics",
        positional=("models",), example="lab/forward --store lab/novels",
    ),
    Command(
        "evaluate", "BLiMP, LAMBADA, multiple choice, BabyLM's and lm-eval's tasks, zero-shot",
        "lmlab.topics.scoring.options:EvalConfig", "lmlab.cli.measuring:evaluate",
        positional=("model",), check="lmlab.cli.refusals:check_head",
        example="lab/forward --tasks lambada=lambada.jsonl blimp=blimp/",
    ),
    Command(
        "sample", "text from a model",
        "lmlab.lm.options:SampleConfig", "lmlab.cli.training:sample",
        positional=("model",), check="lmlab.cli.refusals:check_continues",
        example='lab/forward --prompt "Once upon a time"',
    ),
    Command(
        "export", "a model as a standard transformers folder",
        "lmlab.lm.options:ExportConfig", "lmlab.cli.training:export",
        positional=("model",), check="lmlab.cli.refusals:check_export",
        example="lab/forward --out lab/exported",
    ),
    Command(
        "publish", "a run as the revisions of a repository of the Hub",
        "lmlab.lm.options:PublishConfig", "lmlab.cli.training:publish",
        positional=("run",), example="lab/forward --repo me/forward --out lab/published",
    ),
    Command(
        "embed", "text to rows of hidden states, any models",
        "lmlab.topics.decomposition.options:EmbedConfig", "lmlab.cli.measuring:embed",
        positional=("models",), example="lab/forward gpt2 --store lab/novels",
        processes=True, any_tokenizer=True,
    ),
    Command(
        "decompose", "how much of a model is a linear combination of others",
        "lmlab.topics.decomposition.options:DecomposeConfig", "lmlab.cli.measuring:decompose",
        positional=("target",),
        example="lab/forward --basis lab/backward lab/other --store lab/novels",
        processes=True, any_tokenizer=True,
    ),
    Command(
        "lineage", "the tree of models by what they make of text, and how much of a known one",
        "lmlab.topics.lineage.options:LineageConfig", "lmlab.cli.measuring:lineage",
        positional=("models",), any_tokenizer=True,
        example='lab/a lab/b lab/c lab/d --store lab/novels --truth "((a,b),(c,d))"',
    ),
    Command(
        "apply", "map cheap embeddings to an expensive model's",
        "lmlab.topics.decomposition.options:ApplyConfig", "lmlab.cli.measuring:apply",
        positional=("weights",), any_tokenizer=True,
        example="lab/results/decompose-1a2b3c4d/forward.safetensors --store lab/novels",
    ),
    Command(
        "prefer", "which types of token each of two towers predicts better",
        "lmlab.topics.towers.options:PreferConfig", "lmlab.face:prefer",
        positional=("model",), example="lab/probe --store lab/novels", processes=True,
    ),
    Command(
        "arrow", "compare a forward and a backward model on a store",
        "lmlab.topics.arrow.options:ArrowPairConfig", "lmlab.face:arrow",
        positional=("forward", "backward"),
        example="lab/forward lab/backward --store lab/novels",
    ),
    Command(
        "plan", "seeds, documents and tokens that it takes to see a difference",
        "lmlab.topics.planning.options:PlanConfig", "lmlab.topics.planning.plan:plan",
        positional=("study",), example="lab/arrow-1a2b3c4d --effect 0.2",
    ),
    *STUDIES.values(),
    Command(
        "report", "draw the page of a run, a study or a result; an index of pages",
        "lmlab.topics.runs.options:ReportConfig", "lmlab.cli.runs:report",
        positional=("folder",), example="lab/forward",
    ),
    Command(
        "completion", "a script by which bash, zsh or fish completes what you type",
        "lmlab.cli.completion:CompletionConfig", "lmlab.cli.completion:completion",
        positional=("shell",), example="bash",
    ),
    Command(
        "tour", "a small edition of the studies, in a few minutes",
        "lmlab.topics.tour.options:TourConfig", "lmlab.cli.studies:tour",
    ),
)  # fmt: skip

COMMANDS = {command.name: command for command in _ALL}

ELSEWHERE = {
    name: ours
    for ours, names in {
        "runs": "ls list show history rm delete remove",
        "watch": "status follow tail monitor top",
        "sample": "generate complete chat infer predict text",
        "evaluate": "eval lm_eval lm-eval benchmark test zero-shot zeroshot",
        "score": "perplexity ppl loss bpb",
        "finetune": "fine-tune fine_tune classify glue",
        "prepare": "tokenize preprocess data dataset build",
        "train": "pretrain fit resume run",
        "lengthen": "continue extend",
        "doctor": "estimate flops cost memory profile",
        "export": "convert save",
        "publish": "push upload release",
        "embed": "embeddings embedding encode-text features",
        "encode": "encoding",
        "report": "plot draw redraw page",
        "study arrow": "study",
    }.items()
    for name in names.split()
}
"""What others call a command of ours."""


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
shared by processes with --worker, started on Slurm with --submit FILE; --plan says what they take,
--status how far they are."""
