"""Time and memory of mean token probabilities at a large vocabulary, streamed against whole.

    python benchmarks/encoding.py [--rounds 5] [--widths 64 128 256] [--threads 1]

Whole: for batches of 8 windows of 128 positions, softmax of the full logits in float32, summed over
the batch; the mean over all. Streamed: `ProbabilitySums` in `topics.encoding.token_probability`;
it also keeps the moments of states and log Z. Both start at the same hidden states, vocabulary
50257, without the model's body, and with glibc's allocator as it comes. Each form runs in a process
of its own; rounds alternate the forms.

Printed: median seconds of the processor, not of the clock, since the machine may do other work (in
a round: the median over repeats, the first left out); peak memory above the inputs; how many times
faster and how much of the memory, median over rounds; and the largest relative difference of either
result to float64.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from heads import process_bytes

FORMS = ("whole", "streamed")
BATCH = 8 * 128


def measure(
    form: str, *, width: int, positions: int, vocabulary: int, threads: int, repeats: int, out: Path
) -> tuple[float, int]:
    """Median seconds, and bytes of peak memory above the inputs; writes the result to `out`."""
    import lmlab  # noqa: F401 - before torch

    # isort: split
    import numpy as np
    import torch
    from torch import nn

    from lmlab.models.backbone import LogitHead
    from lmlab.topics.encoding.token_probability import ProbabilitySums

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    head = LogitHead(nn.Linear(width, vocabulary, bias=False))
    with torch.no_grad():
        # logits of standard deviation 3: probabilities over many orders of magnitude
        head.layer.weight.copy_(torch.randn(vocabulary, width) * 3 / width**0.5)
    hidden_ND = torch.randn(positions, width)

    @torch.no_grad()
    def whole(hidden_ND: torch.Tensor) -> np.ndarray:
        total_V = torch.zeros(vocabulary)
        for hidden_BD in hidden_ND.split(BATCH):
            total_V += torch.softmax(hidden_BD @ head.weight_VD.T, dim=1).sum(0)
        return (total_V / len(hidden_ND)).numpy()

    def streamed(hidden_ND: torch.Tensor) -> np.ndarray:
        sums = ProbabilitySums(head)
        for hidden_BD in hidden_ND.split(BATCH):
            sums.add(hidden_BD)
        return sums.statistics().alpha_V

    run = {"whole": whole, "streamed": streamed}[form]
    run(hidden_ND[:16])  # what libraries allocate once
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = process_bytes("VmRSS")
    seconds: list[float] = []
    made = np.empty(0)
    for _ in range(repeats):
        start = time.process_time()
        made = run(hidden_ND)
        seconds.append(time.process_time() - start)
    peak = process_bytes("VmHWM") - before
    exact_V = np.zeros(vocabulary)
    for hidden_BD in hidden_ND.double().split(64):
        exact_V += torch.softmax(hidden_BD @ head.weight_VD.detach().double().T, 1).sum(0).numpy()
    exact_V /= positions
    out.write_text(str(float(np.abs(made / exact_V - 1).max())))
    return statistics.median(seconds[1:]), peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=4, help="in a round, at least 2")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=FORMS, help="measure one form in this process")
    parser.add_argument("--error-to", type=Path, help="where that process writes its error")
    options = parser.parse_args()
    if options.one:
        seconds, peak = measure(
            options.one, width=options.widths[0], positions=options.positions,
            vocabulary=options.vocabulary, threads=options.threads, repeats=options.repeats,
            out=options.error_to,
        )  # fmt: skip
        print("measured", seconds, peak)
        return
    print(
        f"{'width':>5} {'form':9} {'seconds':>8} {'ratio':>6} {'min-max':>12} {'extra MB':>9} "
        f"{'ratio':>6} {'largest relative error':>23}"
    )
    for width in options.widths:
        _show(width, *_alternate(width, options))


def _alternate(
    width: int, options: argparse.Namespace
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    found: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    errors: dict[str, float] = {}
    more = [text for name in ("positions", "vocabulary", "threads", "repeats")
            for text in (f"--{name}", str(getattr(options, name)))]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for form in FORMS:
                file = Path(folder) / form
                command = [sys.executable, __file__, "--one", form, "--error-to", str(file)]
                done = subprocess.run(
                    [*command, "--widths", str(width), *more],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                seconds, peak = done.stdout.split()[-2:]
                found[form].append((float(seconds), float(peak)))
                errors[form] = float(file.read_text())
    return found, errors


def _show(
    width: int, found: dict[str, list[tuple[float, float]]], errors: dict[str, float]
) -> None:
    base = found["whole"]
    for form, rounds in found.items():
        times = [b[0] / a[0] for a, b in zip(rounds, base, strict=True)]
        memory = [a[1] / b[1] for a, b in zip(rounds, base, strict=True)]
        seconds, peak = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{width:5} {form:9} {seconds:8.3f} {statistics.median(times):6.2f} "
            f"{f'{min(times):.2f}-{max(times):.2f}':>12} {peak / 1e6:9,.0f} "
            f"{statistics.median(memory):6.3f} {errors[form]:23.1e}"
        )


if __name__ == "__main__":
    main()
