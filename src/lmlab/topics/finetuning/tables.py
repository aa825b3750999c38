"""Metrics of fine-tuned models as tables, and how their intervals are written. Draws nothing."""

from __future__ import annotations

from lmlab.numerics.random_effects import Interval
from lmlab.pages.page import Table
from lmlab.pages.text import fixed
from lmlab.pages.wording import bounds_text, signed
from lmlab.topics.finetuning.metrics import Finetuning, TaskResult


def metrics_table(result: Finetuning) -> Table:
    """Each metric of each model on each task, a row each."""
    return Table(
        ["task", "model", "metric", "value", "95 % interval", "difference from the first"],
        [
            [
                task.task,
                model.name,
                name,
                model.metrics[name].estimate,
                range_text(model.metrics[name]),
                "" if model.difference is None else difference_text(model.difference[name]),
            ]
            for task in result.tasks
            for model in task.models
            for name in task.metrics
        ],
        "Means over seeds, with 95 % intervals.",
    )


def seeds_table(task: TaskResult) -> Table:
    """Each seed, and the checkpoint that was chosen for it."""
    return Table(
        ["model", "metric", "by seed", "checkpoint chosen at step", "of steps"],
        [
            [
                model.name,
                name,
                ", ".join(f"{value:.4f}" for value in model.by_seed[name]),
                ", ".join(map(str, model.chosen_step)),
                ", ".join(map(str, model.last_step)),
            ]
            for model in task.models
            for name in task.metrics
        ],
        "Each seed.",
    )


def difference_text(difference: Interval) -> str:
    """A difference with its interval, or that it has none."""
    return f"{signed(difference.estimate, 4)} {range_text(difference, sign=True)}"


def range_text(interval: Interval, *, sign: bool = False) -> str:
    """The bounds of an interval, or that it has none."""
    bounds = bounds_text(interval.bounds, lambda v: signed(v, 4) if sign else fixed(v, 4))
    return bounds + (", texts only" if interval.basis == "text only" else "")
