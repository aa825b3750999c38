"""What a comparison may say: a verdict, how far it reaches, and what no difference seen means.

Every page and command words its findings by these functions, so that no sentence says more than
its seeds and documents carry.

Notable:
- Fewer than `MINIMUM_SEEDS` seeds give no verdict on directions, objectives or towers: two seeds of
  one model differed by 0.126 nats, five times the arrow that one pair of models showed. The
  sentence then says what was seen of one pair of models, or two, and that it is no verdict.
  Fewer than five documents: these documents.
- A null that is not rejected is no finding. In its place stands an upper bound of the difference
  (`Evidence.bound`): the end of its interval that is farther from zero, so that bound and interval
  agree. It is the least margin for which two one-sided tests at 2.5 % each show equivalence
  (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, at half his level). Beside it stands the
  difference that would have been seen with 80 % (`Evidence.detectable`).
- Several comparisons that are read together are a family: `holm` adjusts their p-values so that
  the probability of any false finding stays at 5 % (Holm 1979, Scand. J. Statist. 6);
  `scipy.stats.false_discovery_control` is for families of many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy.special import stdtr, stdtrit

from lmlab.numerics.power import detectable_effect
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS, Interval

MINIMUM_SEEDS = 3
"""Below this no verdict is given on what the seeds stand for."""

ONE_RUN_EACH = "one run of each, so no verdict on the ways to train them"
"""What is said beside figures of models of several kinds where each has one seed."""

Finding = Literal["above", "below", "undecided", "none"]
"""Where the interval lies: above zero, below it, across it; none: there is no interval."""


@dataclass(frozen=True)
class Evidence:
    """A difference, its interval, and how many seeds and documents stand behind it.

    `seeds` None: the comparison has no seeds (counts of a text, one given model).
    """

    estimate: float
    low: float | None
    high: float | None
    standard_error: float | None
    degrees_of_freedom: float | None
    seeds: int | None
    documents: int

    @classmethod
    def of(cls, interval: Interval) -> Self:
        """What an interval shows."""
        return cls(**{name: getattr(interval, name) for name in cls.__dataclass_fields__})

    @classmethod
    def of_two_groups(cls, first: Sequence[float], second: Sequence[float], documents: int) -> Self:
        """The difference of the means of runs that are not pairs, first less second, by Welch's t
        test (1947); no interval where a group has one run."""
        a, b = (np.asarray(group, dtype=np.float64) for group in (first, second))
        estimate, seeds = float(a.mean() - b.mean()), min(len(a), len(b))
        if seeds < 2:
            return cls(estimate, None, None, None, None, seeds, documents)
        v = [float(group.var(ddof=1)) / len(group) for group in (a, b)]
        error = float(np.sqrt(sum(v)))
        if error == 0:
            return cls(
                estimate, estimate, estimate, 0.0, float(len(a) + len(b) - 2), seeds, documents
            )
        df = sum(v) ** 2 / (v[0] ** 2 / (len(a) - 1) + v[1] ** 2 / (len(b) - 1))
        half = float(stdtrit(df, 0.975)) * error
        return cls(estimate, estimate - half, estimate + half, error, df, seeds, documents)

    @property
    def finding(self) -> Finding:
        """Where the interval lies."""
        if self.low is None or self.high is None:
            return "none"
        if self.low > 0:
            return "above"
        return "below" if self.high < 0 else "undecided"

    @property
    def general(self) -> bool:
        """Whether a verdict on other seeds and other texts may be given."""
        enough = self.seeds is None or self.seeds >= MINIMUM_SEEDS
        return enough and self.documents >= MINIMUM_DOCUMENTS

    @property
    def p_value(self) -> float | None:
        """Two-sided, of the t test that belongs to the interval; None without one."""
        if self.standard_error is None or self.degrees_of_freedom is None:
            return None
        if self.standard_error == 0:
            return float(self.estimate == 0)
        t = abs(self.estimate) / self.standard_error
        return float(2 * stdtr(self.degrees_of_freedom, -t))

    @property
    def bound(self) -> float | None:
        """The difference's size is below this with 95 %: the farther end of its interval."""
        if self.low is None or self.high is None:
            return None
        return max(abs(self.low), abs(self.high))

    @property
    def detectable(self) -> float | None:
        """The true difference that would have been seen (interval without zero) with 80 %."""
        if self.standard_error is None or self.degrees_of_freedom is None:
            return None
        return detectable_effect(self.standard_error, self.degrees_of_freedom)


def reach(seeds: int | None, documents: int, *, models: str = "models") -> str:
    """What a finding is about where it is not general: " for these two models on this text".

    Empty where there are seeds and documents enough. `models` names what a seed trains.
    """
    where = on_text(documents)
    if seeds == 1:
        return f" for these two {models} {where}"
    if seeds is not None and seeds < MINIMUM_SEEDS:
        return f" for these {seeds} pairs of {models} {where}"
    return f" {where}" if documents < MINIMUM_DOCUMENTS else ""


def on_text(documents: int) -> str:
    """The text that a finding about given models is about."""
    return "on these documents" if documents < MINIMUM_DOCUMENTS else "on this text"


def verdict(
    evidence: Evidence,
    *,
    above: str,
    below: str,
    size: Callable[[float], str],
    seen: tuple[str, str] = ("the difference is above zero", "the difference is below zero"),
    models: str = "models",
    about: str | None = None,
) -> str:
    """The finding in words, with its reach and without its numbers.

    Args:
        above, below: the verdict where the interval lies above zero, and below: "forward is
            easier".
        size: a difference, without sign, in words: "1.2 %".
        seen: what is said in their place of given models, where seeds are too few for a verdict:
            "the loss is lower forwards".
        models: what a seed trains.
        about: what the finding is about, in place of `reach`.
    """
    if about is None:
        about = reach(evidence.seeds, evidence.documents, models=models)
    finding = evidence.finding
    if finding == "none":
        return "no interval"
    if finding == "undecided":
        assert evidence.bound is not None
        return f"not decided{about}: any difference is below {size(evidence.bound)} with 95 %"
    if evidence.seeds is not None and evidence.seeds < MINIMUM_SEEDS:
        few = "one seed" if evidence.seeds == 1 else f"{evidence.seeds} seeds"
        return f"no verdict from {few}: {seen[finding == 'below']}{about}"
    return (above if finding == "above" else below) + about


def power_words(evidence: Evidence, size: Callable[[float], str]) -> str:
    """What would have been seen; empty without an interval."""
    if evidence.detectable is None:
        return ""
    return f"a difference of {size(evidence.detectable)} would have been seen with 80 %"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values of a family; None (no test) stays None and does not count.

    The k-th smallest of n is multiplied by n - k + 1, and never falls below the one before it.
    """
    tested = [i for i, p in enumerate(p_values) if p is not None]
    p_T = np.array([p_values[i] for i in tested], dtype=np.float64)
    order_T = np.argsort(p_T, kind="stable")
    raised_T = np.minimum(1.0, p_T[order_T] * np.arange(len(p_T), 0, -1))
    adjusted: list[float | None] = [None] * len(p_values)
    for place, p in zip(order_T, np.maximum.accumulate(raised_T), strict=True):
        adjusted[tested[place]] = float(p)
    return adjusted
