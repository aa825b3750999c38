"""The second process of the tour: `python -m lmlab.topics.tour.second LAB`. Imports no torch.

Models as small as those of the tour keep two threads waiting for one another: two processes of one
thread each do more. Both are workers of the same studies (`studies.parts`), so either may end at
any moment, and the other goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmlab.progress import say

THREADS = "OMP_NUM_THREADS"
COMMAND = (sys.executable, "-m", "lmlab.topics.tour.second")
_LOG = "second.log"
_SECONDS_TO_STOP = 60


def halve_threads() -> bool:
    """Leaves this process half of the cores, for torch, which is imported later. (numpy is there
    already and keeps its threads here; the second process has half of them for both.)

    False, and nothing is done, where there is one core, or where somebody has settled the threads.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if cores < 2 or THREADS in os.environ:
        return False
    os.environ[THREADS] = str(cores // 2)
    return True


@contextmanager
def second_process(lab: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The second process for a while, with the threads that this one has; what it says is in a file
    of the tour's folder."""
    log = lab / "tour" / _LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as said:
        process = subprocess.Popen([*COMMAND, str(lab)], stdout=said, stderr=said)
    say(f"a second process shares each part, so less time is left than said; its log: {log}")
    try:
        yield process
    finally:
        process.terminate()  # in a run: the step is finished and saved
        try:
            process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    from lmlab.topics.tour.study import help_tour

    help_tour(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
