"""Cross-entropy of a linear head, without ever holding tokens x vocabulary.

Rows are taken in chunks. Each chunk's logits, log-softmax and gradients are formed at once in the
forward pass, so that backward only scales what is there: one chunk of logits is the extra memory,
and no logits are computed twice.

Notable:
- Log-sum-exp in float32 (float64 for float64 input) whatever the type of the products. Under
  autocast the products are in autocast's type, each operand cast once.
- Scores (`cross_entropy_each`) are float64, from the same float32 logits: over a large vocabulary
  float32 sums make every token cheaper than it is (`numerics.log_sum_exp`). The loss keeps them.
- The gradient of the weight is summed over chunks in float32.
- Double backward is not supported (the saved gradients are constants).

Shapes: N rows, D width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch

from lmlab.errors import UserError
from lmlab.numerics.log_sum_exp import nats_of_targets

IGNORED = -100
_CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 27}
_CACHED_LOGITS = {"cpu": 1 << 20}


def linear_cross_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    bias_V: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of -log softmax(hidden W^T + bias)[target], in nats, over targets that are not -100.

    Inputs are aligned already: row i predicts `targets_N[i]`. Returns a scalar, float32 (float64
    for float64 input); 0 if every target is ignored. Memory O(chunk x V).

    Raises `UserError` if shapes disagree or a target is outside the vocabulary.
    """
    total, count = cross_entropy_sum(hidden_ND, weight_VD, targets_N, bias_V=bias_V)
    return total / max(count, 1)


def cross_entropy_sum(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None = None,
) -> tuple[torch.Tensor, int]:
    """Like `linear_cross_entropy`, but the sum in nats and the number of targets."""
    hidden, targets = _selected(hidden_ND, weight_VD, targets_N, bias_V)
    total: Any = _CrossEntropySum.apply(hidden, weight_VD, targets, bias_V, product_type(hidden))
    return total, len(targets)


def cross_entropy_each(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None = None,
) -> torch.Tensor:
    """Nats (N,) of each target, float64, 0 where it is ignored; no gradient."""
    return cross_entropy_each_and_best(hidden_ND, weight_VD, targets_N, bias_V, best=False)[0]


@torch.no_grad()
def cross_entropy_each_and_best(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None = None,
    *,
    best: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`cross_entropy_each`, and the likeliest id (N,) of each row, -100 where the target is
    ignored (everywhere, unless the `best` are asked for)."""
    hidden, targets = _selected(hidden_ND, weight_VD, targets_N, bias_V)
    dtype = product_type(hidden)
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    nats_N = torch.zeros(targets_N.shape, dtype=torch.float64, device=hidden_ND.device)
    best_N = torch.full_like(targets_N, IGNORED)
    weight = weight_VD.to(dtype)
    nats: list[torch.Tensor] = []
    likeliest: list[torch.Tensor] = []
    for part, wanted in zip(*_chunks(hidden, targets, len(weight_VD)), strict=True):
        logits_CV = (part.to(dtype) @ weight.T).to(accumulate)
        if bias_V is not None:
            logits_CV += bias_V
        nats.append(nats_of_targets(logits_CV, wanted))
        if best:
            likeliest.append(logits_CV.max(dim=1).indices)  # argmax is slower on a CPU
        del logits_CV  # before the next chunk is formed
    if nats:
        nats_N[targets_N != IGNORED] = torch.cat(nats)
    if likeliest:
        best_N[targets_N != IGNORED] = torch.cat(likeliest)
    return nats_N, best_N


def _selected(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose target counts: their hidden states and targets."""
    if (
        hidden_ND.ndim != 2
        or weight_VD.ndim != 2
        or hidden_ND.shape[1] != weight_VD.shape[1]
        or targets_N.shape != hidden_ND.shape[:1]
        or (bias_V is not None and bias_V.shape != weight_VD.shape[:1])
    ):
        raise UserError(
            "cross-entropy takes hidden (N, D), weight (V, D), targets (N) and bias (V); got "
            f"{tuple(hidden_ND.shape)}, {tuple(weight_VD.shape)}, {tuple(targets_N.shape)}"
            + (f", {tuple(bias_V.shape)}" if bias_V is not None else "")
        )
    hidden, targets = counted(hidden_ND, targets_N)
    check_ids("target", targets, len(weight_VD))
    return hidden, targets


def counted(hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows (K) whose target is not -100."""
    rows = targets_N != IGNORED
    return (hidden_ND, targets_N) if rows.all() else (hidden_ND[rows], targets_N[rows])


def check_ids(what: str, ids: torch.Tensor, vocabulary: int) -> None:
    """`UserError` for an id that is no row of the embedding."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise UserError(
            f"{what} ids from {int(ids.min())} to {int(ids.max())} do not fit the vocabulary of "
            f"{vocabulary}: the tokenizer and the model do not belong together"
        )


def product_type(hidden: torch.Tensor) -> torch.dtype:
    """The type of a head's matrix products: autocast's, where it is on."""
    kind = hidden.device.type
    if hidden.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


def _chunks(
    hidden: torch.Tensor, targets: torch.Tensor, vocabulary: int
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    budget = _CHUNK_LOGITS.get(hidden.device.type, _CHUNK_LOGITS["cuda"])
    rows = max(32, budget // vocabulary)
    return hidden.split(rows), targets.split(rows)


class _CrossEntropySum(torch.autograd.Function):
    """Sum of nats over rows; gradients formed chunk by chunk in the forward pass."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        bias_V: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        needs_hidden, needs_weight, _, needs_bias, _ = ctx.needs_input_grad
        accumulate = torch.promote_types(hidden_ND.dtype, torch.float32)
        hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=accumulate) if needs_weight else None
        d_bias = torch.zeros_like(bias_V, dtype=accumulate) if bias_V is not None else None
        start = 0
        with torch.autocast(hidden.device.type, enabled=False):
            for part, wanted in zip(*_chunks(hidden, targets_N, len(weight)), strict=True):
                logits_CV = part @ weight.T
                # A few rows at a time, so that their float32 form stays in the processor's cache;
                # the gradient of the logits takes the logits' place
                rows = max(1, _CACHED_LOGITS.get(hidden.device.type, 1 << 26) // len(weight))
                for logits_RV, wanted_R in zip(
                    logits_CV.split(rows), wanted.split(rows), strict=True
                ):
                    scores_RV = logits_RV if bias_V is None else logits_RV.to(accumulate) + bias_V
                    scores_RV = torch.log_softmax(scores_RV, dim=1, dtype=accumulate)
                    at = torch.arange(len(wanted_R), device=hidden.device)
                    total -= scores_RV[at, wanted_R].sum(dtype=torch.float64)
                    scores_RV.exp_()  # softmax, minus one at the target
                    scores_RV[at, wanted_R] -= 1
                    if needs_bias and d_bias is not None:
                        d_bias += scores_RV.sum(0)
                    logits_RV.copy_(scores_RV)
                if d_hidden is not None:
                    torch.mm(logits_CV, weight, out=d_hidden[start : start + len(part)])
                if d_weight is not None:
                    if dtype == accumulate:
                        d_weight.addmm_(logits_CV.T, part)
                    else:
                        d_weight += logits_CV.T @ part
                start += len(part)
                del logits_CV  # before the next chunk is formed
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.types = (hidden_ND.dtype, weight_VD.dtype, bias_V.dtype if bias_V is not None else None)
        return total.to(accumulate)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:
        (scale,) = upstream
        # The training loop sums, so the factor is 1 and a copy of the weight's gradient is spared
        plain = scale.device.type == "cpu" and float(scale) == 1.0
        d_hidden, d_weight, d_bias = (
            gradient if gradient is None else (gradient if plain else gradient * scale).to(kind)
            for gradient, kind in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        needs_bias = ctx.needs_input_grad[3]
        return d_hidden, d_weight, None, d_bias if needs_bias else None, None
