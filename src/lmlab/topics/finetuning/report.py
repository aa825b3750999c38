"""The page of `lmlab finetune`, from its `results.json` alone (so it can be drawn again).

Every figure stands under its finding in words.
"""

from __future__ import annotations

from typing import Any

from lmlab.numerics.verdicts import Evidence, verdict
from lmlab.pages.figures import Interval, forest_plot
from lmlab.pages.page import Figure, Section, Table, render_page
from lmlab.pages.wording import signed
from lmlab.results import made_by
from lmlab.studies.provenance import to_repeat
from lmlab.topics.finetuning.options import FinetuneConfig


def finetune_page(results: dict[str, Any]) -> str:
    """The HTML page of `results` (see `lmlab.topics.finetuning.study`)."""
    sections = [_section(task) for task in results["tasks"]]
    return render_page(
        results["title"],
        summary(results),
        [*sections, _methods(results)],
        footer=made_by(results["environment"]),
    )


def summary(results: dict[str, Any]) -> str:
    """The headline metric of every model on every task, in words."""
    return "\n\n".join(_finding(task, task["metrics"][0]) for task in results["tasks"])


def finetune_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the result as a table."""
    columns = ["task", "model", "metric", "value", "95 % interval", "difference from the first"]
    rows = [
        [
            task["task"],
            model["name"],
            name,
            f"{model['metrics'][name]['estimate']:.4f}",
            _range(model["metrics"][name]),
            "" if model["difference"] is None else _difference(model["difference"][name]),
        ]
        for task in results["tasks"]
        for model in task["models"]
        for name in task["metrics"]
    ]
    return columns, rows


def _finding(task: dict[str, Any], name: str) -> str:
    first, *others = task["models"]
    told = f"{task['task']}, {name}: {first['name']} {first['metrics'][name]['estimate']:.3f}"
    guess = task["baseline"][name]
    told += f" {_range(first['metrics'][name])}; a guess without reading has {guess:.3f}."
    for model in others:
        difference = model["difference"][name]
        said = verdict(
            Evidence.of(difference),
            above="better",
            below="worse",
            size=lambda value: f"{value:.4f}",
            models="classifiers",
        )
        told += (
            f" {model['name']} {model['metrics'][name]['estimate']:.3f}, {said} "
            f"({_difference(difference)})."
        )
    return told


def _difference(difference: dict[str, Any]) -> str:
    return f"{signed(difference['estimate'], 4)} {_range(difference, sign=True)}"


def _range(interval: dict[str, Any], *, sign: bool = False) -> str:
    if interval["low"] is None:
        return f"({interval['note']})"
    low, high = (
        signed(interval[end], 4) if sign else f"{interval[end]:.4f}".replace("-", "−")
        for end in ("low", "high")
    )
    return f"[{low}, {high}]" + (", texts only" if interval["basis"] == "text only" else "")


def _section(task: dict[str, Any]) -> Section:
    figures = [_figure(task, name) for name in task["metrics"]]
    texts = task["texts"]
    said = (
        f"{texts['train']:,} texts to train on, {texts['selection']:,} to choose the checkpoint, "
        f"{texts['reported']:,} reported."
    )
    notes = [f"{note[0].upper()}{note[1:]}." for note in task["notes"]]
    table = Table(
        ["model", "metric", "by seed", "checkpoint chosen at step", "of steps"],
        [
            [
                model["name"],
                name,
                ", ".join(f"{value:.4f}" for value in model["by_seed"][name]),
                ", ".join(str(step["chosen"]) for step in model["best_step"]),
                ", ".join(str(step["last"]) for step in model["best_step"]),
            ]
            for model in task["models"]
            for name in task["metrics"]
        ],
        "Each seed.",
    )
    return Section(task["task"], [said, *notes], figures=figures, tables=[table])


def _figure(task: dict[str, Any], name: str) -> Figure:
    rows = [
        Interval(
            model["name"],
            model["metrics"][name]["estimate"],
            model["metrics"][name]["low"],
            model["metrics"][name]["high"],
            model["metrics"][name]["note"],
        )
        for model in task["models"]
    ]
    return forest_plot(
        rows,
        x_label=f"{name} on the reported texts",
        finding=_finding(task, name),
        alt=f"{name} of each model with its interval; the line is a guess without reading.",
        caption="Bars: 95 % intervals over seeds and texts, each model alone; differences above "
        "are paired. The line is a guess without reading: the commonest class, or the mean value.",
        reference=task["baseline"][name],
    )


def _methods(results: dict[str, Any]) -> Section:
    config = results["config"]
    balanced = ", class-balanced loss" if config["class_balanced"] else ""
    frozen = " The model itself stays as it is." if config["freeze_body"] else ""
    text = (
        f"Each model is fine-tuned with a fresh head, {config['seeds']} seed(s), at most "
        f"{config['epochs']:g} epochs of batches of {config['batch']} texts, AdamW, learning rate "
        f"{config['learning_rate']:g} (warm-up over 5 % of the steps, cosine to a tenth), weight "
        f"decay 0.01, gradient clipped at 1{balanced}.{frozen} The checkpoint is the best of "
        f"{config['validations']} validations an epoch on the selection texts, by the first metric "
        f"and then by loss; training ends after {config['early_stopping']} that were no better. "
        "Encoders are read at the first token, causal models at the last. Texts are cut to "
        f"{config['length']} tokens. Intervals: two-way random effects over seeds and texts "
        "(jackknife pseudo-values where a metric is no mean), Student t. Seeds are of the head, "
        "the order of the texts and dropout; the pretrained weights are one draw."
    )
    return Section("Methods", [text, to_repeat("lmlab finetune", FinetuneConfig, config)])
