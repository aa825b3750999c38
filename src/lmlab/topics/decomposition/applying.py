"""Applying a mapping to text: embed basis and target, map, compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmlab.data.store import TokenStore
from lmlab.results import Result
from lmlab.topics.decomposition.embedding_store import aligned_rows
from lmlab.topics.decomposition.mapping import Agreement, agreement, load_mapping
from lmlab.topics.decomposition.of_models import VIEWS, embed_models
from lmlab.topics.decomposition.options import ApplyConfig, EmbeddingConfig


@dataclass(frozen=True)
class AppliedMapping(Result, kind="apply", views=VIEWS):
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
