"""Peak memory and time of the cross-entropy, chunked against full logits, at a large vocabulary.

    python benchmarks/loss_memory.py [--vocabulary 50257] [--tokens 4096] [--width 256]

Each form runs forward and backward in a process of its own, under bfloat16 autocast; memory is the
growth of the process's peak over what it held before.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

FORMS = ("full", "chunked")


def measure(form: str, tokens: int, vocabulary: int, width: int, repeats: int) -> tuple[int, float]:
    """Bytes of extra peak memory, and median seconds of forward and backward."""
    import torch

    from lmlab.objectives.cross_entropy import linear_cross_entropy

    torch.manual_seed(0)
    hidden_ND = torch.randn(tokens, width, requires_grad=True)
    weight_VD = (torch.randn(vocabulary, width) * 0.02).requires_grad_()
    targets_N = torch.randint(0, vocabulary, (tokens,))
    torch.nn.functional.cross_entropy(hidden_ND[:8] @ weight_VD.T, targets_N[:8]).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: list[float] = []
    for _ in range(repeats):
        hidden_ND.grad = weight_VD.grad = None
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            if form == "full":
                loss = torch.nn.functional.cross_entropy(hidden_ND @ weight_VD.T, targets_N)
            else:
                loss = linear_cross_entropy(hidden_ND, weight_VD, targets_N)
        loss.backward()
        seconds.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) * 1024, statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=FORMS)
    options = parser.parse_args()
    sizes = (options.tokens, options.vocabulary, options.width, options.repeats)
    if options.one:
        print(*measure(options.one, *sizes))
        return
    found: dict[str, tuple[float, float]] = {}
    for form in FORMS:
        names = ("--tokens", "--vocabulary", "--width", "--repeats")
        more = [text for pair in zip(names, map(str, sizes), strict=True) for text in pair]
        command = [sys.executable, __file__, "--one", form, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory, seconds = done.stdout.split()[-2:]
        found[form] = (float(memory), float(seconds))
    print(f"{'form':10} {'extra peak MB':>14} {'seconds':>9}")
    for form, (memory, seconds) in found.items():
        print(f"{form:10} {memory / 1e6:14,.0f} {seconds:9.3f}")
    full, chunked = found["full"], found["chunked"]
    print(f"memory ratio {chunked[0] / full[0]:.3f}, time ratio {chunked[1] / full[1]:.2f}")


if __name__ == "__main__":
    main()
