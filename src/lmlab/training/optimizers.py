"""The optimizers of a model (AdamW, Muon), learning-rate schedules, and their state as tensors.

Notable:
- Weight decay, and Muon, apply to the matrices of linear and recurrent layers only.
- Muon's learning rate is matched to AdamW's update size, so that one rate serves both.
- The learning rate is a pure function of the step: no scheduler state to save.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from lmlab.config.training import OptimizerConfig, ScheduleConfig, TrainConfig
from lmlab.errors import UserError
from lmlab.models.head import OutputEmbedding
from lmlab.training.muon import Muon
from lmlab.training.replicas import like, whole


def learning_rate_factor(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Share of the peak rate for update `step` (counted from 0) of `steps`."""
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    start = max(warmup, round((1 - schedule.decay) * steps)) if schedule.kind == "wsd" else warmup
    if step < start:
        return 1.0
    progress = (step - start) / max(1, steps - 1 - start)
    down = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1 - progress
    return schedule.final + (1 - schedule.final) * down


def rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak rate for update `step` of a run, which may go on from a finished one."""
    start, schedule = config.lengthened.from_step, config.schedule
    if start is None or step < start:
        return learning_rate_factor(step, config.steps, schedule)
    if not config.lengthened.rewarm:  # the warm-up is over
        return learning_rate_factor(step, config.steps, replace(schedule, warmup=0))
    within, steps = step - start, config.steps - start
    factor = learning_rate_factor(within, steps, schedule)
    if within < round(schedule.warmup * steps):
        factor = schedule.final + (1 - schedule.final) * factor
    return factor


def _matrices(model: nn.Module) -> set[str]:
    """Names of the weights that are matrices of linear or recurrent layers, embeddings left out."""
    embeddings = {
        id(p)
        for m in model.modules()
        if isinstance(m, nn.Embedding | OutputEmbedding)
        for p in m.parameters()
    }
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # pyright: ignore[reportCallIssue]
    if isinstance(head, nn.Module):
        embeddings |= {id(p) for p in head.parameters()}
    return {n for n, p in model.named_parameters() if p.ndim >= 2 and id(p) not in embeddings}


def state_bytes(model: nn.Module, config: OptimizerConfig) -> int:
    """Bytes of the optimizers' state once every weight that is trained has had a gradient."""
    matrices = _matrices(model) if config.name == "muon" else set()
    total = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensor = parameter.numel() * parameter.element_size()
            # Muon keeps a momentum; AdamW two moments and a float32 count of steps
            total += tensor if name in matrices else 2 * tensor + 4
    return total


class Optimizers:
    """The optimizers of one model, stepped together."""

    def __init__(
        self,
        model: nn.Module,
        config: OptimizerConfig,
        *,
        products: torch.dtype = torch.float32,
    ) -> None:
        """`products` is the type of the products that Muon makes."""
        self.config = config
        self._names: dict[torch.Tensor, str] = {
            p: n for n, p in model.named_parameters() if p.requires_grad
        }
        matrices = _matrices(model)
        decayed = [p for p, n in self._names.items() if n in matrices]
        plain = [p for p, n in self._names.items() if n not in matrices]
        self._all: list[torch.optim.Optimizer] = []
        adamw_groups = [{"params": plain, "weight_decay": 0.0}]
        if config.name == "muon":
            flat = [n for p, n in self._names.items() if n in matrices and p.ndim != 2]
            if flat:
                raise UserError(f"Muon needs two-dimensional matrices; '{flat[0]}' is not one")
            self._all.append(
                Muon(
                    decayed,
                    lr=0.0,  # `step` is told the rate
                    weight_decay=config.weight_decay,
                    momentum=config.momentum,
                    products=products,
                )
            )
        else:
            adamw_groups.insert(0, {"params": decayed, "weight_decay": config.weight_decay})
        self._all.append(
            torch.optim.AdamW(
                [group for group in adamw_groups if group["params"]],
                lr=0.0,  # `step` is told the rate
                betas=config.betas,
                eps=config.epsilon,
                fused=True,
            )
        )

    def step(self, learning_rate: float) -> None:
        """One update at `learning_rate`; gradients are dropped after it."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def to_bytes(self) -> bytes:
        """The state as safetensors: `<parameter>|<state>` for every tensor, whole.

        All processes must call it.
        """
        tensors = {
            f"{self._names[parameter]}|{key}": whole(value).detach().cpu().contiguous()
            for optimizer in self._all
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }
        return save(tensors)

    def load(self, path: Path) -> None:
        """Puts back a state that `to_bytes` made. `UserError` where it does not fit."""
        try:
            tensors = load(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read as safetensors: {error}") from error
        by_name: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            parameter, _, key = name.rpartition("|")
            by_name.setdefault(parameter, {})[key] = value
        if not by_name:
            return  # saved before the first update
        if not by_name.keys() <= set(self._names.values()):
            raise UserError(f"{path}: belongs to another model")
        for optimizer in self._all:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    saved = by_name.get(self._names[parameter])
                    if saved is None:
                        continue  # a weight that never had a gradient has no state
                    if any(t.ndim and t.shape != parameter.shape for t in saved.values()):
                        raise UserError(f"{path}: belongs to another model")
                    optimizer.state[parameter] = {
                        # AdamW counts its steps on the CPU unless fused on a GPU
                        key: like(parameter, value.to(parameter.device))
                        for key, value in saved.items()
                    }
