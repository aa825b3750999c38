"""What the law of the candidates does on text: headless against cross-entropy, on tokens that stand
earlier in their window and on those that do not.

    python benchmarks/candidate_laws_text.py --text novels/ --lab lab [--seeds 4] [--tokens 500000
        4000000] [--arms ARM ...] [--learning-rate 8e-3] [--report]

GPT-2 of 2 layers and width 64 with 1,024 types (about 165,000 parameters), windows of 128 tokens,
2,048 tokens a step for every arm; a fifth of the text, by whole documents, is the test split. The
arms differ in the candidates alone (and the untied one in its head); all runs of a seed see the
same windows in the same order. `tied` and `untied` are cross-entropy with the log-unigram prior.

Runs and scores are kept in the lab folder: stopped, it goes on with the same command. `--report`
prints the table of the runs that are there; a row needs the same seeds of the arm and of `tied`.
Figures are the arm minus `tied`, in nats per token: of all tokens, of those repeated in their
window, of the others, and the difference of the latter two. Intervals are over seeds and documents
(of one seed: over documents alone).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import lmlab  # noqa: F401 - before torch
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig, prepare
from lmlab.data.splits import SplitConfig
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TokenizerConfig
from lmlab.numerics.random_effects import Clusters, Interval, two_way_interval, two_way_ratio
from lmlab.progress import say, track
from lmlab.run_folders.checkpoint import checkpoint_folder
from lmlab.studies.run_requests import text_run
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import ResolvedRun

CONTEXT, BATCH_TOKENS, WINDOWS = 128, 2048, 1000
REFERENCE = "tied"
ARMS: dict[str, dict[str, Any]] = {
    REFERENCE: {"output_bias": "fixed"},
    "untied": {"output_bias": "fixed"},
    "16 windows": {"objective": "headless"},
    "2 windows": {"objective": "headless", "micro_batch": 2},
    "16 windows, 256 of their targets": {
        "objective": "headless",
        "headless": HeadlessConfig(draws=256),
    },
    "256 unigram draws": {
        "objective": "headless",
        "headless": HeadlessConfig(candidates="unigram", draws=256),
    },
    "2,048 unigram draws": {
        "objective": "headless",
        "headless": HeadlessConfig(candidates="unigram", draws=2048),
    },
    "mixture with 2,048 draws": {
        "objective": "headless",
        "headless": HeadlessConfig(candidates="mixture", draws=2048),
    },
}


def request(
    store: TokenStore, lab: Path, arm: str, tokens: int, seed: int, rate: float
) -> ResolvedRun:
    """The run of an arm."""
    steps = max(1, round(tokens / BATCH_TOKENS))
    study = HeadlessStudyConfig(
        context=CONTEXT, tokens=tokens, batch_tokens=BATCH_TOKENS, learning_rate=rate, lab=lab
    )
    return text_run(
        study,
        store,
        model=ModelConfig(layers=2, heads=2, width=64, tied=arm != "untied"),
        seed=seed,
        evaluate_every=max(1, steps // 2),
        device="cpu",
        dtype="float32",
        threads=1,
        **ARMS[arm],
    )


def checkpoint_of(run: ResolvedRun) -> Path:
    return checkpoint_folder(run.path, run.config.steps)


def scored(resolved: ResolvedRun, store: TokenStore) -> Score:
    """The score of a finished run on the test split."""
    run = TrainedRun(resolved.path, resolved.identity, checkpoint_of(resolved))
    with track("scoring", float(WINDOWS * CONTEXT), "tokens") as bar:
        return cached_score(
            run, store, split="test", context=CONTEXT, max_windows=WINDOWS, order="forward", bar=bar
        )


def finished(run: ResolvedRun) -> bool:
    """Whether the run is there whole."""
    return (checkpoint_of(run) / "manifest.json").exists()


def differences(
    store: TokenStore, scores: Sequence[Score], reference: Sequence[Score]
) -> dict[str, Interval]:
    """Of all, repeated and new tokens, and of the latter two."""
    first = scores[0]
    units = Clusters(first.clusters.unit_N)

    def both(part: Any) -> tuple[np.ndarray, np.ndarray]:
        nats_SN = np.stack(
            [part(a)[0] - part(b)[0] for a, b in zip(scores, reference, strict=True)]
        )
        tokens_SN = np.broadcast_to(part(first)[1], nats_SN.shape)
        return units.sums(nats_SN), units.sums(tokens_SN)

    whole = both(lambda s: (s.nats_M, s.tokens_M))
    seen = both(lambda s: (s.repeated_nats_M, s.repeated_M))
    new = whole[0] - seen[0], whole[1] - seen[1]
    ratios = [n.sum() / t.sum() for n, t in (seen, new)]
    # the difference of two ratios, linearised as each of them is
    influence_SC = sum(
        sign * (n - r * t) / t.mean(0).sum() * t.shape[1]
        for sign, (n, t), r in zip((1, -1), (seen, new), ratios, strict=True)
    )
    return {
        "all": two_way_ratio(*whole),
        "repeated": two_way_ratio(*seen),
        "new": two_way_ratio(*new),
        "repeated - new": two_way_interval(ratios[0] - ratios[1] + influence_SC),
    }


def cell(interval: Interval) -> str:
    """`+0.012 [-0.003, +0.027]`."""
    text = f"{interval.estimate:+.4f}"
    if interval.low is None:
        return f"{text} (no interval)"
    return f"{text} [{interval.low:+.3f}, {interval.high:+.3f}]"


def report(store: TokenStore, options: argparse.Namespace) -> None:
    """Prints the table of the runs that are there."""
    with suppress(BrokenPipeError):
        for tokens in options.tokens:
            pairs = []
            print(f"\n{tokens:,} training tokens, learning rate {options.learning_rate:g}\n")
            print("| arm | seeds | nats | minus `tied` | on repeated | on new | repeated - new |")
            print("|---|---|---|---|---|---|---|")
            for arm in options.arms:
                pairs = [
                    [
                        request(store, options.lab, a, tokens, seed, options.learning_rate)
                        for a in (arm, REFERENCE)
                    ]
                    for seed in range(options.seeds)
                ]
                pairs = [pair for pair in pairs if all(map(finished, pair))]
                if not pairs:
                    continue
                scores, reference = ([scored(pair[i], store) for pair in pairs] for i in (0, 1))
                mean = np.mean([s.nats_per_token for s in scores])
                cells = (
                    [""] * 4
                    if arm == REFERENCE
                    else [cell(i) for i in differences(store, scores, reference).values()]
                )
                print(f"| {arm} | {len(pairs)} | {mean:.4f} | " + " | ".join(cells) + " |")
            if pairs:
                first = scored(pairs[0][1], store)
                documents = first.clusters.documents
                print(
                    f"\n{first.tokens:,} tokens of {documents} documents scored, "
                    f"{first.repeated_M.sum() / first.tokens:.0%} of them repeated"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--text", required=True)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--tokens", type=int, nargs="+", default=[500_000, 4_000_000])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS)[:-2])
    parser.add_argument("--learning-rate", type=float, default=8e-3)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    store = prepare(
        PrepareConfig(
            out=options.lab / "stores" / "candidate-laws",
            corpus=CorpusConfig(text=(options.text,)),
            tokenizer=TokenizerConfig(vocabulary=1024),
            split=SplitConfig(validation=0.05, test=0.2),
        )
    )
    if not options.report:
        for tokens in options.tokens:
            for seed in range(options.seeds):
                for arm in options.arms:
                    run = request(store, options.lab, arm, tokens, seed, options.learning_rate)
                    say(f"{arm}, {tokens:,} tokens, seed {seed}")
                    train(run)
                    scored(run, store)
    report(store, options)


if __name__ == "__main__":
    main()
