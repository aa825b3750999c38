"""The tables of the headless study, and how its findings are worded. Draws nothing.

Differences are of perplexity, in per cent of that of cross-entropy with the prior bias; below zero
is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lmlab.numerics.random_effects import Interval
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.numerics.verdicts import verdict as words_of
from lmlab.pages.page import Table
from lmlab.pages.text import Rounded
from lmlab.pages.wording import percent, signed, with_interval
from lmlab.topics.headless.arms import ARMS, REFERENCE
from lmlab.topics.headless.comparison import RowResult, VocabularyResult


def verdict(row: RowResult) -> str:
    """The finding of one row in words, with its interval."""
    difference = row.difference
    if difference is None:
        return "the reference"
    text = f"perplexity {percent(math.expm1(difference.estimate))}"
    if difference.bounds is None:
        return f"{text} (no interval)"
    low, high = map(math.expm1, difference.bounds)
    text += f", 95 % interval {percent(low)} to {percent(high)}"
    text += ", text only" if difference.basis == "text only" else ""
    words = words_of(
        Evidence.of(difference),
        above="worse",
        below="better",
        seen=("a higher loss", "a lower loss"),
        size=lambda nats: percent(math.expm1(nats)).lstrip("+"),
    )
    return f"{words}: {text}" if "not decided" not in words else f"{words} ({text})"


def row_name(row: RowResult) -> str:
    """What a row is: model, head, and whether it trained for longer."""
    return row.row.label + (", equal time" if row.row.longer else "")


def perplexity(row: RowResult) -> float:
    """exp of the mean loss over seeds."""
    return math.exp(float(np.mean(row.nats_per_token)))


def difference_text(difference: Interval, unit: str = "") -> str:
    """A difference in `unit`, to three decimals, with its interval."""
    return with_interval(difference, lambda value: signed(value, 3), unit)


def heads_table(parts: Sequence[VocabularyResult]) -> Table:
    """Every model and head: its losses, and its difference from the baseline."""
    every = [(part, row) for part in parts for row in part.rows]
    p_values = holm([row.difference and Evidence.of(row.difference).p_value for _, row in every])
    return Table(
        ["model and head", "nats per token", "perplexity", "bits per byte", "against the baseline",
         "p, adjusted"],
        [
            [
                row_name(row) + (f", vocabulary {part.vocabulary:,}" if len(parts) > 1 else ""),
                Rounded(float(np.mean(row.nats_per_token)), 4),
                Rounded(perplexity(row), 1),
                _or_none(_mean(row.bits_per_byte), 4),
                verdict(row),
                "–" if p is None else f"{p:.2g}",
            ]
            for (part, row), p in zip(every, p_values, strict=True)
        ],
        "Means over seeds on held-out text. Nats of different vocabularies do not compare; bits "
        "per byte do. p is adjusted for the number of rows (Holm).",
    )  # fmt: skip


def cost_table(parts: Sequence[VocabularyResult]) -> Table:
    """Time of a training step of each arm."""
    return Table(
        ["form", "vocabulary", "seconds a step", "against the baseline"],
        [
            [
                ARMS[arm].label,
                part.vocabulary,
                Rounded(seconds, 4),
                Rounded(seconds / part.step_times.by_arm[REFERENCE], 2),
            ]
            for part in parts
            for arm, seconds in part.step_times.by_arm.items()
        ],
        "Time of a training step: one measurement on this machine, median of rounds in turn; no "
        "interval.",
    )


def geometry_table(parts: Sequence[VocabularyResult]) -> Table:
    """Embedding and final states of the baseline and of the headless model."""
    return Table(
        ["model", "vectors", "mean cosine", "effective rank", "normalised entropy"],
        [
            [
                f"{ARMS[arm].label}, vocabulary {part.vocabulary:,}",
                name,
                _or_none(cloud.mean_cosine, 3, "none"),
                _or_none(cloud.centred.effective_rank, 1, "none"),
                _or_none(cloud.centred.normalised_entropy, 3, "none"),
            ]
            for part in parts
            for arm, geometry in part.geometry.items()
            for name, cloud in (
                ("embedding", geometry.input_embedding),
                ("states that the head reads", list(geometry.layers.values())[-1]),
            )
        ],
        "Mean cosine over all pairs; rank and entropy of the singular values about the mean. First "
        "seed of each.",
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _or_none(value: float | None, decimals: int, none: str = "–") -> float | str:
    return none if value is None else Rounded(value, decimals)
