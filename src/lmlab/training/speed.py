"""How long a step takes on this machine, measured before anything is trained.

Notable: several forms are timed in turn, a step of each in every round, so that a machine whose
speed drifts slows them alike; the median over rounds is given. Weights and journals go to a
temporary folder.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lmlab.config.training import TrainConfig
from lmlab.data.store import TokenStore
from lmlab.run_folders.checkpoint import Newest
from lmlab.training.loop import Trainer
from lmlab.training.parent import find_parent
from lmlab.training.setup import ResolvedRun


def seconds_per_step(
    requests: Mapping[str, TrainConfig], *, rounds: int = 12, warm_up: int = 2
) -> dict[str, float]:
    """Median seconds of a training step of each resolved request, evaluation and saving left out.

    All of their models are in memory at once. Raises `UserError` as `loop.train`.
    """
    taken: dict[str, list[float]] = {name: [] for name in requests}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: Trainer(
                ResolvedRun(
                    replace(request, out=Path(folder)), find_parent(request.parent), deciding={}
                ),
                TokenStore(request.store),
                Newest(None, 0, ()),
            )
            for name, request in requests.items()
        }
        for round_ in range(warm_up + rounds):
            for name, trainer in trainers.items():
                start = time.perf_counter()
                trainer.update()
                trainer.synchronise()
                if round_ >= warm_up:
                    taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
