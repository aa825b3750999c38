"""A decomposition as a small model of its own: from basis embeddings to the target's. It is applied
to text by embedding basis and target, mapping, and comparing.

Use: replace an expensive embedder by a mix of cheap ones. The file is safetensors: `bias`, and
`weights.LABEL` for each basis model; its metadata says which models and how their rows are made.

Shapes: N rows, U width of the target, D width of a basis model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from lmlab.config import digest, from_mapping, to_mapping
from lmlab.data.store import TokenStore
from lmlab.durable import check_seal, from_json, metadata, packed, sealed, write_bytes
from lmlab.errors import UserError
from lmlab.results import Result
from lmlab.topics.decomposition.decomposition import Decomposition, mapped
from lmlab.topics.decomposition.embedding_store import aligned_rows
from lmlab.topics.decomposition.of_models import embed_models
from lmlab.topics.decomposition.options import ApplyConfig, EmbeddingConfig

FORMAT = "lmlab mapping 1"
_ROWS = 512


@dataclass(frozen=True)
class Mapped:
    """A linear map as read from its file."""

    target: str
    models: dict[str, str]
    """Label to path or Hub name, of basis and target."""
    weights: dict[str, NDArray[np.float32]]
    bias: NDArray[np.float32]
    embedding: EmbeddingConfig
    padded_to: dict[str, int]
    """What `published` pooling divided by, by label; empty for other poolings."""

    def apply(self, rows: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
        """The target's rows (N, U), approximately, from those of the basis models (N, D).

        Raises `UserError` for a basis model that is missing or has another width.
        """
        return mapped(rows, self.weights, self.bias)


def mapping_file(folder: Path, label: str) -> Path:
    """Where the weights of a target lie in `folder`, whatever its label (it may be a path)."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")
    return folder / f"{plain if plain == label else f'{plain}-{digest(label)[:6]}'}.safetensors"


def save_mapping(
    path: Path,
    fit: Decomposition,
    models: Mapping[str, str],
    config: EmbeddingConfig,
    padded_to: Mapping[str, int] | None = None,
) -> None:
    """Writes a fit in float32; `models` has the path or Hub name of basis and target by label, and
    `padded_to` what `published` pooling divided their rows by."""
    tensors = {"bias": fit.bias.astype(np.float32)}
    for name, weights_UD in fit.weights.items():
        tensors[f"weights.{name}"] = weights_UD.astype(np.float32)
    described = {
        "format": FORMAT,
        "target": fit.target,
        "models": json.dumps({name: models[name] for name in (fit.target, *fit.basis)}),
        "embedding": json.dumps(to_mapping(config)),
        "ridge": repr(fit.ridge),
        "r2_test": json.dumps(fit.r2_test),
        "padded_to": json.dumps(dict(padded_to or {})),
    }
    write_bytes(path, sealed(packed(tensors, metadata=described)))


def load_mapping(path: Path) -> Mapped:
    """What `save_mapping` wrote. `UserError` where it is missing, damaged or something else."""
    try:
        data = check_seal(path.read_bytes())
        tensors = load(data)
        described = metadata(data)
        if described["format"] != FORMAT:
            raise ValueError(f"its format is {described['format']!r}")
        models = from_json(described["models"])
        target = described["target"]
        return Mapped(
            target=target,
            models=models,
            weights={name: tensors[f"weights.{name}"] for name in models if name != target},
            bias=tensors["bias"],
            embedding=from_mapping(
                EmbeddingConfig, from_json(described["embedding"]), where=str(path)
            ),
            padded_to=_padded_lengths(described),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a mapping of lmlab: {error}") from error


def _padded_lengths(described: Mapping[str, str]) -> dict[str, int]:
    """Of a file's metadata; empty where it has none. `ValueError` for something else."""
    lengths = from_json(described.get("padded_to", "{}"))
    if not isinstance(lengths, dict) or any(type(n) is not int or n < 1 for n in lengths.values()):
        raise ValueError("its padded lengths are no numbers")
    return lengths


@dataclass(frozen=True)
class Agreement:
    """How well mapped rows stand in for the true ones."""

    rows: int
    r2: float
    cosine: float
    """Mean cosine of a mapped row with its true one."""
    centred_cosine: float
    """The same about the mean of the true rows: a direction that all rows share counts for nothing.
    """
    neighbours: int
    shared_neighbours: float
    """Share of a row's nearest neighbours (by centred cosine, among the other rows) that are the
    same for true and for mapped rows."""
    chance: float
    """The same for random neighbours."""


def agreement(true_NU: ArrayLike, mapped_NU: ArrayLike, *, neighbours: int = 10) -> Agreement:
    """Compares mapped rows with true ones.

    Raises `UserError` for other shapes, or no more rows than neighbours.
    """
    u_NU, v_NU = np.asarray(true_NU, np.float64), np.asarray(mapped_NU, np.float64)
    if u_NU.ndim != 2 or u_NU.shape != v_NU.shape:
        raise UserError(f"true rows {u_NU.shape} and mapped rows {v_NU.shape} differ in shape")
    n = len(u_NU)
    if not 0 < neighbours < n:
        raise UserError(f"{neighbours} neighbours of {n} rows: ask for 1 to {n - 1}")
    mean_U = u_NU.mean(0)
    near_u, near_v = _unit(u_NU - mean_U), _unit(v_NU - mean_U)
    shared = 0
    for start in range(0, n, _ROWS):
        own = np.arange(start, min(n, start + _ROWS))
        nearest = [_nearest(unit_NU, own, neighbours) for unit_NU in (near_u, near_v)]
        shared += sum(len(np.intersect1d(a, b)) for a, b in zip(*nearest, strict=True))
    left = ((u_NU - v_NU) ** 2).sum()
    return Agreement(
        rows=n,
        r2=float(1 - left / ((u_NU - mean_U) ** 2).sum()),
        cosine=float((_unit(u_NU) * _unit(v_NU)).sum(1).mean()),
        centred_cosine=float((near_u * near_v).sum(1).mean()),
        neighbours=neighbours,
        shared_neighbours=shared / (n * neighbours),
        chance=neighbours / (n - 1),
    )


@dataclass(frozen=True)
class AppliedMapping(Result, kind="apply"):
    """How the rows that a mapping gives compare with the target's own."""

    target: str
    models: dict[str, str]
    """Paths or Hub names by label, of basis and target."""
    store: str
    split: str
    embedding: EmbeddingConfig
    agreement: Agreement


def apply_mapping(config: ApplyConfig, *, device: str) -> tuple[AppliedMapping, np.ndarray]:
    """Maps the text of a store's split: the comparison, and the mapped rows (N, U) float32.

    Raises `UserError` as `load_mapping` and `embed_models`.
    """
    mapping = load_mapping(config.weights)
    embedded = embed_models(
        mapping.models,
        TokenStore(config.store),
        mapping.embedding,
        counts={config.split: config.pieces},
        lab=config.lab,
        device=device,
        padded_to=mapping.padded_to,
    )[config.split]
    pairs = [
        (rows[mapping.target], mapping.apply(rows)) for rows, _ in aligned_rows(embedded.stores)
    ]
    true_NU, mapped_NU = (np.concatenate(side) for side in zip(*pairs, strict=True))
    result = AppliedMapping(
        target=mapping.target,
        models=mapping.models,
        store=str(config.store),
        split=config.split,
        embedding=mapping.embedding,
        agreement=agreement(true_NU, mapped_NU, neighbours=config.neighbours),
    )
    return result, mapped_NU


def _unit(rows_NU: NDArray[np.float64]) -> NDArray[np.float64]:
    norm_N1 = np.linalg.norm(rows_NU, axis=1, keepdims=True)
    return rows_NU / np.where(norm_N1 == 0, 1.0, norm_N1)


def _nearest(unit_NU: NDArray[np.float64], own: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    cosine = unit_NU[own] @ unit_NU.T
    cosine[np.arange(len(own)), own] = -np.inf
    return np.argpartition(-cosine, k - 1, axis=1)[:, :k]
