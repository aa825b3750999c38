"""Strings and numbers as the page shows them.

Notable:
- Every string from outside passes `printable` (no control characters, which neither HTML nor SVG
  may contain) and then the escaping of whoever writes the markup.
- Numbers use a true minus sign, thousands separators and powers of ten as superscripts, never
  mathtext: a label such as `d_model` or `$HOME` must show as it is.
"""

from __future__ import annotations

import html
import itertools
import math
import numbers
import re
from collections.abc import Sequence
from typing import Self

from lmlab.errors import UserError

# Control characters, lone surrogates and the two non-characters that XML 1.0 forbids.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def printable(text: str) -> str:
    """`text` with each character that markup cannot hold shown as U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text)


def one_line(text: str) -> str:
    """`printable`, with every run of white space as one space."""
    return " ".join(printable(text).split())


def escape(text: str) -> str:
    """`text` for HTML, between tags or inside a quoted attribute."""
    return html.escape(printable(text), quote=True)


def _true_minus(text: str) -> str:
    return text.replace("-", "−")


def _power_of_ten(exponent: int) -> str:
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def fixed(value: float | None, decimals: int, none: str = "none") -> str:
    """`value` with that many decimals, or `none`; what rounds to zero has no sign."""
    if value is None:
        return none
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else _true_minus(text)


def number(value: float, digits: int = 4) -> str:
    """`value` to `digits` significant digits; whole digits are never rounded away below a million.

    >>> number(0.0123456), number(12345.6), number(-1.23456e-7)
    ('0.01235', '12,346', '−1.235×10⁻⁷')
    """
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")  # rounds before it counts
    if not -5 < int(exponent) < 6:
        return f"{_true_minus(mantissa)}×{_power_of_ten(int(exponent))}"
    return fixed(value, max(0, digits - 1 - int(exponent)))


def short_float(value: float) -> float:
    """`value` to seven digits, as the data beside a figure has it."""
    return float(f"{value:.7g}")


class Rounded(float):
    """A number of a table that the page shows with so many decimals; data frames have it whole."""

    decimals: int

    def __new__(cls, value: float, decimals: int) -> Self:
        rounded = super().__new__(cls, value)
        rounded.decimals = decimals
        return rounded


def cell(value: object, *, where: str) -> tuple[str, bool]:
    """A table cell as text, and whether it is a number."""
    if isinstance(value, str):
        return value, False
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return _true_minus(f"{int(value):,}"), True
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UserError(f"{where}: {value} is not finite; give a text that says why instead")
        if isinstance(value, Rounded):
            return fixed(value, value.decimals), True
        return number(float(value)), True
    raise UserError(f"{where}: {value!r} is neither a text nor a number; format it first")


def estimates(
    rows: Sequence[tuple[float, float | None, float | None]], *, alike: bool = True
) -> list[tuple[str, str]]:
    """Estimates and their intervals ("" for none): `alike`, all with the same decimals for
    comparison, those that give the narrowest interval two digits of its half-width; else three
    digits each, for what spans orders of magnitude.
    """
    widths = [(high - low) / 2 for _, low, high in rows if low is not None and high is not None]
    finest = min((w for w in widths if w > 0), default=0.0)
    largest = max(abs(v) for row in rows for v in row if v is not None)
    unit = finest or largest / 10 or 1.0
    decimals = max(0, 1 - math.floor(math.log10(unit)))

    def show(value: float) -> str:
        plain = alike and decimals <= 6 and largest < 1e6
        return fixed(value, decimals) if plain else number(value, 3)

    return [
        (show(estimate), "" if low is None or high is None else f"[{show(low)}, {show(high)}]")
        for estimate, low, high in rows
    ]


def tick_labels(values: Sequence[float], *, log: bool) -> list[str]:
    """Labels of axis ticks; on a linear axis all share one scale, on a logarithmic one none."""
    top = max((abs(v) for v in values), default=0.0)
    if log:
        # 1k beside 10k, but 1,000 where nothing is larger than 5,000.
        return [_tick(v, max(v, 1e4) if v >= 1e3 and top >= 1e4 else v, [v]) for v in values]
    return [_tick(value, top, values) for value in values]


def _tick(value: float, top: float, values: Sequence[float]) -> str:
    if value == 0:
        return "0"
    scale, suffix = 1.0, ""
    if 0 < top < 9.99e-4 or top >= 1e15:
        exponent = math.floor(math.log10(top) + 1e-9)
        scale, suffix = 10.0**exponent, f"×{_power_of_ten(exponent)}"
        if math.isclose(value, scale):
            return _power_of_ten(exponent)
    elif top >= 1e4:
        scale, suffix = next(pair for pair in _SCALES if top >= pair[0])
    scaled = [v / scale for v in values]
    # Enough decimals to tell neighbours apart, and to show 2.5 as 2.5.
    gaps = [abs(b - a) for a, b in itertools.pairwise(scaled) if a != b]
    tolerance = min(gaps, default=abs(scaled[0])) * 1e-3
    decimals = next(
        (d for d in range(12) if all(abs(round(v, d) - v) <= tolerance for v in scaled)), 12
    )
    return fixed(value / scale, decimals) + suffix
