"""Continuations of a forward model, reranked by a backward model, and judged by a third one.

For each prompt the forward model draws several continuations. Each rule (`rules`) chooses one of
them by the nats of the two models, and the judge says what it needs for the choice. What a rule
gains is held against a continuation picked at random (the mean over the candidates, exact) and
against the forward model's own choice, which needs no second model.

Notable:
- The judge sees the candidates only to measure them. Its own choice (`ORACLE`) bounds what any rule
  could gain by it.
- A judge of the same tokenizer scores the ids that were drawn, in nats per token. One of another
  tokenizer scores their text, in bits per byte (`lm.likelihood`).
- All continuations have one length in tokens, so that no score favours short ones.
- A judge's low nats reward repetition; so distinct n-grams stand beside them. How many candidates a
  rule puts below the text's own continuation needs no judge at all.
- Prompts are paired: differences are taken prompt by prompt, and prompts of a document belong
  together in their intervals.

Shapes: M prompts, P tokens of each, N candidates, C tokens of a continuation, K = N + 1 with the
true continuation last, L = P + C, R texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmlab.data.order import BACKWARD, FORWARD, reading_order
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.windows import EvaluationWindows, key, keyed_bijection
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.lm.sampling import check_continues, drawn_ids
from lmlab.models.behaviour import evaluating
from lmlab.numerics.bounded import within
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.objectives.evaluate import evaluation_batch
from lmlab.progress import track
from lmlab.results import Result
from lmlab.topics.reranking import rules as by
from lmlab.topics.reranking.options import RULES, check_choice

RANDOM, ORACLE, TRUTH = "random", "judge's own choice", "the text itself"
NATS, BITS = "nats per token", "bits per byte"
LEVEL = 0.05
NGRAMS = (1, 2, 3)
WEIGHTS = tuple(k / 10 for k in range(11))
_EXAMPLES = 4
_SAMPLE = 0x4E4B


@dataclass(frozen=True)
class Difference:
    """What the judge needs for a choice, less what it needs for another one of the same prompts."""

    value: Interval
    """In the result's unit, negative where the judge finds the choice likelier."""
    holm: float | None
    """p-value after Holm, over the rules asked; None without an interval."""

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero after Holm."""
        return self.holm is not None and self.holm < LEVEL


@dataclass(frozen=True)
class Distinct:
    """How many of the n-grams of a rule's choices are different ones."""

    n: int
    within: Interval
    """Mean share in a continuation."""
    across: float
    """Share in all continuations together; of random choices the expected one."""


@dataclass(frozen=True)
class Choice:
    """The continuations that one rule chooses."""

    name: str
    judged: Interval
    """What the judge needs for them, in the result's unit; mean over prompts."""
    differences: dict[str, Difference]
    """From each baseline (`Reranking.baselines`) but itself."""
    above_candidates: Interval | None
    """Share of the candidates that the rule puts below the text's own continuation; 0.5 is chance.
    None for what is no rule."""
    distinct: tuple[Distinct, ...]
    as_forward: float
    """Share of the prompts where it is the forward model's own choice."""


@dataclass(frozen=True)
class Weighted:
    """A sum of forward nats and those of another rule, by the other's weight."""

    rule: str
    weights: tuple[float, ...]
    less_forward: tuple[float, ...]
    """What the judge needs less what it needs for the forward model's choice."""


@dataclass(frozen=True)
class Pick:
    """What a rule chose for one prompt."""

    rule: str
    text: str
    judged: float


@dataclass(frozen=True)
class Example:
    """A prompt and what was chosen for it; the text's own continuation is among the picks."""

    document: str
    prompt: str
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class Reranking(Result, kind="rerank"):
    """What reranking by a backward model gains, as a third model judges it."""

    forward: str
    backward: str
    judge: str
    second: str | None
    store: str
    split: str
    unit: str
    """"nats per token", or "bits per byte" by a judge of another tokenizer."""
    prompts: int
    prompt_tokens: int
    tokens: int
    candidates: int
    temperature: float
    top_k: int | None
    weight: float
    """Of the other model in a sum."""
    seed: int
    clusters: Clusters
    choices: tuple[Choice, ...]
    weights: tuple[Weighted, ...]
    """Seen on the same prompts, so no evidence for the best weight."""
    examples: tuple[Example, ...]
    forward_MK: np.ndarray
    """Nats of each continuation given its prompt (candidates, then the text's own), sums."""
    backward_continuation_MK: np.ndarray
    """The backward model's nats of the continuation alone."""
    backward_prompt_MK: np.ndarray
    """Its nats of the prompt given the continuation."""
    second_MK: np.ndarray | None
    judged_MK: np.ndarray
    """In the result's unit."""

    def choice(self, name: str) -> Choice:
        return next(c for c in self.choices if c.name == name)

    @property
    def baselines(self) -> tuple[str, ...]:
        """What choices are compared with."""
        second = () if self.second is None else (by.FORWARD_SECOND,)
        return (RANDOM, by.FORWARD, *second)


def rerank(
    forward: LanguageModel,
    backward: LanguageModel,
    store: TokenStore,
    *,
    judge: LanguageModel,
    second: LanguageModel | None = None,
    split: str = "test",
    prompts: int = 200,
    prompt_tokens: int = 32,
    tokens: int = 32,
    count: int = 16,
    temperature: float = 1.0,
    top_k: int | None = None,
    rules: Sequence[str] = RULES,
    weight: float = 0.5,
    seed: int = 0,
) -> Reranking:
    """Draws `count` continuations of each prompt, chooses by each rule, and judges the choices.

    Prompts are the first `prompt_tokens` of windows of `prompt_tokens + tokens` tokens, which begin
    where evaluation windows do; `prompts` bounds their number (a keyed random sample). `second` is
    another forward model, as a control. p-values are Holm's over `rules` and, for each baseline,
    the controls.

    Raises `UserError` for unknown rules; for models of the wrong order; for a forward, a backward
    and a second model that do not have the store's tokenizer; for windows that do not fit the
    models; and for a text without a window of that length.
    """
    check_choice(rules, count, weight)
    readers = [forward, backward, *([] if second is None else [second])]
    _check(forward, backward, judge, second, store)
    same = judge.tokenizer.fingerprint == forward.tokenizer.fingerprint
    length = prompt_tokens + tokens
    for lm in [*readers, *([judge] if same else [])]:
        lm.window(length)
    windows = _prompts(forward, store, split, length, prompts, seed)
    text_ML = np.stack([windows.ids(row) for row in range(len(windows))])
    prompt_MP, truth_MC = text_ML[:, :prompt_tokens], text_ML[:, prompt_tokens:]
    drawn_MNC = drawn_ids(
        forward, prompt_MP, tokens=tokens, count=count, temperature=temperature, top_k=top_k,
        seed=seed,
    )  # fmt: skip
    ids_MKC = np.concatenate([drawn_MNC, truth_MC[:, None]], axis=1)
    nats = _nats(forward, backward, second, prompt_MP, ids_MKC)
    if same:
        judged_MK = continuation_nats(judge, prompt_MP, ids_MKC)[1] / tokens
    else:
        judged_MK = _bits_per_byte(judge, forward.tokenizer, prompt_MP, ids_MKC)
    names = [by.FORWARD, *rules, *([] if second is None else [by.SECOND, by.FORWARD_SECOND])]
    scores = {name: by.scores(name, nats, weight) for name in names}
    columns = {name: by.picked(scores_MK) for name, scores_MK in scores.items()}
    columns[ORACLE] = by.picked(judged_MK)
    columns[TRUTH] = np.full(len(windows), count)
    return Reranking(
        forward=forward.name,
        backward=backward.name,
        judge=judge.name,
        second=None if second is None else second.name,
        store=str(store.path),
        split=split,
        unit=NATS if same else BITS,
        prompts=len(windows),
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        candidates=count,
        temperature=temperature,
        top_k=top_k,
        weight=weight,
        seed=seed,
        clusters=windows.clusters,
        choices=_choices(scores, columns, judged_MK, ids_MKC, windows.clusters),
        weights=_weights(nats, judged_MK),
        examples=_examples(columns, judged_MK, ids_MKC, prompt_MP, windows),
        forward_MK=nats.forward_MK,
        backward_continuation_MK=nats.continuation_MK,
        backward_prompt_MK=nats.prompt_MK,
        second_MK=nats.second_MK,
        judged_MK=judged_MK,
    )


def _check(
    forward: LanguageModel,
    backward: LanguageModel,
    judge: LanguageModel,
    second: LanguageModel | None,
    store: TokenStore,
) -> None:
    check_continues(forward)
    for lm, order, what in (
        (backward, BACKWARD, "the model that reranks"),
        (judge, FORWARD, "the judge"),
        *([] if second is None else [(second, FORWARD, "the second model")]),
    ):
        if not lm.objective.reading.autoregressive or lm.order != order:
            raise UserError(
                f"{lm.name} ({lm.objective.name}, {lm.order}) is given as {what}, which has to be "
                f"a causal model that reads {order}"
            )
    for lm in (backward, second):
        if lm is not None and lm.tokenizer.fingerprint != forward.tokenizer.fingerprint:
            raise UserError(
                f"{forward.name} and {lm.name} have different tokenizers, and both score the same "
                "ids; train both on stores of one tokenizer (prepare --tokenizer.kind pretrained "
                "--tokenizer.name STORE)"
            )
    forward.check_store(store)


def _prompts(
    lm: LanguageModel, store: TokenStore, split: str, length: int, prompts: int, seed: int
) -> EvaluationWindows:
    """A keyed random sample of the windows that have `length` tokens."""
    windows = lm.windows(store, split, context=length)
    rows = np.flatnonzero(windows.length_M == length)
    if len(rows) == 0:
        raise UserError(
            f"{store.path}: no document of the {split} split has {length} tokens, which a prompt "
            "and its continuation take; ask for fewer `prompt_tokens` or `tokens`"
        )
    if prompts < len(rows):
        chosen = keyed_bijection(np.arange(prompts), len(rows), key(seed, _SAMPLE))
        rows = rows[np.sort(chosen)]
    return windows.chosen(rows)


def continuation_nats(
    lm: LanguageModel, prompt_MP: np.ndarray, ids_MKC: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nats of the prompt and of each continuation as the model reads prompt and continuation
    together, (M, K) each: a forward model gives p(x) and p(c | x), a backward one p(x | c) and
    p(c). Ids in reading order; the text begins with BOS in either order."""
    prompts, count, tokens = ids_MKC.shape
    known = prompt_MP.shape[1]
    length = known + tokens
    prompt_MKP = np.broadcast_to(prompt_MP[:, None], (prompts, count, known))
    ids_RL = np.concatenate([prompt_MKP, ids_MKC], axis=2).reshape(-1, length)
    nats_RL = np.empty(ids_RL.shape)
    order_L = reading_order(lm.order, length)
    size = evaluation_batch(length, lm.model)
    with track("scoring", len(ids_RL), "texts") as bar, evaluating(lm.model):
        for start in range(0, len(ids_RL), size):
            part = list(ids_RL[start : start + size])
            batch = lm.objective.reading.batch(part, device=lm.backbone.device)
            read_BL = lm.objective.score(lm.backbone, batch).double().cpu().numpy()
            nats_RL[start : start + size, order_L] = read_BL
            bar.advance(float(len(part)))
    nats_MKL = nats_RL.reshape(prompts, count, length)
    return nats_MKL[:, :, :known].sum(2), nats_MKL[:, :, known:].sum(2)


def _nats(
    forward: LanguageModel,
    backward: LanguageModel,
    second: LanguageModel | None,
    prompt_MP: np.ndarray,
    ids_MKC: np.ndarray,
) -> by.Nats:
    prompt_MK, continuation_MK = continuation_nats(backward, prompt_MP, ids_MKC)
    return by.Nats(
        forward_MK=continuation_nats(forward, prompt_MP, ids_MKC)[1],
        continuation_MK=continuation_MK,
        prompt_MK=prompt_MK,
        second_MK=None if second is None else continuation_nats(second, prompt_MP, ids_MKC)[1],
    )


def _bits_per_byte(
    judge: LanguageModel, tokenizer: TextTokenizer, prompt_MP: np.ndarray, ids_MKC: np.ndarray
) -> np.ndarray:
    """Bits per byte (M, K) of the text of each continuation after that of its prompt."""
    requests: list[Request] = []
    for number, (prompt_P, ids_KC) in enumerate(zip(prompt_MP, ids_MKC, strict=True)):
        prompt = tokenizer.decode(prompt_P)
        requests += [
            Request(prompt, tokenizer.decode(ids_C), f"continuation {k} of prompt {number}")
            for k, ids_C in enumerate(ids_KC)
        ]
    nats_R = -log_likelihoods(judge, requests).nats_N
    bytes_R = np.array([len(r.continuation.encode("utf-8")) for r in requests])
    return (nats_R / bytes_R / math.log(2)).reshape(ids_MKC.shape[:2])


def _choices(
    scores: dict[str, np.ndarray],
    columns: dict[str, np.ndarray],
    judged_MK: np.ndarray,
    ids_MKC: np.ndarray,
    clusters: Clusters,
) -> tuple[Choice, ...]:
    """The choices (`columns`, M each) of each rule, of the judge and the text, and of chance."""
    ones_M = np.ones(len(judged_MK))
    row_M = np.arange(len(judged_MK))
    judged = {name: judged_MK[row_M, column_M] for name, column_M in columns.items()}
    judged = {RANDOM: judged_MK[:, :-1].mean(1), **judged}
    distinct = {n: by.distinct_within(ids_MKC, n) for n in NGRAMS}
    baselines = [b for b in (RANDOM, by.FORWARD, by.FORWARD_SECOND) if b in judged]
    differences: dict[str, dict[str, Difference]] = {name: {} for name in judged}
    for baseline in baselines:
        less = {
            name: clusters.ratio(judged_M - judged[baseline], ones_M)
            for name, judged_M in judged.items()
            if name != baseline
        }
        asked = [name for name in less if name in scores]
        p_values = holm([Evidence.of(less[name]).p_value for name in asked])
        adjusted = dict(zip(asked, p_values, strict=True))
        for name, value in less.items():
            differences[name][baseline] = Difference(value, adjusted.get(name))

    def of_ngrams(name: str) -> tuple[Distinct, ...]:
        found = []
        for n, within_MK in distinct.items():
            if name == RANDOM:
                within_M = within_MK[:, :-1].mean(1)
                across = by.expected_distinct_across(ids_MKC[:, :-1], n)
            else:
                within_M = within_MK[row_M, columns[name]]
                across = by.distinct_across(ids_MKC[row_M, columns[name]], n)
            shares = within(clusters.ratio(within_M, ones_M), 0, 1)
            found.append(Distinct(n, shares, across))
        return tuple(found)

    def above(name: str) -> Interval | None:
        score_MK = judged_MK if name == ORACLE else scores.get(name)
        if score_MK is None:
            return None
        return within(clusters.ratio(by.share_below_truth(score_MK), ones_M), 0, 1)

    candidates = judged_MK.shape[1] - 1
    return tuple(
        Choice(
            name=name,
            judged=clusters.ratio(judged_M, ones_M),
            differences=differences[name],
            above_candidates=above(name),
            distinct=of_ngrams(name),
            as_forward=(
                1 / candidates
                if name == RANDOM
                else float((columns[name] == columns[by.FORWARD]).mean())
            ),
        )
        for name, judged_M in judged.items()
    )


def _weights(nats: by.Nats, judged_MK: np.ndarray) -> tuple[Weighted, ...]:
    """What sums of forward and each other model gain, by weight."""
    row_M = np.arange(len(judged_MK))

    def judged(rule: str, weight: float) -> float:
        return float(judged_MK[row_M, by.picked(by.scores(rule, nats, weight))].mean())

    own = judged(by.FORWARD, 0.0)
    sums = ["forward+backward", "forward+mmi"]
    if nats.second_MK is not None:
        sums.append(by.FORWARD_SECOND)
    return tuple(
        Weighted(rule, WEIGHTS, tuple(judged(rule, weight) - own for weight in WEIGHTS))
        for rule in sums
    )


def _examples(
    columns: dict[str, np.ndarray],
    judged_MK: np.ndarray,
    ids_MKC: np.ndarray,
    prompt_MP: np.ndarray,
    windows: EvaluationWindows,
) -> tuple[Example, ...]:
    """Prompts at equal distances, so of several documents, and what was chosen for them."""
    tokenizer = windows.split.store.tokenizer
    names = windows.document_names
    rows = np.unique(np.linspace(0, len(judged_MK) - 1, _EXAMPLES).round().astype(int))
    return tuple(
        Example(
            document=names[int(windows.clusters.document_N[row])],
            prompt=tokenizer.decode(prompt_MP[row]),
            picks=tuple(
                Pick(name, tokenizer.decode(ids_MKC[row, at[row]]), float(judged_MK[row, at[row]]))
                for name, at in columns.items()
            ),
        )
        for row in rows
    )
