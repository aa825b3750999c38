"""Tables of a tuning, and its finding in words. Draws nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from lmlab.numerics.random_effects import Interval
from lmlab.numerics.verdicts import MINIMUM_SEEDS
from lmlab.pages.page import Table
from lmlab.pages.text import Rounded, fixed
from lmlab.pages.wording import bounds_text, capital, signed, with_interval
from lmlab.studies.rates import end_of
from lmlab.topics.tuning.options import axis_text, value_text
from lmlab.topics.tuning.tuning import Setting, Tuning

_DECIMALS = 4
_NAMED = 3
"""So many settings are named in a sentence."""


def tables(result: Tuning) -> list[Table]:
    """Settings, the best first; then every run."""
    return [settings_table(result), runs_table(result)]


def settings_table(result: Tuning) -> Table:
    """Where each setting ended, and by how much above the best."""
    against = {
        result.settings[k].at: (above, p)
        for k, above, p in zip(
            result.compared, result.choice.above, result.choice.p_values, strict=True
        )
    }
    rows = []
    for setting in result.ranked:
        above, p = against.get(setting.at, (None, None))
        last = setting.rungs[-1]
        rows.append(
            [
                *map(_cell, result.values(setting).values()),
                last.steps,
                last.tokens,
                "broke off" if last.mean is None else Rounded(last.mean.estimate, _DECIMALS),
                bounds_text(last.mean and last.mean.bounds, nats),
                _above(result, setting, above),
                "–" if p is None else f"{p:.2g}",
            ]
        )
    return Table(
        [*map(axis_text, result.config.over), "steps", "tokens", "nats per token", "95 % interval",
         "above the best", "p, adjusted"],
        rows,
        f"Validation loss at the end, mean of {seeds_text(result)}; intervals over seeds, each "
        "for itself. Above the best: paired by seed. p is adjusted for the number of settings; "
        "the best of all is among those with p above 0.05, with 95 %.",
    )  # fmt: skip


def runs_table(result: Tuning) -> Table:
    """Every run."""
    return Table(
        ["setting", "seed", "steps", "tokens", "nats per token", "run"],
        [
            [
                setting.label,
                result.config.seed + seed,
                rung.steps,
                rung.tokens,
                "broke off" if nats is None else Rounded(nats, _DECIMALS),
                run,
            ]
            for setting in result.settings
            for rung in setting.rungs
            for seed, (nats, run) in enumerate(zip(rung.nats_per_token, rung.runs, strict=True))
        ],
        "Every run; its folder is in the lab's folder of runs.",
    )


def headline(result: Tuning) -> str:
    """The best setting and how sure that is, in a sentence or two."""
    choice, best = result.choice, result.best_setting
    mean = best.rungs[-1].mean
    assert mean is not None
    ends = f"ends at {with_interval(mean, nats)} nats per token"
    if choice.next is None:
        return f"Only {best.label} came to its end: it {ends}."
    others = [result.settings[k].label for k in result.compared]
    difference = choice.above[choice.next]
    assert difference is not None
    if result.config.seeds == 1:
        return (
            f"Of these runs only, one for each setting, {best.label} has the least loss: "
            f"{nats(mean.estimate)} nats per token. The next, {others[choice.next]}, is "
            f"{nats(difference.estimate)} above it. Other seeds may put them in another order."
        )
    gap = (
        f"The next, {others[choice.next]}, is {with_interval(difference, nats)} above it, paired "
        f"by seed; p = {choice.p_value:.2g} for the least certain of all comparisons."
    )
    of_all = f" of the {len(others)} at full length" if result.config.halving else ""
    if left := len(result.settings) - len(others) if of_all else 0:
        gap += f" {left} more were left out after shorter runs, and are not known to be worse."
    if not choice.is_shown:
        named = "; ".join(others[k] for k in choice.as_good[:_NAMED])
        more = len(choice.as_good) - _NAMED
        return (
            f"Which setting{of_all} is best is not decided by {seeds_text(result)}: {best.label} "
            f"has the least mean, and {ends}; {len(choice.as_good)} of {len(others) - 1} others "
            f"may be better ({named}{f' and {more} more' if more > 0 else ''}). {gap}"
        )
    if result.config.seeds < MINIMUM_SEEDS:
        return f"For these {seeds_text(result)}, {best.label} is best{of_all}: it {ends}. {gap}"
    return f"{capital(best.label)} is best{of_all}: it {ends}. {gap}"


def edges(result: Tuning) -> str:
    """What a best value at the end of those tried means; empty where there is none."""
    at_end = []
    for (name, values), i in zip(result.config.over.items(), result.best_setting.at, strict=True):
        if is_numeric(values) and (which := end_of(values, values[i])):
            at_end.append(f"{axis_text(name)} {value_text(values[i])} is the {which} tried")
    if not at_end:
        return ""
    return f"{capital('; '.join(at_end))}: the least loss may lie beyond."


def unequal_lengths(result: Tuning) -> str:
    """That settings were trained on different amounts of text; empty where they were not."""
    tokens = sorted(
        each.rungs[-1].tokens for each in map(result.settings.__getitem__, result.compared)
    )
    if tokens[0] == tokens[-1]:
        return ""
    return (
        f"These settings were trained on {tokens[0]:,} to {tokens[-1]:,} tokens; with tokens in "
        "place of steps all get the same."
    )


def is_numeric(values: tuple[Any, ...]) -> bool:
    """Whether an axis can show them."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def seeds_text(result: Tuning) -> str:
    """ "3 seeds"."""
    n = result.config.seeds
    return f"{n} seed{'s' if n > 1 else ''}"


def nats(value: float) -> str:
    """A loss as text."""
    return fixed(value, _DECIMALS)


def _cell(value: Any) -> str | float | int:
    if isinstance(value, float):  # as it was typed
        exponent = Decimal(value_text(value)).as_tuple().exponent
        return Rounded(value, max(0, -int(exponent)))
    return value if is_numeric((value,)) else value_text(value)


def _above(result: Tuning, setting: Setting, above: Interval | None) -> str:
    if above is not None:
        bounds = "" if above.bounds is None else f" {bounds_text(above.bounds, nats)}"
        return f"{signed(above.estimate, _DECIMALS)}{bounds}"
    if setting is result.best_setting:
        return "the best"
    return "not compared"
