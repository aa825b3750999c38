"""Options of `lmlab plan`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmlab.config.numbers import Options, at_least
from lmlab.errors import UserError


@dataclass(frozen=True)
class PlanConfig(Options):
    """How many seeds, documents and tokens it takes to see a difference.

    The noise is that of a finished study (arrow: differences in per cent of the loss; headless: in
    nats per token; babylm: in points of a task's score), or typed in the unit of the effect. A
    difference is seen where its 95 % interval excludes zero.
    """

    study: Path | None = None
    """Folder of a finished study of the kind arrow, headless or babylm."""
    task: str | None = None
    """Of a babylm study: the task whose differences are planned."""
    effect: float = 0.0
    """The difference to be seen (needed): per cent for an arrow, nats per token for headless,
    points for babylm."""
    seed_sd: float | None = None
    """Standard deviation of the difference between seeds, the text being given."""
    document_sd: float | None = None
    """Between documents, beyond what sections of one document differ by."""
    section_sd: float | None = None
    """Between sections of one document."""
    sections: float | None = at_least(1, None)
    """Sections a document (default: the study's, or 1)."""
    seeds: tuple[int, ...] = (3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
    """Numbers of seeds in the table; below 3 there is no verdict."""
    documents: tuple[int, ...] = (5, 10, 20, 40, 80)
    """Numbers of documents in the table; below 5 there is no interval over texts."""
    tokens: int | None = None
    """Training tokens of a run (default: the study's)."""
    document_tokens: int | None = None
    """Scored tokens of a document (default: the study's mean)."""
    power: float = 0.8
    """The probability that the difference is seen."""
    out: Path | None = None
    """Folder of results.json and report.html (default: below lab/results, by the digest of these
    options)."""

    def __post_init__(self) -> None:
        if self.effect == 0:
            raise UserError("`effect`: the difference to be seen, above 0, such as `effect` 0.2")
        if self.study is None and self.seed_sd is None:
            raise UserError("give the folder of a finished study, or `seed_sd`")
        if self.seed_sd == 0:
            raise UserError("`seed_sd` must be above 0; without seeds there is nothing to plan")
        if self.document_sd is None and self.section_sd is not None:
            raise UserError("`section_sd` needs `document_sd` beside it")
        for name, least in (("seeds", 3), ("documents", 5)):
            values = getattr(self, name)
            if not values or min(values) < least or sorted(set(values)) != list(values):
                raise UserError(f"`{name}` must be rising numbers from {least} on, not {values}")
        if not 0.05 < self.power < 1:
            raise UserError(f"`power` must be between 0.05 and 1, not {self.power}")
