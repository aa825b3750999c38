"""The words of the arrow study: what a comparison is called, and what was found."""

from __future__ import annotations

from typing import Any

from lmlab.pages.wording import percent


def verdict(cell: dict[str, Any]) -> str:
    """The finding of one cell in words, with its interval."""
    arrow = cell["arrow"]
    jumps = jump_words(cell)
    said = "final losses decide nothing here" if jumps else arrow["verdict"]
    if cell["order"] != "backward":
        said = said.replace("backward is easier", f"{cell['order']} is easier")
    text = f"{said} ({percent(arrow['relative'])}"
    if arrow["interval"]:
        low, high = arrow["interval"]
        text += f", 95 % interval {percent(low)} to {percent(high)}"
        text += ", text only" if arrow["basis"] == "text only" else ""
    return text + ")" + (f"; {jumps}" if jumps else "")


def jump_words(cell: dict[str, Any]) -> str:
    """When each direction makes its jump; empty unless the budget ends among the jumps."""
    found = cell["transition"]
    if found is None or not found["inside"]:
        return ""
    return f"the budget ends among jumps of the validation loss: {times_words(cell)}"


def times_words(cell: dict[str, Any]) -> str:
    """The times to the threshold of each direction, with the exact comparison."""
    found = cell["transition"]
    said = [
        f"{side_name(cell, side)} falls below {found['threshold']:.3f} nats in "
        f"{sum(t is not None for t in times)} of {len(times)} run{'s' * (len(times) > 1)}, after "
        f"{mean:,.0f} tokens on average"
        for side, times, mean in (
            ("forward", found["first"], found["mean_first"]),
            ("other", found["second"], found["mean_second"]),
        )
    ]
    return (
        f"{', '.join(said)} (a run that does not, counted with its {found['budget']:,.0f}; p = "
        f"{found['p']:.2g} by an exact log-rank test, which can reach {found['least_p']:.2g})"
    )


def comparison_name(cell: dict[str, Any]) -> str:
    """What is compared: corpus, model, and what is not the default."""
    tokenizer = f", {cell['tokenizer']}" if cell["tokenizer"] not in ("bpe", "characters") else ""
    order = f", {cell['order']}" if cell["order"] != "backward" else ""
    return f"{cell['corpus']} ({cell['label']}{tokenizer}{order})"


def side_name(cell: dict[str, Any], side: str) -> str:
    """The direction behind `forward` or `other` of a comparison."""
    return "forward" if side == "forward" else cell["order"]
