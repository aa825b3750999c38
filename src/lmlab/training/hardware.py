"""What the machine can do, and the settings that could change the bits of a run.

Notable: `keep_freed_memory`. glibc hands large freed blocks back to the system, so an eager step on
a CPU faults in its activations anew every time. Keeping them made such a step about 1.4 times
faster (benchmarks/train_throughput.py measures it).
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from lmlab.config.training import TrainConfig
from lmlab.errors import UserError
from lmlab.processes import local_world, world

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Makes glibc's malloc keep freed memory for the next step, for this process from now on.

    Returns False where there is no glibc (macOS, musl); training is then merely slower.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 26))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def available_cores() -> int:
    """CPU cores this process may use: its share, where several do one job.

    One process on its own keeps to the environment's OMP_NUM_THREADS. Of several it says nothing:
    torchrun sets it to 1 where the user has not set it.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if local_world() == 1 and asked.isdecimal():
        cores = min(cores, int(asked))
    return max(1, cores // local_world())


def available_memory(device: str) -> int | None:
    """Bytes that a process could still take on `device`; None where the system does not say.

    On a CPU a control group's limit (containers, batch jobs) counts as well.
    """
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    limits: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [1024 * int(v.split()[1]) for v in lines if v.startswith("MemAvailable:")]
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # not Linux; no such group, or its limit is the word "max"
        pass
    return min(limits, default=None)


def peak_memory(device: str) -> int | None:
    """Most bytes so far: of tensors on a CUDA device, of the whole process on a CPU; None where the
    system does not say (Windows)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resolve_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """cuda where there is one, else cpu. `UserError` if cuda is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("`device` cuda: PyTorch sees no CUDA device here; use `device` cpu")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 products run in hardware (AVX512_BF16, AMX, NVIDIA since Ampere)."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def resolve_dtype(wanted: Literal["auto", "float32", "bfloat16"], device: str) -> str:
    """The type of matrix products: bfloat16 where it is in hardware, unless asked otherwise."""
    if wanted == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    return wanted


def fastest_attention(device: str, context: int) -> str | None:
    """The attention to train with, where transformers' default (None) is not the fastest.

    On a CPU the fused kernel's backward pass costs more than plain products for short windows
    (benchmarks/train_throughput.py has the comparison). The function computed is the same.
    """
    return "eager" if device == "cpu" and context <= 256 else None


def numeric_key(config: TrainConfig) -> dict[str, Any]:
    """Settings outside a configuration's meaning that may still change bits."""
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if config.device == "cuda" else processor,
        "dtype": config.dtype,
        "threads": config.threads,
        "compile": config.compile,
        "world_size": world(),
        **({"fsdp": True} if config.fsdp else {}),
    }
