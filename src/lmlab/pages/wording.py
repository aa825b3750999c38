"""How pages and tables write numbers and amounts of text, in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS, Interval
from lmlab.pages.page import Figure
from lmlab.pages.text import Rounded


def percent(value: float) -> str:
    """A share as a signed percentage."""
    return f"{signed(100 * value, 2)} %"


def share_text(share: float) -> str:
    """A share in whole per cent."""
    return f"{100 * share:.0f} %"


def signed(value: float, digits: int) -> str:
    """A number with its sign, a minus as long as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def capital(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def spaces_seen(text: str) -> str:
    """A token's text with its spaces and line ends made visible."""
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


def without_label(figures: Iterable[Figure], label: str) -> list[Figure]:
    """Figures whose findings do not begin with a label that the whole page is of."""
    return [
        replace(f, finding=capital(f.finding.removeprefix(label).lstrip(":, "))) for f in figures
    ]


def copies_of(same: Iterable[tuple[str, str]]) -> str:
    """Pairs of a name and an earlier one that it is the same as: "b of a, c of a"."""
    return ", ".join(f"{name} of {earlier}" for name, earlier in same)


def amount_of_text(documents: int, unit: str, clusters: int | None = None) -> str:
    """What an interval over text resamples: documents, or the sections of a few of them."""
    if documents >= MINIMUM_DOCUMENTS:
        return f"{documents:,} documents"
    few = "1 document" if documents == 1 else f"{documents} documents"
    count = "" if clusters is None else f"{clusters:,} "
    return f"{count}clusters ({unit}) of {few}, so for these documents only"


def bits_cell(bits_per_byte: float | None) -> str | Rounded:
    """Bits per byte of a score in a table, or why there are none."""
    return "not known of a sample" if bits_per_byte is None else Rounded(bits_per_byte, 5)


def with_interval(interval: Interval, show: Callable[[float], str], unit: str = "") -> str:
    """An estimate in `unit` with its bounds in brackets, each as `show` writes a number."""
    text, bounds = f"{show(interval.estimate)}{unit}", bounds_text(interval.bounds, show)
    return f"{text} {bounds}" if interval.bounds else f"{text} ({bounds})"


def bounds_text(bounds: tuple[float, float] | None, show: Callable[[float], str]) -> str:
    """The ends of an interval in brackets, each as `show` writes a number."""
    return "no interval" if bounds is None else "[{}, {}]".format(*map(show, bounds))
