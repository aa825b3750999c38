"""The page of a tuning. Every figure stands under its finding in words."""

from __future__ import annotations

from lmlab.pages.page import Section
from lmlab.pages.report import Report
from lmlab.studies.provenance import to_repeat
from lmlab.topics.tuning.figures import axis_figures
from lmlab.topics.tuning.options import axis_text
from lmlab.topics.tuning.tables import (
    edges,
    headline,
    runs_table,
    settings_table,
    tables,
    unequal_lengths,
)
from lmlab.topics.tuning.tuning import Tuning

__all__ = ["report", "tables"]


def report(result: Tuning) -> Report:
    """Title, finding and sections of the page."""
    tried = " and ".join(axis_text(name) for name in result.config.over)
    findings = (headline(result), unequal_lengths(result), edges(result))
    return Report(
        f"Tuned: {tried}",
        "\n\n".join(text for text in findings if text),
        [
            Section("Settings", tables=[settings_table(result)]),
            Section("Along each option", figures=axis_figures(result)),
            Section("Runs", tables=[runs_table(result)]),
            Section("How", _how(result)),
        ],
    )


def _how(result: Tuning) -> list[str]:
    config = result.config
    paragraphs = [
        f"Store {result.store}. The loss is that of the last checkpoint on a fixed sample of "
        f"{result.validation_tokens:,} validation tokens; intervals are over seeds, this text "
        "being given. The loss that a setting is chosen by flatters it a little: report the test "
        "split.",
        "A setting is called best where it differs from every other at 5 % (t test, paired by "
        "seed); although it was chosen by the same losses, a wrong one is then named with at most "
        "5 % (Hung and Fithian 2019).",
    ]
    if "context" in config.over:
        paragraphs.append(
            "Each context is validated in windows of its own length, so a part of the difference "
            "is what more context is worth, not how well the model learnt."
        )
    if config.halving:
        paragraphs.append(
            "By successive halving: every length is a run of its own with its whole schedule, and "
            "the better half by mean loss goes on. What is best for a short run need not be best "
            "for a long one: a setting that was left out is not known to be worse."
        )
    return [*paragraphs, to_repeat("lmlab tune", config)]
