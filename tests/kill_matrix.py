"""Kills a program before each of its durable operations, really, and lets it go on.

    python tests/kill_matrix.py PROGRAM FOLDER OPERATION...

For each number of an operation (none: all that `attacked` chooses) a child process is forked, which
SIGKILLs itself before that operation, then another, which runs the program again to its end. Prints
a line of JSON for each: the operation, and whether the folder equals that of the program left
alone. It is a process of its own so that torch is imported once, and no thread is running when it
forks.

Notable: how many operations a run has must not depend on how busy the machine is, so the journal of
the clock gets its last line only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import lmlab  # noqa: F401 - before torch
from helpers import id_store, sentences, tree
from lmlab import durable
from lmlab.data.store import TokenStore
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.study import run_arrow
from lmlab.training import loop
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


def given(folder: Path) -> None:
    """Writes what a program is given, which is not what is attacked."""
    running_text(folder)
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    for number, text in enumerate(sentences(60, seed=1)):
        (texts / f"{number:03d}.txt").write_text(text, "utf-8")


def study(folder: Path) -> None:
    """The smallest of studies, from text files to its page."""
    run_arrow(
        ArrowConfig(
            text=(str(folder / "texts"),), size=("nano",), context=(16,), seeds=1,
            vocabulary=300, tokens=600, batch_tokens=64, windows=20,
            lab=folder, out=folder / "study",
        )
    )  # fmt: skip


LAST_OF_STUDY = 16
"""Operations that come after a study's last run, or belong to that run's last checkpoint."""


def attacked(name: str, total: int) -> list[int]:
    """Which operations of a program are attacked: all, but of a study only some before its end."""
    if name != "study":
        return list(range(total))
    return [*range(3, total - LAST_OF_STUDY, 25), *range(total - LAST_OF_STUDY, total)]


PROGRAMS = {
    "store": store,
    "study": study,
    **{name: training(name) for name in ("causal-forward", "headless", "masked")},
}


def outcome(folder: Path) -> dict[str, bytes]:
    """What has to be the same wherever the folder lies: no clock, no lock (it says which process
    held it), nothing that a kill left behind in staging."""
    return {
        name: data.replace(bytes(folder), b"@")
        for name, data in tree(folder).items()
        if not any(part.startswith(".") for part in name.split("/"))
        and not name.endswith(("timing.jsonl", "config.toml", ".lock"))
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
    loop._TIMING_EVERY_SECONDS = float("inf")
    given(base / "whole")
    total = forked(program, base / "whole", None)
    whole = outcome(base / "whole")
    for number in chosen or attacked(name, total):
        folder = base / str(number)
        given(folder)
        killed = forked(program, folder, number) == -signal.SIGKILL
        forked(program, folder, None)
        print(json.dumps([number, killed and outcome(folder) == whole]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(number) for number in sys.argv[3:]])
