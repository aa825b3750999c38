"""A report: what one result shows, as its views give it and the page renders it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmlab.pages.page import Part, Section


@dataclass(frozen=True)
class Report:
    """Title, main finding in words, and the sections under it, or parts of such sections."""

    title: str
    summary: str
    sections: Sequence[Section] = ()
    parts: Sequence[Part] = ()
