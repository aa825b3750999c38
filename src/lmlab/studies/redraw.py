"""Reports and tables from the `results.json` of a finished study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmlab.durable import from_json, write_text
from lmlab.errors import UserError
from lmlab.report.page import render_page
from lmlab.studies.arrow_report import arrow_page, arrow_sections, summary
from lmlab.studies.arrow_words import comparison_name, verdict
from lmlab.studies.decomposition_report import decomposition_page
from lmlab.studies.decomposition_tables import interval_text
from lmlab.studies.encoding_report import MODEL_COLUMNS, encoding_page, model_rows
from lmlab.studies.finetune_report import finetune_page, finetune_rows
from lmlab.studies.headless_report import headless_page, headless_sections, row_name
from lmlab.studies.headless_report import summary as headless_summary
from lmlab.studies.headless_report import verdict as headless_verdict
from lmlab.studies.towers_report import towers_page, towers_rows
from lmlab.studies.words import made_by


def tour_page(results: dict[str, Any]) -> str:
    """The page of a tour: the sections of its parts, one after the other."""
    sections = [
        replace(section, title=f"{part['title']}: {section.title[0].lower()}{section.title[1:]}")
        for part in results["parts"]
        for section in (headless_sections if _headless(part) else arrow_sections)(part)
    ]
    findings = "\n\n".join(
        headless_summary(part["parts"]) if _headless(part) else summary(part["cells"])
        for part in results["parts"]
    )
    return render_page(results["title"], findings, sections, footer=made_by(results["environment"]))


def _headless(part: dict[str, Any]) -> bool:
    return part["study"] == "headless"


Rows = tuple[list[str], list[list[str]]]


def _arrow_rows(results: dict[str, Any]) -> Rows:
    return ["comparison", "verdict"], [
        [comparison_name(cell), verdict(cell)] for cell in results["cells"]
    ]


def _headless_rows(results: dict[str, Any]) -> Rows:
    return ["model and head", "verdict"], [
        [f"{row_name(row)}, vocabulary {part['vocabulary']:,}", headless_verdict(row)]
        for part in results["parts"]
        for row in part["rows"]
    ]


def _decomposition_rows(results: dict[str, Any]) -> Rows:
    return ["target, from all others", "R² on test [95 %]"], [
        [name, interval_text(found["interval"])]
        for name, found in results["main"]["targets"].items()
    ]


def _encoding_rows(results: dict[str, Any]) -> Rows:
    return [*MODEL_COLUMNS], [row for part in results["parts"] for row in model_rows(part)]


def _tour_rows(results: dict[str, Any]) -> Rows:
    rows = [
        row
        for part in results["parts"]
        for row in (_headless_rows if _headless(part) else _arrow_rows)(part)[1]
    ]
    return ["comparison, or model and head", "verdict"], rows


_STUDIES: dict[str, tuple[Callable[[dict[str, Any]], str], Callable[[dict[str, Any]], Rows]]] = {
    "arrow": (arrow_page, _arrow_rows),
    "decomposition": (decomposition_page, _decomposition_rows),
    "encoding": (encoding_page, _encoding_rows),
    "finetune": (finetune_page, finetune_rows),
    "headless": (headless_page, _headless_rows),
    "tour": (tour_page, _tour_rows),
    "towers": (towers_page, towers_rows),
}
"""The page of each study, and its table."""


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a finished study; `UserError` if there are none, or they are damaged."""
    file = folder / "results.json"
    try:
        results = from_json(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no results.json; run the study first") from error
    except ValueError as error:
        raise UserError(f"{file}: damaged: {error}") from error
    if not isinstance(results, dict) or results.get("study") not in _STUDIES:
        raise UserError(f"{file}: not the results of a study that has a report")
    return results


def redraw(folder: Path) -> Path:
    """Writes report.html beside results.json again; returns its path."""
    results = read_results(folder)
    try:
        page = _STUDIES[results["study"]][0](results)
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{folder / 'results.json'}: made by another version of lmlab, or edited ({error!r})"
        ) from error
    write_text(folder / "report.html", page)
    return folder / "report.html"


def result_rows(folder: Path) -> Rows:
    """The finding of a study, a row a comparison; the report has the whole table."""
    results = read_results(folder)
    return _STUDIES[results["study"]][1](results)
