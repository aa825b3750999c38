"""The page of a training run, of a study that is under way, and the index of all pages."""

from __future__ import annotations

import html
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lmlab.durable import write_text
from lmlab.errors import UserError
from lmlab.pages.page import Link, Section, Table, render_page
from lmlab.pages.report import Report
from lmlab.progress import duration
from lmlab.results import PAGE
from lmlab.studies.status import COLUMNS, study_status, summary
from lmlab.topics.runs.figures import course_figures, loss_figure, losses_figure
from lmlab.topics.runs.listing import FINISHED, SHOWN, FoundRun, list_runs, shown
from lmlab.topics.runs.tables import NATS, bits_per_byte, tables
from lmlab.topics.runs.training_run import TrainingRun, read_run

INDEX = "index.html"


def report(result: TrainingRun) -> Report:
    """Title, finding and sections of a run's page."""
    summary_table, *validations, settings = tables(result)
    return Report(
        f"Run {result.name}",
        _finding(result),
        [
            Section("Loss", figures=[loss_figure(result)], tables=[summary_table, *validations]),
            Section("Course", figures=course_figures(result)),
            Section("Settings", [f"Identity: {result.identity}"], tables=[settings]),
        ],
    )


def _finding(result: TrainingRun) -> str:
    config = result.config
    text = (
        f"{config.model_name}, {config.objective}, {config.order}, seed {config.seed}: "
        f"{result.state} at step {result.step:,} of {config.steps:,}"
    )
    if (nats_E := result.validations.get(NATS)) is not None and len(nats_E):
        text += f", {nats_E[-1]:.4f} nats per token of validation text"
        if (bits := bits_per_byte(result, float(nats_E[-1]))) is not None:
            text += f" ({bits:.3f} bits per byte)"
    if result.seconds_left is not None:
        text += f"; about {duration(result.seconds_left)} left"
    return f"{text}."


def study_page(out: Path, lab: Path) -> str:
    """The page of a study that is under way: where its runs stand, and their curves.

    Raises `UserError` as `study_status`.
    """
    rows = study_status(out, lab)
    begun = [read_run(lab / "runs" / row.folder) for row in rows if row.step]
    table = Table(COLUMNS, [row.cells() for row in rows], "The runs of the study.")
    done = sum(row.state == FINISHED for row in rows)
    curves = [losses_figure(begun)] if begun else []
    return render_page(
        f"{out.name}, under way",
        f"{done} of {len(rows)} runs are finished: {summary(rows, out)}.",
        [Section("Runs", figures=curves, tables=[table])],
        footer=f"Made by lmlab at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, while the study ran.",
    )


@dataclass(frozen=True)
class IndexEntry:
    """A page below a folder."""

    path: Path
    title: str
    summary: str
    changed: datetime


def write_index(folder: Path) -> Path:
    """Writes an index of all pages and runs below a folder; returns its path. `UserError` without
    any."""
    runs = list_runs(folder)
    run_folders = {run.path for run in runs}
    pages = [file for file in sorted(folder.rglob(PAGE)) if file.parent not in run_folders]
    if not pages and not runs:
        raise UserError(
            f"{folder}: no run, no study, no {PAGE} below it; commands and studies write them"
        )
    entries = sorted(map(_entry, pages), key=lambda entry: entry.changed, reverse=True)
    path = folder / INDEX
    write_text(path, _index_page(folder, entries, runs))
    return path


def _entry(file: Path) -> IndexEntry:
    text = file.read_text("utf-8", errors="replace")
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    first = re.search(r'class="summary">\s*<p>(.*?)</p>', text, re.DOTALL)
    return IndexEntry(
        file,
        html.unescape(title[1]) if title else str(file.parent.name),
        html.unescape(re.sub(r"<[^>]*>", "", first[1])) if first else "",
        datetime.fromtimestamp(os.stat(file).st_mtime, UTC),
    )


def _index_page(folder: Path, entries: list[IndexEntry], runs: list[FoundRun]) -> str:
    sections: list[Section] = []
    if entries:
        rows = [
            [
                Link(str(entry.path.parent.relative_to(folder)), entry.path.relative_to(folder)),
                entry.title,
                entry.summary,
                f"{entry.changed:%Y-%m-%d %H:%M}",
            ]
            for entry in entries
        ]
        heads = ["folder", "report", "finding", "drawn (UTC)"]
        sections.append(Section("Reports", tables=[Table(heads, rows, "All reports.")]))
    if runs:
        rows = [_run_cells(run, folder) for run in runs]
        heads = ["changed (UTC)" if head == "age" else head for head in SHOWN]
        caption = "All training runs. Those with a link have a page: lmlab report RUN draws it."
        sections.append(Section("Training runs", tables=[Table(heads, rows, caption)]))
    return render_page(
        f"Reports below {folder.resolve().name}",
        f"Reports: {len(entries)}, the newest first. Training runs: {len(runs)}.",
        sections,
        footer=f"Made by lmlab report {folder}; the same command makes it anew.",
    )


def _run_cells(run: FoundRun, folder: Path) -> list[str]:
    cells = shown(run.row)
    name, page = str(run.path.relative_to(folder)), run.path / PAGE
    cells[0] = Link(name, page.relative_to(folder)) if page.is_file() else name
    cells[SHOWN.index("age")] = f"{datetime.fromtimestamp(run.row.changed, UTC):%Y-%m-%d %H:%M}"
    return cells
