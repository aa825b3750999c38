"""How the command line of a study is written on its page."""

from __future__ import annotations

import shlex
from typing import Any

from lmlab.config import to_command_line, to_mapping


def to_repeat(command: str, config: Any) -> str:
    """How to make the report's study again, wherever its lab may be."""
    asked = {key: value for key, value in to_mapping(config).items() if key not in ("lab", "out")}
    return f"To repeat it: {command} {shlex.join(to_command_line(type(config), asked))}".rstrip()
