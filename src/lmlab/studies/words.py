"""Words and numbers that the reports of all studies share."""

from __future__ import annotations

import platform
from importlib.metadata import version


def percent(value: float) -> str:
    """A share as a signed percentage."""
    return f"{signed(100 * value, 2)} %"


def signed(value: float, digits: int) -> str:
    """A number with its sign, a minus as long as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


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
