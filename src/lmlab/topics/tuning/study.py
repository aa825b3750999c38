"""Trains the settings, or reads what is there of them, and compares how they end.

Notable: a setting's run is that of `lmlab train` with the same options, in the lab, so runs are
shared with studies and later tunings. With halving the runs of a length are asked for when all of
the length before have ended; workers wait for one another there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from lmlab.config.training import TrainConfig
from lmlab.data.splits import VALIDATION
from lmlab.data.store import TokenStore
from lmlab.data.windows import evaluation_tokens
from lmlab.errors import UserError
from lmlab.progress import say
from lmlab.studies.learning_rates import trained_end
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part, make_parts, run_parts
from lmlab.studies.run_requests import placed
from lmlab.topics.tuning.options import TuneConfig, setting_text
from lmlab.topics.tuning.tuning import Rung, Tuning, tuning
from lmlab.training.setup import ResolvedRun

Place = tuple[int, int, int]
"""Length, setting, seed."""
Ends = dict[Place, float | None]


@dataclass(frozen=True)
class Length:
    """How many settings are trained, for which share of the full length."""

    settings: int
    share: float


def lengths(settings: int, *, halving: bool) -> list[Length]:
    """One, or with halving: all, the better half (rounded up), and so on until two are left, each
    for twice as long as the ones before."""
    counts = [settings]
    while halving and counts[-1] > 2:
        counts.append(math.ceil(counts[-1] / 2))
    return [Length(count, 0.5 ** (len(counts) - 1 - i)) for i, count in enumerate(counts)]


def run_tune(config: TuneConfig, *, worker: bool = False) -> Tuning:
    """Trains what is missing, and returns the result.

    Writes `results.json` and `report.html` to `config.out`. A `worker` shares it with others
    (`studies.parts`). Raises `UserError` for a store or settings that cannot be trained, and two
    that are the same run.
    """
    store = TokenStore(config.store)
    grid = _Grid(config, store)
    ladder = lengths(len(grid.requests), halving=config.halving)
    grid.say_ladder(ladder)
    out = study_folder("tune", config)
    alive = list(range(len(grid.requests)))
    parts: dict[Place, Part[float | None]] = {}
    for number, length in enumerate(ladder):
        if number:
            ends = make_parts("tuning", parts, out=out, work=_work(parts), worker=worker, wait=True)
            alive = grid.better(length.settings, number - 1, alive, ends)
        parts |= grid.parts(number, length, alive)

    def result(ends: Ends) -> Tuning:
        return tuning(
            config,
            [grid.rungs(setting, parts, ends) for setting in range(len(grid.requests))],
            store=store.fingerprint[:12],
            validation_tokens=grid.validation_tokens,
        )

    found = run_parts("tuning", parts, Tuning, result, out=out, work=_work(parts), worker=worker)
    say(found.summary())
    return found


@dataclass(frozen=True)
class _Grid:
    """The settings, and their runs."""

    config: TuneConfig
    store: TokenStore

    @cached_property
    def requests(self) -> list[TrainConfig]:
        """The first seed's run of each setting, its length counted in steps."""
        asked = self.config.runs()
        counted = [placed(run, self.store, self.config.lab).config for run in asked]
        return [
            replace(run, steps=length.steps, batch=length.batch, epochs=None)
            for run, length in zip(asked, counted, strict=True)
        ]

    @property
    def labels(self) -> list[str]:
        return [setting_text(setting) for setting in self.config.settings()]

    @property
    def validation_tokens(self) -> int:
        first = self.requests[0]
        return evaluation_tokens(
            self.store.split(VALIDATION), first.context, max_windows=first.evaluation_windows
        )

    def run(self, length: Length, setting: int, seed: int) -> ResolvedRun:
        full = self.requests[setting]
        asked = replace(
            full, steps=max(1, round(length.share * full.steps)), seed=self.config.seed + seed
        )
        return placed(asked, self.store, self.config.lab)

    def say_ladder(self, ladder: Sequence[Length]) -> None:
        """What will be trained. `UserError` for two settings that are one run."""
        settings, seeds = range(len(self.requests)), self.config.seeds
        by_length = [[self.run(length, k, 0) for k in settings] for length in ladder]
        names: dict[str, str] = {}
        for run, label in zip(by_length[-1], self.labels, strict=True):
            if (other := names.setdefault(run.identity, label)) != label:
                raise UserError(f"{other} and {label} are the same run: leave one of them out")
        tokens = seeds * sum(
            length.settings * sum(run.tokens for run in runs) / len(runs)
            for length, runs in zip(ladder, by_length, strict=True)
        )
        shown = ", then ".join(
            f"{length.settings} settings for {_span(run.config.steps for run in runs)} steps"
            for length, runs in zip(ladder, by_length, strict=True)
        )
        say(
            f"{shown}, {seeds} seeds each: {seeds * sum(length.settings for length in ladder)} "
            f"runs, {round(tokens):,} tokens to train on in all"
        )

    def parts(
        self, number: int, length: Length, settings: Sequence[int]
    ) -> dict[Place, Part[float | None]]:
        """The runs of some settings at one length; seeds change last, so that all settings have
        one early."""
        parts: dict[Place, Part[float | None]] = {}
        for seed in range(self.config.seeds):
            for setting in settings:
                run = self.run(length, setting, seed)
                label = f"{self.labels[setting]}, seed {run.config.seed}"
                if self.config.halving:
                    label += f", {run.config.steps:,} steps"
                parts[number, setting, seed] = Part(label, run, partial(trained_end, run, label))
        return parts

    def better(self, count: int, number: int, settings: Sequence[int], ends: Ends) -> list[int]:
        """The `count` settings with the least means at a length; what broke off comes last."""

        def mean(setting: int) -> float:
            nats = [ends[number, setting, seed] for seed in range(self.config.seeds)]
            return float(np.mean([math.inf if each is None else each for each in nats]))

        return sorted(sorted(settings, key=mean)[:count])

    def rungs(
        self, setting: int, parts: Mapping[Place, Part[float | None]], ends: Ends
    ) -> list[Rung]:
        """The runs of a setting, shortest first."""
        numbers = sorted({number for number, which, _ in parts if which == setting})
        rungs: list[Rung] = []
        for number in numbers:
            places = [(number, setting, seed) for seed in range(self.config.seeds)]
            run = parts[places[0]].run
            rungs.append(
                Rung(
                    run.config.steps,
                    run.tokens,
                    tuple(parts[place].name for place in places),
                    tuple(ends[place] for place in places),
                )
            )
        return rungs


def _work(parts: Mapping[Place, Part[float | None]]) -> float:
    return float(sum(part.run.tokens for part in parts.values()))


def _span(numbers: Iterable[int]) -> str:
    low, *_, high = sorted([*numbers]) * 2
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
