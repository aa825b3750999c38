"""Options of the headless study. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lmlab.config.model import ModelConfig
from lmlab.config.numbers import check_each_once
from lmlab.errors import UserError
from lmlab.studies.options import TextStudy

HeadlessArm = Literal[
    "ce-tied",
    "ce-tied-prior",
    "ce-untied",
    "ce-untied-prior",
    "headless",
    "headless-unigram",
    "headless-mixture",
    "mixed",
]


@dataclass(frozen=True)
class HeadlessStudyConfig(TextStudy):
    """Can a language model learn without a softmax over its vocabulary? Trains cross-entropy models
    (tied and untied, each with a log-unigram bias or without), headless ones (whose candidates are
    the micro-batch's targets, or unigram draws) and mixed ones, everything else equal, gives the
    headless ones their heads, and compares all on held-out text, at equal tokens and equal time."""

    text: str = "docstrings"
    """File, folder, pattern (novels/*.txt), hf:NAME, or docstrings."""
    vocabulary: tuple[int, ...] = (8192,)
    arms: tuple[HeadlessArm, ...] = (
        "ce-tied",
        "ce-tied-prior",
        "ce-untied",
        "ce-untied-prior",
        "headless",
        "headless-unigram",
        "mixed",
    )
    """How models are trained; ce-tied-prior, the fair baseline, and headless are always there.
    headless-unigram and headless-mixture have other candidates than the published loss."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The backbone; the study decides what is tied."""
    context: int = 256
    seeds: int = 3
    tokens: int = 2_000_000
    """Training tokens of each run."""
    batch_tokens: int = 2048
    """Tokens a step: the number of a headless model's negatives, too."""
    learning_rate: float = 2e-3
    fine_tune: float = 0.05
    """Share of the steps that a headless model's own head is fine-tuned for, in a child run."""
    fine_tune_learning_rate: float = 5e-4
    equal_time: bool = True
    """Also train headless models for the time that cross-entropy takes on this machine."""
    cost_vocabularies: tuple[int, ...] = (8192, 32768, 100_000, 200_000)
    """Measure the time and memory of a step at these vocabularies (no training)."""
    tasks: tuple[str, ...] = ()
    """Zero-shot tasks to compare the models on, as of `lmlab evaluate`: lambada=FILE blimp=FILE."""
    task_limits: tuple[int, ...] = ()
    """Ask a fixed sample of this many items of each task (of each of BLiMP's sets): a number for
    each, or one for all (default: all items)."""
    geometry: bool = True
    """Compare the geometry of the baseline and of the headless model (first seed)."""
    split: Literal["test", "validation"] = "test"
    """The held-out text of the comparison; heads are calibrated on the other one."""
    windows: int | None = None
    """Compare on a random sample of this many windows (default: all)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once(self, "vocabulary")
        missing = {"ce-tied-prior", "headless"} - set(self.arms)
        if missing or len(set(self.arms)) != len(self.arms):
            raise UserError(f"`arms` needs ce-tied-prior and headless, each once: {self.arms}")
        if len(self.task_limits) not in (0, 1, len(self.tasks)):
            raise UserError(
                f"`task_limits` has {len(self.task_limits)} numbers for {len(self.tasks)} tasks"
            )
        if any(v < 2 for v in self.cost_vocabularies):
            raise UserError(f"`cost_vocabularies` must be at least 2: {self.cost_vocabularies}")
        if not 0 < self.fine_tune <= 1:
            raise UserError(f"`fine_tune` {self.fine_tune} must be above 0 and at most 1")
        if self.model.tied or self.model.architecture == "auto":
            raise UserError("`model.tied` and architecture auto: the study itself decides on tying")
