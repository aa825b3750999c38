"""Kills a program before each of its durable operations, really, and lets it go on.

    python tests/kill_matrix.py PROGRAM FOLDER OPERATION...

For each number of an operation (none: all of them) a child process is forked, which SIGKILLs itself
before that operation, then another, which runs the program again to its end. Prints a line of JSON
for each: the operation, and whether the folder equals that of the program left alone. It is a
process of its own so that torch is imported once, and no thread is running when it forks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import lmlab  # noqa: F401 - before torch
from helpers import id_store, tree
from lmlab import durable
from lmlab.data.store import TokenStore
from lmlab.training.loop import train
from objective_cases import case_config, running_text


def training(name: str) -> Callable[[Path], None]:
    def program(folder: Path) -> None:
        train(power_cut_case(name, folder))

    return program


def power_cut_case(name: str, folder: Path):
    """A case with a few steps and old checkpoints pruned."""
    from lmlab.config.training import CheckpointConfig

    return case_config(
        name, folder, steps=4, evaluate_every=2, checkpoints=CheckpointConfig(every=2, keep=1)
    )


def store(folder: Path) -> None:
    path = folder / "store"
    if path.exists():
        TokenStore(path).verify()
    else:
        id_store(path, {"train": [[1, 2], [3]], "validation": [[4]]}, symbols=9)


PROGRAMS = {
    "store": store,
    **{name: training(name) for name in ("causal-forward", "headless", "masked")},
}


def outcome(folder: Path) -> dict[str, bytes]:
    """What has to be the same: no clock, no lock, nothing that a kill left behind in staging."""
    return {
        name: data
        for name, data in tree(folder).items()
        if not any(part.startswith(".") for part in name.split("/"))
        and not name.endswith(("timing.jsonl", "config.toml"))
    }


def forked(program: Callable[[Path], None], folder: Path, kill_at: int | None) -> int:
    """The number of operations that a child announced, or minus its signal."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def announce(name: str, path: Path) -> None:
            nonlocal count
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        durable.on_operation = announce
        os.fsync = lambda descriptor: None  # a kill does not lose what the system holds
        status = 1
        try:
            program(folder)
            os.write(writing, str(count).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, f"the program failed in {folder}"
    return int(said)


def main(name: str, base: Path, chosen: list[int]) -> None:
    program = PROGRAMS[name]
    running_text(base / "whole")  # what the program is given is not what is attacked
    total = forked(program, base / "whole", None)
    whole = outcome(base / "whole")
    for number in chosen or range(total):
        folder = base / str(number)
        running_text(folder)
        killed = forked(program, folder, number) == -signal.SIGKILL
        forked(program, folder, None)
        print(json.dumps([number, killed and outcome(folder) == whole]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(number) for number in sys.argv[3:]])
