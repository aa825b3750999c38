"""Texts that lack something language has: controls for claims about language, made from a store.

- shuffled: the tokens of each sentence in random order (a sentence ends after a token that ends
  with ., !, ? or a line end);
- unigrams: every token drawn by itself from the distribution of the training split;
- bigrams: each token drawn after the one before it as in the training split.

Each has the store's tokenizer, splits and lengths of documents, so a model's shape and budget stay
what they are.

Notable: a document's tokens depend on the seed, the split and its number alone. The bytes of drawn
text are those of its tokens one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from lmlab.data.splits import TRAIN
from lmlab.data.store import EncodedDocument, Split, TokenStore, write_store
from lmlab.data.unigram import token_counts

Control = Literal["shuffled", "unigrams", "bigrams"]
CONTROLS: tuple[Control, ...] = ("shuffled", "unigrams", "bigrams")
_ENDS = (".", "!", "?", "\n", ".”", "!”", "?”", '."', '!"', '?"', ".’", "!’", "?’")


def control_store(store: TokenStore, kind: Control, path: Path, *, seed: int = 0) -> TokenStore:
    """The store of a control at `path`, made if it is not there yet.

    Raises `UserError` if `path` is damaged, or the disk is full.
    """
    if path.exists():
        return TokenStore(path)
    split = store.split(TRAIN)
    if kind == "shuffled":
        ends_V = np.array(
            [store.tokenizer.token(i).rstrip(" ").endswith(_ENDS) for i in range(store.vocabulary)]
        )

        def make(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return shuffled(ids, ends_V, rng)
    else:
        drawn = Drawn(split, store, bigrams=kind == "bigrams")

        def make(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return drawn.sample(len(ids), rng)

    bytes_V = np.array([len(store.tokenizer.token(i).encode()) for i in range(store.vocabulary)])

    def documents(name: str, number: int) -> Iterator[EncodedDocument]:
        source = store.split(name)
        for row, (start, length, size) in enumerate(source.documents_M3):
            rng = np.random.default_rng((seed, number, row))
            ids = make(source.read(int(start), int(start + length)), rng)
            size = int(size) if kind == "shuffled" else int(bytes_V[ids].sum())
            yield EncodedDocument(f"{kind}: {source.names[row]}", ids, size)

    return write_store(
        path,
        store.tokenizer,
        {name: documents(name, number) for number, name in enumerate(store.splits)},
        request={"control": kind, "seed": seed, "of": store.fingerprint},
        end_of_text=store.end_of_text,
    )


def shuffled(ids: np.ndarray, ends_V: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The tokens of each sentence in random order; the token that ends it stays the last."""
    ends = ends_V[ids]
    sentence = np.concatenate([[0], np.cumsum(ends)[:-1]])
    # by sentence, then by a random number; what ends a sentence comes after all of it
    return ids[np.lexsort((rng.random(len(ids)) + ends, sentence))]


class Drawn:
    """Text drawn from the statistics of a split's stream."""

    def __init__(self, split: Split, store: TokenStore, *, bigrams: bool) -> None:
        counts_V = token_counts(split, store.vocabulary).astype(np.float64)
        if store.end_of_text:
            counts_V[store.tokenizer.end_of_text_id] = 0
        self.cumulative_V = np.cumsum(counts_V / counts_V.sum())
        self.bigrams = bigrams
        if not bigrams:
            return
        stream = split.read(0, split.tokens)
        end = store.tokenizer.end_of_text_id if store.end_of_text else -1
        within = (stream[:-1] != end) & (stream[1:] != end)
        before, after = stream[:-1][within], stream[1:][within]
        order = np.argsort(before, kind="stable")
        self.after = after[order]
        self.first_V = np.searchsorted(before[order], np.arange(store.vocabulary))
        self.count_V = np.bincount(before, minlength=store.vocabulary)

    def sample(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """`length` ids; where nothing ever followed a token, the next is drawn by itself."""
        alone = np.searchsorted(self.cumulative_V, rng.random(length))
        alone = np.minimum(alone, len(self.cumulative_V) - 1)
        if not self.bigrams:
            return alone
        ids, u = alone.tolist(), rng.random(length).tolist()
        first, count, after = self.first_V, self.count_V, self.after
        for i in range(1, length):
            followed = int(count[ids[i - 1]])
            if followed:
                ids[i] = int(after[first[ids[i - 1]] + int(u[i] * followed)])
        return np.array(ids)
