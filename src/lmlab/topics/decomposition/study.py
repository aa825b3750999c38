"""How much of a language model is a linear combination of other ones?

The study trains a small zoo on one corpus (forward, backward, headless and masked models, pairs of
towers, several seeds, several sizes), takes in any further models by name, and decomposes each into
all others on text that none of the zoo was trained on for the scores (Zhang, EMNLP 2022). It asks
what a group correlation alone cannot say: whether a backward model is a linear function of a
forward one, how much of a headless model is in one with a softmax, whether two seeds are more alike
than two objectives.

Notable: the run of two towers is that of the towers study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from lmlab.config.model import ModelConfig
from lmlab.data.store import TokenStore
from lmlab.progress import Bar, say, track
from lmlab.studies.corpora import Corpus, open_corpus
from lmlab.studies.finished_runs import validations
from lmlab.studies.learning_rates import CHOOSING_SEED, TunedArm, run_parts_at_best_rates
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part
from lmlab.studies.rates import Rates
from lmlab.studies.run_requests import placed, text_run
from lmlab.topics.counting.baseline import AgainstCounting, against_counting
from lmlab.topics.decomposition.of_models import (
    Embedded,
    ModelsDecomposition,
    decompose_embedded,
    embed_models,
    labels,
)
from lmlab.topics.decomposition.options import DecompositionStudyConfig
from lmlab.topics.decomposition.zoo import (
    GroupOfLength,
    Kinds,
    Member,
    TrainedMember,
    ZooDecomposition,
    kinds_of_pairs,
)
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.topics.towers.arms import COOPERATIVE
from lmlab.topics.towers.arms import arms as towers_arms
from lmlab.topics.towers.arms import request as towers_request
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.training.hardware import keep_freed_memory, resolve_device
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import ResolvedRun


def members(config: DecompositionStudyConfig) -> list[Member]:
    """The zoo: every arm, size and seed."""
    several = len(config.size) > 1
    letter = {None: "", 1: "a", 2: "b"}
    return [
        Member(
            f"{arm}{f' {size}' if several else ''} {seed + 1}{letter[tower]}",
            arm, size, seed, tower,
        )
        for arm in config.arms
        for size in config.size
        for seed in range(config.seeds)
        for tower in ((1, 2) if arm == "tower" else (None,))
    ]  # fmt: skip


def run_of(config: DecompositionStudyConfig, store: TokenStore, member: Member) -> ResolvedRun:
    """The run of a member."""
    if member.arm == "tower":
        return _towers(config, store, member)
    masked, headless = member.arm == "masked", member.arm == "headless"
    return text_run(
        config,
        store,
        learning_rate=config.masked_learning_rate if masked else config.learning_rate,
        optimizer="adamw" if masked else config.optimizer,
        # a post-norm BERT of this size does not leave its plateau within such a budget
        model=ModelConfig(
            "modernbert" if masked else config.architecture, size=member.size, tied=headless
        ),
        objective="masked" if masked else "headless" if headless else "causal",
        order="backward" if member.arm == "backward" else "forward",
        seed=member.seed,
        device=config.device,
    )


def _towers(config: DecompositionStudyConfig, store: TokenStore, member: Member) -> ResolvedRun:
    """The run that the towers study has for cooperative towers of this size."""
    same = TowersStudyConfig(
        model=ModelConfig(config.architecture, size=member.size), context=config.context,
        tokens=config.tokens, batch_tokens=config.batch_tokens, optimizer=config.optimizer,
        learning_rate=config.learning_rate, lab=config.lab,
    )  # fmt: skip
    request = towers_request(same, store, towers_arms(same)[COOPERATIVE], member.seed)
    return placed(replace(request, device=config.device), store, config.lab)


def run_decomposition(
    config: DecompositionStudyConfig, *, worker: bool = False
) -> ZooDecomposition:
    """Runs the study, or what is missing of it (`studies.parts.run_parts`): workers share the
    training of the zoo, and the last of them embeds and decomposes it."""
    keep_freed_memory()
    corpus = open_corpus(
        config.text, lab=config.lab, vocabulary=config.vocabulary, tokens=config.tokens
    )
    zoo = members(config)
    arms = {
        (m.arm, m.size): TunedArm(f"{m.arm} {m.size}", partial(_trial, config, corpus.store, m))
        for m in zoo
    }

    def parts(rates: Mapping[tuple[str, str], float | None]) -> dict[str, Part[TrainedRun]]:
        runs = {m.label: run_of(config.at_rate(rates[m.arm, m.size]), corpus.store, m) for m in zoo}
        return {label: Part(label, run, partial(_train, run, label)) for label, run in runs.items()}

    def result(
        runs: dict[str, TrainedRun], rates: dict[tuple[str, str], Rates]
    ) -> ZooDecomposition:
        of_arms = {arms[arm].label: of_arm for arm, of_arm in rates.items()}
        return replace(_result(config, corpus, zoo, runs), rates=of_arms)

    return run_parts_at_best_rates(
        "training the zoo", config, arms, parts, ZooDecomposition, result,
        out=study_folder("decomposition", config), worker=worker,
    )  # fmt: skip


def _trial(
    config: DecompositionStudyConfig, store: TokenStore, member: Member, rate: float
) -> ResolvedRun:
    return run_of(config.at_rate(rate), store, replace(member, seed=CHOOSING_SEED))


def _train(run: ResolvedRun, label: str, bar: Bar) -> TrainedRun:
    return train(run, bar=bar, note=f"{label},")


def _result(
    config: DecompositionStudyConfig,
    corpus: Corpus,
    zoo: Sequence[Member],
    runs: Mapping[str, TrainedRun],
) -> ZooDecomposition:
    models = {
        m.label: str(runs[m.label].path) + ("" if m.tower is None else f"@{m.tower}") for m in zoo
    } | labels(config.models)
    main: tuple[ModelsDecomposition, Kinds] | None = None
    lengths = []
    for length in config.all_lengths():
        say(f"pieces of {length} tokens")
        embedded = _embedded(config, corpus.store, models, length)
        result, _ = decompose_embedded(embedded, models, text=corpus.label)
        lengths.append(_of_length(length, result))
        if length == config.embedding.length:
            main = result, kinds_of_pairs(embedded, result.pairs, zoo)
    assert main is not None, "the length of the embedding is among all lengths"
    return ZooDecomposition(
        config=config,
        zoo=tuple(_trained(m, runs[m.label]) for m in zoo),
        main=main[0],
        kinds=main[1],
        lengths=tuple(lengths),
        counting=_against_counting(config, corpus.store, zoo, runs),
    )


def _against_counting(
    config: DecompositionStudyConfig,
    store: TokenStore,
    zoo: Sequence[Member],
    runs: Mapping[str, TrainedRun],
) -> AgainstCounting | None:
    """The zoo's causal models, by arm, on as many windows of test text as there are pieces.

    Two towers are one model here: their joint prediction.
    """
    most = config.held_out_pieces
    scores: dict[str, list[Score]] = {}
    with track("models against counting", None, "tokens") as bar:
        for member in zoo:
            if member.arm == "masked" or member.tower == 2:
                continue
            several = f" {member.size}" * (len(config.size) > 1)
            label = ("towers, joint" if member.tower else member.arm) + several
            score = cached_score(
                runs[member.label], store, split="test", context=config.context, max_windows=most,
                order="backward" if member.arm == "backward" else "forward", bar=bar,
            )  # fmt: skip
            scores.setdefault(label, []).append(score)
    return against_counting(store, scores, split="test", context=config.context, max_windows=most)


def _trained(member: Member, run: TrainedRun) -> TrainedMember:
    end = validations(run.path)[-1]
    return TrainedMember(**asdict(member), run=run.name, tokens=end.tokens,
                         validation_nats_per_token=end.nats_per_token)  # fmt: skip


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


def _of_length(length: int, result: ModelsDecomposition) -> GroupOfLength:
    assert result.group is not None, "of a whole set"
    assert result.group_train is not None
    return GroupOfLength(
        length=length,
        group=result.group,
        group_train=result.group_train,
        targets={name: target.interval for name, target in result.targets.items()},
        rows=result.rows,
        shortened=result.shortened,
    )
