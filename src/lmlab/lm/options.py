"""Options of sampling from a model and of exporting it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmlab.config.numbers import Options, at_least


@dataclass(frozen=True)
class SampleConfig(Options):
    """Write text with a model; a backward model writes what comes before the prompt."""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    prompt: str = ""
    tokens: int = 100
    count: int = 1
    temperature: float = 1.0
    """0 takes the likeliest token every time."""
    top_k: int | None = None
    seed: int = at_least(0, 0)
    out: Path | None = None
    """Folder of results.json (default: below lab/results, by the digest of these options)."""


@dataclass(frozen=True)
class ExportConfig(Options):
    """Write a model of lmlab as a standard transformers folder, its output bias included."""

    model: str
    """Run folder or checkpoint."""
    out: Path
    head: Literal["own", "raw", "calibrated"] = "own"
    """raw leaves out the output bias (headless: embeddings alone); calibrated fits two scalars on
    the validation split of `store`."""
    store: Path | None = None
    scores: tuple[Path, ...] = ()
    """Results of this model (folders of results.json) whose tables go into the model card."""


@dataclass(frozen=True)
class PublishConfig(Options):
    """Write a finished run as the revisions of a repository of the Hub: each checkpoint by words
    seen (see `checkpoints.words` of train), and the last one as main. Uploads only when asked."""

    run: Path
    """Folder of the run."""
    repo: str
    """Of the Hub, USER/NAME."""
    out: Path
    """Folder of the revisions, an exported model each."""
    scores: tuple[Path, ...] = ()
    """Results of the run (folders of results.json) whose tables go into the model card of main."""
    upload: bool = False
    """Upload them, creating the repository if it is not there (public, as your account has it)."""
