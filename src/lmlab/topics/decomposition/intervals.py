"""How far the R2 of a decomposition would change with other test documents.

The fit stays as it is; documents of the test split are resampled (delete-one jackknife) from sums
over each of them: rows, sum u, sum |u|^2, sum |u - W z - b|^2. Every resample has its own mean of
u, as R2 demands.

Notable: the jackknife is of log(1 - R2), which is nearer to normal than R2, whose upper end is
fixed at 1. Measured coverage: docs/decomposition.md.

Shapes: N rows, C documents (or sections), U width of the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError
from lmlab.numerics.jackknife import jackknife_interval
from lmlab.numerics.random_effects import Interval
from lmlab.topics.decomposition.decomposition import Decomposition

Array = NDArray[np.float64]


class DocumentSums:
    """Sums by document of one decomposition's test rows, filled by `update` in any order.

    With fewer than five documents, sums by section: `documents` then says how many documents these
    are from, and the interval is for them only.
    """

    def __init__(self, fit: Decomposition, *, documents: int | None = None) -> None:
        self.fit = fit
        self.from_documents = documents
        # About a fixed point near the mean, so that squares lose no digits; R2 does not depend
        # on it
        self._origin_U: Array | None = None
        self._sums: dict[int, Array] = {}
        """Of each document: rows, |u|^2, |u - W z - b|^2, u."""

    def update(self, rows: Mapping[str, ArrayLike], documents_N: ArrayLike) -> None:
        """Adds aligned rows of target and basis (others are not used), with their documents.

        Raises `UserError` for a model that is missing, or another number of documents than rows.
        """
        if self.fit.target not in rows:
            raise UserError(f"no rows of the target '{self.fit.target}'")
        u_NU = np.asarray(rows[self.fit.target], dtype=np.float64)
        document_N = np.asarray(documents_N)
        residual_N = ((u_NU - self.fit.predict(rows)) ** 2).sum(1)
        if document_N.shape != residual_N.shape:
            raise UserError(f"{len(residual_N)} rows, but documents of shape {document_N.shape}")
        if self._origin_U is None and len(u_NU):
            self._origin_U = u_NU.mean(0)
        u_NU = u_NU - (0 if self._origin_U is None else self._origin_U)
        values_NK = np.column_stack([np.ones(len(u_NU)), (u_NU**2).sum(1), residual_N, u_NU])
        for document in np.unique(document_N).tolist():
            sums = values_NK[document_N == document].sum(0)
            self._sums[document] = self._sums.get(document, 0.0) + sums

    @property
    def documents(self) -> list[int]:
        return sorted(self._sums)

    @property
    def rows_C(self) -> Array:
        return self._arrays()[0]

    @property
    def r2(self) -> float:
        """R2 of all rows, as the fit's own."""
        n_C, sum_CU, square_C, residual_C = self._arrays()
        total_U = sum_CU.sum(0)
        spread = square_C.sum() - total_U @ total_U / n_C.sum()
        return float(1 - residual_C.sum() / spread)

    def r2_without(self) -> Array:
        """R2 without each document (C,)."""
        n_C, sum_CU, square_C, residual_C = self._arrays()
        rest_CU = sum_CU.sum(0) - sum_CU
        rest_n_C = n_C.sum() - n_C
        spread_C = square_C.sum() - square_C - (rest_CU**2).sum(1) / np.maximum(rest_n_C, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - (residual_C.sum() - residual_C) / spread_C

    def r2_of(self, kept_RC: NDArray[np.bool_]) -> Array:
        """R2 of each choice of documents (R,)."""
        n_C, sum_CU, square_C, residual_C = self._arrays()
        kept = kept_RC.astype(np.float64)
        spread_R = kept @ square_C - ((kept @ sum_CU) ** 2).sum(1) / (kept @ n_C)
        return 1 - kept @ residual_C / spread_R

    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        if not self._sums:
            raise UserError("no test rows yet")
        sums_CK = np.stack([self._sums[document] for document in self.documents])
        return sums_CK[:, 0], sums_CK[:, 3:], sums_CK[:, 1], sums_CK[:, 2]


def r2_interval(*sums: DocumentSums) -> Interval:
    """Interval of the test R2 over documents; of several fits on the same documents that of their
    mean (the group correlation). None is given for fewer than five documents.

    Raises `UserError` where their documents differ.
    """
    _same_documents(sums)
    share = float(np.mean([1 - s.r2 for s in sums]))
    if share <= 0:  # nothing is left over: there is nothing to vary
        share = np.finfo(np.float64).tiny
    without_C = np.mean([1 - s.r2_without() for s in sums], axis=0)
    return jackknife_interval(
        float(np.log(share)),
        np.log(np.maximum(without_C, np.finfo(np.float64).tiny)),
        sums[0].rows_C,
        documents=sums[0].from_documents,
        back=lambda value: 1 - float(np.exp(value)),
    )


def r2_difference(a: Sequence[DocumentSums], b: Sequence[DocumentSums]) -> Interval:
    """Interval of the mean R2 of `a` less the mean R2 of `b`, paired by document.

    Raises `UserError` where their documents differ.
    """
    _same_documents([*a, *b])
    means = [float(np.mean([s.r2 for s in side])) for side in (a, b)]
    without = [np.mean([s.r2_without() for s in side], axis=0) for side in (a, b)]
    return jackknife_interval(
        means[0] - means[1],
        without[0] - without[1],
        a[0].rows_C,
        documents=a[0].from_documents,
    )


def _same_documents(sums: Sequence[DocumentSums]) -> None:
    first = sums[0]
    for other in sums[1:]:
        if other.documents != first.documents or not np.array_equal(other.rows_C, first.rows_C):
            raise UserError("the fits were scored on different test documents")
