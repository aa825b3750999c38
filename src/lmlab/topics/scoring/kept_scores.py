"""Scores of finished runs that studies share and never repeat."""

from __future__ import annotations

import numpy as np

from lmlab.config import digest
from lmlab.data.store import TokenStore
from lmlab.data.windows import evaluation_windows
from lmlab.lm.calibrated_head import Head, open_with_head
from lmlab.progress import Bar
from lmlab.studies.kept import kept_arrays
from lmlab.topics.scoring.score import Score, score, scored_bytes, window_sources
from lmlab.training.loop import TrainedRun

_ARRAYS = ("nats_Mb", "tokens_M", "repeated_nats_M", "repeated_M")


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
    source = store.split(split)
    windows = evaluation_windows(source, context, max_windows=max_windows)
    decided = [run.identity, store.fingerprint, split, context, max_windows, "score 7"]
    if head != "own":
        decided += [head, held_out if head == "calibrated" else None]
    unread = [float(windows.length_M.sum())]

    def measure() -> dict[str, np.ndarray]:
        unread.clear()
        lm = open_with_head(run.checkpoint, head, store=store, held_out=held_out)
        of_run = score(lm, store, split=split, context=context, max_windows=max_windows, bar=bar)
        arrays = {name: getattr(of_run, name) for name in _ARRAYS}
        # what each token was scored from, as the model that was opened says it
        return {**arrays, "conditions": np.frombuffer(of_run.conditions.encode(), np.uint8)}

    file = run.path / "scores" / f"{split}-{digest(decided)[:12]}.safetensors"
    arrays = kept_arrays(file, measure)
    bar.skip(sum(unread))
    return Score(
        model=str(run.path),
        order=order,
        store=str(store.path),
        split=split,
        context=context,
        cluster_unit=windows.cluster_unit,
        clusters=windows.clusters,
        conditions=arrays["conditions"].tobytes().decode(),
        text_bytes=scored_bytes(source, arrays["tokens_M"]),
        loss_note=source.loss_note,
        sources=window_sources(source, windows.start_M),
        nats_Mb=arrays["nats_Mb"],
        tokens_M=arrays["tokens_M"],
        repeated_nats_M=arrays["repeated_nats_M"],
        repeated_M=arrays["repeated_M"],
    )
