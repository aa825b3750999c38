"""Options of the tree of models. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lmlab.config.numbers import at_least
from lmlab.errors import UserError
from lmlab.studies.options import OnStore
from lmlab.topics.decomposition.options import EmbeddingConfig


@dataclass(frozen=True)
class LineageConfig(OnStore):
    """The tree of models by three similarities of what they make of the same text, with the support
    of its branches; and, where their true lineage is known, how much of it each tree recovers."""

    models: tuple[str, ...]
    """Run folders, checkpoints, saved transformers models, or Hub names; at least four."""
    store: Path = field(kw_only=True)
    """Its text is what the models read; its tokenizer only cuts it into pieces. Linear maps are
    fitted on the training split, their ridges chosen on validation; all is measured on test."""
    truth: str | None = None
    """The true tree over the models' short names, ((a,b),(c,d)): brackets around those that have a
    parent in common. What is not known is left out: (a,b,(c,d))."""
    pieces: int = at_least(2, 5_000)
    """Pieces of training text, at most: a fixed random sample."""
    held_out_pieces: int = at_least(2, 1_000)
    """Pieces of validation text and of test text, at most."""
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    neighbours: int = 10
    """Mutual neighbours: of a row's nearest so many, how many are the same in two models."""
    distance: Literal["log", "linear"] = "log"
    """log: minus the logarithm of the calibrated similarity, which adds up along a tree where
    similarities multiply; linear: one minus it."""
    permutations: int = at_least(19, 99)
    """Shuffles of the documents, which show what models without any relation have."""
    halves: int = at_least(20, 200)
    """Random halves of the test documents, for intervals and for the support of branches."""
    lab: Path = Path("lab")
    """Rows are kept in its folder embeddings, by model and text."""

    def __post_init__(self) -> None:
        if len(self.models) < 4:
            raise UserError(
                f"`models`: {len(self.models)} given; fewer than four have only one tree"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """What is read of the store."""
        return "train", "validation", "test"
