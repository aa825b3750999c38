"""The shape of a cloud of vectors: how far they point one way, how many directions they fill.

Notable:
- Everything follows from sums over rows (`RowMoments`), so rows can be streamed and no N x N matrix
  is formed. Sums are float64.
- Two forms of each spectrum. Uncentred: the rows as they are, so a common offset is a direction of
  its own, often the largest. Centred: about the mean of the rows. They answer different questions.
- Squared singular values come from a D x D matrix. Those below rounding are taken as zero, so
  singular values under about 1e-7 of the largest are lost; entropies barely see these.

Legend: N rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError


class RowMoments:
    """Sums over rows that all figures of `cloud` follow from; filled by `update`, in any order.

    Memory: D x D float64, whatever the number of rows.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows = 0
        self.zero_rows = 0
        """Rows of norm zero: they have no direction and are left out of the cosines alone."""
        self.sum_of_norms = 0.0
        self.sum_D = np.zeros(width)
        self.sum_of_unit_rows_D = np.zeros(width)
        self.second_DD = np.zeros((width, width))
        """Uncentred: the sum of x x^T."""

    def update(self, rows_ND: ArrayLike) -> None:
        """Adds rows. `UserError` for a value that is not finite."""
        x_ND = np.asarray(rows_ND, dtype=np.float64)
        assert x_ND.shape == (len(x_ND), self.width)
        if not np.isfinite(x_ND).all():
            n, d = np.argwhere(~np.isfinite(x_ND))[0]
            raise UserError(f"row {n} has {x_ND[n, d]} in dimension {d}; rows must be finite")
        norm_N = np.linalg.norm(x_ND, axis=1)
        self.rows += len(x_ND)
        self.zero_rows += int((norm_N == 0).sum())
        self.sum_of_norms += float(norm_N.sum())
        self.sum_D += x_ND.sum(0)
        self.sum_of_unit_rows_D += (x_ND / np.where(norm_N == 0, 1.0, norm_N)[:, None]).sum(0)
        self.second_DD += x_ND.T @ x_ND


@dataclass(frozen=True)
class Spectrum:
    """How evenly the singular values of rows are spread; None where all of them are zero.

    `entropy` is of the shares p_i = s_i / sum s, in nats; `effective_rank` = exp(entropy), between
    1 and the rank (Roy and Vetterli 2007, The effective rank); `normalised_entropy` =
    entropy / log D, between 0 and 1, None for D = 1.
    """

    entropy: float | None
    normalised_entropy: float | None
    effective_rank: float | None


@dataclass(frozen=True)
class Cloud:
    """The figures of a cloud of rows. Those that its rows cannot give are None."""

    rows: int
    zero_rows: int
    """Rows of norm zero, left out of `mean_cosine` only."""
    dimensions: int
    mean_norm: float
    mean_cosine: float | None
    """Over all pairs of distinct rows; 0: all directions alike, 1: one direction."""
    uncentred: Spectrum
    centred: Spectrum
    participation_ratio: float | None
    """(sum l)^2 / sum l^2 of the eigenvalues of the covariance: 1 to D, D where all are equal.
    Squares weigh the largest directions more than `effective_rank` does."""


def cloud(moments: RowMoments) -> Cloud:
    """The figures of all rows that `moments` has seen. `UserError` if there are none."""
    n = moments.rows
    if n == 0:
        raise UserError("no rows, so they have no shape")
    centred_D = singular_values(moments, centred=True)
    square = float((centred_D**4).sum())
    return Cloud(
        rows=n,
        zero_rows=moments.zero_rows,
        dimensions=moments.width,
        mean_norm=moments.sum_of_norms / n,
        mean_cosine=_mean_cosine(moments),
        uncentred=spectrum(singular_values(moments, centred=False)),
        centred=spectrum(centred_D),
        participation_ratio=float((centred_D**2).sum()) ** 2 / square if square else None,
    )


def singular_values(moments: RowMoments, *, centred: bool) -> NDArray[np.float64]:
    """Singular values (D,) of the N x D matrix of rows, largest first; about their mean if asked.

    With fewer rows than dimensions the last D - N are zero.
    """
    second_DD = moments.second_DD
    # The rounding of the uncentred sums is what centring leaves of equal rows: no direction
    floor = moments.width * np.finfo(np.float64).eps * float(np.trace(second_DD))
    if centred and moments.rows:
        second_DD = second_DD - np.outer(moments.sum_D, moments.sum_D) / moments.rows
    squares_D = np.linalg.eigvalsh(second_DD)[::-1]
    return np.sqrt(np.where(squares_D > floor, squares_D, 0.0))


def spectrum(singular_values_D: ArrayLike) -> Spectrum:
    """Entropy and effective rank of singular values (the zero ones count among the D)."""
    s_D = np.asarray(singular_values_D, dtype=np.float64)
    total = s_D.sum()
    if total == 0:
        return Spectrum(None, None, None)
    p = s_D[s_D > 0] / total
    entropy = max(0.0, float(-(p * np.log(p)).sum()))
    normalised = entropy / float(np.log(len(s_D))) if len(s_D) > 1 else None
    return Spectrum(entropy, normalised, float(np.exp(entropy)))


def _mean_cosine(moments: RowMoments) -> float | None:
    """(|sum u|^2 - n) / (n (n - 1)): the unit rows u of all pairs, less each with itself."""
    n = moments.rows - moments.zero_rows
    if n < 2:
        return None
    u_D = moments.sum_of_unit_rows_D
    return float((u_D @ u_D - n) / (n * (n - 1)))
