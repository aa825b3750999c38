"""How a run or a study stands, in a terminal: text, with a curve drawn in Braille dots."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lmlab.errors import UserError
from lmlab.progress import duration
from lmlab.studies.status import PLAN, study_status, summary
from lmlab.topics.runs.listing import FINISHED
from lmlab.topics.runs.options import WatchConfig
from lmlab.topics.runs.tables import NATS, bits_per_byte
from lmlab.topics.runs.training_run import TrainingRun, read_run

_WIDTH, _HEIGHT = 72, 12
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column and row of a character


def watch(config: WatchConfig) -> Iterator[str]:
    """How it stands, again and again; ends when nothing is left to be done (or after one look).

    Raises `UserError` for a folder that holds neither a run nor a study.
    """
    while True:
        text, is_over = how_it_stands(config.folder, config.lab)
        yield text
        if config.once or is_over:
            return
        time.sleep(config.every)


def how_it_stands(folder: Path, lab: Path | None = None) -> tuple[str, bool]:
    """A run or a study in words, and whether it is over."""
    if (folder / "config.toml").is_file():
        run = read_run(folder)
        return run_text(run), run.state == FINISHED
    if not (folder / PLAN).is_file():
        raise UserError(
            f"{folder}: neither a run nor a study that has begun; `lmlab runs` lists the runs"
        )
    return _study_text(folder, lab or folder.parent)


def run_text(run: TrainingRun) -> str:
    """Curve, state, losses, speed and time left."""
    config = run.config
    facts = [
        f"{run.state}, step {run.step:,} of {config.steps:,} ({run.step / config.steps:.0%})",
        f"loss {run.loss_P[-1]:.3f}",
    ]
    if (nats_E := run.validations.get(NATS)) is not None and len(nats_E):
        nats = float(nats_E[-1])
        bits = bits_per_byte(run, nats)
        facts.append(
            f"validation {nats:.3f}" + ("" if bits is None else f" ({bits:.3f} bits per byte)")
        )
    if len(run.tokens_per_second_M):
        facts.append(f"{run.tokens_per_second_M[-1]:,.0f} tokens/s")
    if run.seconds_left is not None:
        facts.append(f"ETA {duration(run.seconds_left)}")
    title = f"{run.name}: {config.model_name}, {config.objective}, {config.order}"
    return "\n".join([title, *curve(run.step_P, run.loss_P), ", ".join(facts)])


def _study_text(out: Path, lab: Path) -> tuple[str, bool]:
    rows = study_status(out, lab)
    lines = []
    for row in rows:
        spark = ""
        if row.step:
            spark = sparkline(read_run(lab / "runs" / row.folder).loss_P)
        label, _, state, *rest = row.cells()
        lines.append([label, state, *rest, spark])
    columns = ["run", "state", "step", "loss", "tokens/s", "ETA", "training loss"]
    widths = [max(len(line[i]) for line in [columns, *lines]) for i in range(len(columns))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [columns, *lines]
    ]
    is_over = (out / "report.html").exists() and all(row.state == FINISHED for row in rows)
    return "\n".join([*text, summary(rows, out)]), is_over


def curve(x: np.ndarray, y: np.ndarray) -> list[str]:
    """A plot of y against x in lines of Braille characters, with the ends of its axes."""
    low, high = float(y.min()), float(y.max())
    dots = np.zeros((4 * _HEIGHT, 2 * _WIDTH), dtype=bool)
    wide = np.linspace(x[0], x[-1], 2 * _WIDTH)
    at = np.interp(wide, x, y)
    row = np.round((4 * _HEIGHT - 1) * (high - at) / ((high - low) or 1.0)).astype(int)
    dots[row, np.arange(2 * _WIDTH)] = True
    for column in range(1, 2 * _WIDTH):  # no gaps where it is steep
        a, b = sorted(row[column - 1 : column + 1])
        dots[a : b + 1, column] = True
    lines = [
        "".join(
            chr(
                0x2800
                + sum(
                    _DOTS[i][j]
                    for i in range(2)
                    for j in range(4)
                    if dots[4 * line + j, 2 * character + i]
                )
            )
            for character in range(_WIDTH)
        )
        for line in range(_HEIGHT)
    ]
    margin = max(len(f"{high:.3f}"), len(f"{low:.3f}"))
    labels = [f"{high:.3f}", *[""] * (_HEIGHT - 2), f"{low:.3f}"]
    drawn = [f"{label:>{margin}} ┤{line}" for label, line in zip(labels, lines, strict=True)]
    first, last = f"{x[0]:,.0f}", f"step {x[-1]:,.0f}"
    return [*drawn, " " * (margin + 2) + first + last.rjust(_WIDTH - len(first))]


def sparkline(y: Sequence[float] | np.ndarray, width: int = 16) -> str:
    """A curve in one line of blocks, high where y is."""
    parts = np.array_split(np.asarray(y), min(width, len(y)))
    mean = np.array([part.mean() for part in parts])
    level = np.round(7 * (mean - mean.min()) / (np.ptp(mean) or 1.0)).astype(int)
    return "".join("▁▂▃▄▅▆▇█"[i] for i in level)


def show(texts: Iterator[str]) -> None:
    """Prints what `watch` says: in one place of a terminal, one after the other elsewhere."""
    if not sys.stdout.isatty():
        for text in texts:
            print(text, flush=True)
        return
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        for text in texts:
            live.update(Text(text), refresh=True)
