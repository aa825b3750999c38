"""Options of `lmlab surprisal`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmlab.config.numbers import Options, at_least


@dataclass(frozen=True)
class SurprisalConfig(Options):
    """Surprisal of each word or token of texts, as a table and as coloured text."""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    text: tuple[str, ...] = ()
    """Words of a text; several texts, each quoted; files with text; or csv files with the columns
    id and text (and regions: the text cut by |). Nothing, or -, reads standard input."""
    against: str | None = None
    """A second model: the page colours the text by how much more the first is surprised."""
    unit: Literal["word", "token"] = "word"
    measure: Literal["nats", "bits"] = "nats"
    marks: Literal["attached", "apart"] = "attached"
    """Whether a comma belongs to the word that it stands at, or is a word of its own."""
    context: int | None = None
    """Tokens of a window (default: the longest that fits, at most 1024)."""
    overlap: int | None = at_least(0, None)
    """Tokens of a window that are read again in the next (default: half of them)."""
    head: Literal["own", "raw"] = "own"
    """raw leaves out the output bias that lmlab gave the model (headless: embeddings alone)."""
    objective: Literal["auto", "causal", "masked"] = "auto"
    """Insist on one way to read the model (default: as it was trained)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of surprisal.csv, results.json and the page (default: below lab/results)."""
