"""Kinds of fine-tuned classifiers on the reported texts of their task, paired by text.

Each run knows its labelled store, which has the texts and labels that no run looks at before; the
stores of models with different tokenizers have the same texts.

Shapes: S runs, N reported texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lmlab.config import from_mapping, read_toml
from lmlab.config.training import TrainConfig
from lmlab.data.labelled_store import read_labels
from lmlab.data.splits import TEST
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.objectives.classification import predictions
from lmlab.topics.comparing.of_tasks import ComparedOnTask, rank_items
from lmlab.topics.finetuning.study import reported_outputs


def compare_classifiers(kinds: Mapping[str, Sequence[str]]) -> ComparedOnTask:
    """Compares runs of `lmlab finetune` by their accuracy on the reported texts.

    Raises `UserError` for runs of different tasks, and for a regression, which has no right answer.
    """
    stores = {run: _store_of(run) for runs in kinds.values() for run in runs}
    asked = {run: _labels(store) for run, store in stores.items()}
    (first, (names, classes, true_N)), *others = asked.items()
    for run, (its_names, its_classes, its_true_N) in others:
        same = names == its_names and classes == its_classes
        if not same or not np.array_equal(true_N, its_true_N):
            raise UserError(
                f"{run} and {first} are of different tasks, or of different texts of one "
                f"({stores[run].path}, {stores[first].path}); compare runs of one task"
            )
    if not classes:
        raise UserError(f"{first} predicts values, no classes; `lmlab finetune` compares such runs")
    values = {
        name: np.array(
            [predictions(classes, reported_outputs(Path(run), stores[run])) == true_N
             for run in runs],
            dtype=np.float64,
        )
        for name, runs in kinds.items()
    }  # fmt: skip
    return ComparedOnTask(
        task="classification",
        source=f"the reported texts of {stores[first].path}",
        items=len(true_N),
        sets=None,
        rankings=(rank_items(values, "accuracy"),),
        notes=("the seeds of classifiers are of the head, the order of the texts and dropout; the "
               "pretrained weights are one draw",),
    )  # fmt: skip


def _store_of(run: str) -> TokenStore:
    file = Path(run) / "config.toml"
    values = {k: v for k, v in read_toml(file).items() if k != "lmlab"}
    return TokenStore(from_mapping(TrainConfig, values, where=str(file)).store)


def _labels(store: TokenStore) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    """Names of the reported texts, the classes, and the right one of each text (N)."""
    labels = read_labels(store)
    return store.split(TEST).names, tuple(labels.classes), labels.by_split[TEST]
