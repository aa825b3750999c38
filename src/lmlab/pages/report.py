"""A report: what one result shows, as its views give it and the page renders it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmlab.pages.page import Section, render_page


@dataclass(frozen=True)
class Report:
    """Title, main finding in words, and the sections under it."""

    title: str
    summary: str
    sections: Sequence[Section]


def render_report(report: Report, *, footer: str) -> str:
    """The whole page of a report, HTML in UTF-8."""
    return render_page(report.title, report.summary, report.sections, footer=footer)
