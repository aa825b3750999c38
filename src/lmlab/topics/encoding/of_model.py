"""The encoding of token probability in one model's output embedding, on a split of a store.

Notable:
- Left out of the fit, and counted: rows that pad the vocabulary, and the tokenizer's special
  tokens, which no text has.
- The output bias that a model has (its own or lmlab's log-unigram) is an offset of the fit; R2 is
  of -log alpha for all models, and what the bias explains alone stands beside it.
- A scaled head counts as its embedding scaled. A soft-capped one has no closed-form predictors.

Shapes: D width, V vocabulary, N sampled tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.unigram import token_counts
from lmlab.data.windows import EvaluationWindows
from lmlab.lm.language_model import LanguageModel
from lmlab.numerics.frequency import type_deciles
from lmlab.progress import track
from lmlab.results import Result
from lmlab.topics.encoding.encoding import (
    NULLS,
    DecileError,
    Encoding,
    EncodingFit,
    EncodingStatistics,
    Sparsity,
    error_by_frequency,
    fit_encoding,
    null_fits,
    predictor_r2,
    sparsity,
)
from lmlab.topics.encoding.token_probability import choose_windows, store_statistics

_SAMPLE = 900  # tokens of a scatter plot


@dataclass(frozen=True)
class Head:
    """The output embedding and bias as arrays, float64, the scale of the head included."""

    embedding_VD: NDArray[np.float64]
    offset_V: NDArray[np.float64] | None
    capped: bool

    @property
    def bias_V(self) -> NDArray[np.float64]:
        """The bias; zeros without one."""
        return np.zeros(len(self.embedding_VD)) if self.offset_V is None else self.offset_V


def output_head(lm: LanguageModel) -> Head:
    """`UserError` for a head whose output embedding is not known (`Backbone.head`)."""
    head = lm.backbone.head
    bias = head.bias_V
    return Head(
        head.scale * head.weight_VD.detach().double().cpu().numpy(),
        None if bias is None else head.scale * bias.detach().double().cpu().numpy(),
        head.cap is not None,
    )


@dataclass(frozen=True)
class Measured:
    """A model's output embedding, and its regression on a text."""

    head: Head
    windows: EvaluationWindows
    statistics: EncodingStatistics
    encoding: Encoding


@dataclass(frozen=True)
class TokenSample:
    """A random sample of the fitted tokens, as many as a figure draws."""

    id_N: NDArray[np.int64]
    tenth_N: NDArray[np.int64]
    """Of frequency in the training split (`numerics.frequency`); 0: not in it."""
    predicted_N: NDArray[np.float64]
    """-log mean probability by the fit without the token's fold, nats."""
    actual_N: NDArray[np.float64]
    map_N2: NDArray[np.float64]
    """Output embeddings on the first two principal components of those of all fitted tokens."""
    text_N: tuple[str, ...] = ()
    """Of the tokens; empty in results of before it was kept."""


@dataclass(frozen=True)
class EncodingResult(Result, kind="encode"):
    """How a model's output embedding encodes the mean probability of its tokens on a split."""

    model: str
    order: str
    head: str
    store: str
    split: str
    context: int
    windows: int
    positions: int
    conditions: str
    """What each position's distribution was given."""
    encoding: EncodingFit
    mean_hidden_D: NDArray[np.float64]
    """Mean of the states that the head reads."""
    predictors: dict[str, float]
    """R2 of the closed-form predictors; empty for a soft-capped head."""
    nulls: dict[str, float]
    """R2 of what should explain little, and of log counts (`encoding.null_fits`)."""
    sparsity: Sparsity
    errors: tuple[DecileError, ...]
    sample: TokenSample
    map_variance: tuple[float, float]
    """Shares of the embedding's variance that its first two principal components have."""
    padded: int
    """Rows of the embedding that are no token."""
    padded_probability: float
    """Mean probability of all of them."""


def measure(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str = "validation",
    context: int | None = None,
    max_windows: int | None = 256,
    ridge: float = 0.0,
) -> Measured:
    """The regression of -log mean probability on the output embedding, on a split of a store.

    Raises `UserError` as `token_probability.choose_windows` and `models.backbone.Backbone.head`.
    """
    windows = choose_windows(lm, store, split=split, context=context, max_windows=max_windows)
    return regression(lm, windows, store_statistics(lm, windows), ridge=ridge)


def regression(
    lm: LanguageModel,
    windows: EvaluationWindows,
    statistics: EncodingStatistics,
    *,
    ridge: float = 0.0,
) -> Measured:
    """`measure` of windows whose statistics are known."""
    head = output_head(lm)
    with track("regression", 1.0, "fits") as bar:
        encoding = fit_encoding(
            head.embedding_VD,
            statistics.alpha_V,
            offset_V=head.offset_V,
            exclude=not_text(lm, len(head.embedding_VD)),
            ridge=ridge,
        )
        bar.advance()
    return Measured(head, windows, statistics, encoding)


def encode(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str = "validation",
    context: int | None = None,
    max_windows: int | None = 256,
    ridge: float = 0.0,
    rotations: int = 5,
) -> EncodingResult:
    """How a model's output embedding encodes its tokens' mean probability on a split.

    Raises `UserError` as `measure`.
    """
    measured = measure(
        lm, store, split=split, context=context, max_windows=max_windows, ridge=ridge
    )
    return described(lm, store, measured, split=split, rotations=rotations)


def described(
    lm: LanguageModel, store: TokenStore, measured: Measured, *, split: str, rotations: int = 5
) -> EncodingResult:
    """A regression with what it is compared with: predictors, nulls, random bases."""
    head, statistics, encoding = measured.head, measured.statistics, measured.encoding
    counts_V = training_counts(lm, store, len(head.embedding_VD))
    with track("regressions", float(NULLS + 1 + rotations), "fits") as bar:
        nulls = null_fits(head.embedding_VD, encoding, counts_V=counts_V, bar=bar)
        sparse = sparsity(head.embedding_VD, encoding, rotations=rotations, bar=bar)
    sample, map_variance = _sample(head.embedding_VD, encoding, counts_V, lm.tokenizer)
    return EncodingResult(
        model=lm.name,
        order=lm.order,
        head=lm.head,
        store=str(store.path),
        split=split,
        context=measured.windows.context,
        windows=len(measured.windows),
        positions=statistics.positions,
        conditions=lm.conditions,
        encoding=encoding.fit,
        mean_hidden_D=statistics.mean_hidden_D,
        predictors={}
        if head.capped
        else predictor_r2(head.embedding_VD, statistics, encoding, offset_V=head.offset_V),
        nulls=nulls,
        sparsity=sparse,
        errors=error_by_frequency(encoding, counts_V),
        sample=sample,
        map_variance=map_variance,
        padded=len(lm.unused_rows),
        padded_probability=statistics.unused,
    )


def _sample(
    embedding_VD: NDArray[np.float64],
    encoding: Encoding,
    counts_V: NDArray[np.int64],
    tokenizer: TextTokenizer,
) -> tuple[TokenSample, tuple[float, float]]:
    """A sample of the tokens, and the shares of variance of the components that it is mapped on."""
    centred_ND = embedding_VD[encoding.tokens]
    centred_ND -= centred_ND.mean(0)
    variances, vectors = np.linalg.eigh(centred_ND.T @ centred_ND / len(centred_ND))
    # the sign of a component is arbitrary: the first rises with probability
    first = vectors[:, -1] * np.sign((centred_ND @ vectors[:, -1]) @ -encoding.target_N)
    map_N2 = centred_ND @ np.column_stack([first, vectors[:, -2]])
    rows = np.sort(np.random.default_rng(0).permutation(len(centred_ND))[:_SAMPLE])
    sample = TokenSample(
        id_N=encoding.tokens[rows],
        tenth_N=type_deciles(counts_V[encoding.tokens])[rows],
        predicted_N=encoding.held_out_N[rows],
        actual_N=encoding.target_N[rows],
        map_N2=map_N2[rows],
        text_N=tuple(tokenizer.token(int(i)) for i in encoding.tokens[rows]),
    )
    first_share, second_share = variances[[-1, -2]] / variances.sum()
    return sample, (float(first_share), float(second_share))


def not_text(lm: LanguageModel, rows: int) -> NDArray[np.int64]:
    """Ids that no text has: special tokens, and rows that are no token of the tokenizer."""
    special = [token for token in lm.tokenizer.special_ids if token < rows]
    return np.array([*special, *lm.unused_rows], dtype=np.int64)


def training_counts(lm: LanguageModel, store: TokenStore, rows: int) -> NDArray[np.int64]:
    """How often each row's token stands in the training split; 0 for rows that pad."""
    counts_V = np.zeros(rows, dtype=np.int64)
    stored_V = token_counts(store.split("train"), store.vocabulary)
    counts_V[: len(stored_V)] = stored_V
    return counts_V
