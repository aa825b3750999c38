"""A token-level gate between two finished models, fitted on their frozen states.

For every token the mixture g p_1 + (1 - g) p_2 is scored, where the log odds of the weight g are
linear in the last states of both models at the position before the token (`lmlab.numerics.gate`).
What it gains is held against what needs no gate: the better model, the mean of both, and the
mixture with one weight for all tokens, fitted on the same text as the gate.

Notable:
- The gate is fitted on one split and measured on another. Its ridge is chosen by folds of documents
  (sections, where documents are few) within the first.
- "Better model" is the one that is better on the text of the fit, so that the choice costs the
  comparison nothing.
- Choosing for each token the model that gave it more probability is no prediction, since it looks
  at the token. It is shown as the bound of what any gate that picks one model could gain.
- The gate is part of the result: `result.gate.logit(features)` with the states of the first and the
  second model side by side.

Shapes: B windows of a batch, T positions, N tokens, M windows, F = D_1 + D_2 features, V types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit

from lmlab.data.store import TokenStore
from lmlab.data.windows import EvaluationWindows
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.models.behaviour import evaluating
from lmlab.numerics.bounded import within
from lmlab.numerics.gate import Gate, chosen_ridge, fit_gate, mixture_nats, responsibility
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.objectives.base import IGNORED, hidden_states
from lmlab.objectives.evaluate import batch_tokens, can_pad, window_batches
from lmlab.progress import Bar, track
from lmlab.results import Result

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
_FOLDS = 4
_BINS = 10
_EXTREME_TYPES = 12
_LEAST_OCCURRENCES = 20

BETTER = "better model"
EQUAL = "mean of both"
CONSTANT = "one weight"
GATE = "gate"
PICKED = "gate, one model a token"
ORACLE = "better of both, token by token"
SINGLE = "single model"


@dataclass(frozen=True)
class Alternative:
    """One way to predict the text. Nats per token; intervals over text, for these models."""

    name: str
    nats: Interval
    gain: Interval | None
    """Nats per token less than the better model, paired; None of that model itself."""
    gate_gain: Interval | None
    """Nats per token that the gate has less than this, paired; None of the gate itself."""


@dataclass(frozen=True)
class WeightBin:
    """Tokens whose weight of the first model lies in one tenth of 0 to 1."""

    low: float
    high: float
    tokens: int
    weight: float
    """Mean weight of the first model."""
    responsibility: float
    """Mean probability that the first model made the token; the mean weight, if calibrated."""


@dataclass(frozen=True)
class RoutedType:
    """A type of token and the mean weight of the first model where it came."""

    token: str
    occurrences: int
    weight: float


@dataclass(frozen=True)
class RoutedDocument:
    """A document of the measured text."""

    name: str
    tokens: int
    weight: float
    """Mean weight of the first model."""
    difference: float
    """Nats per token of the second less those of the first model."""
    nats: tuple[float, ...] = ()
    """Nats per token of each of the result's alternatives, in their order. With them results of
    several seeds are put together. Empty in results that were stored before this was kept."""


@dataclass(frozen=True)
class Routing(Result, kind="route"):
    """What a gate between two finished models gains."""

    first: str
    second: str
    single: str | None
    store: str
    fit_split: str
    fit_tokens: int
    ridge: float
    split: str
    context: int
    windows: int
    tokens: int
    clusters: Clusters
    better: str
    """The model that is better on the text of the fit."""
    constant: float
    """The one weight of the first model."""
    alternatives: tuple[Alternative, ...]
    weight: Interval
    """Mean weight of the first model."""
    bins: tuple[WeightBin, ...]
    towards_first: tuple[RoutedType, ...]
    towards_second: tuple[RoutedType, ...]
    documents: tuple[RoutedDocument, ...]
    gate: Gate

    def alternative(self, name: str) -> Alternative:
        return next(a for a in self.alternatives if a.name == name)


@dataclass(frozen=True)
class _Read:
    """Tokens of a batch: which window, which type, nats of each model, and features."""

    window_N: np.ndarray
    type_N: np.ndarray
    nats_KN: np.ndarray
    features_NF: np.ndarray


def route(
    first: LanguageModel,
    second: LanguageModel,
    store: TokenStore,
    *,
    single: LanguageModel | None = None,
    fit_split: str = "validation",
    fit_tokens: int = 50_000,
    split: str = "test",
    context: int | None = None,
    max_windows: int | None = None,
    bar: Bar | None = None,
) -> Routing:
    """Fits a gate on `fit_split` and measures on `split` what it gains; nats per token.

    `context` is the window in tokens (default: the shortest of the models' own, at most 1024),
    `fit_tokens` bounds the text of the fit (a fixed random sample of windows), `max_windows` that
    of the measurement. `bar` counts tokens.

    Raises `UserError` for models that do not read text from left to right or right to left, alike;
    for a store of another tokenizer; for one split for both; and where the text of the fit has
    fewer than two documents and two sections.
    """
    models = [first, second, *([] if single is None else [single])]
    if fit_split == split:
        raise UserError(f"the gate would be measured on the text that it was fitted on: {split}")
    for lm in models:
        _check(lm, first, store)
    context = min(lm.window(context) for lm in models)
    sampled = max(1, fit_tokens // context)
    fitted_on = first.windows(store, fit_split, context=context, max_windows=sampled)
    windows = first.windows(store, split, context=context, max_windows=max_windows)
    total = float(fitted_on.length_M.sum() + windows.length_M.sum())
    progress = nullcontext(bar) if bar else track("route", total, "tokens")
    with progress as counted:
        parts = list(_read(models[:2], fitted_on, counted))
        gate, constant, ridge = _fitted(parts, fitted_on)
        means_K = np.concatenate([part.nats_KN for part in parts], axis=1).mean(1)
        fit_count = sum(len(part.window_N) for part in parts)
        del parts
        better = int(means_K[1] < means_K[0])
        sums = _Sums(len(windows), store.vocabulary, len(models))
        for part in _read(models, windows, counted):
            sums.add(part, gate, constant, better)
    clusters = windows.clusters
    nats, tokens_M = sums.nats, sums.tokens_M
    alternatives = tuple(
        Alternative(
            name,
            clusters.ratio(nats_M, tokens_M),
            None if name == BETTER else clusters.ratio(nats[BETTER] - nats_M, tokens_M),
            None if name == GATE else clusters.ratio(nats_M - nats[GATE], tokens_M),
        )
        for name, nats_M in nats.items()
    )
    first_types, second_types = sums.types(store)
    return Routing(
        first=first.name,
        second=second.name,
        single=None if single is None else single.name,
        store=str(store.path),
        fit_split=fit_split,
        fit_tokens=fit_count,
        ridge=ridge,
        split=split,
        context=context,
        windows=len(windows),
        tokens=int(tokens_M.sum()),
        clusters=clusters,
        better=models[better].name,
        constant=float(expit(constant)),
        alternatives=alternatives,
        weight=within(clusters.ratio(sums.weight_M, tokens_M), 0, 1),
        bins=sums.bins(),
        towards_first=first_types,
        towards_second=second_types,
        documents=sums.documents(windows),
        gate=gate,
    )


def _check(lm: LanguageModel, first: LanguageModel, store: TokenStore) -> None:
    lm.check_store(store)
    if not lm.objective.reading.autoregressive or lm.order != first.order:
        raise UserError(
            f"{lm.name} ({lm.objective.name}, {lm.order}) and {first.name} "
            f"({first.objective.name}, {first.order}): a gate needs causal models of one order, "
            "which predict the same token from the same text"
        )
    if not lm.backbone.linear:
        raise UserError(
            f"{lm.name}: {type(lm.model).__name__} has no states apart from its head, which the "
            "gate would read; use a model with a linear head"
        )


@torch.no_grad()
def _read(models: Sequence[LanguageModel], windows: EvaluationWindows, bar: Bar) -> Iterator[_Read]:
    """Batches of all windows; features of the first two models."""
    at_once = max(1, min(batch_tokens(lm.model) for lm in models) // windows.context)
    padded = all(can_pad(lm.backbone, lm.objective, windows) for lm in models)
    for rows, length in window_batches(windows, at_once, padded=padded):
        ids = [windows.ids(int(row)) for row in rows]
        batches = [
            lm.objective.reading.batch(ids, device=lm.backbone.device, length=length)
            for lm in models
        ]
        counted_N = (batches[0].targets_N != IGNORED).cpu()  # of all models alike
        nats, features = [], []
        for number, (lm, batch) in enumerate(zip(models, batches, strict=True)):
            with evaluating(lm.model):
                nats_N = lm.objective.criterion.each(lm.backbone, batch)[counted_N]
                if number < 2:
                    states_ND = hidden_states(lm.backbone, batch)[counted_N]
                    features.append(states_ND.float().cpu().numpy())
            nats.append(nats_N.double().cpu().numpy())
        yield _Read(
            window_N=rows[batches[0].window_K.cpu().numpy()],
            type_N=batches[0].targets_N.cpu()[counted_N].numpy(),
            nats_KN=np.stack(nats),
            features_NF=np.concatenate(features, axis=1),
        )
        bar.advance(float(windows.length_M[rows].sum()))


def _fitted(parts: Sequence[_Read], windows: EvaluationWindows) -> tuple[Gate, float, float]:
    """The gate, the log odds of the one weight for all, and the chosen ridge."""
    first_N, second_N = np.concatenate([part.nats_KN for part in parts], axis=1)
    features_NF = np.concatenate([part.features_NF for part in parts])
    window_N = np.concatenate([part.window_N for part in parts])
    units, unit_M = np.unique(windows.clusters.unit_N, return_inverse=True)
    if len(units) < 2:
        raise UserError(
            "the text that the gate is fitted on is one section of one document; give `fit_tokens` "
            "more of it, or a store with more held-out documents"
        )
    fold_N = unit_M[window_N] % _FOLDS
    ridge = chosen_ridge(features_NF, first_N, second_N, fold_N, _RIDGES)
    gate = fit_gate(features_NF, first_N, second_N, ridge=ridge)
    constant = fit_gate(features_NF[:, :0], first_N, second_N, ridge=0.0)
    return gate, constant.bias, ridge


class _Sums:
    """Sums over the measured text."""

    def __init__(self, windows: int, vocabulary: int, models: int) -> None:
        names = [BETTER, EQUAL, CONSTANT, GATE, PICKED, ORACLE, *([SINGLE] if models > 2 else [])]
        self.nats = {name: np.zeros(windows) for name in names}
        self.tokens_M, self.weight_M, self.difference_M = np.zeros((3, windows))
        self.type_tokens_V, self.type_weight_V = np.zeros((2, vocabulary))
        self.bin_sums = np.zeros((3, _BINS))  # tokens, weight, responsibility

    def add(self, read: _Read, gate: Gate, constant: float, better: int) -> None:
        first_N, second_N = read.nats_KN[:2]
        logit_N = gate.logit(read.features_NF)
        weight_N = expit(logit_N)
        ways = {
            BETTER: read.nats_KN[better],
            EQUAL: mixture_nats(0.0, first_N, second_N),
            CONSTANT: mixture_nats(constant, first_N, second_N),
            GATE: mixture_nats(logit_N, first_N, second_N),
            PICKED: np.where(logit_N >= 0, first_N, second_N),
            ORACLE: np.minimum(first_N, second_N),
        }
        if SINGLE in self.nats:
            ways[SINGLE] = read.nats_KN[2]
        windows = len(self.tokens_M)
        for name, nats_N in ways.items():
            self.nats[name] += np.bincount(read.window_N, nats_N, windows)
        self.tokens_M += np.bincount(read.window_N, minlength=windows)
        self.weight_M += np.bincount(read.window_N, weight_N, windows)
        self.difference_M += np.bincount(read.window_N, second_N - first_N, windows)
        vocabulary = len(self.type_tokens_V)
        self.type_tokens_V += np.bincount(read.type_N, minlength=vocabulary)[:vocabulary]
        self.type_weight_V += np.bincount(read.type_N, weight_N, vocabulary)[:vocabulary]
        bin_N = np.minimum((weight_N * _BINS).astype(int), _BINS - 1)
        made_N = responsibility(logit_N, first_N, second_N)
        for row, values_N in enumerate((np.ones_like(weight_N), weight_N, made_N)):
            self.bin_sums[row] += np.bincount(bin_N, values_N, _BINS)

    def bins(self) -> tuple[WeightBin, ...]:
        return tuple(
            WeightBin(k / _BINS, (k + 1) / _BINS, int(count), weight / count, made / count)
            for k, (count, weight, made) in enumerate(self.bin_sums.T)
            if count
        )

    def types(self, store: TokenStore) -> tuple[tuple[RoutedType, ...], tuple[RoutedType, ...]]:
        """The types with the largest and the least mean weight of the first model."""
        frequent = np.flatnonzero(self.type_tokens_V >= _LEAST_OCCURRENCES)
        mean_V = self.type_weight_V[frequent] / self.type_tokens_V[frequent]
        order = frequent[np.argsort(-mean_V, kind="stable")].tolist()
        text = [
            RoutedType(
                store.tokenizer.token(i),
                int(self.type_tokens_V[i]),
                float(self.type_weight_V[i] / self.type_tokens_V[i]),
            )
            for i in order
        ]
        count = min(_EXTREME_TYPES, len(text) // 2)
        return tuple(text[:count]), tuple(reversed(text[len(text) - count :]))

    def documents(self, windows: EvaluationWindows) -> tuple[RoutedDocument, ...]:
        numbers, number_M = np.unique(windows.clusters.document_N, return_inverse=True)
        tokens, weight, difference, *nats = (
            np.bincount(number_M, values_M, len(numbers))
            for values_M in (self.tokens_M, self.weight_M, self.difference_M, *self.nats.values())
        )
        return tuple(
            RoutedDocument(
                windows.document_names[int(n)], int(t), float(w / t), float(d / t),
                tuple(float(x / t) for x in of_each),
            )
            for n, t, w, d, *of_each in zip(numbers, tokens, weight, difference, *nats, strict=True)
            if t
        )  # fmt: skip
