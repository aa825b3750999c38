"""Pieces of text that every model can read whole: what models are compared on.

A piece is a run of `length` tokens of a store's tokenizer within a document, decoded to text; each
model then makes its own tokens of it. A document's remainder is a piece if it has at least half the
length. Pieces are a fixed random sample of the split, in the order of the text.

Notable:
- No model truncates: a piece that is too long for one model is cut for all (`cut`), so all see the
  same text.
- The text is what the store's tokenizer gives back. lmlab's own are lossless; one that lowercases
  (bert-base-uncased, in the published protocol) lowercases for every model.
- A piece is what its tokens add to the text before them: a SentencePiece decoder takes the first
  blank from whatever it is given, which is the text's own within a document.
- A byte-level tokenizer may cut within a character; the halves (U+FFFD) at the ends are dropped.

Shapes: N pieces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lmlab.config import digest
from lmlab.data.store import Split
from lmlab.data.windows import EvaluationWindows, evaluation_windows, key, keyed_bijection
from lmlab.errors import UserError
from lmlab.numerics.random_effects import Clusters

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Pieces:
    """Texts and the clusters of text they are from."""

    texts: tuple[str, ...]
    clusters: Clusters
    cluster_unit: str
    """What a cluster is: "document" or "section of about 4000 tokens"."""
    shortened: int = 0
    """Pieces that were cut for the shortest model."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the texts and their clusters, in order."""
        return digest(
            [self.texts, self.clusters.cluster_N.tolist(), self.clusters.document_N.tolist()]
        )

    def cut(self, stops_N: Sequence[int]) -> Pieces:
        """Each piece up to that character."""
        texts = tuple(text[:stop] for text, stop in zip(self.texts, stops_N, strict=True))
        changed = sum(a != b for a, b in zip(texts, self.texts, strict=True))
        return replace(self, texts=texts, shortened=max(self.shortened, changed))


def pieces_of(split: Split, length: int, *, most: int | None = None, seed: int = 0) -> Pieces:
    """Pieces of `length` tokens of a split, at most `most` of them.

    Raises `UserError` where no document is long enough.
    """
    windows = evaluation_windows(split, length)
    rows = np.flatnonzero(windows.length_M * 2 >= length)
    if most is not None and most < len(rows):
        ranked = keyed_bijection(np.arange(most), len(rows), key(seed, 0x91EC))
        rows = rows[np.sort(ranked)]
    texts = [_text_of(split, windows, int(row)) for row in rows]
    kept = [i for i, text in enumerate(texts) if text.strip()]
    if not kept:
        raise UserError(
            f"{split.store.path}: no document of split {split.name} has {length // 2} tokens; use "
            "shorter pieces"
        )
    return Pieces(tuple(texts[i] for i in kept), windows.clusters[rows[kept]], windows.cluster_unit)


_BEFORE = 8  # tokens; of a byte-level tokenizer the first few may be parts of one character


def _text_of(split: Split, windows: EvaluationWindows, row: int) -> str:
    """The text of a window as it stands in its document, without halves of characters."""
    tokenizer = split.store.tokenizer
    start = int(windows.start_M[row])
    first_M = split.documents_M3[:, 0]
    document = int(first_M[np.searchsorted(first_M, start, side="right") - 1])
    before = tokenizer.decode(split.read(max(document, start - _BEFORE), start))
    whole = tokenizer.decode(
        split.read(max(document, start - _BEFORE), start + int(windows.length_M[row]))
    )
    before = before.rstrip("\ufffd")
    text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(windows.ids(row))
    return text.strip("\ufffd")


def words(text: str) -> np.ndarray:
    """Characters [start, stop) of each word, (n, 2): what stands between white space."""
    return np.array([m.span() for m in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)
