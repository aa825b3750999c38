"""Further sections of the headless report: who leads when, repeated and new tokens, equivalent
perplexity, tasks, cost by vocabulary, geometry. From `results.json` alone; every figure stands
under its finding in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.pages.figures import Interval, Series, forest_plot, line_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.wording import signed
from lmlab.topics.headless.arms import ARMS, HEADLESS, REFERENCE

_METRICS = {"accuracy": "accuracy", "nats_per_word": "nats per last word",
            "accuracy_per_byte": "accuracy per byte"}  # fmt: skip


def tokens_per_parameter(part: dict[str, Any], tokens: float) -> float | None:
    """Training tokens for each weight of the baseline; None for results that lack its size."""
    weights = part.get("weights")
    return None if weights is None else tokens / weights[REFERENCE]


def lead(part: dict[str, Any]) -> str:
    """At which tokens per parameter the headless model was ahead or behind in every seed, by the
    validation losses of a run; empty for results without the model's size."""
    if tokens_per_parameter(part, 1) is None:
        return ""
    points_aSP = [
        [
            c["points"]
            for c in sorted(part["curves"], key=lambda c: c["seed"])
            if c["arm"] == arm and not c["longer"]
        ]
        for arm in (HEADLESS, REFERENCE)
    ]
    ours_SP, theirs_SP = (np.array(points)[:, :, 2] for points in points_aSP)
    tokens_P = [point[0] for point in points_aSP[0][0]]
    sign_SP = np.sign(ours_SP - theirs_SP)
    seeds = len(sign_SP)
    said = [
        f"{word} at {'; '.join(_spans(part, tokens_P, (sign_SP == sign).all(0)))}"
        for word, sign in (("ahead", -1), ("behind", 1))
        if (sign_SP == sign).all(0).any()
    ]
    how = "in the one seed" if seeds == 1 else f"in all {seeds} seeds"
    if not said:
        return f"While training, it was at no point ahead or behind {how} (validation text)."
    rest = "" if (np.abs(sign_SP.sum(0)) == seeds).all() else "; elsewhere seeds disagree"
    return (
        f"While training, the published headless loss was, {how}, {' and '.join(said)} tokens a "
        f"parameter (validation text{rest})."
    )


def _spans(part: dict[str, Any], tokens_P: Sequence[float], holds_P: np.ndarray) -> list[str]:
    """The stretches of training where something holds, in tokens per parameter."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], holds_P.astype(int), [0]])))
    spans = []
    for first, after in edges.reshape(-1, 2):
        ends = [f"{tokens_per_parameter(part, tokens_P[i]):.3g}" for i in (first, after - 1)]
        spans.append(ends[0] if ends[0] == ends[1] else " to ".join(ends))
    return spans


def repeats_sections(parts: Sequence[dict[str, Any]]) -> list[Section]:
    """Each model against the baseline on tokens that stand earlier in their window, and on others;
    nothing for results that do not tell them apart."""
    parts = [part for part in parts if "repeated" in part["rows"][0]]
    if not parts:
        return []
    figures = [_repeats_figure(part) for part in parts]
    text = (
        "The published loss takes the micro-batch's targets for candidates. A share of them, one "
        "over the number of windows, is of a row's own window, where repeated tokens are frequent: "
        "its optimum scores them too low. Draws from the unigram distribution have no such bias. "
        "So a loss on repeated tokens beside a gain on new ones is the mark of few windows."
    )
    return [Section("Repeated and new tokens", [text], figures=figures)]


def _repeats_figure(part: dict[str, Any]) -> Figure:
    rows = [row for row in part["rows"] if row["difference"] and row["key"] != "headless-raw"]
    intervals = [
        Interval(
            label=row["label"],
            estimate=row[name]["estimate"],
            low=row[name]["low"],
            high=row[name]["high"],
            note="" if row[name]["low"] is not None else row[name]["note"],
            group=f"{name} tokens" + (", at equal time" if row["longer"] else ""),
        )
        for longer in (False, True)
        for name in ("repeated", "new")
        for row in rows
        if row["longer"] == longer and row[name]
    ]
    found = {row["key"]: row for row in rows}
    said = "; ".join(
        f"{found[key]['label']} {_nats(found[key]['repeated'])} on repeated and "
        f"{_nats(found[key]['new'])} on new tokens"
        for key in (HEADLESS, "headless-unigram", "headless-mixture")
        if key in found and found[key]["repeated"] and found[key]["new"]
    )
    share = part["rows"][0]["repeated_share"]
    return forest_plot(
        intervals,
        x_label="nats per token against cross-entropy with the prior bias (below 0: better)",
        finding=f"Vocabulary {part['vocabulary']:,}: {said}.",
        alt="Loss of each model against the baseline on repeated and on new tokens; zero is "
        "marked.",
        caption=f"{100 * share:.0f} % of the scored tokens are repeated: they stand earlier in "
        "their window. Bars: 95 % intervals, each for its row alone.",
    )


def _nats(difference: dict[str, Any]) -> str:
    text = f"{signed(difference['estimate'], 3)} nats"
    if difference["low"] is None:
        return f"{text} (no interval)"
    return f"{text} [{signed(difference['low'], 3)}, {signed(difference['high'], 3)}]"


def equivalent_figure(part: dict[str, Any]) -> Figure:
    """What the headless training loss itself says of perplexity, beside the measured one."""
    curves = [c for c in part["curves"] if c["arm"] == HEADLESS and not c["longer"]]
    last = float(np.mean([c["equivalent"][-1][1] for c in curves]))
    measured = float(np.mean([c["points"][-1][2] for c in curves]))
    series = [
        Series(
            "measured, with the prior head",
            *zip(*[(p[0], p[2]) for p in c["points"]], strict=True),
            colour=0,
        )
        for c in curves
    ] + [
        Series(
            "from the training loss",
            *zip(*[(p[0], p[1]) for p in c["equivalent"]], strict=True),
            colour=1,
            dashed=True,
        )
        for c in curves
    ]
    return line_plot(
        series,
        x_label="training tokens",
        y_label="nats per token",
        finding=f"Vocabulary {part['vocabulary']:,}: without any head, the headless loss alone "
        f"says {last:.3f} nats at the end; measured on validation text are {measured:.3f}.",
        alt="Equivalent and measured cross-entropy of the headless models against tokens.",
        caption="From the training loss: H(unigram) + loss − log K, means over a twentieth of the "
        "run. Biased upward where the negatives K of a step are few, and of training text.",
    )


def downstream_sections(parts: Sequence[dict[str, Any]]) -> list[Section]:
    """Zero-shot tasks, a figure for each task and metric; nothing where none was asked."""
    figures = [
        _task_figure(part, task, metric)
        for part in parts
        for task in part["tasks"]
        for metric in task["rows"][REFERENCE]
    ]
    text = (
        "Zero-shot, each model with the head of its row. Intervals: two-way random effects over "
        "seeds and items; where items come in sets (BLiMP), over seeds and sets, since those of "
        "one set are often from one template."
    )
    return [Section("Tasks", [text], figures=figures)] if figures else []


def _task_figure(part: dict[str, Any], task: dict[str, Any], metric: str) -> Figure:
    labels = {
        row["key"]: row["label"] + (", equal time" if row["longer"] else "") for row in part["rows"]
    }
    rows = [
        Interval(
            labels[key],
            made[metric]["estimate"],
            made[metric]["low"],
            made[metric]["high"],
            made[metric]["note"] if made[metric]["low"] is None else "",
        )
        for key, made in task["rows"].items()
    ]
    reference = task["rows"][REFERENCE][metric]["estimate"]
    difference = task["rows"][HEADLESS][metric]["difference"]
    return forest_plot(
        rows,
        x_label=f"{task['task']}: {_METRICS[metric]}",
        finding=f"{task['task']}, vocabulary {part['vocabulary']:,}: headless with the prior has "
        f"{task['rows'][HEADLESS][metric]['estimate']:.3f} {_METRICS[metric]}, the baseline "
        f"{reference:.3f}; paired difference {_paired(difference)}.",
        alt=f"{_METRICS[metric]} of each model on {task['task']} with its interval.",
        caption=f"{task['items']:,} items of {task['source']}. Bars: 95 % intervals, each model "
        "alone. The line is the baseline, cross-entropy with the prior bias.",
        reference=reference,
    )


def _paired(difference: dict[str, Any]) -> str:
    text = signed(difference["estimate"], 3)
    if difference["low"] is None:
        return f"{text} (no interval)"
    text += f" [{signed(difference['low'], 3)}, {signed(difference['high'], 3)}]"
    return text + (", items only" if difference["basis"] == "text only" else "")


def growth_figures(growth: Sequence[dict[str, Any]]) -> list[Figure]:
    """Time and memory of a step against the vocabulary."""
    if len(growth) < 2:
        return []
    vocabularies = [row["vocabulary"] for row in growth]
    figures: list[Figure] = []
    for key, unit, scale, what in (
        ("seconds", "seconds a step", 1.0, "takes {:.1f} times as long as a headless one"),
        ("bytes", "peak memory, GB", 1e-9, "needs {:.2f} times the memory of a headless one"),
    ):
        ratio = growth[-1]["cross-entropy"][key] / growth[-1]["headless"][key]
        figures.append(
            line_plot(
                [
                    Series(
                        name,
                        vocabularies,
                        [scale * row[name][key] for row in growth],
                        colour=colour,
                        dashed=name != "headless",
                    )
                    for colour, name in ((0, "headless"), (1, "cross-entropy"))
                ],
                x_label="vocabulary",
                y_label=unit,
                log_x=True,
                from_zero=True,
                finding=f"At a vocabulary of {vocabularies[-1]:,} a step of cross-entropy "
                f"{what.format(ratio)}.",
                alt=f"{unit} of cross-entropy and headless training against the vocabulary.",
                caption="Tied models with an output bias, tokens of Zipf's distribution, the "
                "optimizer's step included; each form in a process of its own. Memory is above "
                "that of the process before the model.",
            )
        )
    return figures


def geometry_sections(parts: Sequence[dict[str, Any]]) -> list[Section]:
    """The geometry of the baseline and of the headless model side by side."""
    figures = [_rank_figure(part) for part in parts if part["geometry"]]
    rows: list[list[str | float | int]] = [
        [
            f"{ARMS[arm].label}, vocabulary {part['vocabulary']:,}",
            name,
            f"{cloud['mean_cosine']:.3f}" if cloud["mean_cosine"] is not None else "none",
            f"{cloud['centred']['effective_rank']:,.1f}",
            f"{cloud['centred']['normalised_entropy']:.3f}",
        ]
        for part in parts
        for arm, found in part["geometry"].items()
        for name, cloud in (
            ("embedding", found["input_embedding"]),
            ("states that the head reads", list(found["layers"].values())[-1]),
        )
    ]
    if not figures:
        return []
    table = Table(
        ["model", "vectors", "mean cosine", "effective rank", "normalised entropy"],
        rows,
        "Mean cosine over all pairs; rank and entropy of the singular values about the mean. First "
        "seed of each.",
    )
    return [Section("Geometry", figures=figures, tables=[table])]


def _rank_figure(part: dict[str, Any]) -> Figure:
    ranks = {
        arm: [cloud["centred"]["effective_rank"] for cloud in found["layers"].values()]
        for arm, found in part["geometry"].items()
    }
    embedding = {
        arm: found["input_embedding"]["centred"]["effective_rank"]
        for arm, found in part["geometry"].items()
    }
    return line_plot(
        [
            Series(ARMS[arm].label, list(range(len(values))), values, colour=i, dashed=i > 0)
            for i, (arm, values) in enumerate(
                sorted(ranks.items(), key=lambda kv: kv[0] != HEADLESS)
            )
        ],
        x_label="layer (0: what the first block reads; last: what the head reads)",
        y_label="effective rank of hidden states",
        finding=f"Vocabulary {part['vocabulary']:,}: the states that the head reads have "
        f"effective rank {ranks[HEADLESS][-1]:.1f} in the headless model and "
        f"{ranks[REFERENCE][-1]:.1f} in the baseline; the embeddings "
        f"{embedding[HEADLESS]:.1f} and {embedding[REFERENCE]:.1f}.",
        alt="Effective rank of the hidden states of each layer, both models.",
        caption="First seed of each. Effective rank: exp of the entropy of the singular values' "
        "shares, about the mean.",
    )
