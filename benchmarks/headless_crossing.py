"""Who leads at how many tokens: headless training, or cross-entropy with the same prior?

    python benchmarks/headless_crossing.py --store STORE --lab lab [--seeds 3] [--steps 1000]
    python benchmarks/headless_crossing.py --store STORE --lab lab --longer 2000   # goes on

Qwen3 of 2 layers and width 64, windows of 128 tokens, 2,048 tokens a step. Three arms: `headless`
(candidates: the targets of the batch), and cross-entropy with the log-unigram prior, `tied` and
`untied`. The rate is constant after 50 steps of warm-up, so that one run gives a point at each of
its checkpoints. Each arm has the rate with which a run of 125 steps ends at the least validation
loss; that run has a seed of its own, which is not reported. The held-out text is the test split.

Runs and scores are kept in the lab folder: stopped, it goes on with the same command. Differences
are headless less the other arm in nats per token, paired by seed and text, with intervals over
seeds and documents; beside them, how much each has changed since the first point. They go to
`crossing-TYPES.csv` in the lab folder, and those of all vocabularies there, with p by Holm over
all, to `crossing.csv`.

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

import lmlab  # before torch
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig, ScheduleConfig
from lmlab.data.store import TokenStore
from lmlab.durable import from_json, to_json
from lmlab.lm.language_model import open_model
from lmlab.numerics.random_effects import Clusters, Interval, two_way_ratio
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.progress import say
from lmlab.run_folders.checkpoint import checkpoint_folder
from lmlab.studies.finished_runs import validations
from lmlab.studies.run_requests import placed, text_request
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train
from lmlab.training.setup import ResolvedRun

CONTEXT, BATCH_TOKENS, EVERY, WARMUP, WINDOWS = 128, 2048, 125, 50, 600
POINTS = (125, 250, 500, 1000, 2000)
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


def scored(run: Path, store: TokenStore, step: int) -> Sums:
    """Sums at a checkpoint, kept beside the run."""
    file = run / f"test-{step}.json"
    if not file.exists():
        lm = open_model(checkpoint_folder(run, step))
        result = score(lm, store, split="test", context=CONTEXT, max_windows=WINDOWS)
        # sections of a novel are one unit
        units = Clusters(result.clusters.unit_N)
        nats_D, tokens_D = units.sums(np.stack([result.nats_M, result.tokens_M]))
        file.write_text(to_json({"nats": nats_D.tolist(), "tokens": tokens_D.tolist()}))
    kept = from_json(file.read_bytes())
    return Sums(tuple(kept["nats"]), tuple(kept["tokens"]))


def differences(first: list[Sums], second: list[Sums]) -> np.ndarray:
    """Nats of the first less those of the second, by seed and document."""
    return np.array([a.nats_D for a in first]) - np.array([b.nats_D for b in second])


def rows_of(
    vocabulary: int, rates: dict[str, float], sums: dict[tuple[str, int], list[Sums]]
) -> list[dict[str, Any]]:
    """A row for each arm and step: its nats per token, headless less it, and how much that has
    changed since the first step."""
    rows = []
    first = min(step for _, step in sums)
    for (arm, step), of_seed in sums.items():
        tokens_SD = np.array([s.tokens_D for s in of_seed])
        row: dict[str, Any] = {
            "vocabulary": vocabulary, "tokens": step * BATCH_TOKENS, "arm": arm,
            "rate": rates[arm],
            "nats": np.sum([s.nats_D for s in of_seed]) / tokens_SD.sum(),
            "tokens of the text": int(tokens_SD[0].sum()),
        }  # fmt: skip
        if arm != HEADLESS:
            nats_SD = differences(sums[HEADLESS, step], of_seed)
            found = two_way_ratio(nats_SD, tokens_SD)
            row |= _ends("headless less it", found)
            row |= {"p": Evidence.of(found).p_value, "seeds": found.seeds}
            row["documents"] = found.documents
            if step > first:
                before_SD = differences(sums[HEADLESS, first], sums[arm, first])
                row |= _ends("change", two_way_ratio(nats_SD - before_SD, tokens_SD))
        rows.append(row)
    return rows


def _ends(name: str, found: Interval) -> dict[str, Any]:
    return {name: found.estimate, f"{name} low": found.low, f"{name} high": found.high}


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, list(names))
        table.writeheader()
        table.writerows(rows)


def family(lab: Path) -> list[dict[str, Any]]:
    """The differences of all vocabularies in the lab folder, with p by Holm over all."""
    rows = []
    for file in sorted(lab.glob("crossing-*.csv"), key=lambda f: int(f.stem.split("-")[1])):
        with file.open(newline="", encoding="utf-8") as opened:
            rows += [row for row in csv.DictReader(opened) if row["arm"] != HEADLESS]
    adjusted = holm([float(row["p"]) for row in rows])
    return [row | {"p by Holm": p} for row, p in zip(rows, adjusted, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--longer", type=int, help="go on with the runs to so many steps in all")
    options = parser.parse_args()
    store, lab = TokenStore(options.store), options.lab
    rates: dict[str, float] = {}
    for arm in ARMS:
        rates[arm], ends = best_rate(store, lab, arm)
        say(f"{arm}: rate {rates[arm]:g} of {ends}")
    points = [step for step in POINTS if step <= (options.longer or options.steps)]
    sums: dict[tuple[str, int], list[Sums]] = {}
    for seed in range(options.seeds):
        for arm in ARMS:
            run = request(store, lab, arm, seed, rates[arm], options.steps)
            say(f"{store.vocabulary} types, {arm}, seed {seed}")
            train(run)
            longer = run.path
            if options.longer:
                longer = lmlab.lengthen(run.path, steps=options.longer).path
            for step in points:
                path = run.path if step <= options.steps else longer
                sums.setdefault((arm, step), []).append(scored(path, store, step))
    write(lab / f"crossing-{store.vocabulary}.csv", rows_of(store.vocabulary, rates, sums))
    rows = family(lab)
    write(lab / "crossing.csv", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
