"""Fine-tuned evaluation in the GLUE manner: classifiers as child runs, on texts kept aside.

Every model is fine-tuned on every task with several seeds (of the new head, of the order of the
texts, of dropout) and scored on the reported split, which no run looks at before: the checkpoint is
chosen on the selection split.

Notable:
- The interval of a metric covers seeds and texts: its jackknife pseudo-values, one for each seed
  and text, are the cells of the two-way layout of `numerics.random_effects`. For the accuracy they
  are right and wrong answers themselves.
- The difference of two models is paired by text and by seed.

Shapes: S seeds, N reported texts, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.analyses.classify import reported_outputs
from lmlab.config import digest, to_mapping
from lmlab.config.finetune import FinetuneConfig
from lmlab.config.training import CheckpointConfig, OptimizerConfig, ParentConfig, TrainConfig
from lmlab.data.labelled import LabelledTask, read_labelled
from lmlab.data.labelled_store import labelled_store
from lmlab.data.splits import TRAIN
from lmlab.data.store import TokenStore
from lmlab.durable import write_json, write_text
from lmlab.numerics.classification import metric, pseudo_values
from lmlab.numerics.random_effects import two_way_interval
from lmlab.objectives.classification import predictions
from lmlab.progress import Bar, say, track
from lmlab.runs.journal import read_journal
from lmlab.studies.finetune_report import finetune_page
from lmlab.studies.requests import placed, study_identity
from lmlab.studies.words import environment
from lmlab.training.classifier import classifier_parent
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import planned_tokens


@dataclass(frozen=True)
class _Work:
    """One model on one task."""

    model: str
    task: LabelledTask
    store: TokenStore
    runs: tuple[TrainConfig, ...]
    """One a seed."""


def run_finetune(config: FinetuneConfig) -> Path:
    """Runs what is missing and returns the path of the HTML report.

    Writes `results.json` and `report.html` to `config.out`. Raises `UserError` for a model or task
    that cannot be read.
    """
    out = config.out or config.lab / f"finetune-{digest(study_identity(config))[:8]}"
    tasks = [read_labelled(specification, limit=config.limit) for specification in config.tasks]
    for task in tasks:
        for note in task.notes:
            say(f"{task.name}: {note}")
    work = [_work(config, model, task) for task in tasks for model in config.models]
    total = sum(planned_tokens(run) for each in work for run in each.runs)
    with track("fine-tuning", float(total), "tokens, at most") as bar:
        made = [_outputs(each, bar) for each in work]
    results = {
        "study": "finetune",
        "title": "Fine-tuned on labelled texts",
        "config": to_mapping(config),
        "environment": environment(),
        "tasks": [
            _task_result(config, task, made[i * len(config.models) :][: len(config.models)])
            for i, task in enumerate(tasks)
        ],
    }
    write_json(out / "results.json", results)
    write_text(out / "report.html", finetune_page(results))
    return out / "report.html"


def _work(config: FinetuneConfig, model: str, task: LabelledTask) -> _Work:
    parent = classifier_parent(model)
    length = min(config.length, parent.room)
    store = labelled_store(task, parent.tokenizer, length=length, folder=config.lab / "labelled")
    runs = tuple(
        _request(config, store, model, parent.order, length, s) for s in range(config.seeds)
    )
    return _Work(model, task, store, runs)


def _request(
    config: FinetuneConfig, store: TokenStore, model: str, order: str, length: int, seed: int
) -> TrainConfig:
    texts = len(store.split(TRAIN).documents_M3)
    epoch = math.ceil(texts / config.batch)
    made = TrainConfig(
        store=store.path,
        objective="classification",
        class_balanced=config.class_balanced,
        order=order,
        parent=ParentConfig(model, freeze_body=config.freeze_body),
        context=length,
        batch=config.batch,
        steps=max(1, round(config.epochs * epoch)),
        seed=seed,
        optimizer=OptimizerConfig(
            learning_rate=config.learning_rate, betas=(0.9, 0.999), weight_decay=0.01
        ),
        checkpoints=CheckpointConfig(every=max(100, epoch), keep=1),
        evaluate_every=max(1, epoch // config.validations),
        early_stopping=config.early_stopping,
        dtype=config.dtype,
        device=config.device,
    )
    return placed(made, store, config.lab)


def _outputs(work: _Work, bar: Bar) -> list[tuple[TrainedRun, np.ndarray]]:
    """Each seed's run, and its outputs (N, C) for the reported texts."""
    made = []
    for request in work.runs:
        run = train(request, bar=bar, note=f"{work.task.name}, {work.model}, seed {request.seed},")
        made.append((run, reported_outputs(run.checkpoint, work.store)))
    return made


def _task_result(
    config: FinetuneConfig, task: LabelledTask, made: list[list[tuple[TrainedRun, np.ndarray]]]
) -> dict[str, Any]:
    true_N = np.array([example.label for example in task.reported])
    values = [_values(task, [outputs for _, outputs in runs], true_N) for runs in made]
    names = config.names or config.models
    return {
        "task": task.name,
        "source": task.source,
        "classes": list(task.labels),
        "metrics": list(task.metrics),
        "texts": {
            "train": len(task.train),
            "selection": len(task.selection),
            "reported": len(task.reported),
        },
        "notes": list(task.notes),
        "baseline": _baseline(task, true_N),
        "models": [
            {
                "name": name,
                "metrics": {m: asdict(two_way_interval(v)) for m, v in of_model.items()},
                "by_seed": {m: v.mean(axis=1).tolist() for m, v in of_model.items()},
                "difference": None
                if of_model is values[0]
                else {m: asdict(two_way_interval(v - values[0][m])) for m, v in of_model.items()},
                "runs": [run.identity[:12] for run, _ in runs],
                "best_step": [_best_step(run) for run, _ in runs],
            }
            for name, of_model, runs in zip(names, values, made, strict=True)
        ],
    }


def _values(
    task: LabelledTask, outputs_SNC: list[np.ndarray], true_N: np.ndarray
) -> Mapping[str, np.ndarray]:
    """For each metric its pseudo-values (S, N), moved so that a seed's mean is its metric."""
    made: dict[str, np.ndarray] = {}
    for name in task.metrics:
        rows = []
        for outputs_NC in outputs_SNC:
            predicted_N = predictions(task.labels, outputs_NC)
            classes = len(task.labels) or None
            pseudo_N = pseudo_values(name, predicted_N, true_N, classes=classes)
            value = metric(name, predicted_N, true_N, classes=classes)
            rows.append(pseudo_N - pseudo_N.mean() + value)
        made[name] = np.stack(rows)
    return made


def _baseline(task: LabelledTask, true_N: np.ndarray) -> dict[str, float]:
    """Each metric of a guess that never looks: the commonest training class, or the mean."""
    labels = np.array([example.label for example in task.train])
    guess = labels.mean() if task.regression else np.bincount(labels.astype(np.int64)).argmax()
    guess_N = np.full(len(true_N), guess)
    classes = len(task.labels) or None
    return {name: metric(name, guess_N, true_N, classes=classes) for name in task.metrics}


def _best_step(run: TrainedRun) -> dict[str, int]:
    journal = read_journal(run.path / "journal.jsonl")
    return {"chosen": int(run.checkpoint.name.removeprefix("step-")), "last": journal[-1]["step"]}
