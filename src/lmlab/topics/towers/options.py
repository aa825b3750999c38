"""Options of the preference of towers, and of their study. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lmlab.config.model import MASKED, RECURRENT, ModelConfig
from lmlab.config.numbers import at_least, check_each_once
from lmlab.config.objective import ReadingName
from lmlab.errors import UserError
from lmlab.studies.options import OfModel, TextStudy


@dataclass(frozen=True)
class PreferConfig(OfModel):
    """Which types of token each of two towers predicts better.

    MODEL holds probes (lmlab train --objective probe --parent.path TOWERS), or towers whose fusion
    gives each a distribution, which is then calibrated by a temperature.
    """

    model: str
    """Run folder or checkpoint."""
    split: Literal["train", "validation", "test"] = "validation"
    """What is scored; towers without probes are calibrated on validation, or on test if that is
    scored."""
    windows: int | None = None
    """Score a random sample of this many windows (default: all)."""
    seed: int = at_least(0, 0)
    """Of splits into halves and of permutations."""


@dataclass(frozen=True)
class TowersStudyConfig(TextStudy):
    """If two models share one prediction, which tokens does each take? Trains cooperative towers
    the same towers with separate losses, and independent ones; probes all alike; and asks whether
    cooperative towers' preferences among types of token are larger than the others', and of use."""

    text: tuple[str, ...] = ("docstrings",)
    """Files, folders, patterns, hf:NAME, docstrings, code, or a store of `lmlab prepare`; with
    shuffled:, unigrams: or bigrams: before it, a text without that much of its order. A part of the
    result each."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """One tower: qwen3, gpt2, neox, llama, lstm, gru, or bert, modernbert, distilbert."""
    fusion: Literal["concat", "product", "mixture"] = "concat"
    """Of the cooperative towers."""
    cloze: bool = False
    """Of lstm and gru: one tower reads forward, one backward."""
    split: bool = True
    """Also one model of twice the width, split at random into halves (the null N1)."""
    independent: bool = True
    """Also independent towers (the null N0), which no verdict rests on."""
    control: bool = True
    """Also the hard minimum, which divides by construction: the measure must see it."""
    single: bool = True
    """Also one model with as many weights as the cooperative towers."""
    vocabulary: int = 8192
    context: int = 128
    seeds: int = 4
    """Of cooperative towers, of those with separate losses and of independent ones; 4 and 4 reach
    p = 1/70 at best, 3 and 3 1/20."""
    other_seeds: int = 2
    """Of the split model, the minimum and the single model."""
    tokens: int = 2_000_000
    """Training tokens of each run."""
    probe_tokens: int = 1_000_000
    """Training tokens of each pair of probes."""
    batch_tokens: int = 2048
    learning_rate: float = 1e-3
    probe_learning_rate: float = 1e-3
    evaluation: Literal["validation", "test"] = "validation"
    """The held-out text that preferences are measured on."""
    windows: int | None = None
    """Measure on a random sample of this many windows (default: all)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once(self, "text")
        if self.seeds < 2 or self.other_seeds < 1:
            raise UserError("`seeds` must be at least 2, `other_seeds` at least 1")
        if self.model.tied or self.model.architecture == "auto":
            raise UserError("`model`: towers are tied as it is, and of an architecture with a name")
        if self.cloze and self.model.architecture not in RECURRENT:
            raise UserError("`cloze` is for `model.architecture` lstm and gru")

    @property
    def reading(self) -> ReadingName:
        """How the towers read a text."""
        if self.cloze:
            return "cloze"
        return "masked" if self.model.architecture in MASKED else "causal"
