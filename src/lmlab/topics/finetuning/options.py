"""Configuration of fine-tuned evaluation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmlab.config.numbers import Options, check_each_once
from lmlab.errors import UserError


@dataclass(frozen=True)
class FinetuneConfig(Options):
    """Fine-tune language models on labelled texts, over several seeds, and compare them.

    The first model is the one that the others are compared with."""

    models: tuple[str, ...]
    """Run folder, checkpoint, saved transformers model, or Hub name, each."""
    tasks: tuple[str, ...]
    """KIND=SOURCE each: polarity=FOLDER, glue=NAME, xnli=LANGUAGE, babylm=FOLDER, tsv=FILE,
    jsonl=FILE (see docs/evaluation.md)."""
    names: tuple[str, ...] = ()
    """What the models are called in the result (default: as given)."""
    seeds: int = 3
    """Seeds of the new head, of the order of the texts and of dropout."""
    epochs: float = 10.0
    batch: int = 32
    """Texts a step."""
    length: int = 128
    """Texts are cut to this many tokens (or to what the model takes, if that is less)."""
    learning_rate: float = 5e-5
    """At its peak. Small models want more: 2e-4 to 1e-3."""
    class_balanced: bool = False
    """Every class has the same weight in the loss, however rare."""
    freeze_body: bool = False
    """Train the new head alone, on the model as it is."""
    validations: int = 2
    """Validations an epoch, on texts that are neither trained on nor reported."""
    early_stopping: int = 6
    """Stop when so many validations in a row were no better; the best one's weights are kept."""
    limit: int | None = None
    """Train on a fixed sample of this many texts."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    lab: Path = Path("lab")
    """Folder of stores and runs."""
    out: Path | None = None
    """Folder of the result (default: in `lab`, by the digest of these settings)."""

    def __post_init__(self) -> None:
        check_each_once(self, "models", "tasks")
        if self.names and len(self.names) != len(self.models):
            raise UserError(f"`names` has {len(self.names)} names for {len(self.models)} models")
        if self.epochs == 0:
            raise UserError("`epochs` must be above 0")
