"""How much of the gradient of the logits passes a linear head of lower rank.

Logits are H W^T (and a bias). A loss has the gradient G in the logits, one row for each position;
what reaches the body is G W. Godey and Artzi (arXiv 2603.10145, 2026) measure what is lost on the
way. A change of the states moves the logits within the span of W's columns only, so of G the part
outside that span can have no effect through the states: the share kept is |G P_W|^2 / |G|^2, P_W
the projection on the span. A step also changes W, which moves the logits within the span of the
states of the step's positions; the part that neither reaches is (I - P_H) G (I - P_W).

Notable:
- Shares are of squared norms, so positions add up: sums over positions are ratios of sums.
- For a gradient that has no direction in common with the head the expected share is rank / columns;
  for both, 1 - (1 - rank H / positions) (1 - rank W / columns).
- No head of this rank could keep more of these positions than the largest singular values of G.
- Spans are found with an eigendecomposition of the Gram matrix in float64.

Shapes: N positions, V columns (types or candidates), D width, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_NEGLIGIBLE = 1e-10
"""Of the largest eigenvalue: directions below it are rounding."""
_ENTRIES = 1 << 24
"""Of a chunk of columns of the gradient."""


@dataclass(frozen=True)
class KeptGradient:
    """Squared norms of the gradient of one batch of positions, and of what passes the head."""

    whole_N: torch.Tensor
    states_N: torch.Tensor
    """Of what a change of the states can use."""
    both_N: torch.Tensor
    """Of what a change of the states and of the head's weights can use. Only the sum is a share:
    a row may be negative, since the span of the states goes over all of them."""
    best: float
    """The most that a head of this rank could let through to the states, summed over positions."""
    reached: float
    """|G W|^2: of the gradient of the states."""
    moved: float
    """|G W W^T|^2: of the change of the logits if the states follow their gradient."""
    rank: int
    """Of the head."""
    states_rank: int
    columns: int


@torch.no_grad()
def kept_gradient(
    gradient_NV: torch.Tensor, states_ND: torch.Tensor, weight_VD: torch.Tensor
) -> KeptGradient:
    """What of a gradient in the logits passes the head, float64 sums of float32 products.

    `gradient_NV` is that of the sum over positions; `states_ND` are what the head reads there.
    """
    positions, columns = gradient_NV.shape
    assert weight_VD.shape == (columns, states_ND.shape[1])
    gram_DD, basis_Dr = _span(weight_VD)
    _, states_basis_Dq = _span(states_ND)
    states_Nq = (states_ND.double() @ states_basis_Dq).to(gradient_NV.dtype)
    seen_ND = (gradient_NV @ weight_VD).double()
    whole_N, left_N = torch.zeros(2, positions, dtype=torch.float64, device=gradient_NV.device)
    left_ND = torch.zeros_like(seen_ND)
    gram_NN = torch.zeros(positions, positions, dtype=gradient_NV.dtype, device=gradient_NV.device)
    at_once = max(1, _ENTRIES // positions)
    for start in range(0, columns, at_once):
        part = slice(start, start + at_once)
        part_NC = gradient_NV[:, part]
        whole_N += part_NC.double().square_().sum(1)
        gram_NN.addmm_(part_NC, part_NC.T)
        left_NC = part_NC - states_Nq @ (states_Nq.T @ part_NC)
        left_N += left_NC.double().square().sum(1)
        left_ND += left_NC @ weight_VD[part]
    states_N = (seen_ND @ basis_Dr).square().sum(1)
    lost_N = left_N - (left_ND @ basis_Dr).square().sum(1)
    rank = basis_Dr.shape[1]
    largest_N = torch.linalg.eigvalsh(gram_NN.double()).flip(0).clamp_min(0)
    return KeptGradient(
        whole_N=whole_N,
        states_N=torch.minimum(states_N, whole_N),
        both_N=whole_N - lost_N,
        best=float(largest_N[:rank].sum()),
        reached=float(seen_ND.square().sum()),
        moved=float(((seen_ND @ gram_DD) * seen_ND).sum()),
        rank=rank,
        states_rank=states_basis_Dq.shape[1],
        columns=columns,
    )


def _span(rows_KD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """X^T X, and B such that the columns of X B are an orthonormal basis of the span of X's
    columns (Gram matrix D x D, B D x r), in float64."""
    rows_KD = rows_KD.double()
    gram_DD = rows_KD.T @ rows_KD
    values_D, vectors_DD = torch.linalg.eigh(gram_DD)
    large = values_D > _NEGLIGIBLE * values_D.amax().clamp_min(torch.finfo(torch.float64).tiny)
    return gram_DD, vectors_DD[:, large] / values_D[large].sqrt()
