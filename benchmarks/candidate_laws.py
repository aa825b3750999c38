"""Bias, variance and cost of the laws of a headless loss's candidates.

    python benchmarks/candidate_laws.py [--windows 2 4 8 16 32] [--seeds 3] [--steps 2500]
    python benchmarks/candidate_laws.py --cost [--rounds 5]

The toy of tests/candidate_toy.py: text of 12 topics of 40 types, windows of 64 tokens, a model that
knows the topic. Bias is the excess over the floor, in nats a token, that is left when training has
ended and its noise is averaged out (mean over seeds). Noise is the variance of a micro-batch's
gradient (summed over all scores, at the scores that are right) as a multiple of that of
cross-entropy with the prior on the same windows. Theory: the excess of log p - log q.

`--cost` times forward and backward of the loss for 8,192 targets at width 256 with a vocabulary of
32,768, one thread, targets and draws by Zipf's law; rounds alternate the forms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import lmlab  # noqa: F401 - before torch
from lmlab.objectives.candidates import (
    Candidates,
    mixture,
    other_windows,
    pool,
    pool_and_own,
    unigram_draws,
)
from lmlab.objectives.contrastive import sum_over_candidates
from lmlab.objectives.cross_entropy import linear_cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from candidate_toy import (  # pyright: ignore[reportMissingImports]
    TOKENS,
    TOPICS,
    VOCABULARY,
    Toy,
)

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


def forms(log_unigram_V: torch.Tensor) -> dict[str, Loss]:
    """The laws by name, as losses of (hidden, embedding, targets, key)."""

    def contrastive(law: Callable[[torch.Tensor, torch.Tensor, int], Candidates]) -> Loss:
        def loss(
            hidden: torch.Tensor, embedding: torch.Tensor, targets: torch.Tensor, key: int
        ) -> torch.Tensor:
            window_K = torch.arange(len(targets)) // TOKENS
            made = law(targets, window_K, key)
            return sum_over_candidates(hidden, embedding, made) / len(targets)

        return loss

    def draws(count: int) -> Loss:
        return contrastive(
            lambda t, _, key: pool_and_own(t, unigram_draws(log_unigram_V, count, key=key))
        )

    return {
        "cross-entropy, prior": lambda h, e, t, _: linear_cross_entropy(
            h, e, t, bias_V=log_unigram_V
        ),
        "batch": contrastive(lambda t, *_: pool(t, t)),
        "other-windows": contrastive(lambda t, w, _: other_windows(t, w, t)),
        "unigram, 16 draws": draws(16),
        "unigram, 128 draws": draws(128),
        "unigram, 2,048 draws": draws(2048),
        "mixture, 128 draws": contrastive(
            lambda t, w, key: mixture(
                t, w, t, unigram_draws(log_unigram_V, 128, key=key), log_unigram_V
            )
        ),
        "mixture, 2,048 draws": contrastive(
            lambda t, w, key: mixture(
                t, w, t, unigram_draws(log_unigram_V, 2048, key=key), log_unigram_V
            )
        ),
    }


def gradient_noise(toy: Toy, loss: Loss, windows: int, *, batches: int = 400) -> float:
    """Variance of a micro-batch's gradient at log p - log unigram, summed over all scores."""
    generator = torch.Generator().manual_seed(1)
    identity_VV = torch.eye(VOCABULARY, dtype=torch.float64)
    gradients = []
    for key in range(batches):
        scores_ZV = (toy.p_ZV.log() - toy.unigram_V.log()).requires_grad_()
        topic_W = torch.randint(TOPICS, (windows,), generator=generator)
        targets_WT = torch.multinomial(
            toy.p_ZV[topic_W], TOKENS, replacement=True, generator=generator
        )
        hidden = scores_ZV[topic_W.repeat_interleave(TOKENS)]
        loss(hidden, identity_VV, targets_WT.reshape(-1), key).backward()
        assert scores_ZV.grad is not None
        gradients.append(scores_ZV.grad)
    return float(torch.stack(gradients).var(0).sum())


def laws(windows: list[int], seeds: int, steps: int) -> None:
    """The table of bias and noise."""
    toy = Toy()
    losses = forms(toy.unigram_V.log())
    print("| law | " + " | ".join(f"{w} windows" for w in windows) + " |")
    print("|---|" + "---|" * len(windows))
    print("| theory, batch | " + " | ".join(f"{toy.theory(w):.4f}" for w in windows) + " |")
    noise = {w: gradient_noise(toy, losses["cross-entropy, prior"], w) for w in windows}
    for name, loss in losses.items():
        cells = []
        for w in windows:
            made = [toy.trained(loss, w, steps=steps, seed=seed) for seed in range(seeds)]
            ratio = gradient_noise(toy, loss, w) / noise[w]
            cells.append(f"{statistics.mean(made):.4f}, {ratio:.2f} x")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def cost(rounds: int) -> None:
    """The table of seconds."""
    targets, vocabulary, width, window = 8192, 32768, 256, 256
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prior_V = -torch.arange(1, vocabulary + 1).double().log()
    prior_V = (prior_V - prior_V.logsumexp(0)).float()
    ids = unigram_draws(prior_V, targets, key=1)
    window_K = torch.arange(targets) // window
    hidden = torch.randn(targets, width, requires_grad=True)
    embedding = (torch.randn(vocabulary, width) * 0.02).requires_grad_()

    def drawn(times: int, key: int) -> torch.Tensor:
        return unigram_draws(prior_V, times * targets, key=key)

    made: dict[str, Callable[[int], Candidates]] = {
        "batch (K targets)": lambda _: pool(ids, ids),
        "other-windows": lambda _: other_windows(ids, window_K, ids),
        **{
            f"unigram, {m}K draws": lambda key, m=m: pool_and_own(ids, drawn(m, key))
            for m in (1, 2, 4, 8)
        },
        "mixture, K draws": lambda key: mixture(ids, window_K, ids, drawn(1, key), prior_V),
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*made, "cross-entropy"]}
    distinct: dict[str, int] = {"cross-entropy": vocabulary}
    for key in range(rounds + 1):
        for name in seconds:
            hidden.grad = embedding.grad = None
            start = time.perf_counter()
            if name == "cross-entropy":
                loss = linear_cross_entropy(hidden, embedding, ids, bias_V=prior_V)
            else:
                candidates = made[name](key)
                loss = sum_over_candidates(hidden, embedding, candidates) / targets
                distinct[name] = len(candidates.ids_U)
            loss.backward()
            if key:
                seconds[name].append(time.perf_counter() - start)
    first = statistics.median(seconds["batch (K targets)"])
    print("| law | distinct candidates | seconds | times batch |\n|---|---|---|---|")
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"| {name} | {distinct[name]:,} | {middle:.3f} | {middle / first:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cost:
        cost(options.rounds)
    else:
        laws(options.windows, options.seeds, options.steps)


if __name__ == "__main__":
    main()
