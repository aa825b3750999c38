"""Directions of the states that matter least for what a head predicts on a text.

A head turns a state h into logits E h. Of D directions k are kept, and the others are replaced by
their mean. The error of a projection P is (I - P)(h - m), and its cost is a quadratic form M of it.
In whitened coordinates, C^-1/2 (h - m) with C the covariance of the states, the expected cost of
what goes is a sum of eigenvalues of C^1/2 M C^1/2, so the smallest go first (Eckart and Young). The
projection is oblique: h is measured along C^-1/2 V and written back along C^1/2 V.

`mean_fisher` is the form M of the divergence: the mean over contexts of the covariance of the
embedding under the predicted distribution, the second order of KL(before || after) =
1/2 d^T Cov_p(E) d + ... That states and their own distributions vary together is left out. With the
squared error of the logits as M the kept part is the singular value decomposition of E C^1/2; that
asks rare types as much as frequent ones, and cost more where it was tried.

Shapes: N contexts, V vocabulary, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FLOOR = 1e-8
"""Of the largest eigenvalue of a covariance: directions that a text does not fill are kept apart by
it, and go first."""
_LOGITS = 1 << 22
"""Of a chunk of contexts."""


def least_first(metric_DD: Array, covariance_DD: Array) -> tuple[Array, Array]:
    """Directions as columns, that of the least expected cost first: those along which a state is
    measured (C^-1/2 V), and those along which it is written back (C^1/2 V). The product of the
    first, transposed, and the second is the identity."""
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    scale_D = np.sqrt(np.maximum(values_D, _FLOOR * values_D.max()))
    root_DD = (vectors_DD * scale_D) @ vectors_DD.T
    order_DD = np.linalg.eigh(root_DD @ metric_DD @ root_DD)[1]
    return (vectors_DD / scale_D) @ (vectors_DD.T @ order_DD), root_DD @ order_DD


@torch.no_grad()
def mean_fisher(embedding_VD: Array, bias_V: Array, hidden_ND: Array) -> Array:
    """(D, D): the mean over contexts of Cov_p(E), p = softmax(E h + b); float32 logits."""
    weight_VD = torch.from_numpy(embedding_VD).float()
    bias = torch.from_numpy(bias_V).float()
    total_V = torch.zeros(len(weight_VD), dtype=torch.float64)
    means_DD = np.zeros((weight_VD.shape[1], weight_VD.shape[1]))
    rows = max(1, _LOGITS // len(weight_VD))
    for start in range(0, len(hidden_ND), rows):
        states = torch.from_numpy(hidden_ND[start : start + rows]).float()
        p_RV = torch.addmm(bias, states, weight_VD.T).softmax(1)
        total_V += p_RV.double().sum(0)
        mean_RD = (p_RV @ weight_VD).double().numpy()
        means_DD += mean_RD.T @ mean_RD
    weighted_VD = embedding_VD * total_V.numpy()[:, None]
    return (weighted_VD.T @ embedding_VD - means_DD) / len(hidden_ND)
