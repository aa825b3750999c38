"""A learning rate for each arm of a study: every rate is tried with every arm, then they compare.

Notable:
- The runs that choose have a seed that no comparison has, and are judged on validation text. So
  nothing that is compared was chosen by its luck.
- They train for the whole length of the study, each with its whole schedule: the best rate of a
  short run is another one.
- They come first. `--plan` and `--status` list what depends on them under a folder that is still to
  be chosen; workers wait for one another there.

Shapes of types: A key of an arm, K key of a part, T what it gives, R the study's result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lmlab.errors import UserError
from lmlab.progress import Bar, say
from lmlab.results import Result
from lmlab.studies.finished_runs import final_validation, is_there
from lmlab.studies.options import TrainingStudy
from lmlab.studies.parts import Part, make_parts, run_parts
from lmlab.studies.rates import Rates
from lmlab.training.loop import NonFiniteError, train
from lmlab.training.setup import ResolvedRun

A = TypeVar("A")
K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R", bound=Result)

CHOOSING_SEED = 1_000_000
"""What is added to an arm's first seed: more than any comparison or child run has."""
_UNCHOSEN = "its rate is to be chosen"


@dataclass(frozen=True)
class TunedArm:
    """One way to train, whose rate is to be chosen."""

    label: str
    run: Callable[[float], ResolvedRun]
    """Its run at a learning rate, with a seed of its own (`CHOOSING_SEED`)."""


def run_parts_at_best_rates(
    study: str,
    config: TrainingStudy,
    arms: Mapping[A, TunedArm],
    parts: Callable[[Mapping[A, float | None]], Mapping[K, Part[T]]],
    kind: type[R],
    result: Callable[[dict[K, T], dict[A, Rates]], R],
    *,
    out: Path,
    further: float = 0.0,
    worker: bool,
) -> R:
    """As `studies.parts.run_parts`, after a learning rate of `config.learning_rates` is chosen for
    each arm, where it has any.

    `parts` are made at a rate for each arm, None for the study's own; `further` counts the tokens
    of child runs and scoring that follow. `result` gets the rates as well, none where nothing was
    chosen. Raises `UserError` for an arm that breaks off with every rate, and as `run_parts`.
    """
    rates = config.learning_rates
    if not rates:
        usual = parts(dict.fromkeys(arms))
        return run_parts(
            study, usual, kind, lambda made: result(made, {}),
            out=out, work=_tokens(usual) + further, worker=worker,
        )  # fmt: skip
    tried = {(key, rate): _trial(arm, rate) for key, arm in arms.items() for rate in rates}
    if all(is_there(part.run) for part in tried.values()):
        ends = {each: final_validation(part.run) for each, part in tried.items()}
    else:
        later = parts(dict.fromkeys(arms, rates[0]))
        ends = make_parts(
            study, tried, out=out, work=_tokens(tried) + _tokens(later) + further, worker=worker,
            later=[_unchosen(part) for part in later.values()], wait=True,
        )  # fmt: skip
    found = {key: _rates(arm, key, tried, ends, rates) for key, arm in arms.items()}
    say(f"{study}: {'; '.join(f'{arms[key].label} {f.best:g}' for key, f in found.items())}")
    chosen = parts({key: each.best for key, each in found.items()})
    both: dict[Any, Part[Any]] = {
        **{("rate", each): part for each, part in tried.items()},
        **{("part", key): part for key, part in chosen.items()},
    }
    return run_parts(
        study, both, kind, lambda made: result({key: made["part", key] for key in chosen}, found),
        out=out, work=_tokens(both) + further, worker=worker,
    )  # fmt: skip


def trained_end(run: ResolvedRun, label: str, bar: Bar) -> float | None:
    """Trains a run, or reads what is there: its last loss on validation text; None where its loss
    or gradient was no longer a number."""
    try:
        return final_validation(train(run, bar=bar, note=f"{label},"))
    except NonFiniteError as error:
        say(f"{label} broke off: {error}")
        return None


def _tokens(parts: Mapping[Any, Part[Any]]) -> float:
    return float(sum(part.run.tokens for part in parts.values()))


def _trial(arm: TunedArm, rate: float) -> Part[float | None]:
    run, label = arm.run(rate), f"to choose a rate: {arm.label}, {rate:g}"
    return Part(label, run, partial(trained_end, run, label))


def _unchosen(part: Part[Any]) -> Part[Any]:
    """A part that is to come, in a folder that no run has."""
    run = part.run
    nowhere = run.path.with_name(_UNCHOSEN)
    return replace(part, run=replace(run, config=replace(run.config, out=nowhere)))


def _rates(
    arm: TunedArm,
    key: A,
    tried: Mapping[tuple[A, float], Part[Any]],
    ends: Mapping[tuple[A, float], float | None],
    rates: Sequence[float],
) -> Rates:
    validation = tuple((rate, ends[key, rate]) for rate in rates)
    if not any(nats is not None and math.isfinite(nats) for _, nats in validation):
        listed = ", ".join(f"{rate:g}" for rate in rates)
        raise UserError(f"{arm.label}: no finite loss with any of the rates {listed}; try smaller")
    return Rates(
        validation,
        seed=tried[key, rates[0]].run.config.seed,
        runs=tuple(tried[key, rate].name for rate in rates),
    )
