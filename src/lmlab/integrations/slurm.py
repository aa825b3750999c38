"""Workers of a study as Slurm jobs, or as processes of this machine, by submitit (extra `slurm`).

Notable:
- What is handed over is a plain command line; each worker is a fresh `python -m lmlab`.
- submitit itself pickles the little object that holds that command line, and the text it printed,
  into its own folder, and reads them back there. lmlab reads nothing of it: a study's results come
  from its own files.
- A worker needs nothing from the job that started it, so jobs may be ended, requeued or added at
  any time.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmlab.durable import make_folder
from lmlab.errors import UserError, install_extra
from lmlab.studies.options import SubmitConfig

_NO_LIMIT_MINUTES = 10 * 365 * 24 * 60  # submitit's own local limit is two minutes


def submit_workers(how: SubmitConfig, arguments: Sequence[str], *, out: Path) -> list[str]:
    """Starts workers that each run `lmlab ARGUMENTS`; returns the ids of their jobs.

    Logs lie in `out`/workers. Raises `UserError` where submitit or Slurm is missing, or Slurm
    refuses the jobs.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ImportError as error:
        raise UserError(f"--submit needs submitit: {install_extra('slurm')}") from error
    if how.cluster == "slurm" and shutil.which("srun") is None:
        raise UserError("there is no Slurm here (no srun); submit from a login node, or set "
                        'cluster = "local"')  # fmt: skip
    folder = out / "workers"
    make_folder(folder)
    executor = submitit.AutoExecutor(folder.resolve(), cluster=how.cluster)
    executor.update_parameters(**_parameters(how, name=out.name))
    commands = [
        submitit.helpers.CommandFunction(
            [*_on_cores(how, number), sys.executable, "-m", "lmlab", *arguments], cwd=Path.cwd()
        )
        for number in range(how.workers)
    ]
    try:
        with executor.batch():
            jobs = [executor.submit(command) for command in commands]
    except FailedJobError as error:
        raise UserError(f"Slurm refuses the workers: {error}") from error
    return [job.job_id for job in jobs]


def _parameters(how: SubmitConfig, *, name: str) -> dict[str, Any]:
    """In submitit's names; those of Slurm alone begin with slurm_."""
    if how.cluster == "local":
        return {
            "timeout_min": _NO_LIMIT_MINUTES,
            "gpus_per_node": how.gpus,
            "local_setup": list(how.setup),
        }
    own = {"partition": how.partition, "account": how.account, "qos": how.qos,
           "constraint": how.constraint, "setup": list(how.setup) or None}  # fmt: skip
    return {
        "name": name,
        "timeout_min": math.ceil(60 * how.hours),
        "gpus_per_node": how.gpus or None,
        "cpus_per_task": how.cpus,
        "mem_gb": how.memory_gb,
        **{f"slurm_{key}": value for key, value in own.items() if value is not None},
    }


def _on_cores(how: SubmitConfig, number: int) -> list[str]:
    """What ties local worker `number` to cores of its own, as Slurm does: two workers of as many
    threads as the machine has cores would wait for one another."""
    if how.cluster != "local":
        return []
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if how.workers * how.cpus > len(cores):
        raise UserError(
            f"{how.workers} workers of {how.cpus} cores need {how.workers * how.cpus}; this "
            f"machine gives {len(cores)}. Set workers or cpus lower"
        )
    if shutil.which("taskset") is None:
        raise UserError("local workers are tied to their cores by taskset, which is not here")
    own = cores[number * how.cpus : (number + 1) * how.cpus]
    return ["taskset", "--cpu-list", ",".join(map(str, own))]
