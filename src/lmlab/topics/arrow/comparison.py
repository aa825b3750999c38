"""One comparison of the arrow study: from runs and scores to the plain values of `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from safetensors import safe_open

from lmlab.data.windows import EvaluationWindows
from lmlab.numerics.transitions import compare_times, find_jump, time_below
from lmlab.run_folders.journal import read_journal
from lmlab.studies.corpora import Known
from lmlab.topics.arrow.arrow import (
    PositionArrow,
    arrow_by_position,
    arrow_components,
    arrow_of_time,
)
from lmlab.topics.scoring.floor import excess_over_floor
from lmlab.topics.scoring.score import Score
from lmlab.training.loop import TrainedRun

Scored = tuple[TrainedRun, Score]


def cell_result(
    description: dict[str, Any],
    known: Known | None,
    windows: EvaluationWindows,
    forward: Sequence[Scored],
    other: Sequence[Scored],
) -> dict[str, Any]:
    """Everything the report shows of one comparison, as plain values.

    `description` says what is compared; `windows` are those scored; `forward` and `other` have an
    entry a seed.
    """
    f, o = ([scored for _, scored in side] for side in (forward, other))
    first = f[0]
    by_position = arrow_by_position(
        np.stack([s.nats_Mb for s in f]),
        np.stack([s.nats_Mb for s in o]),
        first.cluster_M,
        first.position_edges,
        first.clusters.document_N,
    )
    nats_f, nats_o = (np.stack([s.nats_M for s in side]) for side in (f, o))
    arrow = arrow_of_time(nats_f, nats_o, first.cluster_M, first.clusters.document_N)
    components = arrow_components(nats_f, nats_o, first.clusters)
    runs = [[_run_result(*scored, by_position) for scored in side] for side in (forward, other)]
    return {
        **description,
        "methods": {"parameters": _parameters(forward[0][0]), **description["methods"]},
        "arrow": arrow.to_json(),
        "by_position": [bin.to_json() for bin in by_position],
        "floor": None if known is None else _floor_result(known, windows, f, o),
        "components": None
        if components is None
        else {
            **components.to_json(),
            "document_tokens": first.tokens / first.clusters.documents,
        },
        "transition": transition(*([run["curve"] for run in side] for side in runs)),
        "forward": runs[0],
        "other": runs[1],
        "cluster": first.cluster_unit,
        "tokens_scored": first.tokens,
    }


_LATE = 2 / 3  # of the budget: a run that jumps after it may as well not have jumped yet


def transition(
    forward: Sequence[Sequence[Sequence[float]]], other: Sequence[Sequence[Sequence[float]]]
) -> dict[str, Any] | None:
    """When runs make the largest jump of any validation curve; None where no curve jumps.

    A curve is [tokens, loss] at each validation. `inside`: the budget ends among the jumps, since
    a run has not made it, or only in the last third; then final losses have two values and their
    interval says nothing (`numerics.transitions`).
    """
    sides = [[np.array(curve, dtype=np.float64).T for curve in side] for side in (forward, other)]
    curves = [curve for side in sides for curve in side]
    if len(curves) > 20 or any(curve.size < 2 for curve in curves):
        return None
    jumps = [jump for jump in (find_jump(*curve) for curve in curves) if jump is not None]
    if not jumps:
        return None
    largest = max(jumps, key=lambda jump: jump.before - jump.after)
    budget = float(max(curve[0, -1] for curve in curves))
    times = [
        [time_below(tokens, loss, largest.threshold) for tokens, loss in side] for side in sides
    ]
    late = [t is None or t > _LATE * budget for side in times for t in side]
    return {
        **asdict(compare_times(times[0], times[1], budget)),
        "threshold": largest.threshold,
        "inside": any(late),
    }


def _floor_result(
    known: Known, windows: EvaluationWindows, forward: Sequence[Score], other: Sequence[Score]
) -> dict[str, Any]:
    surprisal_M = known.surprisal(np.stack([windows.ids(row) for row in range(len(windows))]))

    def excess(scores: Sequence[Score]) -> dict[str, Any]:
        made = excess_over_floor(
            np.stack([s.nats_M for s in scores]), surprisal_M, windows.length_M, windows.clusters
        )
        by_seed = [float((s.nats_M - surprisal_M).sum() / s.tokens) for s in scores]
        return {**asdict(made), "by_seed": by_seed}

    return {
        "nats_per_token": known.floor,
        "inverse_density": known.inverse_density,
        "forward": excess(forward),
        "other": excess(other),
    }


def _parameters(run: TrainedRun) -> int:
    with safe_open(run.checkpoint / "model.safetensors", framework="np") as file:
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118


def _run_result(
    run: TrainedRun, scored: Score, by_position: Sequence[PositionArrow]
) -> dict[str, Any]:
    journal = read_journal(run.path / "journal.jsonl")
    return {
        "run": run.name,
        "nats_per_token": scored.nats_per_token,
        "bits_per_byte": scored.bits_per_byte,
        "curve": [
            [record["tokens"], record["validation_nats_per_token"]]
            for record in journal
            if "validation_nats_per_token" in record
        ],
        # the same bins as the arrow's, which has none where all losses are exactly zero
        "by_position": scored.nats_per_token_at([each.first for each in by_position]).tolist(),
    }
