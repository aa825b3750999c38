"""The dendrogram: which things are alike, as a tree whose joints stand at their distance."""

from __future__ import annotations

from collections.abc import Sequence

from lmlab.pages.checks import check_numbers
from lmlab.pages.drawing import (
    WIDTH,
    Sheet,
    fitting_ticks,
    horizontal_axis,
    horizontal_axis_height,
    leaf_labels,
    sheet_settings,
)
from lmlab.pages.page import Figure, Table
from lmlab.pages.text import number, one_line, short_float
from lmlab.pages.theme import marker

_ROW_GAP = 6.0
_RIGHT = 12.0


def _members(leaves: int, merges: Sequence[tuple[int, int, float]]) -> list[list[int]]:
    """The leaves of each node."""
    members = [[i] for i in range(leaves)]
    for a, b, _ in merges:
        members.append(members[a] + members[b])
    return members


def leaf_order(leaves: int, merges: Sequence[tuple[int, int, float]]) -> list[int]:
    """Leaves from top to bottom, so that no branches cross."""
    return _members(leaves, merges)[-1]


def dendrogram(
    names: Sequence[str],
    merges: Sequence[tuple[int, int, float]],
    *,
    x_label: str,
    finding: str,
    alt: str,
    caption: str = "",
) -> Figure:
    """A tree over `names`; merge k joins two nodes at a distance and makes node len(names) + k.

    Raises `UserError` for a distance that is not finite.
    """
    merged = sorted(node for a, b, _ in merges for node in (a, b))
    assert merged == list(range(2 * len(names) - 2)), "every node but the last is merged once"
    check_numbers(finding, "a distance", [distance for *_, distance in merges])
    members = _members(len(names), merges)
    rows = [
        [*(", ".join(names[i] for i in members[node]) for node in (a, b)), short_float(distance)]
        for a, b, distance in merges
    ]
    with sheet_settings():
        drawing = _drawing(names, merges, x_label)
    return Figure(
        finding, drawing, alt, caption, data=Table(["one", "other", x_label], rows, finding)
    )


def _drawing(names: Sequence[str], merges: Sequence[tuple[int, int, float]], x_label: str) -> str:
    members = _members(len(names), merges)
    leaves = leaf_labels(names, members[-1], top=4.0, gap=_ROW_GAP)
    left, bottom = leaves.room, leaves.bottom
    plot_width = WIDTH - left - _RIGHT
    sheet = Sheet(bottom + horizontal_axis_height(x_label, plot_width))
    for leaf in members[-1]:
        leaves.write(sheet, 0, leaf)
    high = max(distance for *_, distance in merges) * 1.06 or 1.0
    axes = sheet.axes(left, 0, plot_width, bottom)
    axes.set(xlim=(0, high), ylim=(bottom, 0), yticks=[])
    values, shown = fitting_ticks(0, high, log=False, width=plot_width, room=(8, _RIGHT))
    horizontal_axis(
        sheet,
        axes,
        x_label,
        left=left,
        width=plot_width,
        bottom=bottom,
        values=values,
        labels=shown,
    )
    centres = dict(leaves.centres)
    at = dict.fromkeys(range(len(names)), 0.0)
    for k, (a, b, distance) in enumerate(merges):
        node = len(names) + k
        (joint,) = axes.plot(
            [at[a], distance, distance, at[b]],
            [centres[a], centres[a], centres[b], centres[b]],
            color=marker("c0"),
            linewidth=1.8,
        )
        joined = ", ".join(one_line(names[i]) for i in members[node])
        sheet.tell(joint, [f"{number(distance)}: {joined}"])
        at[node], centres[node] = distance, (centres[a] + centres[b]) / 2
    return sheet.svg()
