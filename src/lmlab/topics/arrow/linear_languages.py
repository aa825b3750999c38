"""Linear languages of one level (bits, extra ones) whose matrices were drawn, not selected.

From the cells of `results.json` alone. The matrix is a random factor: the mean over matrices has
its interval over matrices (`numerics.draws`), in which their seeds and strings are contained. What
one matrix shows is of that matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lmlab.numerics.draws import DrawnMean, mean_over_draws
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS
from lmlab.numerics.verdicts import MINIMUM_SEEDS, Evidence, verdict
from lmlab.pages.figures import Interval, forest_plot
from lmlab.pages.page import Section, Table
from lmlab.pages.wording import percent, signed

ONE_MATRIX = (
    "A linear language that is named by one seed is one matrix, and it may have been selected: its "
    "figures are of that matrix and say nothing of others of its level. For a level give several "
    "as they come, for example linear:12:6:1-8."
)


@dataclass(frozen=True)
class Level:
    """The matrices of one level under one model and order."""

    name: str
    order: str
    matrices: tuple[int, ...]
    """Their seeds, all of a range."""
    inverse_density: float
    """Mean share of ones in their inverses."""
    forward: DrawnMean
    """Excess over the floor, nats per token."""
    other: DrawnMean
    difference: DrawnMean
    """Other less forward, paired by seed, nats per token."""
    relative: DrawnMean
    """The relative arrow 2 (b - f) / (b + f)."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def levels(cells: Sequence[dict[str, Any]]) -> list[Level]:
    """The levels among the cells, in their order; cells without one are left out."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        if cell.get("level"):
            key = (cell["level"]["name"], cell["label"], cell["order"])
            groups.setdefault(key, []).append(cell)
    return [_level(name, label, order, group) for (name, label, order), group in groups.items()]


def _level(name: str, label: str, order: str, cells: Sequence[dict[str, Any]]) -> Level:
    def values(of: Callable[[dict[str, Any], int], float]) -> np.ndarray:
        return np.array([[of(cell, s) for s in range(len(cell["forward"]))] for cell in cells])

    forward_DS, other_DS = (
        values(lambda cell, s, side=side: cell["floor"][side]["by_seed"][s])
        for side in ("forward", "other")
    )
    f_DS, o_DS = (
        values(lambda cell, s, side=side: cell[side][s]["nats_per_token"])
        for side in ("forward", "other")
    )
    return Level(
        name=f"{name} ({label})",
        order=order,
        matrices=tuple(cell["level"]["matrix"] for cell in cells),
        inverse_density=float(np.mean([cell["floor"]["inverse_density"] for cell in cells])),
        forward=mean_over_draws(forward_DS),
        other=mean_over_draws(other_DS),
        difference=mean_over_draws(other_DS - forward_DS),
        relative=mean_over_draws(2 * (o_DS - f_DS) / (o_DS + f_DS)),
    )


def level_words(level: Level) -> str:
    """What the matrices of a level show, with its reach."""
    found, drawn = level.difference, level.matrices
    said = verdict(
        _evidence(found),
        above="forward is easier",
        below=f"{level.order} is easier",
        size=lambda value: f"{value:.4f} nats per token",
    )
    few = f" for these {found.draws} matrices" if found.draws < MINIMUM_SEEDS else ""
    return (
        f"{said}{few}; {level.order} is {signed(found.estimate, 4)} nats per token further above "
        f"the floor than forward [{signed(found.low, 4)}, {signed(found.high, 4)}] (relative arrow "
        f"{percent(level.relative.estimate)}; 95 % over {found.draws} matrices as they come, seeds "
        f"{drawn[0]} to {drawn[-1]}, {found.seeds} training seed(s) each)"
    )


def _evidence(mean: DrawnMean) -> Evidence:
    """Of a mean over matrices: its seeds are inside them, and a language has any amount of text."""
    return Evidence(
        mean.estimate, mean.low, mean.high, mean.standard_error, mean.draws - 1,
        seeds=None, documents=MINIMUM_DOCUMENTS,
    )  # fmt: skip


def levels_section(cells: Sequence[dict[str, Any]]) -> Section:
    """The levels among the cells as a figure and a table."""
    found = levels(cells)
    figure = forest_plot(
        [
            Interval(
                f"{level.order} − forward",
                level.difference.estimate,
                level.difference.low,
                level.difference.high,
                group=level.name,
            )
            for level in found
        ],
        x_label="excess over the floor, other − forward, nats per token (positive: forward easier)",
        finding=f"{found[0].name}: {level_words(found[0])}."
        if len(found) == 1
        else f"The interval over matrices excludes zero at "
        f"{sum(_evidence(f.difference).finding != 'undecided' for f in found)} of {len(found)} "
        "levels.",
        alt="Difference of the excess over the floor at each level, with intervals over matrices.",
        caption="Points: means over the matrices of a level. Bars: 95 % intervals over matrices "
        "(Student t), in which their seeds and strings are contained. The matrices are all of a "
        "range of seeds; none was selected by what it is or shows.",
    )
    table = Table(
        ["level", "matrices × seeds", "inverse density", "excess: forward, other",
         "other − forward [95 %]", "SD: matrices, seeds"],
        [
            [
                level.name,
                f"{level.difference.draws} × {level.difference.seeds}",
                f"{level.inverse_density:.3f}",
                f"{signed(level.forward.estimate, 4)}, {signed(level.other.estimate, 4)}",
                f"{signed(level.difference.estimate, 4)} [{signed(level.difference.low, 4)}, "
                f"{signed(level.difference.high, 4)}]",
                f"{level.difference.sd_draws:.4f}, "
                + ("–" if (sd := level.difference.sd_seeds) is None else f"{sd:.4f}"),
            ]
            for level in found
        ],
        "Nats per token above the exact floor; interval over matrices; standard deviations of the "
        "difference; inverse density: the share of ones in the inverse of a matrix.",
    )  # fmt: skip
    return Section("Matrices as they come", figures=[figure], tables=[table])
