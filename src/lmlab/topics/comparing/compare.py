"""The result of `lmlab compare`: kinds of models on a text, on tasks, or on both."""

from __future__ import annotations

from dataclasses import dataclass

from lmlab.results import Result
from lmlab.topics.comparing.of_tasks import ComparedOnTask
from lmlab.topics.comparing.of_text import ComparedOnText


@dataclass(frozen=True)
class ModelsCompared(Result, kind="compare"):
    """Kinds of models, compared."""

    kinds: dict[str, tuple[str, ...]]
    """The models of each kind, by its name."""
    text: ComparedOnText | None
    """None where only tasks were asked for."""
    tasks: tuple[ComparedOnTask, ...]
