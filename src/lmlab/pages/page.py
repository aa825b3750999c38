"""One self-contained HTML page: a summary, then sections of paragraphs, figures and tables; or
several parts of such sections, each with a summary of its own.

Notable:
- No script and no request of any kind; the page's own policy (CSP) forbids both, so it can be
  mailed, archived or opened from a disk.
- The markup is page.html.jinja, which escapes every value; only the SVG of a `Figure` is markup,
  and only `figures` makes it.
- What is long is folded: tables of many rows, and in a page of several parts all sections but the
  first of each. A link to a section opens it, and so does printing.
- Behind every figure and table is its data as CSV, a link that holds the file itself.
- The same input gives the same bytes.
- Needs no matplotlib: `figures` has done the drawing.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from lmlab.durable import write_text
from lmlab.errors import UserError
from lmlab.pages import svg
from lmlab.pages.text import cell, escape, printable
from lmlab.pages.theme import COLOURS, PASSAGE_LEVELS

SECTIONS_BEFORE_CONTENTS = 4  # fewer than this are seen by scrolling; more get a list of links
FOLDED_ROWS = 12  # a table with more rows is folded
SENTENCE = 50  # characters above which a cell's column is kept wide
SAID_ONCE = 12  # characters that a text has at least that is not repeated in every row


class Link(str):
    """A cell of a table that leads to a file, by its path from the page."""

    path: Path

    def __new__(cls, text: str, path: Path) -> Self:
        link = super().__new__(cls, text)
        link.path = path
        return link


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers; the first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]
    caption: str

    def csv(self) -> str:
        """The table as CSV: numbers whole, whatever decimals the page shows; lines end in \\n."""
        file = io.StringIO()
        rows = [
            [
                v if isinstance(v, str) else repr(float(v) if isinstance(v, float) else int(v))
                for v in row
            ]
            for row in self.rows
        ]
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([[printable(text) for text in row] for row in [self.columns, *rows]])
        return file.getvalue()

    @property
    def file_name(self) -> str:
        """A name for the file of `csv`, from the caption."""
        plain = unicodedata.normalize("NFKD", self.caption).encode("ascii", "ignore").decode()
        words = re.findall(r"[a-z0-9]+(?:\.[0-9]+)?", plain.lower())
        name = ""
        for word in words:
            if len(f"{name}-{word}") > 60:
                break
            name = f"{name}-{word}".lstrip("-")
        return f"{name or 'data'}.csv"


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
    """A drawing. `finding` says what it shows ("": nothing to say), `alt` describes it, `data` is
    what it is of."""

    finding: str
    drawing: str = field(repr=False)
    alt: str
    caption: str = ""
    legend: Sequence[LegendEntry] = field(default=(), repr=False)
    data: Table | None = field(default=None, repr=False)

    def svg(self) -> str:
        """The drawing with its legend, in light colours, as an SVG document."""
        return svg.alone(self.drawing, self.legend)

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
            f'alt="{escape(self.alt)}" style="width:34em"><p>{escape(self.caption)}</p>'
        )


@dataclass(frozen=True)
class Passage:
    """Text whose tokens have a colour each: of strength -1 to 1, the first series' above zero, the
    second's below (underlined too, so that colour is not all there is); `notes`, one a token, are
    shown where it is pointed at."""

    finding: str
    tokens: Sequence[tuple[str, float]]
    caption: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert len(self.notes) in (0, len(self.tokens)), "a note for each token"


@dataclass(frozen=True)
class Section:
    """A heading of a page, and what stands below it."""

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


@dataclass(frozen=True)
class _Cells:
    """A table as it is shown: its texts, the class of each column, and what it says but once."""

    columns: list[str]
    rows: list[list[str]]
    kinds: list[Markup]
    in_every_row: str


def _kind(cells: Sequence[tuple[str, bool]]) -> Markup:
    """The class of a column. It is set to the right as soon as one of its cells is a number: "n/a"
    then stands under the numbers, and the heading above them. Sentences get room."""
    if any(right for _, right in cells):
        return Markup(' class="n"')
    return Markup(' class="w"' if any(len(text) > SENTENCE for text, _ in cells) else "")


def _cells(table: Table) -> _Cells:
    """A column in which every row says the same long text is not shown, but said beside it."""
    where = f"table '{table.caption}'"
    if not table.columns:
        raise UserError(f"{where} has no columns; give at least one")
    for i, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise UserError(
                f"{where}: row {i + 1} has {len(row)} cells for {len(table.columns)} columns; "
                "give one cell a column"
            )
    columns = [
        (name, [cell(row[j], where=where) for row in table.rows])
        for j, name in enumerate(table.columns)
    ]
    once = [
        (name, cells[0][0])
        for name, cells in columns
        if len(cells) > 1 and len(set(cells)) == 1 and len(cells[0][0]) >= SAID_ONCE
    ]
    if len(once) == len(columns):
        once = []
    shown = [(name, cells) for name, cells in columns if name not in dict(once)]
    return _Cells(
        columns=[name for name, _ in shown],
        rows=[
            list(row)
            for row in zip(*([text for text, _ in cells] for _, cells in shown), strict=True)
        ],
        kinds=[_kind(cells) for _, cells in shown],
        in_every_row="; ".join(f"{name}: {text}".strip(": ") for name, text in once),
    )


def _data_link(table: Table) -> Markup:
    """The address that holds a table's CSV; spaces, quotes and all that is not ASCII encoded."""
    return Markup("data:text/csv;charset=utf-8," + quote(table.csv(), safe=",;:/?@!$()*+=[]|"))


def _coloured(passage: Passage) -> list[tuple[str, str, str]]:
    """The texts of a passage, each with the class of its colour and its note ("" for none)."""
    coloured = []
    notes = passage.notes or [""] * len(passage.tokens)
    for (text, strength), note in zip(passage.tokens, notes, strict=True):
        if not -1 <= strength <= 1:
            raise UserError(
                f"passage '{passage.finding}': {strength} is no strength from -1 to 1; scale it"
            )
        level = round(PASSAGE_LEVELS * abs(strength))
        coloured.append((text, f"{'a' if strength > 0 else 'b'}{level}" if level else "", note))
    return coloured


def _shown(value: object) -> Markup:
    if isinstance(value, Link):
        href = quote(value.path.as_posix())
        return Markup(f'<a href="{href}">{escape(value)}</a>')
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
        folded_rows=FOLDED_ROWS,
        data_link=_data_link,
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
