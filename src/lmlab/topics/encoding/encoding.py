"""How an output embedding holds the mean probability of its tokens (Cho et al., COLING 2025).

-log alpha_w ~ A . E_w + B, alpha_w the mean output probability of token w over a corpus, E_w its
row of the output embedding; A and B by regression over the vocabulary.

Why it holds: log P(w | x) = E_w . h - log Z(h). To first order -log alpha_w ~ -E_w . E[h] + const,
so A is near -E[h]. With h and log Z jointly Gaussian, exactly
log alpha_w = E_w . (E[h] + c) - E[log Z] + E_w' Sigma E_w / 2 + Var(log Z) / 2, c = -Cov(h, log Z),
Sigma = Cov(h). Both predictors stand beside the regression, with nothing fitted.

Notable:
- R2 is held-out: over tokens the fit has not seen (5 folds, seed 0). Noise has D / V in sample.
- R2 is always that of -log alpha, so that models with and without a head bias have one target. The
  bias is an offset: part of the prediction, with its coefficient of one, not fitted. Beside it
  stand the bias alone and the embedding alone, and the root mean square error in nats, which does
  not depend on how much -log alpha varies.
- Rare tokens dominate the variance, so the error is given by tenths of frequency too.
- That few dimensions carry the encoding depends on the basis: rotating E and h leaves all else as
  it is. The sparsity curve stands beside that of random rotations.

Shapes: D width, V vocabulary, N fitted tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError
from lmlab.numerics.folded_regression import (
    fit_linear,
    fold_r2,
    held_out_constant,
    r2_of_prediction,
    random_rotation,
    sparsity_curve,
)
from lmlab.numerics.frequency import DECILES, rank_correlation, type_deciles
from lmlab.progress import Bar
from lmlab.topics.encoding.token_probability import EncodingStatistics

Array = NDArray[np.float64]
NULLS = 4
"""Fits of `null_fits` with counts."""
_ENOUGH = 0.9
_SEED = 0


@dataclass(frozen=True)
class Explained:
    """How near a prediction of -log alpha comes, on tokens held out."""

    r2: float
    """Mean over 5 folds of tokens, about each test fold's mean."""
    root_mean_square: float
    """Of the error, nats."""


@dataclass(frozen=True)
class EncodingFit:
    """-log alpha ~ slope . E + intercept - offset, in nats; the offset is the head bias."""

    slope_D: Array
    intercept: float
    standard_error_D: Array | None
    """Of the slope, robust to unequal variances (HC3), over the choice of tokens; None with ridge.
    """
    r2_train: float
    r2_heldout: float
    """Of -log alpha by embedding and bias: mean over 5 folds of tokens, about each fold's mean."""
    root_mean_square: float
    """Of the held-out error, nats."""
    r2_folds: tuple[float, ...]
    embedding_alone: Explained
    """A fit of -log alpha that leaves the bias out; without a bias the same fit."""
    bias_alone: Explained | None
    """Minus the bias and a constant; None without a bias."""
    spearman: float | None
    """Rank correlation of -log alpha and its held-out prediction."""
    ridge: float
    rank: int
    fitted: int
    """Tokens that the fit is of, N."""
    zero_alpha: int
    """Tokens left out because their mean probability is zero."""
    excluded: int
    """Tokens left out on request."""


@dataclass(frozen=True)
class Encoding(EncodingFit):
    """A fit with what it was made of, token by token."""

    tokens: NDArray[np.int64]
    """Ids of the fitted tokens (N,)."""
    alpha_V: Array
    """What was encoded, all tokens."""
    target_N: Array
    """-log alpha of the fitted tokens."""
    held_out_N: Array
    """Its prediction, bias included, by the fit without the token's fold."""

    @property
    def fit(self) -> EncodingFit:
        """The same without the arrays over tokens."""
        return EncodingFit(**{f.name: getattr(self, f.name) for f in fields(EncodingFit)})


def fit_encoding(
    embedding_VD: ArrayLike,
    alpha_V: ArrayLike,
    *,
    offset_V: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    ridge: float = 0.0,
) -> Encoding:
    """Regresses -log alpha on the output embedding, `offset_V` (the head bias) being known.

    `exclude` are token ids, or a mask (V,), to leave out (padding of the vocabulary, special
    tokens). Tokens with alpha = 0 are left out and counted. `ridge` is added to the diagonal of the
    embedding's covariance, absolute.

    Raises `UserError` for shapes that disagree, an alpha that is negative or not finite, or fewer
    tokens than folds.
    """
    embedding_VD = np.asarray(embedding_VD, dtype=np.float64)
    alpha_V = np.asarray(alpha_V, dtype=np.float64)
    if embedding_VD.ndim != 2 or alpha_V.shape != embedding_VD.shape[:1]:
        raise UserError(
            f"embedding {embedding_VD.shape} and alpha {alpha_V.shape}; give (V, D) and (V,)"
        )
    if not np.isfinite(alpha_V).all() or (alpha_V < 0).any():
        raise UserError("alpha must be finite and not negative")
    left_out_V = excluded_mask(exclude, len(alpha_V))
    kept_V = (alpha_V > 0) & ~left_out_V
    tokens = np.flatnonzero(kept_V)
    target_N = -np.log(alpha_V[tokens])
    offset_N = np.zeros(len(tokens))
    if offset_V is not None:
        offset = np.asarray(offset_V, dtype=np.float64)
        if offset.shape != alpha_V.shape:
            raise UserError(f"offset {offset.shape} and alpha {alpha_V.shape}; give (V,) each")
        offset_N = offset[tokens]
    fit = fit_linear(embedding_VD[tokens], target_N + offset_N, ridge=ridge)
    held_out_N = fit.held_out_N - offset_N
    whole = _explained(target_N, held_out_N)
    alone, bias = whole, None
    if offset_V is not None:
        without = fit_linear(embedding_VD[tokens], target_N, ridge=ridge)
        alone = _explained(target_N, without.held_out_N)
        bias = _explained(target_N, held_out_constant(target_N + offset_N) - offset_N)
    return Encoding(
        slope_D=fit.slope_D,
        intercept=fit.intercept,
        standard_error_D=fit.standard_error_D,
        r2_train=r2_of_prediction(target_N, fit.fitted_N - offset_N),
        r2_heldout=whole.r2,
        root_mean_square=whole.root_mean_square,
        r2_folds=fold_r2(target_N, held_out_N),
        embedding_alone=alone,
        bias_alone=bias,
        spearman=rank_correlation(target_N, held_out_N),
        ridge=ridge,
        rank=fit.rank,
        fitted=len(tokens),
        zero_alpha=int(((alpha_V == 0) & ~left_out_V).sum()),
        excluded=int(left_out_V.sum()),
        tokens=tokens,
        alpha_V=alpha_V,
        target_N=target_N,
        held_out_N=held_out_N,
    )


def _explained(target_N: Array, held_out_N: Array) -> Explained:
    return Explained(
        float(np.mean(fold_r2(target_N, held_out_N))),
        float(np.sqrt(((target_N - held_out_N) ** 2).mean())),
    )


def excluded_mask(exclude: ArrayLike | None, vocabulary: int) -> NDArray[np.bool_]:
    """Ids or a mask as a mask (V,). `UserError` for an id outside the vocabulary."""
    if exclude is None:
        return np.zeros(vocabulary, dtype=bool)
    given = np.asarray(exclude)
    if given.dtype == bool:
        if given.shape != (vocabulary,):
            raise UserError(f"a mask {given.shape} of tokens to leave out; give ({vocabulary},)")
        return given
    mask_V = np.zeros(vocabulary, dtype=bool)
    if given.size and (given.min() < 0 or given.max() >= vocabulary):
        raise UserError(
            f"token {given.max()} to leave out; the vocabulary ends at {vocabulary - 1}"
        )
    mask_V[given.astype(np.int64)] = True
    return mask_V


def predict_first_order(
    embedding_VD: ArrayLike, statistics: EncodingStatistics, *, offset_V: ArrayLike | None = None
) -> Array:
    """-log alpha (V,) as if every hidden state were the mean one: -E . E[h] - b + E[log Z]."""
    embedding_VD = np.asarray(embedding_VD, dtype=np.float64)
    bias_V = 0.0 if offset_V is None else np.asarray(offset_V, dtype=np.float64)
    return -(embedding_VD @ statistics.mean_hidden_D) - bias_V + statistics.mean_log_z


def predict_second_order(
    embedding_VD: ArrayLike, statistics: EncodingStatistics, *, offset_V: ArrayLike | None = None
) -> Array:
    """-log alpha (V,), exact where hidden states and log Z are jointly Gaussian.

    -E . (E[h] - Cov(h, log Z)) - b + E[log Z] - E' Sigma E / 2 - Var(log Z) / 2.
    """
    embedding_VD = np.asarray(embedding_VD, dtype=np.float64)
    spread_V = np.einsum("vd,vd->v", embedding_VD @ statistics.covariance_DD, embedding_VD)
    first_V = predict_first_order(embedding_VD, statistics, offset_V=offset_V)
    return (
        first_V
        + embedding_VD @ statistics.covariance_log_z_D
        - spread_V / 2
        - statistics.variance_log_z / 2
    )


@dataclass(frozen=True)
class DecileError:
    """Held-out error of the tokens of one tenth of those in the training text; 0: of all others."""

    bin: int
    tokens: int
    mean: float
    """Of target minus prediction: above zero, the tokens are less likely than predicted."""
    root_mean_square: float


def error_by_frequency(encoding: Encoding, counts_V: ArrayLike) -> tuple[DecileError, ...]:
    """The held-out error in nats by tenths of the tokens, 1 the rarest (`numerics.frequency`)."""
    bin_N = type_deciles(np.asarray(counts_V)[encoding.tokens])
    error_N = encoding.target_N - encoding.held_out_N
    return tuple(
        DecileError(
            bin=number,
            tokens=int(inside.sum()),
            mean=float(error_N[inside].mean()),
            root_mean_square=float(np.sqrt((error_N[inside] ** 2).mean())),
        )
        for number in range(DECILES + 1)
        if (inside := bin_N == number).any()
    )


def null_fits(
    embedding_VD: ArrayLike,
    encoding: Encoding,
    *,
    counts_V: ArrayLike | None = None,
    bar: Bar | None = None,
) -> dict[str, float]:
    """Held-out R2 of what should explain little, and of what explains without the embedding; all of
    -log alpha, without the bias.

    `random embedding`: Gaussian rows of the same mean and covariance. `permuted`: the tokens' alpha
    dealt out anew. `norm alone`: the embedding's norm. `log counts`: log(count + 1) in the training
    text, where `counts_V` are given. `bar` counts fits.
    """
    rng = np.random.default_rng(_SEED)
    x_ND = np.asarray(embedding_VD, dtype=np.float64)[encoding.tokens]
    y_N = encoding.target_N
    values, vectors = np.linalg.eigh(np.cov(x_ND.T, bias=True).reshape(x_ND.shape[1], -1))
    shape_DD = vectors * np.sqrt(np.maximum(values, 0))
    r2: dict[str, float] = {}

    def fit(name: str, of_ND: Array, to_N: Array) -> None:
        r2[name] = fit_linear(of_ND, to_N).r2_heldout
        if bar is not None:
            bar.advance()

    fit("random embedding", x_ND.mean(0) + rng.standard_normal(x_ND.shape) @ shape_DD.T, y_N)
    fit("permuted", x_ND, rng.permutation(y_N))
    fit("norm alone", np.linalg.norm(x_ND, axis=1)[:, None], y_N)
    if counts_V is not None:
        counts_N = np.asarray(counts_V, dtype=np.float64)[encoding.tokens]
        fit("log counts", np.log1p(counts_N)[:, None], y_N)
    return r2


@dataclass(frozen=True)
class Sparsity:
    """Held-out R2 by the number of most important dimensions, own basis and random ones."""

    sizes: tuple[int, ...]
    r2: tuple[float, ...]
    rotated_r2: tuple[tuple[float, ...], ...]
    """The same after each of some random rotations."""
    needed: int | None
    """Fewest dimensions that reach 90 % of the R2 of all; None where that is not above zero."""
    rotated_needed: tuple[int | None, ...]


def sparsity(
    embedding_VD: ArrayLike,
    encoding: Encoding,
    *,
    rotations: int = 5,
    bar: Bar | None = None,
) -> Sparsity:
    """How few dimensions predict -log alpha as well as all do, without the bias, against random
    bases of the same space. `bar` counts curves, one for each base."""
    x_ND = np.asarray(embedding_VD, dtype=np.float64)[encoding.tokens]
    width = x_ND.shape[1]
    sizes = sorted({*np.unique(np.round(np.geomspace(1, width, 24)).astype(int)).tolist(), width})
    rotation_DD = None  # the first base is the embedding's own
    curves: list[Array] = []
    for number in range(1 + rotations):
        curves.append(sparsity_curve(x_ND, encoding.target_N, sizes, rotation_DD=rotation_DD))
        rotation_DD = random_rotation(width, _SEED + number) if number < rotations else None
        if bar is not None:
            bar.advance()
    needed = [_needed(sizes, curve) for curve in curves]
    return Sparsity(
        tuple(sizes),
        tuple(curves[0].tolist()),
        tuple(tuple(curve.tolist()) for curve in curves[1:]),
        needed[0],
        tuple(needed[1:]),
    )


def _needed(sizes: Sequence[int], r2: Array) -> int | None:
    if r2[-1] <= 0:
        return None
    return next(k for k, value in zip(sizes, r2, strict=True) if value >= _ENOUGH * r2[-1])


def predictor_r2(
    embedding_VD: ArrayLike,
    statistics: EncodingStatistics,
    encoding: Encoding,
    *,
    offset_V: ArrayLike | None = None,
) -> dict[str, float]:
    """R2 of the closed-form predictors over the fitted tokens, nothing fitted; and of each up to a
    constant, since the first order misses E[log Z] only by one."""
    y_N = encoding.target_N
    r2: dict[str, float] = {}
    for name, predict in (("first order", predict_first_order),
                          ("second order", predict_second_order)):  # fmt: skip
        predicted_V = predict(embedding_VD, statistics, offset_V=offset_V)
        predicted_N = predicted_V[encoding.tokens]
        r2[name] = r2_of_prediction(y_N, predicted_N)
        r2[f"{name}, up to a constant"] = r2_of_prediction(
            y_N - y_N.mean(), predicted_N - predicted_N.mean()
        )
    return r2
