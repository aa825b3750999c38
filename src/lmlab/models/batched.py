"""Several models of one shape computed in one pass: their weights stacked, their batches joined.

Notable:
- Works on any transformers body made of linear layers and norms: a copy of the module tree stands
  over the same modules, in which each leaf that has weights is replaced by one that multiplies a
  batch of matrices. All else (attention, activations, rotary positions) acts on rows of the batch
  alone, so it needs no change.
- The copy owns nothing. Weights stay in the models, under their own names: checkpoints, optimizers
  and single models do not know of it.

Shapes: K models, B batch, T tokens, D in, O out, N = B x T rows of a model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_RMS_NORMS = ("LlamaRMSNorm", "Qwen3RMSNorm")


def batched(models: Sequence[nn.Module]) -> nn.Module | None:
    """One module over K models of one shape: (K x B, T, D), a model's rows together, to the same.

    None where a part has weights that cannot be stacked (recurrent layers, say); models of which
    that is so have to be computed one after the other.
    """
    try:
        return _joined(models)
    except _NotStackableError:
        return None


class _NotStackableError(Exception):
    pass


def _joined(modules: Sequence[nn.Module]) -> nn.Module:
    first: Any = modules[0]
    if isinstance(first, nn.Linear | Conv1D):
        return _Linear(modules)
    if isinstance(first, nn.LayerNorm) or type(first).__name__ in _RMS_NORMS:
        return _Norm(modules)
    if next(first.parameters(recurse=False), None) is not None:
        raise _NotStackableError
    if next(first.parameters(), None) is None:
        return first
    joined: Any = copy.copy(first)
    joined._modules = {
        name: child and _joined([module._modules[name] for module in modules])  # pyright: ignore[reportArgumentType]
        for name, child in first._modules.items()
    }
    return joined


class _Stacked(nn.Module):
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.of: tuple[Any, ...] = tuple(modules)  # a tuple: they are not its own

    def stacked(self, name: str) -> torch.Tensor | None:
        """The weights of that name, (K, ...); None where there are none."""
        if getattr(self.of[0], name, None) is None:
            return None
        return torch.stack([getattr(module, name) for module in self.of])


class _Linear(_Stacked):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.stacked("weight")
        assert weight is not None
        weight_KDO = weight if isinstance(self.of[0], Conv1D) else weight.transpose(1, 2)
        x_KND = x.reshape(len(self.of), -1, x.shape[-1])
        bias_KO = self.stacked("bias")
        if bias_KO is None:
            output_KNO = torch.bmm(x_KND, weight_KDO)
        else:
            output_KNO = torch.baddbmm(bias_KO[:, None], x_KND, weight_KDO)
        return output_KNO.view(*x.shape[:-1], -1)


class _Norm(_Stacked):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.of[0]
        if isinstance(first, nn.LayerNorm):
            normed = nn.functional.layer_norm(x, first.normalized_shape, None, None, first.eps)
        else:
            normed = nn.functional.rms_norm(x, x.shape[-1:], None, first.variance_epsilon)
        normed_KND = normed.view(len(self.of), -1, x.shape[-1])
        weight_KD, bias_KD = self.stacked("weight"), self.stacked("bias")
        if weight_KD is not None and bias_KD is not None:
            normed_KND = torch.addcmul(bias_KD[:, None], normed_KND, weight_KD[:, None])
        elif weight_KD is not None:
            normed_KND = normed_KND * weight_KD[:, None]
        return normed_KND.view(x.shape)
