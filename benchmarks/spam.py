"""One symbol repeated (`spam:V:16`): how fast is the rule learnt, and what passes the head?

    python benchmarks/spam.py --lab lab --symbols 10000 --seeds 0 1 2 [--arms tied headless]

Qwen3 of 2 layers and width 64, windows of 16 tokens, 1 million tokens in steps of 2,048, AdamW at
2e-3 for all arms. Of every run, at checkpoints: excess over the floor ln V / 16 on 2,048 held-out
strings (interval over strings), and the share of the squared gradient in the logits that the states
can use. Rows go to `spam.csv` in the lab folder, run by run; what is there is not made again. At
the end it prints what headless has less than either other arm after the last step, over seeds and
strings.

Legend: S seeds, C strings.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import lmlab  # noqa: F401 - before torch
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig
from lmlab.lm.language_model import open_model
from lmlab.numerics.random_effects import two_way_interval
from lmlab.progress import say
from lmlab.run_folders.checkpoint import checkpoint_step, checkpoints
from lmlab.studies.corpora import open_corpus
from lmlab.studies.run_requests import placed, text_request
from lmlab.topics.bottleneck.bottleneck import Bottleneck, bottleneck
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train

LENGTH, TOKENS, RATE, WINDOWS = 16, 1_000_000, 2e-3, 256
ARMS: dict[str, dict[str, Any]] = {"untied": {}, "tied": {}, "headless": {"objective": "headless"}}
HEADER = ["row", "seed", "step", "excess, nats per token", "low", "high", "loss trained with",
          "logits a position", "% of the squared gradient kept by the states",
          "% at random"]  # fmt: skip


def rows(
    lab: Path, symbols: int, arm: str, seed: int, steps: Sequence[int] | None
) -> list[list[str]]:
    """Trains a run, and measures it at each checkpoint; the gradient at these `steps` alone."""
    corpus = open_corpus(f"spam:{symbols}:{LENGTH}", lab=lab, vocabulary=symbols, tokens=TOKENS)
    known = corpus.known
    assert known is not None
    study = HeadlessStudyConfig(context=LENGTH, tokens=TOKENS, learning_rate=RATE, lab=lab)
    model = ModelConfig(layers=2, heads=2, width=64, tied=arm != "untied")
    config = text_request(study, corpus.store, model=model, seed=seed, threads=1, **ARMS[arm])
    run = placed(replace(config, checkpoints=CheckpointConfig(logarithmic=True)), corpus.store, lab)
    trained = train(run)
    found: list[list[str]] = []
    for path in checkpoints(run.path):
        lm = open_model(path)
        nats = score(lm, corpus.store, split="test", context=LENGTH)
        interval = nats.clusters.ratio(nats.nats_M, nats.tokens_M)
        if path == trained.checkpoint:
            nats_C, tokens_C = nats.clusters.sums(np.stack([nats.nats_M, nats.tokens_M]))
            np.save(strings_file(lab, symbols, arm, seed), nats_C / tokens_C)
        ends = interval.bounds or (float("nan"), float("nan"))
        excess = (interval.estimate, *ends)
        row = [f"{symbols:,}, {arm}", str(seed), str(checkpoint_step(path))]
        row += [f"{value - known.floor:.4f}" for value in excess]
        if steps is None or checkpoint_step(path) in steps:
            row += kept_of(bottleneck([lm], corpus.store, context=LENGTH, max_windows=WINDOWS))
        else:
            row += [""] * 4
        found.append(row)
    return found


def kept_of(result: Bottleneck) -> list[str]:
    """The loss, its logits a position, and what of its gradient is kept, in percent."""
    gradient = result.gradients[0]
    shares = (gradient.states.estimate, gradient.random_states)
    return [gradient.loss, str(gradient.columns), *(f"{100 * share:.2f}" for share in shares)]


def strings_file(lab: Path, symbols: int, arm: str, seed: int) -> Path:
    """Nats per token of each held-out string, after the last step."""
    return lab / f"strings-{symbols}-{arm}-{seed}.npy"


def report(lab: Path, symbols: int, seeds: Sequence[int]) -> None:
    """Prints the differences from headless, over the seeds that both arms have."""
    for arm in ("untied", "tied"):
        files = [[strings_file(lab, symbols, a, seed) for a in ("headless", arm)] for seed in seeds]
        there = [pair for pair in files if all(file.exists() for file in pair)]
        if there:
            nats_SC = np.array([np.load(first) - np.load(second) for first, second in there])
            print(
                f"{symbols:,}, headless less {arm}: {nats_SC.mean(1)} {two_way_interval(nats_SC)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--symbols", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--gradient", type=int, nargs="+", help="at these steps (default: all)")
    options = parser.parse_args()
    options.lab.mkdir(parents=True, exist_ok=True)
    file = options.lab / "spam.csv"
    done: set[tuple[str, str]] = set()
    if file.exists():
        with file.open(newline="") as there:
            done = {(row["row"], row["seed"]) for row in csv.DictReader(there)}
    else:
        file.write_text(",".join(f'"{name}"' if "," in name else name for name in HEADER) + "\n")
    for seed in options.seeds:
        for symbols in options.symbols:
            for arm in options.arms:
                if (f"{symbols:,}, {arm}", str(seed)) in done:
                    continue
                say(f"{symbols:,} symbols, {arm}, seed {seed}")
                with file.open("a", newline="") as out:
                    csv.writer(out).writerows(
                        rows(options.lab, symbols, arm, seed, options.gradient)
                    )
    for symbols in options.symbols:
        report(options.lab, symbols, options.seeds)


if __name__ == "__main__":
    main()
