"""Reports and tables from the `results.json` of a finished study.

Notable: results that name their kind are read by `registry`, and show themselves; those of the
tour are plain values still, and shown by the functions below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lmlab.durable import write_text
from lmlab.errors import UserError
from lmlab.pages.page import Part, render_page
from lmlab.pages.text import cell
from lmlab.results import PAGE, RESULTS, Result, made_by, read_values
from lmlab.topics.registry import KINDS, from_values

Rows = tuple[Sequence[str], list[list[str]]]


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


def _tour_part(values: dict[str, Any]) -> Part:
    result = _typed(values, where=values["heading"])
    assert result is not None
    return Part(values["heading"], result.report.summary, result.report.sections)


def _tour_findings(results: dict[str, Any]) -> list[list[str]]:
    """The question and the one-sentence finding of each part."""
    rows = []
    for values in results["parts"]:
        result = _typed(values, where=values["heading"])
        assert result is not None
        rows.append([values["heading"], cast(Any, result.view_module).headline(result)])
    return rows


def _typed(values: Mapping[str, Any], *, where: str) -> Result | None:
    """A result that names its kind; None for the plain values of a study that has none.

    The `heading` of a part of the tour is left out.
    """
    if "kind" not in values:
        return None
    return from_values({k: v for k, v in values.items() if k != "heading"}, where=where)


def read_results(folder: Path) -> dict[str, Any]:
    """The values of a finished study; `UserError` if there are none, or they are damaged."""
    if not (file := folder / RESULTS).exists():
        raise UserError(f"{folder}: no {RESULTS}; run the study first")
    results = read_values(file)
    if results.get("kind") not in KINDS and results.get("study") != "tour":
        raise UserError(f"{file}: not the results of a study that has a report")
    return results


def redraw(folder: Path) -> Path:
    """Writes report.html beside results.json again; returns its path."""
    values = read_results(folder)
    try:
        result = _typed(values, where=str(folder / RESULTS))
        page = tour_page(values) if result is None else result.page()
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
        return ["question", "finding"], _tour_findings(values)
    table = result.tables()[0]
    return table.columns, [[cell(v, where=table.caption)[0] for v in row] for row in table.rows]
