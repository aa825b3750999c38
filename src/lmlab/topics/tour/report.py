"""The page of the tour: its parts one after the other, their findings in short at the top."""

from __future__ import annotations

from typing import Any, cast

from lmlab.pages.page import Part, Table
from lmlab.pages.report import Report
from lmlab.topics.tour.tour import Tour

_TOUR = (
    "Every study of lmlab in its smallest form. A model of text reads half a million tokens or so "
    "(a tower some ten thousands), and what is found here is found of very small models early in "
    "training. Every part on text says by how much its models are above or below counted n-grams "
    "of the same text."
)


def report(result: Tour) -> Report:
    """Title, findings, and the sections of every study."""
    return Report(
        "A tour of lmlab",
        "\n\n".join([_TOUR, *map(" ".join, _findings(result))]),
        parts=[
            Part(question, study.report.summary, study.report.sections)
            for question, study in result.parts
        ],
    )


def tables(result: Tour) -> list[Table]:
    """The finding of each part in a sentence."""
    return [Table(["question", "finding"], _findings(result), "What each part finds.")]


def _findings(result: Tour) -> list[list[str]]:
    return [
        [question, cast(Any, study.view_module).headline(study)] for question, study in result.parts
    ]
