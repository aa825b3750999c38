"""The arrow of time: is text easier to predict forwards than backwards?

For every combination of corpus, tokenizer, architecture, size and context the study requests one
run a seed and direction, equal in everything but direction, scores them on the same held-out
windows, and reports the relative difference with its interval over seeds and text (Papadopoulos,
Wenger and Hongler 2024, with the mistakes of papers' code avoided: no shared text between splits,
equal steps and batches, several seeds).

Notable: equal treatment is the paper's null. With `learning_rates` each direction has the rate that
is best for it, so that no rate favours one of them; all else stays equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TypeAlias

from lmlab.config.model import ModelConfig
from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.windows import EvaluationWindows, evaluation_windows
from lmlab.errors import UserError
from lmlab.progress import Bar
from lmlab.studies.corpora import Corpus, Draw, corpus_labels, expanded, is_synthetic, open_corpus
from lmlab.studies.finished_runs import count_weights, validations
from lmlab.studies.learning_rates import CHOOSING_SEED, TunedArm, run_parts_at_best_rates
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part
from lmlab.studies.rates import Rates
from lmlab.studies.run_requests import text_run
from lmlab.topics.arrow.comparison import (
    Comparison,
    Curve,
    Scored,
    Training,
    above_floor,
    compare,
)
from lmlab.topics.arrow.counting import (
    Text,
    above_counting,
    counted,
    counted_text,
)
from lmlab.topics.arrow.family import ArrowStudy, levels, means_over_corpora, with_adjusted
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.counting.baseline import NGramBaselines
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import ResolvedRun

_Arm: TypeAlias = tuple[int, str]
"""Number of a cell, and order."""


@dataclass(frozen=True)
class _Scored:
    """What one run gives."""

    resolved: ResolvedRun
    run: TrainedRun
    score: Score


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
) -> ArrowStudy:
    """Runs the study, or what is missing of it (`studies.parts.run_parts`)."""
    cells = list(_cells(config))
    windows = [
        evaluation_windows(
            cell.corpus.store.split(config.split), cell.context, max_windows=config.windows
        )
        for cell in cells
    ]
    orders, seeds = [FORWARD, BACKWARD, *config.order], range(config.seeds)

    def requested(rates: Mapping[_Arm, float | None]) -> dict[tuple[int, str, int], ResolvedRun]:
        runs = {
            (i, order, seed): _run(config.at_rate(rates[i, order]), cell, order, seed)
            for i, cell in enumerate(cells)
            for seed in seeds
            for order in orders
        }
        _check_pairs(runs, own_rates=bool(config.learning_rates))
        return runs

    arms = {
        (i, order): TunedArm(
            f"{_label(config, cell)}, {order}", partial(_trial, config, cell, order)
        )
        for i, cell in enumerate(cells)
        for order in orders
    }
    further = sum(int(w.length_M.sum()) for w in windows) * len(seeds) * len(orders)

    def result(scored: dict[tuple[int, str, int], _Scored], rates: dict[_Arm, Rates]) -> ArrowStudy:
        baselines = counted(config, [cell.text for cell in cells if cell.corpus.known is None])
        comparisons = with_adjusted(
            [
                _compare(
                    cell,
                    windows[i],
                    baselines.get(cell.text),
                    [scored[i, FORWARD, seed] for seed in seeds],
                    [scored[i, order, seed] for seed in seeds],
                )
                for (i, cell), order in product(enumerate(cells), orders[1:])
            ]
        )
        return ArrowStudy(
            title=title,
            config=config,
            counted=tuple(counted_text(*each) for each in baselines.items()),
            comparisons=comparisons,
            levels=levels(comparisons),
            means=means_over_corpora(comparisons),
            rates={arms[arm].label: of_arm for arm, of_arm in rates.items()},
        )

    def parts(
        rates: Mapping[_Arm, float | None],
    ) -> dict[tuple[int, str, int], Part[_Scored]]:
        return {
            (i, order, seed): Part(
                f"{cells[i].corpus.label}, {cells[i].label}, {order}, seed {seed}",
                run,
                partial(_train_and_score, config, cells[i], run),
            )
            for (i, order, seed), run in requested(rates).items()
        }

    return run_parts_at_best_rates(
        "arrow of time", config, arms, parts, ArrowStudy, result,
        out=study_folder("arrow", config), further=float(further), worker=worker,
    )  # fmt: skip


def _cells(config: ArrowConfig) -> Iterator[Cell]:
    corpora = expanded(config.text)
    labels = corpus_labels(list(corpora))
    for (specification, draw), label in zip(corpora.items(), labels, strict=True):
        tokenizers = ("characters",) if is_synthetic(specification) else config.tokenizer
        for tokenizer in tokenizers:
            corpus = open_corpus(
                specification,
                label=label,
                lab=config.lab,
                tokenizer=tokenizer,
                vocabulary=config.vocabulary,
                tokens=config.tokens,
            )
            contexts = (corpus.known.length,) if corpus.known else config.context
            for (architecture, size), context in product(config.models(), contexts):
                model = ModelConfig(
                    architecture,
                    size,
                    dropout=config.dropout,
                    initializer_range=config.initializer_range,
                )
                yield Cell(corpus, tokenizer, model, context, draw)


def _run(config: ArrowConfig, cell: Cell, order: str, seed: int) -> ResolvedRun:
    return text_run(
        config,
        cell.corpus.store,
        context=cell.context,
        order=order,
        model=cell.model,
        # matrices of a level share no seed, so that seeds are nested in them
        seed=seed if cell.draw is None else seed + config.seeds * cell.draw.number,
        compile=config.compile,
    )


def _trial(config: ArrowConfig, cell: Cell, order: str, rate: float) -> ResolvedRun:
    return _run(config.at_rate(rate), cell, order, CHOOSING_SEED)


def _label(config: ArrowConfig, cell: Cell) -> str:
    tokenizer = f", {cell.tokenizer}" if len(config.tokenizer) > 1 else ""
    return f"{cell.corpus.label}{tokenizer}, {cell.label}"


def _check_pairs(runs: dict[tuple[int, str, int], ResolvedRun], *, own_rates: bool = False) -> None:
    """Runs of one cell and seed may differ in direction only, and where each has a rate of its own
    in that."""
    for (cell, order, seed), run in runs.items():
        forward = runs[cell, FORWARD, seed].config
        optimizer = run.config.optimizer
        if own_rates:
            optimizer = replace(optimizer, learning_rate=forward.optimizer.learning_rate)
        if replace(run.config, order=FORWARD, out=forward.out, optimizer=optimizer) != forward:
            raise UserError(f"the {order} run differs from the forward run in more than direction")


def _train_and_score(config: ArrowConfig, cell: Cell, run: ResolvedRun, bar: Bar) -> _Scored:
    order, seed = run.config.order, run.config.seed
    trained = train(run, bar=bar, note=f"{cell.label}, {order}, seed {seed},")
    score = cached_score(
        trained,
        cell.corpus.store,
        split=config.split,
        context=cell.context,
        max_windows=config.windows,
        order=order,
        bar=bar,
    )
    return _Scored(run, trained, score)


def _with_curve(each: _Scored) -> Scored:
    """A score beside the run's losses on validation text."""
    losses = validations(each.run.path)
    tokens, nats = zip(*((loss.tokens, loss.nats_per_token) for loss in losses), strict=True)
    return Scored(each.run.name, each.score, Curve(tokens, nats))


def _compare(
    cell: Cell,
    windows: EvaluationWindows,
    baselines: NGramBaselines | None,
    forward: Sequence[_Scored],
    other: Sequence[_Scored],
) -> Comparison:
    """A comparison, with what was equal in the training of both directions."""
    store, known = cell.corpus.store, cell.corpus.known
    comparison = compare(
        *([_with_curve(each) for each in side] for side in (forward, other)),
        corpus=cell.corpus.label,
        label=cell.label,
        tokenizer=cell.tokenizer,
    )
    f, o = ([each.score for each in side] for side in (forward, other))
    config, rate = forward[0].resolved.config, other[0].resolved.config.peak_rate
    return replace(
        comparison,
        training=Training(
            parameters=count_weights(forward[0].run),
            vocabulary=store.vocabulary,
            store=store.fingerprint[:12],
            text_note=windows.split.text_note,
            tokens_available=store.split("train").tokens,
            steps=config.steps,
            batch=config.step_windows,
            learning_rate=config.peak_rate,
            other_learning_rate=None if rate == config.peak_rate else rate,
            dtype=config.dtype,
        ),
        draw=cell.draw,
        floor=None if known is None else above_floor(known, windows, f, o),
        above_counting=None
        if baselines is None
        else above_counting(baselines.best, comparison.order, f, o),
    )
