"""One self-contained HTML page: a summary, then sections of paragraphs, figures and tables; or
several parts of such sections, each with a summary of its own.

Notable:
- No script and no request of any kind; the page's own policy (CSP) forbids both, so it can be
  mailed, archived or opened from a disk.
- Every string is escaped; only the SVG of a `Figure` is markup, and only `figures` makes it.
- Each figure is there twice, for wide and for narrow screens; a media query shows one of them.
- The same input gives the same bytes.
- Needs no matplotlib: `figures` has done the drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmlab.errors import UserError
from lmlab.pages import svg
from lmlab.pages.text import cell, escape
from lmlab.pages.theme import CSS, PASSAGE_LEVELS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
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


def _paragraphs(text: str) -> str:
    parts = [part.strip() for part in text.split("\n\n")]
    return "".join(f"<p>{escape(part)}</p>\n" for part in parts if part)


def _legend(entries: Sequence[LegendEntry]) -> str:
    if not entries:
        return ""
    items = []
    for entry in entries:
        paint = (
            f"fill:var(--{entry.colour})"
            if entry.filled
            else f"fill:none;stroke:var(--{entry.colour});stroke-width:2.5"
        )
        dash = f";stroke-dasharray:{entry.dash}" if entry.dash else ""
        items.append(
            '<li><svg class="key" viewBox="0 0 26 12" aria-hidden="true">'
            f'<path d="{entry.path}" style="{paint}{dash}"/></svg>'
            f"<span>{escape(entry.label)}</span></li>\n"
        )
    return f'<ul class="legend">\n{"".join(items)}</ul>\n'


def _figure(figure: Figure, position: str) -> str:
    wide = svg.inline(figure.svg_wide, prefix=f"{position}w-", alt=figure.alt)
    narrow = svg.inline(figure.svg_narrow, prefix=f"{position}n-", alt=figure.alt)
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>\n" if figure.caption else ""
    return (
        f'<figure>\n<p class="finding">{escape(figure.finding)}</p>\n{_legend(figure.legend)}'
        f'<div class="wide">{wide}</div>\n<div class="narrow">{narrow}</div>\n{caption}</figure>\n'
    )


def _table(table: Table) -> str:
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
    kind = [' class="n"' if is_right else "" for is_right in right]
    head = "".join(
        f'<th scope="col"{k}>{escape(column)}</th>'
        for k, column in zip(kind, table.columns, strict=True)
    )
    body = ""
    for row in cells:
        first, *rest = (escape(text) for text, _ in row)
        body += f'<tr><th scope="row"{kind[0]}>{first}</th>'
        body += "".join(f"<td{k}>{text}</td>" for k, text in zip(kind[1:], rest, strict=True))
        body += "</tr>\n"
    # Focusable, so that a keyboard can scroll it too.
    return (
        f'<div class="scroll" role="region" aria-label="{escape(table.caption)}" tabindex="0">\n'
        f"<table>\n<caption>{escape(table.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _passage(passage: Passage) -> str:
    parts = []
    for text, strength in passage.tokens:
        if not -1 <= strength <= 1:
            raise UserError(
                f"passage '{passage.finding}': {strength} is no strength from -1 to 1; scale it"
            )
        level = round(PASSAGE_LEVELS * abs(strength))
        kind = f' class="{"a" if strength > 0 else "b"}{level}"' if level else ""
        parts.append(f"<span{kind}>{escape(text)}</span>")
    caption = f"<figcaption>{escape(passage.caption)}</figcaption>\n" if passage.caption else ""
    return (
        f'<figure>\n<p class="finding">{escape(passage.finding)}</p>\n'
        f'<div class="passage">{"".join(parts)}</div>\n{caption}</figure>\n'
    )


def _section(section: Section, number: str, *, level: int) -> str:
    heading = f"<h{level}>{escape(section.title)}</h{level}>"
    parts = [f'<section id="section-{number}">\n{heading}\n']
    parts += [_paragraphs(text) for text in section.paragraphs]
    parts += [_figure(f, f"s{number}f{i}") for i, f in enumerate(section.figures, start=1)]
    parts += [_passage(passage) for passage in section.passages]
    parts += [_table(table) for table in section.tables]
    return "".join(parts) + "</section>\n"


def _part(part: Part, number: int) -> str:
    sections = "".join(
        _section(section, f"{number}-{i}", level=3)
        for i, section in enumerate(part.sections, start=1)
    )
    return (
        f'<section class="part" id="part-{number}">\n<h2>{escape(part.title)}</h2>\n'
        f"{_summary(part.summary)}{sections}</section>\n"
    )


def _summary(text: str) -> str:
    return f'<div class="summary">\n{_paragraphs(text)}</div>\n'


def _contents(links: str) -> str:
    return f'<nav aria-label="Contents"><ul>\n{links}</ul></nav>\n'


def _link(place: str, title: str, inside: str = "") -> str:
    return f'<li><a href="#{place}">{escape(title)}</a>{inside}</li>\n'


def _inner_links(part: Part, number: int) -> str:
    links = (
        _link(f"section-{number}-{i}", section.title)
        for i, section in enumerate(part.sections, start=1)
    )
    return f"<ul>\n{''.join(links)}</ul>"


def render_page(title: str, summary: str, sections: Sequence[Section], *, footer: str = "") -> str:
    """The page as text, to be written in UTF-8.

    `summary` holds the main finding; a blank line starts a new paragraph, there and in sections.

    Raises `UserError` for a table whose rows do not fit its columns or hold no plain values.
    """
    links = [_link(f"section-{i}", s.title) for i, s in enumerate(sections, start=1)]
    return _page(
        title,
        summary,
        _contents("".join(links)) if len(links) >= SECTIONS_BEFORE_CONTENTS else "",
        "".join(_section(s, str(i), level=2) for i, s in enumerate(sections, start=1)),
        footer,
    )


def render_parts(title: str, summary: str, parts: Sequence[Part], *, footer: str = "") -> str:
    """The page of several parts, with a table of contents; otherwise as `render_page`."""
    links = [
        _link(f"part-{i}", part.title, _inner_links(part, i))
        for i, part in enumerate(parts, start=1)
    ]
    body = "".join(_part(part, i) for i, part in enumerate(parts, start=1))
    return _page(title, summary, _contents("".join(links)), body, footer)


def _page(title: str, summary: str, contents: str, body: str, footer: str) -> str:
    end = f"<footer><p>{escape(footer)}</p></footer>\n" if footer else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        # An empty icon: without it a browser asks the server for one.
        f'<link rel="icon" href="data:,">\n<style>{CSS}</style>\n</head>\n<body>\n'
        f"<header>\n<h1>{escape(title)}</h1>\n{_summary(summary)}{contents}</header>\n"
        f"<main>\n{body}</main>\n{end}</body>\n</html>\n"
    )
