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
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from lmlab.data.store import TokenStore
from lmlab.data.tasks import Task, read_tasks
from lmlab.data.windows import evaluation_tokens
from lmlab.lm.language_model import open_model
from lmlab.progress import Bar
from lmlab.studies.corpora import corpus_labels, open_corpus
from lmlab.studies.finished_runs import count_weights, file_beside
from lmlab.studies.kept import kept
from lmlab.studies.learning_rates import CHOOSING_SEED, TunedArm, run_parts_at_best_rates
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part
from lmlab.studies.rates import Rates
from lmlab.topics.arrow.counting import with_arrow
from lmlab.topics.counting.baseline import KNESER_NEY, above_baseline, ngram_baselines
from lmlab.topics.geometry.geometry import Geometry, geometry
from lmlab.topics.headless.arms import (
    HEADLESS,
    REFERENCE,
    Row,
    fine_tuning,
    request,
    rows_of,
)
from lmlab.topics.headless.comparison import Headless, VocabularyResult, row_result, task_result
from lmlab.topics.headless.costs import StepTimes, growth, step_times
from lmlab.topics.headless.curves import curve, unigram_entropy
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.topics.scoring.tasks_of_runs import item_values
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import ResolvedRun

_GEOMETRY_WINDOWS = 200

Form = tuple[str, bool, int]
"""What tells the runs of one vocabulary apart: arm, whether it trains longer, seed."""
_Key = tuple[int, Form]


def run_headless(config: HeadlessStudyConfig, *, worker: bool = False) -> Headless:
    """Runs the study, or what is missing of it (`studies.parts.run_parts`)."""
    tasks, rows = _tasks(config), rows_of(config)
    texts = [_open(config, vocabulary, rows, tasks) for vocabulary in config.vocabulary]
    forms = [
        (arm, longer, seed)
        for seed in range(config.seeds)
        for arm, longer in dict.fromkeys((row.arm, row.longer) for row in rows)
    ]

    def parts(rates: Mapping[tuple[int, str], float | None]) -> dict[_Key, Part[_Measured]]:
        return {
            (i, form): text.part(form, rates[i, form[0]])
            for i, text in enumerate(texts)
            for form in forms
        }

    def result(runs: dict[_Key, _Measured], rates: dict[tuple[int, str], Rates]) -> Headless:
        return Headless(
            corpus=corpus_labels([config.text])[0],
            config=config,
            parts=tuple(
                text.compare(
                    {form: runs[i, form] for form in forms},
                    {arm: of_arm for (number, arm), of_arm in rates.items() if number == i},
                )
                for i, text in enumerate(texts)
            ),
            growth=growth(config),
        )

    arms = {
        (i, arm): TunedArm(f"vocabulary {text.store.vocabulary:,}, {arm}", partial(text.trial, arm))
        for i, text in enumerate(texts)
        for arm in config.arms
    }
    return run_parts_at_best_rates(
        "headless study", config, arms, parts, Headless, result,
        out=study_folder("headless", config),
        further=float(sum(text.further for text in texts)), worker=worker,
    )  # fmt: skip


def _tasks(config: HeadlessStudyConfig) -> list[Task]:
    limits = config.task_limits or (None,)
    each = limits if len(limits) > 1 else limits * len(config.tasks)
    return [
        task
        for specification, limit in zip(config.tasks, each, strict=True)
        for task in read_tasks([specification], limit=limit)
    ]


def _open(
    config: HeadlessStudyConfig, vocabulary: int, rows: list[Row], tasks: list[Task]
) -> _Vocabulary:
    store = open_corpus(
        config.text, lab=config.lab, vocabulary=vocabulary, tokens=config.tokens
    ).store
    return _Vocabulary(config, store, step_times(config, store), rows, tasks)


@dataclass(frozen=True)
class _Measured:
    """What one run gives."""

    run: TrainedRun
    scores: dict[str, Score]
    """By row."""
    items: dict[tuple[str, int], dict[str, np.ndarray]]
    """By row and task."""
    geometry: Geometry | None


@dataclass(frozen=True)
class _Vocabulary:
    """The study with one vocabulary."""

    config: HeadlessStudyConfig
    store: TokenStore
    times: StepTimes
    rows: list[Row]
    tasks: list[Task]

    @property
    def held_out(self) -> str:
        """What heads are calibrated on."""
        return "validation" if self.config.split == "test" else "test"

    @property
    def further(self) -> int:
        """Tokens to fine-tune heads on and to score."""
        config = self.config
        tuned = sum(row.fine_tuned != "no" for row in self.rows)
        scored = evaluation_tokens(
            self.store.split(config.split), config.context, max_windows=config.windows
        )
        heads = tuned * round(config.fine_tune * config.tokens)
        return config.seeds * (heads + len(self.rows) * scored)

    def run(self, form: Form, rate: float | None = None) -> ResolvedRun:
        """The run of a form, at a learning rate (None: the study's)."""
        arm, longer, seed = form
        ratio = self.times.ratio if longer else 1.0
        return request(self.config.at_rate(rate), self.store, arm, seed, longer=ratio)

    def trial(self, arm: str, rate: float) -> ResolvedRun:
        """The run that says how good a learning rate is for an arm."""
        return self.run((arm, False, CHOOSING_SEED), rate)

    def part(self, form: Form, rate: float | None) -> Part[_Measured]:
        """A run: its children, its scores with every head, tasks, geometry."""
        arm, longer, seed = form
        label = f"vocabulary {self.store.vocabulary:,}, {arm}{', longer' * longer}, seed {seed}"
        run = self.run(form, rate)
        return Part(label, run, partial(self._measure, form, run, label))

    def _measure(self, form: Form, resolved: ResolvedRun, label: str, bar: Bar) -> _Measured:
        config, store = self.config, self.store
        arm, longer, seed = form
        run = train(resolved, bar=bar, note=f"{label},")
        compared = config.geometry and arm in (REFERENCE, HEADLESS) and not longer and seed == 0
        measured = _Measured(run, {}, {}, self._geometry(run) if compared else None)
        for row in self.rows:
            if (row.arm, row.longer) != (arm, longer):
                continue
            headed = self._with_head(row, seed, run, bar)
            measured.scores[row.key] = cached_score(
                headed,
                store,
                split=config.split,
                context=config.context,
                max_windows=config.windows,
                order="forward",
                bar=bar,
                head=row.head,
                held_out=self.held_out,
            )
            for number, task in enumerate(self.tasks):
                measured.items[row.key, number] = item_values(
                    headed, task, head=row.head, store=store, held_out=self.held_out
                )
        return measured

    def _with_head(self, row: Row, seed: int, run: TrainedRun, bar: Bar) -> TrainedRun:
        """The run itself, or where the row has a fine-tuned head, its child."""
        if row.fine_tuned == "no":
            return run
        child = fine_tuning(self.config, self.store, run, seed, prior=row.fine_tuned == "prior")
        return train(child, bar=bar, note=f"fine-tuning a head, seed {seed},")

    def _geometry(self, run: TrainedRun) -> Geometry:
        """The geometry of a run's last checkpoint, kept beside the run."""
        split, context = self.config.split, self.config.context
        windows = min(self.config.windows or _GEOMETRY_WINDOWS, _GEOMETRY_WINDOWS)
        decided = (self.store.fingerprint, split, context, windows, Geometry.schema)

        def measure() -> Geometry:
            lm = open_model(run.checkpoint)
            return geometry(lm, self.store, split=split, context=context, max_windows=windows)

        return kept(file_beside(run, "scores/geometry.json", *decided), Geometry, measure)

    def compare(self, runs: Mapping[Form, _Measured], rates: dict[str, Rates]) -> VocabularyResult:
        """The result, of all runs with this vocabulary."""
        config, store = self.config, self.store
        of_row = {
            row.key: [runs[row.arm, row.longer, seed] for seed in range(config.seeds)]
            for row in self.rows
        }
        scores = {key: [each.scores[key] for each in of_seed] for key, of_seed in of_row.items()}
        baseline = ngram_baselines(
            store, split=config.split, context=config.context, max_windows=config.windows,
            smoothings=KNESER_NEY,
        ).best  # fmt: skip
        first, entropy = scores[REFERENCE][0], unigram_entropy(store)
        return VocabularyResult(
            vocabulary=store.vocabulary,
            store=store.fingerprint[:12],
            text_note=store.split(config.split).text_note,
            training_tokens_available=store.split("train").tokens,
            step_times=self.times,
            weights={arm: count_weights(runs[arm, False, 0].run) for arm in config.arms},
            rates=rates,
            tokens_scored=first.tokens,
            repeated_share=float(first.repeated_M.sum() / first.tokens),
            documents=first.clusters.documents,
            clusters=first.clusters.clusters,
            cluster_unit=first.cluster_unit,
            rows=tuple(row_result(row, scores[row.key], scores[REFERENCE]) for row in self.rows),
            above_counting={
                row.key: above_baseline(baseline, scores[row.key], "forward") for row in self.rows
            },
            counted=with_arrow(baseline),
            curves=tuple(
                curve(each.run, form, self.times.by_arm[form[0]], entropy)
                for form, each in runs.items()
            ),
            tasks=tuple(
                task_result(task, {k: [m.items[k, i] for m in each] for k, each in of_row.items()})
                for i, task in enumerate(self.tasks)
            ),
            geometry={
                arm: each.geometry
                for (arm, _, _), each in runs.items()
                if each.geometry is not None
            },
        )
