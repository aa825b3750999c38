"""Options of `lmlab tune`: those of `lmlab train`, and what of them is tried. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import reduce
from pathlib import Path
from typing import Any

from lmlab.config import from_mapping, option_values, to_mapping
from lmlab.config.numbers import at_least
from lmlab.config.training import TrainConfig
from lmlab.errors import UserError

Values = Mapping[str, Any]
"""One setting: a value for each option that is tried, by its whole name."""

_LENGTHS = TrainConfig.one_of
_NOT_TRIED = {
    "store": "losses on two texts do not compare",
    "seed": "give the number of `seeds`",
    "out": "every run has a folder of its own",
    "evaluation_windows": "it changes what is measured, not what is trained",
}


@dataclass(frozen=True)
class TuneConfig(TrainConfig):
    """Which settings train best? Trains every combination of the values of `over`, each with the
    same seeds, and says which ends at the least validation loss, and how sure that is. All other
    options are those of `lmlab train`.

    Interrupted, it goes on with the same command; runs that are there already are shared."""

    over: dict[str, tuple[Any, ...]] = field(kw_only=True)
    """An option of `lmlab train` and the values to try. Several times: every combination."""
    seeds: int = 3
    """Of each setting, the same for all. One or two give no verdict that holds for others."""
    halving: bool = False
    """Successive halving: train all settings for a fraction of the length, the better half for
    twice as long, and so on; the last two for all of it. Each length is a run of its own with its
    whole schedule, so a short run is another experiment: what is best there (higher rates, smaller
    batches) need not be best at full length, and who is left out is not known to be worse."""
    seed: int = at_least(0, 0)
    """The first of the seeds."""
    steps: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Of each run (default: 1000)."""
    lab: Path = Path("lab")
    """Folder of the runs."""
    out: Path | None = None
    """Folder of the result (default: in `lab`, by the digest of these settings)."""

    def __post_init__(self) -> None:
        """Checks every setting, as `lmlab train` would. These options are no run themselves, and
        are not checked as one."""
        over: dict[str, tuple[Any, ...]] = {}
        for name, values in self.over.items():
            whole, meant = option_values(TrainConfig, name, values, where="`over`")
            if why := _NOT_TRIED.get(whole):
                raise UserError(f"`over`: `{whole}`: {why}")
            if whole in over:
                raise UserError(f"`over`: `{whole}` twice")
            if not meant or any(v in meant[:i] for i, v in enumerate(meant)):
                raise UserError(f"`over`: `{whole}` needs values, each once; got {meant}")
            if whole not in _LENGTHS and (fixed := _value(self, whole)) != _usual(whole):
                raise UserError(f"`{whole}` is given as {fixed}, and in `over`; give it once")
            over[whole] = meant
        object.__setattr__(self, "over", over)
        tried = [name for name in _LENGTHS if name in over]
        given = [name for name in _LENGTHS if getattr(self, name) is not None]
        if len(tried + given) > 1:
            ways = ", ".join(f"`{name}`" for name in dict.fromkeys(tried + given))
            raise UserError(f"{ways}: give one length, or try several in `over`")
        if self.halving and tried:
            raise UserError(f"`halving` decides on lengths: leave `{tried[0]}` out of `over`")
        runs = self.runs()
        if len(runs) < 2:
            raise UserError("`over` leaves one setting, and so no choice: use `lmlab train`")
        first, *others = (run.pair.reading for run in runs)
        if "labels" in {run.pair.criterion for run in runs} or set(others) - {first}:
            raise UserError(
                "losses of different readings of a text do not compare, and classifiers have none "
                "(`lmlab finetune`): tune causal, masked or cloze objectives, each for itself"
            )

    def settings(self) -> list[Values]:
        """Every combination of values, the last option's changing first."""
        return [
            dict(zip(self.over, values, strict=True))
            for values in itertools.product(*self.over.values())
        ]

    def runs(self) -> list[TrainConfig]:
        """The first seed's run of each setting, unresolved. Raises `UserError` for a setting that
        cannot be."""
        names = [f.name for f in fields(TrainConfig) if f.name != "out"]
        runs: list[TrainConfig] = []
        for setting in self.settings():
            asked = to_mapping(self)
            values = {name: asked[name] for name in names if name in asked}
            for name, value in setting.items():
                *sections, last = name.split(".")
                inner = reduce(lambda table, section: table[section], sections, values)
                inner[last] = value
            try:
                runs.append(from_mapping(TrainConfig, values, where="a run"))
            except UserError as error:
                raise UserError(f"{setting_text(setting)}: {error}") from error
        return runs


def setting_text(setting: Values) -> str:
    """A setting in words: "learning rate 0.001, batch 8"."""
    return ", ".join(f"{axis_text(name)} {value_text(value)}" for name, value in setting.items())


def axis_text(name: str) -> str:
    """An option in words: "learning rate", "schedule kind"."""
    section, _, last = name.rpartition(".")
    words = last.split("_")
    return " ".join(words if len(words) > 1 or not section else [section, *words])


def value_text(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _usual(name: str) -> Any:
    first, *rest = name.split(".")
    of_first = TrainConfig.__dataclass_fields__[first]
    default = of_first.default
    if of_first.default_factory is not MISSING:
        default = of_first.default_factory()
    return reduce(getattr, rest, default)


def _value(config: TrainConfig, name: str) -> Any:
    return reduce(getattr, name.split("."), config)
