"""Muon: momentum whose matrices are orthogonalised before they are added (Jordan et al. 2024).

The momentum of a weight matrix is replaced by a matrix with the same singular vectors and singular
values near 1, so that every direction of the matrix is learnt about equally fast.

Notable:
- Three iterations, each with the polynomial that is best for it (the idea is that of Polar Express,
  Amsel et al. 2025), after a division by a norm that lies closer to the largest singular value than
  Frobenius' does. They do what five of Jordan et al.'s did, in 0.7 of the time
  (docs/experiments.md, "three iterations of Muon").
- All matrices of one shape are orthogonalised in one batched product, in float32, or in bfloat16
  where the processor has it. (`torch.optim.Muon` takes one after the other, always in bfloat16.)
- A matrix that is more than twice as wide as high is orthogonalised through its small Gram matrix
  in float32: the same polynomials in less time.
- The step is as long as AdamW's (Liu et al. 2025: RMS 0.2), so that one learning rate serves both.

Shapes: K matrices of one shape, M rows, N columns, M <= N.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

POLYNOMIALS = (
    (8.2987, -24.4305, 18.0903),
    (3.8460, -2.7601, 0.5080),
    (3.1451, -2.2740, 0.4566),
)
"""The iterations' a x + b x^3 + c x^5 of a singular value x. Each is the one that differs least
from 1, at its worst, on the values that the one before it leaves: [0.005, 1], then [0.0415, 1.998]
and [0.1594, 1.877], which are wider by two per cent than those, for rounding. Singular values from
0.005 to 1 end between 0.49 and 1.51."""
_LENGTH = 0.88
"""Of a step in those of Liu et al. With it a random matrix makes a step as long as by Jordan et
al.'s iterations, whose singular values have an RMS of 0.88: the recipe's rates are for that."""
_LEAST_NORM = 1e-7
_MARGIN = 1.01  # for rounding: a singular value above 1 would grow without bound
_GRAM_FROM = 2.0
"""Width over height from which the Gram matrix saves time (products of M^3 for those of M^2 N)."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices only.

    `products` is the type of the orthogonalisation's products.
    """

    def __init__(
        self,
        matrices: Iterable[torch.Tensor],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        products: torch.dtype,
    ) -> None:
        super().__init__(
            list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        )
        self.products = products

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; a matrix without a gradient stays as it is."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[torch.Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    shape = min(weight.shape), max(weight.shape)
                    by_shape.setdefault(shape, []).append(weight)
            for (_, columns), weights in by_shape.items():
                wide_KMN = torch.stack([_wide(self._ahead(w, group)) for w in weights])
                orthogonal_KMN = orthogonalised(wide_KMN.to(self.products))
                for weight, matrix_MN in zip(weights, orthogonal_KMN, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    step = matrix_MN if matrix_MN.shape == weight.shape else matrix_MN.mT
                    weight.add_(step, alpha=-group["lr"] * 0.2 * _LENGTH * columns**0.5)

    def _ahead(self, weight: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Nesterov's momentum of a weight, after its gradient."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"])


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def orthogonalised(matrices_KMN: torch.Tensor) -> torch.Tensor:
    """Matrices with about the same singular vectors and singular values near 1, M <= N.

    Newton-Schulz iterations X <- (a + b G + c G^2) X with G = X X^T, from X over a bound of its
    largest singular value s: the sum of all s^4 is |G|^2 (Frobenius), so s <= |G|^(1/2). That bound
    is at most M^(1/4) times s, where Frobenius' norm of X can be M^(1/2) times s.
    """
    _, rows, columns = matrices_KMN.shape
    norm_K11 = matrices_KMN.norm(dim=(1, 2), keepdim=True).clamp_min(_LEAST_NORM)
    scaled_KMN = matrices_KMN / norm_K11  # first, so that small matrices have a Gram matrix
    gram_KMM = scaled_KMN @ scaled_KMN.mT
    bound_K11 = _MARGIN * gram_KMM.norm(dim=(1, 2), keepdim=True).clamp_min(_LEAST_NORM).sqrt()
    gram_KMM.div_(bound_K11.square())
    if scaled_KMN.dtype == torch.float32 and columns >= _GRAM_FROM * rows:
        return _of_gram(gram_KMM).div_(bound_K11) @ scaled_KMN
    scaled_KMN.div_(bound_K11)
    for iteration, (a, b, c) in enumerate(POLYNOMIALS):
        if iteration:
            gram_KMM = scaled_KMN @ scaled_KMN.mT
        polynomial_KMM = torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=b, alpha=c)
        scaled_KMN = torch.baddbmm(scaled_KMN, polynomial_KMM, scaled_KMN, beta=a)
    return scaled_KMN


def _of_gram(gram_KMM: torch.Tensor) -> torch.Tensor:
    """The product P_3 P_2 P_1 of the iterations' P = a + b G + c G^2, from G = X X^T alone.

    The G after P is P G P. Rounding grows with the condition number, too much for bfloat16.
    """
    product_KMM: torch.Tensor | None = None
    for iteration, (a, b, c) in enumerate(POLYNOMIALS):
        step_KMM = torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=b, alpha=c)
        step_KMM.diagonal(dim1=1, dim2=2).add_(a)
        product_KMM = step_KMM if product_KMM is None else step_KMM @ product_KMM
        if iteration < len(POLYNOMIALS) - 1:
            gram_KMM = step_KMM @ gram_KMM @ step_KMM
    assert product_KMM is not None
    return product_KMM
