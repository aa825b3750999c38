"""Reports and tables from the `results.json` of a finished study.

Notable: results that name their kind are read by `registry`, and show themselves; those of the
other studies are plain values still, and shown by the functions below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lmlab.durable import write_text
from lmlab.errors import UserError
from lmlab.pages.page import Part, Section, render_page
from lmlab.pages.text import cell
from lmlab.pages.wording import capital
from lmlab.results import PAGE, RESULTS, Result, made_by, read_values
from lmlab.topics.registry import KINDS, from_values
from lmlab.topics.towers.report import summary as towers_summary
from lmlab.topics.towers.report import towers_page, towers_rows, towers_sections
from lmlab.topics.towers.report import verdict as towers_verdict

Rows = tuple[Sequence[str], list[list[str]]]


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


_IN_TOUR = {
    "towers": _InTour(
        towers_page, towers_rows, towers_sections,
        lambda r: towers_summary(r["parts"]),
        lambda r: " ".join(f"{capital(towers_verdict(part))}." for part in r["parts"]),
    ),
}  # fmt: skip


def tour_page(results: dict[str, Any]) -> str:
    """The page of a tour: its parts one after the other, their findings in short at the top."""
    findings = [" ".join(row) for row in _tour_findings(results)]
    return render_page(
        results["title"],
        "\n\n".join([_TOUR, *findings]),
        parts=[_tour_part(part) for part in results["parts"]],
        footer=made_by(results["environment"]),
    )


_TOUR = (
    "Every study of lmlab in its smallest form. A model reads a hundred thousand tokens or so, and "
    "what is found here is found of very small models early in training."
)


def _tour_rows(results: dict[str, Any]) -> Rows:
    return ["question", "finding"], _tour_findings(results)


def _tour_part(values: dict[str, Any]) -> Part:
    result = _typed(values, where=values["heading"])
    if result is None:
        study = _IN_TOUR[values["study"]]
        return Part(values["heading"], study.summary(values), study.sections(values))
    return Part(values["heading"], result.report.summary, result.report.sections)


def _tour_findings(results: dict[str, Any]) -> list[list[str]]:
    """The question and the one-sentence finding of each part."""
    rows = []
    for values in results["parts"]:
        result = _typed(values, where=values["heading"])
        said = _IN_TOUR[values["study"]].short(values) if result is None else _headline(result)
        rows.append([values["heading"], said])
    return rows


def _typed(values: Mapping[str, Any], *, where: str) -> Result | None:
    """A result that names its kind; None for the plain values of a study that has none.

    The `heading` of a part of the tour is left out.
    """
    if "kind" not in values:
        return None
    return from_values({k: v for k, v in values.items() if k != "heading"}, where=where)


def _headline(result: Result) -> str:
    return cast(Any, result.view_module).headline(result)


_STUDIES: dict[str, _Study] = {
    **_IN_TOUR,
    "tour": _Study(tour_page, _tour_rows),
}


def read_results(folder: Path) -> dict[str, Any]:
    """The values of a finished study; `UserError` if there are none, or they are damaged."""
    if not (file := folder / RESULTS).exists():
        raise UserError(f"{folder}: no {RESULTS}; run the study first")
    results = read_values(file)
    if results.get("kind") not in KINDS and results.get("study") not in _STUDIES:
        raise UserError(f"{file}: not the results of a study that has a report")
    return results


def redraw(folder: Path) -> Path:
    """Writes report.html beside results.json again; returns its path."""
    values = read_results(folder)
    try:
        result = _typed(values, where=str(folder / RESULTS))
        page = _STUDIES[values["study"]].page(values) if result is None else result.page()
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{folder / RESULTS}: made by another version of lmlab, or edited ({error!r})"
        ) from error
    write_text(folder / PAGE, page)
    return folder / PAGE


def result_rows(folder: Path) -> Rows:
    """The finding of a study, a row a comparison; the report has the whole table."""
    values = read_results(folder)
    result = _typed(values, where=str(folder / RESULTS))
    if result is None:
        return _STUDIES[values["study"]].rows(values)
    table = result.tables()[0]
    return table.columns, [[cell(v, where=table.caption)[0] for v in row] for row in table.rows]
