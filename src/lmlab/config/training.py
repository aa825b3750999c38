"""Configuration of a training run. Imports no torch.

What decides the result is the run's identity (`identity_values`); where it lies, how many threads
it uses and the like are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from lmlab.config import recipe, to_mapping
from lmlab.config.model import (
    ATTENTION,
    MASKED,
    RECURRENT,
    RECURRENT_SIZES,
    SIZES,
    ModelConfig,
)
from lmlab.config.numbers import Options, above_zero, at_least
from lmlab.config.objective import (
    OBJECTIVES,
    OPTIONS_OF,
    HeadlessConfig,
    MaskingConfig,
    MixedConfig,
    OutputBias,
    Pair,
    TrainedObjective,
    pair_of,
    reads_as,
)
from lmlab.config.towers import TowersConfig
from lmlab.errors import UserError

BUDGETS: Mapping[str, int] = {"strict-small": 10_000_000, "strict": 100_000_000}
"""Words that the training text of each track of BabyLM may have."""
BUDGET_EPOCHS = 10
"""How often it may be read, in each of them."""
BABYLM_WORDS = tuple(
    count * unit * 1_000_000 for unit, most in ((1, 9), (10, 10), (100, 10))
    for count in range(1 if unit < 100 else 2, most + 1)
)  # fmt: skip
"""Words seen at which that community looks at a model: each million to 9, then each ten million to
100, then each hundred million to 1000."""


def whole_steps(tokens: int, step: int) -> int:
    """Steps of `step` tokens that come nearest to so many. `UserError` for less than one step."""
    if tokens < step:
        raise UserError(
            f"`tokens` {tokens:,} is less than one step of {step:,} tokens: give more, or smaller "
            "steps"
        )
    return round(tokens / step)


_STEPS = 1000
_TRAINED_PER_VALIDATED = 4.0  # windows


@dataclass(frozen=True)
class OptimizerConfig(Options, prefix="optimizer."):
    """Weight decay applies to the matrices of linear and recurrent layers only: not to embeddings,
    norms or biases."""

    name: Literal["auto", "adamw", "muon"] = "auto"
    """muon: orthogonalised momentum for those matrices, AdamW for everything else; auto: muon for
    the fresh weights of a causal Transformer with cross-entropy, adamw for all others (and with
    `fsdp`)."""
    learning_rate: float | None = None
    """The peak (default: by the recipe, 0.5 / width for muon, 1e-3 for adamw)."""
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.9
    """Muon's momentum."""
    clip: float = 1.0
    """Largest norm of the whole gradient."""

    def __post_init__(self) -> None:
        above_zero(self, "learning_rate", "epsilon", "clip")
        if not all(b < 1 for b in (*self.betas, self.momentum)):
            raise UserError("betas and momentum must be in [0, 1)")


@dataclass(frozen=True)
class ScheduleConfig(Options, prefix="schedule."):
    """The learning rate over the run: linear warm-up, then a decay to `final` of the peak."""

    kind: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """wsd: constant, then linear decay over the last `decay` of the steps."""
    warmup: float = 0.05
    """Share of the steps."""
    decay: float = 0.2
    """Share of the steps (wsd)."""
    final: float = 0.1
    """The rate of the last step, as a share of the peak."""

    def __post_init__(self) -> None:
        if not (self.warmup < 1 and 0 < self.decay <= 1 and self.final <= 1):
            raise UserError("schedule: warmup in [0, 1), decay in (0, 1], final in [0, 1]")


@dataclass(frozen=True)
class CheckpointConfig(Options, prefix="checkpoints."):
    """When to save. The last step is always saved."""

    every: int = 500
    logarithmic: bool = False
    """Also at steps 0, 1, 2, 4, 8, ..., to watch learning from its start."""
    per_doubling: int = 1
    """Of those, so many for each doubling of the step (4: each 19 % later than the one before), to
    tell apart what happens at nearly the same time; they take disk space."""
    words: Literal["babylm"] | tuple[int, ...] | None = None
    """Also where so many words have been seen, repeats counted (100K 200K 1M), or at those of
    BabyLM: each million to 9M, each ten to 100M, each hundred to 1000M. They stay, whatever
    `keep` says."""
    keep: int | None = None
    """Keep only this many newest checkpoints (all by default)."""
    minutes: float = 30.0
    """Also save when so many minutes have passed without a checkpoint (0: never); that one goes
    when a later one is there, and decides nothing."""

    def __post_init__(self) -> None:
        if self.per_doubling > 1 and not self.logarithmic:
            raise UserError("`checkpoints.per_doubling` needs `checkpoints.logarithmic`")
        if isinstance(self.words, tuple):
            if not self.words:
                raise UserError("`checkpoints.words` names no number of words")
            object.__setattr__(self, "words", tuple(sorted({*self.words})))

    @property
    def word_counts(self) -> tuple[int, ...]:
        """What `words` asks for, from few to many."""
        return BABYLM_WORDS if self.words == "babylm" else self.words or ()

    def due(self, step: int, last: int) -> bool:
        """Whether a checkpoint belongs after `step` updates."""
        regular = step > 0 and step % self.every == 0
        return step == last or regular or (self.logarithmic and self._on_grid(step))

    def _on_grid(self, step: int) -> bool:
        if step == 0:
            return True
        number = round(self.per_doubling * math.log2(step))
        return step == round(2 ** (number / self.per_doubling))


@dataclass(frozen=True)
class ParentConfig(Options):
    """A model whose weights a run starts from, instead of fresh ones: the run is its child."""

    path: str | None = None
    """Run folder (its newest checkpoint), checkpoint, saved transformers model, or Hub name. Its
    architecture is kept, so `model` settings are left out."""
    untie: bool = False
    """Give the child an output embedding of its own, which starts at the tied one."""
    freeze_body: bool = False
    """Train the head alone (a tied model needs untie)."""

    def __post_init__(self) -> None:
        if self.path is None and (self.untie or self.freeze_body):
            raise UserError("`parent.untie` and `parent.freeze_body` need `parent.path`")


@dataclass(frozen=True)
class LengthenedConfig(Options):
    """Where a run goes on from, as `lmlab lengthen` writes it."""

    from_checkpoint: str | None = None
    """The checkpoint of the finished run."""
    from_step: int | None = None
    """Its step."""
    from_run: str | None = None
    """The finished run's identity."""
    rewarm: bool = False
    """Warm the learning rate up again, from where it had come down to."""

    def __post_init__(self) -> None:
        if len({v is None for v in (self.from_checkpoint, self.from_step, self.from_run)}) > 1:
            raise UserError("`lengthened` settings are written by `lmlab lengthen`")


@dataclass(frozen=True)
class TrainConfig(Options):
    """Train a model on a token store. An interrupted run resumes with the same command."""

    one_of = ("steps", "tokens", "epochs")

    store: Path
    """Folder made by `lmlab prepare`."""
    out: Path | None = None
    """Run folder (default: below runs, by its name and the digest of what decides it)."""
    order: str = "forward"
    """forward, backward, or permutation:SEED."""
    objective: TrainedObjective = "causal"
    """causal, masked: cross-entropy; mixed: both in a causal model, window by window; headless,
    headless-masked: contrastive weight tying (needs `model.tied`); towers, towers-masked: two
    towers that share one prediction; towers-cloze: one reads forward, one backward (lstm, gru);
    probe, probe-masked, probe-cloze: a head for each tower of `parent.path`; classification: of
    labelled texts, from a parent (see `lmlab finetune`). From Python also what
    `lmlab.extend.register_objective` made known."""
    headless: HeadlessConfig = field(default_factory=HeadlessConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    mixed: MixedConfig = field(default_factory=MixedConfig)
    towers: TowersConfig = field(default_factory=TowersConfig)
    class_balanced: bool = False
    """Of classification: every class has the same weight in the loss, however rare."""
    output_bias: OutputBias = "none"
    """Of cross-entropy: an output bias at the log-unigram distribution of the training split,
    fixed or learnt from there. A headless model always has the fixed one, for scoring."""
    model: ModelConfig = field(default_factory=ModelConfig)
    parent: ParentConfig = field(default_factory=ParentConfig)
    lengthened: LengthenedConfig = field(default_factory=LengthenedConfig)
    context: int = 256
    """Tokens a window."""
    batch: int | None = None
    """Windows a step (default: by the recipe, the power of two nearest to 1.8 tokens a step for the
    square root of the run's tokens)."""
    micro_batch: int | None = None
    """Windows a forward pass; gradients are accumulated over the batch (default: all at once)."""
    source_temperature: float | None = None
    """For a store of several sources (languages): draw each in proportion to
    tokens ** (1 / TEMPERATURE), no window holding two. 1: to its tokens, as without this option in
    expectation; large: all equally. Usual for languages: 1 / 0.7 (multilingual BERT; Conneau and
    Lample 2019, also 1 / 0.5) to 1 / 0.3 (Conneau et al. 2020)."""
    steps: int = at_least(1, None)
    """Updates (default: 1000; with a budget the epochs that it allows)."""
    tokens: int | None = None
    """In place of steps: training tokens, to the nearest step of batch x context."""
    epochs: float | None = None
    """In place of steps: times that the training split is read, to the next step."""
    words: int | None = None
    """The most words that the training split may have; a store with more is refused. Decides
    nothing else."""
    budget: Literal["strict-small", "strict"] | None = None
    """That of a track of BabyLM: at most 10M words (strict: 100M), read at most 10 times (which is
    then the default length), with `checkpoints.words` babylm."""
    seed: int = at_least(0, 0)
    """Decides initial weights, data order and dropout."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate_every: int | None = None
    """Steps between validations (default: a twentieth of the run, or as many as train on four times
    the windows that are scored)."""
    early_stopping: int | None = None
    """Stop when so many validations in a row were no better than the best one before them, and end
    with the best one's checkpoint (default: train to the end, and end with the last)."""
    evaluation_windows: int = 64
    """Validation windows scored each time (a fixed random sample)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 products where the processor has them, with float32 weights."""
    compile: bool = False
    """torch.compile: faster steps, 20 to 60 seconds to start."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    """CPU threads (default: the cores this process may use)."""
    fsdp: bool = False
    """Under torchrun, share weights, gradients and optimizer out over the processes (FSDP2), for a
    model that is too large for one; without it each has all of them (DDP)."""
    strict: bool = False
    """Refuse to resume where a setting differs that could change bits."""

    def __post_init__(self) -> None:
        above_zero(self, "source_temperature", "epochs")
        if self.budget is not None:
            self._spend(self.budget)
        if self.steps is None:
            object.__setattr__(self, "steps", _STEPS)
        if self.batch is None and self.epochs is None:
            length = {"tokens": self.tokens} if self.tokens else {"steps": self.steps}
            object.__setattr__(self, "batch", self.recipe_batch(**length))
        if self.tokens is not None:
            step = self.step_windows * self.context
            object.__setattr__(self, "steps", whole_steps(self.tokens, step))
            object.__setattr__(self, "tokens", None)
        self._check_objective()
        if self.fsdp and (self.optimizer.name == "muon" or self.compile or self.is_towers):
            raise UserError(
                "`fsdp` shares weights out, which `optimizer.name` muon, `compile` and towers need "
                "whole; leave one of them out"
            )
        if self.micro_batch and self.batch and self.batch % self.micro_batch:
            raise UserError(
                f"`micro_batch` {self.micro_batch} must divide the batch of {self.batch} windows"
            )

    def _spend(self, budget: str) -> None:
        """What a budget says where nothing else does. `UserError` for more than it allows."""
        most = BUDGETS[budget]
        asked = {"words": (self.words, most), "epochs": (self.epochs, BUDGET_EPOCHS)}
        for name, (value, allowed) in asked.items():
            if value is not None and value > allowed:
                raise UserError(
                    f"`{name}` {value:,}: `budget` {budget} allows {most:,} words, read "
                    f"{BUDGET_EPOCHS} times"
                )
        object.__setattr__(self, "words", self.words or most)
        if self.steps is None and self.tokens is None and self.epochs is None:
            object.__setattr__(self, "epochs", float(BUDGET_EPOCHS))
        if self.checkpoints.words is None:
            object.__setattr__(self, "checkpoints", replace(self.checkpoints, words="babylm"))

    def _check_objective(self) -> None:
        if self.checkpoints.words is not None and self.early_stopping is not None:
            raise UserError(
                "`early_stopping` ends a run with its best checkpoint alone: leave it out, or "
                "`checkpoints.words`" + (" and `budget`" if self.budget else "")
            )
        if self.is_headless and self.output_bias == "learnt" and not self.headless.cross_entropy:
            raise UserError(
                "`output_bias` learnt has no gradient in a headless loss; mix in some "
                "`headless.cross_entropy`, or leave it fixed"
            )
        if self.is_headless and self.output_bias == "learnt" and self.headless.needs_prior:
            raise UserError(
                f"`headless.candidates` {self.headless.candidates} draws from the prior that the "
                "model scores with, which `output_bias` learnt would move; leave it fixed"
            )
        if (
            self.headless.candidates == "other-windows"
            and (self.micro_batch or self.batch or 2) < 2
        ):
            raise UserError(
                "`headless.candidates` other-windows needs at least 2 windows a micro-batch: use a "
                "larger `batch` or `micro_batch`, or the candidates unigram"
            )
        for options, parts in OPTIONS_OF.items():
            values = getattr(self, options)
            if parts.isdisjoint(self.pair) and values != type(values)():
                fitting = ", ".join(n for n, pair in OBJECTIVES.items() if parts & {*pair})
                raise UserError(f"`{options}` settings are for `objective` {fitting}")
        if self.is_classification and (self.words or self.checkpoints.words):
            raise UserError(
                "`words`, `budget` and `checkpoints.words` are of language models, not of "
                "`objective` classification"
            )
        if self.is_classification:
            self._check_classification()
        elif self.class_balanced:
            raise UserError("`class_balanced` is for `objective` classification")
        if self.reads_both_sides and self.order != "forward":
            raise UserError(f"`order` {self.order}: a masked model reads both ways; leave it out")
        if self.is_probe and (
            self.parent.path is None or self.parent != ParentConfig(self.parent.path)
        ):
            raise UserError(
                f"`objective` {self.objective} trains heads on frozen towers: it needs "
                "`parent.path`, and neither `parent.untie` nor `parent.freeze_body`"
            )
        if self.parent.path is not None:
            if self.model != ModelConfig():
                raise UserError(
                    "`model` settings and `parent.path`: the parent decides the architecture; "
                    "leave `model` out"
                )
            if self.towers != TowersConfig():
                raise UserError("`towers` settings and `parent.path`: the parent decides on fusion")
            return
        architecture = self.model.architecture
        causal = ATTENTION if self.is_mixed else (*ATTENTION, *RECURRENT)
        fitting = MASKED if self.is_masked else causal
        if architecture not in (*fitting, "auto"):
            raise UserError(
                f"`objective` {self.objective} cannot train `model.architecture` {architecture}; "
                f"use {', '.join(fitting)} or auto"
            )
        if self.is_towers and architecture == "auto":
            raise UserError("`model.architecture` auto: towers need one that lmlab builds")

    def _check_classification(self) -> None:
        if self.parent.path is None:
            raise UserError(
                "`objective` classification starts from a language model: `parent.path`"
            )
        if self.parent.untie or self.output_bias != "none" or self.source_temperature is not None:
            raise UserError(
                "`parent.untie`, `output_bias` and `source_temperature` are for language models, "
                "not for `objective` classification"
            )

    @property
    def model_name(self) -> str:
        """What its model is called: architecture and size, such as qwen3-micro, or child."""
        if self.parent.path is not None:
            return "child"
        model = self.model
        if model.path is not None:
            return Path(model.path).name
        chosen = model.dimensions()
        sizes = RECURRENT_SIZES if model.architecture in RECURRENT else SIZES
        named = [name for name, size in sizes.items() if size == chosen]
        return f"{model.architecture}-{named[0] if named else f'{chosen.layers}x{chosen.width}'}"

    def run(self) -> TrainConfig:
        """The run alone, without what a command is asked beside these options."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})

    @property
    def pair(self) -> Pair:
        """How the objective reads a text, and its criterion."""
        return pair_of(self.objective)

    def recipe_batch(self, **length: Any) -> int:
        """Windows a step by the recipe, in whole micro-batches, for `tokens` or `steps`."""
        windows, together = recipe.windows_a_step(self.context, **length), self.micro_batch or 1
        return -(-windows // together) * together

    @property
    def step_windows(self) -> int:
        """Windows a step, once the run's length is known."""
        assert self.batch is not None
        return self.batch

    @property
    def peak_rate(self) -> float:
        """The largest learning rate, of a run that is resolved."""
        assert self.optimizer.learning_rate is not None
        return self.optimizer.learning_rate

    @property
    def is_headless(self) -> bool:
        return self.pair.criterion == "contrastive"

    @property
    def is_masked(self) -> bool:
        return self.pair.reading == "masked"

    @property
    def is_mixed(self) -> bool:
        return self.pair.reading == "mixed"

    @property
    def is_towers(self) -> bool:
        return self.pair.criterion == "fused-towers"

    @property
    def is_probe(self) -> bool:
        return self.pair.criterion == "tower-probes"

    @property
    def is_classification(self) -> bool:
        return self.pair.criterion == "labels"

    @property
    def is_cloze(self) -> bool:
        return self.pair.reading == "cloze"

    @property
    def reads_both_sides(self) -> bool:
        return self.is_masked or self.is_mixed or self.is_cloze

    @property
    def positions(self) -> int:
        """Positions of the model's input: what is read from both sides, or by a classifier, may
        have a token at either end, and a mixed model has BOS before a whole window."""
        return self.context + {"causal": 0, "mixed": 1}.get(reads_as(self.pair.reading), 2)

    def objective_record(self) -> dict[str, Any]:
        """What `objectives.from_record` builds the objective from."""
        settings = to_mapping(self.headless) if self.is_headless else {}
        masking = {}
        if self.is_masked or self.is_mixed:
            masking["masking"] = to_mapping(self.masking)
        if self.is_mixed:
            masking["mixed"] = to_mapping(self.mixed)
        if self.is_towers:
            settings = {"balance": self.towers.balance}
        return {"name": self.objective, **masking, **settings}

    def output_prior(self) -> Literal["fixed", "learnt"] | None:
        """Whether the head has an output bias at the log-unigram distribution, and which."""
        if self.output_bias == "none":
            return "fixed" if self.is_headless else None
        return self.output_bias

    def evaluation_interval(self) -> int:
        """Steps between validations."""
        if self.evaluate_every:
            return self.evaluate_every
        # scoring a token costs about a third of training on one
        seldom = math.ceil(_TRAINED_PER_VALIDATED * self.evaluation_windows / self.step_windows)
        return max(1, self.steps // 20, min(self.steps, seldom))

    def resolved(self, *, device: str, dtype: str, threads: int) -> TrainConfig:
        """The same run with nothing left to be found out at run time."""
        assert device in ("cpu", "cuda")
        assert dtype in ("float32", "bfloat16")
        return replace(
            self,
            optimizer=self._decided_optimizer(),
            model=self._decided_model(),
            device=device,  # pyright: ignore[reportArgumentType]
            dtype=dtype,  # pyright: ignore[reportArgumentType]
            threads=threads,
            micro_batch=self.micro_batch or self.batch,
            evaluate_every=self.evaluation_interval(),
        )

    def _decided_model(self) -> ModelConfig:
        if self.parent.path is not None:
            return self.model
        # the default size was another one once, so it is named: runs of then are not runs of now
        size, zero_init = self.model.decided_size, self.model.starts_at_zero and not self.is_towers
        return replace(self.model, size=size, zero_init=zero_init)

    def _decided_optimizer(self) -> OptimizerConfig:
        name, rate = self.optimizer.name, self.optimizer.learning_rate
        if name == "auto":
            as_swept = self.objective in ("causal", "mixed")
            swept = as_swept and self.model.architecture not in RECURRENT
            name = "muon" if swept and self.parent.path is None and not self.fsdp else "adamw"
        if rate is None:
            known = self.model.architecture != "auto" and self.parent.path is None
            rate = recipe.learning_rate(name, self.model.dimensions().width if known else None)
        return replace(self.optimizer, name=name, learning_rate=rate)

    def identity_values(self, *, store_fingerprint: str, parent: str | None) -> dict[str, Any]:
        """Plain values that decide the run's result; their digest is the run's identity.

        The store counts by content, not by place.
        """
        values = to_mapping(self)
        # a limit on what a run may read does not change what it reads
        for name in ("store", "out", "device", "threads", "strict", "fsdp", "words", "budget"):
            values.pop(name, None)
        # What is not used decides nothing
        for options, parts in OPTIONS_OF.items():
            if parts.isdisjoint(self.pair):
                values.pop(options)
        if self.is_headless and self.headless.is_published_law:  # as before there were other laws
            values["headless"].pop("candidates")
        if self.is_towers and self.towers.losses == "joint":
            values["towers"].pop("losses")
        if self.output_bias == "none":
            values.pop("output_bias")
        if not self.class_balanced:
            values.pop("class_balanced")
        if not self.model.zero_init:
            values["model"].pop("zero_init", None)
        if self.optimizer.name == "muon":  # there were five others; runs of then are not these
            values["optimizer"]["iterations"] = 3
        values["checkpoints"].pop("minutes")
        if self.lengthened.from_checkpoint is None:
            values.pop("lengthened")
        else:
            values["lengthened"].pop("from_checkpoint")
        if self.checkpoints.per_doubling == 1:
            values["checkpoints"].pop("per_doubling")
        how = values.pop("parent")
        if parent is not None:
            values.pop("model")
            values.pop("towers", None)
            how.pop("path")
            values["child"] = how
        return {**values, "store_fingerprint": store_fingerprint, "parent": parent}
