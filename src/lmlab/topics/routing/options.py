"""Options of a gate between two finished models. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmlab.errors import UserError
from lmlab.studies.options import InWindows


@dataclass(frozen=True)
class RouteConfig(InWindows):
    """How much better two finished models predict together, if a gate on their states says for each
    token how much to believe which."""

    first: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    second: str
    """Another one of the same tokenizer and order."""
    single: str | None = None
    """A model to compare with, such as one of the size of both together."""
    fit_split: Literal["train", "validation", "test"] = "validation"
    """Of the text that the gate is fitted on: not what the models were trained on, on which both
    look surer than they are."""
    fit_tokens: int = 50_000
    """At most; all features of as many are in memory."""
    split: Literal["train", "validation", "test"] = "test"
    """Of the text that the gain is measured on."""
    windows: int | None = None
    """Read a random sample of this many windows of it (default: all)."""

    def __post_init__(self) -> None:
        if self.fit_split == self.split:
            raise UserError(
                f"`fit_split` and `split` are both {self.split}: a gate would be measured on the "
                "text that it was fitted on; choose another split"
            )
