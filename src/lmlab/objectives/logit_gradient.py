"""The gradient of a loss in the logits, before the head passes it on to the body.

`lmlab.numerics.head_gradient` measures how much of it does pass.

Shapes: K predicted positions, V columns (types, or the U distinct candidates), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lmlab.models.backbone import LogitHead
from lmlab.objectives.candidates import Candidates
from lmlab.objectives.cross_entropy import counted


@dataclass(frozen=True)
class LogitGradient:
    """Gradient of the summed nats in the products of states and weights, biases added."""

    gradient_KV: torch.Tensor
    states_KD: torch.Tensor
    weight_VD: torch.Tensor
    """The rows of the output embedding that the loss compares with."""


@torch.no_grad()
def softmax_gradient(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None,
    *,
    head: LogitHead | None = None,
) -> LogitGradient:
    """That of cross-entropy over all types: softmax minus one at the target.

    `head` has the scale and the soft cap of logits that are not the products themselves; the
    gradient is then that in the products.
    """
    states_KD, targets_K = counted(hidden_ND, targets_N)
    logits_KV = nn.functional.linear(states_KD, weight_VD, bias_V).float()
    if head is not None:
        logits_KV = head.finish_(logits_KV)
    gradient_KV = logits_KV.softmax(1)
    gradient_KV[torch.arange(len(targets_K)), targets_K] -= 1
    if head is not None and head.cap is not None:
        gradient_KV *= 1 - (logits_KV / head.cap).square()
    if head is not None:
        gradient_KV *= head.scale
    return LogitGradient(gradient_KV, states_KD.float(), weight_VD.float())


@torch.no_grad()
def candidates_gradient(
    states_KD: torch.Tensor,
    weight_UD: torch.Tensor,
    candidates: Candidates,
    *,
    temperature: float,
) -> LogitGradient:
    """That of a contrastive loss, over the distinct candidates: their share of the row's sum, minus
    one at the target."""
    rows_K = torch.arange(len(states_KD))
    scores_KU = states_KD.float() @ weight_UD.float().T / temperature
    log_WU = candidates.weight_WU.double().log().float()
    own_K = scores_KU[rows_K, candidates.position_K] + candidates.own_weight().double().log()
    scores_KU += log_WU if candidates.window_K is None else log_WU[candidates.window_K]
    scores_KU[rows_K, candidates.position_K] = own_K.float()
    gradient_KU = scores_KU.softmax(1)
    gradient_KU[rows_K, candidates.position_K] -= 1
    return LogitGradient(gradient_KU / temperature, states_KD.float(), weight_UD.float())
