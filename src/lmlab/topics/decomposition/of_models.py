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
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.data.documents import source_names
from lmlab.data.pieces import pieces_of
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.lm.encoder import open_encoder
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.numerics.scatter import Scatter
from lmlab.processes import shared_out
from lmlab.progress import Bar, track
from lmlab.topics.decomposition.decomposition import (
    Decomposition,
    decompose,
    group_correlation,
    leave_one_out,
)
from lmlab.topics.decomposition.embedding import prepare_text
from lmlab.topics.decomposition.embedding_store import EmbeddingStore, aligned_rows, kept_embeddings
from lmlab.topics.decomposition.intervals import DocumentSums, mean_r2_interval, r2_interval
from lmlab.topics.decomposition.options import DecomposeConfig, EmbeddingConfig
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

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Embedded:
    """Rows of several models for one text, aligned."""

    stores: dict[str, EmbeddingStore]
    """By label."""
    pieces: int
    shortened: int
    clusters: Clusters
    """Of the pieces."""
    cluster_unit: str
    text_note: str | None = None
    """What the store's tokenizer lost of the text that all models read, in words."""

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
        made = [Scatter() for _ in range(parts)]
        for (rows, unit_N), is_mine in shared_out(self.units()):
            for part, scatter in enumerate(made):
                # no rows still say which models there are
                here = (unit_N % parts == part) & is_mine
                scatter.update({name: values[here] for name, values in rows.items()})
        made = [scatter.all_reduce() for scatter in made]
        if any(scatter.n == 0 for scatter in made):
            fewer = "use fewer folds" if parts > 2 else "leave it out, or give more text"
            raise UserError(f"--folds {parts}: there are fewer documents; {fewer}")
        return made


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
) -> dict[str, Embedded]:
    """Rows of all `models` (label: path or Hub name) for the splits in `counts`, at most so many
    pieces of each.

    Raises `UserError` as `open_encoder`, `pieces_of` and `embed`.
    """
    opened = {label: open_encoder(path) for label, path in models.items()}
    made = {}
    for split, most in counts.items():
        pieces, prepared = prepare_text(
            opened, pieces_of(store.split(split), config.length, most=most), config
        )
        stores = {}
        for label, one in prepared.items():
            one.encoder.body.to(device)
            stores[label] = kept_embeddings(
                one, pieces, config, lab=lab, label=f"{label}, {split} split"
            )
            one.encoder.body.to("cpu")
        made[split] = Embedded(
            stores,
            len(pieces),
            pieces.shortened,
            pieces.clusters,
            pieces.cluster_unit,
            store.split(split).copied_note,
        )
    return made


def decompose_command(config: DecomposeConfig, *, device: str) -> DecompositionOfModels:
    """What `lmlab decompose` is asked for."""
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
        target=None if config.target is None else next(iter(models)),
        ridge=config.ridge,
        folds=config.folds,
        shapley=config.shapley,
    )


@dataclass(frozen=True)
class Found:
    """One target: its fit and what is known about it."""

    fit: Decomposition
    interval: Interval
    """Of the test R2, over test documents."""
    path: RidgePath | None
    null: Decomposition
    """The same with the rows of every model permuted by themselves."""
    greedy: GreedyPath
    shares: Shares | None
    folds: Folds | None
    training: TrainingUncertainty | None

    def to_json(self) -> dict[str, Any]:
        return {
            **self.fit.to_json(),
            "interval": asdict(self.interval),
            "ridge_path": None if self.path is None else self.path.to_json(),
            "null": {"r2_train": self.null.r2_train, "r2_test": self.null.r2_test},
            "greedy": asdict(self.greedy),
            "shares": None if self.shares is None else self.shares.to_json(),
            "k_fold": None if self.folds is None else asdict(self.folds),
            "training_uncertainty": None if self.training is None else asdict(self.training),
        }


@dataclass(frozen=True)
class DecompositionOfModels:
    """All that one pass over the text gives."""

    models: dict[str, str]
    widths: dict[str, int]
    found: dict[str, Found]
    """By target: one, or every model of the set."""
    group: Interval | None
    """The group correlation: mean leave-one-out R2 on test; None for a single target."""
    group_train: float | None
    pairs: Pairwise
    similarities: dict[str, dict[str, Similarity]]
    rows: dict[str, int]
    shortened: int
    documents: int
    clusters: int
    cluster_unit: str
    text_note: str | None = None
    """What the store's tokenizer lost of the test text, in words."""

    def to_json(self) -> dict[str, Any]:
        return {
            "models": self.models,
            "widths": self.widths,
            "rows": self.rows,
            "shortened_pieces": self.shortened,
            "test_documents": self.documents,
            "test_clusters": self.clusters,
            "cluster": self.cluster_unit,
            **({"text": self.text_note} if self.text_note else {}),
            "group_correlation": None if self.group is None else asdict(self.group),
            "group_correlation_train": self.group_train,
            "targets": {name: found.to_json() for name, found in self.found.items()},
            "pairwise": {
                "rows": "target",
                "columns": "basis",
                "names": list(self.pairs.names),
                "r2_test": [list(row) for row in self.pairs.r2],
                "ridges": [list(row) for row in self.pairs.ridges],
                "mean": self.pairs.mean,
            },
            "similarities": {
                a: {b: one.to_json() for b, one in row.items()}
                for a, row in self.similarities.items()
            },
        }


def decompose_embedded(
    embedded: Mapping[str, Embedded],
    models: Mapping[str, str],
    *,
    target: str | None = None,
    ridge: float | None = None,
    folds: int = 0,
    shapley: bool = False,
) -> DecompositionOfModels:
    """Every figure, from the kept rows of the splits train, validation and test.

    `target` is decomposed into all other models; without it each model is. `ridge` None takes the
    best on validation, for each target and for each set of basis models by itself.

    Progress counts fits, about. Raises `UserError` as `decompose`.
    """
    n, wanted = len(models), 1 if target is not None else len(models)
    subsets = n * (n - 1) // 2  # that a greedy path fits
    work = len(SPLITS) + len(RIDGES) + 3 + wanted * subsets + n * (n - 1) + n
    with track("decomposition", float(work), "fits") as bar:
        return _decomposed(embedded, models, target, ridge, folds, shapley, bar)


def _decomposed(
    embedded: Mapping[str, Embedded],
    models: Mapping[str, str],
    target: str | None,
    ridge: float | None,
    folds: int,
    shapley: bool,
    bar: Bar,
) -> DecompositionOfModels:
    parts = embedded["train"].scatter(parts=folds or 1)
    train = reduce(Scatter.merge, parts)
    validation, test = (embedded[split].scatter()[0] for split in SPLITS[1:])
    bar.advance(len(SPLITS), "next: ridges")
    targets = [target] if target is not None else list(models)
    basis = {t: [name for name in models if name != t] for t in targets}
    paths: dict[str, RidgePath] = {}
    ridges = (ridge,) if ridge is not None else tuple(_solvable(train))
    if ridge is None:
        paths = (
            ridge_path(train, validation, ridges=ridges)
            if target is None
            else ridge_path(train, validation, target=target, basis=basis[target], ridges=ridges)
        )
    bar.advance(len(RIDGES), "next: fits and their null")
    chosen = {t: paths[t].ridge if ridge is None else ridge for t in targets}
    own = {t: Ridges(ridges, validation, start=chosen[t] or None) for t in targets}
    fits = _fits(train, test, chosen, basis, whole=target is None)
    sums = _document_sums(fits, embedded["test"])
    nulls = _nulls(embedded, chosen, basis)
    bar.advance(3, f"next: {targets[0]} from fewer models")
    found: dict[str, Found] = {}
    for t in targets:
        found[t] = Found(
            fit=fits[t],
            interval=r2_interval(sums[t]),
            path=paths.get(t),
            null=nulls[t],
            greedy=greedy(train, t, basis[t], ridge=own[t], test=test),
            shares=shares(train, t, basis[t], ridge=own[t], test=test) if shapley else None,
            folds=k_fold(parts, t, basis[t], ridge=chosen[t]) if folds else None,
            training=(
                training_uncertainty(parts, test, t, basis[t], ridge=chosen[t]) if folds else None
            ),
        )
        bar.advance(len(models) * (len(models) - 1) // 2, f"{t} done")
    pairs = pairwise(train, ridge=Ridges(ridges, validation), test=test)
    bar.advance(len(models) * (len(models) - 1), "next: similarities")
    similarities = _similarities(embedded["test"], test, targets, list(models))
    bar.advance(len(models))
    return DecompositionOfModels(
        models=dict(models),
        widths=train.widths,
        found=found,
        group=mean_r2_interval(list(sums.values())) if target is None else None,
        group_train=group_correlation(fits)["train"] if target is None else None,
        pairs=pairs,
        similarities=similarities,
        rows={split: embedded[split].stores[targets[0]].rows for split in SPLITS},
        shortened=sum(embedded[split].shortened for split in SPLITS),
        documents=embedded["test"].clusters.documents,
        clusters=embedded["test"].clusters.clusters,
        cluster_unit=embedded["test"].cluster_unit,
        text_note=embedded["test"].text_note,
    )


def _similarities(
    embedded: Embedded, scatter: Scatter, targets: Sequence[str], models: Sequence[str]
) -> dict[str, dict[str, Similarity]]:
    """Of every target with every other model."""
    seen = SimilarityRows(scatter)
    for rows, cluster_N in aligned_rows(embedded.stores):
        seen.update(rows, cluster_N)
    known: dict[frozenset[str], Similarity] = {}
    for a in targets:
        for b in models:
            if a != b and frozenset((a, b)) not in known:
                known[frozenset((a, b))] = similarity(seen, a, b)
    return {a: {b: known[frozenset((a, b))] for b in models if b != a} for a in targets}


def _solvable(train: Scatter) -> list[float]:
    """The path's ridges that are not below the rounding of the covariance."""
    largest = max(float(np.trace(train.covariance([name]))) for name in train.names)
    floor = len(train.names) * largest * 1e-14
    return [ridge for ridge in RIDGES if ridge > floor]


def _fits(
    train: Scatter,
    test: Scatter,
    ridges: Mapping[str, float],
    basis: Mapping[str, list[str]],
    *,
    whole: bool,
) -> dict[str, Decomposition]:
    """Every target at its ridge; of a whole set, one inverse for each different ridge."""
    if not whole:
        return {t: decompose(train, t, basis[t], ridge=r, test=test) for t, r in ridges.items()}
    all_fits = {r: leave_one_out(train, ridge=r, test=test) for r in set(ridges.values())}
    return {t: all_fits[r][t] for t, r in ridges.items()}


def _document_sums(
    fits: Mapping[str, Decomposition], embedded: Embedded
) -> dict[str, DocumentSums]:
    documents = embedded.clusters.documents
    sums = {target: DocumentSums(fit, documents=documents) for target, fit in fits.items()}
    for rows, unit_N in embedded.units():
        for one in sums.values():
            one.update(rows, unit_N)
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
    return _fits(train, test, ridges, basis, whole=len(basis) > 1)
