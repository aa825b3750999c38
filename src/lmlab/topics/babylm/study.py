"""Which recipe learns most from the same words? Trains all of them, and scores all models.

A part is a run: it is trained, and scored on every task at its end, on a fixed sample of each task
at its checkpoints, and on the words of children at all of these. What is measured is kept beside
the run, so that a study goes on where it was stopped.

Notable:
- Ages of acquisition are compared on the words that every run has an age for.
- Gains in reading times are those of BabyLM, on the words that were fitted; what noise gains is
  their chance.
- Models with a joint likelihood are compared with counting on held-out text: test text, or where a
  store has none, validation text.

Shapes: W words, C checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from lmlab.config import digest
from lmlab.config.objective import reads_as
from lmlab.config.training import CheckpointConfig, TrainConfig
from lmlab.data.splits import TEST, TRAIN, VALIDATION
from lmlab.data.store import TokenStore
from lmlab.data.task_items import Task
from lmlab.data.windows import evaluation_tokens
from lmlab.lm.language_model import open_model
from lmlab.numerics.classification import pseudo_values
from lmlab.progress import Bar, say
from lmlab.run_folders.words import WordCheckpoint, course_of
from lmlab.studies.corpora import corpus_labels, open_corpus
from lmlab.studies.finished_runs import count_weights, file_beside, final_validation
from lmlab.studies.kept import kept_arrays
from lmlab.studies.learning_rates import CHOOSING_SEED, TunedArm, run_parts_at_best_rates
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part
from lmlab.studies.rates import Rates
from lmlab.studies.run_requests import placed
from lmlab.topics.babylm.acquisition import (
    MINIMUM_CHECKPOINTS,
    Acquisition,
    Contexts,
    acquisition,
    held_out_contexts,
    learning_curves,
)
from lmlab.topics.babylm.comparison import (
    About,
    BabyLMStudy,
    CurvePoint,
    RecipeRuns,
    Units,
    compare_recipes,
    mean_over,
)
from lmlab.topics.babylm.options import BabyLMStudyConfig
from lmlab.topics.babylm.reading import Gain, eye_tracking_gain, reading_nats, self_paced_gain
from lmlab.topics.babylm.suite import Suite, chance_of, metric_of, open_suite
from lmlab.topics.babylm.units import sets_of_items, units_of_items, units_of_jackknife
from lmlab.topics.counting.baseline import AgainstCounting, against_counting
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.topics.scoring.tasks_of_runs import item_values
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import ResolvedRun

_FEWEST_WORDS = 10
"""Of the words that all runs have an age for."""
_COUNTED_TOKENS = 1 << 17
"""About as many tokens of held-out text are models compared with counting on."""
_READING = ("reading, eye tracking", "reading, self-paced")


@dataclass(frozen=True)
class _Measured:
    """What one run gives."""

    run: TrainedRun
    resolved: ResolvedRun
    scores: dict[str, Units]
    """By task."""
    course: dict[tuple[str, int], Units]
    """By task and words seen, on the sample."""
    gains: tuple[Gain, Gain] | None
    """Of eye tracking and self-paced reading."""
    ages: Acquisition | None
    score: Score | None
    """On the windows that n-grams are scored on; None without a joint likelihood."""


_Runs: TypeAlias = Mapping[str, Sequence[_Measured]]
"""The runs of each recipe, by seed."""
_OfTask: TypeAlias = tuple[About, Mapping[str, Sequence[Units]]]


def run_babylm(config: BabyLMStudyConfig, *, worker: bool = False) -> BabyLMStudy:
    """Runs the study, or what is missing of it (`studies.parts.run_parts`).

    Raises `UserError` for a folder without tasks, a recipe that cannot be, and a store that does
    not know its words.
    """
    suite = open_suite(config.data)
    store = open_corpus(
        config.text, lab=config.lab, vocabulary=config.vocabulary, tokens=config.tokens
    ).store
    plan = _Plan(config, store, suite, words=store.split(TRAIN).words)
    if suite.missing:
        say(f"{config.data} has no {', '.join(suite.missing)}")

    def parts(rates: Mapping[str, float | None]) -> dict[tuple[str, int], Part[_Measured]]:
        return {
            (recipe, seed): plan.part(recipe, seed, rate)
            for seed in range(config.seeds)
            for recipe, rate in rates.items()
        }

    arms = {recipe: TunedArm(recipe, partial(plan.trial, recipe)) for recipe in config.options_of}
    return run_parts_at_best_rates(
        "BabyLM study", config, arms, parts, BabyLMStudy, plan.result,
        out=study_folder("babylm", config), further=plan.scored_tokens, worker=worker,
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """What is trained and measured."""

    config: BabyLMStudyConfig
    store: TokenStore
    suite: Suite
    words: int
    """Of the training split."""

    @cached_property
    def samples(self) -> list[Task]:
        """The sample of each task that is scored at checkpoints."""
        most = self.config.curve_items
        return list(open_suite(self.config.data, fast=True, limit=most).tasks) if most else []

    @cached_property
    def contexts(self) -> Contexts | None:
        """Of the words of children, from text that no run is trained on."""
        if self.suite.children is None:
            return None
        return held_out_contexts(self.store, self.suite.children.words, a_word=self.config.contexts)

    @cached_property
    def held_out(self) -> str | None:
        """The split that models are compared with counting on; None where n-grams have no text to
        choose their order by."""
        if not self._has_text(VALIDATION):
            return None
        return TEST if self._has_text(TEST) else VALIDATION

    def _has_text(self, split: str) -> bool:
        return split in self.store.splits and self.store.split(split).tokens > 0

    @property
    def scored_windows(self) -> int:
        """At most so many of it."""
        return max(1, _COUNTED_TOKENS // self.config.context)

    @property
    def scored_tokens(self) -> int:
        """Of it, by all runs together."""
        if self.held_out is None:
            return 0
        requests = (self.config.request(r, 0, self.store.path) for r in self.config.options_of)
        runs = sum(map(_has_joint, requests)) * self.config.seeds
        return runs * evaluation_tokens(
            self.store.split(self.held_out), self.config.context, max_windows=self.scored_windows
        )

    def trial(self, recipe: str, rate: float) -> ResolvedRun:
        """The run that says how good a learning rate is for a recipe."""
        request = self.config.request(recipe, CHOOSING_SEED, self.store.path, rate)
        request = replace(request, checkpoints=CheckpointConfig(every=request.steps, keep=1))
        return placed(request, self.store, self.config.lab)

    def part(self, recipe: str, seed: int, rate: float | None) -> Part[_Measured]:
        """A run and its scores."""
        request = self.config.request(recipe, seed, self.store.path, rate)
        run = placed(request, self.store, self.config.lab)
        label = f"{recipe}, seed {seed}"
        return Part(label, run, partial(self._measure, run, label))

    def _measure(self, resolved: ResolvedRun, label: str, bar: Bar) -> _Measured:
        run = train(resolved, bar=bar, note=f"{label},")
        along = course_of(run.path, resolved.config, self.store.split(TRAIN))
        course = {
            (task.name, place.words): self._units(replace(run, checkpoint=place.path), task)
            for task in self.samples
            for place in along
        }
        scores = {task.name: self._units(run, task) for task in self.suite.tasks}
        gains, ages = self._gains(run), self._ages(run, along)
        score = self._score(run, resolved.config, bar)
        return _Measured(run, resolved, scores, course, gains, ages, score)

    def _score(self, run: TrainedRun, config: TrainConfig, bar: Bar) -> Score | None:
        if self.held_out is None or not _has_joint(config):
            return None
        return cached_score(
            run, self.store, split=self.held_out, context=self.config.context,
            max_windows=self.scored_windows, order=config.order, bar=bar,
        )  # fmt: skip

    def _units(self, run: TrainedRun, task: Task) -> Units:
        values = item_values(run, task, head="own", store=self.store, held_out=VALIDATION)
        return units_of_items(values[metric_of(task)], task.units, task.weights)

    def _gains(self, run: TrainedRun) -> tuple[Gain, Gain] | None:
        words = self.suite.reading
        if words is None:
            return None
        asked = digest([list(words.contexts), list(words.words)])
        file = file_beside(run, "scores/reading.safetensors", run.checkpoint.name, asked)

        def measure() -> dict[str, np.ndarray]:
            nats, previous_N = reading_nats(open_model(run.checkpoint), words)
            return {"surprisal_N": nats.nats_N, "previous_N": previous_N}

        nats = kept_arrays(file, measure)
        return (
            eye_tracking_gain(words, nats["surprisal_N"]),
            self_paced_gain(words, nats["surprisal_N"], nats["previous_N"]),
        )

    def _ages(self, run: TrainedRun, along: Sequence[WordCheckpoint]) -> Acquisition | None:
        children, contexts = self.suite.children, self.contexts
        if children is None or contexts is None or len(along) < MINIMUM_CHECKPOINTS:
            return None
        folder = file_beside(run, "scores/words", "acquisition 1")
        places = [(place.words, place.path) for place in along]
        return acquisition(learning_curves(places, contexts, folder), children)

    def result(
        self, parts: dict[tuple[str, int], _Measured], rates: dict[str, Rates]
    ) -> BabyLMStudy:
        """The study, from all its parts."""
        runs = {
            recipe: [parts[recipe, seed] for seed in range(self.config.seeds)]
            for recipe in self.config.options_of
        }
        tasks: list[_OfTask] = [
            (_about(task), {r: [m.scores[task.name] for m in ms] for r, ms in runs.items()})
            for task in self.suite.tasks
        ]
        tasks += _reading_tasks(runs)
        missing = [f"no data for {', '.join(self.suite.missing)}"] if self.suite.missing else []
        if self.held_out is None:
            missing.append("models against counting: the store has no validation text")
        ages = _ages_task(runs)
        if isinstance(ages, str):
            missing += [ages] if self.suite.children else []
        else:
            tasks.append(ages)
        tokens = next(iter(parts.values())).resolved.tokens
        return BabyLMStudy(
            config=self.config,
            corpus=corpus_labels([self.config.text])[0],
            words=self.words,
            tokens=tokens,
            passes=tokens / self.store.split(TRAIN).tokens,
            recipes=tuple(_recipe_runs(recipe, ms) for recipe, ms in runs.items()),
            tasks=compare_recipes(tasks),
            curves=tuple(self._curves(runs)),
            missing=tuple(missing),
            rates=rates,
            counting=self._against_counting(runs),
        )

    def _against_counting(self, runs: _Runs) -> AgainstCounting | None:
        if self.held_out is None:
            return None
        scores = {
            recipe: of_recipe
            for recipe, measured in runs.items()
            if (of_recipe := [m.score for m in measured if m.score is not None])
        }
        return against_counting(
            self.store, scores, split=self.held_out, context=self.config.context,
            max_windows=self.scored_windows,
        )  # fmt: skip

    def _curves(self, runs: _Runs) -> list[CurvePoint]:
        return [
            CurvePoint(
                recipe, task.name, words,
                mean_over(_about(task), [m.course[task.name, words] for m in measured]),
            )
            for task in self.samples
            for recipe, measured in runs.items()
            for words in sorted(words for name, words in measured[0].course if name == task.name)
        ]  # fmt: skip


def _has_joint(config: TrainConfig) -> bool:
    """Whether its model gives a window a likelihood, token after token."""
    return reads_as(config.pair.reading) in ("causal", "mixed")


def _about(task: Task) -> About:
    unit = "items" if sets_of_items(task.units) is None else "sets of items"
    return About(
        task.name, metric_of(task), unit, percent=metric_of(task) == "accuracy",
        chance=chance_of(task),
        notes=(f"{len(task.items):,} of {task.available:,} items of {Path(task.source).name}",),
    )  # fmt: skip


def _reading_tasks(runs: _Runs) -> list[_OfTask]:
    """The gains in both kinds of reading."""
    tasks: list[_OfTask] = []
    for number, name in enumerate(_READING):
        gains = {r: [m.gains[number] for m in ms if m.gains] for r, ms in runs.items()}
        first = next(iter(gains.values()))
        if not first:
            continue
        of_fit = {
            recipe: ", ".join(f"{100 * gain.held_out.interval.estimate:.2f}" for gain in seeds)
            for recipe, seeds in gains.items()
        }
        about = About(
            name, "gain in R2", "sentences", percent=True, chance=first[0].noise,
            notes=(
                f"{first[0].words:,} words; the share of the squared error that surprisal takes "
                "away, on the words that were fitted (chance: what noise gains there)",
                "each sentence predicted by the fit to all others, % by seed: "
                + "; ".join(f"{recipe} {values}" for recipe, values in of_fit.items()),
            ),
        )  # fmt: skip
        names = [str(n) for n in range(len(first[0].official.words_C))]
        units = {
            recipe: [
                units_of_jackknife(g.official.interval.estimate, g.official.without_C, names)
                for g in seeds
            ]
            for recipe, seeds in gains.items()
        }
        tasks.append((about, units))
    return tasks


def _ages_task(runs: _Runs) -> _OfTask | str:
    """The correlation of ages over the words that all runs have, or why there is none."""
    ages = {recipe: [m.ages for m in ms if m.ages] for recipe, ms in runs.items()}
    every = [each for seeds in ages.values() for each in seeds]
    if len(every) < sum(map(len, runs.values())):
        return f"ages of acquisition: they take {MINIMUM_CHECKPOINTS} checkpoints"
    both_W = np.all(
        [np.isfinite(each.log10_seen_W) & np.isfinite(each.months_W) for each in every], axis=0
    )
    words = [word for word, kept in zip(every[0].words, both_W, strict=True) if kept]
    if len(words) < _FEWEST_WORDS:
        return f"ages of acquisition: all runs have one for {len(words)} words only"
    own = "; ".join(
        f"{recipe} " + ", ".join(
            "none" if each.correlation is None else
            f"{each.correlation.estimate:.2f} ({each.fitted})" for each in seeds
        )
        for recipe, seeds in ages.items()
    )  # fmt: skip
    about = About(
        "acquisition", "correlation", "words", percent=False, chance=0.0,
        notes=(
            f"{len(words)} words that every run has an age for, of {len(every[0].words)} with "
            "contexts in held-out text",
            f"over each run's own words (their number), by seed: {own}",
        ),
    )  # fmt: skip
    return about, {
        recipe: [_correlation(each, both_W, words) for each in seeds]
        for recipe, seeds in ages.items()
    }


def _correlation(ages: Acquisition, both_W: np.ndarray, words: Sequence[str]) -> Units:
    values_W = pseudo_values("pearson", ages.log10_seen_W[both_W], ages.months_W[both_W])
    return Units(tuple(words), values_W, np.ones(len(words)))


def _recipe_runs(recipe: str, measured: Sequence[_Measured]) -> RecipeRuns:
    config = measured[0].resolved.config
    return RecipeRuns(
        recipe=recipe,
        model=config.model_name,
        objective=config.objective,
        optimizer=f"{config.optimizer.name}, {config.peak_rate:g}",
        runs=tuple(m.run.name for m in measured),
        weights=count_weights(measured[0].run),
        validation=tuple(final_validation(m.run) for m in measured),
    )
