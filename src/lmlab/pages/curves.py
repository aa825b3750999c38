"""Plots of y against x: curves with bands, and clouds of points.

Notable:
- The legend is not in the drawing but in the page, where long labels can wrap.
- The label of the vertical axis lies above it, so nobody has to turn their head.
- A horizontal line (a floor, chance) carries its label in the plot, at the place where it covers
  the least of the data.
- Pointed at, a curve's plot tells the values of all curves there, a point its name and place. The
  named points that lie farthest from all have their names in the plot.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from lmlab.numerics.random_effects import Interval
from lmlab.pages.checks import check_numbers, fail
from lmlab.pages.drawing import (
    SIZE,
    SMALL,
    UNSEEN,
    WIDTH,
    Sheet,
    fitting_ticks,
    horizontal_axis,
    horizontal_axis_height,
    limits,
    line_height,
    place,
    sheet_settings,
    text_width,
    ticks,
    wrap,
)
from lmlab.pages.page import Figure, LegendEntry, Table
from lmlab.pages.text import number, one_line, short_float, tick_labels
from lmlab.pages.theme import SERIES_COLOURS, marker

MOST_POINTS = 4000  # of a scatter plot; each is an element of the page
_PLOT_HEIGHT = 165.0
_RIGHT = 10.0  # room for half of the last tick label
_STRIPS = 32  # places across a plot of curves that tell their values
_NAMED = 6  # points of a scatter plot that have their names beside them


@dataclass(frozen=True)
class Series:
    """A curve, with a band where `low` and `high` are given. Same label: one legend entry."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: int = 0
    dashed: bool = False

    @classmethod
    def of(
        cls, label: str, x: Sequence[float], values: Sequence[Interval], *, colour: int = 0
    ) -> Series:
        """Measured values, with a band of their intervals where all have one."""
        bounds = [value.bounds for value in values if value.bounds is not None]
        low, high = zip(*bounds, strict=True) if len(bounds) == len(values) else (None, None)
        return cls(label, x, [value.estimate for value in values], low, high, colour)


@dataclass(frozen=True)
class Points:
    """A cloud of points of one colour, with a name each or none; the colour decides the shape."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    names: Sequence[str] = ()


@dataclass(frozen=True)
class _Plot:
    """What both kinds of plot have in common."""

    x_label: str
    y_label: str
    log_x: bool
    log_y: bool
    horizontal: Sequence[tuple[str, float]]


def line_plot(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    finding: str,
    alt: str,
    caption: str = "",
    log_x: bool = False,
    log_y: bool = False,
    horizontal: Sequence[tuple[str, float]] = (),
    from_zero: bool = False,
) -> Figure:
    """Curves, with bands where given; `horizontal` are labelled lines across (floors, chance).
    `from_zero`: y has room for zero, for amounts that are compared by their ratio.

    Raises `UserError` for an empty series, and for numbers that an axis cannot show.
    """
    plot = _Plot(x_label, y_label, log_x, log_y, horizontal)
    assert series, "a figure shows something"
    for s in series:
        _check(finding, plot, s)
        assert (s.low is None) == (s.high is None), "a band has two sides"
        for side, values in (("low", s.low), ("high", s.high)):
            assert values is None or len(values) == len(s.x)
            check_numbers(finding, f"{side} of '{s.label}'", values or (), positive=log_y)

    names = [s.label for s in series]

    def draw(sheet: Sheet, axes: Axes) -> None:
        for s in series:
            colour = marker(f"c{s.colour}")
            if s.low is not None and s.high is not None:
                axes.fill_between(s.x, s.low, s.high, color=colour, alpha=0.2, linewidth=0)
                if len(s.x) == 1:  # a band of no width is not seen
                    axes.vlines(s.x, s.low, s.high, color=colour, alpha=0.4, linewidth=4)
            axes.plot(
                s.x,
                s.y,
                color=colour,
                # Several seeds of one kind are thin, so that the kinds stay apart.
                linewidth=1.1 if names.count(s.label) > 1 else 1.8,
                linestyle=(0, (4.0, 2.5)) if s.dashed else "-",
                marker="o" if len(s.x) == 1 else "",
                markersize=5,
            )
        _tell_values(sheet, axes, plot, series)

    legend = [
        LegendEntry(s.label, f"c{s.colour}", "M0 6H26", dash="6 4" if s.dashed else "")
        for s in series
    ]
    bands = [v for s in series for side in (s.low, s.high) if side is not None for v in side]
    drawing = _drawing(plot, series, draw, [*bands, *([0.0] if from_zero else [])])
    with_bands = any(s.low is not None for s in series)
    rows = [
        [s.label, *map(short_float, values)]
        for s in series
        for values in zip(
            s.x, s.y, *([s.low or s.y, s.high or s.y] if with_bands else []), strict=True
        )
    ]
    columns = ["curve", plot.x_label, plot.y_label, *(["low", "high"] if with_bands else [])]
    data = Table(columns, rows, finding)
    return Figure(finding, drawing, alt, caption, _distinct(legend), data)


# Marker of a colour: matplotlib's name, and the path of its sample in the legend.
_SHAPES = (
    ("o", "M13 2a4 4 0 1 0 .01 0Z"),
    ("^", "M13 1.5L17.5 10H8.5Z"),
    ("s", "M9.5 2.5h7v7h-7Z"),
    ("D", "M13 1l5 5l-5 5l-5 -5Z"),
    ("v", "M13 10.5L17.5 2H8.5Z"),
    ("P", "M11.5 1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z"),
)


def scatter_plot(
    groups: Sequence[Points],
    *,
    x_label: str,
    y_label: str,
    finding: str,
    alt: str,
    caption: str = "",
    log_x: bool = False,
    log_y: bool = False,
    horizontal: Sequence[tuple[str, float]] = (),
) -> Figure:
    """Points of several groups, told apart by colour and shape; where points have names, all have.

    Raises `UserError` as `line_plot` does, and for more than `MOST_POINTS` points.
    """
    plot = _Plot(x_label, y_label, log_x, log_y, horizontal)
    assert groups, "a figure shows something"
    for group in groups:
        _check(finding, plot, group)
        assert len(group.names) == (len(group.x) if groups[0].names else 0)
    total = sum(len(group.x) for group in groups)
    if total > MOST_POINTS:
        fail(finding, f"{total:,} points are too many for a page; draw {MOST_POINTS:,} of them")
    few = total < 300

    def draw(sheet: Sheet, axes: Axes) -> None:
        for group in groups:
            (points,) = axes.plot(
                group.x,
                group.y,
                linestyle="",
                marker=_SHAPES[group.colour][0],
                markersize=4.5 if few else 3,
                markeredgewidth=0,
                color=marker(f"c{group.colour}"),
                alpha=0.8 if few else 0.5,
            )
            names = group.names or [group.label] * len(group.x)
            sheet.tell(
                points,
                [
                    f"{one_line(name)}: {number(x, 3)}, {number(y, 3)}"
                    for name, x, y in zip(names, group.x, group.y, strict=True)
                ],
            )

    legend = [
        LegendEntry(group.label, f"c{group.colour}", _SHAPES[group.colour][1], filled=True)
        for group in groups
    ]
    drawing = _drawing(plot, groups, draw, [])
    named = bool(groups[0].names)
    rows = [
        [group.label, *([group.names[i]] if named else []), *map(short_float, xy)]
        for group in groups
        for i, xy in enumerate(zip(group.x, group.y, strict=True))
    ]
    data = Table(["group", *(["name"] if named else []), x_label, y_label], rows, finding)
    return Figure(finding, drawing, alt, caption, _distinct(legend), data)


def _check(finding: str, plot: _Plot, data: Series | Points) -> None:
    name = data.label
    if len(data.x) == 0:
        fail(finding, f"series '{name}' is empty; leave it out")
    assert len(data.x) == len(data.y)
    check_numbers(finding, f"x of '{name}'", data.x, positive=plot.log_x)
    check_numbers(finding, f"y of '{name}'", data.y, positive=plot.log_y)
    if not 0 <= data.colour < SERIES_COLOURS:
        there = f"there are 0 to {SERIES_COLOURS - 1}"
        fail(finding, f"'{name}' asks for colour {data.colour}; {there}. Split the figure in two")
    for label, value in plot.horizontal:
        check_numbers(finding, f"the line '{label}'", [value], positive=plot.log_y)


def _distinct(legend: Sequence[LegendEntry]) -> tuple[LegendEntry, ...]:
    return tuple(dict.fromkeys(entry for entry in legend if entry.label))


def _tell_values(sheet: Sheet, axes: Axes, plot: _Plot, series: Sequence[Series]) -> None:
    """Puts strips over the plot that tell the values of all curves there: one for each x, or for
    the middlemost of those that are near."""
    ends = axes.get_xlim()

    def across(x: float) -> float:
        return place(x, *ends, log=plot.log_x)

    chosen: dict[int, float] = {}
    for x in sorted({float(x) for s in series for x in s.x}):
        strip = int(across(x) * _STRIPS)
        off = abs(across(x) * _STRIPS - strip - 0.5)
        if strip not in chosen or off < abs(across(chosen[strip]) * _STRIPS - strip - 0.5):
            chosen[strip] = x
    half = 0.5 / _STRIPS
    near: dict[float, dict[str, list[str]]] = {x: defaultdict(list) for x in chosen.values()}
    for s in series:
        places = np.array([across(x) for x in s.x])
        for x, lines in near.items():
            nearest = int(np.abs(places - across(x)).argmin())
            if abs(places[nearest] - across(x)) <= half:
                text = number(s.y[nearest])
                if s.low is not None and s.high is not None:
                    text += f" [{number(s.low[nearest])}, {number(s.high[nearest])}]"
                lines[s.label].append(text)
    what = re.split(r"[(:,;]", one_line(plot.x_label))[0].strip()
    width = half * axes.get_position().width * sheet.width
    (strips,) = axes.plot(
        [across(x) for x in near],
        [0.5] * len(near),
        transform=axes.transAxes,
        linestyle="",
        marker=[(i * width, j * _PLOT_HEIGHT / 2) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))],
        markersize=_PLOT_HEIGHT,
        markeredgewidth=0,
        color=marker("ink"),
        alpha=UNSEEN,
        zorder=9,
    )
    texts = [
        "\n".join([f"{what} {_whole(x)}", *(f"{k}: {', '.join(v)}" for k, v in lines.items())])
        for x, lines in near.items()
    ]
    sheet.tell(strips, texts, strip=True)


def _whole(x: float) -> str:
    return f"{x:,.0f}" if x == round(x) and abs(x) < 1e12 else number(x)


def _name_farthest(
    sheet: Sheet, data: Sequence[Points], x_y: np.ndarray, edge: float
) -> list[np.ndarray]:
    """Writes the names of the points farthest from all, by the Mahalanobis distance of their places
    on the sheet, as far as there is room right of `edge`; returns what they cover."""
    names = [name for group in data for name in group.names]
    if not names or len(names) < 3:
        return []
    off_N2 = x_y - x_y.mean(0)
    distance_N = np.einsum("nd,de,ne->n", off_N2, np.linalg.pinv(np.cov(off_N2.T)), off_N2)
    boxes: list[tuple[float, float, float, float]] = []
    for n in np.argsort(-distance_N, kind="stable")[:_NAMED]:
        text = _shortened(names[n])
        wide, (x, y) = text_width(text, SMALL), x_y[n]
        for left in (x + 5, x - 5 - wide):
            box = (left, left + wide, y - SMALL * 0.6, y + SMALL * 0.6)
            free = all(
                box[0] > b[1] or box[1] < b[0] or box[2] > b[3] or box[3] < b[2] for b in boxes
            )
            if free and left > edge and left + wide < sheet.width:
                boxes.append(box)
                sheet.text(left, y + SMALL * 0.36, text, size=SMALL, halo=True)
                break
    return [_along([a, b], [(c + d) / 2] * 2) for a, b, c, d in boxes]


def _shortened(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= 20 else name[:19] + "…"


def _drawing(
    plot: _Plot,
    data: Sequence[Series] | Sequence[Points],
    draw: Callable[[Sheet, Axes], None],
    more_y: Sequence[float],
) -> str:
    """The drawing; `more_y` are values of y to have room for besides."""
    all_x = [float(v) for d in data for v in d.x]
    all_y = [float(v) for d in data for v in d.y]
    all_y += [float(v) for v in more_y] + [value for _, value in plot.horizontal]
    x_limits = limits(all_x, log=plot.log_x, margin=0.02)
    # A line at the very top or bottom needs room for its label.
    y_limits = limits(all_y, log=plot.log_y, margin=0.1 if plot.horizontal else 0.05)
    with sheet_settings():
        return _sheet(plot, data, draw, x_limits, y_limits).svg()


def _sheet(
    plot: _Plot,
    data: Sequence[Series] | Sequence[Points],
    draw: Callable[[Sheet, Axes], None],
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
) -> Sheet:
    y_values = ticks(*y_limits, log=plot.log_y, most=8)
    y_texts = tick_labels(y_values, log=plot.log_y)
    y_lines = wrap(plot.y_label, SIZE, WIDTH)
    left = max((text_width(text, SMALL) for text in y_texts), default=0) + 7
    top = len(y_lines) * line_height(SIZE) + 8
    width = WIDTH - left - _RIGHT
    bottom = top + _PLOT_HEIGHT
    x_values, x_texts = fitting_ticks(*x_limits, log=plot.log_x, width=width, room=(left, _RIGHT))

    sheet = Sheet(bottom + horizontal_axis_height(plot.x_label, width))
    axes = sheet.axes(left, top, width, _PLOT_HEIGHT)
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    axes.set(xlim=x_limits, ylim=y_limits)
    axes.yaxis.set_major_locator(FixedLocator(y_values))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.grid(axis="y", color=marker("rule"), linewidth=0.8)
    axes.set_axisbelow(True)
    sheet.lines(0, SIZE, y_lines)
    for value, text in zip(y_values, y_texts, strict=True):
        height = place(value, *y_limits, log=plot.log_y) * _PLOT_HEIGHT
        sheet.text(
            left - 7,
            bottom - height + SMALL * 0.36,
            text,
            size=SMALL,
            colour="muted",
            align="right",
        )
    horizontal_axis(
        sheet,
        axes,
        plot.x_label,
        left=left,
        width=width,
        bottom=bottom,
        values=x_values,
        labels=x_texts,
    )
    draw(sheet, axes)
    _labels(sheet, axes, plot, data, left, top, width)
    return sheet


def _labels(
    sheet: Sheet,
    axes: Axes,
    plot: _Plot,
    data: Sequence[Series] | Sequence[Points],
    left: float,
    top: float,
    width: float,
) -> None:
    """Names the farthest points and draws the labelled lines; each label goes where it covers the
    least of everything else."""
    bottom = top + _PLOT_HEIGHT

    def across(values: Sequence[float]) -> list[float]:
        return [left + width * place(v, *axes.get_xlim(), log=plot.log_x) for v in values]

    def down(values: Sequence[float]) -> list[float]:
        return [bottom - _PLOT_HEIGHT * place(v, *axes.get_ylim(), log=plot.log_y) for v in values]

    heights = down([value for _, value in plot.horizontal])
    taken = [
        _along(across(d.x), down(d.y))
        if isinstance(d, Series)
        else np.array([across(d.x), down(d.y)]).T
        for d in data
    ]
    if points := [d for d in data if isinstance(d, Points)]:
        taken += _name_farthest(sheet, points, np.concatenate(taken), left)
    taken += [_along([left, left + width], [y, y]) for y in heights]
    for (label, value), y in zip(plot.horizontal, heights, strict=True):
        axes.axhline(value, color=marker("muted"), linewidth=1.1, linestyle=(0, (1.5, 2)), zorder=1)
        lines = wrap(label, SMALL, width - 8)
        length = max((text_width(line, SMALL) for line in lines), default=0)
        tall = len(lines) * line_height(SMALL)
        obstacles = np.concatenate(taken)
        candidates = []
        for upper in (y - 2 - tall, y + 2):
            for x in (left + width - 4 - length, left + 4, left + (width - length) / 2):
                inside = (
                    (obstacles[:, 0] > x - 3)
                    & (obstacles[:, 0] < x + length + 3)
                    & (obstacles[:, 1] > upper)
                    & (obstacles[:, 1] < upper + tall)
                )
                outside = upper < top or upper + tall > bottom
                candidates.append((outside, int(inside.sum()), len(candidates), x, upper))
        *_, x, upper = min(candidates)
        for i, line in enumerate(lines):
            baseline = upper + (i + 0.8) * line_height(SMALL)
            sheet.text(x, baseline, line, size=SMALL, colour="muted", halo=True)
            taken.append(_along([x, x + text_width(line, SMALL)], [baseline - 3, baseline - 3]))


def _along(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """Points on the line through the given ones, close enough that none jumps over a label."""
    position = np.linspace(0, len(x) - 1, max(400, 4 * len(x)))
    at = np.arange(len(x))
    return np.array([np.interp(position, at, x), np.interp(position, at, y)]).T
