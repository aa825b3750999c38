"""What the runs of all studies have in common, so that equal requests of two share a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lmlab.config.training import CheckpointConfig, OptimizerConfig, TrainConfig
from lmlab.data.store import TokenStore
from lmlab.training.setup import ResolvedRun, resolve_run

_VALIDATION_TOKENS = 1 << 14


def text_run(study: Any, store: TokenStore, **options: Any) -> ResolvedRun:
    """The run of a `text_request`, in its place below the study's lab."""
    return placed(text_request(study, store, **options), store, study.lab)


def text_request(
    study: Any,
    store: TokenStore,
    *,
    tokens: float | None = None,
    context: int | None = None,
    learning_rate: float | None = None,
    optimizer: Literal["adamw", "muon"] | None = None,
    **options: Any,
) -> TrainConfig:
    """A run on running text for a `study` (`options.TextStudy`), which says what is not given
    here."""
    window: int = context or study.context
    batch: int = max(1, study.batch_tokens // window)
    return TrainConfig(
        store=store.path,
        context=window,
        batch=batch,
        steps=max(1, round((tokens or study.tokens) / (batch * window))),
        optimizer=OptimizerConfig(
            optimizer or study.optimizer, learning_rate=learning_rate or study.learning_rate
        ),
        checkpoints=CheckpointConfig(every=500, keep=1),
        # short windows hold few tokens: 64 of them would show the luck of the sample
        evaluation_windows=max(64, _VALIDATION_TOKENS // window),
        **options,
    )


def placed(request: TrainConfig, store: TokenStore, lab: Path) -> ResolvedRun:
    """The run that is asked for, its folder below `lab`, named for what it is."""
    run = resolve_run(request, store)
    return replace(run, config=replace(run.config, out=lab / "runs" / run.name))
