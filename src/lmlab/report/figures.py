"""The figures of a report, all in one place: intervals, curves, clouds of points.

Each function takes plain numbers and strings and returns a `page.Figure`, drawn twice (wide and
narrow) with the same content.
"""

from lmlab.report.curves import Points, Series, line_plot, scatter_plot
from lmlab.report.forest import Interval, forest_plot

__all__ = ["Interval", "Points", "Series", "forest_plot", "line_plot", "scatter_plot"]
