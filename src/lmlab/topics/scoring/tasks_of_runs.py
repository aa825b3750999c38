"""Zero-shot tasks of finished runs, over seeds: kept beside the run, compared with intervals.

Notable: a value is kept for each item, so that the difference of two models is paired by item and
by seed, and its interval covers both (`numerics.random_effects`). The unit of resampling is that
of `Task.units`: the set of items where items come in sets, for those of one set are often written
from one template; else the item.

Shapes: S seeds, N items, C sets or items.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from lmlab.config import digest
from lmlab.data.store import TokenStore
from lmlab.data.tasks import Task
from lmlab.lm.calibrated_head import Head, open_with_head
from lmlab.numerics.bounded import share_interval, unless_all_agree, within
from lmlab.numerics.random_effects import Clusters, Interval, two_way_interval, two_way_ratio
from lmlab.studies.finished_runs import file_beside
from lmlab.studies.kept import kept_arrays
from lmlab.topics.scoring.zero_shot import zero_shot
from lmlab.training.loop import TrainedRun


def item_values(
    run: TrainedRun, task: Task, *, head: Head, store: TokenStore, held_out: str
) -> dict[str, np.ndarray]:
    """The value of each item (N), for every metric that is a mean over items; kept with the run.

    `head` is that of `open_with_head`, calibrated on the split `held_out` of `store`.
    """
    asked = digest([asdict(item) for item in task.items])  # pyright: ignore[reportArgumentType]
    decided = [run.checkpoint.name, task.kind, asked, "items 1"]
    if head != "own":
        decided += [head, store.fingerprint, held_out]

    def measure() -> dict[str, np.ndarray]:
        lm = open_with_head(run.checkpoint, head, store=store, held_out=held_out)
        return zero_shot(lm, task).values

    return kept_arrays(file_beside(run, f"scores/{task.kind}.safetensors", *decided), measure)


@dataclass(frozen=True)
class TaskMetric:
    """A metric of a model over seeds and items, and its difference from a reference."""

    value: Interval
    unit: str
    """Of resampling: items, or sets (or clusters) of items."""
    difference: Interval | None


def compared(
    values: list[dict[str, np.ndarray]],
    reference: list[dict[str, np.ndarray]] | None,
    *,
    task: Task,
) -> dict[str, TaskMetric]:
    """The mean of each metric over seeds and items (of BLiMP over sets) with its interval, and its
    difference from the reference. Lists hold an entry for each seed.
    """
    unit = "items" if task.units is None else "sets of items"
    metrics: dict[str, TaskMetric] = {}
    for name in sorted(values[0]):
        ours_SN = np.stack([seed[name] for seed in values])
        difference = None
        if reference is not None:
            theirs_SN = np.stack([seed[name] for seed in reference])
            difference = _interval(ours_SN - theirs_SN, task)
        metrics[name] = TaskMetric(_interval(ours_SN, task, name), unit, difference)
    return metrics


def _interval(values_SN: np.ndarray, task: Task, name: str = "") -> Interval:
    """The interval of a metric by its name, or of a difference, which has no bounds."""
    if task.units is None:
        interval = two_way_interval(values_SN)
    else:
        units = Clusters(task.units)
        interval = two_way_ratio(
            units.sums(task.weights * values_SN),
            units.sums(np.broadcast_to(task.weights, values_SN.shape)),
        )
    if name.startswith("accuracy"):
        return share_interval(interval)
    interval = unless_all_agree(interval, values_SN)
    return within(interval, -1, 1) if name == "spearman" else interval
