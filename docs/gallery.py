"""Writes the gallery of findings from docs/gallery/cards.toml, claims.toml and data/*.csv.

    python docs/gallery.py

Notable:
- A finding is a table `[[card]]` of cards.toml and a CSV file; its page, its place in the index and
  its picture follow from them. tests/test_gallery.py says what a card has to hold.
- Pictures are drawn by `lmlab.pages`, as those of reports are. A column `X` has its interval in the
  columns `X low` and `X high`, where there are such.
- A card says of each CSV whether its numbers come from results or were copied from the log.
- Comparisons that a card names in `compared` are one family over all cards: claims.md has their
  p-values, and those adjusted for how many there are.
"""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from scipy.special import ndtr, ndtri, stdtr, stdtrit
from site_hooks import anchor

from lmlab.numerics.trees import Tree
from lmlab.numerics.verdicts import holm
from lmlab.pages.curves import Series, line_plot
from lmlab.pages.forest import ForestRow, forest_plot
from lmlab.pages.multiples import Panel, small_multiples
from lmlab.pages.page import Figure, LegendEntry
from lmlab.pages.phylogram import phylogram
from lmlab.pages.text import estimates

DOCS = Path(__file__).parent
GALLERY = DOCS / "gallery"
LOG = DOCS / "experiments.md"

Status = Literal["finding", "not decided", "negative", "withdrawn in part", "withdrawn"]
STATUSES: dict[Status, str] = {
    "finding": "The measurement answers the question, within the reach that the card states.",
    "not decided": "The interval holds zero. The card says how large a difference could still be.",
    "negative": "It was tried and did not work, or an expectation failed.",
    "withdrawn in part": "Something that was first said is taken back. The card says what stands.",
    "withdrawn": "The answer was taken back. The numbers stay, with the reason.",
}
Verdict = Literal["holds", "fails", "not decidable here", "not yet measured"]
VERDICTS: dict[Verdict, str] = {
    "holds": "We saw the same, in models of the size that the row states.",
    "fails": "We saw something else, in models of the size that the row states.",
    "not decidable here": "We measured, and the interval or the reach is too wide to say.",
    "not yet measured": "Nobody has run it with lmlab so far.",
}
STUDIES = {
    "table": ("Every objective by every measure", "../studies/index.md"),
    "arrow": ("The arrow of time", "../arrow.md"),
    "headless": ("Headless training", "../headless.md"),
    "towers": ("Two towers", "../towers.md"),
    "decomposition": ("Decomposition", "../decomposition.md"),
    "encoding": ("Output embeddings", "../encoding.md"),
    "babylm": ("BabyLM and reading times", "../babylm.md"),
    "training": ("Recipes of training", "../training.md"),
    "intervals": ("Intervals and instruments", "../notes-intervals.md"),
}
LEVEL = 0.05
WIDEST = 5  # columns of values that a table has on a page
ADJUSTED = "How many comparisons, and which of them stay"
WRITTEN = "<!-- Written by docs/gallery.py from {source}. Change it there. -->"


@dataclass(frozen=True)
class Data:
    """A CSV file of data/."""

    file: str
    caption: str
    source: Literal["results", "log"]
    """`results`: from the results of the run. `log`: copied from the log's tables."""


@dataclass(frozen=True)
class Picture:
    """A forest plot of a CSV file; or with `x` curves over that column, with `panels` a panel for
    each of the values, or the `tree` of its branches, whose lengths are the first of `values`."""

    data: str
    values: tuple[str, ...]
    """Columns that are shown. Of several, each row is a group."""
    label: str
    """What the axis of the values says, with its unit."""
    finding: str
    alt: str
    row: str = "row"
    group: str = ""
    x: str = ""
    x_label: str = ""
    tree: bool = False
    without: tuple[str, ...] = ()
    """Rows, or curves by their group, that are left out; the caption says so."""
    reference: float | None = None
    log: bool = False
    caption: str = ""
    panels: bool = False
    zero: tuple[str, ...] = ()
    """Values whose panel has its line at zero; in the others it is at the first row's value."""


@dataclass(frozen=True)
class Comparison:
    """A comparison that a card's question asks for, over runs or without any: a cell of a CSV file
    with its 95 % interval, or the p-value that the log has of it. One run of each kind is none."""

    said: str
    """What is compared, for the table of all comparisons."""
    data: str = ""
    value: str = ""
    """The column; its interval is in the columns `X low` and `X high`."""
    where: dict[str, str] | None = None
    """Columns and what they hold in the row that is meant."""
    df: int | None = None
    """Degrees of freedom of the interval, or the least that it can have. None: many."""
    p: float | None = None
    """Two-sided, where the log has no interval."""


@dataclass(frozen=True)
class Card:
    slug: str
    study: str
    question: str
    so_what: str
    answer: str
    status: Status
    reach: str
    command: str
    cost: str
    date: str
    log: tuple[str, ...]
    """Headings of the log's entries."""
    data: tuple[Data, ...]
    picture: Picture | None = None
    stands: str = ""
    """Of what is withdrawn in part or whole: what was taken back, why, and what stands."""
    not_shown: str = ""
    """What a reader may take from the answer and should not. Every card has it."""
    referee: str = ""
    """What a referee objected, and what was answered. Empty: there was no objection."""
    compared: tuple[Comparison, ...] = ()
    more: str = ""
    page: str = ""
    """A report that the run wrote, in pages/."""
    front: bool = False
    """Whether it stands at the top of the gallery, with the table of its picture's data."""


@dataclass(frozen=True)
class Paper:
    key: str
    title: str
    cite: str
    link: str
    beside: bool = False
    """Whether no study of lmlab was made from it."""


@dataclass(frozen=True)
class Claim:
    paper: str
    published: str
    measured: str
    size: str
    verdict: Verdict
    cards: tuple[str, ...] = ()
    short: str = ""
    """The claim in a few words, where the page lists those that hold or fail."""


def _read(kind: type, values: dict[str, Any], where: str) -> Any:
    """The dataclass of a table of TOML. Raises `ValueError` for names or types that do not fit."""
    hints = get_type_hints(kind)
    if unknown := values.keys() - hints.keys():
        raise ValueError(f"{where}: unknown: {', '.join(sorted(unknown))}")
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if missing := needed - values.keys():
        raise ValueError(f"{where}: missing: {', '.join(sorted(missing))}")
    read: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if hint == tuple[Data, ...]:
            read[name] = tuple(_read(Data, v, f"{where}, data") for v in value)
        elif hint == tuple[Comparison, ...]:
            read[name] = tuple(_read(Comparison, v, f"{where}, compared") for v in value)
        elif hint == Picture | None:
            read[name] = _read(Picture, value, f"{where}, picture")
        elif hint == tuple[str, ...]:
            read[name] = tuple(value)
        elif isinstance(value, str) and (choices := get_args(hint)) and value not in choices:
            raise ValueError(f"{where}: {name} = {value!r} is none of {choices}")
        else:
            read[name] = value.strip() if isinstance(value, str) else value
    return kind(**read)


def cards(folder: Path = GALLERY) -> tuple[Card, ...]:
    tables = tomllib.loads((folder / "cards.toml").read_text("utf-8"))["card"]
    return tuple(_read(Card, t, f"card {t.get('slug', '?')}") for t in tables)


def claims(folder: Path = GALLERY) -> tuple[tuple[Paper, ...], tuple[Claim, ...]]:
    tables = tomllib.loads((folder / "claims.toml").read_text("utf-8"))
    papers = tuple(_read(Paper, t, f"paper {t.get('key', '?')}") for t in tables["paper"])
    return papers, tuple(_read(Claim, t, f"claim {i + 1}") for i, t in enumerate(tables["claim"]))


def rows(file: str, folder: Path = GALLERY) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises `ValueError` where a row does not fit the columns."""
    with (folder / "data" / file).open(encoding="utf-8", newline="") as text:
        columns, *values = list(csv.reader(text))
    for number, row in enumerate(values, start=2):
        if len(row) != len(columns):
            raise ValueError(f"{file}:{number}: {len(row)} cells for {len(columns)} columns")
    return [dict(zip(columns, row, strict=True)) for row in values]


def figure(picture: Picture, folder: Path = GALLERY) -> Figure:
    if picture.tree:
        return _tree(picture, folder)
    if picture.x:
        return line_plot(
            _curves(picture, folder),
            x_label=picture.x_label,
            y_label=picture.label,
            log_x=picture.log,
            finding=picture.finding,
            alt=picture.alt,
        )
    if picture.panels:
        data = rows(picture.data, folder)
        return small_multiples(
            [row[picture.row] for row in data],
            [_panel(value, data, picture) for value in picture.values],
            finding=picture.finding,
            alt=picture.alt,
        )
    return forest_plot(
        intervals(picture, folder),
        x_label=picture.label,
        reference=picture.reference,
        log=picture.log,
        finding=picture.finding,
        alt=picture.alt,
    )


def _tree(picture: Picture, folder: Path) -> Figure:
    """The tree of a row for each branch: its nodes `from` and `to`, of which leaves come first, its
    `support, %`, and whether it is `in the true tree`."""
    data = rows(picture.data, folder)
    leaves = (len(data) + 3) // 2
    names = {int(row["from"]): row[picture.row] for row in data if int(row["from"]) < leaves}
    (length,) = picture.values
    return phylogram(
        [names[leaf] for leaf in range(leaves)],
        Tree(leaves, tuple((int(r["from"]), int(r["to"]), float(r[length])) for r in data)),
        notes={b: f"{row['support, %']} %" for b, row in enumerate(data) if row["support, %"]},
        doubted=[b for b, row in enumerate(data) if row["in the true tree"] == "no"],
        legend=[
            LegendEntry("in the true tree, or of one model", "c0", "M0 6H26"),
            LegendEntry("not in the true tree", "c1", "M0 6H26", dash="6 4"),
        ],
        x_label=picture.label,
        finding=picture.finding,
        alt=picture.alt,
    )


def _joined(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _curves(picture: Picture, folder: Path) -> list[Series]:
    curves = []
    data = rows(picture.data, folder)
    one = picture.group and len(picture.values) == 1
    groups = dict.fromkeys(row.get(picture.group, "") for row in data)
    for group in (group for group in groups if group not in picture.without):
        for value in picture.values:
            has = [row for row in data if row.get(picture.group, "") == group and row[value]]
            x, y = ([float(row[column]) for row in has] for column in (picture.x, value))
            curves.append(Series(group if one else _joined(group, value), x, y, colour=len(curves)))
    return curves


def _estimated(row: dict[str, str], value: str) -> ForestRow | None:
    """A value of a row with its bounds; None where the data have none."""
    if not row[value]:
        return None
    low, high = row.get(f"{value} low"), row.get(f"{value} high")
    ends = (float(low), float(high)) if low and high else (None, None)
    return ForestRow("", float(row[value]), *ends)


def _panel(value: str, data: Sequence[dict[str, str]], picture: Picture) -> Panel:
    shown = [_estimated(row, value) for row in data]
    first = shown[0]
    return Panel(
        value, shown, 0.0 if value in picture.zero else None if first is None else first.estimate
    )


def value_table(picture: Picture, folder: Path = GALLERY) -> str:
    """The values of a picture and their intervals as tables of Markdown, as wide as a page is."""
    data = rows(picture.data, folder)
    columns: list[list[str]] = []
    for value in picture.values:
        known = [_estimated(row, value) for row in data]
        texts = iter(estimates([(v.estimate, v.low, v.high) for v in known if v is not None]))
        columns.append(
            ["–" if v is None else "<br>".join(filter(None, next(texts))) for v in known]
        )
    tables = []
    count = -(-len(columns) // WIDEST)
    for part in range(count):
        chosen = slice(part * len(columns) // count, (part + 1) * len(columns) // count)
        lines = [["", *picture.values[chosen]], ["---"] * (chosen.stop - chosen.start + 1)]
        lines += [
            [f"**{row[picture.row]}**", *cells]
            for row, cells in zip(data, zip(*columns[chosen], strict=True), strict=True)
        ]
        tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(tables)


def intervals(picture: Picture, folder: Path = GALLERY) -> list[ForestRow]:
    """The rows of a forest plot; a value that the data lack has none."""
    shown = []
    one = len(picture.values) == 1
    for row in rows(picture.data, folder):
        name, group = row[picture.row], row.get(picture.group, "")
        for value in picture.values:
            if not row[value] or name in picture.without:
                continue
            label, heading = (name, group) if one else (value, _joined(group, name))
            estimated = _estimated(row, value)
            assert estimated is not None
            shown.append(replace(estimated, label=label, group=heading))
    return shown


@dataclass(frozen=True)
class Compared:
    """A comparison with its p-values."""

    card: Card
    said: str
    figures: str
    df: str
    p: float
    adjusted: float
    """By Holm, over the comparisons of all cards."""


def p_value(value: float, low: float, high: float, df: float | None) -> float:
    """Two-sided p-value that the 95 % interval from `low` to `high` implies for a value of 0.

    From the value to the end towards 0 it is the 97.5 % point of Student's t (`df` None: of the
    normal law) times the standard error, so that p is below 0.05 where 0 is outside, for intervals
    that are not symmetric too. With fewer degrees of freedom than the interval was made with, p is
    too large where the interval excludes 0: so the least that they can be is the safe choice.
    """
    ratio = abs(value) / (value - low if value > 0 else high - value)
    if df is None:
        return float(2 * ndtr(-ratio * ndtri(0.975)))
    return float(2 * stdtr(df, -ratio * stdtrit(df, 0.975)))


def compared(all_cards: Sequence[Card], folder: Path = GALLERY) -> list[Compared]:
    """Every comparison of the cards, the smallest p-value first.

    Raises `ValueError` where a comparison does not lead to one row of its CSV file.
    """
    found = []
    for card in all_cards:
        for each in card.compared:
            if each.p is not None:
                found.append((card, each, "no interval", "permutation", each.p))
                continue
            where = each.where or {}
            fits = [r for r in rows(each.data, folder) if where.items() <= r.items()]
            if len(fits) != 1:
                raise ValueError(f"card {card.slug}: {len(fits)} rows of {each.data}: {each.said}")
            cells = [fits[0][f"{each.value}{end}"] for end in ("", " low", " high")]
            value, low, high = map(float, cells)
            figures = f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"
            df = "many" if each.df is None else str(each.df)
            found.append((card, each, figures, df, p_value(value, low, high, each.df)))
    adjusted = holm([p for *_, p in found])
    rows_ = [
        Compared(card, each.said, figures, df, p, a)
        for (card, each, figures, df, p), a in zip(found, adjusted, strict=True)
        if a is not None
    ]
    return sorted(rows_, key=lambda row: round(row.p, 9))  # equal ones in the order of the cards


def _p_words(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else "below 0.0001"


def adjusted_section(family: Sequence[Compared]) -> str:
    """The comparisons of all cards, with their p-values before and after Holm's adjustment."""
    seen = sum(round(row.p, 6) < LEVEL for row in family)  # an interval that touches 0 has not
    stay = [row for row in family if row.adjusted < LEVEL]
    parts = [f"## {ADJUSTED}"]
    parts.append(
        f"The cards make {len(family)} comparisons that have an interval over runs, or have no run "
        f"in them. Each was read by itself, and {seen} have p below {LEVEL}. Adjusted for their "
        f"number (Holm), {len(stay)} stay below it" + (":" if stay else ".")
    )
    if stay:
        parts.append("\n".join(f"- {row.said} ({_card_link(row.card)})" for row in stay))
    parts.append(
        "What does not stay is no error. It is a hint, which a new run with new seeds has to "
        "confirm. The family is wide: it holds questions that have nothing to do with each other, "
        "and findings that were withdrawn."
    )
    parts.append(
        "How p is found: most intervals were kept without their standard error, so p follows from "
        "the distance of its end towards 0 by Student's t. The degrees of freedom are the least "
        "that the interval can have (runs of a kind less one, or languages or matrices less one), "
        "which makes p too large rather than too small. *Many* stands for the normal law, for "
        "intervals over many sentences or sections of text. Ends are rounded, so p is approximate. "
        "Comparisons of one run of each kind have no verdict and are left out, and so are those "
        "without an interval."
    )
    table = [
        "| what is compared | card | estimate, 95 % interval | degrees of freedom | p | by Holm |",
        "|---|---|---|---|---|---|",
    ]
    for row in family:
        cells = [
            row.said,
            _card_link(row.card),
            row.figures,
            row.df,
            _p_words(row.p),
            _p_words(row.adjusted),
        ]
        table.append("| " + " | ".join(cells) + " |")
    parts.append("\n".join(table))
    return "\n\n".join(parts)


def verdicts_table(papers: Sequence[Paper], all_claims: Sequence[Claim]) -> str:
    """How many claims of each source have which verdict; the papers of the studies first."""

    def cells(name: str, keys: Sequence[str]) -> str:
        counts = [
            sum(c.verdict == verdict and c.paper in keys for c in all_claims)
            for verdict in VERDICTS
        ]
        return "| " + " | ".join([name, *map(str, counts), str(sum(counts))]) + " |"

    studied, beside = ([p for p in papers if p.beside == kind] for kind in (False, True))
    lines = ["| source | " + " | ".join(VERDICTS) + " | claims |"]
    lines.append("|---" * (len(VERDICTS) + 2) + "|")
    lines += [cells(f"[{p.title}](#{anchor(p.title)})", [p.key]) for p in studied]
    lines.append(cells("**all papers of the studies**", [p.key for p in studied]))
    lines += [cells(f"[{p.title}](#{anchor(p.title)})", [p.key]) for p in beside]
    return "\n".join(lines)


def log_headings(log: Path = LOG) -> list[str]:
    return re.findall(r"^## (.+)$", log.read_text("utf-8"), flags=re.MULTILINE)


def _log_link(heading: str) -> str:
    return f"[{heading}](../experiments.md#{anchor(heading)})"


def _badge(status: str) -> str:
    return f"**{status[0].upper()}{status[1:]}**"


def _card_link(card: Card) -> str:
    return f"[card: {card.status}]({card.slug}.md)"


def _image(card: Card) -> str:
    assert card.picture is not None
    return f"![{card.picture.alt}](images/{card.slug}.svg)"


def card_page(card: Card, folder: Path = GALLERY) -> str:
    name, link = STUDIES[card.study]
    parts = [f"# {card.question}", WRITTEN.format(source="cards.toml")]
    parts.append(f"{_badge(card.status)} · [{name}]({link}) · {card.date}")
    parts.append(f"**So what.** {card.so_what}")
    parts.append(f"**Answer.** {card.answer}")
    if card.picture:
        parts.append(_image(card))
        said = [card.picture.finding, card.picture.caption]
        drawn = [] if card.picture.x or card.picture.tree else intervals(card.picture, folder)
        if any(row.low is None for row in drawn):
            said.append("A hollow point has no interval.")
        parts.append(f"*{' '.join(filter(None, said))}*")
        if card.front:
            parts.append(value_table(card.picture, folder))
    parts.append(f"**Reach.** {card.reach}")
    if card.not_shown:
        parts.append(f"**Not shown.** {card.not_shown}")
    if card.stands:
        parts.append(f"**What is withdrawn, and what stands.** {card.stands}")
    if card.more:
        parts.append(card.more)
    if card.referee:
        parts += ["## What a referee objected", card.referee]
    parts += ["## How to run it", f"```text\n{card.command}\n```", f"**Cost.** {card.cost}"]
    parts.append("## Data")
    source = {
        "results": "from the results of the run",
        "log": "copied from the log's tables; the results of the run are gone",
    }
    parts.append(
        "\n".join(
            f"- [{d.file}](data/{d.file}): {d.caption} ({source[d.source]})." for d in card.data
        )
    )
    if card.page:
        parts.append(f"The [page that the study wrote](pages/{card.page}).")
    parts.append("In the log: " + "; ".join(map(_log_link, card.log)) + ".")
    return "\n\n".join(parts) + "\n"


def front_part(card: Card, folder: Path) -> list[str]:
    """What the gallery has at its top."""
    assert card.picture is not None
    files = ", ".join(f"[{data.file}](data/{data.file})" for data in card.data)
    return [
        f"## {STUDIES[card.study][0]}",
        f"**[{card.question}]({card.slug}.md)**  \n{_badge(card.status)} · {card.date}. "
        f"{card.answer}",
        _image(card),
        value_table(card.picture, folder),
        f"*{card.picture.caption}*",
        f"**Reach.** {card.reach}",
        f"**Not shown.** {card.not_shown}",
        f"```text\n{card.command}\n```",
        f"**Cost.** {card.cost} **Data.** {files}",
    ]


def index_page(all_cards: Sequence[Card], folder: Path = GALLERY) -> str:
    parts = ["# Gallery of findings", WRITTEN.format(source="cards.toml")]
    parts.append(
        f"Each of these {len(all_cards)} cards is a study that was really run with lmlab: its "
        "question, its answer, its command, its cost and its data. Most models here have less than "
        "three million weights and read a million tokens, so most answers are about small models "
        "early in training. Negative results and withdrawn ones have cards too. "
        "[Claims](claims.md) puts the published claims beside them."
    )
    family = compared(all_cards, folder)
    stay = sum(row.adjusted < LEVEL for row in family)
    parts.append(
        "**So what.** Before you run a study, look here for what it costs, what it can decide, and "
        "which mistakes were made before you."
    )
    fronts = [card for card in all_cards if card.front]
    for card in fronts:
        parts += front_part(card, folder)
    if fronts:
        parts.append("## All cards")
    parts.append(
        "An interval is a 95 % interval unless a card says otherwise. What it is over (seeds, "
        "texts, or both) stands under *Reach*. Each interval is read by itself: of "
        f"{len(family)} comparisons {stay} stay at 5 % when p is adjusted for how many there are "
        f"([table](claims.md#{anchor(ADJUSTED)})). The marks mean:"
    )
    counts = {status: sum(c.status == status for c in all_cards) for status in STATUSES}
    parts.append("\n".join(f"- {_badge(s)} ({counts[s]}): {STATUSES[s]}" for s in STATUSES))
    for study, (name, link) in STUDIES.items():
        chosen = [card for card in all_cards if card.study == study and not card.front]
        if not chosen:
            continue
        parts.append(f"## {name}")
        parts.append(f"What is measured, and how to read it: [{name}]({link}).")
        for number, card in enumerate(chosen):
            about = f"{_badge(card.status)} · {card.date}. {card.answer}"
            parts.append(f"**[{card.question}]({card.slug}.md)**  \n{about}")
            if card.picture and number == 0:
                parts.append(_image(card))
    parts.append("## Add a finding")
    parts.append(
        "Write an entry in [the log](../experiments.md). Put its numbers into a CSV file in "
        "`docs/gallery/data/`. Add a table `[[card]]` to `docs/gallery/cards.toml`. Say in "
        "`not_shown` what it does not show. Name in `compared` the comparison that its question "
        "asks for, if it has an interval over runs. Run `python docs/gallery.py`, and add the new "
        "page to `nav` in `mkdocs.yml`. "
        "`pytest tests/test_gallery.py tests/test_docs_site.py` says what is missing. If the "
        "finding speaks to a published claim, change its row in `docs/gallery/claims.toml`."
    )
    return "\n\n".join(parts) + "\n"


def claims_page(
    papers: Sequence[Paper],
    all_claims: Sequence[Claim],
    all_cards: Sequence[Card],
    folder: Path = GALLERY,
) -> str:
    status = {card.slug: card.status for card in all_cards}
    parts = ["# Published claims, and what we measured", WRITTEN.format(source="claims.toml")]
    parts.append(
        "The studies of lmlab come from published papers. This page takes their claims one by one. "
        "It says what we measured, with models of which size, and what follows."
    )
    parts.append(
        "**So what.** Most of our models have 0.2 to 3 million weights and read 0.5 to 5 million "
        "tokens, where the published ones have up to billions. A row says how such models stand "
        "to a claim. It never says that a paper is wrong about its own models."
    )
    parts.append("\n".join(f"- **{v}**: {VERDICTS[v]}" for v in VERDICTS))
    parts.append(verdicts_table(papers, all_claims))
    for verdict, words in (("holds", "Holds"), ("fails", "Fails")):
        listed = [
            claim.short or claim.published.rstrip(".")
            for paper in papers
            for claim in all_claims
            if claim.paper == paper.key and not paper.beside and claim.verdict == verdict
        ]
        if listed:
            parts.append(f"**{words}**: {'; '.join(listed)}.")
    parts.append(
        "*Holds* means that we saw the same. It does not mean that a test stayed after an "
        "adjustment for the number of tests."
    )
    family = compared(all_cards, folder)
    stay = sum(row.adjusted < LEVEL for row in family)
    parts.append(
        f"Behind the rows are {len(family)} comparisons. Each interval is read by itself. Adjusted "
        f"for their number, {stay} stay at 5 %: [the table](#{anchor(ADJUSTED)}) at the end."
    )
    parts.append(
        "A verdict rests on the cards of its row. Beside each card stands its own "
        "[mark](index.md): where a card is withdrawn in part, read there what stands."
    )
    for paper in papers:
        parts += [f"## {paper.title}", f"{paper.cite} [The study]({paper.link})."]
        table = [
            "| published claim | what we measured | size | verdict | cards |",
            "|---|---|---|---|---|",
        ]
        for claim in all_claims:
            if claim.paper != paper.key:
                continue
            links = ", ".join(f"[card: {status[slug]}]({slug}.md)" for slug in claim.cards)
            cells = [claim.published, claim.measured, claim.size, f"**{claim.verdict}**", links]
            table.append("| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |")
        parts.append("\n".join(table))
    parts.append(adjusted_section(family))
    return "\n\n".join(parts) + "\n"


def files(folder: Path = GALLERY) -> dict[str, str]:
    """Every file that is written, by its path in the gallery."""
    all_cards = cards(folder)
    written = {"index.md": index_page(all_cards, folder)}
    written["claims.md"] = claims_page(*claims(folder), all_cards, folder)
    for card in all_cards:
        written[f"{card.slug}.md"] = card_page(card, folder)
        if card.picture:
            written[f"images/{card.slug}.svg"] = figure(card.picture, folder).svg()
    return written


if __name__ == "__main__":
    for name, text in files().items():
        (GALLERY / name).parent.mkdir(exist_ok=True)
        (GALLERY / name).write_text(text, "utf-8")
