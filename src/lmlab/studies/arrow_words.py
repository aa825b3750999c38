"""The words of the arrow study: what a comparison is called, and what was found."""

from __future__ import annotations

from typing import Any

from lmlab.studies.words import percent


def verdict(cell: dict[str, Any]) -> str:
    """The finding of one cell in words, with its interval."""
    arrow = cell["arrow"]
    said = arrow["verdict"]
    if cell["order"] != "backward":
        said = said.replace("backward is easier", f"{cell['order']} is easier")
    text = f"{said} ({percent(arrow['relative'])}"
    if arrow["interval"]:
        low, high = arrow["interval"]
        text += f", 95 % interval {percent(low)} to {percent(high)}"
        text += ", text only" if arrow["basis"] == "text only" else ""
    return text + ")"


def comparison_name(cell: dict[str, Any]) -> str:
    """What is compared: corpus, model, and what is not the default."""
    tokenizer = f", {cell['tokenizer']}" if cell["tokenizer"] not in ("bpe", "characters") else ""
    order = f", {cell['order']}" if cell["order"] != "backward" else ""
    return f"{cell['corpus']} ({cell['label']}{tokenizer}{order})"


def side_name(cell: dict[str, Any], side: str) -> str:
    """The direction behind `forward` or `other` of a comparison."""
    return "forward" if side == "forward" else cell["order"]
