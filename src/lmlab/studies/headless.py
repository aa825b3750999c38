"""Can a language model learn without a softmax over its vocabulary, and what does it save?

For every vocabulary and seed the study trains cross-entropy models (tied, tied with the log-unigram
bias, untied), a headless one and one of both losses on the same windows (Godey, de la Clergerie
and Sagot, ICLR 2024), gives the headless model its heads (embedding alone, with the prior,
calibrated, fine-tuned), and compares all with the fair baseline, cross-entropy with the same prior;
at equal tokens, and with headless models that train for the time that the baseline takes. Beside
that: zero-shot tasks, what a step costs as the vocabulary grows, and the geometry of both kinds.

Notable: runs and scores are kept in the lab folder under the digest of what decides them, so an
interrupted study goes on where it stopped, and studies share runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.analyses.difference import difference_per_token
from lmlab.analyses.score import Score
from lmlab.config import digest, to_mapping
from lmlab.config.studies import HeadlessStudyConfig
from lmlab.data.documents import source_name
from lmlab.data.store import TokenStore
from lmlab.data.tasks import Task, read_tasks
from lmlab.data.windows import evaluation_windows
from lmlab.durable import write_json, write_text
from lmlab.progress import Bar, say, track
from lmlab.runs.journal import read_journal
from lmlab.studies.cached import cached_score
from lmlab.studies.corpora import corpus_labels, open_corpus
from lmlab.studies.downstream import compared, item_values
from lmlab.studies.headless_extras import (
    equivalent_nats,
    kept_geometry,
    measured_growth,
    unigram_entropy,
)
from lmlab.studies.headless_report import headless_page
from lmlab.studies.headless_runs import (
    HEADLESS,
    REFERENCE,
    Row,
    fine_tuning,
    measured_seconds,
    request,
    rows_of,
    time_ratio,
)
from lmlab.studies.requests import study_identity
from lmlab.studies.words import environment
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import planned_tokens


@dataclass(frozen=True)
class _Part:
    """One vocabulary of the study."""

    store: TokenStore
    seconds: dict[str, float]
    """Of a training step, by arm."""

    @property
    def ratio(self) -> float:
        return time_ratio(self.seconds)


def run_headless(config: HeadlessStudyConfig, *, title: str = "Learning without a softmax") -> Path:
    """Runs the study, or what is missing of it; returns the path of the HTML report.

    Writes `results.json` and `report.html` to `config.out`.
    """
    out = config.out or config.lab / f"headless-{digest(study_identity(config))[:8]}"
    tasks = _tasks(config)
    parts = {v: _open(config, v) for v in config.vocabularies}
    rows = rows_of(config)
    work = sum(_work(config, part, rows) for part in parts.values())
    say(f"{work:,} tokens to train on and to score; stopping is safe")
    with track("headless study", float(work), "tokens") as bar:
        made = [_part(config, v, part, rows, tasks, bar) for v, part in parts.items()]
    results = {
        "study": "headless",
        "title": title,
        "corpus": corpus_labels([config.corpus])[0],
        "config": to_mapping(config),
        "environment": environment(),
        "parts": made,
        "growth": measured_growth(config),
    }
    write_json(out / "results.json", results)
    write_text(out / "report.html", headless_page(results))
    return out / "report.html"


def _tasks(config: HeadlessStudyConfig) -> list[Task]:
    limits = config.task_limits or (None,)
    each = limits if len(limits) > 1 else limits * len(config.tasks)
    return [
        task
        for specification, limit in zip(config.tasks, each, strict=True)
        for task in read_tasks([specification], limit=limit)
    ]


def _open(config: HeadlessStudyConfig, vocabulary: int) -> _Part:
    corpus = open_corpus(
        config.corpus,
        label=corpus_labels([config.corpus])[0],
        lab=config.lab,
        tokenizer="bpe",
        vocabulary=vocabulary,
        tokens=config.tokens,
    )
    return _Part(corpus.store, measured_seconds(config, corpus.store))


def _work(config: HeadlessStudyConfig, part: _Part, rows: list[Row]) -> int:
    """Tokens to train on and to score, for one vocabulary."""
    requests = [request(config, part.store, arm, 0) for arm in config.arms]
    if config.equal_time:
        requests.append(request(config, part.store, HEADLESS, 0, longer=part.ratio))
    trained = sum(planned_tokens(r) for r in requests)
    tuned = sum(row.fine_tuned != "no" for row in rows) * round(config.fine_tune * config.tokens)
    windows = evaluation_windows(
        part.store.split(config.split), config.context, max_windows=config.windows
    )
    return config.seeds * (trained + tuned + len(rows) * int(windows.length_M.sum()))


def _part(
    config: HeadlessStudyConfig,
    vocabulary: int,
    part: _Part,
    rows: list[Row],
    tasks: list[Task],
    bar: Bar,
) -> dict[str, Any]:
    """The result of one vocabulary, as plain values."""
    runs: dict[tuple[str, bool, int], TrainedRun] = {}
    scores: dict[str, list[Score]] = {row.key: [] for row in rows}
    items: dict[tuple[str, int], list[dict[str, np.ndarray]]] = {}
    for seed in range(config.seeds):
        for row in rows:
            key = (row.arm, row.longer, seed)
            if key not in runs:
                longer = part.ratio if row.longer else 1.0
                asked = request(config, part.store, row.arm, seed, longer=longer)
                runs[key] = train(asked, bar=bar, note=f"{vocabulary}, {row.arm}, seed {seed},")
            run = _with_head(config, part.store, row, seed, runs[key], bar)
            scores[row.key].append(_score(config, part.store, row, run, bar))
            for number, task in enumerate(tasks):
                values = item_values(
                    run, task, head=row.head, store=part.store, held_out=_held_out(config)
                )
                items.setdefault((row.key, number), []).append(values)
    reference = np.stack([s.nats_M for s in scores[REFERENCE]])
    entropy = unigram_entropy(part.store)
    return {
        "vocabulary": part.store.vocabulary,
        "store": part.store.fingerprint[:12],
        "training_tokens_available": part.store.split("train").tokens,
        "unigram_entropy": entropy,
        "seconds_per_step": part.seconds,
        "time_ratio": part.ratio,
        "rows": [_row(row, scores[row.key], reference) for row in rows],
        "curves": [
            _curve(arm, longer, seed, run, part.seconds[arm], entropy)
            for (arm, longer, seed), run in runs.items()
        ],
        "tasks": [
            {
                "task": task.kind,
                "source": source_name(task.source),
                "items": len(task.items),
                "rows": {
                    row.key: compared(
                        items[row.key, number],
                        None if row.key == REFERENCE else items[REFERENCE, number],
                    )
                    for row in rows
                },
            }
            for number, task in enumerate(tasks)
        ],
        "geometry": {
            arm: kept_geometry(config, part.store, runs[arm, False, 0])
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


def _row(row: Row, scores: list[Score], reference_SN: np.ndarray) -> dict[str, Any]:
    first = scores[0]
    nats_SN = np.stack([s.nats_M for s in scores])
    difference = difference_per_token(nats_SN, reference_SN, first.tokens_M, first.cluster_M)
    return {
        **asdict(row),
        "nats_per_token": [s.nats_per_token for s in scores],
        "bits_per_byte": [s.bits_per_byte for s in scores],
        "difference": None if row.key == REFERENCE else asdict(difference),
        "tokens_scored": first.tokens,
        "clusters": len(np.unique(first.cluster_M)),
        "cluster": first.cluster_unit,
    }


def _curve(
    arm: str, longer: bool, seed: int, run: TrainedRun, seconds_per_step: float, entropy: float
) -> dict[str, Any]:
    """Validation while training: tokens, seconds by the measured time of a step, nats per token."""
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
        "run": run.identity[:12],
        "points": points,
        "equivalent": equivalent_nats(journal, entropy) if arm == HEADLESS else [],
    }
