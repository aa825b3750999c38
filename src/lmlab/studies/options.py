"""Options that commands and studies have in common, and the workers of a study. Imports no torch.

Notable: whether several processes share a study is not part of its configuration, so it has the
same folder and the same results either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from lmlab.config import digest, to_mapping
from lmlab.config.numbers import Options, check_fits_batch
from lmlab.config.training import whole_steps
from lmlab.errors import UserError


@dataclass(frozen=True)
class OnStore(Options):
    """What is measured on the text of a store."""

    store: Path = field(kw_only=True)
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", kw_only=True)
    out: Path | None = field(default=None, kw_only=True)
    """Folder of the result and its page (default: below lab/results, by the digest of these
    options)."""


@dataclass(frozen=True)
class InWindows(OnStore):
    """What is measured on windows of that text."""

    context: int | None = field(default=None, kw_only=True)
    """Window in tokens (default: the model's, at most 1024)."""


@dataclass(frozen=True)
class OfModel(InWindows):
    """What is measured of one model there."""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""


@dataclass(frozen=True)
class TrainingStudy(Options):
    """Where the runs of a study are kept, and how long each is: its `tokens`, or one of these in
    their place."""

    one_of = ("tokens", "steps", "epochs")

    steps: int | None = field(default=None, kw_only=True)
    """In place of tokens: steps of batch_tokens."""
    epochs: float | None = field(default=None, kw_only=True)
    """In place of tokens: times that the training split is read (of one text and vocabulary)."""
    learning_rates: tuple[float, ...] = field(default=(), kw_only=True)
    """Train every arm with each of these first, by a seed that is not compared, and compare each at
    the one with the least validation loss (default: no choice)."""
    lab: Path = field(default=Path("lab"), kw_only=True)
    """Folder of stores, runs and what else studies share."""
    out: Path | None = field(default=None, kw_only=True)
    """Folder of the result (default: in `lab`, by the digest of these settings)."""

    def __post_init__(self) -> None:
        """Counts `steps` in tokens. `UserError` for a window that does not fit a step's batch, for
        tokens that are not one step, and for rates chosen on the text that is compared."""
        asked: Any = self
        self._check_rates()
        contexts = asked.context if isinstance(asked.context, tuple) else (asked.context,)
        check_fits_batch(max(contexts, default=0), asked.batch_tokens)
        if self.steps is not None:
            object.__setattr__(self, "tokens", self.steps * asked.batch_tokens)
            object.__setattr__(self, "steps", None)
        whole_steps(asked.tokens, asked.batch_tokens)

    def _check_rates(self) -> None:
        rates = self.learning_rates
        if len(set(rates)) != len(rates) or 0 in rates:
            raise UserError(f"`learning_rates` needs positive numbers, each once: {rates}")
        if len(rates) == 1:
            raise UserError("`learning_rates` leaves no choice: give several, or `learning_rate`")
        for name in ("split", "evaluation"):
            if rates and getattr(self, name, None) == "validation":
                raise UserError(
                    f"`learning_rates` are chosen on validation text: give `{name}` test"
                )


@dataclass(frozen=True)
class TextStudy(TrainingStudy):
    """A study whose runs on running text have one optimizer."""

    optimizer: Literal["adamw", "muon"] = field(default="adamw", kw_only=True)
    """Of all runs but those with frozen, masked or fine-tuned bodies, which have adamw. muon wants
    a larger rate (`lmlab train` takes 0.5 / width)."""

    def at_rate(self, rate: float | None) -> Self:
        """The study with another learning rate (None: its own) for all runs but child runs."""
        return self if rate is None else replace(self, **dict.fromkeys(self._rates, rate))

    _rates: ClassVar[tuple[str, ...]] = ("learning_rate",)


_CAME_LATER = (("learning_rates", []), ("independent", True))
"""Options at what was done before there was a choice: a folder is called as it was then."""


def study_folder(study: str, config: Any) -> Path:
    """The folder of a study's result: `config.out`, or in `config.lab` by the digest of what
    decides the result, that is the settings without their places and the device."""
    own_epochs = study in ("finetune", "tune")  # of the runs, not a length for `in_tokens`
    assert own_epochs or getattr(config, "epochs", None) is None, "in_tokens comes first"
    if config.out is not None:
        return config.out
    decided = {
        name: value
        for name, value in to_mapping(config).items()
        if name not in ("lab", "out", "device") and (name, value) not in _CAME_LATER
    }
    return config.lab / f"{study}-{digest(decided)[:8]}"


@dataclass(frozen=True)
class SubmitConfig:
    """Workers that `--submit FILE` starts, and what each of them gets."""

    workers: int = 2
    cluster: Literal["slurm", "local"] = "slurm"
    """local: processes of this machine, which outlive the command that started them."""
    hours: float = 24.0
    """Then Slurm ends a worker; its run goes on from the last checkpoint with the next worker.
    Local workers have no limit."""
    cpus: int = 1
    """Cores of a worker."""
    gpus: int = 0
    """Of a worker; local workers all see the first so many."""
    memory_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    """Shell lines to run first: module load, export, source."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("cpus", 1), ("gpus", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.hours < math.inf:
            raise UserError(f"hours must be above 0 and finite, not {self.hours}")
        if self.memory_gb is not None and not 0 < self.memory_gb < math.inf:
            raise UserError(f"memory_gb must be above 0 and finite, not {self.memory_gb}")
        asked = [n for n in ("partition", "account", "qos", "constraint") if getattr(self, n)]
        if self.cluster == "local" and asked:
            raise UserError(f"{', '.join(asked)} is for Slurm; this cluster is local")
