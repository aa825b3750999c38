"""Which ridge, and how sure the fit: ridge path, K-fold, training uncertainty, the null.

Notable:
- The ridge is chosen on a validation scatter, for each target by itself; the test split has no say.
- K-fold merges the scatters of the other folds: the same as fitting their rows.
- Training uncertainty is the delete-a-group jackknife: the fit again without each group of training
  text, every time scored on the same test split.
- The null permutes the rows of every model by itself, so that no row of one goes with a row of
  another: what is left is what p features explain by chance, p / (n - 1) in training and at or
  below 0 on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError
from lmlab.numerics.scatter import Scatter
from lmlab.topics.decomposition.decomposition import decompose, decompose_each

RIDGES = tuple(float(f"1e{e}") for e in range(-8, 3))


@dataclass(frozen=True)
class RidgePath:
    """R2 of one target at each ridge; `ridge` is the best on validation, the larger of equals."""

    ridges: tuple[float, ...]
    r2_train: tuple[float, ...]
    r2_validation: tuple[float, ...]
    ridge: float

    @property
    def note(self) -> str:
        if self.ridge in (self.ridges[0], self.ridges[-1]) and len(self.ridges) > 1:
            return f"the best ridge, {self.ridge:g}, is at the end of the path; widen it"
        return ""


def ridge_path(
    train: Scatter,
    validation: Scatter,
    basis: Mapping[str, Sequence[str]],
    *,
    ridges: Sequence[float] = RIDGES,
) -> dict[str, RidgePath]:
    """The ridge path of every target of `basis` (`decompose_each`).

    Raises `UserError` as `decompose`, and for no ridges.
    """
    if not ridges:
        raise UserError("give at least one ridge")
    ordered = tuple(sorted(ridges))
    fits = [
        decompose_each(train, basis, dict.fromkeys(basis, ridge), test=validation)
        for ridge in ordered
    ]
    paths = {}
    for name in basis:
        scores = [fit[name].r2_test for fit in fits]
        validated = tuple(score for score in scores if score is not None)
        best = max(range(len(ordered)), key=lambda i: (validated[i], i))
        trained = tuple(fit[name].r2_train for fit in fits)
        paths[name] = RidgePath(ordered, trained, validated, ordered[best])
    return paths


@dataclass(frozen=True)
class Folds:
    """R2 of each fold, fitted on all others; `r2` pools their sums of squares."""

    r2: float
    r2_of_folds: tuple[float, ...]


def k_fold(
    folds: Sequence[Scatter], target: str, basis: Sequence[str], *, ridge: float = 1e-6
) -> Folds:
    """Exact K-fold cross-validation. Raises `UserError` as `decompose`, and below two folds."""
    scores = _without_each(folds, target, basis, ridge, None)
    spread = [fold.n * float(np.trace(fold.covariance([target]))) for fold in folds]
    return Folds(1 - float(np.average(np.subtract(1, scores), weights=spread)), tuple(scores))


@dataclass(frozen=True)
class TrainingUncertainty:
    """Standard error of the test R2 from the choice of training text; nothing else is in it."""

    standard_error: float
    r2_without: tuple[float, ...]


def training_uncertainty(
    groups: Sequence[Scatter],
    test: Scatter,
    target: str,
    basis: Sequence[str],
    *,
    ridge: float = 1e-6,
) -> TrainingUncertainty:
    """Delete-a-group jackknife over groups of training text (10 are usual).

    Raises `UserError` as `decompose`, and for fewer than two groups.
    """
    scores = _without_each(groups, target, basis, ridge, test)
    g = len(scores)
    error = float(np.sqrt((g - 1) / g * ((np.array(scores) - np.mean(scores)) ** 2).sum()))
    return TrainingUncertainty(error, tuple(scores))


def permuted_rows(
    rows: Mapping[str, ArrayLike], *, seed: int = 0
) -> dict[str, NDArray[np.floating[Any]]]:
    """The same rows, those of each model in a random order of their own: the null."""
    rng = np.random.default_rng(seed)
    arrays = {name: np.asarray(values) for name, values in rows.items()}
    return {name: array[rng.permutation(len(array))] for name, array in arrays.items()}


def _without_each(
    parts: Sequence[Scatter], target: str, basis: Sequence[str], ridge: float, test: Scatter | None
) -> list[float]:
    """R2 of the fit without each part, on `test` or (None) on the part itself."""
    if len(parts) < 2:
        raise UserError(f"{len(parts)} part of the training text; at least two are needed")
    scores: list[float] = []
    for part in parts:
        others = reduce(Scatter.merge, [other for other in parts if other is not part])
        fit = decompose(others, target, basis, ridge=ridge, test=test or part)
        assert fit.test is not None
        scores.append(fit.test.r2)
    return scores
