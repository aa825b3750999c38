"""Symmetric similarities of two models' features, from the same scatter as their decomposition.

- Linear CKA: |S_xy|_F^2 / (|S_xx|_F |S_yy|_F) (Kornblith et al. 2019).
- CCA: mean squared canonical correlation over the smaller of the two ranks; with `explained` below
  1 both are first cut to the leading directions that hold that share of their variance (SVCCA,
  Raghu et al. 2017). Invariant to invertible maps; with full rank and few rows it is near 1 for
  noise too.
- Procrustes: |S_xy|_*^2 / (tr S_xx tr S_yy), the R2 of the best rotation, reflection and scaling of
  one onto the other; widths may differ (the narrower one is padded with zeros).

All are between 0 and 1 and the same both ways. Shapes: X, Y widths of the two models.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from lmlab.analyses.decomposition import check_basis
from lmlab.errors import UserError
from lmlab.numerics.regression import eigenvalue_cutoff
from lmlab.numerics.scatter import Scatter

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """Three similarities of a pair; CCA with the number of directions it is a mean over."""

    cka: float
    cca: float
    directions: int
    procrustes: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def similarity(scatter: Scatter, a: str, b: str, *, explained: float = 1.0) -> Similarity:
    """Similarities of models `a` and `b` over the rows of `scatter`.

    `explained` is the share of variance that CCA keeps of each. Raises `UserError` for names that
    are not there, a model that does not vary, or a share outside (0, 1].
    """
    check_basis(scatter, a, [b])
    check_basis(scatter, b, [a])
    if not 0 < explained <= 1:
        raise UserError(f"explained variance {explained} must be above 0 and at most 1")
    xx, yy = scatter.covariance([a]), scatter.covariance([b])
    xy = scatter.covariance([a], [b])
    whitened = _whitening(xx, explained).T @ xy @ _whitening(yy, explained)
    directions = min(whitened.shape)
    nuclear = float(np.linalg.norm(xy, "nuc"))
    return Similarity(
        cka=float((xy**2).sum() / np.sqrt((xx**2).sum() * (yy**2).sum())),
        cca=float((whitened**2).sum() / directions),
        directions=directions,
        procrustes=nuclear**2 / float(np.trace(xx) * np.trace(yy)),
    )


def _whitening(covariance_DD: Array, explained: float) -> Array:
    """(D, K): leading directions over their standard deviations."""
    values_D, vectors_DD = eigh(covariance_DD)
    values_D, vectors_DD = values_D[::-1], vectors_DD[:, ::-1]
    rank = int((values_D > eigenvalue_cutoff(values_D)).sum())
    held_D = np.cumsum(values_D[:rank]) / values_D[:rank].sum()
    kept = min(rank, int(np.searchsorted(held_D, explained - 1e-12)) + 1)
    return vectors_DD[:, :kept] / np.sqrt(values_D[:kept])
