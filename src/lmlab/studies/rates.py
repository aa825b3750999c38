"""What is known of learning rates that were chosen for an arm. Imports no torch.

`lmlab.studies.learning_rates` makes the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rates:
    """How an arm ends with each learning rate that was tried."""

    validation: tuple[tuple[float, float | None], ...]
    """Rate, and nats per token on validation text; None where the run broke off: its loss or
    gradient was no longer a number."""
    seed: int = 0
    """Of these runs."""
    runs: tuple[str, ...] = ()
    """Their folders, by rate."""

    @property
    def best(self) -> float:
        """The first with the least loss."""
        ends = [(nats, rate) for rate, nats in self.validation if nats is not None]
        return min(ends, key=lambda end: end[0])[1]

    @property
    def at_end(self) -> Literal["smallest", "largest"] | None:
        """Which end of the rates that were tried the best one is; then a better one may lie
        beyond."""
        return end_of([rate for rate, _ in self.validation], self.best)


def end_of(values: Sequence[float], value: float) -> Literal["smallest", "largest"] | None:
    """Which end of several values one of them is; None within, and where there is one value."""
    if len(values) < 2 or min(values) < value < max(values):
        return None
    return "smallest" if value == min(values) else "largest"
