"""From matplotlib's SVG to SVG that can be put into a page.

Notable:
- The markup is parsed, never searched as text: a label may itself read `id="x"` or `#010101`.
- Colours leave matplotlib as the marker values of `theme.MARKERS` and become CSS variables, so that
  the page decides them, for light and dark.
- Namespaces are dropped (inline SVG needs none), so the page names no address at all.
- Ids: those that nothing refers to are dropped, the others get a prefix chosen by the page, because
  all figures of a page share one name space.
- Numbers have two decimals, and a style that all markers of a group share stands at the group.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lmlab.pages.text import one_line, printable
from lmlab.pages.theme import COLOURS, MARKERS

if TYPE_CHECKING:
    from lmlab.pages.page import LegendEntry

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_VARIABLE = re.compile(r"var\(--(\w+)\)")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_ZERO_ROTATION = re.compile(r"^rotate\(-?0 ")
_NUMBER = re.compile(r"-?\d+\.\d+")
_COMMAND = re.compile(r"\s*([A-Za-z])\s*")
_FONT = re.compile(r"font-family: [^;]*; ")
_SANS = "font-family:'DejaVu Sans',sans-serif"

TIP, STRIP = "tip", "strip"
"""How ids of groups begin that tell something where they are pointed at, numbered from 0."""


def _local(name: str) -> str:
    """A name without its namespace: `{...}path` is `path`."""
    return name.rpartition("}")[2]


def _rename(root: ET.Element, name: Callable[[str], str]) -> None:
    """Applies `name` to every id and to every reference to one."""
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, name(value))
            elif key == "href":
                element.set(key, "#" + name(value.removeprefix("#")))
            elif "url(#" in value:
                element.set(key, _REFERENCE.sub(lambda m: f"url(#{name(m[1])})", value))


def _references(root: ET.Element) -> set[str]:
    names: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href":
                names.add(value.removeprefix("#"))
            names.update(_REFERENCE.findall(value))
    return names


def _without(root: ET.Element, unwanted: Callable[[ET.Element], bool]) -> None:
    for parent in root.iter():
        for child in [c for c in parent if unwanted(c)]:
            parent.remove(child)


def _short(value: str) -> str:
    return _NUMBER.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)


def _add_titles(root: ET.Element, told: Sequence[Sequence[str]]) -> None:
    """Puts each text of `told` into its element, as a title: matplotlib can name groups only."""
    groups = {e.attrib["id"]: e for e in root.iter("g") if "id" in e.attrib}
    for number, texts in enumerate(told):
        kind = next(kind for kind in (TIP, STRIP) if f"{kind}{number}" in groups)
        group = groups[f"{kind}{number}"]
        group.set("class", kind)
        places = list(group.iter("use")) or [group]
        assert len(places) == len(texts), "one text for all, or one for each marker"
        for place, text in zip(places, texts, strict=True):
            title = ET.Element("title")
            title.text = printable(text)
            place.insert(0, title)


def _share_styles(root: ET.Element) -> None:
    for parent in root.iter("g"):
        styles = {child.get("style") for child in parent}
        if (
            len(parent) > 1
            and len(styles) == 1
            and None not in styles
            and "style" not in parent.attrib
        ):
            parent.set("style", parent[0].attrib["style"])
            for child in parent:
                del child.attrib["style"]


def _flatten(root: ET.Element) -> None:
    """Takes out the groups that have no attributes."""
    for parent in root.iter():
        while any(child.tag == "g" and not child.attrib for child in parent):
            parent[:] = [
                inner
                for child in parent
                for inner in (child if child.tag == "g" and not child.attrib else [child])
            ]


def tidy(markup: str, told: Sequence[Sequence[str]] = ()) -> str:
    """Matplotlib's SVG document as a bare `<svg>` element, the same bytes for the same drawing.

    `told` are the texts to show where the group `tip0` or `strip0` is pointed at, and so on.
    """
    root = ET.fromstring(markup)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        if "style" in attributes:
            attributes["style"] = _COLOUR.sub(
                lambda m: f"var(--{MARKERS[m[0].lower()]})", attributes["style"]
            )
            attributes["style"] = _FONT.sub("", attributes["style"])
        if _ZERO_ROTATION.match(attributes.get("transform", "")):
            del attributes["transform"]
        for key in {"d", "x", "y", "width", "height"} & attributes.keys():
            attributes[key] = _short(attributes[key])
        if "d" in attributes:
            attributes["d"] = _COMMAND.sub(r"\1", attributes["d"]).strip()
        element.attrib.clear()
        element.attrib.update(attributes)
        element.tail = None
        if element.tag != "text":
            element.text = None
    # A <style> inside inline SVG would apply to the whole page; page.css.jinja says the same there.
    _without(root, lambda e: e.tag in ("metadata", "style"))
    for element in root.iter():
        if element.get("id") == "halo":  # matplotlib can name a group, but not class it
            element.set("class", element.attrib.pop("id"))
    _add_titles(root, told)
    used = _references(root)
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    _without(root, lambda e: e.tag in ("defs", "g") and len(e) == 0)
    _share_styles(root)
    _flatten(root)
    order = {e.attrib["id"]: f"p{i}" for i, e in enumerate(root.iter()) if "id" in e.attrib}
    _rename(root, lambda old: order[old])
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    return ET.tostring(root, encoding="unicode")


def alone(markup: str, legend: Sequence[LegendEntry]) -> str:
    """A `tidy` SVG as a document of its own: in the light colours, its legend above the drawing,
    all on paper of its own with a margin."""
    root, line, margin = ET.fromstring(markup), 16, 8
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    top = line * len(legend)
    sides = (-margin, -top - margin, width + 2 * margin, height + top + 2 * margin)
    root.set("viewBox", " ".join(f"{side:g}" for side in sides))
    root.set("style", f"background:var(--paper);{_SANS}")
    for number, entry in enumerate(legend):
        row = ET.SubElement(root, "g", transform=f"translate(0 {line * number - top})")
        painted = ("" if entry.filled else "fill:none;stroke-width:2.5;stroke:") or "fill:"
        painted += f"var(--{entry.colour});stroke-dasharray:{entry.dash or 'none'}"
        ET.SubElement(row, "path", d=entry.path, style=painted)
        text = ET.SubElement(row, "text", x="32", y="10", style="font-size:10px;fill:var(--ink)")
        text.text = one_line(entry.label)
    for element in root.iter():
        if element.get("class") == "halo":
            element.set("style", "paint-order:stroke;stroke:var(--paper);stroke-width:3px")
        if style := element.get("style"):
            element.set("style", _VARIABLE.sub(lambda m: COLOURS[m[1]][0], style))
    root.set("xmlns", "http://www.w3.org/2000/svg")
    return ET.tostring(root, encoding="unicode")


def inline(markup: str, *, prefix: str, alt: str) -> str:
    """A `tidy` SVG for one place of one page: ids under `prefix`, and `alt` for who cannot see."""
    root = ET.fromstring(markup)
    _rename(root, lambda old: prefix + old)
    root.set("role", "img")
    root.set("aria-label", one_line(alt))
    return ET.tostring(root, encoding="unicode")
