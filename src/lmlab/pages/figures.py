"""The figures of a report, all in one place: intervals, curves, clouds of points,
matrices, trees, small multiples.

Each function takes plain numbers and strings and returns a `page.Figure`: one drawing, whose
points, intervals and cells say their values where they are pointed at, and its data as a table.
"""

from lmlab.pages.curves import Points, Series, line_plot, scatter_plot
from lmlab.pages.forest import ForestRow, forest_plot
from lmlab.pages.matrix import heat_map
from lmlab.pages.multiples import Panel, small_multiples
from lmlab.pages.tree import dendrogram

__all__ = [
    "ForestRow",
    "Panel",
    "Points",
    "Series",
    "dendrogram",
    "forest_plot",
    "heat_map",
    "line_plot",
    "scatter_plot",
    "small_multiples",
]
