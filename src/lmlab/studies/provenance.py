"""How the command line of a study is written on its page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lmlab.config import to_command_line


def to_repeat(command: str, kind: type, config: Mapping[str, Any]) -> str:
    """How to make the report's study again, wherever its lab may be."""
    asked = {key: value for key, value in config.items() if key not in ("lab", "out")}
    return f"To repeat it: {command} {shlex.join(to_command_line(kind, asked))}".rstrip()
