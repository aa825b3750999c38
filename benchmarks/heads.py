"""Time and peak memory of the losses over a vocabulary: contrastive against what it replaces.

    python benchmarks/heads.py [--rounds 5] [--threads 2] [--dtypes float32 bfloat16]
        [--allocators default training]

Forward and backward at 8192 targets, vocabulary 32768, width 256. Targets follow Zipf's law: token
of rank r with probability proportional to 1 / r. Inputs are float32; bfloat16 is autocast, as in
training. Each form runs in a process of its own; rounds alternate the forms, so that a machine
whose speed drifts slows them alike.

Each table is for one allocator, the same for all forms: glibc's as it comes, which hands large
blocks back to the system and takes them anew in every step; or as lmlab's training sets it, which
keeps them. Large matrices gain most by that. Memory is exact under the first; under the second the
peak also holds what was freed and could not be used again.

Printed: the median over rounds of each form's seconds (in a round: the median over repeats, the
first left out) and of its peak memory above the inputs, gradients included; how many times those of
the first form they are, by the median over rounds; and the loss, so that equal things are seen to
be equal.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from pathlib import Path

FORMS = {
    "contrastive": "contrastive_loss (lmlab)",
    "published": "published: K x K, exp, row sum, log",
    "linear": "linear_cross_entropy (lmlab), over V",
    "full": "F.cross_entropy(hidden @ E^T), over V",
}
DTYPES = ["float32", "bfloat16"]
ALLOCATORS = ["default", "training"]


def process_bytes(key: str) -> int:
    """A figure of Linux's /proc/self/status, such as VmHWM, the peak of resident memory."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def measure(
    form: str,
    dtype: str,
    allocator: str,
    *,
    targets: int,
    vocabulary: int,
    width: int,
    threads: int,
    repeats: int,
) -> tuple[float, float, float]:
    """Median seconds of forward and backward, bytes of peak memory above the inputs, the loss."""
    import lmlab  # noqa: F401 - before torch

    # isort: split
    import torch
    from torch.nn.functional import cross_entropy, embedding

    from lmlab.objectives.contrastive import contrastive_loss
    from lmlab.objectives.cross_entropy import linear_cross_entropy
    from lmlab.training.hardware import keep_freed_memory

    if allocator == "training":
        assert keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden_KD = torch.randn(targets, width, requires_grad=True)
    embedding_VD = (torch.randn(vocabulary, width) * 0.02).requires_grad_()
    share_V = 1 / torch.arange(1, vocabulary + 1)
    targets_K = torch.randperm(vocabulary)[torch.multinomial(share_V, targets, replacement=True)]

    def loss_of(
        hidden_KD: torch.Tensor, embedding_VD: torch.Tensor, targets_K: torch.Tensor
    ) -> torch.Tensor:
        if form == "contrastive":
            return contrastive_loss(hidden_KD, embedding_VD, targets_K)
        if form == "linear":
            return linear_cross_entropy(hidden_KD, embedding_VD, targets_K)
        if form == "full":
            return cross_entropy(hidden_KD @ embedding_VD.T, targets_K)
        similarity_KK = torch.exp(hidden_KD @ embedding(targets_K, embedding_VD).T)
        own_K, all_K = similarity_KK.diagonal(), similarity_KK.sum(1)
        return -torch.log(own_K / (all_K + 1e-9)).mean()

    small_KD, small_VD = (torch.randn(8, width, requires_grad=True) for _ in range(2))
    loss_of(small_KD, small_VD, torch.arange(8)).backward()  # what libraries allocate once
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = process_bytes("VmRSS")
    seconds: list[float] = []
    value = 0.0
    for _ in range(repeats):
        hidden_KD.grad = embedding_VD.grad = None
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = loss_of(hidden_KD, embedding_VD, targets_K)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        value = float(loss.detach())
        del loss
    return statistics.median(seconds[1:]), process_bytes("VmHWM") - before, value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=4, help="in a round, at least 2")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--allocators", nargs="+", choices=ALLOCATORS, default=ALLOCATORS)
    parser.add_argument("--targets", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--one", nargs=3, help="measure one form, type, allocator in this process")
    options = parser.parse_args()
    sizes = {
        name: getattr(options, name)
        for name in ("targets", "vocabulary", "width", "threads", "repeats")
    }
    if options.one:
        print("measured", *measure(*options.one, **sizes))
        return
    more = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    for dtype, allocator in itertools.product(options.dtypes, options.allocators):
        found: dict[str, list[list[float]]] = {form: [] for form in options.forms}
        for round_number in range(options.rounds):
            for form in options.forms:
                command = [sys.executable, __file__, "--one", form, dtype, allocator, *more]
                done = subprocess.run(command, capture_output=True, text=True)
                lines = [x for x in done.stdout.splitlines() if x.startswith("measured")]
                if not lines:
                    raise SystemExit(f"{form} failed:\n{done.stderr[-2000:]}")
                found[form].append([float(word) for word in lines[-1].split()[1:]])
                seconds = found[form][-1][0]
                print(
                    f"round {round_number + 1} {dtype} {allocator} {form}: {seconds:.3f} s",
                    file=sys.stderr,
                )
        show(f"{dtype}, {allocator} allocator", found)


def show(title: str, found: dict[str, list[list[float]]]) -> None:
    """One table; ratios are to the first form."""
    base = next(iter(found.values()))
    print(
        f"{title:40} {'seconds':>8} {'ratio':>6} {'min-max':>12} {'extra MB':>9} {'ratio':>6} "
        f"{'loss':>9}"
    )
    for form, rounds in found.items():
        times = [a[0] / b[0] for a, b in zip(rounds, base, strict=True)]
        memory = [a[1] / b[1] for a, b in zip(rounds, base, strict=True)]
        median = [statistics.median(column) for column in zip(*rounds, strict=True)]
        print(
            f"{FORMS[form]:40} {median[0]:8.3f} {statistics.median(times):6.2f} "
            f"{f'{min(times):.2f}-{max(times):.2f}':>12} {median[1] / 1e6:9,.0f} "
            f"{statistics.median(memory):6.2f} {median[2]:9.5f}"
        )
    print()


if __name__ == "__main__":
    main()
