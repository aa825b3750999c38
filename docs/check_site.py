"""Looks through the built site: `python docs/check_site.py site`, the end of `make docs`.

- Every link to a page, a file or an anchor of the site is there.
- Every page but the first is linked from the text of another one. Who reads meets it, and not only
  who looks through the menu.
- No page loads anything from another host (a link to one is fine).
- A page with all that it loads weighs less than a megabyte, so that it opens on a slow line. The
  search index is part of it, unless the theme's script fetches it only when search is opened.
- The search index weighs less than that by itself.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

from site_hooks import WAITS

LIMIT = 1_000_000
"""Bytes that a page may load, before compression."""
_LOADS = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
    "embed": "src", "object": "data", "link": "href",
}  # fmt: skip
_NOT_LOADED = {"prev", "next", "canonical", "license", "author"}
_ELSEWHERE = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


@dataclass
class Page(HTMLParser):
    """What a page has, links to and loads."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    in_text: list[str] = field(default_factory=list)
    """Of the links those of its article: neither menu nor footer."""
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._style = self.highlights = False
        self.articles = self._open = 0
        self.feed(self.path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "article":
            self.articles += 1
            self._open += 1
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
            self.in_text += [given["href"]] if self._open else []
        if (source := given.get(_LOADS.get(tag, ""))) and given.get("rel") not in _NOT_LOADED:
            self.loads.append(source)
        self.loads += [part.split()[0] for part in given.get("srcset", "").split(",") if part]
        self.loads += _urls(given.get("style", ""))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._open -= tag == "article"

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loads += _urls(data)
        # among the theme's settings: it marks what was searched for, by the index
        self.highlights |= '"search.highlight"' in data


def check(site: Path) -> tuple[list[str], dict[str, int]]:
    """What is wrong with a site, and the bytes that each of its pages loads."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    wrong = [
        f"{path.relative_to(site.resolve()).as_posix()}: no other page's text links it"
        for path in _unlinked(pages, site.resolve() / "index.html")
    ]
    weights: dict[str, int] = {}
    index = {file for file in [site.resolve() / "search" / "search_index.js"] if file.is_file()}
    wrong += [f"{file.name}: {size:,} bytes" for file in index if (size := _size(file)) >= LIMIT]
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        if name == "404.html":  # a server shows it below any address, so its links are absolute
            continue
        for link in page.links:
            wrong += [f"{name}: {link} {what}" for what in _broken(path, link, pages)]
        files, outside = _loaded(path, page.loads)
        wrong += [f"{name}: loads {each}" for each in outside]
        wrong += [f"{name}: {each} is not there" for each in files if not each.is_file()]
        for bundle in [file for file in files if file.name.startswith("bundle.")]:
            files |= set(site.resolve().glob("assets/javascripts/workers/*.js"))  # by itself
            waits = WAITS in bundle.read_text("utf-8") and not page.highlights
            files |= set() if waits else index
        weights[name] = _size(path) + sum(_size(file) for file in files if file.is_file())
        if weights[name] >= LIMIT:
            wrong.append(f"{name}: weighs {weights[name]:,} bytes with all that it loads")
    return wrong, weights


def _size(file: Path) -> int:
    return file.stat().st_size


def _unlinked(pages: dict[Path, Page], first: Path) -> list[Path]:
    """Pages with an article that no other page's article links, but the first and the 404."""
    linked = {first, first.with_name("404.html")}
    for path, page in pages.items():
        linked |= {_target(path, link) for link in page.in_text} - {path}
    return [path for path, page in pages.items() if page.articles and path not in linked]


def _target(path: Path, link: str) -> Path:
    """The file that a link of a page leads to, if it is one of the site."""
    place = unquote(urldefrag(link)[0])
    target = (path.parent / place).resolve() if place else path
    return target / "index.html" if target.is_dir() else target


def _broken(path: Path, link: str, pages: dict[Path, Page]) -> list[str]:
    """Why a link leads nowhere, if it does."""
    place, anchor = urldefrag(link)
    if re.match(r"[a-z]+:", link) or link.startswith("//"):
        fine = re.match(r"https?:|mailto:|data:", link)
        return [] if fine else ["is no address that a page may have"]
    if place.startswith("/"):
        return ["is absolute, which a site that is read from files cannot have"]
    target = _target(path, link)
    if not target.is_file():
        return ["is not there"]
    if anchor and target in pages and unquote(anchor) not in pages[target].anchors | {"top"}:
        return ["has no such anchor"]
    return []


def _loaded(path: Path, sources: list[str]) -> tuple[set[Path], list[str]]:
    """The files that a page loads, with those its style sheets load, and what is elsewhere."""
    files: set[Path] = set()
    outside: list[str] = []
    for source in sources:
        if source.startswith(("data:", "#", "javascript:")):
            continue
        if _ELSEWHERE.match(source):
            outside.append(source)
            continue
        file = (path.parent / unquote(urldefrag(source)[0].partition("?")[0])).resolve()
        if file in files:
            continue
        files.add(file)
        if file.suffix == ".css" and file.is_file():
            more, further = _loaded(file, _urls(file.read_text("utf-8")))
            files |= more
            outside += further
    return files, outside


def _urls(style: str) -> list[str]:
    return [one or other for one, other in _URL.findall(style)]


def main(site: Path) -> int:
    wrong, weights = check(site)
    if not weights:
        wrong.append(f"{site}: no pages; `make docs` writes them")
    for each in wrong:
        print(each, file=sys.stderr)
    heaviest = sorted(weights, key=lambda name: -weights[name])[:3]
    told = ", ".join(f"{name} {weights[name] / 1000:.0f} kB" for name in heaviest)
    print(f"{len(weights)} pages, {len(wrong)} faults; heaviest with all that they load: {told}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
