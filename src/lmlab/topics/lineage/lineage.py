"""The tree of models: three calibrated similarities, a tree of each, and how much of a known
lineage each recovers.

Notable:
- Distances are minus the logarithm of the calibrated similarity: where each model changes what its
  parent makes of text independently of its siblings, similarities multiply along the tree, and
  their logarithms add up, as neighbour joining wants it. `linear` takes one minus it.
- Everything is done anew on random halves of the test documents (`numerics.half_samples`): the
  share of them whose tree has a branch is its support (Felsenstein 1985, with halves in place of
  the bootstrap). Linear maps stay as they were fitted; of the other two the null is shuffled anew.
- Quartet accuracy is over the fours of models that the true tree resolves; a random tree has 1/3.
  A true tree over the same models with the names dealt out at random says how often chance does as
  well.

The models are one draw: intervals and supports are over text, for these models.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.numerics.half_samples import half_sample_interval, half_samples
from lmlab.numerics.random_effects import Interval
from lmlab.numerics.trees import (
    Tree,
    members,
    neighbour_joining,
    newick_splits,
    quartet_accuracy,
    quartets,
    topologies,
)
from lmlab.progress import say, track
from lmlab.results import Result
from lmlab.topics.decomposition.of_models import embed_models, labels
from lmlab.topics.decomposition.options import EmbeddingConfig
from lmlab.topics.lineage.options import LineageConfig
from lmlab.topics.lineage.similarities import (
    Array,
    Calibrated,
    LinearMaps,
    calibrated,
    centred_kernel,
    compared,
    gathered,
    grams,
    neighbour_kernel,
)

CKA, NEIGHBOURS, LMD = "debiased CKA", "mutual neighbours", "LMD R²"
FLOOR = 0.01
"""A calibrated similarity below this counts as this: there is no longer distance than -log 0.01."""
FEWEST_UNITS = 8
"""Of text; with fewer there are hardly 70 halves."""
_HALF_PERMUTATIONS = 9
"""Of a half only the mean of its null is needed."""
_RELABELLED = 999
_SEED = 0


@dataclass(frozen=True)
class PairSimilarity:
    """One measure of two models."""

    one: str
    other: str
    value: float
    null: float
    """Mean over shuffles of the documents."""
    p: float
    """Share of shuffles, the observed order among them, that are as similar."""
    calibrated: float
    """0: as without any relation; 1: identity."""


@dataclass(frozen=True)
class InnerBranch:
    """A branch with at least two models on both sides."""

    members: tuple[str, ...]
    """The models on the side without the first one."""
    support: float
    """Share of the halves of the text whose tree has it."""
    number: int | None
    """Among the tree's branches; None for a branch of the true tree that this tree lacks."""
    in_truth: bool | None
    """None where the true tree is not known."""


@dataclass(frozen=True)
class Recovery:
    """How much of the true tree one tree has."""

    accuracy: Interval
    """Share of the quartets that the true tree resolves."""
    p: float
    """Share of random namings of the true tree's leaves, the true one among them, that do as well.
    """
    found: int
    """Of the true tree's inner branches."""


@dataclass(frozen=True)
class MeasuredTree:
    """What one measure shows."""

    measure: str
    similarities: tuple[PairSimilarity, ...]
    tree: Tree
    """By neighbour joining; leaves are the models in their order."""
    newick: str
    branches: tuple[InnerBranch, ...]
    """Of the tree, and then those of the true tree that it lacks."""
    recovery: Recovery | None
    """None where the true tree is not known."""


@dataclass(frozen=True)
class Truth:
    """The true tree."""

    text: str
    branches: int
    """Inner ones, without the root."""
    quartets: int
    """That it resolves."""
    of_quartets: int
    """Of all fours of models."""


@dataclass(frozen=True)
class AccuracyDifference:
    """Quartet accuracy of one measure's tree less that of another's, on the same halves."""

    one: str
    other: str
    difference: Interval


@dataclass(frozen=True)
class Lineage(Result, kind="lineage"):
    """Trees of models by what they make of the same text."""

    store: str
    embedding: EmbeddingConfig
    models: dict[str, str]
    """Paths or Hub names by label."""
    neighbours: int
    distance: str
    permutations: int
    halves: int
    measures: tuple[MeasuredTree, ...]
    truth: Truth | None
    differences: tuple[AccuracyDifference, ...]
    rows: dict[str, int]
    """By split."""
    shortened: int
    """Pieces that were cut to fit the model with the shortest input."""
    documents: int
    """Of the test text."""
    units: int
    """Of it that are shuffled and halved: documents, or sections of few of them."""
    cluster_unit: str
    text_note: str | None
    """What the store's tokenizer lost of the test text, in words."""
    same_rows: tuple[tuple[str, str], ...]
    """Models with the same rows as an earlier one, and that one."""


def lineage(config: LineageConfig, *, device: str = "cpu") -> Lineage:
    """The trees that `config` asks for.

    Raises `UserError` for a true tree over other names or one that resolves nothing, too little
    test text, no more rows in a half of it than neighbours, and as `embed_models`.
    """
    models = labels(config.models)
    names = list(models)
    truth = None if config.truth is None else _truth(config.truth, names)
    embedded = embed_models(
        models,
        TokenStore(config.store),
        config.embedding,
        counts={
            "train": config.pieces,
            "validation": config.held_out_pieces,
            "test": config.held_out_pieces,
        },
        lab=config.lab,
        device=device,
    )
    test = embedded["test"]
    for name, earlier in test.same_rows:
        say(f"{name} has the same rows as {earlier}: a copy, or its body was not trained further")
    rows, unit_N = gathered(test)
    units, number_N = np.unique(unit_N, return_inverse=True)
    kept_RC = half_samples(len(units), config.halves, seed=_SEED)
    _check_text(config, number_N, kept_RC)
    grams_MNN = grams(rows)
    work = 1.0 + config.permutations + 2 + config.halves
    with track("lineage", work, "fits of all pairs") as bar:
        maps = LinearMaps(embedded, permutations=config.permutations, bar=bar)
        whole: dict[str, Calibrated] = {}
        for measure in (CKA, NEIGHBOURS):
            whole[measure] = _of_rows(config, measure, grams_MNN, number_N, config.permutations)
            bar.advance(1)
        whole[LMD] = maps.similarity
        half: dict[str, list[Array]] = {measure: [] for measure in whole}
        null_MM = maps.similarity.null_mean_MM
        half[LMD] = [calibrated(r2_MM, null_MM) for r2_MM in maps.r2_of(kept_RC)]
        for kept_C in kept_RC:
            kept_N = kept_C[number_N]
            part_MNN = grams_MNN[:, kept_N][:, :, kept_N]
            for measure in (CKA, NEIGHBOURS):
                seen = _of_rows(config, measure, part_MNN, number_N[kept_N], _HALF_PERMUTATIONS)
                half[measure].append(seen.calibrated_MM)
            bar.advance(1)
    trees = {
        measure: [_tree(matrix, config.distance) for matrix in (seen.calibrated_MM, *half[measure])]
        for measure, seen in whole.items()
    }
    documents = test.clusters.documents
    accuracies = {m: _accuracies(of_measure, truth) for m, of_measure in trees.items()}
    differences = [
        AccuracyDifference(a, b, _interval(accuracies[a] - accuracies[b], len(units), documents))
        for a, b in combinations(whole if truth else (), 2)
    ]
    measured = [
        _measured(m, seen, trees[m], names, truth, accuracies[m], len(units), documents)
        for m, seen in whole.items()
    ]
    return Lineage(
        store=str(config.store),
        embedding=config.embedding,
        models=models,
        neighbours=config.neighbours,
        distance=config.distance,
        permutations=config.permutations,
        halves=config.halves,
        measures=tuple(measured),
        truth=truth and truth.described,
        differences=tuple(differences),
        rows={split: of.stores[names[0]].rows for split, of in embedded.items()},
        shortened=sum(of.shortened for of in embedded.values()),
        documents=documents,
        units=len(units),
        cluster_unit=test.cluster_unit,
        text_note=test.text_note,
        same_rows=test.same_rows,
    )


@dataclass(frozen=True)
class _KnownTree:
    splits: tuple[int, ...]
    quartets_Q4: NDArray[np.int64]
    topology_Q: NDArray[np.int64]
    described: Truth


def _truth(text: str, names: list[str]) -> _KnownTree:
    splits = newick_splits(text, names)
    quartets_Q4 = quartets(len(names))
    topology_Q = topologies(splits, quartets_Q4)
    resolved = int((topology_Q >= 0).sum())
    if not resolved:
        raise UserError(
            f"`truth` {text!r} says of no four models which two belong together; put brackets "
            "around at least two that have a parent in common"
        )
    described = Truth(text, len(splits), resolved, len(quartets_Q4))
    return _KnownTree(tuple(splits), quartets_Q4, topology_Q, described)


def _check_text(
    config: LineageConfig, number_N: NDArray[np.int64], kept_RC: NDArray[np.bool_]
) -> None:
    units = kept_RC.shape[1]
    if units < FEWEST_UNITS:
        raise UserError(
            f"{config.store}: its test text has {units} documents (or sections of about 4,000 "
            f"tokens, of fewer than five documents); halves of it need at least {FEWEST_UNITS}"
        )
    fewest = int((kept_RC @ np.bincount(number_N)).min())
    if fewest <= max(config.neighbours, 3):
        raise UserError(
            f"{config.store}: a half of its test text has {fewest} rows, and `neighbours` is "
            f"{config.neighbours}; more must be left, so lower it or raise `held_out_pieces`"
        )


def _of_rows(
    config: LineageConfig,
    measure: str,
    grams_MNN: NDArray[np.float32],
    number_N: NDArray[np.int64],
    permutations: int,
) -> Calibrated:
    kernels = [
        centred_kernel(gram_NN) if measure == CKA else neighbour_kernel(gram_NN, config.neighbours)
        for gram_NN in grams_MNN
    ]
    return compared(kernels, number_N, permutations=permutations, seed=_SEED)


def distances(calibrated_MM: Array, kind: str) -> Array:
    """Distances of calibrated similarities: minus the logarithm, or (`linear`) one minus them."""
    if kind == "linear":
        return np.maximum(1 - calibrated_MM, 0.0)
    return np.maximum(-np.log(np.maximum(calibrated_MM, FLOOR)), 0.0)


def _tree(calibrated_MM: Array, kind: str) -> Tree:
    return neighbour_joining(distances(calibrated_MM, kind))


def _accuracies(trees: list[Tree], truth: _KnownTree | None) -> Array:
    """Of each tree (1 + R,); empty where the true one is not known."""
    if truth is None:
        return np.empty(0)
    return np.array([
        quartet_accuracy(
            truth.topology_Q, topologies(list(tree.splits().values()), truth.quartets_Q4)
        )
        for tree in trees
    ])  # fmt: skip


def _interval(values_1R: Array, units: int, documents: int) -> Interval:
    """Of the first value, over the others."""
    return half_sample_interval(
        float(values_1R[0]), values_1R[1:], units=units, documents=documents
    )


def _measured(
    measure: str,
    seen: Calibrated,
    trees: list[Tree],
    names: list[str],
    truth: _KnownTree | None,
    accuracy_1R: Array,
    units: int,
    documents: int,
) -> MeasuredTree:
    tree, *halves = trees
    in_halves = [set(half.splits().values()) for half in halves]
    own = tree.splits()
    known = None if truth is None else set(truth.splits)
    lacking = [split for split in truth.splits if split not in own.values()] if truth else []
    branches = [
        InnerBranch(
            members=tuple(members(split, names)),
            support=float(np.mean([split in splits for splits in in_halves])),
            number=number,
            in_truth=None if known is None else split in known,
        )
        for number, split in (*own.items(), *((None, split) for split in lacking))
    ]
    recovery = None
    if truth is not None:
        recovery = Recovery(
            accuracy=_interval(accuracy_1R, units, documents),
            p=_chance(tree, truth, len(names)),
            found=len(truth.splits) - len(lacking),
        )
    return MeasuredTree(
        measure=measure,
        similarities=tuple(
            PairSimilarity(
                names[a],
                names[b],
                float(seen.value_MM[a, b]),
                float(seen.null_mean_MM[a, b]),
                float(seen.p_MM[a, b]),
                float(seen.calibrated_MM[a, b]),
            )
            for a, b in combinations(range(len(names)), 2)
        ),
        tree=tree,
        newick=tree.newick(names),
        branches=tuple(branches),
        recovery=recovery,
    )


def _chance(tree: Tree, truth: _KnownTree, leaves: int) -> float:
    """Share of random namings of the true tree's leaves that agree with `tree` as well."""
    rng = np.random.default_rng(_SEED)
    found = list(tree.splits().values())
    reached = quartet_accuracy(truth.topology_Q, topologies(found, truth.quartets_Q4))
    as_good = 0
    for _ in range(_RELABELLED):
        name_L = rng.permutation(leaves)
        renamed = [sum(1 << int(name_L[i]) for i in range(leaves) if s >> i & 1) for s in found]
        dealt = quartet_accuracy(truth.topology_Q, topologies(renamed, truth.quartets_Q4))
        as_good += dealt >= reached
    return (1 + as_good) / (1 + _RELABELLED)
