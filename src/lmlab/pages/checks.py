"""What every figure asks of its input; an error names the figure by its finding."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NoReturn

from lmlab.errors import UserError
from lmlab.pages.text import one_line


def fail(finding: str, message: str) -> NoReturn:
    raise UserError(f"figure '{one_line(finding)}': {message}")


def check_numbers(
    finding: str, what: str, values: Iterable[float], *, positive: bool = False
) -> None:
    """Every value is finite, and above zero where a logarithmic axis has to show it."""
    for i, value in enumerate(values):
        if not math.isfinite(value):
            fail(finding, f"{what} is {value} at position {i}; leave such points out")
        if positive and value <= 0:
            fail(
                finding,
                f"{what} is {value} at position {i}, which a logarithmic axis cannot show; "
                "leave it out or use a linear axis",
            )
