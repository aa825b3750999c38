"""The corpus `code`: the source of Python's standard library, a text that is no natural language.

A document is one module's file. Tests and files that are not UTF-8 are left out.
"""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT_FOLDERS = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idle_test"}


def read_code() -> Iterator[tuple[str, str]]:
    """Names and texts of the modules, by path."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if _LEFT_OUT_FOLDERS & set(inside.parts[:-1]):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield inside.as_posix(), text


def code_version() -> dict[str, str]:
    """What decides this corpus."""
    return {"python": platform.python_version()}
