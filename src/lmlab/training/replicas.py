"""The model of a run on all of its processes: replicas (DDP), or shards of one (FSDP2).

Each process has its rows of every micro-batch. Gradients are summed over processes, never averaged,
since the loop divides by the number of targets of the whole batch.

Notable:
- DDP and FSDP hook into the forward pass of a module, but objectives use body and head apart. So
  what they wrap is a module whose forward pass does whatever it is asked to.
- FSDP2 shards each block of the body, and the rest (embeddings, norms, head) as one more unit.
- A checkpoint holds whole tensors, whoever wrote it: any number of processes can go on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.towers import TwoTower
from lmlab.processes import world

T = TypeVar("T")


class _Asked(nn.Module):
    """A module whose forward pass is the work that it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], T]) -> T:
        return work()


class Replicas:
    """How a model is spread over the processes of a run; of one process alone, nothing at all."""

    def __init__(
        self, backbone: Backbone, *, sharded: bool, loss: Callable[[], torch.Tensor]
    ) -> None:
        """`loss` of some batch shows which weights it does not reach; DDP waits for all others."""
        self.sharded = sharded
        self._wrapped: Any = None
        if sharded:
            self._wrapped = _shards(backbone.model)
        elif world() > 1 and any(p.requires_grad for p in backbone.model.parameters()):
            self._wrapped = nn.parallel.DistributedDataParallel(
                _Asked(backbone.model),
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=_reaches_not_all(backbone.model, loss),
            )
            self._wrapped.register_comm_hook(None, _sum)

    @contextmanager
    def summing(self, now: bool) -> Iterator[None]:
        """A forward and backward pass whose gradients are summed over processes `now`, or kept for
        a later one."""
        if self.sharded:
            self._wrapped.set_requires_gradient_sync(now)
            yield
        elif self._wrapped is None or now:
            yield
        else:
            with self._wrapped.no_sync():
                yield

    def forward(self, work: Callable[[], T]) -> T:
        """What `work` returns, done where the model's weights are whole."""
        return work() if self._wrapped is None else self._wrapped(work)

    @torch.no_grad()
    def measure(self, work: Callable[[], T]) -> T:
        """As `forward`, without gradients. Of shards, all processes must do the same work."""
        if not self.sharded:
            return work()
        try:
            return self._wrapped(work)
        finally:
            self._wrapped.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with all of its shards. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a whole tensor, if it belongs to a parameter that is one."""
    if not isinstance(parameter, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)


def _sum(_, bucket):  # DDP refuses annotations that are text
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def _reaches_not_all(model: nn.Module, loss: Callable[[], torch.Tensor]) -> bool:
    """Whether a weight that is trained is not in the loss (an untied BERT has a bias like that)."""
    loss().backward()
    missed = any(p.requires_grad and p.grad is None for p in model.parameters())
    model.zero_grad(set_to_none=True)
    return missed


def _shards(model: nn.Module) -> Any:
    from torch.distributed.fsdp import fully_shard

    if world() == 1:
        raise UserError("`fsdp` shards a model over processes: start lmlab with torchrun")
    if isinstance(model, TwoTower):
        raise UserError("`fsdp` cannot shard two towers, which run as one; leave it out")
    asked = _Asked(model)
    for block in _blocks(model):
        fully_shard(block)
    sharded: Any = fully_shard(asked)
    for module in sharded.modules():
        if hasattr(module, "set_gradient_divide_factor"):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it adds
    return sharded


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _blocks(child)
