"""One self-contained HTML page: a summary, then sections of paragraphs, figures and tables; or
several parts of such sections, each with a summary of its own.

Notable:
- No script and no request of any kind; the page's own policy (CSP) forbids both, so it can be
  mailed, archived or opened from a disk.
- The markup is page.html.jinja, which escapes every value; only the SVG of a `Figure` is markup,
  and only `figures` makes it.
- Each figure is there twice, for wide and for narrow screens; a media query shows one of them.
- The same input gives the same bytes.
- Needs no matplotlib: `figures` has done the drawing.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from lmlab.durable import write_text
from lmlab.errors import UserError
from lmlab.pages import svg
from lmlab.pages.text import cell, escape
from lmlab.pages.theme import COLOURS, PASSAGE_LEVELS

SECTIONS_BEFORE_CONTENTS = 4  # fewer than this are seen by scrolling; more get a list of links


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers; the first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]
    caption: str


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend: its text, its colour (a variable of `theme`), its sample's path.

    `path` is in a box of 26 by 12; `filled` paths are markers, the others lines.
    """

    label: str
    colour: str
    path: str
    filled: bool = False
    dash: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing in two widths. `finding` is the sentence it shows, `alt` describes the drawing."""

    finding: str
    svg_wide: str
    svg_narrow: str
    alt: str
    caption: str = ""
    legend: Sequence[LegendEntry] = ()

    def svg(self) -> str:
        """The drawing with its legend, in light colours, as an SVG document."""
        return svg.alone(self.svg_wide, self.legend)

    def save(self, path: str | Path) -> None:
        """Writes `svg()` to a file, whose name ends in .svg. Raises `UserError` for another."""
        if Path(path).suffix != ".svg":
            raise UserError(f"{path}: a figure is written as SVG; give a name that ends in .svg")
        write_text(Path(path), self.svg())

    def _repr_html_(self) -> str:
        """What a notebook shows: as an image, since the ids of drawings in one document clash."""
        drawing = base64.b64encode(self.svg().encode()).decode()
        return (
            f'<p>{escape(self.finding)}</p><img src="data:image/svg+xml;base64,{drawing}" '
            f'alt="{escape(self.alt)}" style="width:46em"><p>{escape(self.caption)}</p>'
        )


@dataclass(frozen=True)
class Passage:
    """Text whose tokens have a colour each: of strength -1 to 1, the first series' above zero, the
    second's below (underlined too, so that colour is not all there is)."""

    finding: str
    tokens: Sequence[tuple[str, float]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    passages: Sequence[Passage] = ()


@dataclass(frozen=True)
class Part:
    """Sections under one heading, with a finding of their own."""

    title: str
    summary: str
    sections: Sequence[Section]


def _drawing(markup: str, prefix: str, alt: str) -> Markup:
    return Markup(svg.inline(markup, prefix=prefix, alt=alt))


def _cells(table: Table) -> tuple[list[list[str]], list[Markup]]:
    """The texts of a table's rows, and the class of each column."""
    where = f"table '{table.caption}'"
    if not table.columns:
        raise UserError(f"{where} has no columns; give at least one")
    for i, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise UserError(
                f"{where}: row {i + 1} has {len(row)} cells for {len(table.columns)} columns; "
                "give one cell a column"
            )
    cells = [[cell(value, where=where) for value in row] for row in table.rows]
    # A column is set to the right as soon as one of its cells is a number: "n/a" then stands
    # under the numbers, and the heading above them.
    right = [any(row[j][1] for row in cells) for j in range(len(table.columns))]
    kinds = [Markup(' class="n"' if is_right else "") for is_right in right]
    return [[text for text, _ in row] for row in cells], kinds


def _coloured(passage: Passage) -> list[tuple[str, str]]:
    """The texts of a passage, each with the class of its colour ("" for none)."""
    coloured = []
    for text, strength in passage.tokens:
        if not -1 <= strength <= 1:
            raise UserError(
                f"passage '{passage.finding}': {strength} is no strength from -1 to 1; scale it"
            )
        level = round(PASSAGE_LEVELS * abs(strength))
        coloured.append((text, f"{'a' if strength > 0 else 'b'}{level}" if level else ""))
    return coloured


def _shown(value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_shown,  # what markup cannot hold is taken out before anything is escaped
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    css = environment.get_template("page.css.jinja").render(
        colours=COLOURS, passage_levels=PASSAGE_LEVELS
    )
    environment.globals.update(
        css=css.replace("\n", ""),
        sections_before_contents=SECTIONS_BEFORE_CONTENTS,
        drawing=_drawing,
        cells=_cells,
        coloured=_coloured,
    )
    return environment.get_template("page.html.jinja")


def render_page(
    title: str,
    summary: str,
    sections: Sequence[Section] = (),
    *,
    parts: Sequence[Part] = (),
    footer: str = "",
) -> str:
    """The page as text, to be written in UTF-8.

    `summary` holds the main finding; a blank line starts a new paragraph, there and in sections.
    Several sections, and any parts, get a table of contents.

    Raises `UserError` for a table whose rows do not fit its columns or hold no plain values.
    """
    return _template().render(
        title=title, summary=summary, sections=sections, parts=parts, footer=footer
    )
