"""Training runs: the list of them, following them, and the pages of what there is."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path

from lmlab.cli.printing import print_table
from lmlab.durable import write_text
from lmlab.errors import UserError
from lmlab.results import PAGE, RESULTS
from lmlab.topics.runs.listing import (
    COLUMNS,
    SHOWN,
    FoundRun,
    check_removable,
    children_of,
    list_runs,
    remove_run,
    shown,
    size_in_words,
)
from lmlab.topics.runs.options import ReportConfig, RunsConfig, WatchConfig

_UNDER_WAY = "under-way.html"  # by a study's own page workers know that it is done


def runs(config: RunsConfig) -> None:
    found = list_runs(
        config.folder, where=config.where, sort=config.sort, descending=config.descending
    )
    if config.json:
        print(json.dumps([asdict(run.row) for run in found], indent=2))
    elif config.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(run.row, name) for name in COLUMNS] for run in found)
    elif not found:
        such = " such" if config.where else ""
        raise UserError(f"{config.folder}: no{such} training run below it")
    else:
        print_table(SHOWN, [shown(run.row) for run in found])
        if config.delete:
            _delete(config, found)


def _delete(config: RunsConfig, found: list[FoundRun]) -> None:
    check_removable(found)
    total = sum(run.row.bytes for run in found)
    lost = f"{len(found)} runs, {size_in_words(total)}"
    if children := children_of([run.path for run in found], list_runs(config.folder)):
        named = ", ".join(child.row.run for child in children)
        lost += f". Without them these can neither be resumed nor repeated: {named}"
    if not config.yes:
        if not sys.stdin.isatty():
            raise UserError(f"{lost}. To remove them without a question: `yes`")
        if input(f"{lost}. Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
    for run in found:
        remove_run(run.path)
    print(f"removed {lost}")


def watch(config: WatchConfig) -> None:
    from lmlab.topics.runs.watch import show, watch

    show(watch(config))


def report(config: ReportConfig) -> None:
    folder = config.folder
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    print(f"report: {_page(folder, config.lab or folder.parent).resolve()}")


def _page(folder: Path, lab: Path) -> Path:
    from lmlab.studies.status import PLAN
    from lmlab.topics.registry import redraw

    if (folder / RESULTS).is_file():
        return redraw(folder)
    from lmlab.topics.runs.report import study_page, write_index
    from lmlab.topics.runs.training_run import read_run

    if (folder / "config.toml").is_file():
        write_text(folder / PAGE, read_run(folder).page())
        return folder / PAGE
    if (folder / PLAN).is_file():
        write_text(folder / _UNDER_WAY, study_page(folder, lab))
        return folder / _UNDER_WAY
    return write_index(folder)
