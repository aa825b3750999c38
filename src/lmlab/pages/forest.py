"""The forest plot: estimates below one another, each with its interval.

Notable:
- The wide form has three columns: label, interval, estimate as text. The narrow form gives the
  interval the whole width, below its label and estimate.
- The height follows from the rows; labels and notes wrap.
- Ratios and factors belong on a logarithmic axis, where 2 and 1/2 are as far from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmlab.numerics import random_effects
from lmlab.pages.checks import check_numbers
from lmlab.pages.drawing import (
    NARROW,
    SIZE,
    SMALL,
    WIDE,
    Sheet,
    fitting_ticks,
    horizontal_axis,
    horizontal_axis_height,
    label,
    limits,
    line_height,
    sheet_settings,
    text_width,
    wrap,
)
from lmlab.pages.page import Figure
from lmlab.pages.text import estimates
from lmlab.pages.theme import marker

_GAP = 16.0  # between columns


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, or without one and a `note` that says why.

    Rows that follow one another with the same `group` stand under that heading.
    """

    label: str
    estimate: float
    low: float | None
    high: float | None
    note: str = ""
    group: str = ""
    summary: bool = False
    """Of other rows: drawn as a diamond as wide as its interval."""

    @classmethod
    def of(
        cls,
        label: str,
        value: random_effects.Interval,
        *,
        note: str | None = None,
        group: str = "",
        show: Callable[[float], float] = float,
    ) -> Interval:
        """The row of a measured value in the unit that `show` gives; without an interval it says
        why, unless there is a `note`."""
        low, high = map(show, value.bounds) if value.bounds else (None, None)
        why = "" if value.bounds else value.note
        return cls(label, show(value.estimate), low, high, why if note is None else note, group)


@dataclass(frozen=True)
class _Axis:
    """The scale that all rows share."""

    label: str
    reference: float | None
    log: bool


@dataclass(frozen=True)
class _Row:
    """The texts of a row, in lines."""

    estimate: str
    interval: str
    label_lines: list[str]
    note_lines: list[str]
    heading_lines: list[str]


def forest_plot(
    rows: Sequence[Interval],
    *,
    x_label: str,
    finding: str,
    alt: str,
    caption: str = "",
    reference: float | None = 0.0,
    log: bool = False,
) -> Figure:
    """Estimates below one another, each with its interval; `reference` is a vertical line.

    An estimate without interval is a hollow point. With `log` the axis is logarithmic; the
    reference of a ratio is 1.

    Raises `UserError` for numbers that are not finite, or with `log` not positive.
    """
    assert rows, "a figure shows something"
    for row in rows:
        assert (row.low is None) == (row.high is None), "an interval has two ends"
        ends = [] if row.low is None or row.high is None else [row.low, row.high]
        check_numbers(finding, f"row '{row.label}'", [row.estimate, *ends], positive=log)
        assert ends == sorted(ends)
    lines = [] if reference is None else [reference]
    check_numbers(finding, "the reference", lines, positive=log)
    axis = _Axis(x_label, reference, log)
    with sheet_settings():
        return Figure(
            finding=finding,
            svg_wide=_forest_wide(rows, axis),
            svg_narrow=_forest_narrow(rows, axis),
            alt=alt,
            caption=caption,
        )


def _forest_rows(rows: Sequence[Interval], width: float, *, log: bool) -> list[_Row]:
    shown = estimates([(row.estimate, row.low, row.high) for row in rows], alike=not log)
    laid_out = []
    group = ""
    for row, (estimate, interval) in zip(rows, shown, strict=True):
        heading = row.group if row.group != group else ""
        group = row.group
        laid_out.append(
            _Row(
                estimate,
                interval,
                wrap(row.label, SIZE, width),
                wrap(row.note, SMALL, width),
                wrap(heading, SIZE, width, bold=True),
            )
        )
    return laid_out


def _forest_wide(rows: Sequence[Interval], axis: _Axis) -> str:
    """Columns: label, interval, and estimate with interval as text."""
    longest = max(
        [text_width(label(row.label), SIZE) for row in rows]
        + [text_width(label(row.note), SMALL) for row in rows]
        + [text_width(label(row.group), SIZE, bold=True) for row in rows]
    )
    label_width = min(longest, 170.0) + 1
    laid_out = _forest_rows(rows, label_width, log=axis.log)
    estimate_width, interval_width = _numbers_widths(laid_out)
    head = "estimate [interval]" if interval_width else "estimate"
    numbers_width = max(estimate_width + interval_width, text_width(head, SMALL))
    left = label_width + _GAP
    width = WIDE - left - _GAP - numbers_width

    y = line_height(SMALL) + 4
    top = y
    places = []
    for row in laid_out:
        heading = len(row.heading_lines) * line_height(SIZE)
        y += heading + (8 if heading else 0)
        texts = len(row.label_lines) * line_height(SIZE)
        texts += len(row.note_lines) * line_height(SMALL)
        places.append((y, texts))
        y += texts + 9
    sheet = Sheet(WIDE, y + 4 + horizontal_axis_height(axis.label, width))
    sheet.text(WIDE, SMALL, head, size=SMALL, colour="muted", align="right")
    centres = []
    for row, (start, texts) in zip(laid_out, places, strict=True):
        _heading(sheet, row, start)
        below = sheet.lines(0, start + SIZE, row.label_lines)
        sheet.lines(0, below - SIZE + SMALL, row.note_lines, size=SMALL, colour="muted")
        centre = start + texts / 2
        centres.append(centre)
        _numbers(sheet, row, WIDE, interval_width, centre + SIZE * 0.36)
    _intervals(sheet, rows, centres, axis, [(top, y + 4)], left, width, y + 4)
    return sheet.svg()


def _forest_narrow(rows: Sequence[Interval], axis: _Axis) -> str:
    """One column: label and estimate on a line where both fit, the interval below them."""
    laid_out = _forest_rows(rows, NARROW, log=axis.log)
    estimate_width, interval_width = _numbers_widths(laid_out)
    y = 0.0
    places = []
    for row in laid_out:
        y += len(row.heading_lines) * line_height(SIZE) + (8 if row.heading_lines else 0)
        last = row.label_lines[-1] if row.label_lines else ""
        beside = text_width(last, SIZE) + 8 + estimate_width + interval_width <= NARROW
        texts = (len(row.label_lines) + (not beside)) * line_height(SIZE)
        texts += len(row.note_lines) * line_height(SMALL)
        places.append((y, beside, y + texts + 10))
        y += texts + 27
    sheet = Sheet(NARROW, y + horizontal_axis_height(axis.label, NARROW))
    for row, (start, beside, _) in zip(laid_out, places, strict=True):
        _heading(sheet, row, start)
        below = sheet.lines(0, start + SIZE, row.label_lines)
        if not beside:
            below += line_height(SIZE)
        _numbers(sheet, row, NARROW, interval_width, below - line_height(SIZE))
        sheet.lines(0, below - SIZE + SMALL, row.note_lines, size=SMALL, colour="muted")
    centres = [centre for *_, centre in places]
    # The reference line is interrupted where it would cross the texts.
    pieces = [(centre - 7, centre + 7) for centre in centres[:-1]] + [(centres[-1] - 7, y)]
    _intervals(sheet, rows, centres, axis, pieces, 0, NARROW, y)
    return sheet.svg()


def _heading(sheet: Sheet, row: _Row, start: float) -> None:
    """The heading's lines, above the row that begins at `start`."""
    above = (len(row.heading_lines) - 1) * line_height(SIZE)
    sheet.lines(0, start - 4 - above, row.heading_lines, bold=True)


def _numbers_widths(rows: Sequence[_Row]) -> tuple[float, float]:
    """Widths of the columns of estimates and of intervals; the latter with its gap, or 0."""
    estimate = max(text_width(row.estimate, SIZE) for row in rows)
    interval = max(text_width(row.interval, SIZE) for row in rows)
    return estimate, interval + 6 if interval else 0.0


def _numbers(sheet: Sheet, row: _Row, right: float, interval_width: float, baseline: float) -> None:
    sheet.text(right - interval_width, baseline, row.estimate, align="right")
    sheet.text(right, baseline, row.interval, align="right")


def _intervals(
    sheet: Sheet,
    rows: Sequence[Interval],
    centres: Sequence[float],
    axis: _Axis,
    reference_pieces: Sequence[tuple[float, float]],
    left: float,
    width: float,
    bottom: float,
) -> None:
    """The part of a forest plot that has a scale; all heights are those on the sheet."""
    ends = [v for row in rows for v in (row.estimate, row.low, row.high, axis.reference)]
    low, high = limits([v for v in ends if v is not None], log=axis.log, margin=0.08)
    axes = sheet.axes(left, 0, width, bottom)
    axes.set_xscale("log" if axis.log else "linear")
    axes.set(xlim=(low, high), ylim=(bottom, 0), yticks=[])
    # A tick label may stick out as far as it has a column or nothing beside it.
    room = (min(left, _GAP), min(sheet.width - left - width, _GAP))
    values, labels = fitting_ticks(low, high, log=axis.log, width=width, room=room)
    horizontal_axis(
        sheet, axes, axis.label, left=left, width=width, bottom=bottom, values=values, labels=labels
    )
    if axis.reference is not None:
        for piece in reference_pieces:
            axes.plot([axis.reference] * 2, piece, color=marker("muted"), linewidth=1, zorder=1)
    for row, y in zip(rows, centres, strict=True):
        if row.summary and row.low is not None and row.high is not None:
            corners = [row.low, row.estimate, row.high, row.estimate]
            axes.fill(corners, [y, y - 6, y, y + 6], color=marker("c0"), linewidth=0, zorder=3)
            continue
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [y, y], color=marker("c0"), linewidth=2.2, zorder=2)
        axes.plot(
            [row.estimate],
            [y],
            marker="o",
            markersize=6.5,
            color=marker("c0"),
            markeredgewidth=1.6,
            markerfacecolor=marker("paper" if row.low is None else "c0"),
            zorder=3,
            clip_on=False,
        )
