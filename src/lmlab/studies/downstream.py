"""Zero-shot tasks of finished runs, over seeds: kept beside the run, compared with intervals.

Notable: a value is kept for each item, so that the difference of two models is paired by item and
by seed, and its interval covers both (`numerics.random_effects`, items as clusters).

Shapes: S seeds, N items.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lmlab.analyses.calibrate import Head, open_with_head
from lmlab.analyses.zero_shot import zero_shot
from lmlab.config import digest
from lmlab.data.store import TokenStore
from lmlab.data.tasks import Task
from lmlab.durable import check_seal, sealed, write_bytes
from lmlab.numerics.random_effects import two_way_interval
from lmlab.training.loop import TrainedRun


def item_values(
    run: TrainedRun, task: Task, *, head: Head, store: TokenStore, held_out: str
) -> dict[str, np.ndarray]:
    """Of each metric that is a mean over items, the value of each item (N); kept with the run.

    `head` is that of `open_with_head`, calibrated on the split `held_out` of `store`.
    """
    asked = digest([asdict(item) for item in task.items])  # pyright: ignore[reportArgumentType]
    decided = [run.identity, run.checkpoint.name, task.kind, asked, "items 1"]
    if head != "own":
        decided += [head, store.fingerprint, held_out]
    path = run.path / "scores" / f"{task.kind}-{digest(decided)[:12]}.safetensors"
    kept = _read(path)
    if kept is None:
        subject = open_with_head(run.checkpoint, head, store=store, held_out=held_out)
        kept = dict(zero_shot(subject, task).values)
        write_bytes(path, sealed(save(kept)))
    return kept


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The kept values; None where there are none, or where they are damaged and must be redone."""
    try:
        return load(check_seal(path.read_bytes()))
    except (FileNotFoundError, SafetensorError, ValueError):
        return None


def compared(
    values: list[dict[str, np.ndarray]], reference: list[dict[str, np.ndarray]] | None
) -> dict[str, dict[str, Any]]:
    """Of each metric the mean over seeds and items with its interval, and the difference from the
    reference, as plain values. A list holds one entry a seed."""
    made: dict[str, dict[str, Any]] = {}
    for name in sorted(values[0]):
        ours_SN = np.stack([seed[name] for seed in values])
        made[name] = {**_interval(ours_SN), "difference": None}
        if reference is not None:
            theirs_SN = np.stack([seed[name] for seed in reference])
            made[name]["difference"] = _interval(ours_SN - theirs_SN)
    return made


def _interval(values_SN: np.ndarray) -> dict[str, Any]:
    """As plain values; without bounds where all values are the same, which says nothing of others
    (no last word of 500 guessed is not an accuracy of exactly 0)."""
    made = two_way_interval(values_SN)
    if values_SN.min() == values_SN.max():
        note = "no interval: the same value for every item"
        made = replace(made, low=None, high=None, standard_error=None, basis="none", note=note)
    return asdict(made)
