"""Fine-tuned evaluation in the GLUE manner: classifiers as child runs, on texts kept aside.

Every model is fine-tuned on every task with several seeds (of the new head, of the order of the
texts, of dropout) and scored on the reported split, which no run looks at before: the checkpoint is
chosen on the selection split.

Shapes: N reported texts, C classes (1 for regression).
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from lmlab.config.training import CheckpointConfig, OptimizerConfig, ParentConfig, TrainConfig
from lmlab.data.labelled import LabelledTask, read_labelled_tasks
from lmlab.data.labelled_store import LabelledSplit, labelled_store, read_labels
from lmlab.data.splits import TEST, TRAIN
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import load_tokenizer
from lmlab.errors import UserError
from lmlab.locks import alone
from lmlab.models.backbone import Backbone
from lmlab.models.files import load_classifier
from lmlab.objectives import from_record
from lmlab.objectives.classification import LabelCriterion, outputs_for
from lmlab.progress import Bar, say
from lmlab.run_folders.checkpoint import read_json_file, usable_checkpoint
from lmlab.studies.finished_runs import file_beside
from lmlab.studies.kept import kept_arrays
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part, run_parts
from lmlab.studies.run_requests import placed
from lmlab.topics.finetuning.metrics import Classifier, Finetuning, task_result
from lmlab.topics.finetuning.options import FinetuneConfig
from lmlab.training.classifier import classifier_parent
from lmlab.training.loop import train
from lmlab.training.setup import ResolvedRun

_BATCH = 64  # texts that are scored at a time


def run_finetune(config: FinetuneConfig, *, worker: bool = False) -> Finetuning:
    """Runs the study, or what is missing of it (`studies.parts.run_parts`).

    Raises `UserError` for a model or task that cannot be read.
    """
    tasks = read_labelled_tasks(config.tasks, limit=config.limit)
    for task in tasks:
        for note in task.notes:
            say(f"{task.name}: {note}")
    parts = {
        (i, model, seed): part
        for i, task in enumerate(tasks)
        for model in config.models
        for seed, part in enumerate(_parts(config, model, task))
    }

    def result(classifiers: dict[tuple[int, str, int], Classifier]) -> Finetuning:
        return Finetuning(
            config=config,
            tasks=tuple(
                task_result(
                    task,
                    config.names or config.models,
                    [[classifiers[i, m, s] for s in range(config.seeds)] for m in config.models],
                )
                for i, task in enumerate(tasks)
            ),
        )

    return run_parts(
        "fine-tuning", parts, Finetuning, result,
        out=study_folder("finetune", config),
        work=float(sum(part.run.tokens for part in parts.values())), worker=worker,
    )  # fmt: skip


def _parts(config: FinetuneConfig, model: str, task: LabelledTask) -> list[Part[Classifier]]:
    """One model on one task, by seed."""
    parent = classifier_parent(model)
    length = min(config.length, parent.room)
    with alone(config.lab, f"preparing {task.name}"):
        store = labelled_store(
            task, parent.tokenizer, length=length, folder=config.lab / "labelled"
        )
    parts: list[Part[Classifier]] = []
    for seed in range(config.seeds):
        label = f"{task.name}, {model}, seed {seed}"
        run = _run(config, store, model, parent.order, length, seed)
        parts.append(Part(label, run, partial(_make, store, run, label)))
    return parts


def _run(
    config: FinetuneConfig, store: TokenStore, model: str, order: str, length: int, seed: int
) -> ResolvedRun:
    texts = len(store.split(TRAIN).documents_M3)
    epoch = math.ceil(texts / config.batch)
    request = TrainConfig(
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
            "adamw", learning_rate=config.learning_rate, betas=(0.9, 0.999), weight_decay=0.01
        ),
        checkpoints=CheckpointConfig(every=max(100, epoch), keep=1),
        evaluate_every=max(1, epoch // config.validations),
        early_stopping=config.early_stopping,
        dtype=config.dtype,
        device=config.device,
    )
    return placed(request, store, config.lab)


def _make(store: TokenStore, resolved: ResolvedRun, label: str, bar: Bar) -> Classifier:
    """Trains, or reads what is there; outputs are kept beside the run."""
    run = train(resolved, bar=bar, note=f"{label},")
    decided = (run.checkpoint.name, store.fingerprint, "outputs 1")
    file = file_beside(run, "scores/outputs.safetensors", *decided)
    kept = kept_arrays(file, lambda: {"outputs": reported_outputs(run.checkpoint, store)})
    return run, kept["outputs"]


def reported_outputs(path: Path, store: TokenStore) -> np.ndarray:
    """A classifier's outputs (N, C) float64 for the reported texts of a labelled store, in float32.

    `path` is a run folder or a checkpoint. Raises `UserError` where it is no classifier of lmlab,
    is damaged, or has another tokenizer than the store.
    """
    folder = usable_checkpoint(path)
    record = read_json_file(folder / "lmlab.json")
    tokenizer = load_tokenizer(folder)
    if tokenizer.fingerprint != store.manifest["tokenizer_fingerprint"]:
        raise UserError(f"{store.path} was made with another tokenizer than {path}")
    objective = from_record(record["objective"], order=record["order"], tokenizer=tokenizer)
    if not isinstance(objective.criterion, LabelCriterion):
        raise UserError(f"{path} is a language model, not a classifier")
    model = load_classifier(str(folder), fresh=None)
    texts = LabelledSplit(store.split(TEST), read_labels(store).by_split[TEST])
    return outputs_for(objective, Backbone(model), texts, batch=_BATCH)
