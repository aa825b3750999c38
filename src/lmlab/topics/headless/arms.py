"""The runs of the headless study: which arms, what they share, how long they train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from lmlab.config.objective import HeadlessConfig
from lmlab.config.training import ParentConfig
from lmlab.data.store import TokenStore
from lmlab.lm.calibrated_head import Head
from lmlab.studies.run_requests import text_run
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.training.loop import TrainedRun
from lmlab.training.setup import ResolvedRun

REFERENCE = "ce-tied-prior"
"""The fair baseline: it has the prior that the headless heads have."""
HEADLESS = "headless"
_CHILD_SEEDS = 1000


@dataclass(frozen=True)
class Arm:
    """One way to train, everything else being equal."""

    label: str
    options: dict[str, Any]
    tied: bool = True


ARMS = {
    "ce-tied": Arm("cross-entropy, tied", {}),
    REFERENCE: Arm("cross-entropy, tied, prior bias", {"output_bias": "fixed"}),
    "ce-untied": Arm("cross-entropy, untied", {}, tied=False),
    "ce-untied-prior": Arm(
        "cross-entropy, untied, prior bias", {"output_bias": "fixed"}, tied=False
    ),
    HEADLESS: Arm("headless", {"objective": "headless"}),
    "headless-unigram": Arm(
        "headless, unigram draws",
        {"objective": "headless", "headless": HeadlessConfig(candidates="unigram")},
    ),
    "headless-mixture": Arm(
        "headless, targets and draws",
        {"objective": "headless", "headless": HeadlessConfig(candidates="mixture")},
    ),
    "mixed": Arm(
        "headless and cross-entropy, half each",
        {"objective": "headless", "headless": HeadlessConfig(cross_entropy=0.5)},
    ),
}


@dataclass(frozen=True)
class Row:
    """One model with one head: a row of the result."""

    key: str
    label: str
    arm: str
    head: Head = "own"
    fine_tuned: Literal["no", "raw", "prior"] = "no"
    longer: bool = False
    """Trained for the time of the reference, not for its tokens."""


ROWS = (
    *(Row(arm, ARMS[arm].label, arm)
      for arm in ("ce-tied", REFERENCE, "ce-untied", "ce-untied-prior", "mixed")),
    Row("headless-raw", "headless, embedding alone", HEADLESS, "raw"),
    Row("headless", "headless, with the prior", HEADLESS),
    Row("headless-unigram", "headless, unigram draws, with the prior", "headless-unigram"),
    Row("headless-mixture", "headless, targets and draws, with the prior", "headless-mixture"),
    Row("headless-calibrated", "headless, calibrated", HEADLESS, "calibrated"),
    Row("headless-tuned-raw", "headless, head fine-tuned", HEADLESS, fine_tuned="raw"),
    Row("headless-tuned", "headless, prior and fine-tuned", HEADLESS, fine_tuned="prior"),
    Row("longer", "headless, with the prior", HEADLESS, longer=True),
    Row("longer-calibrated", "headless, calibrated", HEADLESS, "calibrated", longer=True),
    Row("longer-tuned", "headless, prior and fine-tuned", HEADLESS, fine_tuned="prior",
        longer=True),
)  # fmt: skip


def rows_of(config: HeadlessStudyConfig) -> list[Row]:
    """The rows that the study's arms give."""
    return [row for row in ROWS if row.arm in config.arms and (config.equal_time or not row.longer)]


def request(
    config: HeadlessStudyConfig,
    store: TokenStore,
    arm: str,
    seed: int,
    *,
    longer: float = 1.0,
) -> ResolvedRun:
    """The run of an arm and seed, for `longer` times the study's tokens."""
    chosen = ARMS[arm]
    return text_run(
        config,
        store,
        tokens=longer * config.tokens,
        model=replace(config.model, tied=chosen.tied),
        seed=seed,
        **chosen.options,
    )


def fine_tuning(
    config: HeadlessStudyConfig, store: TokenStore, parent: TrainedRun, seed: int, prior: bool
) -> ResolvedRun:
    """The child run that fine-tunes a headless model's head: untied, short, of cross-entropy.

    With `prior` it starts at the embedding and the prior, else at the embedding alone (as in the
    paper).
    """
    return text_run(
        config,
        store,
        tokens=config.fine_tune * config.tokens,
        learning_rate=config.fine_tune_learning_rate,
        optimizer="adamw",
        parent=ParentConfig(str(parent.path), untie=True),
        output_bias="fixed" if prior else "none",
        # other text than the parent began with
        seed=seed + _CHILD_SEEDS,
    )
