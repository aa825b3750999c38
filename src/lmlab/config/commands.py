"""Options of the commands that analyse models. Imports no torch.

Those of `prepare`, `train`, `doctor`, `eval` and the studies stand with what they configure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmlab.config.numbers import Options, at_least


@dataclass(frozen=True)
class ScoreConfig(Options):
    """Score a model on a split of a store: nats per token and bits per byte."""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    store: Path
    split: Literal["train", "validation", "test"] = "validation"
    head: Literal["own", "raw", "calibrated"] = "own"
    """raw leaves out the output bias that lmlab gave the model (headless: embeddings alone);
    calibrated fits two scalars on the validation split (on test, where validation is scored)."""
    objective: Literal["auto", "causal", "masked"] = "auto"
    """Insist on one way to read the model (default: as it was trained)."""
    context: int | None = None
    """Window in tokens (default: the model's, at most 1024)."""
    batch: int | None = None
    """Windows at a time; does not change the score."""
    windows: int | None = None
    """Score a random sample of this many windows (default: all)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of results.json (default: below lab/results, by the digest of these options)."""


@dataclass(frozen=True)
class GeometryConfig(Options):
    """Shape of a model's embeddings and hidden states; norms and loss by token frequency:
    lmlab geometry MODEL --store STORE"""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    store: Path
    split: Literal["train", "validation", "test"] = "validation"
    context: int | None = None
    """Window in tokens (default: the model's, at most 1024)."""
    windows: int = 256
    """Evaluate a random sample of this many windows."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of results.json and report.html (default: below lab/results, by the digest of these
    options)."""


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
    """Write a model of lmlab as a standard transformers folder, its output bias included:
    lmlab export MODEL --out FOLDER"""

    model: str
    """Run folder or checkpoint."""
    out: Path
    head: Literal["own", "raw", "calibrated"] = "own"
    """raw leaves out the output bias (headless: embeddings alone); calibrated fits two scalars on
    the validation split of --store."""
    store: Path | None = None


@dataclass(frozen=True)
class ArrowPairConfig(Options):
    """Compare two models, one forward and one backward, on the same windows of a store:
    lmlab arrow FORWARD BACKWARD --store STORE"""

    forward: str
    backward: str
    store: Path
    split: Literal["train", "validation", "test"] = "test"
    context: int | None = None
    windows: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of results.json (default: below lab/results, by the digest of these options)."""


@dataclass(frozen=True)
class ReportConfig(Options):
    """Draw the report of a finished study again, from its results.json."""

    study: Path
    """Folder that holds results.json."""


@dataclass(frozen=True)
class TourConfig(Options):
    """A small edition of the studies on the default corpus, in a few minutes."""

    lab: Path = Path("lab")
