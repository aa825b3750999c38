"""What speaks against training as configured, by a diagnosis of `training.doctor`.

Notable: every warning follows from a figure of the diagnosis, names it, and says what to do. A
configuration that nothing speaks against gets none.

Shapes: T context, D width, V vocabulary, K targets of a micro-batch, U distinct ones.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lmlab.training.opening import many_epochs

if TYPE_CHECKING:
    from lmlab.training.doctor import Diagnosis

_LEAST_SPEED_UP = 1.1
_CLOSE_TO_VOCABULARY = 0.8  # share of V
_FEW_TARGETS = 256
_FEW_WINDOWS = 8


def find_warnings(diagnosis: Diagnosis) -> list[str]:
    """What speaks against training as configured: sentences with the figure and what to do."""
    config, memory = diagnosis.config, diagnosis.memory
    warnings = list(_headless_warnings(diagnosis)) if config.is_headless else []
    if diagnosis.windows < config.step_windows:
        warnings.append(
            f"A step reads {config.step_windows:,} windows, but the training split has only "
            f"{diagnosis.windows:,}: the same windows stand in a batch twice. Lower `batch` or "
            "`context`, or prepare more text."
        )
    if warning := many_epochs(diagnosis.tokens, diagnosis.epochs):
        warnings.append(warning)
    if memory.available is not None and memory.total > memory.available:
        warnings.append(
            f"Weights, gradients and optimizer take {byte_size(memory.total)}, before any "
            f"activation, and {byte_size(memory.available)} are available on {config.device}. "
            "Choose a smaller model or vocabulary, or another machine."
        )
    if diagnosis.uncounted_weights > 0.01 * diagnosis.parameters.body:
        warnings.append(
            f"{diagnosis.uncounted_weights:,} weights of the body are in layers whose FLOPs are "
            "not known, so the FLOPs are too few and the head's share too large. Trust the "
            "measured time."
        )
    return warnings


def _headless_warnings(diagnosis: Diagnosis) -> list[str]:
    config, targets = diagnosis.config, diagnosis.targets
    warnings: list[str] = []
    ideal, measured = diagnosis.ideal_speed_up, diagnosis.measured_speed_up
    share = 100 * diagnosis.flops_cross_entropy.head_share
    if config.headless.cross_entropy:
        warnings.append(
            f"`headless.cross_entropy` {config.headless.cross_entropy} computes the softmax over "
            f"the vocabulary too, so a step has {1 / ideal:.2f} times the FLOPs of cross-entropy "
            "alone. Leave it at 0 if the aim is speed."
        )
    elif targets.distinct > _CLOSE_TO_VOCABULARY * targets.vocabulary:
        warnings.append(
            f"A micro-batch has {targets.distinct:,.0f} distinct targets of a vocabulary of "
            f"{targets.vocabulary:,}: the headless loss forms hardly smaller a product than the "
            f"softmax. Use a larger vocabulary, or train with `objective` {diagnosis.other_form}."
        )
    elif ideal < _LEAST_SPEED_UP:
        warnings.append(
            f"The head is only {share:.1f} % of the FLOPs of cross-entropy, so headless training "
            f"has at best {ideal:.2f} times the speed, by FLOPs. Train with `objective` "
            f"{diagnosis.other_form}, or use a larger vocabulary or a smaller body."
        )
    elif measured is not None and measured < 1:
        warnings.append(
            f"Measured on this machine, a headless step takes {1 / measured:.2f} times as long as "
            f"one of cross-entropy, although FLOPs promise {ideal:.2f} times the speed. Train "
            f"with `objective` {diagnosis.other_form}, or measure again on a quiet machine."
        )
    law = config.headless
    assert config.micro_batch is not None
    if law.candidates == "batch" and config.micro_batch < _FEW_WINDOWS:
        warnings.append(
            f"A micro-batch has {config.micro_batch} windows, so 1 in {config.micro_batch} of a "
            "row's candidates is of its own window, and what repeats there is scored too low: in "
            "an exact toy the optimum is 0.19 nats from the best model with 2 windows, 0.03 with 8 "
            f"(warned of below {_FEW_WINDOWS}). Raise `micro_batch`, or use `headless.candidates` "
            "mixture or unigram."
        )
    if law.is_published_law and targets.per_micro_batch < _FEW_TARGETS:
        k = targets.per_micro_batch
        warnings.append(
            f"A micro-batch has only {k:,.0f} targets to tell apart: the loss begins near "
            f"log K = {math.log(k):.2f} nats, the least possible loss {targets.least_loss:.2f}, so "
            f"it saturates early (warned of below {_FEW_TARGETS}). Raise `micro_batch`, `batch` "
            "or `context`."
        )
    own_draws = law.candidates == "unigram" and law.draws is not None
    if config.micro_batch != config.step_windows and not own_draws:
        warnings.append(
            f"Negatives come from the micro-batch alone (`micro_batch` {config.micro_batch}, "
            f"`batch` {config.step_windows}): another objective than that of the whole batch. "
            "Leave `micro_batch` out if memory allows, and compare only runs with the same one."
        )
    return warnings


def _scaled(value: float, base: int, units: tuple[str, ...]) -> tuple[float, str]:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return value, units[power]


def short(value: float) -> str:
    """A number to three digits, with a unit of a power of 1000."""
    return "{:.3g} {}".format(*_scaled(value, 1000, ("", "k", "M", "G", "T"))).strip()


def byte_size(value: float) -> str:
    """Bytes as text, with a unit of a power of 1024."""
    return "{:.3g} {}".format(*_scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB")))
