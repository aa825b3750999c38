"""The figures of the headless study; every one stands under its finding in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lmlab.pages.figures import ForestRow, Series, forest_plot, line_plot
from lmlab.pages.page import Figure
from lmlab.pages.text import fixed
from lmlab.pages.theme import SERIES_COLOURS
from lmlab.topics.headless.arms import ARMS, HEADLESS, REFERENCE
from lmlab.topics.headless.comparison import TaskResult, VocabularyResult
from lmlab.topics.headless.costs import CostAtVocabulary
from lmlab.topics.headless.curves import Curve
from lmlab.topics.headless.tables import difference_text, perplexity, row_name, verdict

_ALIKE = 0.05  # what is nearer to a ratio of 1 is not named
_METRICS = {"accuracy": "accuracy", "nats_per_word": "nats per last word",
            "accuracy_per_byte": "accuracy per byte"}  # fmt: skip
_DRAWN = (
    HEADLESS, REFERENCE, "ce-untied-prior", "headless-unigram", "ce-tied", "ce-untied", "mixed",
    "headless-mixture",
)  # fmt: skip
"""Which arms have a curve, as far as there are colours."""


def heads_figure(parts: Sequence[VocabularyResult]) -> Figure:
    """Perplexity of every model and head against the baseline."""
    bars = [
        ForestRow.of(
            row.row.label,
            row.difference,
            group=f"vocabulary {part.vocabulary:,}, at equal "
            + ("time" if row.row.longer else "tokens"),
            show=lambda nats: 100 * math.expm1(nats),  # as a difference of perplexity
        )
        for part in parts
        for row in part.rows
        # the raw head is so much worse that its bar would flatten all others; it is in the table
        if row.difference is not None and row.row.key != "headless-raw"
    ]
    raw = ", ".join(
        f"{perplexity(part.by_key['headless-raw']):,.0f} (vocabulary {part.vocabulary:,})"
        for part in parts
    )
    return forest_plot(
        bars,
        x_label="perplexity against cross-entropy with the prior bias, % (below 0: better)",
        finding=" ".join(
            f"Vocabulary {part.vocabulary:,}, the headless model with the prior: "
            f"{verdict(part.by_key['headless'])}."
            for part in parts
        ),
        alt="Perplexity of each model relative to the baseline with its interval; zero is marked.",
        caption="Bars: 95 % intervals over seeds and text (two-way random effects), for each row "
        f"alone. The embedding alone for a head has perplexity {raw}, and is left out here.",
    )


def repeats_figure(part: VocabularyResult) -> Figure:
    """Losses against the baseline on repeated and on new tokens."""
    rows = [row for row in part.rows if row.difference and row.row.key != "headless-raw"]
    bars = [
        ForestRow.of(
            row.row.label,
            difference,
            group=f"{name} tokens" + (", at equal time" if row.row.longer else ""),
        )
        for longer in (False, True)
        for name in ("repeated", "new")
        for row in rows
        if row.row.longer == longer
        and (difference := row.repeated if name == "repeated" else row.new)
    ]
    findings = "; ".join(
        f"{row.row.label} {difference_text(row.repeated, ' nats')} on repeated and "
        f"{difference_text(row.new, ' nats')} on new tokens"
        for row in map(part.by_key.get, (HEADLESS, "headless-unigram", "headless-mixture"))
        if row and row.repeated and row.new
    )
    return forest_plot(
        bars,
        x_label="nats per token against cross-entropy with the prior bias (below 0: better)",
        finding=f"Vocabulary {part.vocabulary:,}: {findings}.",
        alt="Loss of each model against the baseline on repeated and on new tokens; zero is "
        "marked.",
        caption=f"{100 * part.repeated_share:.0f} % of the scored tokens are repeated: they stand "
        "earlier in their window. Bars: 95 % intervals, each for its row alone.",
    )


def learning_figures(part: VocabularyResult) -> list[Figure]:
    """Validation losses at equal tokens and at equal time, as far as there are such runs, and what
    the headless loss says by itself."""
    equal_tokens = [c for c in part.curves if not c.longer]
    drawn = [_learning_figure(part, equal_tokens, equal_time=False)]
    if any(c.longer for c in part.curves):
        equal_time = [c for c in part.curves if c.longer or c.arm != HEADLESS]
        drawn.append(_learning_figure(part, equal_time, equal_time=True))
    return [*drawn, _equivalent_figure(part)]


def _learning_figure(part: VocabularyResult, curves: Sequence[Curve], equal_time: bool) -> Figure:
    unit = "seconds of training" if equal_time else "training tokens"
    ends = {
        arm: float(np.mean([c.validation[-1] for c in curves if c.arm == arm]))
        for arm in part.step_times.by_arm
    }
    best = min((loss, arm) for arm, loss in ends.items() if arm.startswith("ce-"))
    colours = {arm: i for i, arm in enumerate([a for a in _DRAWN if a in ends][:SERIES_COLOURS])}
    without = [ARMS[arm].label for arm in ends if arm not in colours]
    return line_plot(
        [
            Series(
                ARMS[c.arm].label,
                c.seconds if equal_time else c.tokens,
                c.validation,
                colour=colours[c.arm],
                dashed=c.arm.startswith("ce-"),
            )
            for c in sorted((c for c in curves if c.arm in colours), key=lambda c: colours[c.arm])
        ],
        x_label=unit,
        y_label="validation loss, nats per token",
        finding=f"Vocabulary {part.vocabulary:,}, at equal {'time' if equal_time else 'tokens'}: "
        f"headless with the prior ends at {ends[HEADLESS]:.3f} nats, {ARMS[best[1]].label} at "
        f"{best[0]:.3f}.",
        alt=f"Validation loss against {unit} for each kind of training.",
        caption="One line a seed. The learning rate falls to the end, so a point on the way is no "
        "run of that length." + (f" Without a line: {'; '.join(without)}." if without else ""),
    )


def _equivalent_figure(part: VocabularyResult) -> Figure:
    """What the headless training loss itself says of perplexity, beside the measured one."""
    curves = [c for c in part.curves if c.arm == HEADLESS and not c.longer]
    last = float(np.mean([c.equivalent[-1] for c in curves]))
    measured = float(np.mean([c.validation[-1] for c in curves]))
    return line_plot(
        [
            *(Series("measured, with the prior head", c.tokens, c.validation, colour=0)
              for c in curves),
            *(Series("from the training loss", c.equivalent_tokens, c.equivalent, colour=1,
                     dashed=True) for c in curves),
        ],
        x_label="training tokens",
        y_label="nats per token",
        finding=f"Vocabulary {part.vocabulary:,}: without any head, the headless loss alone "
        f"says {last:.3f} nats at the end; measured on validation text are {measured:.3f}.",
        alt="Equivalent and measured cross-entropy of the headless models against tokens.",
        caption="From the training loss: H(unigram) + loss − log K, means over a twentieth of the "
        "run. Biased upward where the negatives K of a step are few, and of training text.",
    )  # fmt: skip


def task_figures(part: VocabularyResult) -> list[Figure]:
    """A figure for each metric of each zero-shot task."""
    return [
        _task_figure(part, task, metric) for task in part.tasks for metric in task.rows[REFERENCE]
    ]


def _task_figure(part: VocabularyResult, task: TaskResult, metric: str) -> Figure:
    headless, reference = task.rows[HEADLESS][metric], task.rows[REFERENCE][metric].value.estimate
    difference = headless.difference
    assert difference is not None, "only the baseline has none"
    paired = difference_text(difference)
    paired += ", items only" if difference.basis == "text only" else ""
    return forest_plot(
        [ForestRow.of(row_name(part.by_key[key]), metrics[metric].value)
         for key, metrics in task.rows.items()],
        x_label=f"{task.task}: {_METRICS[metric]}",
        finding=f"{task.task}, vocabulary {part.vocabulary:,}: headless with the prior has "
        f"{headless.value.estimate:.3f} {_METRICS[metric]}, the baseline {reference:.3f}; paired "
        f"difference {paired}.",
        alt=f"{_METRICS[metric]} of each model on {task.task} with its interval.",
        caption=f"{task.items:,} items of {task.source}. Bars: 95 % intervals, each model "
        "alone. The line is the baseline, cross-entropy with the prior bias.",
        reference=reference,
    )  # fmt: skip


def growth_figures(costs: Sequence[CostAtVocabulary]) -> list[Figure]:
    """Time and memory of a step against the vocabulary."""
    if len(costs) < 2:
        return []
    vocabularies = [c.vocabulary for c in costs]
    drawn: list[Figure] = []
    for unit, amount, name, scale in (
        ("seconds a step", "time", "seconds", 1),
        ("peak memory, GB", "memory", "bytes", 1e-9),
    ):
        headless = [scale * getattr(c.headless, name) for c in costs]
        cross_entropy = [scale * getattr(c.cross_entropy, name) for c in costs]
        drawn.append(
            line_plot(
                [
                    Series("headless", vocabularies, headless, colour=0),
                    Series("cross-entropy", vocabularies, cross_entropy, colour=1, dashed=True),
                ],
                x_label="vocabulary",
                y_label=unit,
                log_x=True,
                from_zero=True,
                finding=_growth_words(amount, vocabularies[-1], cross_entropy[-1] / headless[-1]),
                alt=f"{unit} of cross-entropy and headless training against the vocabulary.",
                caption="Tied models with an output bias, tokens of Zipf's distribution, the "
                "optimizer's step included; each form in a process of its own. Memory is above "
                "that of the process before the model. One measurement on this machine (times: the "
                "median of its steps), so no interval.",
            )
        )
    return drawn


def _growth_words(amount: str, vocabulary: int, ratio: float) -> str:
    """The cost of cross-entropy, so many times that of headless training; from one measurement, so
    a ratio near 1 is none."""
    if abs(ratio - 1) < _ALIKE:
        return f"At a vocabulary of {vocabulary:,} a step of both takes about the same {amount}."
    return (
        f"At a vocabulary of {vocabulary:,} a step of cross-entropy takes {ratio:.1f} times the "
        f"{amount} of a headless one."
    )


def rank_figure(part: VocabularyResult) -> Figure:
    """Effective rank of the states of each layer, of the baseline and of the headless model."""
    series, states, embeddings = [], {}, {}
    for colour, arm in enumerate((HEADLESS, REFERENCE)):
        geometry = part.geometry[arm]
        ranks = [cloud.centred.effective_rank for cloud in geometry.layers.values()]
        states[arm] = fixed(ranks[-1], 1)
        embeddings[arm] = fixed(geometry.input_embedding.centred.effective_rank, 1)
        points = [(layer, rank) for layer, rank in enumerate(ranks) if rank is not None]
        label, dashed = ARMS[arm].label, arm == REFERENCE
        if points:
            series.append(Series(label, *zip(*points, strict=True), colour=colour, dashed=dashed))
    return line_plot(
        series,
        x_label="layer (0: what the first block reads; last: what the head reads)",
        y_label="effective rank of hidden states",
        finding=f"Vocabulary {part.vocabulary:,}: the states that the head reads have "
        f"effective rank {states[HEADLESS]} in the headless model and {states[REFERENCE]} in the "
        f"baseline; the embeddings {embeddings[HEADLESS]} and {embeddings[REFERENCE]}.",
        alt="Effective rank of the hidden states of each layer, both models.",
        caption="First seed of each. Effective rank: exp of the entropy of the singular values' "
        "shares, about the mean.",
    )
