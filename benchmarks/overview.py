"""Is lmlab fast here? A few ratios within ten minutes: `make bench`.

    python benchmarks/overview.py

Every ratio is of two things measured in turn on this machine, so that a machine whose speed drifts
slows both alike; the median over rounds is printed, and what was compared with what.

- start-up: from the command to the first step, against importing torch and the model's class.
- step: lmlab's loop against a plain loop with the same stock model (train_throughput.py), and
  against nanoGPT's model with what any loop must pay (step.py).
- Muon: a step with Muon against one with AdamW, by tokens a step.
- time to a loss: `lmlab train` with its defaults against a plain loop with nanoGPT's settings
  (time_to_loss.py).
- prune: curves over pruned heads against one narrowed head after the other (pruning.py).
- prepare: against `datasets` with `tokenizers`, in the processor's seconds (prepare.py).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
FIRST_STEP = """
import sys
from lmlab.training.loop import Trainer
def stop(self):
    sys.exit()
Trainer.update = stop
from lmlab.cli import main
main(sys.argv[1:])
"""


def processor() -> str:
    """What the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def start_up(store: Path, folder: Path, rounds: int = 5) -> None:
    """Prints how long it takes to the first step, in times of an import."""
    commands = {
        "import torch, transformers": ["-c", "import torch, transformers"],
        "import of the model's class": ["-c", "from transformers import Qwen3ForCausalLM"],
    }
    taken: dict[str, list[float]] = {name: [] for name in (*commands, "first step")}
    for round_ in range(rounds):
        first = ["train", "--store", store, "--context", "64", "--out", folder / f"start{round_}"]
        for name, command in {**commands, "first step": ["-c", FIRST_STEP, *first]}.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
            taken[name].append(time.perf_counter() - start)
    for name in commands:
        ratios = [a / b for a, b in zip(taken["first step"], taken[name], strict=True)]
        print(f"start-up: to the first step {statistics.median(ratios):.2f} times '{name}'")


def muon(store: Path) -> None:
    """Prints what a step with Muon costs, in steps with AdamW."""
    from dataclasses import replace

    from lmlab.config.model import ModelConfig
    from lmlab.config.training import OptimizerConfig, TrainConfig
    from lmlab.training.setup import resolve
    from lmlab.training.speed import seconds_per_step

    for width, context, batch in ((128, 64, 12), (128, 256, 16), (256, 256, 16)):
        config = TrainConfig(
            store,
            model=ModelConfig(layers=4, heads=4, width=width),
            context=context,
            batch=batch,
        )
        forms = {
            name: resolve(replace(config, optimizer=OptimizerConfig(name)))
            for name in ("adamw", "muon")
        }
        seconds = seconds_per_step(forms, rounds=10)
        print(
            f"Muon: a step of {batch * context:,} tokens, 4 x {width}: "
            f"{seconds['muon'] / seconds['adamw']:.2f} of AdamW's"
        )


def script(name: str, *arguments: str) -> None:
    """Runs a benchmark of this folder, and passes on what it prints."""
    command = [sys.executable, str(HERE / name), *arguments]
    print(f"\n$ python benchmarks/{name} {' '.join(arguments)}", flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    from lmlab.training.hardware import resolve_dtype

    dtype = resolve_dtype("auto", "cpu")
    print(f"{processor()}; products in {dtype}", flush=True)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, str(HERE))
        from time_to_loss import prepared

        store = prepared("characters", "docstrings:python", Path(folder) / "characters")
        start_up(store, Path(folder))
        muon(store)
        script("train_throughput.py", "--forms", "plain", "lmlab", "--rounds", "2", "--steps", "14")
        script("step.py", "--dtype", dtype)
        script("pruning.py", "--positions", "85")
        script("prepare.py", "--documents", "20000", "--megabytes", "5", "--rounds", "1")
        script("time_to_loss.py", "--rounds", "1", "--lab", folder)
    print(f"\n{(time.perf_counter() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
