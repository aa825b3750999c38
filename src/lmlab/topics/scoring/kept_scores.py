"""Analyses of finished runs that studies share and never repeat."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from lmlab.config import digest
from lmlab.data.store import TokenStore
from lmlab.data.windows import evaluation_windows
from lmlab.durable import check_seal, packed, sealed, write_bytes
from lmlab.lm.calibrated_head import Head, open_with_head
from lmlab.progress import Bar
from lmlab.topics.scoring.score import Score, score, scored_bytes
from lmlab.topics.scoring.window_sources import window_sources
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
    key = digest(decided)
    path = run.path / "scores" / f"{split}-{key[:12]}.safetensors"
    kept = _read(path)
    if kept is not None:
        arrays, conditions = kept
        bar.skip(float(windows.length_M.sum()))
        return Score(
            model=str(run.path),
            order=order,
            store=str(store.path),
            split=split,
            context=context,
            cluster_unit=windows.cluster_unit,
            clusters=windows.clusters,
            conditions=conditions,
            text_bytes=scored_bytes(source, arrays["tokens_M"]),
            loss_note=source.loss_note,
            sources=window_sources(source, windows.start_M),
            nats_Mb=arrays["nats_Mb"],
            tokens_M=arrays["tokens_M"],
            repeated_nats_M=arrays["repeated_nats_M"],
            repeated_M=arrays["repeated_M"],
        )
    lm = open_with_head(run.checkpoint, head, store=store, held_out=held_out)
    made = score(lm, store, split=split, context=context, max_windows=max_windows, bar=bar)
    kept_arrays = {name: getattr(made, name) for name in _ARRAYS}
    # what each token was scored from, as the model that was opened says it
    kept_arrays["conditions"] = np.frombuffer(made.conditions.encode(), np.uint8)
    write_bytes(path, sealed(packed(kept_arrays)))
    return replace(made, model=str(run.path))


def _read(path: Path) -> tuple[dict[str, np.ndarray], str] | None:
    """The kept arrays and the conditions; None where there are none, or they are damaged and must
    be redone."""
    try:
        arrays = load(check_seal(path.read_bytes()))
        conditions = bytes(arrays.pop("conditions")).decode()
    except (FileNotFoundError, SafetensorError, ValueError, KeyError):
        return None
    return (arrays, conditions) if set(arrays) == set(_ARRAYS) else None
