"""The phylogram: an unrooted tree with the lengths of its branches, drawn from the middle of its
longest path. Where that is says nothing of which node is the oldest.

Notable: lengths below zero, which neighbour joining may give, are drawn as zero.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lmlab.numerics.trees import Tree, neighbours_of
from lmlab.pages.checks import check_numbers
from lmlab.pages.drawing import (
    SMALL,
    WIDTH,
    Sheet,
    fitting_ticks,
    horizontal_axis,
    horizontal_axis_height,
    leaf_labels,
    sheet_settings,
    text_width,
)
from lmlab.pages.page import Figure, LegendEntry, Table
from lmlab.pages.text import number, one_line, short_float
from lmlab.pages.theme import marker

_ROW_GAP = 9.0
_LEFT = 6.0


@dataclass(frozen=True)
class _Step:
    """A node as it is reached from the middle of the tree."""

    node: int
    branch: int
    start: float
    end: float
    """Distances from the middle."""
    below: tuple[_Step, ...]
    leaves: tuple[int, ...]
    drawn_in_part: bool = False
    """The shorter of the two parts of the branch that the middle lies on: it has no label."""


def phylogram(
    names: Sequence[str],
    tree: Tree,
    *,
    notes: Mapping[int, str],
    doubted: Collection[int] = (),
    legend: Sequence[LegendEntry] = (),
    x_label: str,
    finding: str,
    alt: str,
    caption: str = "",
) -> Figure:
    """A tree over `names`; `notes` stand at branches, by their numbers, and those of `doubted`
    branches are dashed and in the second colour.

    Raises `UserError` for a length that is not finite.
    """
    check_numbers(finding, "a length", [length for *_, length in tree.branches])
    steps = _from_the_middle(tree)
    leaves_of = {step.branch: step.leaves for step in _all(steps)}
    rows = [
        [", ".join(names[i] for i in leaves_of[b]), short_float(length), notes.get(b, "")]
        for b, (_, _, length) in enumerate(tree.branches)
    ]
    with sheet_settings():
        drawing = _drawing(names, steps, notes, set(doubted), x_label)
    data = Table(["models on one side of the branch", "length", "note"], rows, finding)
    return Figure(finding, drawing, alt, caption, legend, data=data)


def _from_the_middle(tree: Tree) -> tuple[_Step, ...]:
    """The two or more parts of the tree around the middle of its longest path."""
    clipped = tuple((one, other, max(length, 0.0)) for one, other, length in tree.branches)
    around = neighbours_of(replace(tree, branches=clipped))

    def furthest(node: int, came: int | None, far: float) -> tuple[float, list[tuple[int, int]]]:
        """The longest way on: how far, and its branches with the nodes that they lead to."""
        best: tuple[float, list[tuple[int, int]]] = (far, [])
        for other, b, length in around[node]:
            if b != came:
                reach, way = furthest(other, b, far + length)
                if reach > best[0] or not best[1]:
                    best = (reach, [(b, other), *way])
        return best

    def step(node: int, branch: int, start: float, end: float, part: bool = False) -> _Step:
        below = _smallest_first(
            step(other, b, end, end + length) for other, b, length in around[node] if b != branch
        )
        leaves = (node,) if node < tree.leaves else tuple(i for s in below for i in s.leaves)
        return _Step(node, branch, start, end, below, leaves, part)

    one_end = furthest(0, None, 0.0)[1][-1][1]
    longest, way = furthest(one_end, None, 0.0)
    at, node = 0.0, one_end
    for b, other in way:
        length = clipped[b][2]
        if at + length >= longest / 2:
            back, on = longest / 2 - at, at + length - longest / 2
            parts = (step(node, b, 0.0, back, back <= on), step(other, b, 0.0, on, on < back))
            return _smallest_first(parts)
        at, node = at + length, other
    raise AssertionError("the middle lies on the longest path")


def _smallest_first(steps: Iterable[_Step]) -> tuple[_Step, ...]:
    return tuple(sorted(steps, key=lambda s: (len(s.leaves), min(s.leaves))))


def _all(steps: Sequence[_Step]) -> list[_Step]:
    return [inner for s in steps for inner in (s, *_all(s.below))]


def _drawing(
    names: Sequence[str],
    steps: Sequence[_Step],
    notes: Mapping[int, str],
    doubted: set[int],
    x_label: str,
) -> str:
    order = [i for s in steps for i in s.leaves]
    leaves = leaf_labels(names, order, top=6.0, gap=_ROW_GAP)
    room, bottom = leaves.room, leaves.bottom
    plot_width = WIDTH - _LEFT - room
    sheet = Sheet(bottom + horizontal_axis_height(x_label, plot_width))
    high = max(s.end for s in _all(steps)) * 1.02 or 1.0
    axes = sheet.axes(_LEFT, 0, plot_width, bottom)
    axes.set(xlim=(0, high), ylim=(bottom, 0), yticks=[])
    values, shown = fitting_ticks(0, high, log=False, width=plot_width, room=(_LEFT, room))
    horizontal_axis(
        sheet,
        axes,
        x_label,
        left=_LEFT,
        width=plot_width,
        bottom=bottom,
        values=values,
        labels=shown,
    )

    def height_of(s: _Step) -> float:
        if not s.below:
            return leaves.centres[s.node]
        inner = [height_of(b) for b in s.below]
        return (inner[0] + inner[-1]) / 2

    def joint(x: float, parts: Sequence[_Step]) -> None:
        if len(parts) > 1:
            ends = height_of(parts[0]), height_of(parts[-1])
            axes.plot([x, x], ends, color=marker("c0"), linewidth=1.8, clip_on=False)

    joint(0.0, steps)
    for s in _all(steps):
        at = height_of(s)
        wrong = s.branch in doubted
        (drawn,) = axes.plot(
            [s.start, s.end],
            [at, at],
            color=marker("c1" if wrong else "c0"),
            linestyle=(0, (4.0, 2.5)) if wrong else "-",
            linewidth=1.8,
            clip_on=False,
        )
        joined = ", ".join(one_line(names[i]) for i in s.leaves)
        note = notes.get(s.branch, "")
        sheet.tell(drawn, [f"{number(s.end - s.start)}{note and f', {note}'}: {joined}"])
        joint(s.end, s.below)
        x = _LEFT + plot_width * s.end / high
        if not s.below:
            leaves.write(sheet, WIDTH - room + 8, s.node)
            if x < WIDTH - room:
                axes.plot([s.end, high], [at, at], color=marker("rule"), linewidth=0.8, zorder=0)
        elif note and not s.drawn_in_part:
            width = text_width(note, SMALL)
            sheet.text(
                max(x - 3 - width, _LEFT + 2), at - 3, note, size=SMALL, colour="muted", halo=True
            )
    return sheet.svg()
