"""Small multiples: the same rows in many panels, each with an axis of its own.

Notable:
- A dot is an estimate and a bar its interval, as in a forest plot; a hollow dot has no interval.
- Rows are named at the left of each line of panels, so that no number has to be looked up.
- A row that a panel has no value for says so by a dash.
- The values are in the tips and in the data behind the figure; panels are too narrow for numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from matplotlib.patches import Rectangle

from lmlab.pages.checks import check_numbers
from lmlab.pages.drawing import (
    SIZE,
    SMALL,
    UNSEEN,
    WIDTH,
    Sheet,
    fitting_ticks,
    horizontal_axis,
    label,
    limits,
    line_height,
    sheet_settings,
    text_width,
    wrap,
)
from lmlab.pages.page import Figure, Table
from lmlab.pages.text import estimates, one_line, short_float
from lmlab.pages.theme import marker

_ROW = 13.0  # height of a row
_GAP = 12.0  # between panels
_AXIS = 5 + SMALL + 8  # ticks and their labels
_MOST_NAMES = 0.34  # of the width


class Estimated(Protocol):
    """An estimate with bounds, or without."""

    @property
    def estimate(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


@dataclass(frozen=True)
class Panel:
    """One measure of all rows; None where a row has no value."""

    title: str
    values: Sequence[Estimated | None]
    reference: float | None = None
    """Where a vertical line stands."""


def small_multiples(
    names: Sequence[str],
    panels: Sequence[Panel],
    *,
    finding: str,
    alt: str,
    caption: str = "",
    across: int = 3,
) -> Figure:
    """Panels of dots with their intervals, `across` of them beside one another.

    Raises `UserError` for numbers that are not finite.
    """
    assert names
    assert panels
    for panel in panels:
        assert len(panel.values) == len(names), panel.title
        for name, value in zip(names, panel.values, strict=True):
            check_numbers(finding, f"{panel.title}, row '{name}'", _ends(value))
        if panel.reference is not None:
            check_numbers(finding, f"{panel.title}, the reference", [panel.reference])
    cells = [
        [panel.title, name, *("" if v is None else short_float(v) for v in ends)]
        for panel in panels
        for name, value in zip(names, panel.values, strict=True)
        if value is not None
        for ends in [(value.estimate, value.low, value.high)]
    ]
    data = Table(["panel", "row", "value", "low", "high"], cells, finding)
    with sheet_settings():
        drawing = _drawing(names, panels, min(across, len(panels)))
    return Figure(finding, drawing, alt, caption, data=data)


def _ends(value: Estimated | None) -> list[float]:
    ends = [] if value is None else [value.estimate, value.low, value.high]
    return [end for end in ends if end is not None]


def _drawing(names: Sequence[str], panels: Sequence[Panel], across: int) -> str:
    longest = max(text_width(label(name), SMALL) for name in names)
    left = min(longest, WIDTH * _MOST_NAMES) + 8
    width = (WIDTH - left - _GAP * (across - 1)) / across
    lines = [wrap(name, SMALL, left - 8) for name in names]
    height = max(_ROW, max(map(len, lines)) * line_height(SMALL) + 2)
    rows = [panels[start : start + across] for start in range(0, len(panels), across)]
    titles = [[wrap(panel.title, SMALL, width, bold=True) for panel in row] for row in rows]
    heads = [max(map(len, row)) * line_height(SMALL) + 6 for row in titles]
    body = height * len(names)
    sheet = Sheet(sum(heads) + len(rows) * (body + _AXIS) + 4)
    top = 0.0
    for row, row_titles, head in zip(rows, titles, heads, strict=True):
        for place, (panel, title) in enumerate(zip(row, row_titles, strict=True)):
            x = left + place * (width + _GAP)
            above = head - 6 - (len(title) - 1) * line_height(SMALL)
            sheet.lines(x, top + above, title, size=SMALL, bold=True)
            _panel(sheet, names, panel, (x, top + head, width, body))
        for number, of_name in enumerate(lines):
            middle = top + head + height * (number + 0.5)
            first = middle - (len(of_name) - 1) * line_height(SMALL) / 2 + SMALL * 0.36
            sheet.lines(0, first, of_name, size=SMALL)
        top += head + body + _AXIS
    return sheet.svg()


def _panel(
    sheet: Sheet, names: Sequence[str], panel: Panel, place: tuple[float, float, float, float]
) -> None:
    left, top, width, height = place
    drawn = [end for value in panel.values for end in _ends(value)]
    ends = drawn if panel.reference is None else [*drawn, panel.reference]
    low, high = limits(ends or [0.0, 1.0], log=False, margin=0.1)
    axes = sheet.axes(left, top, width, height)
    axes.set(xlim=(low, high), ylim=(len(names), 0), yticks=[], xticks=[])
    if drawn:
        ticks, texts = fitting_ticks(low, high, log=False, width=width, room=(4, 4))
        horizontal_axis(
            sheet, axes, "", left=left, width=width, bottom=top + height, values=ticks, labels=texts
        )
    if panel.reference is not None:
        axes.plot([panel.reference] * 2, [0, len(names)], color=marker("muted"), linewidth=1)
    known = [value for value in panel.values if value is not None]
    told = [(v.estimate, v.low, v.high) for v in known]
    texts = iter(estimates(told) if told else [])
    for number, (name, value) in enumerate(zip(names, panel.values, strict=True)):
        y = number + 0.5
        if value is None:
            middle = top + height * y / len(names) + SIZE * 0.3
            sheet.text(left + width / 2, middle, "–", size=SMALL, colour="muted", align="center")
            continue
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [y, y], color=marker("c0"), linewidth=2, zorder=2)
        axes.plot(
            [value.estimate], [y], marker="o", markersize=5, color=marker("c0"),
            markerfacecolor=marker("paper" if value.low is None else "c0"), markeredgewidth=1.4,
            zorder=3, clip_on=False,
        )  # fmt: skip
        strip = Rectangle(
            (0, number), 1, 1, transform=axes.get_yaxis_transform(), color=marker("ink"),
            alpha=UNSEEN, linewidth=0,
        )  # fmt: skip
        shown = f"{one_line(panel.title)}, {one_line(name)}: {' '.join(next(texts)).rstrip()}"
        sheet.tell(axes.add_patch(strip), [shown], strip=True)
