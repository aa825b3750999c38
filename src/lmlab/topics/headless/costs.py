"""What a training step costs: each arm of the study, and each loss as the vocabulary grows.

Notable: both are properties of the machine. What is measured is kept in the lab folder under the
digest of what decides it, so that a study that resumes has the same figures and, at equal time, the
same runs; elsewhere the same study has others.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmlab.config import digest, to_mapping
from lmlab.data.store import TokenStore
from lmlab.locks import alone
from lmlab.progress import say
from lmlab.studies.kept import kept
from lmlab.topics.headless.arms import HEADLESS, REFERENCE, request
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.training.growth import StepCost, step_cost
from lmlab.training.hardware import available_cores, resolve_device
from lmlab.training.speed import seconds_per_step

_ROUNDING = 20


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a training step of each arm."""

    by_arm: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times longer a headless model may train in the time of the reference."""
        return round(_ROUNDING * self.by_arm[REFERENCE] / self.by_arm[HEADLESS]) / _ROUNDING


@dataclass(frozen=True)
class CostAtVocabulary:
    """A step of both losses at one size of the vocabulary."""

    vocabulary: int
    cross_entropy: StepCost
    headless: StepCost


def step_times(config: HeadlessStudyConfig, store: TokenStore) -> StepTimes:
    """Seconds of a training step of each arm on this machine, all arms timed in turn."""
    runs = {arm: request(config, store, arm, 0) for arm in config.arms}
    key = digest({arm: run.deciding for arm, run in runs.items()})

    def measure() -> StepTimes:
        say("measuring how long a step of each form takes")
        return StepTimes(seconds_per_step({arm: run.config for arm, run in runs.items()}))

    with alone(config.lab, "measuring how long a step takes"):
        return kept(config.lab / "speeds" / f"{key[:12]}.json", StepTimes, measure)


def growth(config: HeadlessStudyConfig) -> tuple[CostAtVocabulary, ...]:
    """Time and memory of a step of cross-entropy and of the headless loss at each vocabulary."""
    return tuple(_cost(config, vocabulary) for vocabulary in sorted(config.cost_vocabularies))


def _cost(config: HeadlessStudyConfig, vocabulary: int) -> CostAtVocabulary:
    batch = config.batch_tokens // config.context
    shape: dict[str, int] = {"vocabulary": vocabulary, "context": config.context, "batch": batch}
    machine = [resolve_device("auto"), available_cores()]

    def measure() -> CostAtVocabulary:
        say(f"measuring a step with a vocabulary of {vocabulary:,}")
        cross_entropy, headless = (
            step_cost(config.model, headless=headless, **shape) for headless in (False, True)
        )
        return CostAtVocabulary(vocabulary, cross_entropy, headless)

    key = digest([to_mapping(config.model), shape, machine])
    return kept(config.lab / "speeds" / f"cost-{key[:12]}.json", CostAtVocabulary, measure)
