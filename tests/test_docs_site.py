"""The site: every page is in its menu, every link leads somewhere, no other host is asked.

What needs mkdocs (`make docs`) is skipped where it is not installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import lmlab
from browser import CHROMIUM, Browser
from helpers import script
from lmlab import extend, functional
from lmlab.cli.commands import COMMANDS
from lmlab.topics.registry import KINDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in DOCS.rglob("*.md")}


HOOKS = script(DOCS / "site_hooks.py")
NOTEBOOKS = script(DOCS / "site_notebooks.py")
LOG = script(DOCS / "site_log.py")
CHECK = script(DOCS / "check_site.py")


def listed(menu: list[dict[str, str | list] | str]) -> list[str]:
    """The pages of a menu."""
    places: list[str] = []
    for entry in menu:
        for each in [entry] if isinstance(entry, str) else entry.values():
            places += [each] if isinstance(each, str) else listed(each)
    return places


def test_every_page_is_in_the_menu():
    menu = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert len(menu) == len(set(menu)), "a page stands twice in `nav` of mkdocs.yml"
    assert not set(PAGES) - set(menu), "these pages have no line in `nav` of mkdocs.yml"
    missing = [p for p in menu if p not in PAGES and not (DOCS / p).with_suffix(".ipynb").is_file()]
    assert not missing, "`nav` of mkdocs.yml names pages that are not there"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_lead_somewhere(name):
    for path, anchor in HOOKS.links(PAGES[name]):
        target = DOCS / name if not path else (DOCS / name).parent / path
        assert target.exists(), f"{name} links to {path}, which is not there"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text("utf-8")), f"{name}: {path}#{anchor}"


def anchors(markdown: str) -> set[str]:
    text = HOOKS.without_code(markdown)
    headings = re.findall(r"^#+ +(.+?)(?: *\{ *#([\w-]+) *\})?$", text, flags=re.MULTILINE)
    named = {name or HOOKS.anchor(HOOKS.plain_heading(heading)) for heading, name in headings}
    shown = re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE)
    return named | set(re.findall(r"id=\"([\w-]+)\"", text)) | set(shown)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_lists_begin_after_a_blank_line(name):
    """GitHub shows a list without one, but the site would show it as a paragraph."""
    lines = HOOKS.without_code(PAGES[name]).split("\n")
    item = re.compile(r"(?:[-*]|\d+\.) ")
    for before, line in pairwise(lines):
        within = not before.strip() or item.match(before) or before.startswith("  ")
        assert within or not item.match(line), f"{name}: put a blank line before {line!r}"


def test_the_page_of_commands_is_that_of_the_table():
    page = PAGES["commands.md"]
    assert page == script(DOCS / "commands.py").text(), "`make docs` writes docs/commands.md anew"
    for name in COMMANDS:
        assert f"`lmlab {name}`" in page


def test_a_notebook_is_a_page():
    frame = '<iframe sandbox="" srcdoc="&lt;b&gt;%s&lt;/b&gt;"></iframe>'
    outputs = [
        {"output_type": "stream", "text": ["training ", "1:48\n"]},
        {"output_type": "execute_result", "data": {"text/plain": ["4.7"]}},
        {"output_type": "display_data", "data": {"image/png": "AAE=", "text/plain": "<Figure>"}},
        {"output_type": "execute_result", "data": {"text/html": frame % "small"}},
        {"output_type": "execute_result", "data": {"text/html": frame % ("x" * NOTEBOOKS.FRAME)}},
        {
            "output_type": "execute_result",
            "data": {"text/html": "<style>a\n</style><table border=1>"},
        },
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text"]},
        {"cell_type": "code", "source": "print()", "outputs": outputs},
    ]
    text, shown = NOTEBOOKS.page({"cells": cells}, "notebooks/mine")
    assert text.startswith('# Title\nText\n\n<p><a href="mine.ipynb"')
    assert "print()" in text
    assert "training 1:48\n4.7\n" in text
    assert "![](mine-1-2.png)" in text
    assert text.count("<iframe") == 1
    assert text.endswith("<table>\n")
    assert shown["notebooks/mine-1-2.png"] == b"\0\1"
    assert shown["notebooks/mine-1-3.html"] == "<b>small</b>"


def test_the_log_has_a_page_for_each_date():
    log = (
        "# Experiments\n\nHow.\n\n## 2026-11-20 One `a`\n\nText ([two](#2026-11-21--two)).\n\n"
        "## More\n\nOf it.\n\n## 2026-11-21 · Two\n\n[one](experiments.md#2026-11-20-one-a)\n"
    )
    pages = LOG.split(log)
    first, second = "experiments-2026-11-20.md", "experiments-2026-11-21.md"
    assert pages.first == (
        "# Experiments\n\nHow.\n\n## 2026-11-20\n\n"
        f"- [One a]({first}#2026-11-20-one-a)\n- [More]({first}#more)\n\n## 2026-11-21\n\n"
        f"- [Two]({second}#2026-11-21--two)\n"
    )
    assert set(pages.pages) == {first, second}
    assert f"[two]({second}#2026-11-21--two)" in pages.pages[first]
    assert pages.pages[second].endswith(f"[one]({first}#2026-11-20-one-a)\n")
    assert LOG.led("[x](../experiments.md#more)", pages.page_of) == f"[x](../{first}#more)"
    assert set(pages.page_of) < anchors(log)


def test_faults_of_a_site_are_found(tmp_path):
    (tmp_path / "style.css").write_text("@import 'https://b.org/c.css'; a { src: url(no.woff) }")
    (tmp_path / "two.html").write_text("<h1 id=here>Two</h1><p style='mask: url(//c.org/d)'>")
    (tmp_path / "index.html").write_text(
        "<link rel=stylesheet href=style.css><script src=https://a.org/b.js></script>"
        "<a href=https://fine.org>out</a><a href=two.html#here>good</a>"
        "<a href=two.html#there>bad</a><a href=three.html>bad</a><a href=/two.html>bad</a>"
        "<a href=file:///etc/passwd>bad</a><style>b { background: url(http://e.org) }</style>"
    )
    (tmp_path / "heavy.html").write_text("<p>" + "x" * CHECK.LIMIT)
    wrong, weights = CHECK.check(tmp_path)
    assert wrong == [
        f"heavy.html: weighs {CHECK.LIMIT + 3:,} bytes with all that it loads",
        "index.html: two.html#there has no such anchor",
        "index.html: three.html is not there",
        "index.html: /two.html is absolute, which a site that is read from files cannot have",
        "index.html: file:///etc/passwd is no address that a page may have",
        "index.html: loads https://b.org/c.css",
        "index.html: loads https://a.org/b.js",
        "index.html: loads http://e.org",
        f"index.html: {tmp_path.resolve() / 'no.woff'} is not there",
        "two.html: loads //c.org/d",
    ]
    own = (tmp_path / "index.html").stat().st_size + (tmp_path / "style.css").stat().st_size
    assert weights["index.html"] == own


@pytest.mark.parametrize(
    ("theirs", "feature", "waits"),
    [
        ('a(b(location.protocol!=="file:"),c)', "search.share", True),
        ('a(b(location.protocol!=="file:"),c)', "search.highlight", False),
        ('a(b(location.protocol!="file:"),c)', "search.share", False),  # a version we do not know
    ],
)
def test_the_search_index_weighs_where_it_is_loaded_before_a_search(
    tmp_path, theirs, feature, waits
):
    for folder in ("search", "assets/javascripts"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "search" / "search_index.js").write_text("x" * 500)
    page = (
        f'<script type=application/json>{{"features": ["{feature}"]}}</script>'
        "<script src=assets/javascripts/bundle.1.js></script>"
    )
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "assets" / "javascripts" / "bundle.1.js").write_text(HOOKS.waiting(theirs))
    own = len(page) + len(HOOKS.waiting(theirs))
    assert CHECK.check(tmp_path) == ([], {"index.html": own + 500 * (not waits)})


def test_rows_of_numbers_are_not_searched():
    text = "seeds a, b 2 6 94.7 (96.8)\n needs 1.86 nats [1.84, 1.88] or – 2 % of 8,192 types"
    kept = "seeds a, b needs 1.86 nats [1.84, 1.88] or – 2 % of 8,192 types"
    assert HOOKS.without_rows(text) == kept


def test_a_page_that_no_text_links_is_a_fault(tmp_path):
    (tmp_path / "deep").mkdir()
    menu = "<nav><a href=lonely.html>x</a><a href=deep/lonely.html>x</a></nav>"
    pages = {
        "index.html": f"{menu}<article><a href=one.html#top>x</a></article>",
        "one.html": f"{menu}<article><a href=deep/>x</a></article>",
        "deep/index.html": "<article><a href=../index.html>x</a></article>",
        "lonely.html": "<article><a href=lonely.html>x</a><a href=#top>x</a></article>",
        "deep/lonely.html": "<article></article><a href=../one.html>footer</a>",
        "frame.html": "<p>no page of its own</p>",
    }
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    assert CHECK.check(tmp_path)[0] == [
        "deep/lonely.html: no other page's text links it",
        "lonely.html: no other page's text links it",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly: a warning of mkdocs is an error."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_is_whole(site):
    wrong, weights = CHECK.check(site)
    assert not wrong
    assert {name.replace(".md", ".html") for name in PAGES} <= set(weights)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_pages_are_read_from_files_also_on_a_phone(site, tmp_path):
    """Nothing is asked of a host, nothing is wider than a phone, and search finds."""
    pages = [page for page in sorted(site.rglob("*.html")) if page.name != "404.html"]
    faults: list[str] = []
    with Browser(tmp_path) as browser:
        for width, dark in ((390, True), (1200, False)):
            browser.look(width=width, dark=dark)
            for page in pages:
                name = page.relative_to(site)
                browser.open(page)
                asked = [url for url in browser.complaints() if not url.startswith("file://")]
                faults += [f"{name}: {each}" for each in asked]
                wide = browser.value("document.documentElement.scrollWidth")
                faults += [f"{name}: {wide} wide at {width}"] if wide > width else []
                early = browser.value("typeof __index != 'undefined'")
                faults += [f"{name}: loads the search index before a search"] if early else []
        assert not faults, "\n".join(faults)
        browser.send("Page.navigate", url=f"{(site / 'index.html').as_uri()}?q=surprisal")
        found = "document.querySelectorAll('.md-search-result__item').length"
        deadline = time.monotonic() + 30
        while not browser.value(found) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert browser.value(found) > 3


def test_what_is_public_is_in_the_reference():
    pages = "\n".join(text for name, text in PAGES.items() if name.startswith("reference/"))
    shown = set(re.findall(r"^::: ([\w.]+)$", pages, flags=re.MULTILINE))
    public = {f"lmlab.{name}" for name in lmlab.__all__ if name not in ("extend", "functional")}
    public |= {f"lmlab.functional.{name}" for name in functional.__all__}
    public |= {f"lmlab.extend.{name}" for name in extend.__all__ if name not in lmlab.__all__}
    public |= {place.replace(":", ".") for place in KINDS.values()}
    assert not public - shown, "a page of docs/reference has to show these (`::: NAME`)"


def test_docstrings_become_markdown():
    pytest.importorskip("griffe")
    text = "Holds `<unk>`, as <unk>:\n- one\n  more\n- two\n\n>>> a\n1\n\n>>> b\n2"
    assert script(DOCS / "site_api.py").as_markdown(text) == (
        "Holds `<unk>`, as &lt;unk>:\n\n- one\n  more\n- two\n\n"
        "```pycon\n>>> a\n1\n```\n\n```pycon\n>>> b\n2\n```"
    )
