"""The runs of the towers study: which arms, what they share, their probes and their sums.

Notable: the arms of a seed have the same data order; cooperative towers and those with separate
losses have the same initial weights, too, so that only the loss differs between them. Probes
of all arms are trained alike, with the same initial weights and data; those of the cooperative
towers once more from another seed, which gives the null of probe noise (one tower as two probes see
it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from lmlab.config import digest
from lmlab.config.model import RECURRENT, ModelConfig
from lmlab.config.objective import objective_name
from lmlab.config.towers import TowersConfig
from lmlab.config.training import CheckpointConfig, OptimizerConfig, ParentConfig, TrainConfig
from lmlab.data.store import TokenStore
from lmlab.data.windows import evaluation_tokens
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.models.build import build_model, parameters
from lmlab.progress import Bar, say
from lmlab.studies.run_requests import placed
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.preference_sums import PreferenceSums, preference_sums
from lmlab.training.loop import TrainedRun
from lmlab.training.setup import ResolvedRun, backbone_config, planned_tokens

COOPERATIVE, SEPARATE, INDEPENDENT, SPLIT, MINIMUM, SINGLE = (
    "cooperative", "separate", "independent", "split", "minimum", "single",
)  # fmt: skip
NULLS = (SEPARATE, INDEPENDENT)
"""Whose runs cooperative ones are compared with: the verdict's null, and a further one."""
COUNTED = (COOPERATIVE, SEPARATE, INDEPENDENT, SINGLE)
"""Whose joint prediction is compared with counting, where they read forward."""
_PROBE_SEEDS = 1000


@dataclass(frozen=True)
class Arm:
    """One way to train, everything else being equal."""

    label: str
    towers: TowersConfig | None
    """None for the single model."""
    seeds: int


def arms(config: TowersStudyConfig) -> dict[str, Arm]:
    """The arms that the study asks for, by key."""
    asked = {
        COOPERATIVE: Arm("cooperative towers", TowersConfig(config.fusion), config.seeds),
        SEPARATE: Arm(
            "separate losses, else the same (N3)",
            TowersConfig(config.fusion, losses="separate"),
            config.seeds,
        ),
    }
    if config.independent:
        how = TowersConfig("independent")
        asked[INDEPENDENT] = Arm("independent towers (N0)", how, config.seeds)
    if config.split and not config.cloze:
        how = TowersConfig("concat", split=True)
        asked[SPLIT] = Arm("halves of one model (N1)", how, config.other_seeds)
    if config.control:
        how = TowersConfig("minimum")
        asked[MINIMUM] = Arm("hard minimum (control)", how, config.other_seeds)
    if config.single and not config.cloze:
        asked[SINGLE] = Arm("one model of as many weights", None, config.other_seeds)
    return asked


def is_scored(config: TowersStudyConfig, key: str) -> bool:
    """Whether the own prediction of an arm's models is scored: the single model's always, others'
    to compare them with counting."""
    return key == SINGLE or (key in COUNTED and config.reading == "causal")


def has_own_heads(arm: Arm) -> bool:
    """Whether each tower has a distribution of its own, without probes."""
    return arm.towers is not None and (
        arm.towers.fusion != "concat" or arm.towers.losses == "separate"
    )


def request(config: TowersStudyConfig, store: TokenStore, arm: Arm, seed: int) -> TrainConfig:
    """What an arm trains with a seed."""
    if arm.towers is None:
        return single(config, store, seed)
    return replace(
        _training(config, store, seed, config.tokens, config.learning_rate, config.optimizer),
        model=config.model,
        objective=objective_name(config.reading, "fused-towers"),
        towers=arm.towers,
    )


def probes(
    config: TowersStudyConfig, store: TokenStore, towers: TrainedRun, seed: int
) -> ResolvedRun:
    """The child run that trains a pair of probes."""
    asked = replace(
        _training(
            config, store, seed + _PROBE_SEEDS, config.probe_tokens, config.probe_learning_rate
        ),
        objective=objective_name(config.reading, "tower-probes"),
        parent=ParentConfig(str(towers.path)),
    )
    return placed(asked, store, config.lab)


def _training(
    config: TowersStudyConfig,
    store: TokenStore,
    seed: int,
    tokens: int,
    rate: float,
    optimizer: Literal["adamw", "muon"] = "adamw",
) -> TrainConfig:
    batch = config.batch_tokens // config.context
    return TrainConfig(
        store=store.path,
        context=config.context,
        batch=batch,
        steps=max(1, round(tokens / (batch * config.context))),
        seed=seed,
        optimizer=OptimizerConfig(optimizer, learning_rate=rate),
        checkpoints=CheckpointConfig(every=250, keep=1),
    )


def single(config: TowersStudyConfig, store: TokenStore, seed: int) -> TrainConfig:
    """The run of one model whose width is that with the nearest number of weights to the towers'.

    It is a split model that nobody splits: embeddings, fusion and head are those of the towers.
    """
    towers = replace(
        _training(config, store, seed, config.tokens, config.learning_rate, config.optimizer),
        model=config.model,
        objective=objective_name(config.reading, "fused-towers"),
        towers=TowersConfig(config.fusion),
    )
    wanted = weights(towers, store)
    size = config.model.dimensions()
    step = 2 * size.heads if config.model.architecture not in RECURRENT else 1

    def with_width(units: int) -> TrainConfig:
        return replace(
            towers,
            model=replace(config.model, width=units * step),
            towers=TowersConfig("concat", split=True),
        )

    low, high = 1, 2
    while weights(with_width(high), store) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if weights(with_width(middle), store) < wanted else (low, middle)
    return min(
        (with_width(units) for units in (low, high)),
        key=lambda run: abs(weights(run, store) - wanted),
    )


def weights(config: TrainConfig, store: TokenStore) -> int:
    """Number of weights of a run's model, which is not built."""
    with torch.device("meta"):
        return parameters(
            build_model(backbone_config(config, store), seed=0, masked=config.is_masked)
        )


def cached_sums(
    config: TowersStudyConfig, store: TokenStore, run: TrainedRun, bar: Bar
) -> PreferenceSums:
    """The sums of a run of probes, or of towers by their own heads, kept beside it."""
    decided = [run.identity, store.fingerprint, config.evaluation, config.context, config.windows]
    path = run.path / "preference" / f"{digest([*decided, 'sums 1'])[:12]}.safetensors"
    if path.is_file():
        try:
            kept = PreferenceSums.load(path)
        except UserError as error:
            say(f"measuring again: {error}")
        else:
            bar.skip(scored_tokens(config, store))
            return kept
    sums = preference_sums(
        open_model(run.checkpoint),
        store,
        split=config.evaluation,
        held_out="test" if config.evaluation == "validation" else "validation",
        context=config.context,
        max_windows=config.windows,
        bar=bar,
    )
    sums.save(path)
    return sums


def scored_tokens(config: TowersStudyConfig, store: TokenStore) -> int:
    """Tokens that each run is measured on."""
    return evaluation_tokens(
        store.split(config.evaluation), config.context, max_windows=config.windows
    )


def further(config: TowersStudyConfig, store: TokenStore) -> float:
    """Tokens to train probes on and to score, for one corpus."""
    scored, total = scored_tokens(config, store), 0.0
    for key, arm in arms(config).items():
        if is_scored(config, key):
            total += arm.seeds * scored
        if arm.towers is not None:
            total += arm.seeds * scored * (2 if has_own_heads(arm) else 1)
        if arm.towers is not None:
            probed = planned_tokens(_training(config, store, 0, config.probe_tokens, 1.0))
            twice = 2 if arm.towers == TowersConfig(config.fusion) else 1
            total += arm.seeds * (twice * probed + (twice - 1) * scored)
    return total


def model_words(model: ModelConfig) -> str:
    """A tower in words."""
    size = model.dimensions()
    heads = "" if model.architecture in RECURRENT else f", {size.heads} heads"
    return f"{model.architecture}, {size.layers} layers of {size.width}{heads}"
