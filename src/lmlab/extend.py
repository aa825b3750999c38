"""What an objective or an analysis of your own is made of, in a script, a notebook or a package.

An objective is a subclass of `Criterion` or `Causal` that `register_objective` makes known. This
one counts a target less that the model is sure of already:

>>> import torch
>>> from lmlab.extend import IGNORED, FullCrossEntropy, register_objective
>>> class Focal(FullCrossEntropy):
...     name = "focal"
...     def sum(self, backbone, batch):
...         nats_N = torch.nn.functional.cross_entropy(
...             self.logits(backbone, batch), batch.targets_N,
...             ignore_index=IGNORED, reduction="none")
...         targets = int((batch.targets_N != IGNORED).sum())
...         return ((1 - (-nats_N).exp()) * nats_N).sum(), targets
>>> register_objective("focal", criterion=Focal)

An analysis is a function that returns a `Result` of your own, with two functions of that result in
the same module, `tables` and `report`; `register_result` lets `lmlab.read` know it.

docs/notebooks has a notebook for each. What is to be part of lmlab itself is written the same way
(docs/contributing.md).
"""

from lmlab.numerics.random_effects import Clusters, Interval, interval_over_seeds
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.objectives.added import register_objective
from lmlab.objectives.base import IGNORED, Batch, Criterion, Reading, hidden_states
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.pages.curves import Points, Series, line_plot, scatter_plot
from lmlab.pages.forest import ForestRow, forest_plot
from lmlab.pages.matrix import heat_map
from lmlab.pages.multiples import Panel, small_multiples
from lmlab.pages.page import Section, Table
from lmlab.pages.report import Report
from lmlab.results import Result
from lmlab.topics.registry import register_result

__all__ = [
    "IGNORED",
    "Batch",
    "Causal",
    "Clusters",
    "Criterion",
    "Evidence",
    "ForestRow",
    "FullCrossEntropy",
    "Interval",
    "Panel",
    "Points",
    "Reading",
    "Report",
    "Result",
    "Section",
    "Series",
    "Table",
    "forest_plot",
    "heat_map",
    "hidden_states",
    "holm",
    "interval_over_seeds",
    "line_plot",
    "register_objective",
    "register_result",
    "scatter_plot",
    "small_multiples",
]
