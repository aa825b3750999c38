"""The gallery of findings: its pages are those of its source, and its numbers those of the log."""

import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from helpers import script

DOCS = Path(__file__).parents[1] / "docs"
GALLERY = DOCS / "gallery"


@cache
def _script():
    sys.path.append(str(DOCS))  # where a script finds its neighbours
    return script(DOCS / "gallery.py", "docs_gallery")


def _texts(svg: str) -> list[str]:
    """What a drawing says; its coordinates depend on the version of matplotlib."""
    names = ("text", "title")
    return [e.text or "" for e in ET.fromstring(svg).iter() if e.tag.rpartition("}")[2] in names]


def test_pages_and_pictures_are_those_of_their_source():
    written = _script().files()
    for name, text in written.items():
        there = (GALLERY / name).read_text("utf-8")
        if name.endswith(".svg"):
            assert _texts(there) == _texts(text), f"{name}: run python docs/gallery.py"
        else:
            assert there == text, f"{name}: run python docs/gallery.py"
    pages = {
        str(p.relative_to(GALLERY)) for p in [*GALLERY.glob("*.md"), *GALLERY.glob("images/*")]
    }
    assert pages == written.keys()


def test_every_csv_parses_and_is_of_a_card():
    used = set()
    for card in _script().cards():
        listed = {data.file for data in card.data}
        assert not card.picture or card.picture.data in listed, card.slug
        used |= listed
        for file in listed:
            rows = _script().rows(file)
            assert rows
            for row in rows:
                for column in row:
                    low, high = row.get(f"{column} low", ""), row.get(f"{column} high", "")
                    if low and high:
                        assert float(low) <= float(row[column]) <= float(high), (file, row)
    assert used == {p.name for p in (GALLERY / "data").iterdir()}


_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def _numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in _NUMBER.findall(text)}


def _entries() -> dict[str, str]:
    parts = re.split(r"^## ", (DOCS / "experiments.md").read_text("utf-8"), flags=re.MULTILINE)
    return {part.split("\n", 1)[0]: part for part in parts[1:]}


def test_every_card_has_its_entry_in_the_log():
    script, entries = _script(), _entries()
    assert script.log_headings() == list(entries)
    anchors = [script.anchor(heading) for heading in entries]
    assert len(set(anchors)) == len(anchors)
    for card in script.cards():
        assert card.log
        assert set(card.log) <= entries.keys(), card.slug


def test_what_was_copied_from_the_log_stands_there():
    entries = _entries()
    checked = 0
    for card in _script().cards():
        log = _numbers("\n".join(entries[heading] for heading in card.log)) | {"0"}
        for data in card.data:
            if data.source == "log":
                for row in _script().rows(data.file):
                    numbers = _numbers(" ; ".join(row.values()))
                    assert numbers <= log, (data.file, row, numbers - log)
                    checked += len(numbers)
    assert checked > 500


def test_withdrawn_cards_say_what_stands_and_reports_are_small():
    for card in _script().cards():
        assert card.status.startswith("withdrawn") == bool(card.stands), card.slug
        assert card.study in _script().STUDIES
        for text in (card.so_what, card.answer, card.reach, card.cost, card.command):
            assert text, card.slug
        assert card.not_shown, f"{card.slug}: say in not_shown what it does not show"
        if card.page:
            assert (GALLERY / "pages" / card.page).stat().st_size < 1_000_000


def test_claims_lead_to_cards():
    script = _script()
    papers, claims = script.claims()
    slugs = {card.slug for card in script.cards()}
    keys = {paper.key for paper in papers}
    for claim in claims:
        assert claim.paper in keys
        assert set(claim.cards) <= slugs, claim.published
        assert bool(claim.cards) or claim.verdict == "not yet measured", claim.published
    assert {claim.paper for claim in claims} == keys


def test_the_table_of_verdicts_counts_every_claim_once():
    script = _script()
    papers, claims = script.claims()
    _, _, *lines = script.verdicts_table(papers, claims).splitlines()
    counted = {}
    for line in lines:
        name, *counts = [cell.strip() for cell in line.strip("|").split("|")]
        *by_verdict, total = map(int, counts)
        assert sum(by_verdict) == total
        counted[name] = total
    together = counted.pop("**all papers of the studies**")
    assert sum(counted.values()) == len(claims)
    beside = {paper.key for paper in papers if paper.beside}
    assert together == sum(claim.paper not in beside for claim in claims)


def test_p_of_an_interval_is_that_of_the_test_it_came_from():
    rng = np.random.default_rng(0)
    for runs in (2, 3, 12):
        values = rng.normal(0.7, 1, runs)
        test: Any = stats.ttest_1samp(values, 0)
        low, high = test.confidence_interval(0.95)
        p = _script().p_value(float(values.mean()), float(low), float(high), runs - 1)
        assert p == pytest.approx(test.pvalue, rel=1e-9)
        assert _script().p_value(float(values.mean()), float(low), float(high), None) != p
    assert _script().p_value(3.0, 3 - 1.959964, 3 + 1.959964, None) == pytest.approx(
        0.002699796, rel=1e-5
    )


def test_comparisons_are_one_family_over_all_cards():
    script = _script()
    family = script.compared(script.cards())
    assert len(family) == sum(len(card.compared) for card in script.cards())
    p_K = np.array([row.p for row in family])
    assert (np.diff(p_K) > -1e-9).all()  # those that are equal to nine digits keep their order
    # Holm by its definition: the k-th of n is rejected if all before it are, at level / (n - k + 1)
    for level in (0.01, 0.05, 0.3):
        passes_K = np.logical_and.accumulate(p_K <= level / np.arange(len(p_K), 0, -1))
        assert [row.adjusted <= level for row in family] == passes_K.tolist()
    for row in family:
        assert row.figures == "no interval" or row.figures.endswith("]")


def test_a_comparison_that_leads_to_no_row_is_refused():
    script = _script()
    card = next(card for card in script.cards() if card.compared and card.compared[0].where)
    lost = replace(card, compared=(replace(card.compared[0], where={"row": "no such row"}),))
    with pytest.raises(ValueError, match="0 rows"):
        script.compared([lost])


def test_a_card_that_does_not_fit_is_refused(tmp_path: Path):
    good = (GALLERY / "cards.toml").read_text("utf-8")
    for broken, word in [
        (good.replace('status = "finding"', 'status = "proven"', 1), "proven"),
        (good.replace("so_what =", "so_whta =", 1), "so_whta"),
        (re.sub(r"^reach = .*$", "", good, count=1, flags=re.MULTILINE), "reach"),
    ]:
        (tmp_path / "cards.toml").write_text(broken, "utf-8")
        with pytest.raises(ValueError, match=word):
            _script().cards(tmp_path)


def test_where_a_page_names_a_card_it_says_the_cards_status():
    status = {card.slug: card.status for card in _script().cards()}
    link = re.compile(r"\[[Cc]ard(?:: ([\w ]+))?\]\((?:\S*/)?([\w-]+)\.md\)")
    found = [
        (path.name, said, status.get(slug))
        for path in DOCS.rglob("*.md")
        for said, slug in link.findall(path.read_text("utf-8"))
    ]
    assert len(found) > 20
    assert [each for each in found if each[1] != each[2]] == []
