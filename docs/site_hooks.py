"""What mkdocs does for lmlab's site beside its plugins (`hooks` in mkdocs.yml).

- Anchors are made as GitHub makes them, so that a link works in both places.
- A page may link to any file of the repository (`../tests/test_face.py`). Files outside docs/ are
  copied into the site as text, since the site is to be readable without the repository.
- What every page loads is kept small: the search index waits until search is opened. The theme does
  so only where a page is read from a file, and without its feature `search.highlight`.
- The search index is kept small: it has words without their marks, and neither the log of
  experiments, nor what the reference says of parameters and options (it has their names), nor rows
  of numbers, nor of the findings their list (it repeats their pages), commands and data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_NOT_SEARCHED = "experiments"
"""Half of all the text, and what it found stands in other pages."""
_LEFT_OF_REFERENCE = 200
"""Characters of an entry of the reference that are searched: what it is for."""
_LEFT_OUT = re.compile(r"gallery/(index\.html#|[\w-]+\.html#(data|how-to-run-it)$)")
"""Places in the index that are not searched."""
_FROM_SERVER = 'location.protocol!=="file:"'
"""In the theme's script: whether the search index is fetched at once."""
WAITS = '!"before search is opened"'
"""What is written there in its place: false, in words that docs/check_site.py finds again."""
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^()\s#]+)(#[^()\s]*)?(?=\))")


def anchor(heading: str, separator: str = "-") -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", separator)


def plain_heading(heading: str) -> str:
    """A heading as it is read: without the marks of code, stress and links."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip()


def without_code(markdown: str) -> str:
    """The text of a page without its fenced blocks."""
    return _FENCE.sub("", markdown)


def links(markdown: str) -> Iterator[tuple[str, str]]:
    """Path and anchor of every link of a page to a file."""
    for match in _LINK.finditer(without_code(markdown)):
        if not re.match(r"[a-z]+:", match[1]):
            yield match[1], (match[2] or "").removeprefix("#")


def on_config(config: MkDocsConfig) -> None:
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what pages link to outside docs/."""
    from mkdocs.structure.files import File

    for page in list(files.documentation_pages()):
        for path, _ in links(page.content_string):
            place = _outside(page.src_uri, path, config)
            if place and files.get_file_from_path(copy_of(place)) is None:
                text = (_root(config) / place).read_text("utf-8")
                files.append(File.generated(config, copy_of(place), content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files outside docs/ to their copies, and those to notebooks to their pages."""
    here = page.file.src_uri
    page.meta["search"] = {"exclude": here.startswith(_NOT_SEARCHED)}

    def turned(match: re.Match[str]) -> str:
        place = _outside(here, match[1], config)
        if place:
            return relpath(copy_of(place), dirname(here) or ".")
        return re.sub(r"\.ipynb$", ".md", match[0])

    return _LINK.sub(turned, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Leaves out the white space between tags, and where types of other packages come from."""
    parts = re.split(r"(<(pre|script|style|textarea)\b.*?</\2>)", output, flags=re.DOTALL)
    # every third part is the name of the tag, and the one before it is the element that stays
    kept = [p if n % 3 else re.sub(r"\s*\n\s*", "\n", p) for n, p in enumerate(parts) if n % 3 != 2]
    return re.sub(r'<span title="[^"]*">([^<]*)</span>', r"\1", "".join(kept))


def on_post_build(config: MkDocsConfig) -> None:
    """Behind the search plugin, before the one that copies its index."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    found = json.loads(index.read_text("utf-8"))
    found["docs"] = [entry for entry in found["docs"] if not _LEFT_OUT.match(entry["location"])]
    for entry in found["docs"]:
        words = without_rows(re.sub(r"<[^>]*>", " ", entry["text"]))
        if re.match(r"reference/|commands\.html#", entry["location"]):
            options = dict.fromkeys(re.findall(r"--[a-z][\w.-]*", words[_LEFT_OF_REFERENCE:]))
            words = " ".join([words[:_LEFT_OF_REFERENCE], *options])
        entry["text"] = words
    index.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")), "utf-8")
    for script in Path(config.site_dir).glob("assets/javascripts/bundle.*.js"):
        script.write_text(waiting(script.read_text("utf-8")), "utf-8")


def waiting(script: str) -> str:
    """The theme's script, changed so that it fetches the search index when search is opened.

    A script of another version, which does not decide it in this way, stays as it is: every page
    then loads the index by itself, and docs/check_site.py counts it.
    """
    return script.replace(_FROM_SERVER, WAITS) if script.count(_FROM_SERVER) == 1 else script


def without_rows(text: str) -> str:
    """The words of a text; four numbers in a row or more, as in a table, are left out."""
    kept: list[str] = []
    for numeric, run in groupby(text.split(), key=lambda word: not re.search(r"[^\W\d_]", word)):
        words = list(run)
        kept += [] if numeric and len(words) > 3 else words
    return " ".join(kept)


def copy_of(place: str) -> str:
    """Where the site has a file of the repository."""
    return f"files/{place}.txt"


def _outside(page: str, path: str, config: MkDocsConfig) -> str | None:
    """The place in the repository of what a page links to, if it is a file outside docs/."""
    if re.match(r"[a-z]+:", path):
        return None
    docs = Path(config.docs_dir).name
    place = normpath(join(docs, dirname(page), path))
    inside = place.startswith((f"{docs}/", ".."))
    return place if not inside and (_root(config) / place).is_file() else None


def _root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent


on_post_build.mkdocs_priority = -50  # type: ignore[attr-defined]
