"""What a run says before it trains: how large, on what, how long, how often it reads its text.

Notable: the time is estimated from the first steps themselves. Of validations only their number is
known by then; a scored token is counted as a third of a trained one (one pass of three).
"""

from __future__ import annotations

import time

from lmlab.config.training import TrainConfig
from lmlab.data.splits import TRAIN
from lmlab.data.store import TokenStore
from lmlab.progress import duration, say
from lmlab.training.setup import planned_tokens

MANY_EPOCHS = 4
"""Up to so many, text that is read again is worth nearly as much as new text (Muennighoff et al.
2023, "Scaling Data-Constrained Language Models", 5)."""
_MEASURED_SECONDS, _MEASURED_STEPS = 2.0, 3
VALIDATED = 1 / 3
"""Of the time of a trained token: that of one that is scored (one pass of three)."""


def many_epochs(tokens: int, epochs: float) -> str | None:
    """A warning where so many `tokens` read the training split too often."""
    if epochs <= MANY_EPOCHS:
        return None
    return (
        f"The budget of {tokens:,} tokens reads the training split {epochs:.1f} times (warned of "
        f"above {MANY_EPOCHS}): what is read again teaches less each time, and may be learnt by "
        "heart. Lower `steps`, or prepare more text."
    )


def say_what_begins(config: TrainConfig, store: TokenStore, *, weights: int, trained: int) -> None:
    """Says what a resolved run is: of `weights` parameters so many are `trained`."""
    split, tokens = store.split(TRAIN), planned_tokens(config)
    rows = len(split.documents_M3) if config.is_classification else split.tokens // config.context
    epochs = config.steps * config.step_windows / rows
    what = "texts" if config.is_classification else "tokens"
    there = len(split.documents_M3) if config.is_classification else split.tokens
    frozen = f" ({trained:,} of them trained)" if trained != weights else ""
    threads = f", threads: {config.threads}" if config.device == "cpu" else ""
    say(
        f"{weights:,} parameters{frozen} on {config.device}{threads}, {config.dtype} products, "
        f"{config.optimizer.name}; {config.steps:,} steps of {config.step_windows} x "
        f"{config.context} tokens, {tokens:,} in all: {epochs:.2g} epochs of {there:,} {what}"
    )
    if not config.is_classification and (warning := many_epochs(tokens, epochs)):
        say(f"warning: {warning}")


class FirstSteps:
    """Says once, as soon as some steps were measured, about how long the rest will take."""

    def __init__(self, config: TrainConfig, *, quiet: bool) -> None:
        self.config, self.quiet = config, quiet
        self._began: tuple[float, int] | None = None

    def saw(self, step: int) -> None:
        """After update `step`, before its validation."""
        if self.quiet:
            return
        if self._began is None:  # the first step is not measured: it is slower
            self._began = time.monotonic(), step
            return
        config, (began, first) = self.config, self._began
        seconds, steps = time.monotonic() - began, step - first
        if seconds < _MEASURED_SECONDS or steps < _MEASURED_STEPS:
            return
        self.quiet = True
        left = (config.steps - step) * config.step_windows
        validations = config.steps // config.evaluation_interval()
        validations -= step // config.evaluation_interval()
        windows = steps * config.step_windows / seconds
        ahead = (left + VALIDATED * validations * config.evaluation_windows) / windows
        say(
            f"about {duration(ahead)} left at {windows * config.context:,.0f} tokens/s, by the "
            f"first {steps} steps"
        )
