"""Longer runs: a new run that goes on where a finished one ended.

The new run begins as a copy of the finished one's journal and one of its checkpoints, and is then
resumed like any other; so it is as exact, and needs the finished one no more.

Notable: its identity is its configuration, which holds the identity of the finished run and the
step it goes on from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lmlab.config.lengthen import LengthenConfig
from lmlab.config.training import LengthenedConfig, TrainConfig, whole_steps
from lmlab.durable import write_bytes
from lmlab.errors import UserError
from lmlab.progress import say
from lmlab.run_folders.checkpoint import (
    checkpoint_step,
    checkpoints,
    newest_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from lmlab.run_folders.rundir import stored_config, stored_identity
from lmlab.training.optimizers import rate_factor


def longer_run(asked: LengthenConfig) -> TrainConfig:
    """The run that goes on from a finished one; says what its learning rate does.

    Raises `UserError` for a run that is not finished, or ended by early stopping, and for a length
    that is not larger.
    """
    run, config = asked.run, stored_config(asked.run)
    if config.early_stopping is not None:
        raise UserError(
            f"{run} ended by `early_stopping`, where its validation was best, and not for its "
            "length; a longer run would end there too"
        )
    newest = newest_checkpoint(run)
    if newest.path is None or newest.step != config.steps:
        raise UserError(
            f"{run} is not finished (step {newest.step:,} of {config.steps:,}): the command that "
            f"started it goes on with it, or lmlab train --config {run / 'config.toml'}"
        )
    steps = asked.steps
    if asked.tokens is not None:
        steps = whole_steps(asked.tokens, config.step_windows * config.context)
    if steps is None:
        raise UserError(f"`steps` or `tokens`: how long is {run} to be?")
    if steps <= config.steps:
        raise UserError(f"`steps` {steps:,}: {run} has {config.steps:,} already; give more")
    start, rewarm = _start(config, run, newest.path)
    longer = replace(
        config,
        steps=steps,
        out=asked.out or run.with_name(f"{run.name}-{steps}"),
        threads=asked.threads or config.threads,
        lengthened=LengthenedConfig(
            str(start), checkpoint_step(start), stored_identity(run), rewarm
        ),
    )
    say(f"{longer.out} goes on from {start}. {_schedule_in_words(longer, config)}")
    return longer


def _start(config: TrainConfig, run: Path, newest: Path) -> tuple[Path, bool]:
    """The checkpoint to go on from, and whether the rate has to be warmed up again."""
    if config.schedule.kind in ("cosine", "linear"):
        return newest, True
    for path in reversed(checkpoints(run)):
        step = checkpoint_step(path)
        if step and rate_factor(step - 1, config) == 1.0:  # still at the peak
            verify_checkpoint(path)
            return path, False
    return newest, True


def _schedule_in_words(longer: TrainConfig, before: TrainConfig) -> str:
    start, end = longer.lengthened.from_step or 0, longer.steps
    peak, kind = longer.peak_rate, longer.schedule.kind
    low = peak * longer.schedule.final
    if not longer.lengthened.rewarm:
        if kind == "constant":
            return f"The learning rate stays at {peak:g} to step {end:,}."
        decay = next((s for s in range(start, end) if rate_factor(s, longer) < 1), end)
        left_out = f" (steps {start + 1:,} to {before.steps:,} of the finished run are not in it)"
        return (
            f"The learning rate stays at its peak of {peak:g} to step {decay:,}, then decays to "
            f"{low:g} at step {end:,}{left_out if start < before.steps else ''}."
        )
    why = ""
    if kind == "wsd":
        why = ", and no checkpoint from before its decay is left"
    warmup = round(longer.schedule.warmup * (end - start))
    return (
        f"The learning rate had come down to {low:g}{why}: it is warmed up to {peak:g} again over "
        f"{warmup:,} steps, then goes down to {low:g} at step {end:,} ({kind}). That is not what a "
        f"run of {end:,} steps does from its start; `schedule.kind` wsd or constant leaves the "
        "length open."
    )


def copy_start(config: TrainConfig, path: Path) -> None:
    """Puts into the folder `path` what a lengthened run begins with, unless it has begun.

    Raises `UserError` where the finished run is gone or damaged.
    """
    if config.lengthened.from_checkpoint is None or checkpoints(path):
        return
    start = Path(config.lengthened.from_checkpoint)
    step = verify_checkpoint(start)
    assert step == config.lengthened.from_step
    for name in ("journal.jsonl", "timing.jsonl"):
        if (file := start.parent.parent / name).is_file():
            write_bytes(path / name, file.read_bytes())  # resuming cuts it back
    files = {p.name: p.read_bytes() for p in start.iterdir() if p.name != "manifest.json"}
    save_checkpoint(path, step, files)
