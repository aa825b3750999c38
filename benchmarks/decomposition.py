"""All leave-one-out fits and all pairs of 12 models from one pass, against one fit at a time.

    python benchmarks/decomposition.py [--rows 128000] [--models 12] [--width 768] [--threads 1]
        [--fraction 16384]

Ours: rows stream in shards into a `Scatter` (float32 products), then `leave_one_out` and
`pairwise`. Reference: for each of the 144 fits, as published: features joined, centred, cov(z, z)
and cov(z, u) in float32, one solve. It is measured on a fraction of the rows, one leave-one-out fit
and one pair, covariance and solve apart; the covariance is scaled by its exact FLOPs, which are
2 n Z (Z + U), to all rows and fits, the solve taken once a fit. Its R2 needs
one more product with all rows, which ours does not: the time is given without and with that.

Rows are synthesised from a common hidden vector and noise; that takes no part in either time.
Ratios are of CPU time (which other work on the machine disturbs least) and of the clock. The
reference is measured before and after ours, and the mean taken.

Printed too, on the fraction: how far our R2 is from the reference's, whose residuals are computed
row by row, and how far the weights of both are from those of float64 products; and the peak memory
of ours, which runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

SHARD = 4096
HIDDEN = 64
RIDGE = 1e-6


class Clock:
    """CPU seconds and seconds of the clock, added up over `call`s."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        made = function(*arguments, **options)
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall
        return made

    def pair(self) -> list[float]:
        return [self.cpu, self.wall]


def shards(rows: int, models: int, width: int) -> Iterator[dict[str, Any]]:
    """Features (float32) of `rows` rows, the same for every call."""
    import torch

    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(HIDDEN, width, generator=generator) for _ in range(models)]
    for start in range(0, rows, SHARD):
        count = min(SHARD, rows - start)
        hidden = torch.randn(count, HIDDEN, generator=generator) / HIDDEN**0.5
        yield {
            f"m{i}": hidden @ maps[i] + 0.5 * torch.randn(count, width, generator=generator) + 0.1
            for i in range(models)
        }


def ours(rows: int, models: int, width: int) -> dict[str, Any]:
    from lmlab.numerics.scatter import Scatter
    from lmlab.topics.decomposition.decomposition import leave_one_out
    from lmlab.topics.decomposition.shares import pairwise

    scatter = Scatter(products="float32")
    streaming, solving = Clock(), Clock()
    for shard in shards(rows, models, width):
        streaming.call(scatter.update, shard)
    streaming.call(scatter.mean)  # folds the last block
    fits = solving.call(leave_one_out, scatter, ridge=RIDGE)
    pairs = solving.call(pairwise, scatter, ridge=RIDGE)
    return {
        "streaming": streaming.pair(),
        "solving": solving.pair(),
        "leave_one_out": sum(fit.r2_train for fit in fits.values()) / len(fits),
        "pairwise": pairs.mean,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def reference_fit(parts: list[Any], target: Any, clocks: tuple[Clock, Clock]) -> Any:
    """Weights (U, Z) as the published code makes them, in float32."""
    import torch

    def covariances() -> tuple[Any, Any]:
        z_NZ = torch.cat(parts, dim=1)
        z_NZ -= z_NZ.mean(0)
        u_NU = target - target.mean(0)
        return z_NZ.T @ z_NZ / len(z_NZ), z_NZ.T @ u_NU / len(z_NZ)

    def solve(zz_ZZ: Any, zu_ZU: Any) -> Any:
        zz_ZZ.diagonal().add_(RIDGE)
        return torch.linalg.solve(zz_ZZ, zu_ZU).T

    zz_ZZ, zu_ZU = clocks[0].call(covariances)
    return clocks[1].call(solve, zz_ZZ, zu_ZU)


def reference(options: argparse.Namespace, *, compare: bool) -> dict[str, Any]:
    """Seconds of covariance and solve on the fraction; with `compare` how far ours are from it."""
    import torch

    from lmlab.topics.decomposition.decomposition import decompose

    drawn = list(shards(options.fraction, options.models, options.width))
    features = {name: torch.cat([shard.pop(name) for shard in drawn]) for name in list(drawn[0])}
    target, *others = features
    made: dict[str, Any] = {}
    for kind, basis in (("leave_one_out", others), ("pair", others[:1])):
        clocks = Clock(), Clock()
        weights_UZ = reference_fit([features[name] for name in basis], features[target], clocks)
        made[kind] = [clock.pair() for clock in clocks]
        scoring = Clock()
        r2 = scoring.call(
            r2_by_rows, [features[name] for name in basis], features[target], weights_UZ
        )
        made[kind].append(scoring.pair())
        if not compare:
            continue
        fit, exact = (
            decompose(scattered(features, [target, *basis], products), target, basis, ridge=RIDGE)
            for products in ("float32", "float64")
        )
        made[f"{kind}_difference"] = [
            abs(r2 - fit.r2_train),
            distance(joined(fit), joined(exact)),
            distance(weights_UZ.numpy(), joined(exact)),
        ]
    return made


def r2_by_rows(parts: list[Any], target: Any, weights_UZ: Any) -> float:
    import torch

    z_NZ = torch.cat(parts, dim=1)
    z_NZ -= z_NZ.mean(0)
    u_NU = target - target.mean(0)
    residual_NU = u_NU - z_NZ @ weights_UZ.T
    return 1 - float(residual_NU.double().square().sum() / u_NU.double().square().sum())


def scattered(features: dict[str, Any], names: list[str], products: Any) -> Any:
    from lmlab.numerics.scatter import Scatter

    made = Scatter(products=products)
    made.update({name: features[name] for name in names})
    return made


def joined(fit: Any) -> Any:
    import numpy as np

    return np.concatenate(list(fit.weights.values()), axis=1)


def distance(a: Any, b: Any) -> float:
    """Largest difference of weights, relative to the largest weight."""
    return float(abs(a - b).max() / abs(b).max())


def scaled(
    measured: list[dict[str, Any]], options: argparse.Namespace, which: int
) -> tuple[float, float]:
    """Seconds of all fits by the reference, and of their R2: CPU (`which` 0) or clock (1)."""
    m = options.models
    fitting = scoring = 0.0
    more = options.rows / options.fraction
    for kind, fits in (("leave_one_out", m), ("pair", m * (m - 1))):
        covariance, solve, score = (
            sum(one[kind][part][which] for one in measured) / len(measured) for part in (0, 1, 2)
        )
        fitting += fits * (covariance * more + solve)
        scoring += fits * score * more
    return fitting, scoring


def options_of(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=128_000)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fraction", type=int, default=16_384, help="rows of the reference")
    parser.add_argument("--part", choices=["ours", "reference", "comparison"], help="in a process")
    return parser.parse_args(arguments)


def main() -> None:
    options = options_of(sys.argv[1:])
    if options.part:
        import lmlab  # noqa: F401 - before torch

        # isort: split
        import torch

        torch.set_num_threads(options.threads)
        if options.part == "ours":
            print(json.dumps(ours(options.rows, options.models, options.width)))
        else:
            print(json.dumps(reference(options, compare=options.part == "comparison")))
        return
    before = run("comparison")
    found = run("ours")
    measured = [before, run("reference")]
    print(f"{options.models} models of {options.width}, {options.rows:,} rows")
    for which, name in ((0, "CPU"), (1, "clock")):
        stream, solve = found["streaming"][which], found["solving"][which]
        fitting, scoring = scaled(measured, options, which)
        print(
            f"{name}: ours {stream:,.1f} s streaming + {solve:,.1f} s solving; reference "
            f"{fitting:,.0f} s, {fitting / (stream + solve):.1f} times; with its R2 "
            f"{fitting + scoring:,.0f} s, {(fitting + scoring) / (stream + solve):.1f} times"
        )
    for kind in ("leave_one_out", "pair"):
        r2, own, theirs = before[f"{kind}_difference"]
        print(
            f"{kind} on {options.fraction:,} rows: R2 differs by {r2:.1e}; weights from float64: "
            f"ours {own:.1e}, reference {theirs:.1e}"
        )
    print(
        f"mean R2 {found['leave_one_out']:.4f} leave-one-out, {found['pairwise']:.4f} pairs; peak "
        f"memory {found['peak_bytes'] / 2**30:.2f} GiB"
    )


def run(part: str) -> dict[str, Any]:
    """One part in a process of its own, with the same options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
    threads = str(options_of(sys.argv[1:]).threads)  # torch and LAPACK have one setting in common
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
