"""Figures of a tuning: the loss along each option that was tried."""

from __future__ import annotations

import math

import numpy as np

from lmlab.pages.figures import ForestRow, Series, forest_plot, line_plot
from lmlab.pages.page import Figure
from lmlab.pages.theme import SERIES_COLOURS
from lmlab.topics.tuning.options import axis_text, setting_text, value_text
from lmlab.topics.tuning.tables import is_numeric, nats, seeds_text
from lmlab.topics.tuning.tuning import Setting, Tuning

_LOG_RATIO = 3.0
"""Least ratio of the ends for a logarithmic axis."""


def axis_figures(result: Tuning) -> list[Figure]:
    """A figure for each option with several values: a curve for numbers, else a row for each."""
    axes = enumerate(result.config.over.items())
    return [
        _curve(result, axis, name) if is_numeric(values) else _rows(result, axis, name)
        for axis, (name, values) in axes
        if len(values) > 1
    ]


def spaced_as_ratios(values: tuple[float, ...]) -> bool:
    """Whether a logarithmic axis suits: their ratios are more alike than their differences."""
    if min(values) <= 0 or max(values) < _LOG_RATIO * min(values):
        return False

    def unlike(numbers: list[float]) -> float:
        gaps = np.diff(numbers)
        return float(gaps.std() / gaps.mean())

    rising = sorted(values)
    return unlike([math.log(v) for v in rising]) <= unlike(rising)


def _curve(result: Tuning, axis: int, name: str) -> Figure:
    lines = _lines(result, axis)
    series = []
    for colour, (label, settings) in enumerate(lines):
        points = sorted(
            (result.values(each)[name], mean) for each in settings if (mean := each.rungs[0].mean)
        )
        if points:
            x, means = zip(*points, strict=True)
            series.append(Series.of(label, x, means, colour=colour))
    broke_off = [each.label for _, line in lines for each in line if each.rungs[0].mean is None]
    caption = _caption(result) + (f" Broke off: {'; '.join(broke_off)}." if broke_off else "")
    return line_plot(
        series,
        x_label=axis_text(name),
        y_label="validation loss, nats per token",
        log_x=spaced_as_ratios(result.config.over[name]),
        finding=_finding(result, axis, name),
        alt=f"Validation loss against {axis_text(name)}, with intervals.",
        caption=caption,
    )


def _rows(result: Tuning, axis: int, name: str) -> Figure:
    rows = [
        ForestRow.of(value_text(result.values(each)[name]), mean, group=label)
        for label, settings in _lines(result, axis)
        for each in settings
        if (mean := each.rungs[0].mean)
    ]
    return forest_plot(
        rows,
        x_label="validation loss, nats per token",
        finding=_finding(result, axis, name),
        alt=f"Validation loss for each {axis_text(name)}, with intervals.",
        caption=_caption(result),
        reference=None,
    )


def _lines(result: Tuning, axis: int) -> list[tuple[str, list[Setting]]]:
    """The settings along an axis, all others held: for every value of those, or where these are too
    many for one figure, for the best setting's."""
    groups: dict[tuple[int, ...], list[Setting]] = {}
    for setting in result.settings:
        groups.setdefault(setting.at[:axis] + setting.at[axis + 1 :], []).append(setting)
    if len(groups) > SERIES_COLOURS:
        at = result.best_setting.at
        held = at[:axis] + at[axis + 1 :]
        groups = {held: groups[held]}
    names = list(result.config.over)
    return [
        (
            setting_text({k: v for k, v in result.values(line[0]).items() if k != names[axis]}),
            line,
        )
        for line in groups.values()
    ]


def _finding(result: Tuning, axis: int, name: str) -> str:
    """Where the line of the best setting is least at the length that the figure shows."""
    at = result.best_setting.at
    line = [
        (mean.estimate, setting)
        for setting in result.settings
        if setting.at[:axis] + setting.at[axis + 1 :] == at[:axis] + at[axis + 1 :]
        and (mean := setting.rungs[0].mean)
    ]
    loss, best = min(line, key=lambda each: each[0])
    held = setting_text({k: v for k, v in result.best.items() if k != name})
    steps = f" after {best.rungs[0].steps:,} steps" if result.config.halving else ""
    return (
        f"{axis_text(name).capitalize()}{f', at {held}' if held else ''}: the least mean loss"
        f"{steps}, {nats(loss)} nats per token, is at {value_text(result.values(best)[name])}."
    )


def _caption(result: Tuning) -> str:
    bands = (
        "One run each." if result.config.seeds == 1
        else f"Means of {seeds_text(result)}; bands: 95 % intervals over seeds, each for its "
        "setting alone; the table has the differences, paired by seed."
    )  # fmt: skip
    if result.config.halving:
        bands += " All settings at the shortest length; the order at full length may be another."
    return bands
