"""Figures of decompositions. R2 is of held-out text throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lmlab.pages.figures import ForestRow, Series, dendrogram, forest_plot, heat_map, line_plot
from lmlab.pages.page import Figure
from lmlab.pages.theme import SERIES_COLOURS
from lmlab.pages.tree import leaf_order
from lmlab.topics.decomposition.of_models import ModelsDecomposition
from lmlab.topics.decomposition.tables import r2_text
from lmlab.topics.decomposition.zoo import KindOfPairs, ZooDecomposition

TEXT_ONLY = "Bars: 95 % intervals over test documents, for these models."


def targets_forest(result: ModelsDecomposition) -> Figure:
    """R2 of every target from all others."""
    rows = [ForestRow.of(name, target.interval) for name, target in result.targets.items()]
    most = max(rows, key=lambda row: row.estimate)
    least = min(rows, key=lambda row: row.estimate)
    finding = (
        f"Most in the others is {most.label} (R² {r2_text(most.estimate)}), least {least.label} "
        f"({r2_text(least.estimate)})."
    )
    if len(rows) == 1:
        finding = f"R² of {most.label} from all others is {r2_text(most.estimate)}."
    return forest_plot(
        rows,
        x_label="R² on test of each model from all others",
        finding=finding,
        alt="Held-out R² of each model from all others, with its interval.",
        caption=TEXT_ONLY,
        reference=None,
    )


def kinds_forest(
    kinds: Mapping[str, KindOfPairs], *, finding: str, alt: str, caption: str
) -> Figure:
    """Mean R2 of each kind of pairs."""
    rows = [
        ForestRow.of(
            kind,
            of_kind.interval,
            note=f"mean of {of_kind.pairs} pairs" if of_kind.pairs > 1 else "one pair",
        )
        for kind, of_kind in kinds.items()
    ]
    return forest_plot(
        rows,
        x_label="R² on test of one model from one other",
        finding=finding,
        alt=alt,
        caption=caption,
        reference=None,
    )


def pairs_matrix(result: ModelsDecomposition) -> Figure:
    """R2 of each model from each other alone, in the order of the tree."""
    names, r2 = result.pairs.names, result.pairs.r2
    order = leaf_order(len(names), result.tree)
    shown = [value for row in r2 for value in row if value is not None]
    low = max(0.0, min(shown) - 0.05)
    return heat_map(
        [names[i] for i in order],
        [[r2[i][j] for j in order] for i in order],
        row_label="target",
        column_label="basis",
        finding=f"Pairs range from {r2_text(min(shown))} to {r2_text(max(shown))}, with a mean "
        f"of {r2_text(result.pairs.mean)}.",
        alt="Held-out R² of each model (row) from one other alone (column).",
        caption="R² on test of the row's model from the column's model alone; the order is "
        "that of the tree below. Not symmetric: a model can hold another and more.",
        low=low,
        high=max(shown) if max(shown) > low else 1.0,  # none is above 0
    )


def pairs_tree(result: ModelsDecomposition) -> Figure:
    """The tree of the models by one minus the R2 of pairs."""
    names = result.pairs.names
    first, second, nearest = result.tree[0]
    return dendrogram(
        names,
        result.tree,
        x_label="distance: 1 − R², mean of both ways",
        finding=f"The most alike are {names[first]} and {names[second]} (1 − R² is {nearest:.3f}).",
        alt="Tree of the models by one minus the pairwise R².",
        caption="Average linkage of the pairwise R² on test.",
    )


def greedy_curve(result: ModelsDecomposition, shown: Sequence[str], caption: str) -> Figure:
    """R2 of the targets in `shown` by the number of basis models."""
    paths = {name: result.targets[name].greedy.r2 for name in shown}
    series = [
        Series(name, list(range(1, len(r2) + 1)), list(r2), colour=colour)
        for colour, (name, r2) in enumerate(paths.items())
    ]
    finding = "All others together give no R² above 0."
    if shares := [r2[0] / r2[-1] for r2 in paths.values() if r2[-1] > 0]:
        finding = (
            f"The best single model already gives {100 * min(shares):.0f} to "
            f"{100 * max(shares):.0f} % of what all others give together."
        )
    return line_plot(
        series,
        x_label="models in the basis, in the order in which they add most",
        y_label="R² on test",
        finding=finding,
        alt="Held-out R² against the number of basis models, greedily chosen.",
        caption=caption,
    )


def length_curve(result: ZooDecomposition) -> Figure:
    """The group correlation by length of text, and the mean of each arm's models."""
    x = [at.length for at in result.lengths]
    groups = [at.group for at in result.lengths]
    series = [
        Series.of("all models, test", x, groups),
        Series("all models, training", x, [at.group_train for at in result.lengths], dashed=True),
    ]
    arms = list(dict.fromkeys(member.arm for member in result.zoo))
    for colour, arm in enumerate(arms[: SERIES_COLOURS - 1], start=1):
        own = [m.label for m in result.zoo if m.arm == arm]
        means = [
            float(np.mean([at.targets[name].estimate for name in own])) for at in result.lengths
        ]
        series.append(Series(f"{arm}, test", x, means, colour=colour))
    short, long = (groups[i].estimate for i in (0, -1))
    course = f"{'rises' if long > short else 'falls'} from {r2_text(short)} to {r2_text(long)}"
    if r2_text(short) == r2_text(long):
        course = f"stays at {r2_text(short)}"
    return line_plot(
        series,
        x_label="tokens of a piece of text",
        y_label="mean R² of a model from all others",
        finding=f"From {x[0]} to {x[-1]} tokens the group correlation on test {course}.",
        alt="Group correlation against the length of the text, on training and test.",
        caption="Band: 95 % interval over test documents, for these models. Rows are means over "
        "the tokens of a piece, which have less noise the longer it is.",
        log_x=True,
    )
