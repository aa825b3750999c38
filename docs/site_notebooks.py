"""Notebooks as pages of the site: a hook of mkdocs that makes a page of each docs/**/*.ipynb.

A page has what the notebook has: texts, code, and what it printed, drew and showed when it was last
run. Nothing is run here. A page that a result showed becomes a file of its own, in a frame where it
is small and behind a link where it is not.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from posixpath import basename
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

FRAME = 150_000
"""Bytes of a page that are shown in a frame; a larger one would make its notebook's page slow."""
_PAGE = re.compile(r'^\s*<iframe [^>]*srcdoc="([^"]*)"')
_PICTURES = {"image/svg+xml": "svg", "image/png": "png"}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds a page for each notebook."""
    from mkdocs.structure.files import File

    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        name = file.src_uri.removesuffix(".ipynb")
        text, shown = page(json.loads(file.content_string), name)
        files.append(File.generated(config, f"{name}.md", content=text))
        for place, content in shown.items():
            files.append(File.generated(config, place, content=content))


def page(notebook: dict, name: str) -> tuple[str, dict[str, str | bytes]]:
    """The page of a notebook as Markdown, and by their places the files that it shows."""
    shown: dict[str, str | bytes] = {}
    parts: list[str] = []
    for number, cell in enumerate(notebook["cells"]):
        source = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(_fenced("python", source))
            parts += _outputs(cell.get("outputs", []), f"{name}-{number}", shown)
    own = f'<p><a href="{basename(name)}.ipynb" download>Download this notebook</a></p>'
    return "\n\n".join([*parts[:1], own, *parts[1:]]) + "\n", shown


def _outputs(outputs: list[dict], stem: str, shown: dict[str, str | bytes]) -> Iterator[str]:
    """What a cell left, in order; lines of text that follow each other in one block."""
    lines: list[str] = []
    for number, output in enumerate(outputs):
        data = {kind: _text(value) for kind, value in output.get("data", {}).items()}
        picture = next((kind for kind in _PICTURES if kind in data), None)
        words = data.get("text/html", "")
        part = ""
        if picture:
            place = f"{stem}-{number}.{_PICTURES[picture]}"
            svg = picture == "image/svg+xml"
            shown[place] = data[picture] if svg else base64.b64decode(data[picture])
            part = f"![]({basename(place)})"
        elif match := _PAGE.match(words):
            place = f"{stem}-{number}.html"
            shown[place] = html.unescape(match[1])
            part = _page_of_result(basename(place), len(shown[place]))
        elif "<" in words:
            bare = re.sub(
                r"<style.*?</style>", "", words, flags=re.DOTALL
            )  # the site's own instead
            part = " ".join(re.sub(r"<table[^>]*>", "<table>", bare).split())
        else:
            lines.append(words or data.get("text/plain") or _text(output.get("text", "")))
        if part:
            yield from _block(lines)
            lines = []
            yield part
    yield from _block(lines)


def _page_of_result(file: str, size: int) -> str:
    link = f'<a href="{file}">Open the page of this result</a>'
    if size > FRAME:
        return f"<p>{link} ({size / 1000:.0f} kB)</p>"
    frame = f'<iframe class="result" src="{file}" title="The page of this result"></iframe>'
    return f"<div>{frame}<p>{link}</p></div>"


def _block(lines: list[str]) -> Iterator[str]:
    if text := "\n".join(line.rstrip("\n") for line in lines).strip("\n"):
        yield _fenced("{ .text .output }", text)


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text}\n````"


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)
