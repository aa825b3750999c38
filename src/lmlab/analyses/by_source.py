"""A score taken apart by the sources of its store: for several languages, how well each is learnt.

Notable: a window, and so a cluster, lies in one document and so in one source: the parts of a score
are scores of their own, with their own intervals over text.

Shapes: C sources, M windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lmlab.data.store import Split

if TYPE_CHECKING:
    from lmlab.analyses.score import Score


@dataclass(frozen=True)
class WindowSources:
    """Which source each window of a score is of, and what a source holds in the whole split."""

    name_C: tuple[str, ...]
    tokens_C: tuple[int, ...]
    """End-of-text left out, as they are scored."""
    text_bytes_C: tuple[int, ...]
    source_M: np.ndarray


def window_sources(split: Split, start_M: np.ndarray) -> WindowSources | None:
    """The sources of windows that start there; None where the store does not know its sources."""
    if not split.sources:
        return None
    tables = [
        split.documents_M3[part.first_document : part.first_document + part.documents]
        for part in split.sources
    ]
    # Of an empty source and the next, which start at the same token, this takes the last
    starts_C = [part.first_token for part in split.sources]
    return WindowSources(
        name_C=tuple(part.name for part in split.sources),
        tokens_C=tuple(int(table[:, 1].sum()) for table in tables),
        text_bytes_C=tuple(int(table[:, 2].sum()) for table in tables),
        source_M=np.searchsorted(starts_C, start_M, side="right") - 1,
    )


def merged_sources(
    parts: Sequence[WindowSources | None], order_M: np.ndarray
) -> WindowSources | None:
    """The sources of the windows of all shards, put in the order `order_M`."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    source_M = np.concatenate([part.source_M for part in known])[order_M]
    return replace(known[0], source_M=source_M)


def scores_by_source(score: Score) -> list[tuple[str, Score]]:
    """Name and score of each source that has a scored window; empty where none is known.

    Bits per byte are known of a source that was scored whole.
    """
    sources = score.sources
    if sources is None:
        return []
    made: list[tuple[str, Score]] = []
    for number, name in enumerate(sources.name_C):
        rows = sources.source_M == number
        if not rows.any():
            continue
        tokens_M = score.tokens_M[rows]
        whole = int(tokens_M.sum()) == sources.tokens_C[number]
        part = replace(
            score,
            nats_Mb=score.nats_Mb[rows],
            tokens_M=tokens_M,
            cluster_M=score.cluster_M[rows],
            row_M=score.row_M[rows],
            text_bytes=sources.text_bytes_C[number] if whole else None,
            sources=None,
        )
        made.append((name, part))
    return made
