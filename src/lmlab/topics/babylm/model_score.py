"""One model on all tasks of BabyLM: scores, learning curves, and the file of predictions.

What is measured is kept in the folder of the result, task by task, so that the same command goes on
where it was stopped. Of a run with several checkpoints, every task is also scored at each of them,
on a fixed sample.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypedDict

from lmlab.config import digest, to_mapping
from lmlab.data.task_items import LastWord, Task
from lmlab.durable import write_json
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.progress import say, track
from lmlab.results import Result
from lmlab.run_folders.checkpoint import (
    checkpoint_step,
    final_step,
    usable_checkpoint,
)
from lmlab.run_folders.rundir import stored_config
from lmlab.run_folders.words import (
    WordCheckpoint,
    course_of,
    run_and_split,
    word_checkpoints,
)
from lmlab.studies.kept import kept
from lmlab.topics.babylm.acquisition import (
    MINIMUM_CHECKPOINTS,
    Acquisition,
    acquisition,
    held_out_contexts,
    learning_curves,
)
from lmlab.topics.babylm.reading import Reading, reading
from lmlab.topics.babylm.suite import Suite, open_suite
from lmlab.topics.scoring.predictions import Prediction, predictions
from lmlab.topics.scoring.zero_shot import Estimate, TaskScore, zero_shot
from lmlab.training.hardware import resolve_device

PREDICTIONS = "predictions.json"
_FAST_ITEMS = 100
_CURVE_ITEMS = 20
_CONTEXTS = 8


@dataclass(frozen=True)
class CoursePoint:
    """A score on a sample of a task when so many words were seen."""

    task: str
    checkpoint: str
    words: int
    value: Estimate


@dataclass(frozen=True)
class SuiteScore(Result, kind="suite", views="lmlab.topics.babylm.model_report"):
    """One model on all tasks that there is data for."""

    model: str
    order: str
    head: str
    data: str
    fast: bool
    """Whether a sample of each set was asked."""
    words: int | None
    """Seen in training, repeats counted; None where that is not known."""
    tasks: tuple[TaskScore, ...]
    reading: Reading | None
    acquisition: Acquisition | None
    course: tuple[CoursePoint, ...]
    missing: tuple[str, ...]
    """What was not measured, and why."""

    def score(self, task: str) -> Estimate | None:
        """The figure that a task is judged by; None where it was not measured."""
        return next((headline(each) for each in self.tasks if each.task == task), None)


def headline(score: TaskScore) -> Estimate:
    """The figure that a task of the suite is judged by (`suite.metric_of`)."""
    return score.metrics.get("accuracy") or score.metrics["spearman"]


def suite_score(
    model: LanguageModel | str,
    data: Path,
    out: Path,
    *,
    fast: bool = False,
    objective: Literal["auto", "causal", "masked"] = "auto",
    batch: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> SuiteScore:
    """Scores a model on a folder of tasks; keeps what it measures, and writes predictions, in
    `out`. A model that is given by the name of a run is scored at its checkpoints too.

    Raises `UserError` as `open_suite` and `open_model`.
    """
    suite = open_suite(data, fast=fast, limit=_FAST_ITEMS if fast else None)
    opening = partial(open_model, device=resolve_device(device), objective=objective)
    lm = opening(model) if isinstance(model, str) else model
    along, why = _along(model) if isinstance(model, str) else ([], "they take a run")
    samples = open_suite(data, fast=True, limit=_CURVE_ITEMS).tasks if len(along) > 1 else ()
    missing = [f"no data for {', '.join(suite.missing)}"] if suite.missing else []
    if isinstance(model, str) and (left := _unfinished(Path(model))):
        missing.append(left)
    kept_in = _Kept(out / "kept", _weights_digest(lm), objective, batch)
    scores: list[TaskScore] = []
    course: list[CoursePoint] = []
    steps = len(suite.tasks) + len(samples) * len(along)
    with track("tasks", float(steps), "tasks") as bar:
        for task in suite.tasks:
            scores.append(kept_in.score(task, lambda: lm, "end"))
            say(f"{task.name}: {headline(scores[-1]).value:.3f}")
            bar.advance(1)
        for place in along if samples else ():
            opened = cache(partial(opening, place.path))  # where a score is not there yet
            for task in samples:
                score = kept_in.score(task, opened, place.name)
                course.append(CoursePoint(task.name, place.name, place.words, headline(score)))
                bar.advance(1)
    read = None
    if suite.reading is not None:
        read = kept(kept_in.file("reading", suite.reading.words, "end"), Reading,
                    lambda words=suite.reading: reading(lm, words))  # fmt: skip
    ages = _ages(model, suite, along, kept_in.folder / f"words-{kept_in.model[:12]}")
    if isinstance(ages, str):
        missing.append(ages)
    if why and len(along) < 2:
        missing.append(f"learning curves: {why}")
    result = SuiteScore(
        model=lm.name, order=lm.order, head=lm.head, data=str(data), fast=fast,
        words=along[-1].words if along else None, tasks=tuple(scores), reading=read,
        acquisition=None if isinstance(ages, str) else ages, course=tuple(course),
        missing=tuple(missing),
    )  # fmt: skip
    write_json(out / PREDICTIONS, all_predictions(suite, scores, read))
    say(f"predictions: {out / PREDICTIONS}")
    return result


def _unfinished(run: Path) -> str:
    """What is said of a run that is not at its end; "" for others."""
    if not (run / "checkpoints").is_dir():
        return ""
    step, steps = checkpoint_step(usable_checkpoint(run)), stored_config(run).steps
    if step == final_step(run, steps):
        return ""
    return f"the end of the run: it was stopped at step {step:,} of {steps:,}, and scored there"


def _weights_digest(lm: LanguageModel) -> str:
    """What files of kept scores know a model by, wherever it lies."""
    weights = hashlib.sha256()
    for name, tensor in lm.model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return weights.hexdigest()


def _along(model: str) -> tuple[list[WordCheckpoint], str]:
    """The checkpoints of a run by words seen, the last of them its end; and why there are none."""
    run = Path(model)
    if not (run / "checkpoints").is_dir():
        return [], f"{model} is no run, which has checkpoints"
    try:
        named = word_checkpoints(run)
        return (named if len(named) > 2 else course_of(run, *run_and_split(run))), "one checkpoint"
    except UserError as error:
        return [], str(error)


@dataclass(frozen=True)
class _Kept:
    """Scores in files, by the model, the task's items and the checkpoint."""

    folder: Path
    model: str
    objective: str
    batch: int | None

    def file(self, name: str, what: Any, place: str) -> Path:
        decided = [self.model, self.objective, place, what, "suite 1"]
        return self.folder / f"{name}-{place}-{digest(decided)[:12]}.json"

    def score(self, task: Task, opened: Callable[[], LanguageModel], place: str) -> TaskScore:
        """The score that is there, or the one of the model that is then `opened`."""
        file = self.file(task.name, [to_mapping(item) for item in task.items], place)
        return kept(file, TaskScore, lambda: zero_shot(opened(), task, batch=self.batch))


def _ages(
    model: LanguageModel | str, suite: Suite, along: Sequence[WordCheckpoint], folder: Path
) -> Acquisition | str | None:
    """Ages of acquisition, or why there are none; None where nothing is asked of them."""
    if suite.children is None:
        return None
    if len(along) < MINIMUM_CHECKPOINTS:
        return f"ages of acquisition: {MINIMUM_CHECKPOINTS} checkpoints of a run are needed"
    assert isinstance(model, str)  # a run, which has checkpoints
    _, split = run_and_split(Path(model))
    contexts = held_out_contexts(split.store, suite.children.words, a_word=_CONTEXTS)
    places = {place.words: place.path for place in along}
    return acquisition(learning_curves(places.items(), contexts, folder), suite.children)


class ReadingPrediction(TypedDict):
    """Surprisal of a word and of the one before it, in nats."""

    id: str
    pred: float
    prev_pred: float | None
    """None where the word before begins its sentence."""


def all_predictions(
    suite: Suite, scores: Sequence[TaskScore], read: Reading | None
) -> dict[str, dict[str, dict[str, Sequence[Prediction | ReadingPrediction]]]]:
    """What BabyLM's teams hand in: task, subset, "predictions", and an entry for each item."""
    tables: dict[str, dict[str, dict[str, Sequence[Prediction | ReadingPrediction]]]] = {
        task.name: {
            subset: {"predictions": entries} for subset, entries in predictions(task, score).items()
        }
        for task, score in zip(suite.tasks, scores, strict=True)
        if not isinstance(task.items[0], LastWord)
    }
    if read is not None:
        rows = zip(read.surprisal_N.tolist(), read.previous_N.tolist(), strict=True)
        entries = [
            ReadingPrediction(
                id=f"reading_{n}", pred=now, prev_pred=None if math.isnan(before) else before
            )
            for n, (now, before) in enumerate(rows)
        ]
        tables["reading"] = {"reading": {"predictions": entries}}
    return tables
