"""Cost before training: what a configuration will take on this machine, and where contrastive
weight tying (the headless objective) cannot pay.

Notable:
- FLOPs, U and memory are counted from shapes and from the store before any weight is made; only
  the time is measured, on a few real steps of `lmlab train`'s own loop.
- U, the distinct targets of a micro-batch, is given twice: for independent draws from the unigram
  distribution, exactly, and as it is in real micro-batches. Text is bursty, so the first is larger.
- The other form (cross-entropy with the log-unigram bias for a headless configuration, and the
  other way round) is timed in turn with the one asked for.
- `doctor_warnings` says what speaks against the configuration, `doctor_report` shows it all.

Shapes: V vocabulary, K targets of a micro-batch, U distinct ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lmlab.config.objective import HeadlessConfig, objective_name, reads_as
from lmlab.config.training import TrainConfig
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.unigram import log_unigram
from lmlab.data.windows import TrainingWindows, row_keys
from lmlab.errors import UserError
from lmlab.models.build import build_model
from lmlab.models.head import attach_bias, is_tied
from lmlab.objectives import from_record
from lmlab.objectives.base import Objective
from lmlab.objectives.cross_entropy import IGNORED
from lmlab.objectives.headless import candidates_of
from lmlab.progress import duration, say
from lmlab.results import Result
from lmlab.training import cost
from lmlab.training.hardware import available_memory, peak_memory
from lmlab.training.optimizers import state_bytes
from lmlab.training.parent import child_model, find_parent
from lmlab.training.setup import (
    backbone_config,
    planned_tokens,
    resolve,
    target_counts,
    training_tokenizer,
    training_windows,
)
from lmlab.training.speed import seconds_per_step

_MICRO_BATCHES = 16
_MEASURING_SECONDS = 60.0
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 12
_WARM_UP = 2


@dataclass(frozen=True)
class Targets:
    """What the head is compared with in a micro-batch; means over real ones."""

    per_micro_batch: float
    """K."""
    distinct: float
    """U, measured; of targets and draws, where the candidates are drawn."""
    distinct_deviation: float
    """Standard deviation of U over micro-batches."""
    distinct_if_independent: float
    """Expected U of K independent draws from the training split's unigram distribution."""
    least_loss: float
    """log K - H(unigram of the micro-batch), nats: the contrastive loss cannot go below it."""
    micro_batches: int
    vocabulary: int


@dataclass(frozen=True)
class Memory:
    """Bytes that training holds all the time, and what the machine has."""

    weights: int
    gradients: int
    optimizer: int
    available: int | None
    """None where the system does not say."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Timing:
    """Seconds of a training step, the median over rounds; evaluation and saving left out."""

    seconds: float
    other_seconds: float | None
    """Of the other form; None where it was not timed."""
    rounds: int
    peak_memory: int | None
    """Bytes, with the form asked for alone: tensors on a GPU, the whole process on a CPU;
    None where the system does not say."""


@dataclass(frozen=True)
class Diagnosis(Result, kind="doctor", views="lmlab.training.doctor_report"):
    """What a configuration costs. FLOPs are per token, forward and backward."""

    derived = (
        "tokens", "epochs", "ideal_speed_up", "measured_speed_up", "expected_seconds", "warnings",
    )  # fmt: skip

    config: TrainConfig
    """Resolved for this machine."""
    parameters: cost.Parameters
    flops: cost.Flops
    flops_cross_entropy: cost.Flops
    flops_headless: cost.Flops
    targets: Targets
    memory: Memory
    windows: int
    """Of the training split."""
    uncounted_weights: int
    other_form: str | None
    """Name of the form to compare with; None for an untied causal model."""
    timing: Timing | None
    not_timed: str | None
    """Why the time, or that of the other form, is missing."""

    @property
    def tokens(self) -> int:
        """Of the whole budget."""
        return planned_tokens(self.config)

    @property
    def epochs(self) -> float:
        return self.config.steps * self.config.step_windows / self.windows

    @property
    def ideal_speed_up(self) -> float:
        """FLOPs of cross-entropy over those of the headless form."""
        return self.flops_cross_entropy.total / self.flops_headless.total

    @property
    def measured_speed_up(self) -> float | None:
        """Seconds of cross-entropy over those of the headless form."""
        if self.timing is None or self.timing.other_seconds is None:
            return None
        ratio = self.timing.other_seconds / self.timing.seconds
        return ratio if self.config.is_headless else 1 / ratio

    @property
    def expected_seconds(self) -> float | None:
        """Of the whole budget."""
        return None if self.timing is None else self.timing.seconds * self.config.steps

    @property
    def warnings(self) -> list[str]:
        """What speaks against training as configured: sentences with the figure and what to do."""
        from lmlab.training.doctor_warnings import find_warnings

        return find_warnings(self)


def diagnose(config: TrainConfig, *, rounds: int | None = None) -> Diagnosis:
    """Counts and measures what training `config` will cost. Trains and writes nothing that stays.

    `rounds` steps of each form are timed (default: as fit in a minute, 3 to 12); 0 times none.
    Raises `UserError` as `loop.train`.
    """
    if config.is_classification:
        raise UserError("the doctor looks at language models, not at `objective` classification")
    config = resolve(config)
    assert config.micro_batch is not None
    store = TokenStore(config.store)
    windows = training_windows(config, store)
    tokenizer = training_tokenizer(config, store)
    objective = from_record(config.objective_record(), order=config.order, tokenizer=tokenizer)
    targets = measure_targets(
        objective,
        windows,
        config.micro_batch,
        target_counts(config, store, tokenizer),
        headless=config.headless,
    )
    model = _shapes(config, store, tokenizer)
    head_VD = model.get_output_embeddings().weight
    tied = is_tied(model)
    if config.is_headless and not tied:
        raise UserError("a headless model is tied: give `model.tied`")
    other = other_form(config, tied=tied)
    body, attention = cost.body_flops(model), cost.attention_flops(model.config, config.context)
    vocabulary, width = head_VD.shape
    # a masked model's head sees the chosen positions only
    share = targets.per_micro_batch / (config.micro_batch * config.context)
    mixed = vocabulary if config.headless.cross_entropy else 0
    full, headless = (
        cost.Flops(body, attention, share * cost.head_flops(width, candidates))
        for candidates in (vocabulary, targets.distinct + mixed)
    )
    diagnosis = Diagnosis(
        config=config,
        parameters=cost.count_parameters(model),
        flops=headless if config.is_headless else full,
        flops_cross_entropy=full,
        flops_headless=headless,
        targets=targets,
        memory=_memory(model, config),
        windows=windows.count,
        uncounted_weights=cost.uncounted_weights(model),
        other_form=other.objective if other else None,
        timing=None,
        not_timed="no rounds were asked for",
    )
    return diagnosis if rounds == 0 else _timed(diagnosis, other, rounds)


def _shapes(config: TrainConfig, store: TokenStore, tokenizer: TextTokenizer) -> Any:
    """The model without memory for its weights, for it may not fit; a parent is loaded."""
    if parent := find_parent(config.parent):
        model = child_model(config, parent, tokenizer)
    else:
        with torch.device("meta"):
            model = build_model(backbone_config(config, store), seed=0, masked=config.is_masked)
    if prior := config.output_prior():
        attach_bias(model, torch.zeros(tokenizer.vocabulary), learnt=prior == "learnt")
    return model


def other_form(config: TrainConfig, *, tied: bool) -> TrainConfig | None:
    """The configuration to compare with: cross-entropy with the log-unigram bias for a headless
    one, headless for a tied one of cross-entropy; None for an untied one."""
    reading = reads_as(config.pair.reading)
    if config.is_headless:
        full = objective_name(reading, "softmax")
        return replace(config, objective=full, headless=HeadlessConfig(), output_bias="fixed")
    if not tied or config.is_cloze or config.is_mixed:
        return None
    headless = objective_name(reading, "contrastive")
    return replace(config, objective=headless, output_bias="fixed")


def measure_targets(
    objective: Objective,
    windows: TrainingWindows,
    micro_batch: int,
    counts_V: np.ndarray,
    *,
    headless: HeadlessConfig | None = None,
    micro_batches: int = _MICRO_BATCHES,
) -> Targets:
    """K, U and the least contrastive loss of the first micro-batches that training will see.

    `counts_V` is the training split's unigram distribution, as counts. U counts the candidates by
    the law of `headless` (the published one by default).
    """
    prior_V = torch.from_numpy(log_unigram(counts_V))
    sizes, distinct, least = [], [], []
    for number in range(micro_batches):
        step, micro = divmod(number * micro_batch, windows.batch)
        chosen = windows.indices(step)[micro : micro + micro_batch]
        batch = objective.reading.batch(
            list(windows.ids(chosen)),
            device=torch.device("cpu"),
            keys=row_keys(range(micro, micro + len(chosen)), windows.seed, step),
        )
        targets = batch.targets_BT[batch.targets_BT != IGNORED]
        counts_U = torch.unique(targets, return_counts=True)[1].double()
        sizes.append(len(targets))
        drawn = replace(batch, key=number)
        distinct.append(len(candidates_of(headless or HeadlessConfig(), drawn, prior_V).ids_U))
        least.append(float((counts_U * counts_U.log()).sum() / counts_U.sum()))
    per_micro_batch = float(np.mean(sizes))
    return Targets(
        per_micro_batch=per_micro_batch,
        distinct=float(np.mean(distinct)),
        distinct_deviation=float(np.std(distinct, ddof=1)) if micro_batches > 1 else 0.0,
        distinct_if_independent=cost.expected_distinct(counts_V, round(per_micro_batch)),
        least_loss=float(np.mean(least)),
        micro_batches=micro_batches,
        vocabulary=len(counts_V),
    )


def held_memory(config: TrainConfig) -> Memory:
    """What training a resolved run holds all the time."""
    store = TokenStore(config.store)
    return _memory(_shapes(config, store, training_tokenizer(config, store)), config)


def _memory(model: Any, config: TrainConfig) -> Memory:
    def held(trained: bool) -> int:
        return sum(
            p.numel() * p.element_size()
            for p in model.parameters()
            if p.requires_grad or not trained
        )

    assert config.device in ("cpu", "cuda")
    return Memory(
        held(False),
        held(True),
        state_bytes(model, config.optimizer),
        available_memory(config.device),
    )


def _timed(diagnosis: Diagnosis, other: TrainConfig | None, rounds: int | None) -> Diagnosis:
    """The diagnosis with the times of the form asked for and, where both fit, of the other one."""
    config, memory = diagnosis.config, diagnosis.memory
    if memory.available is not None and memory.total > memory.available:
        return replace(diagnosis, not_timed="the model does not fit in memory")
    if config.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    say("measuring a step of this configuration alone")
    # alone first: it shows what a step takes in memory, and about how long measuring will last
    first = seconds_per_step({"this": config}, rounds=1, warm_up=1)["this"]
    peak, reason = peak_memory(config.device), None
    if other and memory.available is not None and 2 * memory.total > memory.available:
        other, reason = None, "both models do not fit in memory at once"
    chosen = rounds or min(
        _MOST_ROUNDS,
        max(_FEWEST_ROUNDS, int(_MEASURING_SECONDS / (first * (2 if other else 1))) - _WARM_UP),
    )
    requests = {"this": config, **({"other": other} if other else {})}
    expected = first * len(requests) * (_WARM_UP + chosen)
    say(
        f"measuring {_WARM_UP + chosen} steps"
        + (", and of the other form in turn" if other else "")
        + f": {duration(expected)}"
    )
    try:
        seconds = seconds_per_step(requests, rounds=chosen, warm_up=_WARM_UP)
    except UserError as error:
        if other is None:
            raise
        # this form took its steps a moment ago, so the other one is what cannot be trained
        reason = str(error)
        seconds = seconds_per_step({"this": config}, rounds=chosen, warm_up=_WARM_UP)
    timing = Timing(seconds["this"], seconds.get("other"), chosen, peak)
    return replace(diagnosis, timing=timing, not_timed=reason)
