"""Sudden falls of a learning curve, and when they happen: times to a threshold, with censoring.

Some sources are learnt in jumps: the loss stays on a plateau for long and then falls within a
fraction of that time. Where the budget ends among the jumps, some seeds have made theirs and others
have not, and the final loss has two values rather than a mean with noise. An interval from 3 seeds
then covers 61 to 77 %, from 2 seeds 39 to 93 % (simulated in tests/test_transitions.py). What can
be compared is *when* a run falls below a threshold; a run that does not within the budget is
right-censored there.

Notable:
- A jump (`find_jump`): within a factor of 1.5 of training time the curve falls by at least 3 times
  as much as within the factor of 1.5 before it, by at least 1 % of the loss, and by 8 times the
  curve's noise. Only after a tenth of the budget: before it every curve falls off a plateau.
- Two groups are compared by the log-rank statistic with its exact permutation distribution, which
  needs no large numbers (Mantel 1966, Cancer Chemother. Rep. 50), and by mean times up to the
  budget (restricted means).

Legend: K validations of a run, N runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError

_FACTOR = 1.5  # of training time, before and after
_STEEPER = 3.0
_LEAST_SHARE = 0.01  # of the loss before the jump
_NOISES = 8.0
_FIRST_SHARE = 0.1  # of the budget


@dataclass(frozen=True)
class Jump:
    """A sudden fall: from `before` at time `start` to `after` at time `end`."""

    start: float
    end: float
    before: float
    after: float

    @property
    def threshold(self) -> float:
        """Half-way down."""
        return (self.before + self.after) / 2


def find_jump(times_K: ArrayLike, losses_K: ArrayLike) -> Jump | None:
    """The largest jump of a learning curve, or None (the rule is in the module's docstring).

    `times_K` are above 0 and rise (training tokens); `losses_K` any unit. The curve is taken by its
    running minimum, straight between validations on the logarithm of time. Its noise is the median
    absolute second difference, over 0.6745 sqrt(6).
    """
    times, losses = _curve(times_K, losses_K)
    if len(times) < 4:
        return None
    log_K = np.log(times)
    envelope_K = np.minimum.accumulate(losses)
    noise = float(np.median(np.abs(np.diff(losses, 2)))) / (0.6745 * np.sqrt(6))

    def at(log_time: float) -> float:
        return float(np.interp(log_time, log_K, envelope_K))

    step, jumps = float(np.log(_FACTOR)), []
    for start in log_K:
        inside = log_K[0] <= start - step and start < log_K[-1]
        if not inside or np.exp(start) < _FIRST_SHARE * times[-1]:
            continue
        end = min(start + step, float(log_K[-1]))
        before, after = at(start), at(end)
        # as long before as after it, where the budget cuts it short
        earlier = at(2 * start - end) - before
        fall = before - after
        least = max(_STEEPER * earlier, _LEAST_SHARE * abs(before), _NOISES * noise)
        if fall > 0 and fall >= least:
            jumps.append(Jump(float(np.exp(start)), float(np.exp(end)), before, after))
    return max(jumps, key=lambda jump: jump.before - jump.after, default=None)


def time_below(times_K: ArrayLike, losses_K: ArrayLike, threshold: float) -> float | None:
    """When the curve first falls to the threshold, straight between validations.

    None: not within the curve (censored at its last time).
    """
    times, losses = _curve(times_K, losses_K)
    below = np.flatnonzero(losses <= threshold)
    if not len(below):
        return None
    k = int(below[0])
    if k == 0:
        return float(times[0])
    part = (losses[k - 1] - threshold) / (losses[k - 1] - losses[k])
    return float(times[k - 1] + part * (times[k] - times[k - 1]))


@dataclass(frozen=True)
class TimesCompared:
    """Times of two groups of runs to one threshold; `budget` and times in one unit.

    `mean_first`, `mean_second`: restricted means, each run counted with its time or the budget.
    `p`: two-sided, exact, over all ways to divide the runs; `least_p`: the least it could be.
    """

    first: tuple[float | None, ...]
    second: tuple[float | None, ...]
    budget: float
    mean_first: float
    mean_second: float
    p: float
    least_p: float


def compare_times(
    first: Sequence[float | None], second: Sequence[float | None], budget: float
) -> TimesCompared:
    """Compares when the runs of two groups reach a threshold; None is "not within the budget".

    Raises `UserError` for an empty group, a time that is not above 0 or beyond the budget, or more
    than 20 runs (all divisions are tried).
    """
    every = [*first, *second]
    if not first or not second or len(every) > 20:
        raise UserError(f"{len(first)} and {len(second)} runs; give 1 or more of each, at most 20")
    if any(t is not None and not 0 < t <= budget for t in every):
        raise UserError(f"times must be above 0 and at most the budget, {budget:g}")
    time_N = np.array([budget if t is None else t for t in every], dtype=np.float64)
    reached_N = np.array([t is not None for t in every])
    scores_N = logrank_scores(time_N, reached_N)
    size = len(first)
    observed = abs(float(scores_N[:size].sum()))
    sums = np.abs([scores_N[list(group)].sum() for group in combinations(range(len(every)), size)])
    slack = 1e-9 * max(1.0, float(sums.max()))
    return TimesCompared(
        tuple(first),
        tuple(second),
        budget,
        float(time_N[:size].mean()),
        float(time_N[size:].mean()),
        p=float((sums >= observed - slack).mean()),
        least_p=float((sums >= sums.max() - slack).mean()),
    )


def logrank_scores(
    time_N: NDArray[np.float64], reached_N: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """A run's share in the log-rank statistic: 1 if it reached, less its cumulated hazard.

    A group's sum is its observed number of events less the expected one, under one hazard for all
    (Nelson and Aalen's).
    """
    scores = reached_N.astype(np.float64)
    for t in np.unique(time_N[reached_N]):
        at_risk = time_N >= t
        scores -= at_risk * (float((reached_N & (time_N == t)).sum()) / at_risk.sum())
    return scores


def _curve(
    times_K: ArrayLike, losses_K: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    times, losses = (np.asarray(a, dtype=np.float64) for a in (times_K, losses_K))
    assert times.shape == losses.shape == (len(times),) != (0,)
    assert times[0] > 0
    assert (np.diff(times) > 0).all()
    return times, losses
