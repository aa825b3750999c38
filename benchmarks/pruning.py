"""Curves over pruned heads, against one narrowed head after the other.

    python benchmarks/pruning.py [--positions 170] [--vocabulary 49152] [--width 576]

A random head, random states, 80 pruned heads (five ways of choosing, eight shares, what is removed
left at zero or at its mean). Plain: of every pruned head the logits of all positions by a product
with the narrowed embedding, two log-softmaxes, and KL, JS, the rise of the target's nats and the
likeliest token from them, in float32. lmlab: `compare_heads`. One thread; seconds are the
processor's, without what is made once (the products of a way, which the plain form also needs).

Printed: positions a second of both, their ratio, the largest difference of the KL, and what part of
lmlab's time any form must pay that takes one product, one exponential and one logarithm of each
logit with this torch.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=170)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--width", type=int, default=576)
    options = parser.parse_args()

    import numpy as np
    import torch

    from lmlab.numerics.random_effects import Clusters
    from lmlab.topics.encoding.of_model import Head
    from lmlab.topics.encoding.pruning import (
        Removal,
        axes_order,
        compare_heads,
        narrowed,
        singular_order,
    )

    torch.set_num_threads(1)
    positions, vocabulary, width = options.positions, options.vocabulary, options.width
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(vocabulary, width)) * 0.05, None, False)
    hidden_ND = (rng.normal(size=(2 * positions, width)) * 2).astype(np.float32)
    targets_N = rng.integers(0, vocabulary, 2 * positions)
    ways = ("encoding", "variance", "hidden", "random")
    orders = [axes_order(way, rng.permutation(width)) for way in ways]
    orders.append(singular_order(head.embedding_VD))
    shares = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    removals = [
        Removal(order, round(share * width), how)
        for order in orders
        for how in ("mean", "zero")
        for share in shares
    ]
    mean_D = hidden_ND.mean(0).astype(np.float64)

    def seconds(run: Callable[[], object]) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    def own(count: int) -> list[float]:
        clusters = Clusters(np.arange(count) // 4)
        points = compare_heads(
            hidden_ND[:count].astype(np.float64),
            targets_N[:count],
            clusters,
            head,
            removals,
            mean_D,
        )
        return [point.kl.estimate for point in points]

    plain_positions = max(1, positions // 8)
    states = torch.from_numpy(hidden_ND[:plain_positions])
    targets = torch.from_numpy(targets_N[:plain_positions])
    log_p = (states @ torch.from_numpy(head.embedding_VD).float().T).log_softmax(1)

    def plain(removal: Removal) -> tuple[float, float]:
        """Seconds without the making of the narrow head, and the KL."""
        narrow = narrowed(removal, head, mean_D)
        basis_DE, weight_VE, bias_V = (
            torch.from_numpy(np.ascontiguousarray(each)).float()
            for each in (narrow.basis_DE, narrow.weight_VE, narrow.bias_V)
        )
        start = time.process_time()
        log_q = (states @ basis_DE @ weight_VE.T + bias_V).log_softmax(1)
        p, q = log_p.exp(), log_q.exp()
        log_m = ((p + q) / 2).log()
        kl = (p * (log_p - log_q)).sum(1)
        js = 0.5 * ((p * (log_p - log_m)).sum(1) + (q * (log_q - log_m)).sum(1))
        rise = (log_p - log_q).gather(1, targets[:, None])
        same = log_p.argmax(1) == log_q.argmax(1)
        taken = time.process_time() - start
        assert len(js) == len(rise) == len(same)
        return taken, float(kl.double().mean())

    plain_by_head = [plain(removal) for removal in removals]
    plain_speed = plain_positions / sum(taken for taken, _ in plain_by_head)
    kl_own = own(plain_positions)
    apart = max(abs(a - b) for a, (_, b) in zip(kl_own, plain_by_head, strict=True))
    speed = positions / (seconds(lambda: own(2 * positions)) - seconds(lambda: own(positions)))

    logits = torch.randn(4, vocabulary)
    positive = logits.exp()
    rows = torch.randn(84, width)
    weight_DV = torch.randn(width, vocabulary)

    def fastest(run: Callable[[], object], count: int) -> float:
        run()
        return min(seconds(run) for _ in range(5)) / count

    least = (
        fastest(lambda: torch.exp(logits, out=torch.empty_like(logits)), 4)
        + fastest(lambda: torch.log(positive, out=torch.empty_like(logits)), 4)
    ) * len(removals) + fastest(lambda: rows @ weight_DV, 84) * len(orders)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(removals)} pruned heads of {vocabulary} x {width}, one thread: plain "
        f"{plain_speed:.2f} positions a second, lmlab {speed:.1f}, "
        f"{speed / plain_speed:.1f} times as fast; KL at most {apart:.1e} apart (largest KL "
        f"{max(kl_own):.2f})"
    )
    print(
        f"one product, exponential and logarithm of each logit: {least * speed:.2f} of lmlab's "
        f"time, so at most {1 / (least * plain_speed):.1f} times as fast as plain; peak memory of "
        f"the process {memory:.1f} GB"
    )
    assert math.isfinite(apart)


if __name__ == "__main__":
    main()
