"""The heat map: a square matrix of values between two ends, with each value in its cell.

Notable:
- Columns are numbered, rows numbered and named, so that long names need no turned text.
- Colour is one hue, the stronger the larger the value, and never so strong that the value in it
  could not be read in either scheme.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Rectangle

from lmlab.pages.checks import check_numbers, fail
from lmlab.pages.drawing import (
    SIZE,
    SMALL,
    WIDTH,
    Sheet,
    label,
    line_height,
    sheet_settings,
    text_width,
    wrap,
)
from lmlab.pages.page import Figure, Table
from lmlab.pages.text import fixed, number, one_line, short_float
from lmlab.pages.theme import marker

MOST_ROWS = 24
_STRONGEST = 0.6
_HIGHEST_CELL = 22.0


def heat_map(
    names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    row_label: str,
    column_label: str,
    finding: str,
    alt: str,
    caption: str = "",
    low: float = 0.0,
    high: float = 1.0,
) -> Figure:
    """A square matrix; `values[row][column]`, None where there is none.

    Values outside `low` to `high` have the colour of that end. Raises `UserError` for more than
    `MOST_ROWS` rows, or a value that is not finite.
    """
    assert len(values) == len(names) > 0
    assert all(len(row) == len(names) for row in values)
    if len(names) > MOST_ROWS:
        fail(finding, f"{len(names)} rows are too many for a page; draw {MOST_ROWS} of them")
    for name, row in zip(names, values, strict=True):
        check_numbers(finding, f"row '{name}'", [v for v in row if v is not None])
    assert low < high
    cells = [
        [name, other, short_float(value)]
        for name, row in zip(names, values, strict=True)
        for other, value in zip(names, row, strict=True)
        if value is not None
    ]
    data = Table([row_label, column_label, "value"], cells, finding)
    with sheet_settings():
        drawing = _drawing(names, values, row_label, column_label, (low, high))
    return Figure(finding, drawing, alt, caption, data=data)


def _drawing(
    names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    row_label: str,
    column_label: str,
    ends: tuple[float, float],
) -> str:
    numbered = [f"{i} {label(name)}" for i, name in enumerate(names, start=1)]
    longest = max(text_width(text, SIZE) for text in numbered)
    left = min(longest, WIDTH * 0.35) + 8
    cell_width = (WIDTH - left) / len(names)
    lines = [wrap(text, SIZE, left - 8) for text in numbered]
    deepest = max(len(of_row) for of_row in lines) * line_height(SIZE) + 4
    cell_height = max(deepest, min(_HIGHEST_CELL, cell_width))
    heading = f"{row_label} ↓   {column_label} →"
    head_lines = wrap(heading, SMALL, WIDTH)
    top = len(head_lines) * line_height(SMALL) + 6 + line_height(SIZE)
    sheet = Sheet(top + cell_height * len(names) + 2)
    sheet.lines(0, SMALL, head_lines, size=SMALL, colour="muted")
    axes = sheet.axes(left, top, WIDTH - left, cell_height * len(names))
    axes.set(xlim=(0, len(names)), ylim=(len(names), 0), xticks=[], yticks=[])
    size = min(SIZE, 0.8 * SIZE * cell_width / text_width("0.00", SIZE))
    size = max(size, 4.5)
    for i, row in enumerate(values):
        y = top + cell_height * i
        first = y + cell_height / 2 - (len(lines[i]) - 1) * line_height(SIZE) / 2 + SIZE * 0.36
        sheet.lines(0, first, lines[i])
        centre = left + cell_width * (i + 0.5)
        sheet.text(centre, top - 4, str(i + 1), size=SMALL, colour="muted", align="center")
        for j, value in enumerate(row):
            if value is None:
                continue
            share = min(1.0, max(0.0, (value - ends[0]) / (ends[1] - ends[0])))
            cell = axes.add_patch(
                Rectangle(
                    (j + 0.03, i + 0.03), 0.94, 0.94, linewidth=0, clip_on=False,
                    facecolor=marker("c0"), alpha=_STRONGEST * share,
                )
            )  # fmt: skip
            sheet.tell(cell, [f"{one_line(names[i])} × {one_line(names[j])}: {number(value)}"])
            text = fixed(value, 2)
            sheet.text(
                left + cell_width * (j + 0.5),
                y + cell_height / 2 + size * 0.36,
                text if cell_width > 22 else text.replace("0.", ".", 1),
                size=size,
                align="center",
            )
    return sheet.svg()
