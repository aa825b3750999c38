"""Surprisal of words given only what stands before them, for any model, in nats.

- Causal: `likelihood.log_likelihoods` of the word after the context.
- Masked: what stands behind the word must not give it away, and neither must the end of the text.
  So each token is read behind the context and the word's tokens before it, and it and two more are
  the mask token: three masks stand for the rest of the text, as the official script of BabyLM has
  it. These are no probabilities of one joint distribution.

Shapes: N requests, K different sequences, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import (
    Request,
    check_reads_text,
    encode_pairs,
    likelihood_method,
    log_likelihoods,
)
from lmlab.models.activations import fused_gelu
from lmlab.objectives.evaluate import batches_of_a_length, evaluation_batch
from lmlab.progress import track

MASKS = 3
"""Of a masked model: the token asked for, and what stands for the rest of the text."""


@dataclass(frozen=True)
class WordNats:
    """What was asked, request by request."""

    nats_N: np.ndarray
    """Surprisal of each continuation."""
    tokens_N: np.ndarray
    truncated: int
    """Requests whose context was cut to fit."""
    method: str


def word_nats(lm: LanguageModel, requests: Sequence[Request]) -> WordNats:
    """Surprisal of each request's continuation after its context.

    Raises `UserError` as `log_likelihoods`.
    """
    if lm.objective.reading.autoregressive:
        likelihoods = log_likelihoods(lm, requests)
        return WordNats(
            -likelihoods.nats_N, likelihoods.tokens_N, likelihoods.truncated, likelihoods.method
        )
    check_reads_text(lm)
    windows: dict[bytes, np.ndarray] = {}
    terms: list[list[bytes]] = []
    truncated = 0
    behind = np.full(MASKS - 1, lm.tokenizer.mask_id)
    for before, word in encode_pairs(lm, requests):
        names = []
        cut = len(before) + len(word) + len(behind) > lm.context
        truncated += cut
        for place in range(len(word)):
            ids = np.concatenate([before, word[: place + 1], behind])[-lm.context :]
            windows.setdefault(ids.tobytes(), ids)
            names.append(ids.tobytes())
        terms.append(names)
    nats = dict(zip(windows, _masked_nats(lm, list(windows.values())), strict=True))
    return WordNats(
        nats_N=np.array([sum(nats[name] for name in names) for names in terms]),
        tokens_N=np.array([len(names) for names in terms]),
        truncated=truncated,
        method=f"{likelihood_method(lm)}, {MASKS} masks for the rest of the text",
    )


@torch.no_grad()
def _masked_nats(lm: LanguageModel, windows: Sequence[np.ndarray]) -> list[float]:
    """Nats of the token before the last `MASKS - 1` of each window, itself masked."""
    reading, criterion, backbone = lm.objective.reading, lm.objective.criterion, lm.backbone
    length_K = np.array([len(ids) for ids in windows])
    nats_K = np.empty(len(windows))

    def size(length: int) -> int:
        return evaluation_batch(length + reading.ends, lm.model)

    with track("scoring", float(len(windows)), "tokens") as bar, fused_gelu(lm.model):
        for rows_B, length in batches_of_a_length(length_K, size):
            batch = reading.batch([windows[row] for row in rows_B], device=backbone.device)
            # a window stands behind BOS
            at_B = np.arange(len(rows_B)) * batch.inputs_BT.shape[1] + 1 + length - MASKS
            asked = reading.hidden_at(batch, torch.from_numpy(at_B).to(backbone.device))
            nats_K[rows_B] = criterion.each(backbone, asked).double().cpu().numpy()
            bar.advance(float(len(rows_B)))
    return nats_K.tolist()
