"""If two models share one prediction, which tokens does each take?

For each corpus the study trains R pairs of cooperative towers and R of the same towers with
separate losses (the null N3); unless told not to also R of independent ones (N0), the halves of one
wide model (N1), the hard minimum (a positive control) and one model of as many weights; gives all
the same kind of probes; and compares their preferences among types of token
(`topics.towers.preference`).
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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from lmlab.data.store import TokenStore
from lmlab.lm.language_model import open_model
from lmlab.progress import Bar
from lmlab.studies.corpora import corpus_labels, open_corpus
from lmlab.studies.learning_rates import CHOOSING_SEED, TunedArm, run_parts_at_best_rates
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part
from lmlab.studies.rates import Rates
from lmlab.studies.run_requests import placed
from lmlab.topics.counting.baseline import AgainstCounting, against_counting
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.topics.towers.arms import (
    COOPERATIVE,
    NULLS,
    SINGLE,
    Arm,
    arms,
    cached_sums,
    further,
    has_own_heads,
    is_scored,
    probes,
    request,
    weights,
)
from lmlab.topics.towers.comparison import (
    ArmResult,
    CorpusResult,
    TowersStudy,
    compared_runs,
    mean_agreement,
    pair_of_runs,
)
from lmlab.topics.towers.of_model import model_preference
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.preference import Preference, Vocabulary, preference
from lmlab.topics.towers.preference_sums import PreferenceSums, groups_of_text, same_tower_twice
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import ResolvedRun


@dataclass(frozen=True)
class _Measured:
    """What one run gives; the single model of as many weights has a score alone."""

    sums: PreferenceSums | None = None
    """By its probes."""
    again: PreferenceSums | None = None
    """By second probes (cooperative towers)."""
    own: PreferenceSums | None = None
    """By the towers' own heads, where they have any."""
    probes: TrainedRun | None = None
    score: Score | None = None
    """Of the model's own joint prediction."""


def run_towers(config: TowersStudyConfig, *, worker: bool = False) -> TowersStudy:
    """Runs the study, or what is missing of it, and returns its result.

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
    tuned = {
        (label, key): TunedArm(f"{label}, {key}", partial(_trial, config, store, arm))
        for label, store in stores.items()
        for key, arm in arms(config).items()
    }

    def parts(
        rates: Mapping[tuple[str, str], float | None],
    ) -> dict[tuple[str, str, int], Part[_Measured]]:
        return {
            (label, key, seed): _part(config, label, store, key, seed, rates[label, key])
            for label, store in stores.items()
            for key, arm in arms(config).items()
            for seed in range(arm.seeds)
        }

    def result(
        runs: dict[tuple[str, str, int], _Measured], rates: dict[tuple[str, str], Rates]
    ) -> TowersStudy:
        of_corpus = {
            label: {
                key: [runs[label, key, seed] for seed in range(arm.seeds)]
                for key, arm in arms(config).items()
            }
            for label in stores
        }
        return TowersStudy(
            config=config,
            parts=tuple(
                _compare(config, label, store, of_corpus[label]) for label, store in stores.items()
            ),
            rates={tuned[arm].label: of_arm for arm, of_arm in rates.items()},
        )

    return run_parts_at_best_rates(
        "towers study", config, tuned, parts, TowersStudy, result,
        out=study_folder("towers", config),
        further=sum(further(config, store) for store in stores.values()), worker=worker,
    )  # fmt: skip


def _trial(config: TowersStudyConfig, store: TokenStore, arm: Arm, rate: float) -> ResolvedRun:
    return placed(request(config.at_rate(rate), store, arm, CHOOSING_SEED), store, config.lab)


def _part(
    config: TowersStudyConfig,
    label: str,
    store: TokenStore,
    key: str,
    seed: int,
    rate: float | None,
) -> Part[_Measured]:
    """The part of one run: its probes, and their sums."""
    arm = arms(config)[key]
    run = placed(request(config.at_rate(rate), store, arm, seed), store, config.lab)
    label = f"{label}, {key}, seed {seed}"
    return Part(label, run, partial(_measure, config, store, key, run, label))


def _measure(
    config: TowersStudyConfig,
    store: TokenStore,
    key: str,
    resolved: ResolvedRun,
    label: str,
    bar: Bar,
) -> _Measured:
    run, seed = train(resolved, bar=bar, note=f"{label},"), resolved.config.seed
    arm = arms(config)[key]
    score = _score(config, store, run, bar) if is_scored(config, key) else None
    if arm.towers is None:
        return _Measured(score=score)
    own = cached_sums(config, store, run, bar) if has_own_heads(arm) else None
    child = train(probes(config, store, run, seed), bar=bar, note=f"probes of {label},")
    sums, second = cached_sums(config, store, child, bar), None
    if arm == arms(config)[COOPERATIVE]:
        again = probes(config, store, run, seed + config.seeds)
        second = cached_sums(
            config, store, train(again, bar=bar, note=f"second probes of {label},"), bar
        )
    return _Measured(sums, second, own, child, score)


def _compare(
    config: TowersStudyConfig, label: str, store: TokenStore, runs: Mapping[str, list[_Measured]]
) -> CorpusResult:
    """The result of one corpus, of the runs of every arm."""
    vocabulary = Vocabulary.of(store)
    documents = len(store.split(config.evaluation).documents_M3)
    sums = {key: [run.sums for run in of_seed if run.sums] for key, of_seed in runs.items()}
    probed = runs[COOPERATIVE][0].probes
    assert probed is not None

    def preferences(each: Iterable[PreferenceSums | None]) -> tuple[Preference, ...]:
        return tuple(preference(sums_of_run, vocabulary) for sums_of_run in each if sums_of_run)

    results = {
        key: ArmResult(
            label=arm.label,
            weights=weights(request(config, store, arm, 0), store),
            runs=preferences(sums[key]),
            own_heads=preferences(run.own for run in runs[key]),
            agreement=mean_agreement(sums[key], vocabulary),
        )
        for key, arm in arms(config).items()
    }
    cooperative = results[COOPERATIVE]
    twice = [
        same_tower_twice(run.sums, run.again) for run in runs[COOPERATIVE] if run.sums and run.again
    ]
    return CorpusResult(
        corpus=label,
        store=store.fingerprint[:12],
        vocabulary=store.vocabulary,
        training_tokens_available=store.split("train").tokens,
        arms=results,
        noise=ArmResult("one tower, probed twice (N2)", cooperative.weights, preferences(twice)),
        single_nats_per_token=tuple(
            run.score.nats_per_token for run in runs.get(SINGLE, ()) if run.score is not None
        ),
        tests={
            null: compared_runs(
                cooperative.runs,
                results[null].runs,
                [*sums[COOPERATIVE], *sums[null]],
                vocabulary,
                documents,
            )
            for null in NULLS
            if null in results
        },
        first=model_preference(
            open_model(probed.checkpoint),
            store,
            sums[COOPERATIVE][0],
            vocabulary,
            split=config.evaluation,
            context=config.context,
        ),
        pairs={
            key: pair_of_runs(sums[key], vocabulary)
            for key in (COOPERATIVE, *NULLS)
            if key in results
        },
        counting=_against_counting(config, store, runs),
    )


def _against_counting(
    config: TowersStudyConfig, store: TokenStore, runs: Mapping[str, list[_Measured]]
) -> AgainstCounting | None:
    """The arms that were scored, by their labels; None for towers that read both ways."""
    if config.reading != "causal":
        return None
    scores = {
        arms(config)[key].label: [run.score for run in of_seed if run.score is not None]
        for key, of_seed in runs.items()
        if is_scored(config, key)
    }
    return against_counting(
        store, scores, split=config.evaluation, context=config.context, max_windows=config.windows
    )


def _score(config: TowersStudyConfig, store: TokenStore, run: TrainedRun, bar: Bar) -> Score:
    return cached_score(
        run, store, split=config.evaluation, context=config.context, max_windows=config.windows,
        order="forward", bar=bar,
    )  # fmt: skip
