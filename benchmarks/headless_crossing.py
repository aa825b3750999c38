"""Who leads at how many tokens: headless training, or cross-entropy with the same prior?

    python benchmarks/headless_crossing.py --store STORE --lab lab [--seeds 3] [--steps 1000]

Qwen3 of 2 layers and width 64, windows of 128 tokens, 2,048 tokens a step. Three arms: `headless`
(candidates: the targets of the batch), and cross-entropy with the log-unigram prior, `tied` and
`untied`. The rate is constant after 50 steps of warm-up, so that one run gives a point at each of
its checkpoints. Each arm has the rate with which a run of 125 steps ends at the least validation
loss; that run has a seed of its own, which is not reported. The held-out text is the test split.

Runs and scores are kept in the lab folder: stopped, it goes on with the same command. Differences
are headless less the other arm in nats per token, paired by seed and text, with intervals over
seeds and documents. They go to `crossing.csv` in the lab folder.

Legend: S seeds, D documents.
"""

from __future__ import annotations

import argparse
import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import lmlab  # noqa: F401 - before torch
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig, ScheduleConfig
from lmlab.data.store import TokenStore
from lmlab.durable import from_json, to_json
from lmlab.lm.language_model import open_model
from lmlab.numerics.random_effects import Clusters, Interval, two_way_ratio
from lmlab.numerics.verdicts import Evidence
from lmlab.progress import say
from lmlab.run_folders.checkpoint import checkpoint_folder
from lmlab.studies.finished_runs import validations
from lmlab.studies.run_requests import placed, text_request
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train
from lmlab.training.setup import ResolvedRun

CONTEXT, BATCH_TOKENS, EVERY, WARMUP, WINDOWS = 128, 2048, 125, 50, 600
RATES = (2e-3, 4e-3, 8e-3, 16e-3)
TUNING_SEED = 1000
HEADLESS = "headless"
ARMS: dict[str, dict[str, Any]] = {
    HEADLESS: {"objective": "headless"},
    "tied": {"output_bias": "fixed"},
    "untied": {"output_bias": "fixed"},
}


@dataclass(frozen=True)
class Sums:
    """Nats and tokens of each document of the test split."""

    nats_D: tuple[float, ...]
    tokens_D: tuple[float, ...]


def request(
    store: TokenStore, lab: Path, arm: str, seed: int, rate: float, steps: int
) -> ResolvedRun:
    """The run of an arm, without a decay of its rate."""
    study = HeadlessStudyConfig(
        context=CONTEXT, tokens=steps * BATCH_TOKENS, batch_tokens=BATCH_TOKENS, lab=lab
    )
    # fresh blocks alike in all arms: left to itself, an untied model alone starts them at zero
    model = ModelConfig(layers=2, heads=2, width=64, tied=arm != "untied", zero_init=False)
    config = text_request(
        study, store, learning_rate=rate, model=model, seed=seed, evaluate_every=EVERY,
        device="cpu", threads=1, **ARMS[arm],
    )  # fmt: skip
    schedule = ScheduleConfig("constant", warmup=WARMUP / steps)
    config = replace(config, schedule=schedule, checkpoints=CheckpointConfig(every=EVERY))
    return placed(config, store, lab)


def best_rate(store: TokenStore, lab: Path, arm: str) -> tuple[float, dict[float, float]]:
    """The rate of the short run that ends best on validation text, and what each ends at."""
    ends: dict[float, float] = {}
    for rate in RATES:
        run = request(store, lab, arm, TUNING_SEED, rate, EVERY)
        train(run)
        ends[rate] = validations(run.path)[-1].nats_per_token
    return min(ends, key=lambda each: ends[each]), ends


def scored(run: ResolvedRun, store: TokenStore, step: int) -> Sums:
    """Sums at a checkpoint, kept beside the run."""
    file = run.path / f"test-{step}.json"
    if not file.exists():
        lm = open_model(checkpoint_folder(run.path, step))
        result = score(lm, store, split="test", context=CONTEXT, max_windows=WINDOWS)
        # sections of a novel are one unit
        units = Clusters(result.clusters.unit_N)
        nats_D, tokens_D = units.sums(np.stack([result.nats_M, result.tokens_M]))
        file.write_text(to_json({"nats": nats_D.tolist(), "tokens": tokens_D.tolist()}))
    kept = from_json(file.read_bytes())
    return Sums(tuple(kept["nats"]), tuple(kept["tokens"]))


def difference(first: list[Sums], second: list[Sums]) -> Interval:
    """Nats per token of the first less the second, over seeds and documents."""
    nats_SD = np.array([a.nats_D for a in first]) - np.array([b.nats_D for b in second])
    return two_way_ratio(nats_SD, np.array([a.tokens_D for a in first]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    store, lab = TokenStore(options.store), options.lab
    rates: dict[str, float] = {}
    for arm in ARMS:
        rates[arm], ends = best_rate(store, lab, arm)
        say(f"{arm}: rate {rates[arm]:g} of {ends}")
    points = [step for step in (125, 250, 500, 1000) if step <= options.steps]
    sums: dict[tuple[str, int], list[Sums]] = {}
    for seed in range(options.seeds):
        for arm in ARMS:
            run = request(store, lab, arm, seed, rates[arm], options.steps)
            say(f"{store.vocabulary} types, {arm}, seed {seed}")
            train(run)
            for step in points:
                sums.setdefault((arm, step), []).append(scored(run, store, step))
    with (lab / f"crossing-{store.vocabulary}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["vocabulary", "tokens", "arm", "rate", "nats", "headless less it", "low",
                        "high", "p", "seeds", "documents"])  # fmt: skip
        for (arm, step), of_seed in sums.items():
            nats = np.sum([s.nats_D for s in of_seed]) / np.sum([s.tokens_D for s in of_seed])
            row: list[Any] = [store.vocabulary, step * BATCH_TOKENS, arm, rates[arm], nats]
            if arm != HEADLESS:
                found = difference(sums[HEADLESS, step], of_seed)
                p_value = Evidence.of(found).p_value
                row += [found.estimate, found.low, found.high, p_value, found.seeds]
                row.append(found.documents)
            table.writerow(row)
            print(row)


if __name__ == "__main__":
    main()
