"""Words and numbers that the reports of all studies share."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lmlab.config import to_command_line


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
