"""Mean output probability of every token over a corpus, and the moments of hidden states beside it.

alpha_v = mean over contexts x of softmax(E h(x) + b)_v, streamed.

Notable:
- Never tokens x vocabulary: logits are formed for some contexts at a time, vocabulary first
  (V x C), which is the faster product, and worked on in place in blocks that stay in the cache.
- Sums over a chunk's contexts are float32, sums over chunks float64.
- Chunks have the same contexts whatever the batch, so the result depends on the batch only through
  the rounding of the model's body.
- The softmax is the model's own, over every row of its head. Rows that are no token of a model's
  tokenizer (they pad the vocabulary) get no mean probability; what they have together is reported
  (`unused`), and alpha sums to 1 less that.

Shapes: N positions, T positions of a window, B windows, C contexts of a chunk, D width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmlab.data.store import TokenStore
from lmlab.data.windows import EvaluationWindows, evaluation_windows
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.models.backbone import Backbone, LogitHead
from lmlab.numerics.random_effects import Clusters
from lmlab.objectives.base import hidden_states
from lmlab.objectives.evaluate import can_pad, evaluation_batch, window_batches
from lmlab.processes import from_all, shared_out, sum_over_processes, world
from lmlab.progress import track

_CHUNK_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 27}
_BLOCK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 27}
_MOST_CONTEXTS = {"cpu": 128, "cuda": 1 << 14}


@dataclass(frozen=True)
class EncodingStatistics:
    """What the predictors of `topics.encoding.encoding` need: nats, float64, over all positions."""

    alpha_V: NDArray[np.float64]
    """Mean probability of each row of the head that is a token; sums to 1 - `unused`."""
    mean_hidden_D: NDArray[np.float64]
    covariance_DD: NDArray[np.float64]
    """Of the hidden states that the head reads (population: over n, not n - 1)."""
    covariance_log_z_D: NDArray[np.float64]
    """Cov(h, log Z), Z the sum of exp(logits)."""
    mean_log_z: float
    variance_log_z: float
    positions: int
    unused: float = 0.0
    """Mean probability of all rows that are no token."""


class ProbabilitySums:
    """The sums behind `EncodingStatistics`, filled by `add`."""

    def __init__(self, head: LogitHead, unused_rows: NDArray[np.int64] | None = None) -> None:
        """`unused_rows` of the head are no token."""
        self.head = head
        self._unused_rows = [] if unused_rows is None else unused_rows
        vocabulary, width = head.weight_VD.shape
        self.alpha_V = torch.zeros(vocabulary, dtype=torch.float64, device=head.weight_VD.device)
        # of (h, log Z) less a first guess of their means, so that nothing large cancels
        self._first: torch.Tensor | None = None
        self._sum = torch.zeros(width + 1, dtype=torch.float64, device=head.weight_VD.device)
        self._second = torch.zeros(
            (width + 1, width + 1), dtype=torch.float64, device=head.weight_VD.device
        )
        self.positions = 0
        kind = head.weight_VD.device.type
        contexts = max(16, _CHUNK_LOGITS[kind] // vocabulary)
        self._contexts = min(_MOST_CONTEXTS[kind], contexts)
        self._rows = max(1, _BLOCK_LOGITS[kind] // self._contexts)
        self._buffer: torch.Tensor | None = None
        self._waiting: list[torch.Tensor] = []

    @torch.no_grad()
    def add(self, hidden_ND: torch.Tensor) -> None:
        """Adds the contexts of `hidden_ND`, the states that the head reads."""
        self._waiting.append(hidden_ND)
        if sum(map(len, self._waiting)) >= self._contexts:
            *whole, rest = torch.cat(self._waiting).split(self._contexts)
            if len(rest) == self._contexts:
                whole, rest = [*whole, rest], rest[:0]
            for hidden_CD in whole:
                self._add_chunk(hidden_CD)
            self._waiting = [rest.clone()]

    def _add_chunk(self, hidden_CD: torch.Tensor) -> None:
        log_z_C = self._probabilities(hidden_CD)
        joint = torch.cat([hidden_CD.double(), log_z_C.double()[:, None]], dim=1)
        if self._first is None:
            self._first = joint.mean(0)
        joint -= self._first
        self._sum += joint.sum(0)
        self._second += joint.T @ joint
        self.positions += len(hidden_CD)

    def _probabilities(self, hidden_CD: torch.Tensor) -> torch.Tensor:
        """Adds the probabilities of a chunk to `alpha_V`; returns its log Z (C,)."""
        weight_VD, bias_V = self.head.weight_VD, self.head.bias_V
        states_DC = hidden_CD.to(weight_VD.dtype).T.contiguous()
        vocabulary, contexts = len(weight_VD), states_DC.shape[1]
        if self._buffer is None or self._buffer.shape[1] != contexts:
            self._buffer = torch.empty(
                (vocabulary, contexts), dtype=weight_VD.dtype, device=weight_VD.device
            )
        blocks = self._buffer.split(self._rows)
        largest: list[torch.Tensor] = []
        for start, block in zip(range(0, vocabulary, self._rows), blocks, strict=True):
            stop = start + len(block)
            torch.mm(weight_VD[start:stop], states_DC, out=block)
            if bias_V is not None:
                block += bias_V[start:stop, None]
            self.head.finish_(block)
            largest.append(block.amax(0))
        top_C = torch.stack(largest).amax(0)
        z_C = torch.zeros(contexts, dtype=torch.float64, device=weight_VD.device)
        for block in blocks:
            z_C += block.sub_(top_C).exp_().sum(0)
        share_C = (1 / z_C).to(weight_VD.dtype)
        for start, block in zip(range(0, vocabulary, self._rows), blocks, strict=True):
            self.alpha_V[start : start + len(block)] += block @ share_C
        return z_C.log() + top_C

    @torch.no_grad()
    def all_reduce(self) -> ProbabilitySums:
        """The sums of all processes, in each of them. All must call it."""
        if world() == 1:
            return self
        self._finish()
        total = ProbabilitySums(self.head, np.asarray(self._unused_rows, dtype=np.int64))
        like = self.alpha_V
        # every process's guess of the means is moved to that of one which has some
        own = torch.zeros_like(self._sum) if self._first is None else self._first
        firsts = from_all(torch.cat([own, own.new_tensor([float(self.positions)])]).cpu().numpy())
        seen = [each[:-1] for each in firsts if each[-1]]
        if not seen:
            return self
        total._first = torch.from_numpy(seen[0]).to(like)
        d, n = own - total._first, self.positions
        outer = torch.outer(self._sum, d)
        second = self._second + outer + outer.T + n * torch.outer(d, d)
        for name, mine in (
            ("alpha_V", self.alpha_V),
            ("_sum", self._sum + n * d),
            ("_second", second),
        ):
            setattr(total, name, torch.from_numpy(sum_over_processes(mine.cpu().numpy())).to(like))
        total.positions = int(sum(each[-1] for each in firsts))
        return total

    def _finish(self) -> None:
        """Adds what waits for a whole chunk."""
        rest = torch.cat(self._waiting) if self._waiting else torch.empty(0)
        if len(rest):
            self._add_chunk(rest)
        self._waiting = []

    @torch.no_grad()
    def statistics(self) -> EncodingStatistics:
        """`UserError` if nothing was added."""
        self._finish()
        if self._first is None:
            raise UserError("no position to average over; give at least one token")
        n = self.positions
        mean = self._sum / n
        covariance = (self._second / n - torch.outer(mean, mean)).cpu().numpy()
        at = (mean + self._first).cpu().numpy()
        # each context's float32 shares sum to 1 up to rounding only
        alpha_V = (self.alpha_V / self.alpha_V.sum()).cpu().numpy()
        unused = float(alpha_V[self._unused_rows].sum())
        alpha_V[self._unused_rows] = 0
        return EncodingStatistics(
            alpha_V=alpha_V,
            unused=unused,
            mean_hidden_D=at[:-1],
            covariance_DD=covariance[:-1, :-1],
            covariance_log_z_D=covariance[:-1, -1],
            mean_log_z=float(at[-1]),
            variance_log_z=max(0.0, float(covariance[-1, -1])),
            positions=n,
        )


def mean_token_probability(
    model: Any, windows_NT: Any, *, mask_id: int | None = None, batch: int | None = None
) -> NDArray[np.float64]:
    """alpha (V,) float64: the mean over all positions of all windows of the softmax of the logits.

    `model` is a `LanguageModel`, a `Backbone` or a transformers model; ids (N, T) are fed as given.
    In a masked model each position is masked alone, once, in a pass of its own; a bare transformers
    model needs `mask_id` for that. `batch` windows go through the body at a time.

    Raises `UserError` as `encoding_statistics`.
    """
    return encoding_statistics(model, windows_NT, mask_id=mask_id, batch=batch).alpha_V


@torch.no_grad()
def encoding_statistics(
    model: Any, windows_NT: Any, *, mask_id: int | None = None, batch: int | None = None
) -> EncodingStatistics:
    """`mean_token_probability`, and the moments of hidden states and log Z at the same positions.

    Raises `UserError` for a model without an output embedding, ids that are no (N, T) integers of
    its vocabulary, or a masked model without a mask id.
    """
    backbone = backbone_of(model)
    unused_rows = model.unused_rows if isinstance(model, LanguageModel) else None
    sums = ProbabilitySums(backbone.head, unused_rows)
    for hidden_ND in window_states(model, windows_NT, mask_id=mask_id, batch=batch):
        sums.add(hidden_ND)
    return sums.statistics()


def backbone_of(model: Any) -> Backbone:
    """The backbone of a `LanguageModel`, a `Backbone` or a transformers model."""
    if isinstance(model, LanguageModel):
        _check_logits(model)
        return model.backbone
    return model if isinstance(model, Backbone) else Backbone(model)


@torch.no_grad()
def window_states(
    model: Any, windows_NT: Any, *, mask_id: int | None = None, batch: int | None = None
) -> Iterator[torch.Tensor]:
    """The states (N, D) that the head reads at every position of windows that are fed as given.

    Positions come window by window, whatever the batch. Raises `UserError` as
    `encoding_statistics`.
    """
    backbone = backbone_of(model)
    ids_NT = torch.as_tensor(windows_NT)
    vocabulary = len(backbone.embedding_VD)
    if ids_NT.ndim != 2 or ids_NT.is_floating_point() or ids_NT.numel() == 0:
        raise UserError(f"windows of shape {tuple(ids_NT.shape)}; give integer ids (N, T)")
    if int(ids_NT.min()) < 0 or int(ids_NT.max()) >= vocabulary:
        raise UserError(
            f"id {int(ids_NT.max())} in the windows; the model has ids 0 to {vocabulary - 1}"
        )
    ids_NT = ids_NT.long().to(backbone.device)
    length = ids_NT.shape[1]
    if backbone.bidirectional:
        if mask_id is None and isinstance(model, LanguageModel):
            mask_id = model.tokenizer.mask_id
        if mask_id is None:
            raise UserError("a masked model asks each position once as a mask; give mask_id")
    at_once = batch or evaluation_batch(length, backbone.model)
    was_training = backbone.model.training
    backbone.model.eval()
    try:
        for rows_BT in ids_NT.split(at_once):
            if not backbone.bidirectional:
                yield backbone.transformed(backbone.hidden(rows_BT)).flatten(0, 1)
                continue
            assert mask_id is not None
            at_T = torch.arange(length, device=ids_NT.device)
            for window_T in rows_BT:
                seen_TT = window_T.repeat(length, 1)
                seen_TT[at_T, at_T] = mask_id
                states = [
                    backbone.hidden(part)[torch.arange(len(part)), start + at_T[: len(part)]]
                    for start, part in zip(
                        range(0, length, at_once), seen_TT.split(at_once), strict=True
                    )
                ]
                yield backbone.transformed(torch.cat(states))
    finally:
        backbone.model.train(was_training)


@dataclass(frozen=True)
class States:
    """The states that the head reads before each scored token of some windows of a store."""

    hidden_ND: torch.Tensor
    targets_N: torch.Tensor
    clusters: Clusters
    """The cluster and document of each position (`data.windows`)."""
    start_N: NDArray[np.int64]
    """Where the window of each position starts in the split."""


@dataclass(frozen=True)
class ReadText:
    """A text that a model has read, before any edit."""

    name: str
    """One of `TEXTS`."""
    windows: EvaluationWindows
    states: States

    def sample(self, max_windows: int) -> ReadText:
        """The part of it that a sample of so many windows has."""
        few = evaluation_windows(self.windows.split, self.windows.context, max_windows=max_windows)
        states = self.states
        rows_N = np.flatnonzero(np.isin(states.start_N, few.start_M))
        here_N = torch.from_numpy(rows_N).to(states.hidden_ND.device)
        return ReadText(
            self.name,
            few,
            States(
                states.hidden_ND[here_N],
                states.targets_N[here_N],
                states.clusters[rows_N],
                states.start_N[rows_N],
            ),
        )


IN_DOMAIN = "in domain"
TEXTS = ("estimation", IN_DOMAIN, "out of domain")
"""Names of the texts that edits are judged on, in their order."""


def read_texts(
    lm: LanguageModel,
    store: TokenStore,
    *,
    other: TokenStore | None = None,
    context: int | None = None,
    max_windows: int | None = None,
) -> list[ReadText]:
    """The estimation text (validation split), in-domain text (test split, where there is one) and,
    where `other` is given, text out of domain (its validation split); each is read once, and its
    states are held.

    Raises `UserError` as `choose_windows`.
    """
    sources = [(TEXTS[0], store, "validation")]
    if "test" in store.splits:
        sources.append((TEXTS[1], store, "test"))
    if other is not None:
        sources.append((TEXTS[2], other, "validation"))
    windows = [
        choose_windows(lm, source, split=split, context=context, max_windows=max_windows)
        for _, source, split in sources
    ]
    return [
        ReadText(name, chosen, all_states(lm, chosen, label=name))
        for (name, _, _), chosen in zip(sources, windows, strict=True)
    ]


def choose_windows(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str,
    context: int | None = None,
    max_windows: int | None = None,
) -> EvaluationWindows:
    """`LanguageModel.windows`; also raises `UserError` for a model whose distribution is not that
    of its own logits."""
    _check_logits(lm)
    return lm.windows(store, split, context=context, max_windows=max_windows)


@torch.no_grad()
def store_states(
    lm: LanguageModel, windows: EvaluationWindows, *, label: str, share: bool = False
) -> Iterator[States]:
    """The states before every scored token, as the model's objective asks for them.

    A masked model's tokens are asked for in the passes of its objective. Progress counts tokens.
    With `share`, several processes take batches in turn, and each sees those of its own.
    """
    backbone, objective = lm.backbone, lm.objective
    at_once = evaluation_batch(windows.context, backbone.model)
    with track(label, float(windows.length_M.sum()), "tokens") as bar:
        padded = can_pad(backbone, objective, windows)
        batches = window_batches(windows, at_once, padded=padded)
        for (rows, length), is_mine in shared_out(batches):
            bar.advance(float(windows.length_M[rows].sum()))
            if share and not is_mine:
                continue
            ids = [windows.ids(int(row)) for row in rows]
            batch = objective.reading.batch(ids, device=backbone.device, length=length)
            clusters_B, start_B = windows.clusters[rows], windows.start_M[rows]
            for asked in objective.reading.questions(batch):
                row_N = asked.window_K.cpu().numpy()
                yield States(
                    hidden_states(backbone, asked), asked.targets_N, clusters_B[row_N],
                    start_B[row_N],
                )  # fmt: skip


def all_states(lm: LanguageModel, windows: EvaluationWindows, *, label: str) -> States:
    """`store_states` of all windows at once: positions x width is held."""
    seen = list(store_states(lm, windows, label=label))
    return States(
        torch.cat([s.hidden_ND for s in seen]),
        torch.cat([s.targets_N for s in seen]),
        Clusters(
            np.concatenate([s.clusters.cluster_N for s in seen]),
            np.concatenate([s.clusters.document_N for s in seen]),
        ),
        np.concatenate([s.start_N for s in seen]),
    )


def mean_of_states(lm: LanguageModel, states: States) -> EncodingStatistics:
    """`encoding_statistics` over states that are at hand."""
    sums = ProbabilitySums(lm.backbone.head, lm.unused_rows)
    sums.add(states.hidden_ND)
    return sums.statistics()


def store_statistics(lm: LanguageModel, windows: EvaluationWindows) -> EncodingStatistics:
    """`encoding_statistics` over the scored tokens of evaluation windows (`choose_windows`).

    Several processes share the text out, and each has the whole statistics.
    """
    sums = ProbabilitySums(lm.backbone.head, lm.unused_rows)
    for states in store_states(lm, windows, label="token probability", share=True):
        sums.add(states.hidden_ND)
    return sums.all_reduce().statistics()


def _check_logits(lm: LanguageModel) -> None:
    if not lm.objective.criterion.scores_own_logits:
        raise UserError(
            f"{lm.name} was trained with a cosine or a temperature: its distribution is not "
            "the softmax of its logits, so its output embedding encodes no probability directly"
        )
