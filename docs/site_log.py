"""The log of experiments in the site: a page for each date (a hook of mkdocs).

In the repository the log is one file, docs/experiments.md, that only grows. A browser should not
load all of it for one entry, so the site has its introduction with a list of the entries there, and
the entries of each date on a page of their own. Links to an entry lead to its page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from site_hooks import anchor, plain_heading

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

LOG = "experiments.md"
_ENTRY = re.compile(r"^## (?:(\d{4}-\d\d-\d\d)\W*)?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Log:
    """The log in pages."""

    first: str
    """The page with the list."""
    pages: dict[str, str]
    """By name."""
    page_of: dict[str, str]
    """By the anchor of an entry."""


def split(log: str) -> Log:
    """The log in pages; an entry without a date belongs to the one before it."""
    found = list(_ENTRY.finditer(log))
    listed: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    page_of: dict[str, str] = {}
    date = ""
    for entry, following in zip(found, [*found[1:], None], strict=True):
        date = entry[1] or date
        name = f"{LOG.removesuffix('.md')}-{date}.md"
        here = anchor(plain_heading(entry[0].removeprefix("## ")))
        page_of[here] = name
        line = f"- [{plain_heading(entry[2]) or date}]({name}#{here})"
        listed.setdefault(date, []).append(line)
        end = following.start() if following else len(log)
        texts.setdefault(name, [f"# Experiments of {date}\n"]).append(log[entry.start() : end])
    lists = ["\n".join([f"## {day}", "", *lines, ""]) for day, lines in sorted(listed.items())]
    first = log[: found[0].start()] + "\n".join(lists)
    pages = {name: "\n".join(parts) for name, parts in texts.items()}
    return Log(first, {name: led(text, page_of) for name, text in pages.items()}, page_of)


def led(markdown: str, page_of: dict[str, str]) -> str:
    """A page whose links to entries lead to their pages."""

    def turned(match: re.Match[str]) -> str:
        return f"]({match[1]}{page_of.get(match[2], LOG)}#{match[2]})"

    markdown = re.sub(rf"\]\(((?:\.\./)*){re.escape(LOG)}#([^)\s]+)\)", turned, markdown)
    return re.sub(
        r"\]\(#([^)\s]+)\)",
        lambda match: f"]({page_of[match[1]]}#{match[1]})" if match[1] in page_of else match[0],
        markdown,
    )


def on_files(files: Files, config: MkDocsConfig) -> None:
    from mkdocs.structure.files import File, InclusionLevel

    log = files.get_file_from_path(LOG)
    assert log is not None
    config.extra["log"] = pages = split(log.content_string)
    log.content_string = pages.first
    for name, text in pages.pages.items():
        file = File.generated(config, name, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(file)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return led(markdown, config.extra["log"].page_of)
