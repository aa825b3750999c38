"""Contrastive weight tying: the loss of headless language models, exact and in chunks.

The loss is that of Godey, de la Clergerie and Sagot, "Headless Language Models", ICLR 2024, section
3. With K targets the published form holds K x K logits; here nothing of that size is ever formed.

Notable:
- Equal candidates have equal logits. So the sum over candidates runs over the U distinct ones, with
  the log of their counts as a bias: K x K becomes K x U, with the same value and gradients.
- Rows are taken in chunks, and a chunk's gradients are formed in the forward pass, as in
  `cross_entropy`. Backward only scales them.
- Log-sum-exp in float32 (float64 for float64 input), the maximum subtracted. The published
  exp / (sum + 1e-9) overflows at logits of 88. Products of bfloat16 input, or under autocast, are
  in bfloat16, as in `cross_entropy`.
- The embedding's gradient is formed for the U rows that occur and written once into zeros (V, D):
  dense, as dense AdamW needs it. All other rows are exactly zero.
- A row's own target may count more often in that row than elsewhere, and candidates may count
  differently in each window (`lmlab.objectives.candidates` says what that is good for).
- Across devices, `gathered_targets` makes N ranks of B the same as one rank of N B.
- Double backward is refused (the saved gradients are constants).

Shapes: N rows, K rows whose target counts, D width, V vocabulary, M candidates, U distinct
candidates, W windows, C rows of a chunk, R rows of a chunk that stay in the processor's cache.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import distributed

from lmlab.errors import UserError
from lmlab.objectives.candidates import Candidates, pool, pool_and_own
from lmlab.objectives.cross_entropy import IGNORED, check_ids, counted, product_type

_CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 24}
_CACHED_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 24}
_LEAST_ROWS = 256  # fewer make the products of many candidates slow


def contrastive_loss(
    hidden_ND: torch.Tensor,
    embedding_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    temperature: float = 1.0,
    candidate_ids_M: torch.Tensor | None = None,
    duplicates: Literal["count", "unique"] = "count",
    target_added: bool = False,
    cosine: bool = False,
    detach_targets: bool = False,
) -> torch.Tensor:
    """Mean over rows i of -log(exp(s[i, x_i]) / sum over candidates m of exp(s[i, m])), in nats.

    `s[i, m] = hidden_i . e_m / temperature`, with e_m the row of `embedding_VD` of id m and
    `x_i = targets_N[i]`. Rows whose target is -100 are left out: no row, no candidate. Inputs are
    aligned already: row i predicts `targets_N[i]`. Returns a scalar, float32 (float64 for float64
    input); 0 if every target is ignored. Memory O(chunk x U) for U distinct candidates, and the
    gradients.

    - `candidate_ids_M`: ids of the candidates with their multiplicities, in place of the targets
      themselves; -100 is left out. A target that is not among them enters its own row only, once.
      `gathered_targets` gives those of all ranks; each id of the vocabulary once gives full
      cross-entropy.
    - `target_added`: each row's own target enters that row once more, whatever the candidates are.
      Independent draws need it (`lmlab.objectives.candidates`): the target is then one of
      M + 1 candidates, and the optimum log p - log q, q the law of the draws, for any M.
    - `duplicates`: "count" sums over the candidates with their multiplicities, as published;
      "unique" takes each distinct candidate once.
    - `cosine`: hidden states and embeddings are divided by their norms first; a row of zeros stays
      as it is. Temperatures well below 1 belong with it.
    - `detach_targets`: no gradient to `embedding_VD`, neither by targets nor by other candidates.

    Source: section 3 of Godey et al. 2024 (ICLR). By candidate u with count c_u, the sum is
    exp(s[i, u] + log c_u) over distinct u; so this is cross-entropy over them with the bias
    log c_u, plus the mean of log c at the targets.

    Raises `UserError` if shapes disagree, an id is outside the embedding, or an option has no
    meaning; in backward, if asked for a graph of it.
    """
    _check(hidden_ND, embedding_VD, targets_N, candidate_ids_M, temperature, duplicates)
    hidden_KD, targets_K = counted(hidden_ND, targets_N)
    check_ids("target", targets_K, len(embedding_VD))
    ids_M = targets_K
    if candidate_ids_M is not None:
        ids_M = candidate_ids_M[candidate_ids_M != IGNORED]
        check_ids("candidate", ids_M, len(embedding_VD))
    if not target_added:
        candidates = pool(targets_K, ids_M, unique=duplicates == "unique")
    elif candidate_ids_M is None or duplicates == "unique":
        raise UserError(
            "target_added is for candidates of their own (candidate_ids_M), each counted: the "
            "batch's targets hold each row's target already"
        )
    else:
        candidates = pool_and_own(targets_K, ids_M)
    total = sum_over_candidates(
        hidden_KD,
        embedding_VD,
        candidates,
        temperature=temperature,
        cosine=cosine,
        detach_targets=detach_targets,
    )
    return total / max(len(targets_K), 1)


def sum_over_candidates(
    hidden_KD: torch.Tensor,
    embedding_VD: torch.Tensor,
    candidates: Candidates,
    *,
    temperature: float = 1.0,
    cosine: bool = False,
    detach_targets: bool = False,
) -> torch.Tensor:
    """Sum over rows i of -log(exp(s[i, x_i]) / sum over candidates u of w[i, u] exp(s[i, u])).

    The weights `w` and the targets `x` are those of `candidates`; the rest, nats too, is as in
    `contrastive_loss`. All ids must be rows of the embedding.
    """
    if detach_targets:
        embedding_VD = embedding_VD.detach()
    weight_UD = torch.nn.functional.embedding(candidates.ids_U, embedding_VD)
    dtype = product_type(hidden_KD)
    if cosine:
        hidden_KD, weight_UD = unit_rows(hidden_KD), unit_rows(weight_UD)
    if not torch.is_grad_enabled():
        hidden_KD = hidden_KD.detach()  # or its gradient would be formed, and for nothing
    total: Any = _ContrastiveSum.apply(hidden_KD, weight_UD, candidates, temperature, dtype)
    return total


@torch.no_grad()
def gathered_targets(targets_N: torch.Tensor) -> torch.Tensor:
    """The targets (M,) of all ranks that are not -100, in the order of ranks; for candidates.

    Ranks may have different numbers. Without an initialised `torch.distributed` they are this
    process's own. All ranks must call it, with tensors on the device of their process group.

    Ids suffice for an exact loss with gradients, as each rank holds a replica of the embedding: its
    own rows give the gradient of every candidate, and gradients are summed over ranks as ever. With
    these candidates, the sum of nats over ranks divided by the sum of their counts is the loss of
    one rank that has all rows.
    """
    targets = targets_N[targets_N != IGNORED]
    if not distributed.is_available() or not distributed.is_initialized():
        return targets
    longest = torch.tensor(len(targets), device=targets.device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    padded = targets.new_full((int(longest),), IGNORED)
    padded[: len(targets)] = targets
    ranks = [torch.empty_like(padded) for _ in range(distributed.get_world_size())]
    distributed.all_gather(ranks, padded)
    gathered = torch.cat(ranks)
    return gathered[gathered != IGNORED]


def _check(
    hidden_ND: torch.Tensor,
    embedding_VD: torch.Tensor,
    targets_N: torch.Tensor,
    candidate_ids_M: torch.Tensor | None,
    temperature: float,
    duplicates: str,
) -> None:
    if (
        hidden_ND.ndim != 2
        or embedding_VD.ndim != 2
        or hidden_ND.shape[1] != embedding_VD.shape[1]
        or targets_N.shape != hidden_ND.shape[:1]
        or (candidate_ids_M is not None and candidate_ids_M.ndim != 1)
    ):
        raise UserError(
            "the contrastive loss takes hidden (N, D), embedding (V, D), targets (N) and "
            f"candidates (M); got {tuple(hidden_ND.shape)}, {tuple(embedding_VD.shape)}, "
            f"{tuple(targets_N.shape)}"
            + (f", {tuple(candidate_ids_M.shape)}" if candidate_ids_M is not None else "")
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UserError(f"temperature is {temperature}; it must be a positive number")
    if duplicates not in ("count", "unique"):
        raise UserError(
            f"duplicates is {duplicates!r}; say 'count' (as published) or 'unique' (each once)"
        )


def unit_rows(rows_ND: torch.Tensor) -> torch.Tensor:
    """Rows of norm 1, in float32 at least; rows of zeros stay zero, with a finite gradient."""
    rows = rows_ND.to(torch.promote_types(rows_ND.dtype, torch.float32))
    norm_N1 = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norm_N1 > 0, norm_N1, 1)


class _ContrastiveSum(torch.autograd.Function):
    """Sum of nats over rows; gradients formed chunk by chunk in the forward pass."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_KD: torch.Tensor,
        weight_UD: torch.Tensor,
        candidates: Candidates,
        temperature: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        position_K1 = candidates.position_K.unsqueeze(1)
        window_K = candidates.window_K
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        accumulate = torch.promote_types(hidden_KD.dtype, torch.float32)
        hidden = hidden_KD.to(dtype)
        weight_DU = weight_UD.to(dtype).T.contiguous()
        rows, distinct = len(hidden), max(1, len(weight_UD))
        # In base 2, as the exp of Intel's library is two hundred times slower where it underflows
        bias_WU = candidates.weight_WU.double().log2().to(accumulate)
        scale = math.log2(math.e) / temperature
        kind = hidden.device.type
        chunk = max(_LEAST_ROWS, _CHUNK_LOGITS.get(kind, 1 << 24) // distinct)
        cached = max(1, _CACHED_LOGITS.get(kind, 1 << 24) // distinct)
        # Buffers for all chunks: fresh memory costs as much time as the product that fills it
        buffer_CU = hidden.new_empty(min(chunk, rows), len(weight_UD))
        float_RU = None
        if dtype != accumulate:
            float_RU = torch.empty_like(buffer_CU[:cached], dtype=accumulate)
        bits_K1 = candidates.own_weight().double().log2().to(accumulate).unsqueeze(1)
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight_UD, dtype=accumulate) if needs_weight else None
        with torch.autocast(kind, enabled=False):
            for start in range(0, rows, chunk):
                part, wanted_C1 = hidden[start : start + chunk], position_K1[start : start + chunk]
                logits_CU = torch.mm(part, weight_DU, out=buffer_CU[: len(part)])
                bits_C1 = bits_K1[start : start + chunk]
                window_C = None if window_K is None else window_K[start : start + chunk]
                for at, (logits_RU, wanted_R1, bits_R1) in enumerate(
                    zip(*(x.split(cached) for x in (logits_CU, wanted_C1, bits_C1)), strict=True)
                ):
                    scores_RU = logits_RU
                    if float_RU is not None:
                        scores_RU = float_RU[: len(logits_RU)].copy_(logits_RU)
                    own_R1 = None
                    if candidates.own_K is not None:
                        own_R1 = scores_RU.gather(1, wanted_R1).mul_(scale).add_(bits_R1)
                    bias = bias_WU
                    if window_C is not None:
                        bias = bias_WU[window_C[at * cached : (at + 1) * cached]]
                    torch.add(bias, scores_RU, alpha=scale, out=scores_RU)
                    if own_R1 is not None:
                        scores_RU.scatter_(1, wanted_R1, own_R1)
                    largest_R1 = scores_RU.amax(1, keepdim=True)
                    below_R1 = largest_R1 - scores_RU.gather(1, wanted_R1)
                    scores_RU.sub_(largest_R1).exp2_()
                    sum_R1 = scores_RU.sum(1, keepdim=True)
                    bits_R1 += below_R1.add_(sum_R1.log2())
                    # Softmax minus one at the target takes the logits' place. One is taken off
                    # before the rounding to bfloat16, which would make a probability of 0.999 one.
                    scores_RU.scatter_(1, wanted_R1, scores_RU.gather(1, wanted_R1) - sum_R1)
                    scores_RU.mul_(sum_R1.reciprocal())
                    if float_RU is not None:
                        logits_RU.copy_(scores_RU)
                if d_hidden is not None:
                    torch.mm(logits_CU, weight_DU.T, out=d_hidden[start : start + len(part)])
                if d_weight is not None:
                    if dtype == accumulate:
                        d_weight.addmm_(logits_CU.T, part)
                    else:
                        d_weight += logits_CU.T @ part
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.types = (hidden_KD.dtype, weight_UD.dtype)
        ctx.temperature = temperature
        return (bits_K1.sum(dtype=torch.float64) * math.log(2)).to(accumulate)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:
        if torch.is_grad_enabled():  # the saved gradients would silently count as constants
            raise UserError(
                "the contrastive loss cannot be differentiated twice; "
                "take its gradient without create_graph"
            )
        factor = upstream[0] / ctx.temperature
        d_hidden, d_weight = (
            None if gradient is None else (gradient.to(factor.dtype) * factor).to(kind)
            for gradient, kind in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return d_hidden, d_weight, None, None, None
