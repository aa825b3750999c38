"""The forest plot: estimates below one another, each with its interval.

Notable:
- An interval has the whole width, below its label and its estimate as text.
- The height follows from the rows; labels and notes wrap.
- Ratios and factors belong on a logarithmic axis, where 2 and 1/2 are as far from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lmlab.numerics import random_effects
from lmlab.pages.checks import check_numbers
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
    sheet_settings,
    text_width,
    wrap,
)
from lmlab.pages.page import Figure, Table
from lmlab.pages.text import estimates, one_line, short_float
from lmlab.pages.theme import marker

_BELOW = 11.0  # from the texts of a row to the middle of its interval
_ROW = 23.0  # what a row has beside its texts


@dataclass(frozen=True)
class ForestRow:
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
    ) -> ForestRow:
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
    rows: Sequence[ForestRow],
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
    data = _data(rows, x_label, finding)
    notes = {row.note for row in rows}
    if len(rows) > 1 and len(notes) == 1 and (note := notes.pop()):  # said once, not in every row
        rows = [replace(row, note="") for row in rows]
        caption = f"{caption} Every row: {note}.".lstrip()
    with sheet_settings():
        drawing = _drawing(rows, _Axis(x_label, reference, log))
    return Figure(finding, drawing, alt, caption, data=data)


def _data(rows: Sequence[ForestRow], x_label: str, finding: str) -> Table:
    columns = ["group", "row", x_label, "low", "high", "note"]
    values = [
        [row.group, row.label, *("" if v is None else short_float(v) for v in ends), row.note]
        for row in rows
        for ends in [(row.estimate, row.low, row.high)]
    ]
    return Table(columns, values, finding)


def _laid_out(rows: Sequence[ForestRow], *, log: bool) -> list[_Row]:
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
                wrap(row.label, SIZE, WIDTH),
                wrap(row.note, SMALL, WIDTH),
                wrap(heading, SIZE, WIDTH, bold=True),
            )
        )
    return laid_out


def _drawing(rows: Sequence[ForestRow], axis: _Axis) -> str:
    """Label and estimate on a line where both fit, the interval below them."""
    laid_out = _laid_out(rows, log=axis.log)
    estimate_width, interval_width = _numbers_widths(laid_out)
    y = 0.0
    places = []
    for row in laid_out:
        y += len(row.heading_lines) * line_height(SIZE) + (8 if row.heading_lines else 0)
        last = row.label_lines[-1] if row.label_lines else ""
        beside = text_width(last, SIZE) + 8 + estimate_width + interval_width <= WIDTH
        texts = (len(row.label_lines) + (not beside)) * line_height(SIZE)
        texts += len(row.note_lines) * line_height(SMALL)
        places.append((y, beside, y + texts + _BELOW))
        y += texts + _ROW
    sheet = Sheet(y + horizontal_axis_height(axis.label, WIDTH))
    for row, (start, beside, _) in zip(laid_out, places, strict=True):
        _heading(sheet, row, start)
        below = sheet.lines(0, start + SIZE, row.label_lines)
        if not beside:
            below += line_height(SIZE)
        _numbers(sheet, row, WIDTH, interval_width, below - line_height(SIZE))
        sheet.lines(0, below - SIZE + SMALL, row.note_lines, size=SMALL, colour="muted")
    centres = [centre for *_, centre in places]
    # The reference line is interrupted where it would cross the texts.
    pieces = [(centre - 6, centre + 6) for centre in centres[:-1]] + [(centres[-1] - 6, y)]
    axes = _intervals(sheet, rows, centres, axis, pieces, y)
    for row, texts, (start, _, centre) in zip(rows, laid_out, places, strict=True):
        height = centre + _ROW - _BELOW - start
        across = axes.get_yaxis_transform()
        strip = Rectangle(
            (0, start), 1, height, transform=across, color=marker("ink"), alpha=UNSEEN, linewidth=0
        )
        name = ", ".join(one_line(text) for text in (row.group, row.label) if text)
        value = f"{name}: {texts.estimate} {texts.interval}".rstrip()
        sheet.tell(axes.add_patch(strip), [f"{value}\n{one_line(row.note)}".strip()], strip=True)
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
    rows: Sequence[ForestRow],
    centres: Sequence[float],
    axis: _Axis,
    reference_pieces: Sequence[tuple[float, float]],
    bottom: float,
) -> Axes:
    """The part of a forest plot that has a scale; all heights are those on the sheet."""
    ends = [v for row in rows for v in (row.estimate, row.low, row.high, axis.reference)]
    low, high = limits([v for v in ends if v is not None], log=axis.log, margin=0.08)
    axes = sheet.axes(0, 0, WIDTH, bottom)
    axes.set_xscale("log" if axis.log else "linear")
    axes.set(xlim=(low, high), ylim=(bottom, 0), yticks=[])
    values, labels = fitting_ticks(low, high, log=axis.log, width=WIDTH, room=(0, 0))
    horizontal_axis(
        sheet, axes, axis.label, left=0, width=WIDTH, bottom=bottom, values=values, labels=labels
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
    return axes
