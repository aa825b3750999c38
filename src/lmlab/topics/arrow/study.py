"""The arrow of time: is text easier to predict forwards than backwards?

For every combination of corpus, tokenizer, architecture, size and context the study requests one
run a seed and direction, equal in everything but direction, scores them on the same held-out
windows, and reports the relative difference with its interval over seeds and text (Papadopoulos,
Wenger and Hongler 2024, with the mistakes of papers' code avoided: no shared text between splits,
equal steps and batches, several seeds).

Notable: runs and scores are kept in the lab folder under the digest of what decides them, so an
interrupted study goes on where it stopped, and studies share runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from lmlab.config import to_mapping
from lmlab.config.model import ModelConfig
from lmlab.config.training import TrainConfig
from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.windows import EvaluationWindows, evaluation_windows
from lmlab.errors import UserError
from lmlab.progress import Bar, say
from lmlab.results import environment
from lmlab.studies.corpora import Corpus, Draw, corpus_labels, expanded, is_synthetic, open_corpus
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part, carry_out
from lmlab.studies.run_requests import text_run
from lmlab.topics.arrow.comparison import cell_result
from lmlab.topics.arrow.counting import Text, above_counting, counted, counted_results
from lmlab.topics.arrow.family import means_over_corpora, with_adjusted
from lmlab.topics.arrow.linear_languages import levels
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.report import arrow_page
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import planned_tokens, resolve


@dataclass(frozen=True)
class Cell:
    """One row of the result: what is equal in both directions."""

    corpus: Corpus
    tokenizer: str
    model: ModelConfig
    context: int
    draw: Draw | None = None

    @property
    def label(self) -> str:
        size = self.model.size or ""
        return f"{self.model.architecture} {size}, context {self.context}"

    @property
    def text(self) -> Text:
        return self.corpus, self.tokenizer, self.context


def run_arrow(
    config: ArrowConfig, *, title: str = "The arrow of time", worker: bool = False
) -> Path:
    """Runs the study, or what is missing of it; returns the path of the HTML report.

    Writes `results.json` and `report.html` to `config.out`. A `worker` shares it with others
    (`studies.parts`).
    """
    cells = _cells(config)
    windows = [_windows(config, cell) for cell in cells]
    orders, seeds = [FORWARD, BACKWARD, *config.orders], range(config.seeds)
    requests = {
        (i, order, seed): resolve(_request(config, cell, order, seed))
        for i, cell in enumerate(cells)
        for seed in seeds
        for order in orders
    }
    _check_pairs(requests)
    work = sum(planned_tokens(r) for r in requests.values())
    work += sum(int(w.length_M.sum()) for w in windows) * len(seeds) * len(orders)
    say(f"{len(requests)} runs, {work:,} tokens to train on and to score; stopping is safe")

    def results(made: dict[tuple[int, str, int], tuple[TrainedRun, Score]]) -> dict[str, Any]:
        baselines = counted(config, [cell.text for cell in cells if cell.corpus.known is None])
        compared: list[dict[str, Any]] = []
        for (i, cell), order in product(enumerate(cells), orders[1:]):
            forward, other = ([made[i, each, s] for s in seeds] for each in (FORWARD, order))
            described = _describe(cell, order, config.split, requests[i, FORWARD, 0])
            result = cell_result(described, cell.corpus.known, windows[i], forward, other)
            above = None
            if cell.text in baselines:
                scores = ([scored for _, scored in side] for side in (forward, other))
                above = above_counting(baselines[cell.text].best, order, *scores).to_json()
            compared.append({**result, "above_counting": above})
        compared = with_adjusted(compared)
        return {
            "study": "arrow",
            "title": title,
            "config": to_mapping(config),
            "environment": environment(),
            "ngrams": counted_results(baselines),
            "cells": compared,
            "levels": [level.to_json() for level in levels(compared)],
            "means": means_over_corpora(compared),
        }

    parts = {
        (i, order, seed): Part(
            f"{cells[i].corpus.label}, {cells[i].label}, {order}, seed {seed}",
            request,
            partial(_run_and_score, config, cells[i], request),
        )
        for (i, order, seed), request in requests.items()
    }
    return carry_out(
        "arrow of time", parts, results, arrow_page,
        out=study_folder("arrow", config), work=float(work), worker=worker,
    )  # fmt: skip


def _cells(config: ArrowConfig) -> list[Cell]:
    cells: list[Cell] = []
    corpora = expanded(config.corpora)
    labels = corpus_labels(list(corpora))
    for (specification, draw), label in zip(corpora.items(), labels, strict=True):
        tokenizers = ("characters",) if is_synthetic(specification) else config.tokenizers
        for tokenizer in tokenizers:
            corpus = open_corpus(
                specification,
                label=label,
                lab=config.lab,
                tokenizer=tokenizer,
                vocabulary=config.vocabulary,
                tokens=config.tokens,
            )
            contexts = (corpus.known.length,) if corpus.known else config.contexts
            for (architecture, size), context in product(config.models(), contexts):
                model = ModelConfig(
                    architecture,
                    size,
                    dropout=config.dropout,
                    initializer_range=config.initializer_range,
                )
                cells.append(Cell(corpus, tokenizer, model, context, draw))
    return cells


def _request(config: ArrowConfig, cell: Cell, order: str, seed: int) -> TrainConfig:
    return text_run(
        cell.corpus.store,
        config.lab,
        tokens=config.tokens,
        batch_tokens=config.batch_tokens,
        context=cell.context,
        learning_rate=config.learning_rate,
        order=order,
        model=cell.model,
        # matrices of a level share no seed, so that seeds are nested in them
        seed=seed if cell.draw is None else seed + config.seeds * cell.draw.number,
        compile=config.compile,
    )


def _check_pairs(requests: dict[tuple[int, str, int], TrainConfig]) -> None:
    """Runs of one cell and seed may differ in direction only."""
    for (cell, order, seed), request in requests.items():
        forward = requests[cell, FORWARD, seed]
        if replace(request, order=FORWARD, out=forward.out) != forward:
            raise UserError(f"the {order} run differs from the forward run in more than direction")


def _windows(config: ArrowConfig, cell: Cell) -> EvaluationWindows:
    split = cell.corpus.store.split(config.split)
    return evaluation_windows(split, cell.context, max_windows=config.windows)


def _run_and_score(
    config: ArrowConfig, cell: Cell, request: TrainConfig, bar: Bar
) -> tuple[TrainedRun, Score]:
    run = train(request, bar=bar, note=f"{cell.label}, {request.order}, seed {request.seed},")
    scored = cached_score(
        run,
        cell.corpus.store,
        split=config.split,
        context=cell.context,
        max_windows=config.windows,
        order=request.order,
        bar=bar,
    )
    return run, scored


def _describe(cell: Cell, order: str, split: str, request: TrainConfig) -> dict[str, Any]:
    """What a comparison is of, and what was equal in both directions."""
    store = cell.corpus.store
    return {
        "corpus": cell.corpus.label,
        "tokenizer": cell.tokenizer,
        "label": cell.label,
        "order": order,
        "level": None
        if cell.draw is None
        else {"name": cell.draw.level, "matrix": cell.draw.matrix},
        "context": cell.context,
        "methods": {
            "vocabulary": store.vocabulary,
            "store": store.fingerprint[:12],
            "text": store.split(split).text_note,
            "training_tokens_available": store.split("train").tokens,
            "steps": request.steps,
            "batch": request.batch,
            "learning_rate": request.optimizer.learning_rate,
            "dtype": request.dtype,
        },
    }
