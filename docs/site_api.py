"""Docstrings of lmlab as Markdown, for the API reference of the site (an extension of griffe).

The docstrings are written to be read in a terminal. Three things mean something else in Markdown:
`>>>` is a quotation, `<unk>` a tag, and a list needs a blank line before it.

Fields and properties of a class stand in one list below its docstring, each with its type; most
explain themselves by name, so those without a docstring are there too.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, Class, Docstring, Extension, Function, Object, ParameterKind

_PROMPT = re.compile(r"^ *>>> ")
_ITEM = re.compile(r"^ *- ")
_ABOUT_RESULTS = {"kind", "schema", "views", "derived", "source", "view_module"}
"""What the class of a result says to lmlab, not to its reader."""
_CODE = re.compile(r"(`[^`]*`)")


class Docstrings(Extension):
    """Changes every docstring where it is found."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_class_members(self, *, cls: Class, **kwargs: Any) -> None:
        lines: list[str] = []
        for name, field in cls.members.items():
            if not isinstance(field, Attribute) or field.annotation is None:
                continue
            if name.startswith("_") or name in _ABOUT_RESULTS:
                continue
            words = " ".join(field.docstring.value.split()) if field.docstring else ""
            kind = re.sub(r"\s+", " ", str(field.annotation))
            lines.append(f"- **`{name}`** (`{kind}`){': ' if words else ''}{words}")
            field.docstring = None  # else it stood below again, with a heading of its own
        if lines:
            own = cls.docstring.value if cls.docstring else ""
            text = "\n".join([own, "", "**Fields:**", "", *lines])
            line = cls.docstring.lineno if cls.docstring else cls.lineno
            cls.docstring = Docstring(text, lineno=line, parent=cls)

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        """`*args` and `**options` have no default; griffe gives them an empty one."""
        for parameter in func.parameters:
            if parameter.kind in (ParameterKind.var_positional, ParameterKind.var_keyword):
                parameter.default = None


def as_markdown(docstring: str) -> str:
    """A docstring whose examples, angle brackets and lists Markdown shows as they are meant."""
    lines: list[str] = []
    in_example = False
    for line in docstring.split("\n"):
        if not in_example and _PROMPT.match(line):
            lines += ["```pycon"]
            in_example = True
        elif in_example and not line.strip():
            lines += ["```"]
            in_example = False
        if in_example:
            lines.append(line)
            continue
        if _ITEM.match(line) and lines and lines[-1].strip() and not _within(lines[-1]):
            lines.append("")
        parts = _CODE.split(line)
        lines.append("".join(p if p.startswith("`") else p.replace("<", "&lt;") for p in parts))
    return "\n".join([*lines, "```"] if in_example else lines)


def _within(line: str) -> bool:
    """Whether an item after this line goes on with a list."""
    return bool(_ITEM.match(line)) or line.startswith("  ")
