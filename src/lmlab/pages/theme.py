"""Colours of the page; page.css.jinja is its style sheet.

Notable:
- Every colour of the page and its figures is one CSS variable with a light and a dark value; the
  figures are drawn once, in marker colours that `svg.tidy` turns into these variables.
- The series colours are apart from one another under the three kinds of colour blindness, and at
  least 3:1 from the background in both schemes (a test computes both).
- Printing uses the light scheme.
"""

from __future__ import annotations

# name: (light, dark)
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#fcfcfa", "#17191c"),
    "box": ("#f1f3f1", "#202428"),
    "ink": ("#1d2023", "#e6e6e2"),
    "muted": ("#5c6166", "#a0a6ab"),
    "rule": ("#dcdeda", "#363b40"),
    "c0": ("#0b4fa0", "#4a8fe8"),
    "c1": ("#b0341c", "#f5613c"),
    "c2": ("#028a76", "#2fc17f"),
    "c3": ("#742f78", "#d994d9"),
    "c4": ("#c07c00", "#e5da52"),
    "c5": ("#323538", "#c9d0d4"),
}
SERIES_COLOURS = sum(name.startswith("c") for name in COLOURS)

# What matplotlib is told to draw in, and the variable it stands for.
MARKERS: dict[str, str] = {f"#0101{i:02x}": name for i, name in enumerate(COLOURS)}
_BY_NAME = {name: marker for marker, name in MARKERS.items()}


def marker(name: str) -> str:
    """The colour to give matplotlib where the page's variable `name` is meant."""
    return _BY_NAME[name]


PASSAGE_LEVELS = 5
"""Steps of colour in a passage of text."""
