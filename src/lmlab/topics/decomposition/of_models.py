"""Decomposition of models, from their names to every figure: embed, stream, fit, score.

Fitted on training text, the ridge chosen on validation text, scored on test text, each with its
interval over test documents. Used by the command and by the study.

Notable:
- Rows are kept on disk (`embedding_store`), model by model, and streamed from there: memory is that
  of the models and of the scatters, whatever the number of rows. One model at a time is on the
  device.
- The null is a second pass over the kept rows in which every model's are permuted by themselves.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from lmlab.data.documents import source_names
from lmlab.data.pieces import pieces_of
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.lm.encoder import open_encoder
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.numerics.scatter import Scatter
from lmlab.processes import shared_out
from lmlab.progress import say, track
from lmlab.results import Result
from lmlab.topics.decomposition.decomposition import (
    Decomposition,
    FitSummary,
    decompose,
    decompose_each,
)
from lmlab.topics.decomposition.embedding import padded_alike, prepare_text
from lmlab.topics.decomposition.embedding_store import EmbeddingStore, aligned_rows, kept_embeddings
from lmlab.topics.decomposition.intervals import DocumentSums, r2_interval
from lmlab.topics.decomposition.options import DecomposeConfig, EmbedConfig, EmbeddingConfig
from lmlab.topics.decomposition.ridge import (
    RIDGES,
    Folds,
    RidgePath,
    TrainingUncertainty,
    k_fold,
    permuted_rows,
    ridge_path,
    training_uncertainty,
)
from lmlab.topics.decomposition.shares import (
    GreedyPath,
    Pairwise,
    Ridges,
    Shares,
    greedy,
    pairwise,
    shares,
)
from lmlab.topics.decomposition.similarity import Similarity, SimilarityRows, similarity

K = TypeVar("K")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Embedded:
    """Rows of several models for one text, aligned."""

    stores: dict[str, EmbeddingStore]
    """By label."""
    config: EmbeddingConfig
    pieces: int
    shortened: int
    clusters: Clusters
    """Of the pieces."""
    cluster_unit: str
    text_note: str | None
    """What the store's tokenizer lost of the text that all models read, in words."""

    @property
    def padded_to(self) -> dict[str, int]:
        """What `published` pooling divided by, by label; empty for other poolings."""
        options = {label: store.manifest["options"] for label, store in self.stores.items()}
        return {label: o["padded_to"] for label, o in options.items() if "padded_to" in o}

    @property
    def same_rows(self) -> tuple[tuple[str, str], ...]:
        """Models with the rows of an earlier one, byte for byte, and that one: copies under other
        names, equal towers, bodies that no training moved."""
        first: dict[tuple[str, ...], str] = {}
        pairs = [
            (label, first.setdefault(tuple(store.manifest["files"].values()), label))
            for label, store in self.stores.items()
        ]
        return tuple((label, earlier) for label, earlier in pairs if label != earlier)

    def units(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Rows of all models, shard after shard, and the unit of resampling of each: its document,
        or its cluster where documents are few.
        """
        names_C, first = np.unique(self.clusters.cluster_N, return_index=True)
        unit_C = self.clusters.unit_N[first]
        for rows, cluster_N in aligned_rows(self.stores):
            yield rows, unit_C[np.searchsorted(names_C, cluster_N)]

    def scatter(self, *, parts: int = 1) -> list[Scatter]:
        """The scatter of the rows, in `parts` by documents.

        Several processes share the shards out, and each has the whole scatter.
        """
        scatters = [Scatter() for _ in range(parts)]
        for (rows, unit_N), is_mine in shared_out(self.units()):
            for part, scatter in enumerate(scatters):
                # no rows still say which models there are
                here = (unit_N % parts == part) & is_mine
                scatter.update({name: values[here] for name, values in rows.items()})
        scatters = [scatter.all_reduce() for scatter in scatters]
        if any(scatter.n == 0 for scatter in scatters):
            fewer = "use fewer folds" if parts > 2 else "leave it out, or give more text"
            raise UserError(f"`folds` {parts}: there are fewer documents; {fewer}")
        return scatters


def labels(models: Sequence[str]) -> dict[str, str]:
    """Short, distinct names of models, each with the model itself."""
    if len(set(models)) != len(models):
        raise UserError(f"each model once; got {', '.join(models)}")
    return dict(zip(source_names(models, lambda m: Path(m).name or m), models, strict=True))


def embed_models(
    models: Mapping[str, str],
    store: TokenStore,
    config: EmbeddingConfig,
    *,
    counts: Mapping[str, int | None],
    lab: Path,
    device: str = "cpu",
    padded_to: Mapping[str, int] | None = None,
) -> dict[str, Embedded]:
    """Rows of all `models` (label: path or Hub name) for the splits in `counts`, at most so many
    pieces of each.

    `padded_to` is what `published` pooling divides by, by label (default: the longest piece of all
    these splits).

    Raises `UserError` as `open_encoder`, `pieces_of` and `embed`.
    """
    opened = {label: open_encoder(path) for label, path in models.items()}
    texts = {
        split: prepare_text(opened, pieces_of(store.split(split), config.length, most=most), config)
        for split, most in counts.items()
    }
    alike = padded_alike([prepared for _, prepared in texts.values()], padded_to)
    embedded = {}
    for (split, (pieces, _)), prepared in zip(texts.items(), alike, strict=True):
        stores = {}
        for label, model in prepared.items():
            model.encoder.body.to(device)
            stores[label] = kept_embeddings(
                model, pieces, config, lab=lab, label=f"{label}, {split} split"
            )
            model.encoder.body.to("cpu")
        embedded[split] = Embedded(
            stores,
            config,
            len(pieces),
            pieces.shortened,
            pieces.clusters,
            pieces.cluster_unit,
            store.split(split).copied_note,
        )
    return embedded


@dataclass(frozen=True)
class KeptRows:
    """The rows of one model, and the folder that they are kept in."""

    rows: int
    width: int
    folder: str


@dataclass(frozen=True)
class Embeddings(Result, kind="embed"):
    """What `lmlab embed` makes: rows of every model for one text."""

    store: str
    split: str
    embedding: EmbeddingConfig
    models: dict[str, KeptRows]
    """By label."""
    pieces: int
    shortened: int
    """Pieces that were cut to fit the model with the shortest input."""
    text_note: str | None
    """What the store's tokenizer lost of the text, in words."""


def embeddings(config: EmbedConfig, *, device: str) -> Embeddings:
    """The rows that `config` asks for. Raises `UserError` as `embed_models`."""
    embedded = embed_models(
        labels(config.models),
        TokenStore(config.store),
        config.embedding,
        counts={config.split: config.pieces},
        lab=config.lab,
        device=device,
    )[config.split]
    return Embeddings(
        store=str(config.store),
        split=config.split,
        embedding=config.embedding,
        models={
            label: KeptRows(kept.rows, kept.width, str(kept.path))
            for label, kept in embedded.stores.items()
        },
        pieces=embedded.pieces,
        shortened=embedded.shortened,
        text_note=embedded.text_note,
    )


@dataclass(frozen=True)
class TargetDecomposition:
    """One target: its fit and what is known about it."""

    fit: FitSummary
    interval: Interval
    """Of the test R2, over test documents."""
    ridge_path: RidgePath | None
    """None where the ridge was given."""
    null: FitSummary
    """The same with the rows of every model permuted by themselves."""
    greedy: GreedyPath
    shares: Shares | None
    folds: Folds | None
    training_uncertainty: TrainingUncertainty | None


@dataclass(frozen=True)
class ModelsDecomposition(Result, kind="decompose"):
    """How much of a target, or of every model of a set, is a linear function of the others."""

    text: str
    """Where the text is from."""
    embedding: EmbeddingConfig
    models: dict[str, str]
    """Paths or Hub names by label."""
    widths: dict[str, int]
    targets: dict[str, TargetDecomposition]
    """One, or every model of the set."""
    group: Interval | None
    """The group correlation: mean leave-one-out R2 on test; None for a single target."""
    group_train: float | None
    pairs: Pairwise
    tree: tuple[tuple[int, int, float], ...]
    """Average linkage of 1 - R2 of the pairs, the mean of both ways: node, node, distance."""
    similarities: dict[str, dict[str, Similarity]]
    """Of every target with every other model."""
    rows: dict[str, int]
    """By split."""
    shortened: int
    """Pieces that were cut to fit the model with the shortest input."""
    documents: int
    """Of the test text, as `clusters`."""
    clusters: int
    cluster_unit: str
    text_note: str | None
    """What the store's tokenizer lost of the test text, in words."""
    same_rows: tuple[tuple[str, str], ...] = ()
    """Models with the same rows as an earlier one, and that one."""
    padded_to: dict[str, int] = field(default_factory=dict)
    """What `published` pooling divided by, by label; empty for other poolings."""


def decompose_models(
    config: DecomposeConfig, *, device: str
) -> tuple[ModelsDecomposition, dict[str, Decomposition]]:
    """The decomposition that `config` asks for, and the fits with their weights, by target.

    Raises `UserError` as `embed_models` and `decompose_embedded`.
    """
    models = labels(config.names)
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
    return decompose_embedded(
        embedded,
        models,
        text=str(config.store),
        target=None if config.target is None else next(iter(models)),
        ridge=config.ridge,
        folds=config.folds,
        shapley=config.shapley,
    )


def decompose_embedded(
    embedded: Mapping[str, Embedded],
    models: Mapping[str, str],
    *,
    text: str,
    target: str | None = None,
    ridge: float | None = None,
    folds: int = 0,
    shapley: bool = False,
) -> tuple[ModelsDecomposition, dict[str, Decomposition]]:
    """Every figure, from the kept rows of the splits train, validation and test; and the fits with
    their weights, by target. `text` says where the text is from.

    `target` is decomposed into all other models; without it each model is. `ridge` None takes the
    best on validation, for each target and for each set of basis models by itself.

    Progress counts fits, about. Raises `UserError` as `decompose`.
    """
    for name, earlier in embedded["test"].same_rows:
        say(f"{name} has the same rows as {earlier}: a copy, or its body was not trained further")
    targets = [target] if target is not None else list(models)
    basis = {t: [name for name in models if name != t] for t in targets}
    n = len(models)
    subsets = n * (n - 1) // 2  # that a greedy path fits
    work = len(SPLITS) + len(RIDGES) + 3 + len(targets) * subsets + n * (n - 1) + n
    with track("decomposition", float(work), "fits") as bar:
        parts = embedded["train"].scatter(parts=folds or 1)
        train = reduce(Scatter.merge, parts)
        validation, test = (embedded[split].scatter()[0] for split in SPLITS[1:])
        bar.advance(len(SPLITS), "next: ridges")
        paths: dict[str, RidgePath] = {}
        ridges = (ridge,) if ridge is not None else tuple(solvable_ridges(train))
        if ridge is None:
            paths = ridge_path(train, validation, basis, ridges=ridges)
        bar.advance(len(RIDGES), "next: fits and their null")
        chosen = {t: paths[t].ridge if ridge is None else ridge for t in targets}
        own = {t: Ridges(ridges, validation, start=chosen[t] or None) for t in targets}
        fits = decompose_each(train, basis, chosen, test=test)
        sums = document_sums(fits, embedded["test"])
        nulls = _nulls(embedded, chosen, basis)
        bar.advance(3, f"next: {targets[0]} from fewer models")
        results: dict[str, TargetDecomposition] = {}
        for t in targets:
            results[t] = TargetDecomposition(
                fit=fits[t].summary(),
                interval=r2_interval(sums[t]),
                ridge_path=paths.get(t),
                null=nulls[t].summary(),
                greedy=greedy(train, t, basis[t], ridge=own[t], test=test),
                shares=shares(train, t, basis[t], ridge=own[t], test=test) if shapley else None,
                folds=k_fold(parts, t, basis[t], ridge=chosen[t]) if folds else None,
                training_uncertainty=training_uncertainty(parts, test, t, basis[t], ridge=chosen[t])
                if folds
                else None,
            )
            bar.advance(subsets, f"{t} done")
        pairs = pairwise(train, ridge=Ridges(ridges, validation), test=test)
        bar.advance(n * (n - 1), "next: similarities")
        similarities = _similarities(embedded["test"], test, targets, list(models))
        bar.advance(n)
        tested = embedded["test"]
        result = ModelsDecomposition(
            text=text,
            embedding=tested.config,
            models=dict(models),
            widths=train.widths,
            targets=results,
            group=r2_interval(*sums.values()) if target is None else None,
            group_train=float(np.mean([fit.r2_train for fit in fits.values()]))
            if target is None
            else None,
            pairs=pairs,
            tree=_tree(pairs),
            similarities=similarities,
            rows={split: embedded[split].stores[targets[0]].rows for split in SPLITS},
            shortened=sum(embedded[split].shortened for split in SPLITS),
            documents=tested.clusters.documents,
            clusters=tested.clusters.clusters,
            cluster_unit=tested.cluster_unit,
            text_note=tested.text_note,
            same_rows=tested.same_rows,
            padded_to=tested.padded_to,
        )
        return result, fits


def _tree(pairs: Pairwise) -> tuple[tuple[int, int, float], ...]:
    r2 = np.array([[1.0 if value is None else value for value in row] for row in pairs.r2])
    distance = np.clip(1 - (r2 + r2.T) / 2, 0, None)
    merges = linkage(squareform(distance, checks=False), "average")
    return tuple((int(a), int(b), float(d)) for a, b, d, _ in merges)


def _similarities(
    embedded: Embedded, scatter: Scatter, targets: Sequence[str], models: Sequence[str]
) -> dict[str, dict[str, Similarity]]:
    """The similarities of every target with every other model."""
    seen = SimilarityRows(scatter)
    for rows, cluster_N in aligned_rows(embedded.stores):
        seen.update(rows, cluster_N)
    known: dict[frozenset[str], Similarity] = {}
    for a in targets:
        for b in models:
            if a != b and frozenset((a, b)) not in known:
                known[frozenset((a, b))] = similarity(seen, a, b)
    return {a: {b: known[frozenset((a, b))] for b in models if b != a} for a in targets}


def solvable_ridges(train: Scatter) -> list[float]:
    """The path's ridges that are not below the rounding of the covariance."""
    largest = max(float(np.trace(train.covariance([name]))) for name in train.names)
    floor = len(train.names) * largest * 1e-14
    return [ridge for ridge in RIDGES if ridge > floor]


def pair_sums(
    embedded: Mapping[str, Embedded], train: Scatter, pairs: Pairwise
) -> dict[tuple[str, str], DocumentSums]:
    """Sums over test documents of every model regressed on every other alone, (target, basis), at
    the ridges of `pairs`."""
    fits = {
        (target, basis): decompose(train, target, [basis], ridge=pairs.ridge(target, basis))
        for target in train.names
        for basis in train.names
        if basis != target
    }
    return document_sums(fits, embedded["test"])


def document_sums(fits: Mapping[K, Decomposition], embedded: Embedded) -> dict[K, DocumentSums]:
    """Sums of every fit over the documents of `embedded`, from one pass over its rows."""
    documents = embedded.clusters.documents
    sums = {target: DocumentSums(fit, documents=documents) for target, fit in fits.items()}
    for rows, unit_N in embedded.units():
        for of_fit in sums.values():
            of_fit.update(rows, unit_N)
    return sums


def _nulls(
    embedded: Mapping[str, Embedded], ridges: Mapping[str, float], basis: Mapping[str, list[str]]
) -> dict[str, Decomposition]:
    """Fits to rows permuted within each shard, train and test alike."""
    scatters = []
    for split in ("train", "test"):
        scatter = Scatter()
        shards = enumerate(aligned_rows(embedded[split].stores))
        for (number, (rows, _)), is_mine in shared_out(shards):
            if not is_mine:
                scatter.update({name: values[:0] for name, values in rows.items()})
                continue
            scatter.update(permuted_rows(rows, seed=zlib.crc32(f"{split} {number}".encode())))
        scatters.append(scatter.all_reduce())
    train, test = scatters
    return decompose_each(train, basis, ridges, test=test)
