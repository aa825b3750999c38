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
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from lmlab.config import digest, to_mapping
from lmlab.config.training import CheckpointConfig, OptimizerConfig, ParentConfig, TrainConfig
from lmlab.data.labelled import LabelledTask, read_labelled
from lmlab.data.labelled_store import labelled_store
from lmlab.data.splits import TRAIN
from lmlab.data.store import TokenStore
from lmlab.durable import check_seal, packed, sealed, write_bytes
from lmlab.locks import alone
from lmlab.numerics.classification import metric, pseudo_values
from lmlab.numerics.random_effects import two_way_interval
from lmlab.objectives.classification import predictions
from lmlab.progress import Bar, say
from lmlab.results import environment
from lmlab.run_folders.journal import read_journal
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part, carry_out
from lmlab.studies.run_requests import placed
from lmlab.topics.finetuning.classify import reported_outputs
from lmlab.topics.finetuning.options import FinetuneConfig
from lmlab.topics.finetuning.report import finetune_page
from lmlab.training.classifier import classifier_parent
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import planned_tokens


def run_finetune(config: FinetuneConfig, *, worker: bool = False) -> Path:
    """Runs what is missing and returns the path of the HTML report.

    Writes `results.json` and `report.html` to `config.out`. A `worker` shares it with others
    (`studies.parts`). Raises `UserError` for a model or task that cannot be read.
    """
    tasks = [read_labelled(specification, limit=config.limit) for specification in config.tasks]
    for task in tasks:
        for note in task.notes:
            say(f"{task.name}: {note}")
    parts = {
        (i, model, seed): part
        for i, task in enumerate(tasks)
        for model in config.models
        for seed, part in enumerate(_parts(config, model, task))
    }

    def results(made: dict[tuple[int, str, int], tuple[TrainedRun, np.ndarray]]) -> dict[str, Any]:
        return {
            "study": "finetune",
            "title": "Fine-tuned on labelled texts",
            "config": to_mapping(config),
            "environment": environment(),
            "tasks": [
                _task_result(
                    config,
                    task,
                    [[made[i, m, s] for s in range(config.seeds)] for m in config.models],
                )
                for i, task in enumerate(tasks)
            ],
        }

    return carry_out(
        "fine-tuning", parts, results, finetune_page,
        out=study_folder("finetune", config),
        work=float(sum(planned_tokens(part.request) for part in parts.values())), worker=worker,
    )  # fmt: skip


def _parts(
    config: FinetuneConfig, model: str, task: LabelledTask
) -> list[Part[tuple[TrainedRun, np.ndarray]]]:
    """One model on one task, by seed."""
    parent = classifier_parent(model)
    length = min(config.length, parent.room)
    with alone(config.lab, f"preparing {task.name}"):
        store = labelled_store(
            task, parent.tokenizer, length=length, folder=config.lab / "labelled"
        )
    requests = [
        _request(config, store, model, parent.order, length, s) for s in range(config.seeds)
    ]
    labels = [f"{task.name}, {model}, seed {seed}" for seed in range(config.seeds)]
    return [
        Part(label, asked, partial(_make, store, asked, label))
        for label, asked in zip(labels, requests, strict=True)
    ]


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


def _make(
    store: TokenStore, asked: TrainConfig, label: str, bar: Bar
) -> tuple[TrainedRun, np.ndarray]:
    """A run, and its outputs (N, C) for the reported texts, kept beside it."""
    run = train(asked, bar=bar, note=f"{label},")
    key = digest([run.identity, run.checkpoint.name, store.fingerprint, "outputs 1"])
    path = run.path / "scores" / f"outputs-{key[:12]}.safetensors"
    try:
        return run, load(check_seal(path.read_bytes()))["outputs"]
    except (FileNotFoundError, SafetensorError, ValueError, KeyError):  # not there, or damaged
        outputs_NC = reported_outputs(run.checkpoint, store)
        write_bytes(path, sealed(packed({"outputs": outputs_NC})))
        return run, outputs_NC


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
                "runs": [run.name for run, _ in runs],
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
