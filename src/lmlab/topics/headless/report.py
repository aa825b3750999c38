"""The report of the headless study, from its `results.json` alone (so it can be drawn again).

Every figure stands under its finding in words. Differences are of perplexity, in per cent of that
of cross-entropy with the prior bias; below zero is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.numerics.verdicts import Evidence, holm
from lmlab.numerics.verdicts import verdict as words_of
from lmlab.pages.figures import Interval, Series, forest_plot, line_plot
from lmlab.pages.page import Figure, Section, Table, render_page
from lmlab.pages.theme import SERIES_COLOURS
from lmlab.pages.wording import amount_of_text, percent
from lmlab.results import made_by
from lmlab.studies.provenance import to_repeat
from lmlab.topics.headless.arms import ARMS, HEADLESS, REFERENCE
from lmlab.topics.headless.figures import (
    downstream_sections,
    equivalent_figure,
    geometry_sections,
    growth_figures,
    lead,
    repeats_sections,
    tokens_per_parameter,
)
from lmlab.topics.headless.options import HeadlessStudyConfig

_DRAWN = (
    HEADLESS, REFERENCE, "ce-untied-prior", "headless-unigram", "ce-tied", "ce-untied", "mixed",
    "headless-mixture",
)  # fmt: skip
"""Which arms have a curve, as far as there are colours."""


def headless_page(results: dict[str, Any]) -> str:
    """The HTML page of `results` (see `lmlab.topics.headless.study`)."""
    return render_page(
        results["title"],
        summary(results["parts"]),
        headless_sections(results),
        footer=made_by(results["environment"]),
    )


def headless_sections(results: dict[str, Any]) -> list[Section]:
    """What the study shows, as sections of a page."""
    parts = results["parts"]
    return [
        _heads_section(parts),
        *repeats_sections(parts),
        _learning_section(parts),
        *downstream_sections(parts),
        _cost_section(parts, results["growth"]),
        *geometry_sections(parts),
        _methods_section(results),
    ]


def verdict(row: dict[str, Any]) -> str:
    """The finding of one row in words, with its interval."""
    difference = row["difference"]
    if difference is None:
        return "the reference"
    text = f"perplexity {percent(math.expm1(difference['estimate']))}"
    if difference["low"] is None:
        return f"{text} (no interval)"
    low, high = (math.expm1(difference[end]) for end in ("low", "high"))
    text += f", 95 % interval {percent(low)} to {percent(high)}"
    text += ", text only" if difference["basis"] == "text only" else ""
    said = words_of(
        Evidence.of(difference),
        above="worse",
        below="better",
        size=lambda nats: percent(math.expm1(nats)).lstrip("+"),
    )
    return f"{said}: {text}" if "not decided" not in said else f"{said} ({text})"


def row_name(row: dict[str, Any]) -> str:
    """What a row is: model, head, and whether it trained for longer."""
    return row["label"] + (", equal time" if row["longer"] else "")


def summary(parts: Sequence[dict[str, Any]]) -> str:
    """The finding of the whole study: the headless heads against the fair baseline."""
    lines = []
    for part in parts:
        found = {row["key"]: row for row in part["rows"]}
        keys = [k for k in ("headless-raw", "headless", "headless-calibrated", "longer")
                if k in found]  # fmt: skip
        said = "; ".join(f"{row_name(found[k])}: {verdict(found[k])}" for k in keys)
        lines.append(
            f"Vocabulary {part['vocabulary']:,}{_after(part)}, against cross-entropy with the same "
            f"prior. {said[0].upper()}{said[1:]}. {lead(part)}".rstrip()
        )
    return "\n\n".join(lines)


def _after(part: dict[str, Any]) -> str:
    """After how many tokens, and tokens per parameter, of how many seeds."""
    curves = [c for c in part["curves"] if c["arm"] == REFERENCE]
    tokens = curves[0]["points"][-1][0]
    each = tokens_per_parameter(part, tokens)
    said = "" if each is None else f", {each:.3g} a parameter of the tied model"
    seeds = "one seed" if len(curves) == 1 else f"{len(curves)} seeds"
    return f", after {tokens:,} tokens ({seeds}{said})"


def _heads_section(parts: Sequence[dict[str, Any]]) -> Section:
    intervals = [
        Interval(
            label=row["label"],
            estimate=100 * math.expm1(row["difference"]["estimate"]),
            low=_percent_of(row["difference"]["low"]),
            high=_percent_of(row["difference"]["high"]),
            note="" if row["difference"]["low"] is not None else row["difference"]["note"],
            group=f"vocabulary {part['vocabulary']:,}, at equal "
            + ("time" if row["longer"] else "tokens"),
        )
        for part in parts
        for row in part["rows"]
        # the raw head is so much worse that its bar would flatten all others; it is in the table
        if row["difference"] is not None and row["key"] != "headless-raw"
    ]
    found = [(part, {row["key"]: row for row in part["rows"]}) for part in parts]
    finding = " ".join(
        f"Vocabulary {part['vocabulary']:,}: the headless model with the prior is "
        f"{verdict(rows['headless'])}."
        for part, rows in found
    )
    raw = ", ".join(
        f"{_perplexity(rows['headless-raw']):,.0f} (vocabulary {part['vocabulary']:,})"
        for part, rows in found
    )
    figure = forest_plot(
        intervals,
        x_label="perplexity against cross-entropy with the prior bias, % (below 0: better)",
        finding=finding,
        alt="Perplexity of each model relative to the baseline with its interval; zero is marked.",
        caption="Bars: 95 % intervals over seeds and text (two-way random effects), for each row "
        f"alone. The embedding alone for a head has perplexity {raw}, and is left out here.",
    )
    every = [(part, row) for part in parts for row in part["rows"]]
    p_values = holm([row["difference"] and Evidence.of(row["difference"]).p_value
                     for _, row in every])  # fmt: skip
    table = Table(
        ["model and head", "nats per token", "perplexity", "bits per byte", "against the baseline",
         "p, adjusted"],
        [
            [
                f"{row_name(row)}, vocabulary {part['vocabulary']:,}",
                f"{np.mean(row['nats_per_token']):.4f}",
                f"{_perplexity(row):,.1f}",
                "–" if row["bits_per_byte"][0] is None else f"{np.mean(row['bits_per_byte']):.4f}",
                verdict(row),
                "–" if p is None else f"{p:.2g}",
            ]
            for (part, row), p in zip(every, p_values, strict=True)
        ],
        "Means over seeds on held-out text. Nats of different vocabularies do not compare; bits "
        "per byte do. p is adjusted for the number of rows (Holm).",
    )  # fmt: skip
    return Section("Models and heads", figures=[figure], tables=[table])


def _percent_of(nats: float | None) -> float | None:
    return None if nats is None else 100 * math.expm1(nats)


def _perplexity(row: dict[str, Any]) -> float:
    return math.exp(float(np.mean(row["nats_per_token"])))


def _learning_section(parts: Sequence[dict[str, Any]]) -> Section:
    figures: list[Figure] = []
    for part in parts:
        for axis, unit, longer in ((0, "training tokens", False), (1, "seconds of training", True)):
            curves = [c for c in part["curves"]
                      if longer == c["longer"] or (longer and c["arm"] != HEADLESS)]  # fmt: skip
            if not any(c["arm"] == HEADLESS for c in curves):
                continue
            figures.append(_learning(part, curves, axis, unit))
        figures.append(equivalent_figure(part))
    text = (
        "Validation loss while training, the headless model with its prior head. Seconds are steps "
        "times the measured time of a step on this machine."
    )
    return Section("Learning", [text], figures=figures)


def _learning(
    part: dict[str, Any], curves: Sequence[dict[str, Any]], axis: int, unit: str
) -> Figure:
    ends = {
        arm: float(np.mean([c["points"][-1][2] for c in curves if c["arm"] == arm]))
        for arm in part["seconds_per_step"]
    }
    best = min((loss, arm) for arm, loss in ends.items() if arm.startswith("ce-"))
    colours = {arm: i for i, arm in enumerate([a for a in _DRAWN if a in ends][:SERIES_COLOURS])}
    without = [ARMS[arm].label for arm in ends if arm not in colours]
    where = "at equal tokens" if axis == 0 else "at equal time"
    series = [
        Series(
            ARMS[c["arm"]].label,
            [p[axis] for p in c["points"]],
            [p[2] for p in c["points"]],
            colour=colours[c["arm"]],
            dashed=c["arm"].startswith("ce-"),
        )
        for c in sorted((c for c in curves if c["arm"] in colours), key=lambda c: colours[c["arm"]])
    ]
    return line_plot(
        series,
        x_label=unit,
        y_label="validation loss, nats per token",
        finding=f"Vocabulary {part['vocabulary']:,}, {where}: headless with the prior ends at "
        f"{ends[HEADLESS]:.3f} nats, {ARMS[best[1]].label} at {best[0]:.3f}.",
        alt=f"Validation loss against {unit} for each kind of training.",
        caption="One line a seed. The learning rate falls to the end, so a point on the way is no "
        "run of that length." + (f" Without a line: {'; '.join(without)}." if without else ""),
    )


def _cost_section(parts: Sequence[dict[str, Any]], growth: Sequence[dict[str, Any]]) -> Section:
    said = ", ".join(
        f"{p['seconds_per_step'][HEADLESS] / p['seconds_per_step'][REFERENCE]:.2f} of the time of "
        f"one of cross-entropy with a vocabulary of {p['vocabulary']:,}"
        for p in parts
    )
    text = (
        f"A headless step takes {said} (with the prior bias; all forms timed in turn on this "
        "machine, evaluation and saving left out). At equal time a headless model trains for as "
        "many more steps, rounded to a twentieth."
    )
    rows: list[list[str | float | int]] = [
        [ARMS[arm].label, f"{part['vocabulary']:,}", f"{seconds:.4f}",
         f"{seconds / part['seconds_per_step'][REFERENCE]:.2f}"]
        for part in parts
        for arm, seconds in part["seconds_per_step"].items()
    ]  # fmt: skip
    table = Table(
        ["form", "vocabulary", "seconds a step", "against the baseline"],
        rows,
        "Time of a training step.",
    )
    return Section("Cost", [text], figures=growth_figures(growth), tables=[table])


def _methods_section(results: dict[str, Any]) -> Section:
    config, parts = results["config"], results["parts"]
    scored = parts[0]["rows"][0]
    over = amount_of_text(scored["documents"], scored["cluster"], scored["clusters"])
    available = ", ".join(f"{part['training_tokens_available']:,}" for part in parts)
    text = (
        f"Corpus {results['corpus']}, {config['seeds']} seed(s), {config['tokens']:,} training "
        f"tokens a run ({available} available), {config['batch_tokens']:,} tokens a step, all of "
        "them candidates of a headless "
        f"model's step ({config['batch_tokens'] // config['context']} windows, so one in as many "
        f"is of a row's own window); context {config['context']}, {_rates(results)}, AdamW "
        "with weight decay 0.1 on matrices, betas 0.9 and 0.95, gradient clipped at 1, "
        "warm-up over 5 % of the steps, cosine to a tenth. All forms of a seed have the same data "
        "order; tied forms have the same initial weights. The prior is the log-unigram "
        "distribution of the training split (add-one). Calibration fits two scalars, of similarity "
        "and prior, on held-out text that is not scored. Fine-tuning is a child run: the embedding "
        f"becomes an untied head and all weights train on cross-entropy for "
        f"{100 * config['fine_tune']:g} % of the steps (learning rate "
        f"{config['fine_tune_learning_rate']:g}). Losses are those of the last checkpoint on the "
        f"{config['split']} split, in float32 ({scored['tokens_scored']:,} tokens, "
        f"{over}). Intervals: two-way random effects over seeds and these on the paired "
        "difference, Student t; each for its row alone."
    )
    notes = dict.fromkeys(part["text"] for part in parts if "text" in part)
    text = " ".join([text, *notes])
    weights = "; ".join(
        f"{ARMS[arm].label} {count:,}"
        for arm, count in parts[0].get("weights", {}).items()
        if len(parts) == 1
    )
    model = ", ".join(f"{k} {v}" for k, v in config["model"].items() if v not in (False, 0.0))
    repeat = to_repeat("lmlab study headless", HeadlessStudyConfig, config)
    backbone = f"Backbone: {model}." + (f" Weights: {weights}." if weights else "")
    return Section("Methods", [text, backbone, repeat])


def _rates(results: dict[str, Any]) -> str:
    """The learning rates in words."""
    tried = results["config"].get("learning_rates")
    if not tried:
        return f"learning rate {results['config']['learning_rate']:g} for all"
    chosen = "; ".join(
        f"{ARMS[arm].label} {rates['best']:g}"
        + (f" (vocabulary {part['vocabulary']:,})" if len(results["parts"]) > 1 else "")
        for part in results["parts"]
        for arm, rates in part["rates"].items()
    )
    listed = ", ".join(f"{rate:g}" for rate in tried)
    return (
        f"the learning rate of {listed} with which an arm's first seed ended best on validation "
        f"text ({chosen})"
    )
