"""The geometry of a model: how its embeddings and hidden states fill their space, and how the norm
of an embedding and the loss of a token go with the token's frequency.

Notable:
- Hidden states are those of evaluation windows as they stand: nothing is masked, and positions of
  padding and of the tokens that lmlab puts around a window (BOS, end) are left out.
- Frequencies are counts in the store's training split, without the end-of-text tokens between
  documents. Norms go by tenths of the vocabulary, losses by tenths of the text
  (`numerics.frequency`).
- The loss of a token is that of the model's objective, so any of them will do. The bins of loss,
  weighted by their tokens, give the loss of all tokens exactly.

Shapes: B windows of a batch, T positions, n tokens of the longest window, N tokens, V vocabulary,
D width, C clusters, K bins of frequency.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lmlab.data.order import reading_order
from lmlab.data.store import TokenStore
from lmlab.data.unigram import token_counts
from lmlab.data.windows import EvaluationWindows
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.models.layers import FINAL, layer_states
from lmlab.numerics.frequency import (
    DECILES,
    occurrence_deciles,
    rank_correlation,
    type_deciles,
)
from lmlab.numerics.geometry import Cloud, RowMoments, cloud
from lmlab.numerics.random_effects import Interval, two_way_ratio
from lmlab.objectives.base import IGNORED, Batch
from lmlab.objectives.evaluate import batch_tokens, can_pad, window_batches
from lmlab.progress import Bar, track
from lmlab.results import Result

_BATCH_TOKENS = 1 << 12  # at most: the states of all layers are held for as many
_ROWS = 1 << 13
_TOKENS_PER_DIMENSION = 10


@dataclass(frozen=True)
class NormBin:
    """Norms of the embeddings of a tenth of the vocabulary; bin 0 is of tokens never seen."""

    bin: int
    types: int
    lowest_count: int
    highest_count: int
    mean_norm: float
    quartiles: tuple[float, float]
    """First and third quartile of the norms: their spread, no interval of the mean."""


@dataclass(frozen=True)
class Norms:
    """Norm of each token's embedding against how often the token occurs in the training split."""

    spearman: float | None
    """Over all tokens that occur; None where all counts or norms are equal. No interval: these are
    all tokens, no sample of them."""
    types: int
    """Tokens of the vocabulary that occur."""
    bins: tuple[NormBin, ...]


@dataclass(frozen=True)
class LossBin:
    """Loss of the evaluated tokens of one frequency; bin 0 is of tokens never seen in training."""

    bin: int
    types: int
    """Tokens of the vocabulary in the bin, evaluated or not."""
    tokens: int
    share_of_training_text: float
    loss: Interval
    """Nats per token, with its 95 % interval over text."""


@dataclass(frozen=True)
class Geometry(Result, kind="geometry"):
    """The geometry of a model's embeddings and hidden states, and its loss by frequency."""

    model: str
    objective: str
    order: str
    store: str
    split: str
    context: int
    windows: int
    documents: int
    clusters: int
    cluster_unit: str
    conditions: str
    """What each token was scored from."""
    tied: bool
    """Whether the output embedding is the input embedding."""
    input_embedding: Cloud
    output_embedding: Cloud | None
    """None for a model without a linear head."""
    layers: dict[str, Cloud]
    """By name, in the order of computation (`models.layers.layer_states`)."""
    input_norms: Norms
    output_norms: Norms | None
    loss: Interval
    """Of all evaluated tokens, nats per token."""
    loss_bins: tuple[LossBin, ...]
    """Those that have evaluated tokens."""
    tokens: int
    """Evaluated."""
    note: str
    """What a reader must know; empty otherwise."""


def geometry(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str = "validation",
    context: int | None = None,
    max_windows: int | None = 256,
    bar: Bar | None = None,
) -> Geometry:
    """The geometry of a model's embeddings and hidden states, and its loss by frequency.

    `context` is the window in tokens (default: the model's own, at most 1024); `max_windows`
    takes a fixed random sample of the split's windows (None: all). `bar` counts tokens.

    Raises `UserError` if the store was made with another tokenizer, for a context the model cannot
    take, or for a model whose hidden states cannot be read.
    """
    windows = lm.windows(store, split, context=context, max_windows=max_windows)
    counts_V = _counts_of_text(store)
    bins_V = occurrence_deciles(counts_V)
    total = float(windows.length_M.sum())
    progress = nullcontext(bar) if bar else track("geometry", total, "tokens")
    with progress as counted:
        moments, nats_CK, tokens_CK = _read(lm, windows, bins_V, counted)
    layers = {name: cloud(seen) for name, seen in moments.items() if seen.rows}
    if not layers:
        raise UserError(
            f"`context` {windows.context}: no token stands after another; use longer windows"
        )
    input_VD = _weights(lm.model.get_input_embeddings(), store.vocabulary)
    assert input_VD is not None, "a language model has an input embedding"
    text_V = _tokens_of_text(lm, store.vocabulary)
    inputs = _embedding_cloud(input_VD), _norms(input_VD, counts_V, text_V)
    head = lm.model.get_output_embeddings()
    tied = head is not None and head.weight is lm.model.get_input_embeddings().weight
    outputs = inputs if tied else (None, None)
    if not tied and (output_VD := _weights(head, store.vocabulary)) is not None:
        outputs = _embedding_cloud(output_VD), _norms(output_VD, counts_V, text_V)
    return Geometry(
        model=lm.name,
        objective=lm.objective.name,
        order=lm.order,
        store=str(store.path),
        split=split,
        context=windows.context,
        windows=len(windows),
        documents=windows.clusters.documents,
        clusters=len(nats_CK),
        cluster_unit=windows.cluster_unit,
        conditions=lm.conditions,
        tied=tied,
        input_embedding=inputs[0],
        output_embedding=outputs[0],
        layers=layers,
        input_norms=inputs[1],
        output_norms=outputs[1],
        loss=two_way_ratio(
            nats_CK.sum(1)[None],
            tokens_CK.sum(1)[None],
            documents_C=windows.clusters.documents_C,
        ),
        loss_bins=_loss_bins(
            nats_CK, tokens_CK, windows.clusters.documents_C, bins_V[text_V], counts_V[text_V]
        ),
        tokens=int(tokens_CK.sum()),
        note=_note(layers[FINAL]),
    )


def _counts_of_text(store: TokenStore) -> np.ndarray:
    """Occurrences (V,) in the documents of the training split, without what joins them."""
    split = store.split("train")
    counts_V = token_counts(split, store.vocabulary)
    if store.end_of_text:
        counts_V[store.manifest["end_of_text_id"]] -= len(split.documents_M3)
    return counts_V


def _tokens_of_text(lm: LanguageModel, vocabulary: int) -> np.ndarray:
    """Which ids (V,) can be text: all but those that lmlab puts around or into it."""
    tokenizer = lm.tokenizer
    text_V = np.ones(vocabulary, dtype=bool)
    for special in (tokenizer.bos_id, tokenizer.end_of_text_id, tokenizer.mask_id):
        if special is not None and special < vocabulary:  # a mask token may have been added
            text_V[special] = False
    return text_V


@torch.no_grad()
def _read(
    lm: LanguageModel, windows: EvaluationWindows, bins_V: np.ndarray, bar: Bar | None
) -> tuple[dict[str, RowMoments], np.ndarray, np.ndarray]:
    """Moments of each layer's states; nats and tokens (C, K) of each cluster and bin."""
    objective, backbone = lm.objective, lm.backbone
    names, cluster_M = np.unique(windows.cluster_M, return_inverse=True)
    shape = (len(names), DECILES + 1)
    nats_CK, tokens_CK = np.zeros(shape), np.zeros(shape)
    moments: dict[str, RowMoments] = {}
    at_once = max(1, min(_BATCH_TOKENS, batch_tokens(lm.model)) // windows.context)
    padded = can_pad(backbone, objective, windows)
    for rows, length in window_batches(windows, at_once, padded=padded):
        ids = [windows.ids(int(row)) for row in rows]
        batch = objective.reading.batch(ids, device=backbone.device, length=length)
        states = layer_states(backbone, batch.inputs_BT, batch.attention_BT)
        text_BT = _positions_of_text(batch)
        for name, states_BTD in states.items():
            rows_ND = states_BTD[text_BT].cpu().numpy()
            moments.setdefault(name, RowMoments(rows_ND.shape[1])).update(rows_ND)
        del states
        nats_Bn = objective.score(backbone, batch).double().cpu().numpy()
        for row, window, nats_n in zip(rows, ids, nats_Bn, strict=True):
            read = window[reading_order(lm.order, len(window))]
            bins = bins_V[read]
            c = cluster_M[row]
            nats_CK[c] += np.bincount(bins, nats_n[: len(read)], DECILES + 1)
            tokens_CK[c] += np.bincount(bins, minlength=DECILES + 1)
        if bar:
            bar.advance(float(windows.length_M[rows].sum()))
    return moments, nats_CK, tokens_CK


def _positions_of_text(batch: Batch) -> torch.Tensor:
    """The positions (B, T) whose input is a token of the window.

    Every objective puts BOS first and has a target at each position up to the last token of text.
    """
    text_BT = batch.targets_BT != IGNORED
    text_BT[:, 0] = False
    return text_BT


def _weights(layer: Any, vocabulary: int) -> np.ndarray | None:
    """The embedding (V, D) of the tokenizer's ids; architectures may pad theirs with more rows."""
    if layer is None:
        return None
    return layer.weight.detach()[:vocabulary].float().cpu().numpy()


def _embedding_cloud(weight_VD: np.ndarray) -> Cloud:
    moments = RowMoments(weight_VD.shape[1])
    for start in range(0, len(weight_VD), _ROWS):
        moments.update(weight_VD[start : start + _ROWS])
    return cloud(moments)


def _norms(weight_VD: np.ndarray, counts_V: np.ndarray, text_V: np.ndarray) -> Norms:
    norm_V = np.sqrt(np.einsum("vd,vd->v", weight_VD, weight_VD, dtype=np.float64))
    kept = np.flatnonzero(text_V[: len(norm_V)])
    norm_V, counts_V = norm_V[kept], counts_V[kept]
    bins_V = type_deciles(counts_V)
    bins = tuple(
        NormBin(
            bin=number,
            types=int(inside.sum()),
            lowest_count=int(counts_V[inside].min()),
            highest_count=int(counts_V[inside].max()),
            mean_norm=float(norm_V[inside].mean()),
            quartiles=(
                float(np.quantile(norm_V[inside], 0.25)),
                float(np.quantile(norm_V[inside], 0.75)),
            ),
        )
        for number in range(DECILES + 1)
        if (inside := bins_V == number).any()
    )
    occurs = counts_V > 0
    return Norms(rank_correlation(counts_V[occurs], norm_V[occurs]), int(occurs.sum()), bins)


def _loss_bins(
    nats_CK: np.ndarray,
    tokens_CK: np.ndarray,
    documents_C: np.ndarray,
    bins_V: np.ndarray,
    counts_V: np.ndarray,
) -> tuple[LossBin, ...]:
    """The bins from the sums of each cluster; `bins_V`, `counts_V` are of the tokens of text."""
    return tuple(
        LossBin(
            bin=k,
            types=int((bins_V == k).sum()),
            tokens=int(tokens_CK[:, k].sum()),
            share_of_training_text=float(counts_V[bins_V == k].sum() / max(1, counts_V.sum())),
            loss=two_way_ratio(nats_CK[None, :, k], tokens_CK[None, :, k], documents_C=documents_C),
        )
        for k in range(DECILES + 1)
        if tokens_CK[:, k].any()
    )


def _note(final: Cloud) -> str:
    if final.rows >= _TOKENS_PER_DIMENSION * final.dimensions:
        return ""
    return (
        f"hidden states of {final.rows:,} tokens in {final.dimensions:,} dimensions: too few, so "
        "their ranks and ratios come out too low; evaluate more windows"
    )
