"""What several processes do together in `test_processes.py`; started by torchrun.

`python -m torch.distributed.run --nproc-per-node N process_jobs.py JOB FOLDER`: the first process
writes what it found to FOLDER/JOB-N.json, and arrays to FOLDER/JOB-N.npz.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmlab.config import from_mapping
from lmlab.config.training import TrainConfig
from lmlab.data.store import TokenStore
from lmlab.durable import write_json
from lmlab.lm.language_model import open_model
from lmlab.processes import is_first, join, leave, rank, world
from lmlab.topics.decomposition.of_models import embed_models
from lmlab.topics.decomposition.options import EmbeddingConfig
from lmlab.topics.encoding.token_probability import choose_windows, store_statistics
from lmlab.topics.scoring.score import score
from lmlab.topics.towers.preference_sums import preference_sums
from lmlab.training import loop
from lmlab.training.loop import train
from lmlab.training.stopping import Stopped

TOLD_TO_STOP = "told to stop"


def train_all(folder: Path) -> dict[str, Any]:
    """Trains each of `folder`/runs.json: name to settings."""
    requests = json.loads((folder / "runs.json").read_text())
    made = {}
    for name, settings in requests.items():
        config = from_mapping(TrainConfig, settings, where=name)
        if name == TOLD_TO_STOP:
            stop_in_the_last_process(config)
        made[name] = str(train(config).path)
    return made


def stop_in_the_last_process(config: TrainConfig) -> None:
    """Only that one is told to stop, in its second step; all must end after the same step."""
    update = loop.Trainer.update

    def told(self: loop.Trainer) -> dict[str, Any]:
        if self.step == 1 and rank() == world() - 1:
            signal.raise_signal(signal.SIGTERM)
        return update(self)

    loop.Trainer.update = told
    try:
        with pytest.raises(Stopped, match="after step 2 of"):
            train(config)
    finally:
        loop.Trainer.update = update


def measure_all(folder: Path) -> dict[str, Any]:
    """Embeddings, their scatter, score, alpha and preference of the models in
    `folder`/models.json."""
    given = json.loads((folder / "models.json").read_text())
    store = TokenStore(given["store"])
    lm = open_model(given["causal"])
    alpha = store_statistics(lm, choose_windows(lm, store, split="validation"))
    sums = preference_sums(open_model(given["towers"]), store)
    embedded = embed_models(
        given["embed"],
        store,
        EmbeddingConfig(length=2),
        counts={"train": None},
        lab=folder / f"lab-{world()}",
    )["train"]
    (scatter,) = embedded.scatter()
    arrays = {
        "nats_Mb": score(lm, store).nats_Mb,
        "alpha_V": alpha.alpha_V,
        "covariance_DD": alpha.covariance_DD,
        "mean_hidden_D": alpha.mean_hidden_D,
        "count_GV": sums.count_GV,
        "nats_KGV": sums.nats_KGV,
        "position_nats_KGb": sums.position_nats_KGb,
        "mean_P": scatter.mean(),
        "covariance_PP": scatter.covariance(),
    }
    if is_first():
        np.savez(folder / f"measure-{world()}.npz", **arrays)
    return {"positions": alpha.positions, "rows": scatter.n}


if __name__ == "__main__":
    job, place = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    join("cpu")
    found = {"train": train_all, "measure": measure_all}[job](place)
    if is_first():
        write_json(place / f"{job}-{world()}.json", found)
    leave()
