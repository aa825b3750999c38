"""The page of `lmlab sample`: the texts, the prompt in colour."""

from __future__ import annotations

from lmlab.data.order import BACKWARD
from lmlab.lm.sampling import Samples
from lmlab.pages.page import Passage, Section, Table
from lmlab.pages.report import Report


def tables(result: Samples) -> list[Table]:
    """A text a row."""
    rows = [[number, text] for number, text in enumerate(result.texts, 1)]
    return [Table(["number", "text"], rows, f"Texts of {result.model}.")]


def report(result: Samples) -> Report:
    """Title, how the texts were drawn, and the texts."""
    how = "the likeliest token each time"
    if result.temperature:
        best = f" among the {result.top_k:,} likeliest tokens" if result.top_k else ""
        how = f"drawn at temperature {result.temperature:g}{best}, seed {result.seed}"
    where = "before" if result.order == BACKWARD else "after"
    prompt = f" {where} the prompt (in colour)" if result.prompt else ""
    return Report(
        f"Texts of {result.model}",
        f"Texts of at most {result.tokens:,} tokens{prompt}: {how}.",
        [Section("Texts", passages=_passages(result))],
    )


def _passages(result: Samples) -> list[Passage]:
    prompt, turn = (result.prompt, 0.4), -1 if result.order == BACKWARD else 1
    return [
        Passage(f"Text {number}", [(t, s) for t, s in (prompt, (written, 0.0)) if t][::turn])
        for number, written in enumerate(result.written, 1)
    ]
