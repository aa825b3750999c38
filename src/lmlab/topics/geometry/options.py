"""Options of the geometry of a model. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmlab.studies.options import OfModel


@dataclass(frozen=True)
class GeometryConfig(OfModel):
    """Shape of a model's embeddings and hidden states; norms and loss by token frequency."""

    split: Literal["train", "validation", "test"] = "validation"
    windows: int = 256
    """Evaluate a random sample of this many windows."""
