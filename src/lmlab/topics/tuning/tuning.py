"""The result of tuning: where every setting ended, which is best, and how sure that is.

Shapes: S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmlab.errors import UserError
from lmlab.numerics.best import Best, least_mean
from lmlab.numerics.random_effects import Interval, interval_over_seeds
from lmlab.results import Result
from lmlab.topics.tuning.options import TuneConfig, setting_text


@dataclass(frozen=True)
class Rung:
    """A setting's runs of one length, one for each seed."""

    steps: int
    tokens: int
    """Of each run."""
    runs: tuple[str, ...]
    """Their folders."""
    nats_per_token: tuple[float | None, ...]
    """At the end, on the validation sample; None for a run that broke off: its loss or gradient was
    no longer a number."""

    @property
    def mean(self) -> Interval | None:
        """Over seeds; None where a run broke off."""
        ended = [nats for nats in self.nats_per_token if nats is not None]
        return interval_over_seeds(ended) if len(ended) == len(self.nats_per_token) else None


@dataclass(frozen=True)
class Setting:
    """One combination of values."""

    label: str
    at: tuple[int, ...]
    """The place of its value among those of each option that was tried."""
    rungs: tuple[Rung, ...]
    """One; with halving as many as it went through, shortest first."""


@dataclass(frozen=True)
class Tuning(Result, kind="tune"):
    """Which of the settings ends at the least validation loss, and how sure that is."""

    config: TuneConfig
    store: str
    validation_tokens: int
    """Of the sample that is scored, as windows of the first setting."""
    settings: tuple[Setting, ...]
    """In the order of `config.settings()`."""
    compared: tuple[int, ...]
    """Places of those that were trained to the full length, with every seed."""
    choice: Best
    """Among those compared: its places are places in `compared`."""

    @property
    def best_setting(self) -> Setting:
        """The one with the least mean."""
        return self.settings[self.compared[self.choice.index]]

    @property
    def best(self) -> dict[str, Any]:
        """Its values, by option."""
        return self.values(self.best_setting)

    def values(self, setting: Setting) -> dict[str, Any]:
        """A setting's values, by option."""
        tried = self.config.over.items()
        return {name: values[i] for (name, values), i in zip(tried, setting.at, strict=True)}

    @property
    def ranked(self) -> list[Setting]:
        """The best first: by the length it was trained to, then by its mean there; settings of
        which a run broke off come last of their length."""

        def key(setting: Setting) -> tuple[int, bool, float]:
            mean = setting.rungs[-1].mean
            return -len(setting.rungs), mean is None, mean.estimate if mean else 0.0

        return sorted(self.settings, key=key)


def tuning(
    config: TuneConfig,
    rungs: Sequence[Sequence[Rung]],
    *,
    store: str,
    validation_tokens: int,
) -> Tuning:
    """The result, of the rungs of each setting. Raises `UserError` where no setting came to its end
    with every seed."""
    of_config = config.settings()
    places = [
        (),
    ]
    for values in config.over.values():
        places = [(*place, i) for place in places for i in range(len(values))]
    settings = tuple(
        Setting(setting_text(values), at, tuple(of_setting))
        for values, at, of_setting in zip(of_config, places, rungs, strict=True)
    )
    full = max(len(each.rungs) for each in settings)
    compared = {
        k: [nats for nats in each.rungs[-1].nats_per_token if nats is not None]
        for k, each in enumerate(settings)
        if len(each.rungs) == full and each.rungs[-1].mean is not None
    }
    if not compared:
        raise UserError("no setting has a finite loss with every seed: try smaller learning rates")
    return Tuning(
        config=config,
        store=store,
        validation_tokens=validation_tokens,
        settings=settings,
        compared=tuple(compared),
        choice=least_mean(list(compared.values())),
    )
