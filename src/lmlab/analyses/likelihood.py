"""Log-likelihoods of continuations given contexts, for any subject, in nats.

- Causal, forward: the sum over the continuation's tokens; equal to lm-eval's `loglikelihood` for
  models from elsewhere.
- Causal, backward: log p(context + continuation) - log p(context), a difference of two joint
  log-likelihoods, each read from its end. With an empty context it is the joint itself, exact.
- Masked: the pseudo-log-likelihood (Salazar et al. 2020): each token of the continuation masked
  once, in a sequence of its own, everything else of the sequence visible.

Notable:
- A pair is tokenised as lm-eval does: spaces that end the context belong to the continuation, whose
  ids are those of the whole text beyond as many as the context alone has.
- lmlab's own models read BOS first, as they were trained. Models from elsewhere follow lm-eval:
  with a context, what their tokenizer itself puts first (often nothing); without, the prefix token
  (BOS, else end of text).
- What does not fit is cut from the left of the context and counted; BOS stays for lmlab's own.
- A sequence is padded by less than an eighth, to a length that depends on its own only, and only
  the continuation's positions go through the head. So the batch size changes rounding only.
- Equal sequences are scored once, so that what the tokenizer cannot tell apart is exactly equal.

Shapes: N requests, S different sequences, R sequences to read (a masked one is read once for each
scored token), K tokens, B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from lmlab.analyses.subject import Subject
from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.models.activations import fused_gelu
from lmlab.objectives.base import IGNORED, Batch
from lmlab.objectives.causal import Causal
from lmlab.objectives.evaluate import batches_of_a_length, evaluation_batch
from lmlab.objectives.masked import Masked
from lmlab.progress import Bar, track

Method = Literal["log-likelihood", "difference of joint log-likelihoods", "pseudo-log-likelihood"]


@dataclass(frozen=True)
class Request:
    """How likely is `continuation` after `context`? `where` names the item in errors."""

    context: str
    continuation: str
    where: str


@dataclass(frozen=True)
class Likelihoods:
    """What was asked, request by request."""

    nats_N: np.ndarray
    """Log-likelihood (natural logarithm) of each continuation."""
    tokens_N: np.ndarray
    """Tokens of each continuation."""
    greedy_N: np.ndarray | None
    """Whether every token of it is the likeliest one; None where not asked for, and for backward
    models, which do not give their tokens in this order."""
    truncated: int
    """Requests whose context was cut."""
    method: Method


def log_likelihoods(
    subject: Subject,
    requests: Sequence[Request],
    *,
    greedy: bool = False,
    batch: int | None = None,
    bar: Bar | None = None,
) -> Likelihoods:
    """Log-likelihoods in nats, by the subject's own head and criterion.

    `greedy` also tells whether the continuation is the likeliest, token by token; a masked model
    sees the rest of the continuation when it chooses. `batch` is the number of sequences at a time.

    Raises `UserError` for an order that is neither forward nor backward, for an objective that is
    neither causal nor masked, and for a continuation without a token or longer than the context.
    """
    objective = subject.objective
    if not isinstance(objective, Causal | Masked):
        raise UserError(
            f"{subject.name}: likelihoods are those of causal and masked models, not of "
            f"'{objective.record()['name']}'"
        )
    if subject.order not in (FORWARD, BACKWARD):
        raise UserError(
            f"{subject.name} reads in the order {subject.order}, in which a text and its beginning "
            "have no common likelihood; tasks need a forward, a backward or a masked model"
        )
    if batch is not None and batch < 1:
        raise UserError(f"--batch {batch} must be at least 1")
    pairs = _encode_pairs(subject.tokenizer, requests)
    for (_, continuation), request in zip(pairs, requests, strict=True):
        _check_length(subject, continuation, request)
    lead = _leading_ids(subject)
    backward = subject.order == BACKWARD
    sequences = _Sequences()
    terms: list[tuple[int, int, int]] = []  # request n has the nats of sequence s with this sign
    truncated = 0
    for n, (context, continuation) in enumerate(pairs):
        kept = context[max(0, len(context) + len(continuation) - subject.context) :]
        text = np.concatenate([kept, continuation])
        scored = len(continuation)
        if isinstance(objective, Masked):
            ids = text
        elif not subject.record:
            ids, kept = _as_lm_eval_reads(subject, lead, context, continuation)
        elif backward:
            ids, scored = np.concatenate([lead, text[::-1]]), len(text)
            if len(kept):
                alone = np.concatenate([lead, kept[::-1]])
                terms.append((n, sequences.add(alone, len(kept)), -1))
        else:
            ids = np.concatenate([lead, text])
        truncated += len(kept) < len(context)
        terms.append((n, sequences.add(ids, scored), 1))
    nats_S, greedy_S = _read(subject, objective, sequences, greedy=greedy, batch=batch, bar=bar)
    request_K, sequence_K, sign_K = np.array(terms, dtype=np.int64).reshape(-1, 3).T
    nats_N = -np.bincount(request_K, sign_K * nats_S[sequence_K], minlength=len(requests))
    method: Method = "log-likelihood"
    if isinstance(objective, Masked):
        method = "pseudo-log-likelihood"
    elif backward:
        method = "difference of joint log-likelihoods"
    return Likelihoods(
        nats_N=nats_N,
        tokens_N=np.array([len(continuation) for _, continuation in pairs], dtype=np.int64),
        greedy_N=greedy_S[sequence_K] if greedy and not backward else None,
        truncated=truncated,
        method=method,
    )


def _encode_pairs(
    tokenizer: TextTokenizer, requests: Sequence[Request]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids of each context without the spaces that end it, and of what follows them."""
    contexts = tokenizer.encode_batch([request.context.rstrip() for request in requests])
    wholes = tokenizer.encode_batch([r.context + r.continuation for r in requests])
    return [(c, whole[len(c) :]) for c, whole in zip(contexts, wholes, strict=True)]


def _check_length(subject: Subject, continuation: np.ndarray, request: Request) -> None:
    if len(continuation) == 0:
        raise UserError(
            f"{request.where}: {request.continuation!r} is no token of its own after its context; "
            "remove the item"
        )
    if len(continuation) > subject.context:
        raise UserError(
            f"{request.where}: {len(continuation)} tokens are to be scored together, and "
            f"{subject.name} has a context of {subject.context}; remove the item, or take a model "
            "with a longer context"
        )


def _leading_ids(subject: Subject) -> np.ndarray:
    """What stands before a text: BOS, or for models from elsewhere what their tokenizer puts."""
    tokenizer = subject.tokenizer
    if subject.record:
        return np.array([tokenizer.bos_id])
    plain, dressed = (
        tokenizer.backend.encode("a", add_special_tokens=special).ids for special in (False, True)
    )
    for count in range(len(dressed)):
        if dressed[count : count + len(plain)] == plain:
            return np.array(dressed[:count], dtype=np.int64)
    return np.array([], dtype=np.int64)


def _as_lm_eval_reads(
    subject: Subject, lead: np.ndarray, context: np.ndarray, continuation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sequence for a causal model from elsewhere, and what it holds of the context."""
    if len(context) == 0:
        lead = np.array([subject.tokenizer.bos_id])
    # the last token is predicted only, so there is room for one more than the context
    ids = np.concatenate([lead, context, continuation])[-subject.context - 1 :]
    return ids, context[max(0, len(context) + len(continuation) - len(ids)) :]


class _Sequences:
    """Different sequences; of each the last `scored` ids are asked for."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.scored: list[int] = []
        self._number: dict[tuple[bytes, int], int] = {}

    def add(self, ids: np.ndarray, scored: int) -> int:
        """The number of this sequence, the same for an equal one."""
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        number = self._number.setdefault((ids.tobytes(), scored), len(self.ids))
        if number == len(self.ids):
            self.ids.append(ids)
            self.scored.append(scored)
        return number

    def __len__(self) -> int:
        return len(self.ids)


def _read(
    subject: Subject,
    objective: Causal | Masked,
    sequences: _Sequences,
    *,
    greedy: bool,
    batch: int | None,
    bar: Bar | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Nats of each sequence's scored ids (S), and whether each of them is the likeliest (S)."""
    criterion, backbone = objective.criterion, subject.backbone
    nats_S, greedy_S = np.zeros(len(sequences)), np.ones(len(sequences), dtype=bool)
    if isinstance(objective, Masked):
        batches = _masked_batches(subject, objective, sequences, batch, bar)
    else:
        batches = _causal_batches(subject, sequences, batch, bar)
    with fused_gelu(subject.model):
        for asked, sequence_N in batches:
            if greedy:
                nats_N, best_N = criterion.each_and_best(backbone, asked)
                missed_N = (best_N != asked.targets_N).cpu().numpy()
                greedy_S[sequence_N[missed_N]] = False
            else:
                nats_N = criterion.each(backbone, asked)
            np.add.at(nats_S, sequence_N, nats_N.double().cpu().numpy())
    return nats_S, greedy_S


def _causal_batches(
    subject: Subject, sequences: _Sequences, batch: int | None, bar: Bar | None
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches, and the sequence that each of their computed positions belongs to."""
    device, scored_S = subject.backbone.device, np.array(sequences.scored)
    # the last id of a sequence is predicted, not read
    length_S = np.array([len(ids) - 1 for ids in sequences.ids])
    for rows_B, length in _batches(subject, length_S, batch, bar):
        inputs = np.full((len(rows_B), length), subject.tokenizer.bos_id)
        targets = np.full((len(rows_B), length), IGNORED)
        for row, s in enumerate(rows_B):
            n, scored = length_S[s], scored_S[s]
            inputs[row, :n] = sequences.ids[s][:-1]
            targets[row, n - scored : n] = sequences.ids[s][-scored:]
        rows_N = torch.from_numpy(np.flatnonzero(targets != IGNORED)).to(device)
        inputs_BT, targets_BT = (torch.from_numpy(each).to(device) for each in (inputs, targets))
        yield Batch(inputs_BT, targets_BT, None, rows_N), np.repeat(rows_B, scored_S[rows_B])


def _masked_batches(
    subject: Subject,
    objective: Masked,
    sequences: _Sequences,
    batch: int | None,
    bar: Bar | None,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """As `_causal_batches`, each scored id masked in a sequence of its own."""
    length_S = np.array([len(ids) for ids in sequences.ids])
    scored_S = np.array(sequences.scored)
    sequence_R = np.repeat(np.arange(len(sequences)), scored_S)
    first_R = np.repeat(np.cumsum(scored_S) - scored_S, scored_S)
    position_R = np.arange(len(sequence_R)) - first_R + (length_S - scored_S)[sequence_R]
    for rows_B, length in _batches(subject, length_S[sequence_R], batch, bar):
        made = objective.batch(
            [sequences.ids[s] for s in sequence_R[rows_B]],
            device=subject.backbone.device,
            length=length,
        )
        # a window stands behind BOS
        at = np.arange(len(rows_B)) * made.inputs_BT.shape[1] + position_R[rows_B] + 1
        at_B = torch.from_numpy(at).to(subject.backbone.device)
        seen_BT = made.inputs_BT.clone()
        seen_BT.view(-1)[at_B] = objective.masking.mask_id
        asked = Batch(seen_BT, made.targets_BT, made.attention_BT, at_B)
        yield asked, sequence_R[rows_B]


def _batches(
    subject: Subject, length_R: np.ndarray, batch: int | None, bar: Bar | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of equal padded length, the longest first, and that length."""

    def size(length: int) -> int:
        return batch or evaluation_batch(length, subject.backbone.device)

    padded_R = np.minimum(subject.context, _padded(length_R))
    progress = nullcontext(bar) if bar else track("scoring", float(len(length_R)), "sequences")
    with progress as shown:
        for rows, length in batches_of_a_length(padded_R, size):
            yield rows, length
            shown.advance(float(len(rows)))


def _padded(length_R: np.ndarray) -> np.ndarray:
    """Lengths rounded up to steps of an eighth of the power of two below them: 16, 18, ... 32, 36."""
    _, exponent_R = np.frexp(length_R)  # 2 ** (exponent - 1) <= length < 2 ** exponent
    step_R = 1 << np.maximum(0, exponent_R.astype(np.int64) - 4)
    return -(-length_R // step_R) * step_R
