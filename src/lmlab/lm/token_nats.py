"""Nats of every token of a text, however long, and how much probability a set of tokens has there.

A text longer than the model's context is read in windows that overlap: each token is scored once,
from as many tokens before it as its window holds, `overlap` of them at least (but at the text's
beginning). Windows begin as those of `lm.likelihood` do.

Notable:
- Causal models: behind the text one more position is read, that of the end-of-text token, so the
  set's probability is known there too.
- Masked models: the pseudo-log-likelihood with the rest of the word masked from left to right
  (Kauf and Ivanova 2023, "PLL-word-l2r"): a token is masked with all later tokens of its word. With
  one token alone masked, those that follow in the word give it away. A window reaches half of
  `overlap` beyond what is scored in it, on either side.
- Sequences of one length are read together, so nothing is padded and the scores of one do not
  depend on the others.

Shapes: T tokens of a text, K sequences, B of them at a time, N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lmlab.data.order import reading_order
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import as_read, leading_ids
from lmlab.models.activations import fused_gelu
from lmlab.numerics.log_sum_exp import log_sum_exp, nats_of_targets
from lmlab.objectives.base import IGNORED, Batch
from lmlab.objectives.evaluate import batches_of_a_length, evaluation_batch
from lmlab.progress import track

_MOST_LOGITS = 1 << 26


@dataclass(frozen=True)
class TokenNats:
    """Of one text, in the order of reading."""

    nats_T: np.ndarray
    log_mass_T: np.ndarray
    """Logarithm of the probability of the set of tokens where each token stands, and behind the
    text: T + 1 values. Empty for masked models."""


def token_nats(
    lm: LanguageModel,
    texts: Sequence[np.ndarray],
    *,
    set_ids: np.ndarray,
    words: Sequence[np.ndarray],
    context: int,
    overlap: int,
) -> list[TokenNats]:
    """Nats of each token of texts (ids in the order of the text).

    `set_ids` are the tokens whose probability is wanted; `words` (T,) number the word that each
    token belongs to, for masked models. `context` and `overlap` are in tokens.

    Raises `UserError` for an overlap that leaves a window nothing to score.
    """
    if not 0 <= overlap < context:
        raise UserError(
            f"`overlap` {overlap} must be below the {context} tokens of a window, or it has "
            "nothing to score"
        )
    with torch.no_grad(), fused_gelu(lm.model):
        if lm.objective.reading.autoregressive:
            return _causal(lm, texts, set_ids, context, overlap)
        return _masked(lm, texts, words, context, overlap // 2)


def _causal(
    lm: LanguageModel, texts: Sequence[np.ndarray], set_ids: np.ndarray, context: int, overlap: int
) -> list[TokenNats]:
    lead, end = leading_ids(lm), np.array([lm.tokenizer.end_of_text_id])
    places: list[tuple[int, int, int]] = []  # text, first scored, how many
    sequences: list[np.ndarray] = []
    found: list[TokenNats] = []
    for number, text in enumerate(texts):
        ids = np.concatenate([text[reading_order(lm.order, len(text))], end])
        found.append(TokenNats(np.empty(len(ids)), np.empty(len(ids))))
        start = 0
        while start < len(ids):
            before = ids[max(0, start - overlap) : start]
            scored = ids[start : start + context - len(before)]
            sequences.append(as_read(lm, lead, before, scored)[0])
            places.append((number, start, len(scored)))
            start += len(scored)
    size_K = np.array([len(sequence) for sequence in sequences])
    set_C = torch.from_numpy(np.asarray(set_ids, dtype=np.int64)).to(lm.backbone.device)
    most = max(1, _MOST_LOGITS // lm.tokenizer.vocabulary)

    def batch(length: int) -> int:
        return max(1, min(evaluation_batch(length, lm.model), most // length))

    with track("scoring", float(size_K.sum()), "tokens") as bar:
        for rows, length in batches_of_a_length(size_K, batch):
            ids_BT = torch.from_numpy(np.stack([sequences[row] for row in rows]))
            ids_BT = ids_BT.to(lm.backbone.device)
            targets_BT = ids_BT[:, 1:].clone()
            for place, row in enumerate(rows):
                targets_BT[place, : length - 1 - places[row][2]] = IGNORED
            asked = Batch(
                ids_BT[:, :-1],
                targets_BT,
                rows_N=(targets_BT != IGNORED).flatten().nonzero().flatten(),
            )
            logits_NV = lm.objective.criterion.logits(lm.backbone, asked)
            nats_N = nats_of_targets(logits_NV, asked.targets_N).cpu().numpy()
            log_mass_N = log_sum_exp(logits_NV[:, set_C]) - log_sum_exp(logits_NV)
            log_mass_N = log_mass_N.clamp_max(0.0).cpu().numpy()
            at = 0
            for row in rows:
                number, start, count = places[row]
                found[number].nats_T[start : start + count] = nats_N[at : at + count]
                found[number].log_mass_T[start : start + count] = log_mass_N[at : at + count]
                at += count
            bar.advance(float(length * len(rows)))
    return [TokenNats(each.nats_T[:-1], each.log_mass_T) for each in found]


def _masked(
    lm: LanguageModel,
    texts: Sequence[np.ndarray],
    words: Sequence[np.ndarray],
    context: int,
    margin: int,
) -> list[TokenNats]:
    reading, criterion = lm.objective.reading, lm.objective.criterion
    found = [TokenNats(np.empty(len(text)), np.empty(0)) for text in texts]
    with track("scoring", float(sum(map(len, texts))), "tokens") as bar:
        for text, word_T, result in zip(texts, words, found, strict=True):
            step = len(text) if len(text) <= context else context - 2 * margin
            for start in range(0, len(text), step):
                first = max(0, start - margin)
                window, word_n = (each[first : start + step + margin] for each in (text, word_T))
                asked = range(start - first, min(start + step, len(text)) - first)
                at_once = evaluation_batch(len(window) + 2, lm.model)
                for begin in range(0, len(asked), at_once):
                    part = asked[begin : begin + at_once]
                    whole = reading.batch([window] * len(part), device=lm.backbone.device)
                    width = whole.inputs_BT.shape[1]
                    rows = np.array([row * width + 1 + at for row, at in enumerate(part)])
                    hidden = np.concatenate(
                        [
                            row * width + 1 + at + np.flatnonzero(word_n[at:] == word_n[at])
                            for row, at in enumerate(part)
                        ]
                    )
                    seen = reading.hidden_at(whole, torch.from_numpy(hidden).to(lm.backbone.device))
                    rows_N = torch.from_numpy(rows).to(lm.backbone.device)
                    nats_N = criterion.each(lm.backbone, reading.asked_at(seen, rows_N))
                    result.nats_T[first + np.array(part)] = nats_N.double().cpu().numpy()
                bar.advance(float(len(asked)))
    return found
