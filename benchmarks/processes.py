"""One training run by one and by two processes: tokens per second, memory, and the same losses.

    python benchmarks/processes.py --store STORE [--rounds 3] [--steps 60]

STORE is any folder made by `lmlab prepare`. GPT-2 4 x 256, context 128, batch 32, on the CPU, each
form a command of its own; rounds alternate the forms, so that a machine whose speed drifts slows
them alike. Tokens per second are the median of what the run itself wrote down every five seconds,
the first and the last of these left out; memory is the first process's peak. Printed: the median
over rounds of the ratio to one process of one thread, and the largest relative difference of a loss
from that form's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FORMS = {
    "1 process, 1 thread": (1, 1, []),
    "1 process, 2 threads": (1, 2, []),
    "2 processes, 1 thread each (DDP)": (2, 1, []),
    "2 processes, 1 thread each (FSDP2)": (2, 1, ["--fsdp"]),
}


def measure(form: str, options: argparse.Namespace, out: Path) -> tuple[float, float, list[float]]:
    """Tokens per second, peak GB of a process, and losses of a run."""
    processes, threads, flags = FORMS[form]
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += [
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            "-m",
        ]
    settings = {
        "store": options.store, "out": out, "steps": options.steps, "threads": threads,
        "model.layers": 4, "model.heads": 4, "model.width": 256, "context": 128, "batch": 32,
        "evaluation-windows": 8, "evaluate-every": options.steps, "device": "cpu",
    }  # fmt: skip
    named = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    subprocess.run(
        [*launch, "lmlab", "train", *named, *flags],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
    )
    records, timings = (
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("journal.jsonl", "timing.jsonl")
    )
    speeds = [timing["tokens_per_second"] for timing in timings[1:-1]]
    if not speeds:
        sys.exit(f"{form}: the run was over too soon to be timed; give more --steps")
    peak = timings[-1]["peak_memory_bytes"] / 1e9
    return statistics.median(speeds), peak, [record["loss"] for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float, list[float]]]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.rounds):
            for number, form in enumerate(FORMS):
                print(
                    f"round {round_ + 1} of {options.rounds}: {form}", file=sys.stderr, flush=True
                )
                out = Path(folder) / f"{round_}-{number}"
                found[form].append(measure(form, options, out))
    first = next(iter(found.values()))
    print(f"{'':36}{'tokens/s':>10}{'ratio':>8}{'range':>16}{'GB':>7}{'losses differ by':>19}")
    for form, runs in found.items():
        ratios = [run[0] / base[0] for run, base in zip(runs, first, strict=True)]
        apart = max(abs(a - b) / b for a, b in zip(runs[0][2], first[0][2], strict=True))
        print(
            f"{form:36}{statistics.median(run[0] for run in runs):10,.0f}"
            f"{statistics.median(ratios):8.2f}{f'{min(ratios):.2f} to {max(ratios):.2f}':>16}"
            f"{runs[0][1]:7.2f}{apart:19.1e}"
        )


if __name__ == "__main__":
    main()
