"""Options of the head as a bottleneck of the gradient. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmlab.studies.options import InWindows


@dataclass(frozen=True)
class BottleneckConfig(InWindows):
    """How much of the gradient of the logits reaches the body of a model through its head."""

    models: tuple[str, ...]
    """Run folders, checkpoints, saved transformers models, or Hub names."""
    split: Literal["train", "validation", "test"] = "train"
    """Of the text that gives the gradient."""
    windows: int = 64
    """Read a random sample of this many windows."""
    batch_tokens: int = 2048
    """Tokens whose gradient makes one step: what an update of the head reaches depends on them, and
    the candidates of a headless model are among them."""
