"""Attacks on a report: script in every string that its results hold, names of things included."""

from __future__ import annotations

import json
from collections.abc import Collection
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lmlab.errors import UserError
from lmlab.topics.registry import read_result, redraw
from promises import Cases

SCRIPT = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;"


class Live(HTMLParser):
    """Collects what a browser would run, or load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe", "object", "embed", "base", "form"):
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            loads = name in ("src", "href") and not (value or "").startswith(("#", "data:,"))
            if name.startswith("on") or loads:
                self.found.append(f"{tag} {name}={value}")


def strings(value: Any) -> set[str]:
    """Every string of a JSON value, keys included."""
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = set(value) if isinstance(value, dict) else set()
    return found.union(*map(strings, inner))


def renamed(value: Any, names: dict[str, str]) -> Any:
    """The value with these strings, keys included, replaced by others."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {names.get(key, key): renamed(inner, names) for key, inner in value.items()}
    return [renamed(inner, names) for inner in value] if isinstance(value, list) else value


def attack_report(folder: Path, cases: Cases, spared: Collection[str] = ()) -> set[str]:
    """Puts script into the strings of `folder`'s results, many at once where the report can still
    be drawn; counts a case for each string. Returns those that reached a page.

    A string that lmlab itself looks for (a key, the name of a study) may be refused instead. It is
    found by the error where that names it; else by halves. `spared` are left as they are.
    """
    whole = (folder / "results.json").read_text("utf-8")
    page = (folder / "report.html").read_bytes()
    results = json.loads(whole)
    reached: set[str] = set()

    def attack(chosen: list[str]) -> None:
        while chosen:
            names = {text: text + SCRIPT for text in chosen}
            (folder / "results.json").write_text(json.dumps(renamed(results, names)), "utf-8")
            try:
                drawn = redraw(folder).read_text("utf-8")
                read_result(folder).tables()
            except (UserError, KeyError) as error:
                said = str(error)
                named = [t for t, n in names.items() if repr(n) in said or f"'{n}'" in said]
                if len(chosen) > 1 and not named:
                    attack(chosen[: len(chosen) // 2])
                    chosen = chosen[len(chosen) // 2 :]
                    continue
                refused = named or chosen
                chosen = [text for text in chosen if text not in refused]
                cases.tried += len(refused)
                cases.held += len(refused)
                continue
            cases.tried += len(chosen)
            found = Live(drawn).found
            assert found == [], (chosen, found)
            cases.held += len(chosen)
            reached.update(chosen)
            return

    try:
        attack(sorted(strings(results) - set(spared)))
    finally:
        (folder / "results.json").write_text(whole, "utf-8")
        (folder / "report.html").write_bytes(page)
    return reached
