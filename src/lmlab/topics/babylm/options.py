"""Options of `lmlab study babylm`, and its recipes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.config import did_you_mean, from_mapping, read_toml
from lmlab.config.numbers import at_least, check_each_once
from lmlab.config.training import TrainConfig
from lmlab.errors import UserError
from lmlab.studies.options import TrainingStudy

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "causal": {},
    "masked": {
        "objective": "masked",
        "model": {"architecture": "modernbert"},
        "optimizer": {"learning_rate": 1e-3},
    },
    "headless": {
        "objective": "headless",
        "model": {"tied": True},
        "optimizer": {"learning_rate": 3e-3},
    },
    "mixed": {"objective": "mixed"},
    "gpt2": {
        "model": {"architecture": "gpt2", "tied": True},
        "optimizer": {"name": "adamw", "learning_rate": 5e-4},
        "schedule": {"kind": "cosine"},
    },
}
"""Options of `lmlab train` that make each: causal has its defaults, mixed those with causal and
masked windows in one model (GPT-BERT), gpt2 the settings that small models are often trained with
(tied, learnt positions, rate 5e-4, cosine)."""
_DECIDED = ("store", "out", "seed", "steps", "tokens", "epochs", "context", "batch", "checkpoints")


@dataclass(frozen=True)
class BabyLMStudyConfig(TrainingStudy):
    """Which recipe learns most from the same words? Trains every recipe with the same seeds for the
    same number of words, scores all models on the tasks of a folder, and compares them by their
    differences over seeds and items."""

    text: str
    """Store, file, folder, pattern, or hf:NAME."""
    data: Path
    """Folder with the tasks, as for `lmlab evaluate --suite babylm`."""
    recipes: tuple[str, ...] = ("gpt2", "causal", "masked", "headless")
    """What is compared: causal, mixed, masked, headless, gpt2, or NAME=FILE.toml with options of
    `lmlab train`. The first is the one that the others are compared with."""
    seeds: int = at_least(1, 3)
    vocabulary: int = 4096
    size: str = "micro"
    """Of all models, where a recipe does not say its own."""
    context: int = 128
    batch_tokens: int = 2048
    """Tokens a step."""
    tokens: int = 5_000_000
    """Training tokens of each run."""
    curve_items: int = at_least(0, 20)
    """Items of each set of a task that are scored at checkpoints, for curves (0: no curves)."""
    contexts: int = 8
    """Places of each word in held-out text, for ages of acquisition."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once(self, "recipes")
        names = list(self.options_of)
        if len(set(names)) < len(self.recipes):
            raise UserError(f"`recipes`: two of one name in {', '.join(names)}")

    @property
    def options_of(self) -> dict[str, Mapping[str, Any]]:
        """The options of each recipe, by its name. `UserError` for one that is not known, or that
        says what the study decides."""
        recipes: dict[str, Mapping[str, Any]] = {}
        for recipe in self.recipes:
            name, given, file = recipe.partition("=")
            if given:
                recipes[name] = read_toml(Path(file))
            elif name in RECIPES:
                recipes[name] = RECIPES[name]
            else:
                raise UserError(
                    f"`recipes` {name}: no recipe of lmlab{did_you_mean(name, RECIPES)}; it has "
                    f"{', '.join(RECIPES)}. One of your own: NAME=FILE.toml"
                )
            if decided := sorted(set(_DECIDED) & recipes[name].keys()):
                raise UserError(f"`recipes` {recipe}: the study decides {', '.join(decided)}")
        return recipes

    def request(
        self, recipe: str, seed: int, store: Path, rate: float | None = None
    ) -> TrainConfig:
        """The run of a recipe and a seed, at a learning rate (None: the recipe's). `UserError` for
        options that no run has."""
        options = self.options_of[recipe]
        if rate is not None:
            optimizer = {**options.get("optimizer", {}), "learning_rate": rate}
            options = {**options, "optimizer": optimizer}
        values = {
            "store": str(store),
            "context": self.context,
            "batch": max(1, self.batch_tokens // self.context),
            "steps": self.steps_of_run,
            "seed": seed,
            # from the first words on, to see when they are learnt
            "checkpoints": {
                "every": self.steps_of_run, "logarithmic": True, "per_doubling": 2,
            },
            **options,
            "model": {"size": self.size, **options.get("model", {})},
        }  # fmt: skip
        return from_mapping(TrainConfig, values, where=f"recipe {recipe}")

    @property
    def steps_of_run(self) -> int:
        step = max(1, self.batch_tokens // self.context) * self.context
        return max(1, round(self.tokens / step))
