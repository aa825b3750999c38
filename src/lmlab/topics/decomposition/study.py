"""How much of a language model is a linear combination of other ones?

The study trains a small zoo on one corpus (forward, backward, headless and masked models, pairs of
towers, several seeds, several sizes), takes in any further models by name, and decomposes each into
all others on text that none of the zoo was trained on for the scores (Zhang, EMNLP 2022). It asks
what a group correlation alone cannot say: whether a backward model is a linear function of a
forward one, how much of a headless model is in one with a softmax, whether two seeds are more alike
than two objectives.

Notable:
- Models of one architecture and one seed begin with the same weights and read the same text in the
  same order, whatever their objective. So pairs of equal seed are a kind of their own, and "two
  seeds or two objectives" compares pairs that differ in the seed.
- Two towers of one run (1a and 1b) are members of their own. Embeddings and head are trained in
  common, so they too are a kind of pair of their own. Their run is that of the towers study.
- Runs and embeddings are kept in the lab folder under the digest of what decides them,
  so an interrupted study goes on where it stopped, and studies share runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from lmlab.config import to_mapping
from lmlab.config.model import ModelConfig
from lmlab.config.training import TrainConfig
from lmlab.data.store import TokenStore
from lmlab.progress import Bar, say
from lmlab.results import environment
from lmlab.run_folders.journal import read_journal
from lmlab.studies.corpora import Corpus, corpus_labels, open_corpus
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part, carry_out
from lmlab.studies.run_requests import text_run
from lmlab.topics.decomposition.intervals import DocumentSums, r2_difference
from lmlab.topics.decomposition.of_models import (
    DecompositionOfModels,
    Embedded,
    decompose_embedded,
    embed_models,
    labels,
)
from lmlab.topics.decomposition.options import Arm, DecompositionStudyConfig
from lmlab.topics.decomposition.pairs import by_kind, kind_means, pair_sums
from lmlab.topics.decomposition.report import decomposition_page
from lmlab.topics.towers.arms import COOPERATIVE
from lmlab.topics.towers.arms import arms as towers_arms
from lmlab.topics.towers.arms import request as towers_request
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.training.hardware import keep_freed_memory, resolve_device
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import planned_tokens

OTHER_SEED = "same objective, another seed"
OTHER_OBJECTIVE = "another objective, another seed"
SAME_SEED = "another objective, same seed"
SAME_RUN = "the other tower of the same run"


@dataclass(frozen=True)
class Member:
    """A model of the zoo."""

    label: str
    arm: Arm
    size: str
    seed: int
    tower: int | None = None
    """Which of the two towers of its run, from 1."""


def members(config: DecompositionStudyConfig) -> list[Member]:
    """The zoo: every arm, size and seed."""
    several = len(config.sizes) > 1
    letter = {None: "", 1: "a", 2: "b"}
    return [
        Member(
            f"{arm}{f' {size}' if several else ''} {seed + 1}{letter[tower]}",
            arm, size, seed, tower,
        )
        for arm in config.arms
        for size in config.sizes
        for seed in range(config.seeds)
        for tower in ((1, 2) if arm == "tower" else (None,))
    ]  # fmt: skip


def request(config: DecompositionStudyConfig, store: TokenStore, member: Member) -> TrainConfig:
    """The run of a member."""
    if member.arm == "tower":
        return _towers(config, store, member)
    masked, headless = member.arm == "masked", member.arm == "headless"
    return text_run(
        store,
        config.lab,
        tokens=config.tokens,
        batch_tokens=config.batch_tokens,
        context=config.context,
        learning_rate=config.masked_learning_rate if masked else config.learning_rate,
        # a post-norm BERT of this size does not leave its plateau within such a budget
        model=ModelConfig("modernbert" if masked else "gpt2", size=member.size, tied=headless),
        objective="masked" if masked else "headless" if headless else "causal",
        order="backward" if member.arm == "backward" else "forward",
        seed=member.seed,
        device=config.device,
    )


def _towers(config: DecompositionStudyConfig, store: TokenStore, member: Member) -> TrainConfig:
    """The run that the towers study has for cooperative towers of this size."""
    same = TowersStudyConfig(
        model=ModelConfig(size=member.size), context=config.context, tokens=config.tokens,
        batch_tokens=config.batch_tokens, learning_rate=config.learning_rate, lab=config.lab,
    )  # fmt: skip
    made = towers_request(same, store, towers_arms(same)[COOPERATIVE], member.seed)
    return replace(made, device=config.device)


def run_decomposition(config: DecompositionStudyConfig, *, worker: bool = False) -> Path:
    """Runs the study, or what is missing of it; returns the path of the HTML report.

    Writes `results.json` and `report.html` to `config.out`. A `worker` shares the training of the
    zoo with others (`studies.parts`); the last of them embeds and decomposes it.
    """
    keep_freed_memory()
    corpus = open_corpus(
        config.corpus,
        label=corpus_labels([config.corpus])[0],
        lab=config.lab,
        tokenizer="bpe",
        vocabulary=config.vocabulary,
        tokens=config.tokens,
    )
    zoo = members(config)
    requests = {m.label: request(config, corpus.store, m) for m in zoo}
    work = sum(planned_tokens(asked) for asked in requests.values())
    say(f"{work:,} tokens to train on; stopping is safe")
    return carry_out(
        "training the zoo",
        {label: Part(label, asked, partial(_train, asked, label))
         for label, asked in requests.items()},
        partial(_results, config, corpus, zoo),
        decomposition_page,
        out=study_folder("decomposition", config), work=float(work), worker=worker,
    )  # fmt: skip


def _train(asked: TrainConfig, label: str, bar: Bar) -> TrainedRun:
    return train(asked, bar=bar, note=f"{label},")


def _results(
    config: DecompositionStudyConfig,
    corpus: Corpus,
    zoo: Sequence[Member],
    runs: Mapping[str, TrainedRun],
) -> dict[str, Any]:
    models = {m.label: _opened_by(m, runs[m.label]) for m in zoo} | labels(config.models)
    results: dict[str, Any] = {
        "study": "decomposition",
        "title": "How much of a model is in others",
        "corpus": corpus.label,
        "config": to_mapping(config),
        "environment": environment(),
        "zoo": [_described(m, runs[m.label]) for m in zoo],
    }
    lengths = []
    for length in config.all_lengths():
        say(f"pieces of {length} tokens")
        embedded = _embedded(config, corpus.store, models, length)
        made = decompose_embedded(embedded, models)
        lengths.append(_of_length(length, made))
        if length == config.embedding.length:
            results["main"] = {"length": length, **made.to_json()}
            results["tree"] = _tree(made)
            results["kinds"] = _kinds(embedded, made, zoo)
    results["lengths"] = lengths
    return results


def _opened_by(member: Member, run: TrainedRun) -> str:
    return str(run.path) if member.tower is None else f"{run.path}@{member.tower}"


def _described(member: Member, run: TrainedRun) -> dict[str, Any]:
    last = read_journal(run.path / "journal.jsonl")[-1]
    return {
        **asdict(member),
        "run": run.name,
        "tokens": last["tokens"],
        "validation_nats_per_token": last["validation_nats_per_token"],
    }


def _embedded(
    config: DecompositionStudyConfig, store: TokenStore, models: Mapping[str, str], length: int
) -> dict[str, Embedded]:
    held_out = config.held_out_pieces
    return embed_models(
        models,
        store,
        replace(config.embedding, length=length),
        counts={"train": config.pieces, "validation": held_out, "test": held_out},
        lab=config.lab,
        device=resolve_device(config.device),
    )


def _of_length(length: int, made: DecompositionOfModels) -> dict[str, Any]:
    assert made.group is not None
    return {
        "length": length,
        "group": asdict(made.group),
        "group_train": made.group_train,
        "targets": {name: asdict(found.interval) for name, found in made.found.items()},
        "rows": made.rows,
        "shortened_pieces": made.shortened,
    }


def _tree(made: DecompositionOfModels) -> list[list[float]]:
    """Average linkage of 1 - R2, the mean of both ways; node, node, distance."""
    r2 = np.array([[1.0 if v is None else v for v in row] for row in made.pairs.r2])
    distance = np.clip(1 - (r2 + r2.T) / 2, 0, None)
    merges = linkage(squareform(distance, checks=False), "average")
    return [[int(a), int(b), float(d)] for a, b, d, _ in merges]


def _kinds(
    embedded: Mapping[str, Embedded], made: DecompositionOfModels, zoo: Sequence[Member]
) -> dict[str, Any]:
    """Pairs by what they have in common, and by the arms of target and basis (of different seeds,
    where there are several)."""
    sums = pair_sums(embedded, made.pairs)
    by_label = {m.label: m for m in zoo}
    one_seed = len({m.seed for m in zoo}) < 2

    def common(target: str, basis: str) -> str | None:
        a, b = by_label.get(target), by_label.get(basis)
        if a is None or b is None or a.size != b.size:
            return None
        if a.arm == b.arm:
            return SAME_RUN if a.seed == b.seed else OTHER_SEED
        return SAME_SEED if a.seed == b.seed else OTHER_OBJECTIVE

    def arms(target: str, basis: str) -> str | None:
        kind = common(target, basis)
        if kind in (None, SAME_RUN) or (kind == SAME_SEED and not one_seed):
            return None
        a, b = by_label[target].arm, by_label[basis].arm
        return f"{a} from {'another ' if a == b else ''}{b}"

    def by_target(target: str, basis: str) -> str | None:
        kind = common(target, basis)
        return None if kind in (None, SAME_SEED, SAME_RUN) else f"{by_label[target].arm}: {kind}"

    general, of_target = by_kind(sums, common), by_kind(sums, by_target)
    return {
        "arms": _intervals(by_kind(sums, arms)),
        "general": _intervals(general),
        "seeds_less_objectives": _difference(general, OTHER_SEED, OTHER_OBJECTIVE),
        "by_target": {
            arm: _difference(of_target, f"{arm}: {OTHER_SEED}", f"{arm}: {OTHER_OBJECTIVE}")
            for arm in dict.fromkeys(m.arm for m in zoo)
        },
    }


def _difference(kinds: Mapping[str, list[DocumentSums]], a: str, b: str) -> dict[str, Any] | None:
    """Mean R2 of kind `a` less that of kind `b`; None where there are no such pairs."""
    return asdict(r2_difference(kinds[a], kinds[b])) if a in kinds and b in kinds else None


def _intervals(kinds: Mapping[str, list[DocumentSums]]) -> dict[str, Any]:
    return {
        kind: {**asdict(interval), "pairs": len(kinds[kind])}
        for kind, interval in kind_means(kinds).items()
    }
