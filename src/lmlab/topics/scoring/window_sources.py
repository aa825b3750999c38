"""Which source of its store (a language, say) each window of a score is of.

Notable: a window, and so a cluster, lies in one document and so in one source: the parts of a score
are scores of their own, with their own intervals over text (`Score.by_source`).

Shapes: C sources, M windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmlab.data.store import Split


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
