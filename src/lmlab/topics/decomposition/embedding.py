"""Embeddings: text to rows, for any encoder, row k of every model from the same text.

A row is a piece (its positions pooled) or a word (the model's tokens that share characters with it,
averaged). Rows come in chunks, so that they can be streamed into a scatter and never be held.

Notable:
- Within a chunk pieces are sorted by length and batched by positions, so little is padding. Neither
  batches nor chunks change a row beyond rounding.
- Words are those for which every model has a token, decided from the tokenizers before any model
  runs.
- `published` pooling divides by the padded length, as the published code does: the positions of the
  longest piece of all, not of the batch, so that it does not depend on the batch either. Texts that
  are compared, such as training and test, need one padded length (`padded_alike`): divided by
  another one, rows have another scale, and their large common offset moves.

Shapes: B batch, T positions, D width, N rows, W words of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from lmlab.data.pieces import Pieces, words
from lmlab.errors import UserError
from lmlab.lm.encoder import Encoded, Encoder
from lmlab.models.layers import LAST, body_states, last_states
from lmlab.objectives.evaluate import batch_tokens
from lmlab.progress import Bar
from lmlab.topics.decomposition.options import EmbeddingConfig

CHUNK = 1024
_MOST_CUTS = 20


@dataclass(frozen=True)
class Prepared:
    """Pieces as one model reads them, and the words they are to be cut into."""

    encoder: Encoder
    encoded: list[Encoded]
    words: list[np.ndarray] | None
    """Of each piece (W, 2); None for rows that are pieces."""
    cluster_N: np.ndarray
    """The cluster of text of each row."""
    padded_to: int
    """Positions that `published` pooling divides by."""

    @property
    def positions(self) -> int:
        """Positions of the model's input in all, padding not counted."""
        return sum(len(piece.ids_T) for piece in self.encoded)


def prepare_text(
    encoders: Mapping[str, Encoder], pieces: Pieces, config: EmbeddingConfig
) -> tuple[Pieces, dict[str, Prepared]]:
    """The pieces that all models can read whole, and what each reads of them.

    Raises `UserError` where a piece has no token, or no word, for some model.
    """
    pieces, encoded = _fitted(encoders, pieces)
    chosen: list[np.ndarray] | None = None
    cluster_N = pieces.clusters.cluster_N
    if config.unit == "word":
        chosen = [
            _common_words(text, [pieces_of_model[i] for pieces_of_model in encoded.values()])
            for i, text in enumerate(pieces.texts)
        ]
        cluster_N = np.repeat(cluster_N, [len(w) for w in chosen])
        if not len(cluster_N):
            raise UserError("no word has a token of every model; is it the text you meant?")
    return pieces, {
        name: Prepared(
            encoder,
            encoded[name],
            chosen,
            cluster_N,
            padded_to=max(len(piece.ids_T) for piece in encoded[name]),
        )
        for name, encoder in encoders.items()
    }


def padded_alike(
    texts: Sequence[Mapping[str, Prepared]], padded_to: Mapping[str, int] | None = None
) -> list[dict[str, Prepared]]:
    """Several texts, as models read them, at one padded length for each model: `padded_to`, or that
    of the longest piece of all texts."""
    longest = {
        name: max(text[name].padded_to for text in texts) for name in (texts[0] if texts else ())
    }
    at = {**longest, **(padded_to or {})}
    return [
        {name: replace(model, padded_to=at[name]) for name, model in text.items()} for text in texts
    ]


@torch.no_grad()
def embed(
    prepared: Prepared,
    config: EmbeddingConfig,
    *,
    chunks: Sequence[int] | None = None,
    bar: Bar | None = None,
) -> Iterator[np.ndarray]:
    """Rows (N, D) float32, one chunk of `CHUNK` pieces after the other, in their order.

    `chunks` are the numbers of those that are wanted (default: all). `bar` counts positions.

    Raises `UserError` for a layer that the model does not have, or states that are not finite.
    """
    encoded = prepared.encoded
    starts = range(0, len(encoded), CHUNK)
    at_once = min(config.batch_tokens, batch_tokens(prepared.encoder.body))
    for start in starts if chunks is None else [starts[number] for number in chunks]:
        chunk = encoded[start : start + CHUNK]
        rows: list[np.ndarray | None] = [None] * len(chunk)
        lengths = [len(piece.ids_T) for piece in chunk]
        mixed = prepared.encoder.takes_padding
        for numbers in batches(lengths, at_once, mixed=mixed):
            batch = [chunk[i] for i in numbers]
            states_BTD = hidden_states(prepared.encoder, batch, config)
            for b, i in enumerate(numbers):
                spans = None if prepared.words is None else prepared.words[start + i]
                rows[i] = pooled(states_BTD[b], chunk[i], config, prepared.padded_to, spans)
            if bar:
                bar.advance(float(sum(len(piece.ids_T) for piece in batch)))
        rows_ND = np.concatenate([row for row in rows if row is not None])
        if not np.isfinite(rows_ND).all():
            raise UserError(
                f"{prepared.encoder.name}: hidden states of pieces {start} to "
                f"{start + len(chunk) - 1} are not finite"
            )
        yield rows_ND


def _fitted(
    encoders: Mapping[str, Encoder], pieces: Pieces
) -> tuple[Pieces, dict[str, list[Encoded]]]:
    """Pieces cut until no model has to truncate, and what each reads."""
    for _ in range(_MOST_CUTS):
        encoded = {name: encoder.encode(pieces.texts) for name, encoder in encoders.items()}
        stops = [len(text) for text in pieces.texts]
        fits = True
        for name, encoder in encoders.items():
            for i, piece in enumerate(encoded[name]):
                if encoder.limit is not None and len(piece.ids_T) > encoder.limit:
                    stops[i], fits = min(stops[i], _stop(piece, encoder)), False
        if fits:
            _check_tokens(encoded, pieces)
            return pieces, encoded
        pieces = pieces.cut(stops)
    raise UserError("pieces could not be cut to fit all models; use a shorter `embedding.length`")


def _stop(piece: Encoded, encoder: Encoder) -> int:
    """Where the text has to end, so that its tokens fit together with the special ones."""
    assert encoder.limit is not None
    special = int((~piece.text_T).sum())
    room = max(0, encoder.limit - special)
    ends = np.sort(piece.spans_T2[piece.text_T][:, 1])
    whole = ends[ends < ends[room]]  # a character of several tokens is not cut within
    if not len(whole):
        raise UserError(f"{encoder.name} takes {encoder.limit} positions: no room for text")
    return int(whole[-1])


def _check_tokens(encoded: Mapping[str, list[Encoded]], pieces: Pieces) -> None:
    for name, pieces_of_model in encoded.items():
        for i, piece in enumerate(pieces_of_model):
            if not piece.text_T.any():
                raise UserError(f"'{name}' has no token for the piece {pieces.texts[i][:40]!r}")


def _common_words(text: str, encoded: Sequence[Encoded]) -> np.ndarray:
    """The words for which every model has a token."""
    spans_W2 = words(text)
    kept_W = np.ones(len(spans_W2), dtype=bool)
    for piece in encoded:
        kept_W &= _membership(piece, spans_W2).any(axis=1)
    return spans_W2[kept_W]


def _membership(piece: Encoded, spans_W2: np.ndarray) -> np.ndarray:
    """Which positions (W, T) share a character with each word."""
    start_T, stop_T = piece.spans_T2.T
    shares_WT = (start_T < spans_W2[:, 1:]) & (stop_T > spans_W2[:, :1])
    return shares_WT & piece.text_T


def batches(lengths: Sequence[int], positions: int, *, mixed: bool) -> Iterator[list[int]]:
    """Numbers of the pieces of each batch, longest first: as many as fill `positions`; of one
    length unless `mixed`."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    while order:
        longest = lengths[order[0]]
        count = max(1, positions // longest)
        if not mixed:
            count = min(count, sum(lengths[i] == longest for i in order))
        yield order[:count]
        order = order[count:]


def hidden_states(
    encoder: Encoder, batch: Sequence[Encoded], config: EmbeddingConfig
) -> torch.Tensor:
    """States (B, T, D) float32 of the layer asked for. `UserError` where the model has no such."""
    longest = max(len(piece.ids_T) for piece in batch)
    ids_BT = np.full((len(batch), longest), encoder.tokenizer.end_of_text_id, dtype=np.int64)
    attention_BT = np.zeros((len(batch), longest), dtype=np.int64)
    for row, piece in enumerate(batch):
        ids_BT[row, : len(piece.ids_T)] = piece.ids_T
        attention_BT[row, : len(piece.ids_T)] = 1
    ids = torch.from_numpy(ids_BT).to(encoder.device)
    attention = None if attention_BT.all() else torch.from_numpy(attention_BT).to(encoder.device)
    half = config.dtype == "bfloat16"
    with torch.autocast(encoder.device.type, torch.bfloat16) if half else nullcontext():
        if config.layer is None:
            return last_states(encoder.body, ids, attention).float()
        states = body_states(encoder.body, ids, attention)
    name = f"block {config.layer}" if config.layer else "embeddings"
    if name not in states:
        known = ", ".join(other for other in states if other != LAST)
        raise UserError(
            f"{encoder.name} has no layer {config.layer}; it has {known or 'its last states only'}"
        )
    return states[name].float()


def pooled(
    states_TD: torch.Tensor,
    piece: Encoded,
    config: EmbeddingConfig,
    padded_to: int,
    spans_W2: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of one piece: (1, D), or (W, D) by word. States beyond the piece are not used, so of a
    causal model a longer text's serve for its beginnings."""
    read = len(piece.ids_T)
    if spans_W2 is not None:
        shares_WT = _membership(piece, spans_W2).astype(np.float32)
        weights_WT = shares_WT / shares_WT.sum(axis=1, keepdims=True)
    else:
        weights_T = np.zeros(read, dtype=np.float32)
        if config.pooling == "mean":
            weights_T[piece.text_T] = 1 / piece.text_T.sum()
        elif config.pooling == "published":
            weights_T[:] = 1 / padded_to
        else:
            weights_T[0 if config.pooling == "first" else -1] = 1
        weights_WT = weights_T[None]
    weights = torch.from_numpy(weights_WT).to(states_TD.device)
    return (weights @ states_TD[:read]).cpu().numpy()
