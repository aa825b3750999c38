"""Several processes that do one job, as `torchrun` starts them.

Each runs the same command. In training they share out the windows of every batch, in analyses the
batches of the stream, and add up what they found; files and output are the first one's.

Notable:
- One process alone needs no torch.distributed and never loads it.
- Nothing is sent as a pickle: sums are tensors, and what the first process found out is JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from lmlab.errors import UserError

Item = TypeVar("Item")


def world() -> int:
    """How many processes do this job."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "MASTER_ADDR" in os.environ else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def local_world() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world())) if world() > 1 else 1


def is_first() -> bool:
    """Whether this process writes and prints for all."""
    return rank() == 0


def join(device: str) -> None:
    """Meets the other processes, on the CPU by gloo, on CUDA devices (one each) by NCCL.

    Raises `UserError` where there are fewer CUDA devices than processes on this machine.
    """
    if world() == 1:
        return
    import torch
    from torch import distributed

    if device == "cuda":
        mine, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if mine >= there:
            raise UserError(
                f"{local_world()} processes and {there} CUDA devices on this machine: give "
                f"torchrun --nproc-per-node {there}, or use `device` cpu"
            )
        torch.cuda.set_device(mine)
    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")


def leave() -> None:
    """The end of the work together; does nothing for one process alone."""
    if world() == 1:
        return
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def rows_of_this(rows: range) -> range:
    """This process's share of the rows of a batch: contiguous, and as many as any other's or one
    fewer. `UserError` if there are too few for each to have one."""
    if len(rows) < world():
        raise UserError(
            f"{world()} processes share the windows of a micro-batch, which has {len(rows)}: use a "
            "larger `micro_batch` (or `batch`), or fewer processes"
        )
    first, last = (len(rows) * (rank() + k) // world() for k in (0, 1))
    return rows[first:last]


def shared_out(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """All items, and whether each is this process's: in turn, so every process has like work."""
    for number, item in enumerate(items):
        yield item, number % world() == rank()


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """The sum of everyone's array, of one shape, in float64 (integers stay so), for everyone.

    All processes must call it. Terms are added in the order of gloo's algorithm, so the sum can
    differ from one process's by rounding, unless all terms but one are zero.
    """
    if world() == 1:
        return values
    import torch
    from torch import distributed

    kind = np.int64 if np.issubdtype(values.dtype, np.integer) else np.float64
    total = torch.from_numpy(np.array(values, dtype=kind, order="C"))
    distributed.all_reduce(total)  # on the CPU: NCCL has no say in these
    return total.numpy()


def from_all(values: np.ndarray) -> list[np.ndarray]:
    """Everyone's array, of one shape and type, in the order of ranks. All must call it."""
    if world() == 1:
        return [values]
    import torch
    from torch import distributed

    own = torch.from_numpy(np.ascontiguousarray(values))
    gathered = [torch.empty_like(own) for _ in range(world())]
    distributed.all_gather(gathered, own)
    return [each.numpy() for each in gathered]


def lists_of_all(values: list[Any]) -> list[Any]:
    """Everyone's list of plain values (as JSON) in one, in the order of ranks. All must call it."""
    if world() == 1:
        return values
    sent = np.frombuffer(json.dumps(values).encode(), dtype=np.uint8)
    lengths = [int(each[0]) for each in from_all(np.array([len(sent)]))]
    padded = np.zeros(max(lengths), dtype=np.uint8)
    padded[: len(sent)] = sent
    everyones = zip(from_all(padded), lengths, strict=True)
    return [value for each, length in everyones for value in json.loads(each[:length].tobytes())]


def from_first(value: Any) -> Any:
    """The first process's value (plain, as JSON) for everyone; others may give None.

    All processes must call it; they wait for the first.
    """
    return lists_of_all([value])[0]
