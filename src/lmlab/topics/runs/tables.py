"""The tables of a training run's page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lmlab.config import to_mapping
from lmlab.pages.page import Table
from lmlab.pages.text import Rounded
from lmlab.progress import duration
from lmlab.topics.runs.training_run import TrainingRun

NATS = "validation_nats_per_token"


def tables(result: TrainingRun) -> list[Table]:
    """How it stands; every validation; every setting."""
    return [_summary(result), *_validations(result), _settings(result)]


def bits_per_byte(result: TrainingRun, nats: float) -> float | None:
    """Of the validation sample, by the tokens per byte of its whole split."""
    return None if result.tokens_per_byte is None else nats * result.tokens_per_byte / math.log(2)


def _summary(result: TrainingRun) -> Table:
    rows: list[list[str | float | int]] = [
        ["state", result.state],
        ["step", f"{result.step:,} of {result.config.steps:,}"],
        ["targets", result.tokens],
        ["training loss", Rounded(float(result.loss_P[-1]), 4)],
    ]
    for name, value_E in result.validations.items():
        rows.append([name.replace("_", " "), Rounded(float(value_E[-1]), 4)])
        if name == NATS and (bits := bits_per_byte(result, float(value_E[-1]))) is not None:
            rows.append(["validation bits per byte", Rounded(bits, 4)])
    if len(result.tokens_per_second_M):
        rows.append(
            ["tokens per second, the latest", Rounded(float(result.tokens_per_second_M[-1]), 0)]
        )
        rows.append(["time of training", duration(result.seconds)])
    if result.seconds_left is not None:
        rows.append(["time left", duration(result.seconds_left)])
    if result.peak_memory is not None:
        rows.append(["peak memory, MiB", Rounded(result.peak_memory / 2**20, 0)])
    rows.append(["on disk, MiB", Rounded(result.bytes / 2**20, 1)])
    return Table(["", result.name], rows, f"How {result.name} stands; one run, one seed.")


def _validations(result: TrainingRun) -> list[Table]:
    if not result.validations:
        return []
    columns = [
        "step",
        *(name.removeprefix("validation_").replace("_", " ") for name in result.validations),
    ]
    rows = [
        [int(step), *(Rounded(float(value_E[i]), 4) for value_E in result.validations.values())]
        for i, step in enumerate(result.validation_step_E)
    ]
    return [Table(columns, rows, "Validations: a fixed sample of windows, the same every time.")]


def _settings(result: TrainingRun) -> Table:
    rows = [[name, value] for name, value in _flat(to_mapping(result.config))]
    return Table(["option", "value"], rows, "All settings of the run, as they were resolved.")


def _flat(values: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{start}{name}.")
        else:
            yield (
                start + name,
                ", ".join(map(str, value)) if isinstance(value, list) else str(value),
            )
