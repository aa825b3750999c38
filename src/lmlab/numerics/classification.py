"""How well classes or values are predicted, and what each example contributes to that.

`metric` gives accuracy, F1, Matthews' correlation, Pearson's or Spearman's. `pseudo_values` gives
one figure an example whose mean is the metric, corrected for its bias by the jackknife (Quenouille
1956; Tukey 1958). So a metric that is no mean over examples (all but accuracy) gets a standard
error, and with a row a seed the interval of `lmlab.numerics.random_effects`.

Notable:
- Every metric is defined for all data. A correlation, Matthews' included, of which one side is
  constant is 0, and an F1 without a true or predicted example of its class is 0.
- F1, 2 hits / (true + predicted), is that of class 1 where there are two classes, and the mean of
  the classes' own where there are more (macro, over the classes that occur among the true or the
  predicted ones). Matthews' correlation of more than two classes is that of Gorodkin (2004).
  Spearman's is Pearson's of the ranks, ties at their mean rank.
- The metrics without each one of the examples are exact. Class metrics need counts only, one
  removal for each pair of true and predicted class; Pearson's needs sums; Spearman's ranks are
  made again, O(N^2) in chunks.

Shapes: N examples, C classes, M removals, R removals of a chunk. Arrays only.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError
from lmlab.numerics import jackknife

MetricName = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]
RANGES = {
    name: (0.0, 1.0) if name in ("accuracy", "f1") else (-1.0, 1.0) for name in get_args(MetricName)
}
"""The least and the greatest value of each metric."""

_CHUNK = 1 << 18
_Float = NDArray[np.float64]
_Counts = NDArray[np.int64]


def metric(
    name: str, predicted_N: ArrayLike, true_N: ArrayLike, *, classes: int | None = None
) -> float:
    """A metric by its name, in its range (`RANGES`).

    `classes` is the number of classes of the task, by default as many as the highest number seen
    asks for, at least two. It matters to F1 alone (see above).

    Classes are whole numbers from 0. Raises `UserError` for an unknown name, and for values that
    are not finite.
    """
    name = _named(name)
    if name not in _OF_CLASSES:
        predicted, true = _values(predicted_N, true_N)
        if name == "spearman":
            predicted, true = _ranks(predicted), _ranks(true)
        return _correlation(predicted, true)
    margins = _margins(*_class_numbers(predicted_N, true_N, classes))
    return float(_OF_CLASSES[name](*margins))


def pseudo_values(
    name: str, predicted_N: ArrayLike, true_N: ArrayLike, *, classes: int | None = None
) -> _Float:
    """Jackknife pseudo-values (N,) of a metric: n theta - (n - 1) theta without the example.

    Their mean is the bias-corrected metric, and the square root of their variance over n its
    standard error: for accuracy the accuracy itself and sqrt(p (1 - p) / (n - 1)).

    Raises `UserError` as `metric`, and for fewer than two examples.
    """
    theta = metric(name, predicted_N, true_N, classes=classes)
    n = len(np.asarray(true_N))
    if n < 2:
        raise UserError("one example alone has no pseudo-value; evaluate on at least two")
    if name == "pearson":
        without_N = _pearson_without_each(*_values(predicted_N, true_N))
    elif name == "spearman":
        without_N = _spearman_without_each(*_values(predicted_N, true_N))
    else:
        data = _class_numbers(predicted_N, true_N, classes)
        without_N = _class_metric_without_each(name, *data)
    return jackknife.pseudo_values(theta, without_N)


def class_weights(labels_N: ArrayLike, classes: int) -> _Float:
    """Weights (C,) that make the classes count alike: N / (C n_c), whose mean over examples is 1.

    Every class has to occur.
    """
    counts_C = np.bincount(np.asarray(labels_N), minlength=classes)
    assert counts_C.shape == (classes,)
    assert counts_C.all(), "the caller names absent classes"
    return counts_C.sum() / (classes * counts_C)


def _named(name: str) -> MetricName:
    if name not in get_args(MetricName):
        raise UserError(f"metric '{name}' is none of {', '.join(get_args(MetricName))}")
    return cast(MetricName, name)


def _pair(predicted_N: ArrayLike, true_N: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = np.asarray(predicted_N), np.asarray(true_N)
    assert predicted.shape == true.shape == (len(true),) != (0,)
    return predicted, true


def _class_numbers(
    predicted_N: ArrayLike, true_N: ArrayLike, classes: int | None
) -> tuple[_Counts, _Counts, int]:
    predicted, true = _pair(predicted_N, true_N)
    assert np.issubdtype(predicted.dtype, np.integer)
    assert np.issubdtype(true.dtype, np.integer)
    highest = int(max(predicted.max(), true.max()))
    assert 0 <= min(predicted.min(), true.min()) <= highest < (classes or highest + 1)
    return predicted.astype(np.int64), true.astype(np.int64), max(2, classes or 1 + highest)


def _values(predicted_N: ArrayLike, true_N: ArrayLike) -> tuple[_Float, _Float]:
    predicted, true = (each.astype(np.float64) for each in _pair(predicted_N, true_N))
    for what, values in (("predicted", predicted), ("true", true)):
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values)))
            raise UserError(f"{what} value {at} is {values[at]}; every value must be finite")
    return predicted, true


def _margins(
    predicted_N: _Counts, true_N: _Counts, classes: int
) -> tuple[_Counts, _Counts, _Counts]:
    """Numbers (C,) of hits, of predicted and of true examples of each class."""
    parts = (true_N[predicted_N == true_N], predicted_N, true_N)
    hits_C, predicted_C, true_C = (np.bincount(each, minlength=classes) for each in parts)
    return hits_C, predicted_C, true_C


def _accuracy(hits_MC: _Counts, predicted_MC: _Counts, true_MC: _Counts) -> _Float:
    return hits_MC.sum(-1) / true_MC.sum(-1)


def _f1(hits_MC: _Counts, predicted_MC: _Counts, true_MC: _Counts) -> _Float:
    both_MC = predicted_MC + true_MC
    each_MC = 2 * hits_MC / np.maximum(both_MC, 1)
    if both_MC.shape[-1] == 2:
        return each_MC[..., 1]
    return each_MC.sum(-1) / (both_MC > 0).sum(-1)


def _matthews(hits_MC: _Counts, predicted_MC: _Counts, true_MC: _Counts) -> _Float:
    """Correlation of the one-hot forms of true and predicted classes."""
    n_M = true_MC.sum(-1)
    together_M = hits_MC.sum(-1) * n_M - (predicted_MC * true_MC).sum(-1)
    spread_M, true_spread_M = (n_M**2 - (each**2).sum(-1) for each in (predicted_MC, true_MC))
    scale_M = np.sqrt(spread_M) * np.sqrt(true_spread_M)
    return np.where(scale_M > 0, together_M / np.where(scale_M > 0, scale_M, 1), 0.0)


_OF_CLASSES = {"accuracy": _accuracy, "f1": _f1, "matthews": _matthews}


def _class_metric_without_each(
    name: str, predicted_N: _Counts, true_N: _Counts, classes: int
) -> _Float:
    cells_M, cell_N = np.unique(true_N * classes + predicted_N, return_inverse=True)
    one_CC = np.eye(classes, dtype=np.int64)
    true_MC, predicted_MC = one_CC[cells_M // classes], one_CC[cells_M % classes]
    removed = (true_MC * predicted_MC, predicted_MC, true_MC)
    margins = _margins(predicted_N, true_N, classes)
    left = [whole_C - gone_MC for whole_C, gone_MC in zip(margins, removed, strict=True)]
    return _OF_CLASSES[name](*left)[cell_N]


def _constant(values_N: _Float) -> bool:
    return bool(values_N.min() == values_N.max())


def _centred(values_N: _Float) -> _Float:
    """Deviations from the mean, scaled by a power of two so that no square leaves the range."""
    scaled_N = np.ldexp(values_N, -int(np.frexp(np.abs(values_N).max())[1]))
    deviations_N = scaled_N - scaled_N.mean()
    return deviations_N - deviations_N.mean()  # the first mean is rounded


def _correlation(x_N: _Float, y_N: _Float) -> float:
    if _constant(x_N) or _constant(y_N):
        return 0.0
    x, y = _centred(x_N), _centred(y_N)
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))


def _pearson_without_each(x_N: _Float, y_N: _Float) -> _Float:
    """Without example i a sum of products about the mean loses x_i y_i n / (n - 1)."""
    n = len(x_N)
    if _constant(x_N) or _constant(y_N):
        return np.zeros(n)
    x, y = _centred(x_N), _centred(y_N)
    xx, yy, xy = (a @ b - a * b * n / (n - 1) for a, b in ((x, x), (y, y), (x, y)))
    # An example that holds nearly all of a variance leaves rounding behind, or exactly nothing
    alone_N = (xx < 1e-3 * (x @ x)) | (yy < 1e-3 * (y @ y))
    safe_xx, safe_yy = np.where(alone_N, 1.0, xx), np.where(alone_N, 1.0, yy)
    without_N = np.clip(xy / np.sqrt(safe_xx * safe_yy), -1, 1)
    for i in np.flatnonzero(alone_N):
        without_N[i] = _correlation(np.delete(x_N, i), np.delete(y_N, i))
    return without_N


def _spearman_without_each(x_N: _Float, y_N: _Float) -> _Float:
    """Without an example, ranks above it fall by 1, ranks equal to its by 1/2: all exact."""
    n = len(x_N)
    rows = max(1, _CHUNK // n)
    parts: list[_Float] = []
    for start in range(0, n, rows):
        here = slice(start, min(start + rows, n))
        x_RN, y_RN = _ranks_without(_ranks(x_N), here), _ranks_without(_ranks(y_N), here)
        xy, xx, yy = (np.einsum("rn,rn->r", a, b)
                      for a, b in ((x_RN, y_RN), (x_RN, x_RN), (y_RN, y_RN)))  # fmt: skip
        scale_R = np.sqrt(xx) * np.sqrt(yy)
        parts.append(np.where(scale_R > 0, xy / np.where(scale_R > 0, scale_R, 1), 0.0))
    return np.concatenate(parts)


def _ranks(values_N: _Float) -> _Float:
    """Ranks (N,) from 1, the mean rank for equal values."""
    from scipy.stats import rankdata  # half a second, which no training run should wait for

    return rankdata(values_N)


def _ranks_without(ranks_N: _Float, here: slice) -> _Float:
    """Ranks (R, N) about their mean when each example of `here` is left out (0 at its place)."""
    gone_R1 = ranks_N[here, None]
    fall_RN = (ranks_N > gone_R1) + 0.5 * (ranks_N == gone_R1)
    ranks_RN = ranks_N - fall_RN - len(ranks_N) / 2
    ranks_RN[np.arange(len(ranks_RN)), np.arange(here.start, here.stop)] = 0.0
    return ranks_RN
