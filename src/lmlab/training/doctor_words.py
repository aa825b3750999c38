"""The diagnosis of `lmlab doctor` in words: a table with units, and warnings.

Notable: every warning follows from a figure of the diagnosis, names it, and says what to do. A
configuration that nothing speaks against gets none.

Shapes: T context, D width, V vocabulary, K targets of a micro-batch, U distinct ones.
"""

from __future__ import annotations

import math

from lmlab.progress import duration
from lmlab.training.doctor import Diagnosis

_LEAST_SPEED_UP = 1.1
_CLOSE_TO_VOCABULARY = 0.8  # share of V
_FEW_TARGETS = 256
_FEW_WINDOWS = 8
_MANY_EPOCHS = 20


def find_warnings(made: Diagnosis) -> list[str]:
    """What speaks against training as configured: sentences with the figure and what to do."""
    config, memory = made.config, made.memory
    found = list(_headless_warnings(made)) if config.is_headless else []
    if made.windows < config.batch:
        found.append(
            f"A step reads {config.batch:,} windows, but the training split has only "
            f"{made.windows:,}: the same windows stand in a batch twice. Lower --batch or "
            "--context, or prepare more text."
        )
    if made.epochs > _MANY_EPOCHS:
        found.append(
            f"The budget of {made.tokens:,} tokens reads the training split {made.epochs:.1f} "
            f"times (warned of above {_MANY_EPOCHS}): the model will learn it by heart. Lower "
            "--steps, or prepare more text."
        )
    if memory.available is not None and memory.total > memory.available:
        found.append(
            f"Weights, gradients and optimizer take {byte_size(memory.total)}, before any "
            f"activation, and {byte_size(memory.available)} are available on {config.device}. "
            "Choose a smaller model or vocabulary, or another machine."
        )
    if made.uncounted_weights > 0.01 * made.parameters.body:
        found.append(
            f"{made.uncounted_weights:,} weights of the body are in layers whose FLOPs are not "
            "known, so the FLOPs are too few and the head's share too large. Trust the measured "
            "time."
        )
    return found


def _headless_warnings(made: Diagnosis) -> list[str]:
    config, targets = made.config, made.targets
    found: list[str] = []
    ideal, measured = made.ideal_speed_up, made.measured_speed_up
    share = 100 * made.flops_cross_entropy.head_share
    if config.headless.cross_entropy:
        found.append(
            f"--headless.cross-entropy {config.headless.cross_entropy} computes the softmax over "
            f"the vocabulary too, so a step has {1 / ideal:.2f} times the FLOPs of cross-entropy "
            "alone. Leave it at 0 if the aim is speed."
        )
    elif targets.distinct > _CLOSE_TO_VOCABULARY * targets.vocabulary:
        found.append(
            f"A micro-batch has {targets.distinct:,.0f} distinct targets of a vocabulary of "
            f"{targets.vocabulary:,}: the headless loss forms hardly smaller a product than the "
            f"softmax. Use a larger vocabulary, or train with --objective {made.other_form}."
        )
    elif ideal < _LEAST_SPEED_UP:
        found.append(
            f"The head is only {share:.1f} % of the FLOPs of cross-entropy, so headless training "
            f"has at best {ideal:.2f} times the speed, by FLOPs. Train with --objective "
            f"{made.other_form}, or use a larger vocabulary or a smaller body."
        )
    elif measured is not None and measured < 1:
        found.append(
            f"Measured on this machine, a headless step takes {1 / measured:.2f} times as long as "
            f"one of cross-entropy, although FLOPs promise {ideal:.2f} times the speed. Train "
            f"with --objective {made.other_form}, or measure again on a quiet machine."
        )
    law = config.headless
    assert config.micro_batch is not None
    if law.candidates == "batch" and config.micro_batch < _FEW_WINDOWS:
        found.append(
            f"A micro-batch has {config.micro_batch} windows, so 1 in {config.micro_batch} of a "
            "row's candidates is of its own window, and what repeats there is scored too low: in "
            "an exact toy the optimum is 0.19 nats from the best model with 2 windows, 0.03 with 8 "
            f"(warned of below {_FEW_WINDOWS}). Raise --micro-batch, or use --headless.candidates "
            "mixture or unigram."
        )
    if law.is_published_law and targets.per_micro_batch < _FEW_TARGETS:
        k = targets.per_micro_batch
        found.append(
            f"A micro-batch has only {k:,.0f} targets to tell apart: the loss begins near "
            f"log K = {math.log(k):.2f} nats, the least possible loss {targets.least_loss:.2f}, so "
            f"it saturates early (warned of below {_FEW_TARGETS}). Raise --micro-batch, --batch "
            "or --context."
        )
    own_draws = law.candidates == "unigram" and law.draws is not None
    if config.micro_batch != config.batch and not own_draws:
        found.append(
            f"Negatives come from the micro-batch alone (--micro-batch {config.micro_batch}, "
            f"--batch {config.batch}): another objective than that of the whole batch. "
            "Leave --micro-batch out if memory allows, and compare only runs with the same one."
        )
    return found


def table(made: Diagnosis) -> list[list[str]]:
    """The diagnosis as rows of a label and a text with its unit."""
    config, targets, timing, memory = made.config, made.targets, made.timing, made.memory
    p, flops = made.parameters, made.flops
    candidates = "U" if config.is_headless else "V"
    if config.headless.cross_entropy:
        candidates = "U + V"
    rows = [
        ["parameters", f"{p.total:,}: body {p.body:,}, embeddings {p.embeddings:,}, head {p.head:,}"
         + ("" if made.other_form is None else " (tied)")],
        ["FLOPs per token of training", f"{_short(flops.total)}: body {_short(flops.body)}, "
         f"attention {_short(flops.attention)}{' (all T x T)' if flops.attention else ''}, "
         f"head {_short(flops.head)} (D x {candidates})"],
        ["the head's share of them", f"{100 * flops.head_share:.1f} %"],
        ["K, targets of a micro-batch", f"{targets.per_micro_batch:,.0f} of {config.micro_batch:,} "
         "windows" + (f": 1 in {config.micro_batch:,} candidates of a row is of its own window"
         if config.is_headless and config.headless.candidates == "batch" else "")],
        ["U, distinct ones", f"{targets.distinct:,.0f} ± {targets.distinct_deviation:,.0f} in "
         f"{targets.micro_batches} micro-batches; {targets.distinct_if_independent:,.0f} expected "
         "of independent draws"],
        ["V, vocabulary", f"{targets.vocabulary:,}"],
        ["budget", f"{config.steps:,} steps, {made.tokens:,} tokens, {made.epochs:.2f} epochs"],
        ["weights, gradients, optimizer", " + ".join(
            byte_size(b) for b in (memory.weights, memory.gradients, memory.optimizer))
         + f" = {byte_size(memory.total)}"],
    ]  # fmt: skip
    if memory.available is not None:
        rows.append([f"available on {config.device}", byte_size(memory.available)])
    if timing is not None:
        where = f"{config.device}, {config.dtype}"
        if config.device == "cpu":
            where += f", threads {config.threads}"
        if timing.peak_memory is not None:
            whole = " (whole process)" if config.device == "cpu" else ""
            rows.append(["peak memory", byte_size(timing.peak_memory) + whole])
        rows += [
            [f"time, {config.objective}", _times(timing.seconds, config.steps)
             + f" ({where}; evaluation and saving left out)"],
        ]  # fmt: skip
        if made.other_form is not None and timing.other_seconds is not None:
            with_bias = " with prior bias" if config.is_headless else ""
            rows.append(
                [f"time, {made.other_form}{with_bias}", _times(timing.other_seconds, config.steps)]
            )
    rows.append(["speed-up by headless, ideal", f"{made.ideal_speed_up:.2f} x (by FLOPs)"])
    if made.measured_speed_up is not None and timing is not None:
        rows.append(
            ["speed-up by headless, measured",
             f"{made.measured_speed_up:.2f} x ({timing.rounds} rounds)"]
        )  # fmt: skip
    if made.not_timed is not None:
        rows.append(["not timed", made.not_timed])
    return rows


def _times(seconds: float, steps: int) -> str:
    return f"{duration(seconds * steps)}, {seconds:.4g} s a step"


def _scaled(value: float, base: int, units: tuple[str, ...]) -> tuple[float, str]:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return value, units[power]


def _short(value: float) -> str:
    return "{:.3g} {}".format(*_scaled(value, 1000, ("", "k", "M", "G", "T"))).strip()


def byte_size(value: float) -> str:
    """Bytes as text, with a unit of a power of 1024."""
    return "{:.3g} {}".format(*_scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB")))
