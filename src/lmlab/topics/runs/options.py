"""Options of `lmlab runs`, `lmlab watch` and `lmlab report`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmlab.config.numbers import Options, above_zero
from lmlab.errors import UserError


@dataclass(frozen=True)
class RunsConfig(Options):
    """The training runs below a folder: what they are, how far, their losses, their size on
    disk."""

    folder: Path = Path("lab")
    where: tuple[str, ...] = ()
    """Only those with NAME=VALUE (or NAME!=VALUE): a column, or any option of `lmlab train`."""
    sort: str = "run"
    """By a column, or an option of `lmlab train`."""
    descending: bool = False
    """The largest first."""
    csv: bool = False
    """Print CSV, all columns and numbers in full."""
    json: bool = False
    """Print JSON, likewise."""
    delete: bool = False
    """Remove the runs of the list, after asking. Refused while one of them is running."""
    yes: bool = False
    """Remove without asking."""

    def __post_init__(self) -> None:
        if self.csv + self.json + self.delete > 1:
            raise UserError("`csv`, `json` and `delete` are three different things; give one")
        if self.yes and not self.delete:
            raise UserError("`yes` is for `delete`")


@dataclass(frozen=True)
class WatchConfig(Options):
    """Follow a run, or all runs of a study, in the terminal: curve, loss, speed, time left. Ends
    with the last of them; Ctrl-C ends only the watching."""

    folder: Path
    """Of a run, or of a study's result."""
    every: float = 5.0
    """Seconds between looks."""
    once: bool = False
    """Print how it stands, and end."""
    lab: Path | None = None
    """Of a study: the folder that holds its runs (default: the folder around it)."""

    def __post_init__(self) -> None:
        above_zero(self, "every")


@dataclass(frozen=True)
class ReportConfig(Options):
    """Draw a page again: of a finished study or a result, from its results.json; of a run, at any
    time; of a study that is under way, as far as it is. Of any other folder, an index of all pages
    and runs below it."""

    folder: Path
    lab: Path | None = None
    """Of a study that is under way: the folder that holds its runs (default: the one around it)."""
