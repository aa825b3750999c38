"""Score: how well a model predicts a split of a store.

Nats per token, and bits per byte = total nats / ln 2 / UTF-8 bytes of the original text (special
tokens are neither scored nor counted). Every token is scored, the first of a window from BOS alone.

Notable:
- Evaluation windows never cross a document; padding depends on a window's own length, so scores do
  not depend on the batch size (1e-5 nat per token).
- The interval is over text (documents), for this one model.
- Bits per byte are of another text where the tokenizer loses some (<unk>, small letters): then
  `loss_note` says how much.
- Where the store knows its sources (languages), each has its own score (`by_source`): a window, and
  so a cluster, lies in one document and so in one source.

Shapes: M windows, b bins of positions, C sources.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lmlab.data.store import Split, TokenStore
from lmlab.data.windows import EvaluationWindows
from lmlab.lm.language_model import LanguageModel
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.objectives.evaluate import (
    WindowNats,
    can_pad,
    evaluate,
    evaluation_batch,
    position_edges,
    tokens_by_position,
)
from lmlab.progress import Bar, track
from lmlab.results import Result
from lmlab.topics.scoring.given_text import read_text, text_split


@dataclass(frozen=True)
class WindowSources:
    """Which source each window of a score is of, and what a source holds in the whole split."""

    name_C: tuple[str, ...]
    tokens_C: tuple[int, ...]
    """End-of-text left out, as they are scored."""
    text_bytes_C: tuple[int, ...]
    source_M: np.ndarray


@dataclass(frozen=True)
class Score(Result, kind="score", views="lmlab.topics.scoring.score_report"):
    """Nats of every window of a split, and what follows from them."""

    model: str
    order: str
    store: str
    split: str
    context: int
    """Tokens of a window, at most."""
    cluster_unit: str
    """What a cluster is, in words: a document, or a section of one."""
    nats_Mb: np.ndarray
    """Summed within bins of positions, counted in the order of reading (`position_edges`)."""
    tokens_M: np.ndarray
    """Scored tokens of each window."""
    clusters: Clusters
    """The cluster and the document of each window."""
    repeated_nats_M: np.ndarray
    """Of the tokens whose id stands earlier in their window, in the order of reading."""
    repeated_M: np.ndarray
    """How many those are."""
    conditions: str
    """What each token was scored from."""
    text_bytes: int | None
    """UTF-8 bytes of the scored text; None where they are not known (`TextTokenizer.bytes_V`)."""
    loss_note: str | None = None
    """What the tokenizer lost of the split's text, in words; None where it lost nothing."""
    sources: WindowSources | None = None
    """Which source each window is of; None where that is not known."""
    document_names: dict[int, str] = field(default_factory=dict)
    """As the store names the documents of `clusters`."""
    text_bytes_M: np.ndarray | None = None
    """Of each window of a sample, where they are known."""

    derived = ("nats_per_token", "bits_per_byte", "interval", "tokens", "windows")

    @property
    def cluster_M(self) -> np.ndarray:
        return self.clusters.cluster_N

    @property
    def nats_M(self) -> np.ndarray:
        """Nats of each window, summed over its tokens."""
        return self.nats_Mb.sum(axis=1)

    @property
    def position_edges(self) -> np.ndarray:
        """Edges of the bins of positions, (b + 1,)."""
        return position_edges(self.context)

    @property
    def tokens_Mb(self) -> np.ndarray:
        return tokens_by_position(self.tokens_M, self.position_edges)

    @property
    def nats_per_token_b(self) -> np.ndarray:
        """Nats per token of each bin of positions; nan where no window reaches it."""
        tokens_b = self.tokens_Mb.sum(axis=0)
        return np.where(tokens_b > 0, self.nats_Mb.sum(axis=0) / np.maximum(tokens_b, 1), np.nan)

    def nats_per_token_at(self, first: Sequence[int]) -> np.ndarray:
        """`nats_per_token_b` of the bins that begin at these positions."""
        return self.nats_per_token_b[np.searchsorted(self.position_edges, first)]

    @property
    def tokens(self) -> int:
        """How many tokens were scored."""
        return int(self.tokens_M.sum())

    @property
    def nats_per_token(self) -> float:
        """The loss: all nats over all scored tokens."""
        return float(self.nats_Mb.sum() / self.tokens)

    @property
    def bits_per_byte(self) -> float | None:
        """All nats / ln 2 / UTF-8 bytes of the text; None where those bytes are not known."""
        if self.text_bytes is None:
            return None
        return float(self.nats_Mb.sum() / np.log(2) / self.text_bytes)

    @property
    def windows(self) -> int:
        """How many windows were scored."""
        return len(self.tokens_M)

    @property
    def interval(self) -> Interval:
        """95 % interval of nats per token, over text for this one model."""
        return self.clusters.ratio(self.nats_M, self.tokens_M)

    def by_source(self) -> list[tuple[str, Score]]:
        """Name and score of each source that has a scored window; empty where none is known.

        Bits per byte are known of a source that was scored whole, or whose windows' bytes are.
        """
        if self.sources is None:
            return []
        parts: list[tuple[str, Score]] = []
        for number, name in enumerate(self.sources.name_C):
            rows = self.sources.source_M == number
            if not rows.any():
                continue
            tokens_M = self.tokens_M[rows]
            whole = int(tokens_M.sum()) == self.sources.tokens_C[number]
            text_bytes_M = None if self.text_bytes_M is None else self.text_bytes_M[rows]
            text_bytes = self.sources.text_bytes_C[number] if whole else None
            if text_bytes is None and text_bytes_M is not None:
                text_bytes = int(text_bytes_M.sum())
            part = replace(
                self,
                nats_Mb=self.nats_Mb[rows],
                tokens_M=tokens_M,
                clusters=self.clusters[rows],
                repeated_nats_M=self.repeated_nats_M[rows],
                repeated_M=self.repeated_M[rows],
                text_bytes=text_bytes,
                text_bytes_M=text_bytes_M,
                sources=None,
            )
            parts.append((name, part))
        return parts


def score(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str = "validation",
    context: int | None = None,
    batch: int | None = None,
    max_windows: int | None = None,
    bar: Bar | None = None,
) -> Score:
    """Scores a split with a model.

    `context` is the window in tokens (default: the model's own, at most 1024). `max_windows`
    scores a fixed random sample. `bar` counts scored tokens (default: a bar of its own).

    Raises `UserError` if the store was made with another tokenizer, or for a context the model
    cannot take.
    """
    windows = lm.windows(store, split, context=context, max_windows=max_windows)
    total = float(windows.length_M.sum())
    progress = nullcontext(bar) if bar else track("scoring", total, "tokens")
    with progress as counted:
        evaluated = evaluate(
            lm.objective,
            lm.backbone,
            windows,
            batch=batch or evaluation_batch(windows.context, lm.model),
            padded=can_pad(lm.backbone, lm.objective, windows),
            bar=counted,
        )
    return score_of(windows, evaluated, model=lm.name, order=lm.order, conditions=lm.conditions)


def score_text(
    lm: LanguageModel,
    text: Sequence[str],
    *,
    separator: str | None = None,
    context: int | None = None,
    batch: int | None = None,
    max_windows: int | None = None,
) -> Score:
    """Scores files of text with a model, in its own tokens.

    Arguments and errors as for `score`; `separator` cuts files into documents.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        split = text_split(Path(folder) / "store", lm.tokenizer, read_text(text, separator))
        result = score(
            lm, split.store, split=split.name, context=context, batch=batch,
            max_windows=max_windows,
        )  # fmt: skip
    return replace(result, store=", ".join(text))


def score_of(
    windows: EvaluationWindows, nats: WindowNats, *, model: str, order: str, conditions: str
) -> Score:
    """The score of windows whose `nats` are known."""
    source = windows.split
    text_bytes, text_bytes_M = _scored_bytes(windows, nats.tokens_M)
    return Score(
        model=model,
        order=order,
        store=str(source.store.path),
        split=source.name,
        context=windows.context,
        cluster_unit=windows.cluster_unit,
        clusters=windows.clusters,
        conditions=conditions,
        text_bytes=text_bytes,
        text_bytes_M=text_bytes_M,
        loss_note=source.loss_note,
        sources=_window_sources(source, windows.start_M),
        document_names=windows.document_names,
        **vars(nats),
    )


def _scored_bytes(
    windows: EvaluationWindows, tokens_M: np.ndarray
) -> tuple[int | None, np.ndarray | None]:
    """UTF-8 bytes of the scored text, and of a sample those of each window; None where not known:
    of tokens in no window's text, or of a tokenizer that does not tell."""
    source = windows.split
    if int(tokens_M.sum()) == int(source.documents_M3[:, 1].sum()):
        return source.text_bytes, None
    text_bytes_M = windows.text_bytes_M if (tokens_M == windows.length_M).all() else None
    return (None, None) if text_bytes_M is None else (int(text_bytes_M.sum()), text_bytes_M)


def _window_sources(split: Split, start_M: np.ndarray) -> WindowSources | None:
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
