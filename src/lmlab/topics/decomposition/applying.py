"""Applying a mapping to text: embed basis and target, map, compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmlab.data.store import TokenStore
from lmlab.durable import packed, sealed, write_bytes
from lmlab.topics.decomposition.embedding_store import aligned_rows
from lmlab.topics.decomposition.mapping import Agreement, agreement, load_mapping
from lmlab.topics.decomposition.of_models import embed_models
from lmlab.topics.decomposition.options import ApplyConfig


@dataclass(frozen=True)
class Applied:
    """Mapped rows (N, U) float32, and how they compare with the true ones."""

    mapped_NU: np.ndarray
    agreement: Agreement

    def save(self, path: Path) -> None:
        """Writes the mapped rows as safetensors (`rows`)."""
        write_bytes(path, sealed(packed({"rows": self.mapped_NU})))


def apply_mapping(config: ApplyConfig, *, device: str) -> Applied:
    """Maps the text of a store's split. Raises `UserError` as `load_mapping` and `embed_models`."""
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
    return Applied(mapped_NU, agreement(true_NU, mapped_NU, neighbours=config.neighbours))
