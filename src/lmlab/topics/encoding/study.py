"""How do output embeddings hold token probability (Cho et al., COLING 2025), in models of different
objectives?

For every vocabulary the study trains small models on the same windows: cross-entropy with an untied
head, a tied one and one with a learnt prior, backward, headless, and Llama with and without a
softmax. Each is encoded, steered, pruned and watched over its checkpoints; a headless model's prior
is written into its embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig
from lmlab.data.store import TokenStore
from lmlab.data.windows import evaluation_tokens
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.progress import Bar, say
from lmlab.studies.corpora import open_corpus
from lmlab.studies.finished_runs import file_beside
from lmlab.studies.kept import kept
from lmlab.studies.learning_rates import CHOOSING_SEED, TunedArm, run_parts_at_best_rates
from lmlab.studies.options import study_folder
from lmlab.studies.parts import Part
from lmlab.studies.rates import Rates
from lmlab.studies.run_requests import placed, text_request
from lmlab.topics.counting.baseline import AgainstCounting, against_counting
from lmlab.topics.encoding.comparison import (
    EDITS,
    AnalysedModel,
    EncodingStudy,
    OneVocabulary,
    SteeredToken,
)
from lmlab.topics.encoding.dynamics import Dynamics, Watch, watch_run
from lmlab.topics.encoding.encoding import Encoding
from lmlab.topics.encoding.of_model import described, measure, regression, training_counts
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.encoding.pruning_curves import prune
from lmlab.topics.encoding.steering import plan
from lmlab.topics.encoding.steering_effects import Text, effect, text_with_tokens
from lmlab.topics.encoding.token_probability import ReadText, mean_of_states, read_texts
from lmlab.topics.encoding.written_prior import written_prior
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score
from lmlab.training.loop import TrainedRun, train
from lmlab.training.setup import ResolvedRun

_STEERED = 8  # tokens


@dataclass(frozen=True)
class Arm:
    """One way to train, everything else being equal."""

    label: str
    tied: bool = False
    llama: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


ARMS = {
    "ce-untied": Arm("cross-entropy"),
    "ce-tied": Arm("cross-entropy, tied", tied=True),
    "ce-prior": Arm("cross-entropy, prior bias", options={"output_bias": "learnt"}),
    "backward": Arm("cross-entropy, backward", options={"order": "backward"}),
    "headless": Arm("headless", tied=True, options={"objective": "headless"}),
    "llama": Arm("Llama, cross-entropy", llama=True),
    "llama-headless": Arm(
        "Llama, headless", tied=True, llama=True, options={"objective": "headless"}
    ),
}


@dataclass(frozen=True)
class _Made:
    """What one run gives."""

    models: list[AnalysedModel]
    """With each of its heads."""
    score: Score
    """With its own head, on test text."""


def run_encoding(config: EncodingStudyConfig, *, worker: bool = False) -> EncodingStudy:
    """Runs the study, or what is missing of it (`studies.parts.run_parts`)."""
    corpora = {
        v: open_corpus(config.text, lab=config.lab, vocabulary=v, tokens=config.tokens)
        for v in config.vocabulary
    }
    stores = {v: corpus.store for v, corpus in corpora.items()}
    arms = {
        (v, name): TunedArm(f"vocabulary {v:,}, {name}", partial(_trial, config, store, name))
        for v, store in stores.items()
        for name in config.arms
    }

    def parts(
        rates: Mapping[tuple[int, str], float | None],
    ) -> dict[tuple[int, str], Part[_Made]]:
        runs = {(v, n): _run(config.at_rate(rates[v, n]), stores[v], n) for v, n in arms}
        return {
            (v, name): Part(arms[v, name].label, run, partial(_make, config, stores[v], name, run))
            for (v, name), run in runs.items()
        }

    def result(
        made: dict[tuple[int, str], _Made], rates: dict[tuple[int, str], Rates]
    ) -> EncodingStudy:
        return EncodingStudy(
            corpus=corpora[config.vocabulary[0]].label,
            config=config,
            parts=tuple(
                OneVocabulary(
                    vocabulary=store.vocabulary,
                    store=store.fingerprint[:12],
                    models=tuple(model for name in config.arms for model in made[v, name].models),
                    counting=_against_counting(config, store, {n: made[v, n] for n in config.arms}),
                )
                for v, store in stores.items()
            ),
            rates={arms[arm].label: of_arm for arm, of_arm in rates.items()},
        )

    return run_parts_at_best_rates(
        "encoding study", config, arms, parts, EncodingStudy, result,
        out=study_folder("encoding", config),
        further=sum(_scored_tokens(config, stores[v]) for v, _ in arms), worker=worker,
    )  # fmt: skip


def _scored_tokens(config: EncodingStudyConfig, store: TokenStore) -> int:
    """Tokens of the test text that each model is compared with counting on."""
    return evaluation_tokens(store.split("test"), config.context, max_windows=config.windows)


def _make(
    config: EncodingStudyConfig, store: TokenStore, name: str, resolved: ResolvedRun, bar: Bar
) -> _Made:
    """Trains the model `name`; its analyses with each of its heads, and its score."""
    run = train(resolved, bar=bar, note=f"{store.vocabulary}, {name},")
    heads = (False, True) if "headless" in name else (False,)
    models = [_kept(config, store, name, run, raw) for raw in heads]
    score = cached_score(
        run, store, split="test", context=config.context, max_windows=config.windows,
        order=resolved.config.order, bar=bar,
    )  # fmt: skip
    return _Made(models, score)


def _against_counting(
    config: EncodingStudyConfig, store: TokenStore, made: Mapping[str, _Made]
) -> AgainstCounting | None:
    return against_counting(
        store,
        {ARMS[name].label: [of_arm.score] for name, of_arm in made.items()},
        split="test",
        context=config.context,
        max_windows=config.windows,
    )


def _run(config: EncodingStudyConfig, store: TokenStore, name: str) -> ResolvedRun:
    arm = ARMS[name]
    model = ModelConfig(
        "llama" if arm.llama else config.architecture, size=config.size, tied=arm.tied
    )
    request = text_request(config, store, model=model, seed=config.seed, **arm.options)
    if config.dynamics:
        checkpoints = CheckpointConfig(
            every=max(1, request.steps // 4),
            logarithmic=True,
            per_doubling=config.checkpoints_per_doubling,
        )
        request = replace(request, checkpoints=checkpoints)
    return placed(request, store, config.lab)


def _trial(config: EncodingStudyConfig, store: TokenStore, name: str, rate: float) -> ResolvedRun:
    seed = config.seed + CHOOSING_SEED
    asked = replace(config.at_rate(rate), dynamics=False, seed=seed)  # few checkpoints
    return _run(asked, store, name)


def _kept(
    config: EncodingStudyConfig, store: TokenStore, name: str, run: TrainedRun, raw: bool
) -> AnalysedModel:
    """The analyses of one model with one head, made now or kept from before."""
    decided = (store.fingerprint, raw, config.windows, config.factors, config.shares,
               *(() if config.dynamics else ("at its end",)), "encoding 6")  # fmt: skip
    file = file_beside(run, "analyses/encoding.json", *decided)
    return kept(file, AnalysedModel, lambda: _analysed(config, store, name, run, raw))


def _analysed(
    config: EncodingStudyConfig, store: TokenStore, name: str, run: TrainedRun, raw: bool
) -> AnalysedModel:
    say(f"analysing {name}{', embedding alone' if raw else ''}, vocabulary {store.vocabulary:,}")
    lm = open_model(run.checkpoint, raw_head=raw)
    if raw:
        texts, measured = [], measure(lm, store, max_windows=config.windows)
    else:
        texts = read_texts(lm, store, max_windows=config.windows)
        statistics = mean_of_states(lm, texts[0].states)
        measured = regression(lm, texts[0].windows, statistics)
    return AnalysedModel(
        name=name,
        label=ARMS[name].label + (", embedding alone" if raw else ""),
        raw=raw,
        run=run.name,
        encoding=described(lm, store, measured, split="validation"),
        dynamics=None if raw or not config.dynamics else _dynamics(config, store, run),
        steering=() if raw else tuple(_steering(config, lm, store, measured.encoding, texts)),
        pruning=None
        if raw
        else prune(
            lm, store, shares=config.shares, replacements=("mean",), prompts=8,
            texts=[text.sample(max(1, config.windows // 2)) for text in texts],
        ),
        written_prior=tuple(written_prior(lm, measured, texts[1].states))
        if "headless" in name and not raw
        else (),
    )  # fmt: skip


def _dynamics(config: EncodingStudyConfig, store: TokenStore, run: TrainedRun) -> Dynamics:
    watch = Watch(store, max_windows=max(1, config.windows // 4))
    for _ in watch_run(run.path, watch):
        pass
    return watch.result(str(run.path))


def _steering(
    config: EncodingStudyConfig,
    lm: LanguageModel,
    store: TokenStore,
    encoding: Encoding,
    read: Sequence[ReadText],
) -> Iterator[SteeredToken]:
    """Single tokens of all frequencies, by each factor and edit, on both texts."""
    counts_V = training_counts(lm, store, len(encoding.alpha_V))
    fitted = encoding.tokens
    ranked = fitted[np.argsort(-counts_V[fitted], kind="stable")]
    places = np.unique(np.geomspace(1, len(ranked), _STEERED).round().astype(int)) - 1
    tokens = [int(ranked[place]) for place in places]
    texts = [text_with_tokens(lm, text, tokens) for text in read]
    for number, token in enumerate(tokens):
        alone = [_one_token(text, number) for text in texts]
        for factor, (_, method, solve) in product(config.factors, EDITS):
            try:
                edit = plan(
                    lm.model, {token: factor}, encoding, method=method,
                    contexts=alone[0].contexts, solve=solve,
                )  # fmt: skip
            except UserError:  # the target would be above 1, or no size reaches it
                continue
            for text in alone:
                on_text = effect(text, edit, lm)
                (realised,) = on_text.tokens
                yield SteeredToken(
                    token=realised.text,
                    count=int(counts_V[token]),
                    factor=factor,
                    method=method,
                    solved=solve,
                    text=text.name,
                    realised=realised.realised,
                    kl=on_text.kl.estimate,
                    nats=on_text.nats.estimate,
                )


def _one_token(text: Text, number: int) -> Text:
    return replace(
        text,
        contexts=replace(text.contexts, log_p_NK=text.contexts.log_p_NK[:, [number]]),
        target_N=np.where(text.target_N == number, 0, -1),
    )
