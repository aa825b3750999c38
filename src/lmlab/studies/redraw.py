"""Reports and tables from the `results.json` of a finished study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmlab.durable import write_text
from lmlab.errors import UserError
from lmlab.studies.arrow_report import arrow_page, comparison_name, verdict


def _results(folder: Path) -> dict[str, Any]:
    file = folder / "results.json"
    try:
        results = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no results.json; run the study first") from error
    except ValueError as error:
        raise UserError(f"{file}: damaged: {error}") from error
    if not isinstance(results, dict) or results.get("study") != "arrow":
        raise UserError(f"{file}: not the results of a study that has a report")
    return results


def redraw(folder: Path) -> Path:
    """Writes report.html beside results.json again; returns its path."""
    results = _results(folder)
    try:
        page = arrow_page(results)
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{folder / 'results.json'}: made by another version of lmlab, or edited ({error!r})"
        ) from error
    write_text(folder / "report.html", page)
    return folder / "report.html"


def result_rows(folder: Path) -> tuple[list[str], list[list[str]]]:
    """The finding of a study, a row a comparison; the report has the whole table."""
    return ["comparison", "verdict"], [
        [comparison_name(cell), verdict(cell)] for cell in _results(folder)["cells"]
    ]
