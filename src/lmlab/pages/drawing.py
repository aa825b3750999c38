"""The sheet that figures are drawn on: text with measured widths, axes, ticks.

Notable:
- Lengths are points, from the top left. A figure is 340 points across, shown as wide as a phone or
  half a desk: its texts are then 10 to 15 pixels high.
- Nothing global is left behind: settings hold inside `sheet_settings` only, whatever the user's
  matplotlibrc says, and no pyplot is involved.
- Texts are measured in DejaVu Sans, which is wider than what browsers show; so nothing collides.
"""

from __future__ import annotations

import io
import math
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from lmlab.pages.svg import STRIP, TIP, tidy
from lmlab.pages.text import one_line, tick_labels
from lmlab.pages.theme import marker

WIDTH = 340.0
SIZE, SMALL = 10.0, 9.0  # text sizes; the page shows a point as 1 to 1.6 pixels
UNSEEN = 0.001  # opacity of a strip; matplotlib leaves the colour of what has none out
LONGEST_LABEL = 300  # characters
_LINE = 1.3  # line height in text sizes
_POINTS_PER_INCH = 72.0


@contextmanager
def sheet_settings() -> Iterator[None]:
    """Matplotlib's defaults with text kept as text, for the duration."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"svg.fonttype": "none", "svg.hashsalt": "lmlab", "font.family": ["DejaVu Sans"]}
        )
        # Texts are set by the reader's browser, which has fonts for other scripts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def line_height(size: float) -> float:
    return size * _LINE


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of one line in points. East Asian wide characters count as one em."""
    shown = "".join("—" if unicodedata.east_asian_width(c) in "WF" else c for c in text)
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(shown, font, ismath=False)[0])


def label(text: str) -> str:
    """`text` as one line; of one that no drawing has room for, the beginning."""
    text = one_line(text)
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def wrap(text: str, size: float, width: float, *, bold: bool = False) -> list[str]:
    """`text` as a `label` in lines of at most `width`; a word longer than a line is cut."""
    lines: list[str] = []
    for word in label(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines else word
        if text_width(joined, size, bold=bold) <= width:
            lines[-1:] = [joined]
            continue
        rest = word
        while text_width(rest, size, bold=bold) > width and len(rest) > 1:
            keep = 1
            while text_width(rest[: keep + 1], size, bold=bold) <= width:
                keep += 1
            lines.append(rest[:keep])
            rest = rest[keep:]
        lines.append(rest)
    return [line for line in lines if line]


class Sheet:
    """One drawing of a given height."""

    def __init__(self, height: float) -> None:
        self.width, self.height = width, height = WIDTH, height
        self._told: list[Sequence[str]] = []
        self._drawing = Drawing(
            figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), dpi=_POINTS_PER_INCH
        )
        FigureCanvasSVG(self._drawing)

    def text(
        self,
        x: float,
        baseline: float,
        text: str,
        *,
        size: float = SIZE,
        colour: str = "ink",
        align: Literal["left", "center", "right"] = "left",
        bold: bool = False,
        halo: bool = False,
    ) -> None:
        self._drawing.text(
            x / self.width,
            1 - baseline / self.height,
            text,
            size=size,
            color=marker(colour),
            ha=align,
            va="baseline",
            weight="bold" if bold else "normal",
            parse_math=False,
            gid="halo" if halo else None,
        )

    def lines(
        self,
        x: float,
        baseline: float,
        lines: Sequence[str],
        *,
        size: float = SIZE,
        colour: str = "ink",
        bold: bool = False,
    ) -> float:
        """Lines of text from `baseline` down; the baseline of the next line."""
        for line in lines:
            self.text(x, baseline, line, size=size, colour=colour, bold=bold)
            baseline += line_height(size)
        return baseline

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without any decoration at that place."""
        axes = self._drawing.add_axes(
            (
                left / self.width,
                1 - (top + height) / self.height,
                width / self.width,
                height / self.height,
            )
        )
        axes.patch.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def tell(self, artist: Artist, texts: Sequence[str], *, strip: bool = False) -> None:
        """Gives the text that is shown where the artist is pointed at, or one for each of its
        markers; a `strip` is seen only then."""
        artist.set_gid(f"{STRIP if strip else TIP}{len(self._told)}")
        self._told.append(texts)

    def svg(self) -> str:
        file = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        self._drawing.savefig(file, format="svg", transparent=True, metadata=nothing)
        return tidy(file.getvalue(), self._told)


def ticks(low: float, high: float, *, log: bool, most: int) -> list[float]:
    """Round values in [low, high], about `most` of them or fewer."""
    if log and len(values := _log_ticks(low, high, most)) >= 3:
        return values
    locator = MaxNLocator(nbins=max(1, most - 1), steps=[1, 2, 2.5, 5, 10])
    # Locators compute 0.30000000000000004, and zero as a tiny number.
    tolerance = (high - low) * 1e-9
    values = [
        0.0 if abs(v) < tolerance else float(f"{v:.12g}") for v in locator.tick_values(low, high)
    ]
    return [v for v in values if low - tolerance <= v <= high + tolerance]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    dense = [[1, 2, 5], [1, 3], [1]]
    candidates = [[float(f"{m}e{e}") for e in exponents for m in within] for within in dense]
    candidates += [
        [float(f"1e{e}") for e in exponents if e % step == 0] for step in (2, 3, 5, 10, 20, 50)
    ]
    inside = [[v for v in values if low <= v <= high] for values in candidates]
    return next((values for values in inside if len(values) <= most), inside[-1])


def fitting_ticks(
    low: float, high: float, *, log: bool, width: float, room: tuple[float, float]
) -> tuple[list[float], list[str]]:
    """Ticks of a horizontal axis `width` points long, and their labels, which do not touch.

    `room` is how far a label may stick out to the left and to the right.
    """
    shown: list[tuple[float, str]] = []
    for most in range(8, 1, -1):
        values = ticks(low, high, log=log, most=most)
        shown, ends, touching = [], [], False
        for value, label in zip(values, tick_labels(values, log=log), strict=True):
            x, half = place(value, low, high, log=log) * width, text_width(label, SMALL) / 2
            if x - half < -room[0] or x + half > width + room[1]:
                continue
            touching = touching or bool(ends and ends[-1] + SMALL > x - half)
            ends.append(x + half)
            shown.append((value, label))
        if not touching:
            break
    return [value for value, _ in shown], [label for _, label in shown]


def place(value: float, low: float, high: float, *, log: bool) -> float:
    """Where `value` is between `low` (0) and `high` (1)."""
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def limits(values: Sequence[float], *, log: bool, margin: float) -> tuple[float, float]:
    """A range around all values, with `margin` of its length at both ends."""
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        pad = (abs(high) or 1.0) * 0.1 if not log else 0.5
    else:
        pad = (high - low) * margin
    low, high = low - pad, high + pad
    return (10.0**low, 10.0**high) if log else (low, high)


def horizontal_axis(
    sheet: Sheet,
    axes: Axes,
    label: str,
    *,
    left: float,
    width: float,
    bottom: float,
    values: Sequence[float],
    labels: Sequence[str],
) -> None:
    """Tick labels and the axis label below `bottom`; `axes` must have its limits and scale."""
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(
        axis="x", length=3, width=0.8, color=marker("muted"), labelbottom=False, labeltop=False
    )
    axes.spines["bottom"].set(visible=True, color=marker("muted"), linewidth=0.8)
    low, high = axes.get_xlim()
    log = axes.get_xscale() == "log"
    baseline = bottom + 5 + SMALL
    for value, text in zip(values, labels, strict=True):
        x = left + width * place(value, low, high, log=log)
        sheet.text(x, baseline, text, size=SMALL, colour="muted", align="center")
    baseline += 4
    for line in wrap(label, SIZE, width):
        baseline += line_height(SIZE)
        sheet.text(left + width / 2, baseline, line, align="center")


def horizontal_axis_height(label: str, width: float) -> float:
    """Room that `horizontal_axis` takes below the axes."""
    return 5 + SMALL + 4 + len(wrap(label, SIZE, width)) * line_height(SIZE) + 5


@dataclass(frozen=True)
class LeafLabels:
    """The labels of a tree's leaves, one below the other."""

    room: float
    """Width that the labels take, with the gap to the plot."""
    lines: dict[int, list[str]]
    centres: dict[int, float]
    bottom: float

    def write(self, sheet: Sheet, x: float, leaf: int) -> None:
        """Write the label of a leaf, its left edge at `x`."""
        lines = self.lines[leaf]
        first = self.centres[leaf] - (len(lines) - 1) * line_height(SIZE) / 2 + SIZE * 0.36
        sheet.lines(x, first, lines)


def leaf_labels(
    names: Sequence[str], order: Sequence[int], *, top: float, gap: float
) -> LeafLabels:
    """Lay out `names` from `top` down in this order, wrapped at two fifths of the sheet."""
    longest = max(text_width(label(name), SIZE) for name in names)
    room = min(longest, WIDTH * 0.4) + 8
    lines = {leaf: wrap(names[leaf], SIZE, room - 8) for leaf in order}
    centres: dict[int, float] = {}
    y = top
    for leaf in order:
        height = len(lines[leaf]) * line_height(SIZE)
        centres[leaf] = y + height / 2
        y += height + gap
    return LeafLabels(room, lines, centres, y)
