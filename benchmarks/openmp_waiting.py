"""What it costs how long OpenMP threads spin while they wait, with free and with shared cores.

    python benchmarks/openmp_waiting.py [--rounds 3]

Runs lmlab's training step of train_throughput.py in processes that differ in GOMP_SPINCOUNT only,
alone and beside one busy process. `default` is the OpenMP library's own choice.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

SPINS = ("default", "0", "1000", "5000", "20000", "100000")


def speed(spin: str, steps: int) -> float:
    """Tokens per second of a training process with this setting."""
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if spin == "default":
        environment["OMP_WAIT_POLICY"] = ""  # set but empty: lmlab then leaves waiting alone
    else:
        environment["GOMP_SPINCOUNT"] = spin
    script = Path(__file__).with_name("train_throughput.py")
    command = [sys.executable, str(script), "--one", "lmlab", "--steps", str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    print(
        f"{'GOMP_SPINCOUNT':>15} {'alone':>10} {'beside one busy process':>25}   tokens/s, median"
    )
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(options.rounds):
        for busy in (False, True):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                for spin in SPINS:
                    found.setdefault((spin, busy), []).append(speed(spin, options.steps))
            finally:
                if other:
                    other.kill()
                    other.wait()
    for spin in SPINS:
        alone, shared = (statistics.median(found[spin, busy]) for busy in (False, True))
        print(f"{spin:>15} {alone:10,.0f} {shared:25,.0f}")


if __name__ == "__main__":
    main()
