"""Do cooperating towers divide their work beyond towers with separate losses, in three kinds alike?

    python benchmarks/towers_kinds.py --store STORE --lab lab [--kinds causal masked recurrent]
        [--seeds 5] [--tokens 200000] [--masked-tokens 500000] [--measure] [--out FOLDER]

Kinds of towers: qwen3 (causal), BERT or ModernBERT (masked), and one LSTM forward with one backward
(recurrent, cloze); 2 layers of 64 each. A masked model of this size may stay at the frequencies of
its words, so the masked one is the first of `MASKED` that leaves them in a run with a seed of its
own; where none does, no masked towers are compared.

It trains cooperating towers and the same towers with separate losses (the null N3), seed by seed,
and probes all alike. Runs, probes and sums are those of `lmlab study towers` with the same options,
in the same lab folder, so that study goes on from here (it adds independent towers, the hard
minimum and second probes), and so does this script when it was stopped. `--measure` trains nothing
and reads what is there.

What divides is measured in nats, by probes, on the test split. Each measure is a standard deviation
of the difference of both towers' losses between kinds of token, without the variance of noise
(covariance of halves of the documents), the square root with the sign of the variance:

- token: between types, adjusted for difficulty and frequency (the spread of the study);
- frequency: between tenths of the text by frequency;
- class: between classes of token, beyond what goes with octaves of frequency;
- position: between eighths of the window.

Cooperating less separate has an interval over seeds (Welch) and documents (delete one group), whose
variances are added. p of tokens is that of an exact permutation of runs, two-sided; Holm over the
kinds. p of the other measures is that of the interval; Holm over all of them. Kinds that were not
run count as p of 1. It prints the table and writes `towers-kinds.csv` and `towers-kinds-runs.csv`.

Legend: G groups of documents, V types, X kinds of token, R splits, N runs, C classes.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

import lmlab  # noqa: F401 - before torch
from lmlab.config.model import ModelConfig
from lmlab.data.store import TokenStore
from lmlab.data.unigram import token_counts
from lmlab.numerics.frequency import occurrence_deciles, octaves
from lmlab.numerics.preference import (
    Halves,
    exact_permutation,
    random_halves,
    reliability,
    split_means,
)
from lmlab.numerics.random_effects import sum_degrees_of_freedom
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.progress import say, track
from lmlab.studies.finished_runs import final_validation, is_there
from lmlab.studies.learning_rates import CHOOSING_SEED
from lmlab.studies.run_requests import placed
from lmlab.topics.towers.arms import COOPERATIVE, SEPARATE, arms, cached_sums, probes, request
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.preference import SPLITS, Vocabulary, halves_of, preference
from lmlab.topics.towers.preference_sums import JOINT, TOWER_1, TOWER_2, PreferenceSums
from lmlab.training.loop import train

CONTEXT, BATCH_TOKENS, WINDOWS = 128, 1024, 400
KINDS = ("causal", "masked", "recurrent")
RATE = 4e-3
MASKED: tuple[tuple[Any, float, Any, int, float | None], ...] = (
    ("bert", RATE, "adamw", CONTEXT, None),
    ("bert", 1e-3, "adamw", CONTEXT, None),
    ("modernbert", RATE, "adamw", CONTEXT, None),
    ("modernbert", 8e-3, "muon", CONTEXT, None),
    # a neighbour has an eighth of the weight in 128 positions that it has in 16
    ("modernbert", RATE, "adamw", 16, 0.1),
    ("modernbert", 8e-3, "muon", 16, 0.1),
)
"""Bodies of masked towers with rate, optimizer, context and initial scale, as they are tried."""
LEFT = 0.2
"""Nats below the frequencies of words that a model must end at to have left them."""
TOKEN = "token"

Measure = Callable[[PreferenceSums, Vocabulary], float]
Cells = dict[str, float | int | str | None]


def signed_root(variance: float) -> float:
    """The square root with the variance's sign, since an unbiased variance may be below zero."""
    return float(np.sign(variance) * abs(variance) ** 0.5)


def between(count_GX: NDArray[np.float64], delta_GX: NDArray[np.float64]) -> float:
    """The standard deviation between kinds of token."""
    first_RG = random_halves(len(count_GX), SPLITS, 0)
    return signed_root(reliability(split_means(count_GX, delta_GX, first_RG))[1])


def of_tokens(sums: PreferenceSums, vocabulary: Vocabulary) -> float:
    """Between types of token, adjusted as the study does."""
    return signed_root(reliability(halves_of(sums, vocabulary, adjusted=True))[1])


def of_frequency(sums: PreferenceSums, vocabulary: Vocabulary) -> float:
    """Between tenths of the text by frequency in training."""
    inside_VX = one_of(occurrence_deciles(vocabulary.counts_V))
    return between(sums.count_GV @ inside_VX, sums.delta_GV @ inside_VX)


def of_classes(sums: PreferenceSums, vocabulary: Vocabulary) -> float:
    """Between classes of token, each half without the means of its octaves of frequency."""
    first_RG = random_halves(len(sums.count_GV), SPLITS, 0)
    bins_KV = one_of(octaves(vocabulary.counts_V)).T
    types = split_means(sums.count_GV, sums.delta_GV, first_RG, bins_KV)
    inside_VC = one_of(vocabulary.class_V)
    weight_RC = types.weight_RV @ inside_VC
    first_RC, second_RC = (
        (types.weight_RV * each) @ inside_VC / np.maximum(weight_RC, 1e-12)
        for each in (types.first_RV, types.second_RV)
    )
    return signed_root(reliability(Halves(first_RC, second_RC, weight_RC))[1])


def of_positions(sums: PreferenceSums, _: Vocabulary) -> float:
    """Between eighths of the window."""
    nats_KGb = sums.position_nats_KGb
    return between(sums.position_count_Gb, nats_KGb[TOWER_2] - nats_KGb[TOWER_1])


MEASURES: dict[str, Measure] = {
    TOKEN: of_tokens,
    "frequency": of_frequency,
    "class": of_classes,
    "position": of_positions,
}


def one_of(number_V: NDArray[np.int64]) -> NDArray[np.float64]:
    """Membership (V, X) in the kinds that there are."""
    return (number_V[:, None] == np.unique(number_V)).astype(np.float64)


def without(sums: PreferenceSums, group: int) -> PreferenceSums:
    """The sums of all groups but one."""
    kept_G = np.arange(len(sums.count_GV)) != group
    return replace(
        sums,
        count_GV=sums.count_GV[kept_G],
        nats_KGV=sums.nats_KGV[:, kept_G],
        better_G=sums.better_G[kept_G],
        position_count_Gb=sums.position_count_Gb[kept_G],
        position_nats_KGb=sums.position_nats_KGb[:, kept_G],
    )


@dataclass(frozen=True)
class Compared:
    """Cooperating runs less those with separate losses."""

    ours_N: NDArray[np.float64]
    null_N: NDArray[np.float64]
    over_both: Evidence
    """Over seeds and documents."""

    @property
    def exact(self) -> float:
        """Two-sided p of the exact permutation of runs."""
        one_sided = (
            exact_permutation(self.ours_N, self.null_N),
            exact_permutation(self.null_N, self.ours_N),
        )
        return min(1.0, 2 * min(one_sided))


def compared(
    ours: Sequence[PreferenceSums],
    null: Sequence[PreferenceSums],
    vocabulary: Vocabulary,
    measure: Measure,
) -> Compared:
    """A measure of both kinds of runs on the same text."""

    def values(runs: Iterable[PreferenceSums]) -> NDArray[np.float64]:
        return np.array([measure(run, vocabulary) for run in runs])

    ours_N, null_N = values(ours), values(null)
    groups = len(ours[0].count_GV)
    seeds = Evidence.of_two_groups(ours_N.tolist(), null_N.tolist(), groups)
    left_out_G = np.array(
        [
            values(without(run, g) for run in ours).mean()
            - values(without(run, g) for run in null).mean()
            for g in range(groups)
        ]
    )
    of_text = (groups - 1) / groups * float(((left_out_G - left_out_G.mean()) ** 2).sum())
    assert seeds.standard_error is not None
    assert seeds.degrees_of_freedom is not None
    of_seeds = seeds.standard_error**2
    df = sum_degrees_of_freedom(of_seeds, of_text, seeds.degrees_of_freedom, float(groups - 1))
    error = (of_seeds + of_text) ** 0.5
    half = float(stdtrit(df, 0.975)) * error
    both = replace(
        seeds, low=seeds.estimate - half, high=seeds.estimate + half,
        standard_error=error, degrees_of_freedom=df,
    )  # fmt: skip
    return Compared(ours_N, null_N, both)


def study(
    options: argparse.Namespace,
    kind: str,
    body: Any,
    rate: float = RATE,
    optimizer: Any = "adamw",
    context: int = CONTEXT,
    scale: float | None = None,
) -> TowersStudyConfig:
    """The towers study of a kind; `lmlab study towers` with these options shares its runs."""
    tokens = options.masked_tokens if kind == "masked" else options.tokens
    heads = None if kind == "recurrent" else 2
    return TowersStudyConfig(
        text=(str(options.store),),
        model=ModelConfig(
            architecture=body, layers=2, width=64, heads=heads, initializer_range=scale
        ),
        cloze=kind == "recurrent",
        split=False,
        single=False,
        context=context,
        seeds=options.seeds,
        tokens=tokens,
        probe_tokens=tokens // 2,
        batch_tokens=BATCH_TOKENS,
        learning_rate=rate,
        optimizer=optimizer,
        probe_learning_rate=RATE,
        evaluation="test",
        windows=WINDOWS * CONTEXT // context,
        lab=options.lab,
    )


def study_of_kind(
    options: argparse.Namespace, kind: str, store: TokenStore
) -> TowersStudyConfig | None:
    """The study, its masked body chosen; None where none leaves the frequencies of words, or the
    choice is not there to be read."""
    if kind != "masked":
        return study(options, kind, {"causal": "qwen3", "recurrent": "lstm"}[kind])
    counts_V = token_counts(store.split("validation"), store.vocabulary)
    frequencies = unigram_nats(counts_V, Vocabulary.of(store))
    for body, rate, optimizer, context, scale in MASKED:
        config = study(options, kind, body, rate, optimizer, context, scale)
        arm = arms(config)[COOPERATIVE]
        run = placed(request(config, store, arm, CHOOSING_SEED), store, config.lab)
        if options.measure and not is_there(run):
            return None
        end = final_validation(train(run))
        say(
            f"{body}, {optimizer} at {rate:g}, context {context}: {end:.3f} nats on validation "
            f"text, frequencies {frequencies:.3f}"
        )
        if end <= frequencies - LEFT:
            return config
    return None


def measured(
    config: TowersStudyConfig, store: TokenStore, kind: str, *, only_read: bool
) -> dict[str, list[PreferenceSums]]:
    """The sums by probes of both arms, seed by seed; trains what is missing."""
    found: dict[str, list[PreferenceSums]] = {COOPERATIVE: [], SEPARATE: []}
    for seed in range(config.seeds):
        for key, sums in found.items():
            run = placed(request(config, store, arms(config)[key], seed), store, config.lab)
            if only_read and not is_there(run):
                continue
            say(f"{kind}, {key}, seed {seed}")
            child = probes(config, store, train(run), seed)
            if only_read and not is_there(child):
                continue
            with track("sums", None, "tokens") as bar:
                sums.append(cached_sums(config, store, train(child), bar))
    return found


def run_rows(
    kind: str, found: dict[str, list[PreferenceSums]], vocabulary: Vocabulary
) -> Iterable[Cells]:
    """What each run has, a row for each."""
    for key, each in found.items():
        for seed, sums in enumerate(each):
            whole = preference(sums, vocabulary)
            tokens = sums.count_GV.sum()
            nats = [float(sums.nats_KGV[k].sum() / tokens) for k in (JOINT, TOWER_1, TOWER_2)]
            yield {
                "row": kind,
                "towers": key,
                "seed": seed,
                **{name: measure(sums, vocabulary) for name, measure in MEASURES.items()},
                "router gain": whole.router_gain,
                "dominance": abs(whole.dominance.estimate),
                "reliability": whole.adjusted_reliability,
                "tokens of types found": whole.found_tokens,
                "joint nats": nats[0],
                "better tower nats": min(nats[1:]),
                "worse tower nats": max(nats[1:]),
                "unigram nats": unigram_nats(sums.count_GV.sum(0), vocabulary),
            }


def unigram_nats(count_V: NDArray[np.float64], vocabulary: Vocabulary) -> float:
    """Nats per token of a text by the training split's frequencies (a count with one added)."""
    share_V = (vocabulary.counts_V + 1.0) / (vocabulary.counts_V + 1.0).sum()
    return float(-(count_V @ np.log(share_V)) / count_V.sum())


def difference_rows(
    of_kind: dict[str, dict[str, Compared]], kinds: Sequence[str] = KINDS
) -> list[Cells]:
    """A row for each kind and measure, p adjusted in the two families."""
    cells = [(kind, name) for name in MEASURES for kind in kinds]
    p_values: dict[tuple[str, str], float] = {}
    for kind, name in cells:
        if kind not in of_kind:
            p_values[kind, name] = 1.0
            continue
        each = of_kind[kind][name]
        p = each.exact if name == TOKEN else each.over_both.p_value
        p_values[kind, name] = 1.0 if p is None else p
    adjusted: dict[tuple[str, str], float | None] = {}
    for family in ([c for c in cells if c[1] == TOKEN], [c for c in cells if c[1] != TOKEN]):
        adjusted |= zip(family, holm([p_values[cell] for cell in family]), strict=True)
    rows: list[Cells] = []
    for kind, name in cells:
        if kind in of_kind:
            each, both = of_kind[kind][name], of_kind[kind][name].over_both
            rows.append(
                {
                    "row": kind,
                    "measure": name,
                    "cooperating": float(each.ours_N.mean()),
                    "separate losses": float(each.null_N.mean()),
                    "difference": both.estimate,
                    "difference low": both.low,
                    "difference high": both.high,
                    "p": p_values[kind, name],
                    "p by Holm": adjusted[kind, name],
                    "exact p": each.exact,
                    "seen with 80 %": both.detectable,
                    "deviation of runs, cooperating": float(each.ours_N.std(ddof=1)),
                    "deviation of runs, separate": float(each.null_N.std(ddof=1)),
                    "seeds": len(each.null_N),
                }
            )
    return rows


def write(path: Path, rows: Sequence[Cells]) -> None:
    """Rows of the same columns as a CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--masked-tokens", type=int, default=500_000)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    store = TokenStore(options.store)
    vocabulary = Vocabulary.of(store)
    of_kind: dict[str, dict[str, Compared]] = {}
    runs: list[Cells] = []
    for kind in options.kinds:
        config = study_of_kind(options, kind, store)
        if config is None:
            continue
        found = measured(config, store, kind, only_read=options.measure)
        if min(map(len, found.values())) < 2:
            continue
        runs += run_rows(kind, found, vocabulary)
        of_kind[kind] = {
            name: compared(found[COOPERATIVE], found[SEPARATE], vocabulary, measure)
            for name, measure in MEASURES.items()
        }
    rows = difference_rows(of_kind)
    out = options.out or options.lab
    out.mkdir(parents=True, exist_ok=True)
    write(out / "towers-kinds.csv", rows)
    write(out / "towers-kinds-runs.csv", runs)
    for row in [*rows, *runs]:
        print("; ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
