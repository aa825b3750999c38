"""The metrics of fine-tuned classifiers, with intervals over seeds and texts.

Notable:
- The interval of a metric covers seeds and texts: its jackknife pseudo-values, one for each seed
  and text, are the cells of the two-way layout of `numerics.random_effects`. For the accuracy they
  are right and wrong answers themselves.
- The difference of two models is paired by text and by seed.
- No interval leaves the range of its metric (`numerics.bounded`).

Shapes: S seeds, N reported texts, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmlab.data.labelled import LabelledTask
from lmlab.numerics.bounded import share_interval, unless_all_agree, within
from lmlab.numerics.classification import RANGES, metric, pseudo_values
from lmlab.numerics.random_effects import Interval, two_way_interval
from lmlab.objectives.classification import predictions
from lmlab.results import Result
from lmlab.run_folders.journal import read_journal
from lmlab.topics.finetuning.options import FinetuneConfig
from lmlab.training.loop import TrainedRun


@dataclass(frozen=True)
class ModelOnTask:
    """One model fine-tuned on one task; what is by seed stands in their order."""

    name: str
    metrics: dict[str, Interval]
    by_seed: dict[str, tuple[float, ...]]
    """Each metric of each seed."""
    difference: dict[str, Interval] | None
    """Of each metric, from the first model's; None for the first."""
    runs: tuple[str, ...]
    chosen_step: tuple[int, ...]
    """Of the checkpoint that is reported."""
    last_step: tuple[int, ...]


@dataclass(frozen=True)
class TaskResult:
    """All models on one task."""

    task: str
    source: str
    classes: tuple[str, ...]
    """Empty for regression."""
    metrics: tuple[str, ...]
    """The first is the one that the checkpoint is chosen by."""
    training_texts: int
    selection_texts: int
    """That the checkpoint is chosen on."""
    reported_texts: int
    notes: tuple[str, ...]
    baseline: dict[str, float]
    """Each metric of a guess that never looks: the commonest training class, or the mean."""
    models: tuple[ModelOnTask, ...]


@dataclass(frozen=True)
class Finetuning(Result, kind="finetune"):
    """Language models fine-tuned on labelled tasks, and compared with the first of them."""

    config: FinetuneConfig
    tasks: tuple[TaskResult, ...]


Classifier = tuple[TrainedRun, np.ndarray]
"""A run, and its outputs (N, C) for the reported texts."""


def task_result(
    task: LabelledTask,
    names: Sequence[str],
    classifiers: Sequence[Sequence[Classifier]],
) -> TaskResult:
    """Compares models, each with its classifiers by seed."""
    true_N = np.array([example.label for example in task.reported])
    values = [_values(task, [outputs for _, outputs in each], true_N) for each in classifiers]
    return TaskResult(
        task=task.name,
        source=task.source,
        classes=tuple(task.labels),
        metrics=tuple(task.metrics),
        training_texts=len(task.train),
        selection_texts=len(task.selection),
        reported_texts=len(task.reported),
        notes=tuple(task.notes),
        baseline=_baseline(task, true_N),
        models=tuple(
            ModelOnTask(
                name=name,
                metrics={m: _interval(m, v) for m, v in of_model.items()},
                by_seed={m: tuple(v.mean(axis=1).tolist()) for m, v in of_model.items()},
                difference=None
                if of_model is values[0]
                else {m: _difference(m, v - values[0][m]) for m, v in of_model.items()},
                runs=tuple(run.name for run, _ in of_seed),
                chosen_step=tuple(
                    int(run.checkpoint.name.removeprefix("step-")) for run, _ in of_seed
                ),
                last_step=tuple(
                    read_journal(run.path / "journal.jsonl")[-1]["step"] for run, _ in of_seed
                ),
            )
            for name, of_model, of_seed in zip(names, values, classifiers, strict=True)
        ),
    )


def _interval(name: str, values_SN: np.ndarray) -> Interval:
    """The interval of a metric from its pseudo-values, within its range."""
    interval = two_way_interval(values_SN)
    if name == "accuracy":
        return share_interval(interval)
    return within(unless_all_agree(interval, values_SN), *RANGES[name])


def _difference(name: str, values_SN: np.ndarray) -> Interval:
    low, high = RANGES[name]
    interval = unless_all_agree(two_way_interval(values_SN), values_SN)
    return within(interval, low - high, high - low)


def _values(
    task: LabelledTask, outputs_SNC: Sequence[np.ndarray], true_N: np.ndarray
) -> Mapping[str, np.ndarray]:
    """For each metric its pseudo-values (S, N), moved so that a seed's mean is its metric."""
    classes = len(task.labels) or None
    values: dict[str, np.ndarray] = {}
    for name in task.metrics:
        rows = []
        for outputs_NC in outputs_SNC:
            predicted_N = predictions(task.labels, outputs_NC)
            pseudo_N = pseudo_values(name, predicted_N, true_N, classes=classes)
            value = metric(name, predicted_N, true_N, classes=classes)
            rows.append(pseudo_N - pseudo_N.mean() + value)
        values[name] = np.stack(rows)
    return values


def _baseline(task: LabelledTask, true_N: np.ndarray) -> dict[str, float]:
    """Each metric of a guess that never looks: the commonest training class, or the mean."""
    labels = np.array([example.label for example in task.train])
    guess = labels.mean() if task.regression else np.bincount(labels.astype(np.int64)).argmax()
    guess_N = np.full(len(true_N), guess)
    classes = len(task.labels) or None
    return {name: metric(name, guess_N, true_N, classes=classes) for name in task.metrics}
