"""Log-sum-exp over a vocabulary, and the nats of a target, without the rounding of a long sum.

`torch.log_softmax` of float32 adds up the exponentials in float32, in an order that loses some:
over 49,152 types a token comes out about 1e-6 to 2e-5 nats too low in the mean, always on the same
side. Here the exponentials are float32, sums within blocks of 128 are float32, and sums over
blocks are float64. What is left is the rounding of each difference to the maximum, on either side.

Notable: rows are taken a few at a time, so that their exponentials stay in the processor's cache;
that makes it faster than `log_softmax` of the whole on a CPU (docs/experiments.md).

Shapes: N rows, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

import torch

_CACHED_LOGITS = {"cpu": 1 << 19}
_BLOCK = 128


def log_sum_exp(logits_NV: torch.Tensor) -> torch.Tensor:
    """log of the sum of exp over the last axis, float64; float32 logits or float64 ones."""
    rows_NV = logits_NV.reshape(-1, logits_NV.shape[-1])
    vocabulary = rows_NV.shape[1]
    rows = max(1, _CACHED_LOGITS.get(rows_NV.device.type, 1 << 26) // vocabulary)
    whole = vocabulary - vocabulary % _BLOCK
    result_N = torch.empty(len(rows_NV), dtype=torch.float64, device=rows_NV.device)
    for start in range(0, len(rows_NV), rows):
        logits_RV = rows_NV[start : start + rows]
        largest_R1 = logits_RV.amax(1, keepdim=True)
        exp_RV = (logits_RV - largest_R1).exp_()
        blocks_RK = exp_RV[:, :whole].unflatten(1, (whole // _BLOCK, _BLOCK)).sum(2)
        sum_R = blocks_RK.sum(1, dtype=torch.float64)
        sum_R += exp_RV[:, whole:].sum(1)
        result_N[start : start + rows] = sum_R.log_() + largest_R1[:, 0]
    return result_N.view(logits_NV.shape[:-1])


def nats_of_targets(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits)[target] in nats (N,), float64; every target an id of the vocabulary."""
    own_N = logits_NV.gather(1, targets_N[:, None])[:, 0]
    return log_sum_exp(logits_NV) - own_N
