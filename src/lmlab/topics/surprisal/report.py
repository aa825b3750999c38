"""Tables and page of `lmlab surprisal`: the text in colour.

Notable: the page shows so much of a long list of texts as one looks at; `tables` have all of it.
"""

from __future__ import annotations

import math

import numpy as np

from lmlab.pages.page import Passage, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import Rounded
from lmlab.topics.surprisal.surprisal import Surprisal, TextSurprisal, Unit

_TEXTS, _ROWS, _UNITS = 20, 200, 2000  # of the page
_FULL_SHARE = 0.95
"""Of the units, those with less than full colour."""


def tables(result: Surprisal) -> list[Table]:
    """Every word or token; then every text; then every region."""
    by_region = _regions(result)
    return [_units(result), _texts(result), *([by_region] if by_region.rows else [])]


def csv_text(result: Surprisal) -> str:
    """The table of words or tokens as a csv file, numbers with all their digits."""
    return _units(result).csv()


def _units(result: Surprisal) -> Table:
    unit, word = result.measure, result.unit
    with_regions = any(u.region for text in result.texts for u in text.units)
    columns = ["text", "number", word, "start", "stop", *(["region"] if with_regions else [])]
    for label in _labels(result):
        columns += [_column(unit, label), _column("tokens alone", label), _column("tokens", label)]
    if len(result.models) == 2:
        columns.append("difference")
    rows: list[list[str | float | int]] = []
    for text in result.texts:
        for number, each in enumerate(text.units, 1):
            row: list[str | float | int] = [text.id, number, each.text, each.start, each.stop]
            row += [each.region] if with_regions else []
            for nats, alone, tokens in zip(each.nats, each.uncorrected, each.tokens, strict=True):
                row += [_shown(result, nats), _shown(result, alone), tokens]
            if len(result.models) == 2:
                row.append(_shown(result, each.nats[0] - each.nats[1]))
            rows.append(row)
    caption = f"Surprisal of each {word} in {unit}; start and stop are characters of the text."
    return Table(columns, rows, caption)


def _shown(result: Surprisal, nats: float) -> float:
    return Rounded(result.scale * nats, 4)


def _column(name: str, label: str) -> str:
    return f"{name}, {label}" if label else name


def _labels(result: Surprisal) -> list[str]:
    """What tells the models apart in columns; nothing for one alone."""
    names = [model.name for model in result.models]
    if len(names) == 1:
        return [""]
    return names if names[0] != names[1] else ["first", "second"]


def _texts(result: Surprisal) -> Table:
    rows: list[list[str | float | int]] = []
    for text in result.texts:
        size = len(text.text.encode("utf-8"))
        for number, (model, total) in enumerate(zip(result.models, text.totals, strict=True)):
            in_units = sum(unit.nats[number] for unit in text.units)
            rows.append(
                [
                    text.id, model.name, len(text.units), total.tokens,
                    _shown(result, in_units), _shown(result, total.start),
                    _shown(result, total.nats - in_units - total.start),
                    _shown(result, total.nats), Rounded(total.nats / math.log(2) / size, 4),
                ]
            )  # fmt: skip
    unit = result.unit
    columns = [
        "text", "model", f"{unit}s", "tokens", f"{result.measure} of {unit}s", "at the start",
        "at the end", f"{result.measure} of tokens", "bits per byte",
    ]  # fmt: skip
    if unit == "token":  # they are what adds up, and nothing is left
        return Table(
            [*columns[:3], *columns[7:]], [[*row[:3], *row[7:]] for row in rows], "Each text."
        )
    caption = f"Each text: {unit}s, and what is left at its start and end, add up to its tokens."
    return Table(columns, rows, caption)


def _regions(result: Surprisal) -> Table:
    rows: list[list[str | float | int]] = []
    for text in result.texts:
        for region in sorted({unit.region for unit in text.units} - {0}):
            units = [unit for unit in text.units if unit.region == region]
            rows.append(
                [
                    text.id, region, text.text[units[0].start : units[-1].stop].strip(),
                    *(
                        _shown(result, sum(unit.nats[number] for unit in units))
                        for number in range(len(result.models))
                    ),
                ]
            )  # fmt: skip
    names = [_column(result.measure, label) for label in _labels(result)]
    return Table(["text", "region", "words", *names], rows, "Surprisal of each region.")


def report(result: Surprisal) -> Report:
    """The texts in colour, what the colours mean, and tables."""
    full = _full(result)
    shown = result.texts[:_TEXTS]
    passages = [_scale(result, full), *(_passage(text, result, full) for text in shown)]
    paragraphs = []
    if len(shown) < len(result.texts):
        paragraphs.append(
            f"The first {len(shown)} of {len(result.texts):,} texts; the tables of surprisal.csv "
            "and results.json have all of them."
        )
    units, *others = tables(result)
    sections = [
        Section("The text", paragraphs, passages=passages),
        Section("Totals", tables=[_first(table) for table in others]),
        Section(f"{result.unit.capitalize()}s", tables=[_first(units)]),
        Section("Methods", _methods(result)),
    ]
    names = " and ".join(model.name for model in result.models)
    return Report(f"Surprisal under {names}", _finding(result), sections)


def _first(table: Table) -> Table:
    if len(table.rows) <= _ROWS:
        return table
    more = f" The first {_ROWS} of {len(table.rows):,} rows."
    return Table(table.columns, table.rows[:_ROWS], table.caption + more)


def _all_units(result: Surprisal) -> list[Unit]:
    return [unit for text in result.texts for unit in text.units]


def _strength(unit: Unit) -> float:
    """What is coloured, in nats: surprisal, or the difference of two."""
    return unit.nats[0] if len(unit.nats) == 1 else unit.nats[0] - unit.nats[1]


def _full(result: Surprisal) -> float:
    """The nats of full colour."""
    sizes = [abs(_strength(unit)) for unit in _all_units(result)]
    return max(float(np.quantile(sizes, _FULL_SHARE)), 1e-9) if sizes else 1.0


def _scale(result: Surprisal, full: float) -> Passage:
    top, unit = result.scale * full, result.measure
    if len(result.models) == 1:
        steps = [(f" {top * share:.1f} ", share) for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
        finding = f"The deeper the colour, the more surprising the {result.unit}."
        return Passage(
            finding, steps, f"Surprisal in {unit}; the deepest colour is {top:.1f} or more."
        )
    steps = [(f" {top * share:+.1f} ", share) for share in (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0)]
    first, second = _labels(result)
    return Passage(
        f"Blue: {first} is more surprised; red and dotted: {second} is.",
        steps,
        f"Surprisal under {first} minus that under {second}, in {unit}; the deepest colours are "
        f"{top:.1f} or more.",
    )


def _passage(text: TextSurprisal, result: Surprisal, full: float) -> Passage:
    pieces: list[tuple[str, float]] = []
    notes: list[str] = []
    at = 0
    for unit in text.units[:_UNITS]:
        start = max(at, unit.start)
        if at < start:
            pieces.append((text.text[at:start], 0.0))
            notes.append("")
        strength = min(1.0, max(-1.0, _strength(unit) / full))
        pieces.append((text.text[start : unit.stop], strength))
        values = " and ".join(f"{result.scale * nats:.2f}" for nats in unit.nats)
        notes.append(f"{values} {result.measure}")
        at = max(at, unit.stop)
    rest = len(text.units) - _UNITS
    caption = (
        f"Its first {_UNITS:,} {result.unit}s; {rest:,} more are not shown." if rest > 0 else ""
    )
    totals = " and ".join(
        f"{result.scale * np.mean([unit.nats[n] for unit in text.units]):.2f}"
        for n in range(len(result.models))
    )
    finding = f"{text.id}: {totals} {result.measure} a {result.unit}"
    return Passage(f"{finding}.", pieces, caption, notes)


def _finding(result: Surprisal) -> str:
    units = _all_units(result)
    means = [
        result.scale * float(np.mean([unit.nats[n] for unit in units]))
        for n in range(len(result.models))
    ]
    where = f"in {len(result.texts):,} text{'s' if len(result.texts) > 1 else ''}"
    count = f"{len(units):,} {result.unit}{'s' * (len(units) > 1)} {where}"
    if len(means) == 1:
        text = (
            f"{result.models[0].name} ({result.models[0].order}) is surprised by {means[0]:.2f} "
            f"{result.measure} a {result.unit} in the mean ({count})."
        )
    else:
        first, second = _labels(result)
        text = (
            f"A {result.unit} surprises {first} by {means[0]:.2f} {result.measure} in the mean, "
            f"{second} by {means[1]:.2f} ({count}). This is of these two models on this text."
        )
    top = max(units, key=lambda unit: abs(_strength(unit)))
    more = "surprising most" if len(means) == 1 else "with the largest difference"
    values = " and ".join(f"{result.scale * nats:.1f}" for nats in top.nats)
    return f"{text} The {result.unit} {more}: {top.text.strip()!r}, {values} {result.measure}."


def _methods(result: Surprisal) -> list[str]:
    paragraphs = []
    for model in result.models:
        notes = "; ".join(model.notes)
        paragraphs.append(
            f"{model.name} reads {model.order}, in windows of at most {model.context:,} tokens, of "
            f"which {model.overlap:,} are read again in the next; {notes}. Surprisal is minus the "
            f"{model.method}."
        )
    if result.unit == "token":
        return paragraphs
    unmarked = sum(total.unmarked for text in result.texts for total in text.totals)
    paragraphs.append(
        "A word's probability is that of its tokens, times the probability that it has ended "
        "behind them, over the probability that the word before has ended (Pimentel and "
        "Meister 2024; Oh and Schuler 2024): a token that begins with its blank does not say "
        "where it ends. What is "
        'left at the end of a text is given beside it; "tokens alone" are the nats without this. '
        "Masked models have no such term: each token is read with the rest of its word masked "
        "(Kauf and Ivanova 2023). Marks are "
        + ("part of the word that they stand at." if result.marks == "attached" else "apart.")
        + (f" At {unmarked:,} edges of words the tokens show none, and nothing is corrected."
           if unmarked else "")
    )  # fmt: skip
    return paragraphs
