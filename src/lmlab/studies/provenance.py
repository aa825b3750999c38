"""Words and numbers that the reports of all studies share."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lmlab.config import to_command_line
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS


def percent(value: float) -> str:
    """A share as a signed percentage."""
    return f"{signed(100 * value, 2)} %"


def signed(value: float, digits: int) -> str:
    """A number with its sign, a minus as long as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def capital(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def amount_of_text(documents: int, unit: str, clusters: int | None = None) -> str:
    """What an interval over text resamples: documents, or the sections of a few of them."""
    if documents >= MINIMUM_DOCUMENTS:
        return f"{documents:,} documents"
    few = "1 document" if documents == 1 else f"{documents} documents"
    count = "" if clusters is None else f"{clusters:,} "
    return f"{count}clusters ({unit}) of {few}, so for these documents only"


def environment() -> dict[str, str]:
    """The versions that numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def made_by(environment: dict[str, str]) -> str:
    """The line at the end of a report."""
    versions = ", ".join(f"{k} {v}" for k, v in environment.items())
    return f"Made by lmlab from results.json beside this page. {versions}."


def to_repeat(command: str, kind: type, config: Mapping[str, Any]) -> str:
    """How to make the report's study again, wherever its lab may be."""
    asked = {key: value for key, value in config.items() if key not in ("lab", "out")}
    return f"To repeat it: {command} {shlex.join(to_command_line(kind, asked))}".rstrip()
