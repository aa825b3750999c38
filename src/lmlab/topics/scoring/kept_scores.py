"""Scores of finished runs that studies share and never repeat."""

from __future__ import annotations

import numpy as np

from lmlab.data.store import TokenStore
from lmlab.data.windows import evaluation_windows
from lmlab.lm.calibrated_head import Head, open_with_head
from lmlab.objectives.evaluate import WindowNats
from lmlab.progress import Bar
from lmlab.studies.finished_runs import file_beside
from lmlab.studies.kept import kept_arrays
from lmlab.topics.scoring.score import Score, score, score_of
from lmlab.training.loop import TrainedRun


def cached_score(
    run: TrainedRun,
    store: TokenStore,
    *,
    split: str,
    context: int,
    max_windows: int | None,
    order: str,
    bar: Bar,
    head: Head = "own",
    held_out: str = "validation",
) -> Score:
    """The score of a run's last checkpoint, kept beside it as safetensors.

    `head` is that of `open_with_head`, calibrated on the split `held_out`.
    """
    windows = evaluation_windows(store.split(split), context, max_windows=max_windows)
    decided = [store.fingerprint, split, context, max_windows, "score 7"]
    if head != "own":
        decided += [head, held_out if head == "calibrated" else None]
    unread = [float(windows.length_M.sum())]

    def measure() -> dict[str, np.ndarray]:
        unread.clear()
        lm = open_with_head(run.checkpoint, head, store=store, held_out=held_out)
        of_run = score(lm, store, split=split, context=context, max_windows=max_windows, bar=bar)
        arrays = {name: getattr(of_run, name) for name in WindowNats.__dataclass_fields__}
        # what each token was scored from, as the model that was opened says it
        return {**arrays, "conditions": np.frombuffer(of_run.conditions.encode(), np.uint8)}

    arrays = kept_arrays(file_beside(run, f"scores/{split}.safetensors", *decided), measure)
    bar.skip(sum(unread))
    conditions = arrays.pop("conditions").tobytes().decode()
    nats = WindowNats(**arrays)
    return score_of(windows, nats, model=str(run.path), order=order, conditions=conditions)
