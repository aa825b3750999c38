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

from helpers import journal, run_folder, tiny_training, tree
from lmlab.cli import main
from lmlab.config import to_mapping
from lmlab.config.model import ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.config.training import CheckpointConfig, OptimizerConfig, TrainConfig
from lmlab.errors import UserError
from lmlab.processes import rows_of_this
from lmlab.run_folders.checkpoint import checkpoint_folder
from lmlab.training.loop import train
from objective_cases import CASES, case_config
from process_jobs import TOLD_TO_STOP, measure_all

STEPS = 6
ANALYSES = pytest.mark.promise("Score, alpha, preference, scatter: one process = four, to 1e-10")
FOUR = pytest.mark.promise("One process = four: the same losses, and any number goes on")
SHARDED = (
    "causal-forward", "headless", "headless-draws", "masked", "mixed", "head-fine-tuning"
)  # fmt: skip


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


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=[ANALYSES, pytest.mark.trust])])
def test_analyses(tmp_path, processes, text_store):
    short = {"steps": 2, "checkpoints": CheckpointConfig(every=2), "evaluate_every": 2}
    small = {"model": ModelConfig(layers=1, heads=2, width=16)}
    runs = {
        "causal": tiny_training(text_store, out=tmp_path / "causal", **small, **short),
        "backward": tiny_training(
            text_store, out=tmp_path / "backward", order="backward", **small, **short
        ),
        "towers": tiny_training(
            text_store,
            out=tmp_path / "towers",
            objective="towers",
            towers=TowersConfig("product"),
            **small,
            **short,
        ),
    }
    paths = {name: str(train(config).path) for name, config in runs.items()}
    models: dict[str, object] = {"store": str(text_store.path), **paths}
    models["embed"] = {name: paths[name] for name in ("causal", "backward")}
    (tmp_path / "models.json").write_text(json.dumps(models))
    plain = measure_all(tmp_path)
    together(processes, "measure", tmp_path)
    assert json.loads((tmp_path / f"measure-{processes}.json").read_text()) == plain
    alone, many = (np.load(tmp_path / f"measure-{number}.npz") for number in (1, processes))
    assert plain["rows"] > 2 * 1024  # more chunks of embeddings than processes
    for name in alone.files:
        assert np.allclose(many[name], alone[name], rtol=1e-10, atol=1e-13), name
    labs = [tmp_path / f"lab-{number}" / "embeddings" for number in (1, processes)]
    assert tree(labs[0]) == tree(labs[1])
    assert len(tree(labs[0])) > 4


def test_errors(tmp_path, monkeypatch, capsys, small_store):
    with pytest.raises(UserError, match="torchrun"):
        train(tiny_training(small_store, out=tmp_path / "run", fsdp=True))
    for settings in ({"optimizer": OptimizerConfig("muon")}, {"compile": True}):
        with pytest.raises(UserError, match="`fsdp`"):
            tiny_training(small_store, out=tmp_path / "run", fsdp=True, **settings)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"2 processes share .* which has 1: use a larger"):
        rows_of_this(range(1))
    assert main(["steer", "no-model"]) == 2
    assert "runs in one process" in capsys.readouterr().err


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=[FOUR, pytest.mark.trust])])
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
    shutil.copytree(run_folder(alone["headless"]), half_done)
    shutil.rmtree(checkpoint_folder(half_done, STEPS))
    requests["goes on from one process"] = changed(alone["headless"], half_done)
    requests[TOLD_TO_STOP] = changed(alone["causal-forward"], folder / "told")
    (folder / "runs.json").write_text(json.dumps(requests))
    together(processes, "train", folder)
    for name, config in alone.items():
        expected = losses(run_folder(config))
        # sums over processes round otherwise, and Muon raises small singular values to the others
        rtol = 2e-3 if name == "causal-recipe" else 2e-4
        assert np.allclose(losses(folder / name), expected, rtol=rtol, atol=1e-6), name
        assert np.allclose(all_losses(folder / name), all_losses(run_folder(config)), rtol=rtol), (
            name
        )
    for name in SHARDED:
        made = losses(folder / f"{name}-fsdp")
        assert np.allclose(made, losses(run_folder(alone[name])), rtol=2e-4, atol=1e-6), name
    assert journal(folder / "told") == journal(folder / "causal-forward")
    assert np.allclose(losses(half_done), losses(run_folder(alone["headless"])), rtol=2e-4)
    for name in ("causal-forward", "headless"):  # one process goes on from shards of several
        run = folder / f"{name}-fsdp"
        shutil.rmtree(checkpoint_folder(run, STEPS))
        train(dataclasses.replace(alone[name], out=run))
        assert np.allclose(losses(run), losses(run_folder(alone[name])), rtol=2e-4)
