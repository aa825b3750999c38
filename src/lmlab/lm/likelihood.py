"""Log-likelihoods of continuations given contexts, for any model, in nats.

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
  the continuation's positions go through the head. So the batch size changes rounding only. Models
  that see padding whatever the mask read sequences of one length at a time.
- Equal sequences are scored once, so that what the tokenizer cannot tell apart is exactly equal;
  what several begin with is read once (`lm.shared_prefixes`).

Shapes: N requests, S different sequences, R sequences to read (a masked one is read once for each
scored token), K tokens, B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.tokenizers import TextLoss, loss_note
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.shared_prefixes import (
    Scored,
    can_read_trees,
    lone_tree,
    tree_batch,
    trees,
)
from lmlab.models.activations import fused_gelu
from lmlab.objectives.base import Criterion, Reading
from lmlab.objectives.evaluate import batches_of_a_length, evaluation_batch
from lmlab.progress import Bar, shown

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
    truncated_N: np.ndarray
    """Whether the context was cut to fit."""
    method: Method

    @property
    def truncated(self) -> int:
        """Requests whose context was cut."""
        return int(self.truncated_N.sum())


def log_likelihoods(
    lm: LanguageModel,
    requests: Sequence[Request],
    *,
    greedy: bool = False,
    batch: int | None = None,
    bar: Bar | None = None,
) -> Likelihoods:
    """Log-likelihoods in nats, by the model's own head and criterion.

    `greedy` also tells whether the continuation is the likeliest, token by token; a masked model
    sees the rest of the continuation when it chooses. `batch` is the number of sequences at a time.

    Raises `UserError` for an order that is neither forward nor backward, for an objective that is
    neither causal nor masked, and for a continuation without a token or longer than the context.
    """
    check_reads_text(lm, batch)
    pairs = encode_pairs(lm, requests)
    lead, backward = leading_ids(lm), lm.order == BACKWARD
    sequences = _Sequences()
    terms: list[_Term] = []
    truncated_N = np.zeros(len(requests), dtype=bool)
    for n, (context, continuation) in enumerate(pairs):
        if backward:
            kept = context[max(0, len(context) + len(continuation) - lm.context) :]
            text = np.concatenate([kept, continuation])
            ids, _ = as_read(lm, lead, kept[:0], text[::-1])
            terms.append(_Term(n, sequences.add(ids, len(text)), 1))
            if len(kept):
                alone, _ = as_read(lm, lead, kept[:0], kept[::-1])
                terms.append(_Term(n, sequences.add(alone, len(kept)), -1))
            truncated_N[n] = len(kept) < len(context)
        else:
            ids, truncated_N[n] = as_read(lm, lead, context, continuation)
            terms.append(_Term(n, sequences.add(ids, len(continuation)), 1))
    nats_S, greedy_S = _read(lm, sequences, greedy=greedy, batch=batch, bar=bar)
    return Likelihoods(
        nats_N=_summed(terms, nats_S, len(requests)),
        tokens_N=np.array([len(continuation) for _, continuation in pairs], dtype=np.int64),
        greedy_N=greedy_S[[t.sequence for t in terms]] if greedy and not backward else None,
        truncated_N=truncated_N,
        method=likelihood_method(lm),
    )


def rolling_log_likelihoods(
    lm: LanguageModel, texts: Sequence[str], *, batch: int | None = None, bar: Bar | None = None
) -> Likelihoods:
    """Log-likelihoods in nats of whole texts, however long; an empty one has 0.

    A text is read in windows as long as the context, one after another in the model's order, so
    that each token is scored once. The last window is filled up with tokens that were scored
    before. Windows of models from elsewhere begin as lm-eval's do, with one token of the window
    before; those of lmlab's own with BOS, as they were trained.

    Raises `UserError` for an order, an objective and a batch as `log_likelihoods`.
    """
    check_reads_text(lm, batch)
    lead = leading_ids(lm)
    encoded = lm.tokenizer.encode_batch(texts)
    sequences = _Sequences()
    terms: list[_Term] = []
    for n, text in enumerate(encoded):
        ordered = text[::-1] if lm.order == BACKWARD else text
        for start in range(0, len(ordered), lm.context):
            scored = ordered[start : start + lm.context]
            ids, _ = as_read(lm, lead, ordered[:start], scored)
            terms.append(_Term(n, sequences.add(ids, len(scored)), 1))
    nats_S, _ = _read(lm, sequences, greedy=False, batch=batch, bar=bar)
    return Likelihoods(
        nats_N=_summed(terms, nats_S, len(texts)),
        tokens_N=np.array([len(text) for text in encoded], dtype=np.int64),
        greedy_N=None,
        truncated_N=np.zeros(len(texts), dtype=bool),
        method=of_continuations(lm),
    )


class _Term(NamedTuple):
    """Request `number` has the log-likelihood of `sequence`, with a sign."""

    number: int
    sequence: int
    sign: int


def _summed(terms: Sequence[_Term], nats_S: np.ndarray, count: int) -> np.ndarray:
    """Log-likelihood of each request: minus the nats of its terms."""
    number_K, sequence_K, sign_K = np.array(terms, dtype=np.int64).reshape(-1, 3).T
    return -np.bincount(number_K, sign_K * nats_S[sequence_K], minlength=count)


def check_reads_text(lm: LanguageModel, batch: int | None = None) -> None:
    """`UserError` for a model that gives a text no likelihood of its own, and a batch below 1."""
    of_continuations(lm)
    if lm.order not in (FORWARD, BACKWARD):
        raise UserError(
            f"{lm.name} reads in the order {lm.order}, in which a text and its beginning "
            "have no common likelihood; tasks need a forward, a backward or a masked model"
        )
    if batch is not None and batch < 1:
        raise UserError(f"`batch` {batch} must be at least 1")


def of_continuations(lm: LanguageModel) -> Literal["log-likelihood", "pseudo-log-likelihood"]:
    """What the nats of a text's last tokens add up to. `UserError` where nothing of use."""
    method = lm.objective.reading.continuation
    if method is None:
        raise UserError(
            f"{lm.name}: likelihoods are those of causal and masked models, not of "
            f"'{lm.objective.name}'"
        )
    return method


def likelihood_method(lm: LanguageModel) -> Method:
    """What `log_likelihoods` gives for this model."""
    if lm.order == BACKWARD:
        return "difference of joint log-likelihoods"
    return of_continuations(lm)


def encode_pairs(
    lm: LanguageModel, requests: Sequence[Request]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids of each context without the spaces that end it, and of what follows them.

    Raises `UserError` for a continuation without a token or longer than the model's context.
    """
    contexts = lm.tokenizer.encode_batch([request.context.rstrip() for request in requests])
    wholes = lm.tokenizer.encode_batch([r.context + r.continuation for r in requests])
    pairs = [(c, whole[len(c) :]) for c, whole in zip(contexts, wholes, strict=True)]
    for (_, continuation), request in zip(pairs, requests, strict=True):
        _check_length(lm, continuation, request)
    return pairs


def _check_length(lm: LanguageModel, continuation: np.ndarray, request: Request) -> None:
    if len(continuation) == 0:
        raise UserError(
            f"{request.where}: {request.continuation!r} is no token of its own after its context; "
            "remove the item"
        )
    if len(continuation) > lm.context:
        raise UserError(
            f"{request.where}: {len(continuation)} tokens are to be scored together, and "
            f"{lm.name} has a context of {lm.context}; remove the item, or take a model "
            "with a longer context"
        )


def leading_ids(lm: LanguageModel) -> np.ndarray:
    """What stands before a text: BOS, or for models from elsewhere what their tokenizer puts."""
    tokenizer = lm.tokenizer
    if lm.record:
        return np.array([tokenizer.bos_id])
    plain, dressed = (
        tokenizer.backend.encode("a", add_special_tokens=special).ids for special in (False, True)
    )
    for count in range(len(dressed)):
        if dressed[count : count + len(plain)] == plain:
            return np.array(dressed[:count], dtype=np.int64)
    return np.array([], dtype=np.int64)


def reading_notes(lm: LanguageModel, texts: Iterable[str]) -> tuple[str, ...]:
    """What must be known of how a model reads these texts: the tokens that it puts before them,
    and what its tokenizer loses of them."""
    tokenizer = lm.tokenizer

    def names(ids: Iterable[int]) -> str:
        return " ".join(f"{tokenizer.backend.id_to_token(i)} (id {i})" for i in ids)

    lead, alone = leading_ids(lm).tolist(), tokenizer.begins_with
    if lm.objective.reading.ends:
        begins = f"a text stands between {alone} and {names([tokenizer.end_of_text_id])}"
    elif lm.record:
        begins = f"a text is read behind {alone}"
    else:
        begins = f"a text with a context is read behind {names(lead) or 'no token of its own'}"
        begins += f", one without behind {alone}"
    different = list(dict.fromkeys(texts))
    lost = sum(tokenizer.losses(different, tokenizer.encode_batch(different)), TextLoss())
    if not lost:
        return (begins,)
    text_bytes = sum(len(text.encode("utf-8")) for text in different)
    meaning = "what it cannot tell apart is equally likely"
    return begins, loss_note(
        lost, documents=len(different), text_bytes=text_bytes, unit="texts", meaning=meaning
    )


def as_read(
    lm: LanguageModel, lead: np.ndarray, before: np.ndarray, scored: np.ndarray
) -> tuple[np.ndarray, bool]:
    """The sequence, in the order of reading, that ends with the ids to score and holds as many of
    those before them as fit; and whether some did not."""
    room = lm.context - len(scored)
    dressed = lm.objective.reading.ends > 0  # its batches put BOS before each sequence
    if lm.record or dressed:
        kept = before[max(0, len(before) - room) :]
        first = lead[:0] if dressed else lead
        return np.concatenate([first, kept, scored]), len(kept) < len(before)
    if len(before) == 0:
        lead = np.array([lm.tokenizer.bos_id])
    # the last token is predicted only, so there is room for one more than the context
    ids = np.concatenate([lead, before, scored])[-lm.context - 1 :]
    return ids, len(before) > room + 1


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
    lm: LanguageModel,
    sequences: _Sequences,
    *,
    greedy: bool,
    batch: int | None,
    bar: Bar | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Nats of each sequence's scored ids (S), and whether each of them is the likeliest (S)."""
    reading, criterion = lm.objective.reading, lm.objective.criterion
    backbone = lm.backbone
    nats_S, greedy_S = np.zeros(len(sequences)), np.ones(len(sequences), dtype=bool)
    if reading.autoregressive:
        batches = _causal_batches(lm, criterion, sequences, batch, bar)
    else:
        batches = _masked_batches(lm, reading, sequences, batch, bar)
    with fused_gelu(lm.model):
        for scored in batches:
            nats, best_N = criterion.each_and_best(backbone, scored.batch, best=greedy)
            if greedy:
                missed_N = (best_N != scored.batch.targets_N).cpu().numpy()
                greedy_S[scored.sequence_K[missed_N[scored.row_K]]] = False
            nats_N = nats.double().cpu().numpy()
            np.add.at(nats_S, scored.sequence_K, nats_N[scored.row_K])
    return nats_S, greedy_S


def _causal_batches(
    lm: LanguageModel,
    criterion: Criterion,
    sequences: _Sequences,
    batch: int | None,
    bar: Bar | None,
) -> Iterator[Scored]:
    """All sequences; what several begin with once, where the model can be read so."""
    backbone, filler, ids = lm.backbone, lm.tokenizer.bos_id, sequences.ids
    rows = trees(ids, longest=lm.context)
    if not can_read_trees(criterion, backbone, rows, filler=filler, most=lm.context):
        rows = [lone_tree(s, ids[s]) for s in range(len(ids))]
    # apart, since a tree without branches needs no mask of its own, which costs time
    parts = [[tree for tree in rows if tree.branched is branched] for branched in (False, True)]
    with shown(bar, "scoring", len(sequences), "sequences") as progress:
        for part in parts:
            size_M = np.array([tree.size for tree in part], dtype=np.int64)
            for rows_B, length in _batches(lm, size_M, batch):
                chosen = [part[row] for row in rows_B]
                yield tree_batch(
                    chosen, ids, sequences.scored,
                    length=length, filler=filler, device=backbone.device,
                )  # fmt: skip
                progress.advance(float(sum(len(tree.sequences) for tree in chosen)))


def _masked_batches(
    lm: LanguageModel,
    reading: Reading,
    sequences: _Sequences,
    batch: int | None,
    bar: Bar | None,
) -> Iterator[Scored]:
    """All sequences, each scored id masked in one of its own."""
    length_S = np.array([len(ids) for ids in sequences.ids])
    scored_S = np.array(sequences.scored)
    sequence_R = np.repeat(np.arange(len(sequences)), scored_S)
    first_R = np.repeat(np.cumsum(scored_S) - scored_S, scored_S)
    position_R = np.arange(len(sequence_R)) - first_R + (length_S - scored_S)[sequence_R]
    with shown(bar, "scoring", len(sequence_R), "sequences") as progress:
        for rows_B, length in _batches(lm, length_S[sequence_R], batch):
            ids = [sequences.ids[s] for s in sequence_R[rows_B]]
            whole = reading.batch(ids, device=lm.backbone.device, length=length)
            # a window stands behind BOS
            at = np.arange(len(rows_B)) * whole.inputs_BT.shape[1] + position_R[rows_B] + 1
            at_B = torch.from_numpy(at).to(lm.backbone.device)
            yield Scored(reading.hidden_at(whole, at_B), sequence_R[rows_B], np.arange(len(rows_B)))
            progress.advance(float(len(rows_B)))


def _batches(
    lm: LanguageModel, length_R: np.ndarray, batch: int | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of equal padded length, the longest first, and that length."""

    def size(length: int) -> int:
        return batch or evaluation_batch(length, lm.model)

    return batches_of_a_length(_row_lengths(lm, length_R), size)


def _row_lengths(lm: LanguageModel, length_R: np.ndarray) -> np.ndarray:
    """How long the rows of texts of these lengths are made.

    Where what stands behind a text changes its scores, a causal model's rows have room for the last
    token, which is only predicted: such models read the whole text, as transformers does for its
    own loss.
    """
    ends = lm.objective.reading.ends
    padded_R = np.minimum(lm.context, _padded(length_R))
    whole_R = length_R if ends else np.minimum(lm.context, length_R + 1)
    tried_R = np.maximum(padded_R, whole_R)
    if lm.backbone.takes_padding_to(length_R, tried_R, ends=ends):
        return padded_R
    return whole_R


def _padded(length_R: np.ndarray) -> np.ndarray:
    """Lengths rounded up, by steps of an eighth of the power of two below: 16, 18, ... 32, 36."""
    _, exponent_R = np.frexp(length_R)  # 2 ** (exponent - 1) <= length < 2 ** exponent
    step_R = 1 << np.maximum(0, exponent_R.astype(np.int64) - 4)
    return -(-length_R // step_R) * step_R
