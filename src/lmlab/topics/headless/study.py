"""Can a language model learn without a softmax over its vocabulary, and what does it save?

For every vocabulary and seed the study trains cross-entropy models (tied and untied, with the
log-unigram bias or without), headless ones (Godey, de la Clergerie and Sagot, ICLR 2024; and with
unigram draws for candidates) and one of both losses on the same windows, gives the headless model
its heads (embedding alone, with the prior, calibrated, fine-tuned), and compares all with the fair
baseline, cross-entropy with the same prior: at equal tokens, and with headless models that train
for the time that the baseline takes; on all tokens, and apart on those that stand earlier in their
window and those that do not, as the candidates of the published loss are biased against the former
(`lmlab.objectives.candidates`). Beside that: zero-shot tasks, what a step costs as the vocabulary
grows, and the geometry of both kinds.

Notable: runs and scores are kept in the lab folder under the digest of what decides them, so an
interrupted study goes on where it stopped, and studies share runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.config import to_mapping
from lmlab.config.training import TrainConfig
from lmlab.data.documents import source_name
from lmlab.data.store import TokenStore
from lmlab.data.tasks import Task, read_tasks
from lmlab.data.windows import evaluation_windows
from lmlab.progress import Bar, say
from lmlab.results import environment
from lmlab.run_folders.journal import read_journal
from lmlab.studies.corpora import corpus_labels, open_corpus
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part, carry_out
from lmlab.topics.headless.arms import (
    HEADLESS,
    REFERENCE,
    Row,
    fine_tuning,
    measured_seconds,
    request,
    rows_of,
    time_ratio,
    trained_weights,
    tried_rates,
)
from lmlab.topics.headless.beside_the_loss import (
    equivalent_nats,
    kept_geometry,
    measured_growth,
    unigram_entropy,
)
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.headless.report import headless_page
from lmlab.topics.scoring.difference import difference_per_token
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.topics.scoring.tasks_of_runs import compared, item_values
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import planned_tokens


@dataclass(frozen=True)
class _Text:
    """One vocabulary of the study."""

    store: TokenStore
    seconds: dict[str, float]
    """Of a training step, by arm."""

    @property
    def ratio(self) -> float:
        return time_ratio(self.seconds)


Form = tuple[str, bool, int]
"""What tells the runs of one vocabulary apart: arm, whether it trains longer, seed."""


@dataclass(frozen=True)
class _Made:
    """What one run gives."""

    run: TrainedRun
    scores: dict[str, Score]
    """By row."""
    items: dict[tuple[str, int], dict[str, np.ndarray]]
    """By row and task."""
    geometry: dict[str, Any] | None


def run_headless(
    config: HeadlessStudyConfig, *, title: str = "Learning without a softmax", worker: bool = False
) -> Path:
    """Runs the study, or what is missing of it; returns the path of the HTML report.

    Writes `results.json` and `report.html` to `config.out`. A `worker` shares it with others
    (`studies.parts`).
    """
    tasks = _tasks(config)
    texts = {v: _open(config, v) for v in config.vocabularies}
    rows = rows_of(config)
    work = sum(_work(config, text, rows) for text in texts.values())
    say(f"{work:,} tokens to train on and to score; stopping is safe")
    forms = [
        (arm, longer, seed)
        for seed in range(config.seeds)
        for arm, longer in dict.fromkeys((row.arm, row.longer) for row in rows)
    ]

    def results(made: dict[tuple[int, Form], _Made]) -> dict[str, Any]:
        return {
            "study": "headless",
            "title": title,
            "corpus": corpus_labels([config.corpus])[0],
            "config": to_mapping(config),
            "environment": environment(),
            "parts": [
                _result(config, text, rows, tasks, {form: made[v, form] for form in forms})
                for v, text in texts.items()
            ],
            "growth": measured_growth(config),
        }

    parts = {
        (v, form): _part(config, text, rows, tasks, form)
        for v, text in texts.items()
        for form in forms
    }
    return carry_out(
        "headless study", parts, results, headless_page,
        out=study_folder("headless", config), work=float(work), worker=worker,
    )  # fmt: skip


def _tasks(config: HeadlessStudyConfig) -> list[Task]:
    limits = config.task_limits or (None,)
    each = limits if len(limits) > 1 else limits * len(config.tasks)
    return [
        task
        for specification, limit in zip(config.tasks, each, strict=True)
        for task in read_tasks([specification], limit=limit)
    ]


def _open(config: HeadlessStudyConfig, vocabulary: int) -> _Text:
    corpus = open_corpus(
        config.corpus,
        label=corpus_labels([config.corpus])[0],
        lab=config.lab,
        tokenizer="bpe",
        vocabulary=vocabulary,
        tokens=config.tokens,
    )
    return _Text(corpus.store, measured_seconds(config, corpus.store))


def _work(config: HeadlessStudyConfig, text: _Text, rows: list[Row]) -> int:
    """Tokens to train on and to score, for one vocabulary."""
    requests = [request(config, text.store, arm, 0) for arm in config.arms]
    if config.equal_time:
        requests.append(request(config, text.store, HEADLESS, 0, longer=text.ratio))
    trained = sum(planned_tokens(r) for r in requests)
    other_rates = sum(planned_tokens(r) for r in requests[: len(config.arms)])
    other_rates *= len(config.rates) - 1
    tuned = sum(row.fine_tuned != "no" for row in rows) * round(config.fine_tune * config.tokens)
    windows = evaluation_windows(
        text.store.split(config.split), config.context, max_windows=config.windows
    )
    scored = len(rows) * int(windows.length_M.sum())
    return other_rates + config.seeds * (trained + tuned + scored)


def _part(
    config: HeadlessStudyConfig, text: _Text, rows: list[Row], tasks: list[Task], form: Form
) -> Part[_Made]:
    """The part of one run: its children, its scores with every head, tasks, geometry."""
    arm, longer, seed = form
    asked = request(config, text.store, arm, seed, longer=text.ratio if longer else 1.0)
    label = f"vocabulary {text.store.vocabulary:,}, {arm}{', longer' * longer}, seed {seed}"
    own = [row for row in rows if (row.arm, row.longer) == (arm, longer)]
    return Part(label, asked, partial(_make, config, text, own, tasks, form, asked, label))


def _make(
    config: HeadlessStudyConfig,
    text: _Text,
    rows: list[Row],
    tasks: list[Task],
    form: Form,
    asked: TrainConfig,
    label: str,
    bar: Bar,
) -> _Made:
    arm, longer, seed = form
    if len(config.rates) > 1:
        first = seed == 0 and not longer
        best = tried_rates(config, text.store, arm, bar if first else None).best
        ratio = text.ratio if longer else 1.0
        asked = request(config, text.store, arm, seed, longer=ratio, rate=best)
        run = train(asked, bar=None if first else bar, note=f"{label},")
    else:
        run = train(asked, bar=bar, note=f"{label},")
    made = _Made(run, {}, {}, None)
    for row in rows:
        headed = _with_head(config, text.store, row, seed, run, bar)
        made.scores[row.key] = _score(config, text.store, row, headed, bar)
        for number, task in enumerate(tasks):
            made.items[row.key, number] = item_values(
                headed, task, head=row.head, store=text.store, held_out=_held_out(config)
            )
    if config.geometry and arm in (REFERENCE, HEADLESS) and not longer and seed == 0:
        return replace(made, geometry=kept_geometry(config, text.store, run))
    return made


def _result(
    config: HeadlessStudyConfig,
    text: _Text,
    rows: list[Row],
    tasks: list[Task],
    made: Mapping[Form, _Made],
) -> dict[str, Any]:
    """The result of one vocabulary, as plain values."""
    of_row = {
        row.key: [made[row.arm, row.longer, seed] for seed in range(config.seeds)] for row in rows
    }
    scores = {key: [one.scores[key] for one in of_seed] for key, of_seed in of_row.items()}
    entropy = unigram_entropy(text.store)
    return {
        "vocabulary": text.store.vocabulary,
        "store": text.store.fingerprint[:12],
        "text": text.store.split(config.split).text_note,
        "training_tokens_available": text.store.split("train").tokens,
        "unigram_entropy": entropy,
        "seconds_per_step": text.seconds,
        "time_ratio": text.ratio,
        "weights": {arm: trained_weights(made[arm, False, 0].run) for arm in config.arms},
        "rates": {
            arm: tried_rates(config, text.store, arm).to_json()
            for arm in (config.arms if len(config.rates) > 1 else ())
        },
        "rows": [_row(row, scores[row.key], scores[REFERENCE]) for row in rows],
        "curves": [
            _curve(form, one.run, text.seconds[form[0]], entropy) for form, one in made.items()
        ],
        "tasks": [
            {
                "task": task.kind,
                "source": source_name(task.source),
                "items": len(task.items),
                "rows": {
                    row.key: compared(
                        [one.items[row.key, number] for one in of_row[row.key]],
                        None
                        if row.key == REFERENCE
                        else [one.items[REFERENCE, number] for one in of_row[REFERENCE]],
                        task=task,
                    )
                    for row in rows
                },
            }
            for number, task in enumerate(tasks)
        ],
        "geometry": {
            arm: made[arm, False, 0].geometry
            for arm in ((REFERENCE, HEADLESS) if config.geometry else ())
        },
    }


def _held_out(config: HeadlessStudyConfig) -> str:
    """What heads are calibrated on."""
    return "validation" if config.split == "test" else "test"


def _with_head(
    config: HeadlessStudyConfig, store: TokenStore, row: Row, seed: int, run: TrainedRun, bar: Bar
) -> TrainedRun:
    """The run itself, or where the row has a fine-tuned head, its child."""
    if row.fine_tuned == "no":
        return run
    child = fine_tuning(config, store, run, seed, prior=row.fine_tuned == "prior")
    return train(child, bar=bar, note=f"fine-tuning a head, seed {seed},")


def _score(
    config: HeadlessStudyConfig, store: TokenStore, row: Row, run: TrainedRun, bar: Bar
) -> Score:
    return cached_score(
        run,
        store,
        split=config.split,
        context=config.context,
        max_windows=config.windows,
        order="forward",
        bar=bar,
        head=row.head,
        held_out=_held_out(config),
    )


def _row(row: Row, scores: list[Score], reference: list[Score]) -> dict[str, Any]:
    first = scores[0]
    nats_SN, reference_SN = (np.stack([s.nats_M for s in each]) for each in (scores, reference))
    repeated_SN, repeated_reference_SN = (
        np.stack([s.repeated_nats_M for s in each]) for each in (scores, reference)
    )
    new_M = first.tokens_M - first.repeated_M
    parts = {
        "difference": (nats_SN, reference_SN, first.tokens_M),
        "repeated": (repeated_SN, repeated_reference_SN, first.repeated_M),
        "new": (nats_SN - repeated_SN, reference_SN - repeated_reference_SN, new_M),
    }
    return {
        **asdict(row),
        "nats_per_token": [s.nats_per_token for s in scores],
        "bits_per_byte": [s.bits_per_byte for s in scores],
        **{
            name: None
            if row.key == REFERENCE or not tokens_M.any()
            else asdict(difference_per_token(ours, theirs, tokens_M, first.clusters))
            for name, (ours, theirs, tokens_M) in parts.items()
        },
        "repeated_share": float(first.repeated_M.sum() / first.tokens),
        "tokens_scored": first.tokens,
        "documents": first.clusters.documents,
        "clusters": first.clusters.clusters,
        "cluster": first.cluster_unit,
    }


def _curve(form: Form, run: TrainedRun, seconds_per_step: float, entropy: float) -> dict[str, Any]:
    """Validation while training: tokens, seconds by the measured time of a step, nats per token."""
    arm, longer, seed = form
    journal = read_journal(run.path / "journal.jsonl")
    points = [
        [record["tokens"], record["step"] * seconds_per_step, record["validation_nats_per_token"]]
        for record in journal
        if "validation_nats_per_token" in record
    ]
    return {
        "arm": arm,
        "longer": longer,
        "seed": seed,
        "run": run.name,
        "points": points,
        "equivalent": equivalent_nats(journal, entropy) if arm == HEADLESS else [],
    }
