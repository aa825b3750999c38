"""The result of the tour: those of its parts, which are studies of their own."""

from __future__ import annotations

from dataclasses import dataclass

from lmlab.results import Result
from lmlab.topics.arrow.family import ArrowStudy
from lmlab.topics.decomposition.zoo import ZooDecomposition
from lmlab.topics.encoding.comparison import EncodingStudy
from lmlab.topics.headless.comparison import Headless
from lmlab.topics.tour.options import TourConfig
from lmlab.topics.towers.comparison import TowersStudy

QUESTIONS = {
    "linear": "Is a made-up language, whose floor is known, easier forwards?",
    "arrow": "Is text easier to predict forwards than backwards?",
    "headless": "Can a model learn without a softmax?",
    "towers": "Do two towers with one prediction divide it?",
    "decomposition": "How much of a model is in others?",
    "encoding": "Where is a token's probability in the output embedding?",
}
"""The question of each part, which is its heading."""


@dataclass(frozen=True)
class Tour(Result, kind="tour"):
    """What a small edition of every study finds."""

    config: TourConfig
    linear: ArrowStudy
    arrow: ArrowStudy
    headless: Headless
    towers: TowersStudy
    decomposition: ZooDecomposition
    encoding: EncodingStudy

    @property
    def parts(self) -> list[tuple[str, Result]]:
        """The question and the result of each part."""
        return [(question, getattr(self, name)) for name, question in QUESTIONS.items()]
