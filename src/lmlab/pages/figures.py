"""The figures of a report, all in one place: intervals, curves, clouds of points,
matrices, trees.

Each function takes plain numbers and strings and returns a `page.Figure`, drawn twice (wide and
narrow) with the same content.
"""

from lmlab.report.curves import Points, Series, line_plot, scatter_plot
from lmlab.report.forest import Interval, forest_plot
from lmlab.report.matrix import heat_map
from lmlab.report.tree import dendrogram

__all__ = [
    "Interval",
    "Points",
    "Series",
    "dendrogram",
    "forest_plot",
    "heat_map",
    "line_plot",
    "scatter_plot",
]
