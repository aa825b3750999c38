"""What `lmlab train` is asked: a run, and who is told how it goes. Imports no torch.

Notable: trackers are no part of a run. Its configuration, identity and bytes are the same with and
without them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lmlab.config.training import TrainConfig
from lmlab.errors import UserError

TrackerName = Literal["tensorboard", "trackio"]


@dataclass(frozen=True)
class TrackedTrainConfig(TrainConfig):
    """Train a model on a token store. An interrupted run resumes with the same command."""

    track: tuple[TrackerName, ...] = field(default=(), kw_only=True)
    """Also tell these how it goes (extra `track`): tensorboard writes into the run's folder,
    trackio into its own. One that fails neither slows nor stops the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.track)) != len(self.track):
            raise UserError(f"`track` names each tracker once, not {', '.join(self.track)}")
