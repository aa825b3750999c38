"""If two models share one prediction, which tokens does each take?

For each corpus the study trains R pairs of cooperative towers, R of the same towers with separate
losses (the null N3) and R of independent ones (N0), and if asked the halves of one wide model (N1),
the hard minimum (a positive control) and one model of as many weights; gives all towers the same
kind of probes; and compares their preferences among types of token (`topics.towers.preference`).
The second probes of cooperative towers give the null of probe noise (N2). The claim is made across
runs, since towers that never cooperated have reliable preferences too: an exact permutation of
cooperative runs against those with separate losses. N0 is a further null: it differs from
cooperative towers in loss, width of the embeddings and number of weights at once.

Notable:
- The statistic was chosen before any result: the adjusted variance of preference between types.
- Where towers have heads of their own they are also measured by these, calibrated: the hard minimum
  divides by its heads, which probes of frozen towers do not see.
- Runs and sums are kept in the lab folder under the digest of what decides them, so an interrupted
  study goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.config import to_mapping
from lmlab.config.training import TrainConfig
from lmlab.data.store import TokenStore
from lmlab.lm.language_model import open_model
from lmlab.numerics.preference import (
    exact_permutation,
    exact_permutation_of_pairs,
    weighted_correlation,
)
from lmlab.numerics.verdicts import Evidence
from lmlab.progress import Bar, say
from lmlab.results import environment, plain
from lmlab.studies.corpora import corpus_labels, open_corpus
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part, carry_out
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.towers.arms import (
    COOPERATIVE,
    INDEPENDENT,
    SEPARATE,
    Arm,
    arms,
    cached_sums,
    has_own_heads,
    model_words,
    probes,
    request,
    weights,
    work,
)
from lmlab.topics.towers.of_model import model_preference
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.preference import (
    Preference,
    Vocabulary,
    drawn_types,
    halves_of,
    preference,
    runs_agree,
    type_deviations,
)
from lmlab.topics.towers.preference_sums import PreferenceSums, groups_of_text, same_tower_twice
from lmlab.topics.towers.report import towers_page
from lmlab.training.loop import TrainedRun, train


@dataclass(frozen=True)
class _Made:
    """What one run gives; the single model of as many weights has no sums but a score."""

    sums: PreferenceSums | None = None
    """By its probes."""
    again: PreferenceSums | None = None
    """By second probes (cooperative towers)."""
    own: PreferenceSums | None = None
    """By the towers' own heads, where they have any."""
    probes: TrainedRun | None = None
    nats_per_token: float | None = None


def run_towers(config: TowersStudyConfig, *, worker: bool = False) -> Path:
    """Runs the study, or what is missing of it; returns the path of the HTML report.

    Writes `results.json` and `report.html` to `config.out`. A `worker` shares it with others
    (`studies.parts`). Raises `UserError` for a corpus that cannot be read, or too short to be
    measured on.
    """
    labels = corpus_labels(config.text)
    stores = {
        label: open_corpus(
            corpus, label=label, lab=config.lab, tokenizer="bpe", vocabulary=config.vocabulary,
            tokens=config.tokens,
        ).store
        for corpus, label in zip(config.text, labels, strict=True)
    }  # fmt: skip
    for store in stores.values():
        groups_of_text(store, config.evaluation, config.context)  # before hours of training
    total = sum(work(config, store) for store in stores.values())
    say(f"{total:,.0f} tokens to train on and to score; stopping is safe")
    parts = {
        (label, key, seed): _part(config, label, store, key, seed)
        for label, store in stores.items()
        for key, arm in arms(config).items()
        for seed in range(arm.seeds)
    }

    def results(made: dict[tuple[str, str, int], _Made]) -> dict[str, Any]:
        return {
            "study": "towers",
            "title": "Two towers with one prediction",
            "config": to_mapping(config),
            "tower": model_words(config.model),
            "environment": environment(),
            "parts": [
                _result(
                    config,
                    label,
                    store,
                    {
                        key: [made[label, key, seed] for seed in range(arm.seeds)]
                        for key, arm in arms(config).items()
                    },
                )
                for label, store in stores.items()
            ],
        }

    return carry_out(
        "towers study", parts, results, towers_page,
        out=study_folder("towers", config), work=total, worker=worker,
    )  # fmt: skip


def _part(
    config: TowersStudyConfig, label: str, store: TokenStore, key: str, seed: int
) -> Part[_Made]:
    """The part of one run: its probes, and their sums."""
    arm = arms(config)[key]
    asked, label = request(config, store, arm, seed), f"{label}, {key}, seed {seed}"
    return Part(label, asked, partial(_make, config, store, arm, asked, label))


def _make(
    config: TowersStudyConfig,
    store: TokenStore,
    arm: Arm,
    asked: TrainConfig,
    label: str,
    bar: Bar,
) -> _Made:
    run = train(asked, bar=bar, note=f"{label},")
    if arm.towers is None:
        return _Made(nats_per_token=_score(config, store, run, bar))
    own = cached_sums(config, store, run, bar) if has_own_heads(arm) else None
    child = train(probes(config, store, run, asked.seed), bar=bar, note=f"probes of {label},")
    sums, second = cached_sums(config, store, child, bar), None
    if arm == arms(config)[COOPERATIVE]:
        again = probes(config, store, run, asked.seed + config.seeds)
        second = cached_sums(
            config, store, train(again, bar=bar, note=f"second probes of {label},"), bar
        )
    return _Made(sums, second, own, child)


def _result(
    config: TowersStudyConfig, label: str, store: TokenStore, made: Mapping[str, list[_Made]]
) -> dict[str, Any]:
    """The result of one corpus, as plain values."""
    vocabulary = Vocabulary.of(store)
    sums = {
        key: [one.sums for one in of_seed if one.sums is not None] for key, of_seed in made.items()
    }
    sums["noise"] = [
        same_tower_twice(one.sums, one.again)
        for one in made[COOPERATIVE]
        if one.sums is not None and one.again is not None
    ]
    found = {key: [preference(one, vocabulary) for one in of_seed] for key, of_seed in sums.items()}
    own = {
        key: [preference(one.own, vocabulary) for one in of_seed if one.own is not None]
        for key, of_seed in made.items()
    }
    single = [
        one.nats_per_token
        for of_seed in made.values()
        for one in of_seed
        if one.nats_per_token is not None
    ]
    documents = len(store.split(config.evaluation).documents_M3)
    probed = made[COOPERATIVE][0].probes
    assert probed is not None
    return {
        "corpus": label,
        "store": store.fingerprint[:12],
        "vocabulary": store.vocabulary,
        "training_tokens_available": store.split("train").tokens,
        "arms": {
            key: {
                "label": arm.label,
                "weights": weights(request(config, store, arm, 0), store),
                "runs": [plain(one) for one in found[key]],
                "own_heads": [plain(one) for one in own[key]],
                "agreement": _agreement(sums[key], vocabulary),
            }
            for key, arm in arms(config).items()
        },
        "noise": {
            "label": "one tower, probed twice (N2)",
            "runs": [plain(one) for one in found["noise"]],
        },
        "single_nats_per_token": single,
        "tests": {
            null: _tests(found, sums, vocabulary, null, documents)
            for null in (SEPARATE, INDEPENDENT)
        },
        "first": model_preference(
            open_model(probed.checkpoint),
            store,
            sums[COOPERATIVE][0],
            vocabulary,
            split=config.evaluation,
            context=config.context,
        ).to_json(),
        "points": {
            key: _points(sums[key][0], sums[key][1], vocabulary)
            for key in (COOPERATIVE, SEPARATE, INDEPENDENT)
        },
    }


def _score(config: TowersStudyConfig, store: TokenStore, run: TrainedRun, bar: Bar) -> float:
    made = cached_score(
        run, store, split=config.evaluation, context=config.context, max_windows=config.windows,
        order="forward", bar=bar,
    )  # fmt: skip
    return made.nats_per_token


def _tests(
    found: dict[str, list[Preference]],
    sums: dict[str, list[PreferenceSums]],
    vocabulary: Vocabulary,
    null: str,
    documents: int,
) -> dict[str, Any]:
    """Cooperative runs against those of the arm `null`: means, exact p-values, and the difference
    with its interval over runs."""
    ours, theirs = found[COOPERATIVE], found[null]
    runs = [*sums[COOPERATIVE], *sums[null]]
    agreement_NN = np.eye(len(runs))
    for i, j in combinations(range(len(runs)), 2):
        agreement_NN[i, j] = agreement_NN[j, i] = runs_agree(runs[i], runs[j], vocabulary)

    def compared(name: str) -> dict[str, Any]:
        a, b = (np.array([getattr(one, name) for one in kind]) for kind in (ours, theirs))
        return {
            "cooperative": float(a.mean()),
            "null": float(b.mean()),
            "p": exact_permutation(a, b),
            "difference": asdict(Evidence.of_two_groups(a.tolist(), b.tolist(), documents)),
        }

    return {
        "variance": compared("adjusted_between_variance"),
        "spread": compared("spread"),
        "router_gain": compared("router_gain"),
        "agreement": {
            "cooperative": _mean_of_pairs(agreement_NN[: len(ours), : len(ours)]),
            "null": _mean_of_pairs(agreement_NN[len(ours) :, len(ours) :]),
            "p": exact_permutation_of_pairs(agreement_NN, len(ours)),
        },
        "least_p": 1 / math.comb(len(runs), len(ours)),
    }


def _mean_of_pairs(values_NN: np.ndarray) -> float:
    return float(values_NN[np.triu_indices(len(values_NN), 1)].mean())


def _agreement(sums: list[PreferenceSums], vocabulary: Vocabulary) -> float | None:
    if len(sums) < 2:
        return None
    return float(np.mean([runs_agree(a, b, vocabulary) for a, b in combinations(sums, 2)]))


def _points(one: PreferenceSums, other: PreferenceSums, vocabulary: Vocabulary) -> dict[str, Any]:
    """Types of two runs to be drawn: frequency, and adjusted deviations with signs that agree."""
    kept = drawn_types(one)
    first_V, second_V = (type_deviations(s, vocabulary) for s in (one, other))
    halves = [halves_of(s, vocabulary, adjusted=True) for s in (one, other)]
    same_way = weighted_correlation(
        halves[0].first_RV[0], halves[1].first_RV[0], halves[0].weight_RV[0]
    )
    sign = 1 if same_way >= 0 else -1
    return {
        "count": vocabulary.counts_V[kept].tolist(),
        "class": vocabulary.class_V[kept].tolist(),
        "first": first_V[kept].tolist(),
        "second": (sign * second_V[kept]).tolist(),
    }
