"""What a study will need, said before it trains: runs, tokens, time on this machine, disk, memory.

Notable: the time is that of a few steps of each kind of run, tried out and thrown away. Runs that
differ in seed, order, length or rate are of one kind. Where few steps are left, no trial is worth
its time, and none is said.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lmlab.config import digest, to_mapping
from lmlab.config.training import (
    CheckpointConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from lmlab.data.order import FORWARD
from lmlab.errors import UserError
from lmlab.progress import duration, say
from lmlab.run_folders.journal import last_record
from lmlab.studies.finished_runs import JOURNAL, is_there
from lmlab.training.doctor import held_memory
from lmlab.training.doctor_warnings import byte_size
from lmlab.training.opening import VALIDATED
from lmlab.training.setup import ResolvedRun
from lmlab.training.speed import seconds_per_step

_STEPS_WORTH_A_TRIAL = 50
_FURTHER = 1 / 2
"""Of the time of a trained token: that of one of child runs and scoring."""


def say_needs(study: str, runs: Sequence[ResolvedRun], *, work: float) -> None:
    """Says what a study needs for its `runs`, and for child runs and scoring, which with the runs
    make `work` tokens."""
    left = [run for run in runs if not is_there(run)]
    if not left:
        say(f"{study}: {_runs(runs)}, all of them there already")
        return
    trained = sum(run.tokens for run in runs)
    tokens = sum(map(_tokens_left, left))
    further = max(0, round(work) - trained)
    more = f" (and {further:,} more of child runs and scoring)" if further else ""
    text = (
        f"{study}: {_runs(runs)}, {len(runs) - len(left):,} of them there already; {tokens:,} "
        f"tokens to train on{more}"
    )
    if any(run.config.is_classification for run in left):
        say(f"{text}; stopping is safe")
        return
    if seconds := _seconds(left, further):
        text += (
            f"; about {duration(seconds)} here, at the pace of a few steps tried out now "
            "(analyses at the end come on top)"
        )
    with suppress(UserError):  # of a store or parent, which its own part of the study will tell
        text += f"; {_room(left)}"
    say(f"{text}; stopping is safe")


def _room(runs: Sequence[ResolvedRun]) -> str:
    """Disk and memory of the runs, in words."""
    disk, kinds = 0, {}
    for run in runs:
        name = digest(to_mapping(_kind(run.config)))
        if name not in kinds:
            kinds[name] = held_memory(run.config)
        disk += _checkpoints(run) * (kinds[name].weights + kinds[name].optimizer)
    memory = max(held.total for held in kinds.values())
    lab = _lab(runs[0]).absolute()
    there = next(folder for folder in (lab, *lab.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    return (
        f"disk {byte_size(disk)} for checkpoints ({byte_size(free)} are free); memory "
        f"{byte_size(memory)} for weights, gradients and optimizer, beside what the program and a "
        "batch take"
    )


def _runs(runs: Sequence[ResolvedRun]) -> str:
    return f"{len(runs):,} run{'s' * (len(runs) > 1)}"


def _lab(run: ResolvedRun) -> Path:
    return run.path.parent.parent


def _tokens_left(run: ResolvedRun) -> int:
    last = last_record(run.path / JOURNAL)
    steps = run.config.steps - (last["step"] if last else 0)
    return max(0, steps) * run.config.step_windows * run.config.context


def _seconds(runs: Sequence[ResolvedRun], further: int) -> float | None:
    """Of training and validating the runs, and of `further` tokens."""
    kinds: dict[str, TrainConfig] = {}
    steps: dict[str, float] = {}
    weighted: dict[str, float] = {}
    for run in runs:
        kind = _kind(run.config)
        name = digest(to_mapping(kind))
        kinds[name] = kind
        config = run.config
        validated = config.evaluation_windows / config.evaluation_interval() / config.step_windows
        left = _tokens_left(run) / (config.step_windows * config.context)
        steps[name] = steps.get(name, 0.0) + left
        weighted[name] = weighted.get(name, 0.0) + left * (1 + VALIDATED * validated)
    if min(steps.values()) < _STEPS_WORTH_A_TRIAL:
        return None
    total = 0.0
    for name, kind in kinds.items():
        if (seconds := _tried(kind)) is None:
            return None
        total += weighted[name] * seconds
    return total * (1 + _FURTHER * further / max(1, sum(map(_tokens_left, runs))))


def _kind(config: TrainConfig) -> TrainConfig:
    """The run without what makes a step of it neither slower nor faster, and eager."""
    return replace(
        config,
        out=None,
        order=config.order if config.reads_both_sides else FORWARD,
        seed=0,
        steps=1,
        optimizer=OptimizerConfig(config.optimizer.name, learning_rate=1e-6),
        schedule=ScheduleConfig(),
        checkpoints=CheckpointConfig(),
        evaluate_every=1,
        compile=False,
    )


def _tried(kind: TrainConfig) -> float | None:
    try:
        return seconds_per_step({"": kind}, rounds=2, warm_up=1)[""]
    except UserError:  # which its own part of the study will tell
        return None


def _checkpoints(run: ResolvedRun) -> int:
    """How many a run has at most at its end."""
    due = sum(run.due(step) for step in range(run.config.steps + 1))
    keep = run.config.checkpoints.keep
    return due if keep is None else min(due, keep + len(run.word_steps))
