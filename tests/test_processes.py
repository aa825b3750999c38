"""One process = two = four: losses at a fixed global batch, scores, alpha, preference, scatter.

Each launch of torchrun does all of its jobs at once (`process_jobs.py`), since it takes seconds to
start. Rounding differs with the number of processes, so this is float32 within a tolerance.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import journal
from lmlab.config import to_mapping
from lmlab.config.towers import TowersConfig
from lmlab.config.training import CheckpointConfig, TrainConfig
from lmlab.runs.checkpoint import checkpoint_folder
from lmlab.training.loop import train
from objective_cases import CASES, case_config

STEPS = 6
SHARDED = ("causal-forward", "headless", "masked", "mixed", "head-fine-tuning")


def together(processes: int, job: str, folder: Path) -> None:
    """Does a job of `process_jobs.py` in several processes."""
    script = Path(__file__).with_name("process_jobs.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*launch, "--standalone", str(script), job, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    own = [line for line in done.stderr.splitlines() if "[rank" in line or "lmlab" in line]
    assert done.returncode == 0, "\n".join(own)


def configs(folder: Path) -> dict[str, TrainConfig]:
    """A short run of every objective, and of the fusion whose loss looks at the whole batch."""
    short = {"steps": STEPS, "checkpoints": CheckpointConfig(every=3), "evaluate_every": 3}
    made = {name: case_config(name, folder / name, **short) for name in CASES}
    made["towers-minimum"] = case_config(
        "towers", folder / "minimum", towers=TowersConfig("minimum", balance=0.5), **short
    )
    return made


def losses(run: Path) -> np.ndarray:
    """Loss, norm of the gradient, targets and validation by step."""
    return np.array(
        [
            [value for key, value in record.items() if key not in ("step", "learning_rate")]
            for record in journal(run)
            if record["step"] % 3 == 0
        ],
        dtype=float,
    )


def all_losses(run: Path) -> list[float]:
    return [record["loss"] for record in journal(run)]


def changed(config: TrainConfig, out: Path, **changes: object) -> dict[str, object]:
    return to_mapping(dataclasses.replace(config, out=out, **changes))  # pyright: ignore[reportArgumentType]


FOUR = pytest.mark.promise("One process = four: the same losses, and any number goes on")


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=FOUR)])
def test_training(tmp_path, processes):
    alone = configs(tmp_path / "alone")
    for config in alone.values():
        train(config)
    folder = tmp_path / "together"
    folder.mkdir()
    requests = {name: changed(config, folder / name) for name, config in alone.items()}
    for name in SHARDED:
        requests[f"{name}, sharded"] = changed(alone[name], folder / f"{name}-fsdp", fsdp=True)
    half_done = folder / "half-done"
    shutil.copytree(alone["headless"].out, half_done)
    shutil.rmtree(checkpoint_folder(half_done, STEPS))
    requests["goes on from one process"] = changed(alone["headless"], half_done)
    (folder / "runs.json").write_text(json.dumps(requests))
    together(processes, "train", folder)
    for name, config in alone.items():
        expected = losses(config.out)
        assert np.allclose(losses(folder / name), expected, rtol=2e-4, atol=1e-6), name
        assert np.allclose(all_losses(folder / name), all_losses(config.out), rtol=2e-4), name
    for name in SHARDED:
        made = losses(folder / f"{name}-fsdp")
        assert np.allclose(made, losses(alone[name].out), rtol=2e-4, atol=1e-6), name
    assert np.allclose(losses(half_done), losses(alone["headless"].out), rtol=2e-4)
    for name in ("causal-forward", "headless"):  # one process goes on from shards of several
        run = folder / f"{name}-fsdp"
        shutil.rmtree(checkpoint_folder(run, STEPS))
        train(dataclasses.replace(alone[name], out=run))
        assert np.allclose(losses(run), losses(alone[name].out), rtol=2e-4)
