"""What an edit of output embeddings does to a text: realised factors, and side effects.

Notable:
- Nothing is run again for an edit. Only the edited tokens' logits and log Z change, so the new
  distribution of each context follows from the old probabilities of the edited tokens; for all
  others the odds stay. KL, Jensen-Shannon and perplexity are exact, for any number of edits, from
  one pass over the text.
- The yardstick is the same log r added to the logit in every context: P' = r P / (1 + (r - 1) P),
  KL = log(1 + (r - 1) P) - P log r per context for one token.
- Intervals are over documents, for this one model; those of factors on the log scale, and no
  divergence is below zero.

Shapes: N contexts, K edited tokens, C clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlab.data.store import TokenStore
from lmlab.durable import check_absent
from lmlab.errors import UserError
from lmlab.lm.export import write_model
from lmlab.lm.language_model import LanguageModel
from lmlab.models.export import constant_direction, without_own_bias
from lmlab.models.head import is_tied
from lmlab.numerics.bounded import positive_ratio_interval, within
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.progress import track
from lmlab.results import Result
from lmlab.topics.encoding.edits import Method, shifted
from lmlab.topics.encoding.encoding import EncodingFit
from lmlab.topics.encoding.of_model import regression
from lmlab.topics.encoding.steering import (
    Contexts,
    Steering,
    applied,
    check_can_steer,
    contexts_of,
    plan,
)
from lmlab.topics.encoding.token_probability import ReadText, mean_of_states, read_texts

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Text:
    """Scored positions of a text, seen by the model before any edit."""

    name: str
    contexts: Contexts
    target_N: NDArray[np.int64]
    """Number of the edited token that stands there, -1 for any other."""
    clusters: Clusters


@dataclass(frozen=True)
class TokenEffect:
    """Mean probability of one edited token, after over before."""

    token: int
    text: str
    requested: float
    realised: Interval


@dataclass(frozen=True)
class Effect:
    """An edit on a text."""

    method: Method
    solved: bool
    """Whether its size was solved for the estimation text; else it is as predicted."""
    text: str
    tokens: tuple[TokenEffect, ...]
    kl: Interval
    """Mean KL(before || after) over contexts, nats."""
    js: Interval
    """Mean Jensen-Shannon divergence, nats."""
    nats: Interval
    """Change of the nats per token of the text; perplexity changes by its exponential."""
    dimensions: int
    """Most dimensions of a row that change."""


def text_with_tokens(lm: LanguageModel, text: ReadText, tokens: Sequence[int]) -> Text:
    """A text as edits of these tokens see it: their probabilities, and where they stand."""
    target_N = text.states.targets_N.cpu().numpy()
    number_N = np.full(len(target_N), -1, dtype=np.int64)
    for number, token in enumerate(tokens):
        number_N[target_N == token] = number
    contexts = contexts_of(lm.backbone, text.states.hidden_ND, tuple(tokens))
    return Text(text.name, contexts, number_N, text.states.clusters)


def effect(text: Text, steering: Steering, lm: LanguageModel) -> Effect:
    """What `steering` does to `text`."""
    log_p_NK = text.contexts.log_p_NK
    shift_NK = steering.shift(text.contexts.hidden_ND)
    log_new_NK, log_ratio_N = shifted(log_p_NK, shift_NK)
    p_NK, new_NK = np.exp(log_p_NK), np.exp(log_new_NK)
    at = text.target_N
    own_N = np.where(at < 0, 0.0, np.take_along_axis(shift_NK, at[:, None].clip(0), 1)[:, 0])

    units = Clusters(text.clusters.unit_N)

    def mean(values_N: Array) -> Interval:
        return text.clusters.ratio(values_N, np.ones(len(values_N)))

    return Effect(
        method=steering.method,
        solved=steering.solved,
        text=text.name,
        tokens=tuple(
            TokenEffect(
                token,
                lm.tokenizer.token(token),
                factor,
                positive_ratio_interval(
                    *(units.sums(v_NK[:, k])[0] for v_NK in (new_NK, p_NK)),
                    documents=text.clusters.documents,
                ),
            )
            for k, (token, factor) in enumerate(zip(steering.tokens, steering.factors, strict=True))
        ),
        kl=within(mean(log_ratio_N - (p_NK * shift_NK).sum(1)), 0, math.inf),
        js=within(mean(jensen_shannon(log_p_NK, log_new_NK, log_ratio_N)), 0, math.log(2)),
        nats=mean(log_ratio_N - own_N),
        dimensions=int((steering.delta_KD != 0).sum(1).max(initial=0)),
    )


def jensen_shannon(log_p_NK: Array, log_new_NK: Array, log_ratio_N: Array) -> Array:
    """The divergence at each context (N,), from the edited tokens alone: all others are scaled by
    one factor."""
    rest_N = np.maximum(0.0, 1 - np.exp(log_p_NK).sum(1))
    log_p = np.column_stack([log_p_NK, np.log(np.maximum(rest_N, 1e-300))])
    log_q = np.column_stack([log_new_NK, log_p[:, -1] - log_ratio_N])
    log_m = np.logaddexp(log_p, log_q) - np.log(2)
    return 0.5 * (np.exp(log_p) * (log_p - log_m) + np.exp(log_q) * (log_q - log_m)).sum(1)


@dataclass(frozen=True)
class SteeringResult(Result, kind="steer"):
    """What edits do to up to three texts; the chosen edit is the first of `effects`."""

    model: str
    store: str
    other: str | None
    """The store of the text out of domain."""
    untied: bool
    """Whether the model was tied and is not any more."""
    encoding: EncodingFit
    chosen: Steering
    effects: tuple[Effect, ...]
    notes: tuple[str, ...]
    """Edits that were not made, and why."""


def steering_effects(
    lm: LanguageModel,
    store: TokenStore,
    factors: Mapping[int, float],
    *,
    method: Method = "minimum_norm",
    exact: bool = True,
    ridge: float = 0.0,
    untie: bool = False,
    context: int | None = None,
    max_windows: int | None = 256,
    other: TokenStore | None = None,
) -> SteeringResult:
    """Edits by every method, as predicted and solved, on the estimation text (validation split),
    in-domain text (test split) and, where given, the validation split of another store.

    Raises `UserError` as `steer` and `encode`.
    """
    check_can_steer(lm.model, method=method, untie=untie)
    read = read_texts(lm, store, other=other, context=context, max_windows=max_windows)
    statistics = mean_of_states(lm, read[0].states)
    encoding = regression(lm, read[0].windows, statistics, ridge=ridge).encoding
    texts = [text_with_tokens(lm, text, tuple(factors)) for text in read]
    others: tuple[Method, ...] = ("minimum_norm", "sparse", "whitened")
    methods: list[Method] = [method, *(m for m in others if m != method)]
    if constant_direction(lm.model) is not None and method != "complement":
        methods.append("complement")
    if method != "bias":
        methods.append("bias")
    plans: list[Steering] = []
    effects: list[Effect] = []
    notes: list[str] = []
    sizes = (True, False) if exact else (False,)
    asked: list[tuple[Method, bool]] = [(name, solve) for name in methods for solve in sizes]
    with track("edits", float(len(asked)), "edits") as bar:
        for name, solve in asked:
            try:
                plans.append(
                    plan(lm.model, factors, encoding, method=name,
                         contexts=texts[0].contexts, solve=solve)
                )  # fmt: skip
                effects += [effect(text, plans[-1], lm) for text in texts]
            except UserError as error:
                if name == method and solve == exact:
                    raise
                notes.append(f"{name}{', solved' if solve else ''}: {error}")
            bar.advance()
    return SteeringResult(
        model=lm.name,
        store=str(store.path),
        other=None if other is None else str(other.path),
        untied=is_tied(lm.model) and method != "bias",
        encoding=encoding.fit,
        chosen=plans[0],
        effects=tuple(effects),
        notes=tuple(notes),
    )


def parse_factors(lm: LanguageModel, given: Sequence[str]) -> dict[int, float]:
    """Token ids and factors from texts such as " the=0.5".

    Raises `UserError` for a text that is not one token, a factor that is no positive number, or a
    token named twice.
    """
    if not given:
        raise UserError("`token`: no token to steer; give at least one with its factor")
    factors: dict[int, float] = {}
    for each in given:
        text, equals, number = each.rpartition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = float("nan")
        if not equals or not text or not (0 < factor < float("inf")):
            raise UserError(f"`token` {each!r}: give TOKEN=FACTOR with a factor above 0")
        ids = lm.tokenizer.encode(text)
        if len(ids) != 1:
            pieces = ", ".join(repr(lm.tokenizer.token(int(i))) for i in ids)
            raise UserError(
                f"`token` {each!r}: {text!r} is {len(ids)} tokens of {lm.name} ({pieces}); "
                "steer one of them (a leading space often belongs to a token)"
            )
        if int(ids[0]) in factors:
            raise UserError(f"`token` {each!r}: this token is named twice")
        factors[int(ids[0])] = factor
    return factors


def write_steered(
    lm: LanguageModel,
    result: SteeringResult,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """The steered model as a transformers folder (complete or not at all), with its result, the
    page and the `options` that gave them.
    Returns what opens as that model: of one tower of two, OUT@1 or OUT@2.

    Raises `UserError` if `out` exists, for a tower whose head is not its own, and as
    `models.export.without_own_bias`.
    """
    check_absent(out)
    tower = getattr(lm.model, "view", None)
    if tower is not None and not lm.model.config.probed:
        raise UserError(
            f"{lm.name}: this tower's head is that of both, or its input embedding; a steered "
            "one is written of a tower with a probe (lmlab train --objective probe)"
        )
    texts = result.files(command="steer", options=options)
    with applied(lm.model, result.chosen):
        model = without_own_bias(lm.model)
        head = "tied" if is_tied(model) else "untied"
        write_model(lm, model, out, texts=texts, head=head, steered_from=lm.name)
    return out if tower is None else out.with_name(f"{out.name}@{tower + 1}")
