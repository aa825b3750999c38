"""Reports and tables from the `results.json` of a finished study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.durable import from_json, write_text
from lmlab.errors import UserError
from lmlab.pages.page import Part, Section, render_parts
from lmlab.results import made_by
from lmlab.topics.arrow.family import mean_name, mean_words
from lmlab.topics.arrow.findings import comparison_name, verdict
from lmlab.topics.arrow.linear_languages import level_words, levels
from lmlab.topics.arrow.report import arrow_page, arrow_sections, summary
from lmlab.topics.decomposition.report import decomposition_page, decomposition_sections
from lmlab.topics.decomposition.report import summary as decomposition_summary
from lmlab.topics.decomposition.tables import group_finding, interval_text
from lmlab.topics.encoding.report import (
    MODEL_COLUMNS,
    encoding_page,
    encoding_sections,
    model_rows,
)
from lmlab.topics.encoding.report import summary as encoding_summary
from lmlab.topics.encoding.tables import explained
from lmlab.topics.finetuning.report import finetune_page, finetune_rows
from lmlab.topics.headless.report import headless_page, headless_sections, row_name
from lmlab.topics.headless.report import summary as headless_summary
from lmlab.topics.headless.report import verdict as headless_verdict
from lmlab.topics.towers.report import summary as towers_summary
from lmlab.topics.towers.report import towers_page, towers_rows, towers_sections
from lmlab.topics.towers.report import verdict as towers_verdict

Rows = tuple[list[str], list[list[str]]]


def _arrow_rows(results: dict[str, Any]) -> Rows:
    return ["comparison", "verdict"], [
        *([comparison_name(cell), verdict(cell)] for cell in results["cells"]),
        *([level.name, level_words(level)] for level in levels(results["cells"])),
        *([mean_name(mean), mean_words(mean)] for mean in results["means"]),
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


@dataclass(frozen=True)
class _Study:
    """How the results of a study are shown."""

    page: Callable[[dict[str, Any]], str]
    rows: Callable[[dict[str, Any]], Rows]


@dataclass(frozen=True)
class _InTour(_Study):
    """A study that can be a part of a tour."""

    sections: Callable[[dict[str, Any]], list[Section]]
    summary: Callable[[dict[str, Any]], str]
    short: Callable[[dict[str, Any]], str]
    """Its finding in a sentence."""


def _decomposition_short(results: dict[str, Any]) -> str:
    return group_finding(results["main"])


def _encoding_short(results: dict[str, Any]) -> str:
    found = [
        f"{m['label']} {explained(m['encoding'])}"
        for part in results["parts"]
        for m in part["models"]
    ]
    return (
        "R² of -log mean probability by a linear function of the embedding and the bias, held out "
        f"(root mean square error): {'; '.join(found)}."
    )


_IN_TOUR = {
    "arrow": _InTour(
        arrow_page, _arrow_rows, arrow_sections,
        lambda r: summary(r["cells"], r["means"]),
        lambda r: " ".join(f"{_capital(verdict(cell))}." for cell in r["cells"]),
    ),
    "decomposition": _InTour(
        decomposition_page, _decomposition_rows, decomposition_sections, decomposition_summary,
        _decomposition_short,
    ),
    "encoding": _InTour(
        encoding_page, _encoding_rows, encoding_sections, encoding_summary, _encoding_short
    ),
    "headless": _InTour(
        headless_page, _headless_rows, headless_sections,
        lambda r: headless_summary(r["parts"]),
        lambda r: " ".join(_headless_short(part) for part in r["parts"]),
    ),
    "towers": _InTour(
        towers_page, towers_rows, towers_sections,
        lambda r: towers_summary(r["parts"]),
        lambda r: " ".join(f"{_capital(towers_verdict(part))}." for part in r["parts"]),
    ),
}  # fmt: skip


def _headless_short(part: dict[str, Any]) -> str:
    """The headless model with the prior, which costs nothing to add, against the baseline."""
    row = {row["key"]: row for row in part["rows"]}["headless"]
    return f"With the prior of cross-entropy, {headless_verdict(row)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def tour_page(results: dict[str, Any]) -> str:
    """The page of a tour: its parts one after the other, their findings in short at the top."""
    parts = [(part, _IN_TOUR[part["study"]]) for part in results["parts"]]
    findings = [f"{part['heading']} {study.short(part)}" for part, study in parts]
    return render_parts(
        results["title"],
        "\n\n".join([_TOUR, *findings]),
        [Part(part["heading"], study.summary(part), study.sections(part)) for part, study in parts],
        footer=made_by(results["environment"]),
    )


_TOUR = (
    "Every study of lmlab in its smallest form. A model reads a hundred thousand tokens or so, and "
    "what is found here is found of very small models early in training."
)


def _tour_rows(results: dict[str, Any]) -> Rows:
    return ["question", "finding"], [
        [part["heading"], _IN_TOUR[part["study"]].short(part)] for part in results["parts"]
    ]


_STUDIES: dict[str, _Study] = {
    **_IN_TOUR,
    "finetune": _Study(finetune_page, finetune_rows),
    "tour": _Study(tour_page, _tour_rows),
}


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
        page = _STUDIES[results["study"]].page(results)
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{folder / 'results.json'}: made by another version of lmlab, or edited ({error!r})"
        ) from error
    write_text(folder / "report.html", page)
    return folder / "report.html"


def result_rows(folder: Path) -> Rows:
    """The finding of a study, a row a comparison; the report has the whole table."""
    results = read_results(folder)
    return _STUDIES[results["study"]].rows(results)
