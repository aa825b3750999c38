"""Pairs of models over test documents: means over kinds of pairs, with intervals.

One model is regressed on one other; kinds are what the caller makes of pairs (another seed of the
same objective, another objective). Means and differences of kinds are paired by document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

from lmlab.numerics.random_effects import Interval
from lmlab.numerics.scatter import Scatter
from lmlab.topics.decomposition.decomposition import decompose
from lmlab.topics.decomposition.intervals import DocumentSums, mean_r2_interval
from lmlab.topics.decomposition.of_models import Embedded
from lmlab.topics.decomposition.shares import Pairwise

Pair = tuple[str, str]
"""Target and basis."""


def pair_sums(embedded: Mapping[str, Embedded], pairs: Pairwise) -> dict[Pair, DocumentSums]:
    """Every model regressed on every other alone, at its own ridge: sums over test documents.

    Raises `UserError` as `decompose`.
    """
    train = reduce(Scatter.merge, embedded["train"].scatter())
    documents = embedded["test"].clusters.documents
    sums = {
        (target, basis): DocumentSums(
            decompose(train, target, [basis], ridge=pairs.ridge(target, basis)),
            documents=documents,
        )
        for target in train.names
        for basis in train.names
        if basis != target
    }
    for rows, unit_N in embedded["test"].units():
        for one in sums.values():
            one.update(rows, unit_N)
    return sums


def by_kind(
    sums: Mapping[Pair, DocumentSums], kind_of: Callable[[str, str], str | None]
) -> dict[str, list[DocumentSums]]:
    """Pairs gathered by `kind_of(target, basis)`; those of kind None are left out."""
    kinds: dict[str, list[DocumentSums]] = {}
    for (target, basis), one in sums.items():
        kind = kind_of(target, basis)
        if kind is not None:
            kinds.setdefault(kind, []).append(one)
    return kinds


def kind_means(kinds: Mapping[str, list[DocumentSums]]) -> dict[str, Interval]:
    """Mean R2 of the pairs of each kind, with its interval over text."""
    return {kind: mean_r2_interval(of_kind) for kind, of_kind in kinds.items()}
