"""Criteria of two towers: one shared prediction, or a probe for each tower. Any reading will do.

Notable:
- Scores are always those of the model's joint distribution; only what is trained differs. For
  minimum that is the mixture of halves, for independent and separately trained towers too.
- The loss of independent towers is the mean of both: with Adam each trains as it would alone, but
  for the clipping of the joint gradient. Separate losses are the same mean in the architecture of
  the joint loss, so that nothing but the loss differs from it.
- The balance term of minimum is (2 s - 1)^2 of the micro-batch's mean share s of tower 1, a token's
  share being the sigmoid of the difference of its losses; so it depends on the micro-batch.
- Both probes see the same states, computed once, in the same order and under the same masks, and
  start at the same weights: what differs between them is the tower.
- Losses of a tower alone never hold tokens x vocabulary; a mixture's gradient does.

Shapes: N positions, D width, V vocabulary, K = 2 towers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.towers import TwoTower
from lmlab.objectives.base import IGNORED, Batch
from lmlab.objectives.cross_entropy import cross_entropy_each, cross_entropy_sum
from lmlab.objectives.full import FullCrossEntropy
from lmlab.processes import world


def tower_rows(model: TwoTower, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The states (N, D) of both towers at the computed positions."""
    first, second = (
        states_BTD.flatten(0, 1)
        for states_BTD in model.model.tower_states(batch.inputs_BT, batch.attention_BT)
    )
    if batch.rows_N is None:
        return first, second
    return first[batch.rows_N], second[batch.rows_N]


@torch.no_grad()
def tower_nats(
    model: TwoTower,
    rows: tuple[torch.Tensor, torch.Tensor],
    targets_N: torch.Tensor,
    *,
    scales: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """Nats (K, N) of each target under each tower's own distribution: its probe, where it has one.

    `scales` multiply the towers' logits (inverse temperatures). 0 where a target is ignored. Only
    for models with `views`.
    """
    return torch.stack(
        [
            cross_entropy_each(
                scales[k] * model.model.output(k, rows[k]),
                model.head_of(k).weight,
                targets_N,
                scales[k] * model.head_of(k).bias,
            )
            for k in range(2)
        ]
    )


@torch.no_grad()
def joint_nats(
    model: TwoTower, rows: tuple[torch.Tensor, torch.Tensor], targets_N: torch.Tensor
) -> torch.Tensor:
    """Nats (N) of each target under the joint distribution, 0 where it is ignored."""
    if model.config.one_state:
        head = cast(Any, model.heads[0])
        return cross_entropy_each(model.model.fused(rows), head.weight, targets_N, head.bias)
    each = [cross_entropy_each(*_alone(model, k, rows[k], targets_N)) for k in (0, 1)]
    log_weights_NK = model.model.log_weights(rows)
    mixed_N = -torch.logaddexp(log_weights_NK[:, 0] - each[0], log_weights_NK[:, 1] - each[1])
    return mixed_N.masked_fill(targets_N == IGNORED, 0.0)


def _alone(
    model: TwoTower, k: int, states_ND: torch.Tensor, targets_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What cross-entropy takes of tower `k` itself (not of its probe)."""
    head = model.own_head(k)
    return model.model.own_output(k, states_ND), head.weight, targets_N, head.bias


def _model(backbone: Backbone) -> TwoTower:
    if not isinstance(backbone.model, TwoTower):
        raise UserError(
            f"{type(backbone.model).__name__} has no towers; train some: `objective` towers"
        )
    return backbone.model


class FusedTowers(FullCrossEntropy):
    """The loss of the fusion that the model has."""

    name = "fused-towers"

    def __init__(self, balance: float) -> None:
        self.balance = balance

    @classmethod
    def from_record(cls, settings: Mapping[str, Any]) -> FusedTowers:
        return cls(settings["balance"])

    def record(self) -> dict[str, Any]:
        return {"balance": self.balance}

    def check(self, backbone: Backbone) -> None:
        """`UserError` for a model without towers."""
        self.depends_on_micro_batch = (
            _model(backbone).config.fusion == "minimum" and self.balance > 0
        )

    def sum(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        model = _model(backbone)
        fusion = model.config.fusion
        if model.config.one_state:
            return super().sum(backbone, batch)
        rows, targets_N = tower_rows(model, batch), batch.targets_N
        count = int((targets_N != IGNORED).sum())
        if fusion == "independent" or model.config.separate:
            first, second = (
                cross_entropy_sum(*_alone(model, k, rows[k], targets_N))[0] for k in (0, 1)
            )
            return (first + second) / 2, count
        real_N = targets_N != IGNORED
        first, second = (
            torch.nn.functional.cross_entropy(
                model.own_logits(k, rows[k][real_N]).float(), targets_N[real_N], reduction="none"
            )
            for k in range(2)
        )
        if fusion == "minimum":
            share = _mean_of_all(torch.sigmoid(second - first))
            balance = self.balance * count * (2 * share - 1) ** 2
            return torch.minimum(first, second).sum() + balance, count
        kept = (rows[0][real_N], rows[1][real_N])
        log_weights_NK = model.model.log_weights(kept)
        mixed = torch.logaddexp(log_weights_NK[:, 0] - first, log_weights_NK[:, 1] - second)
        return -mixed.sum(), count

    @torch.no_grad()
    def each(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        return joint_nats(_model(backbone), tower_rows(_model(backbone), batch), batch.targets_N)


def _mean_of_all(values_N: torch.Tensor) -> torch.Tensor:
    """The mean over the rows of all processes, with the gradients of every process's loss."""
    if world() == 1:
        return values_N.mean()
    from torch.distributed.nn.functional import all_reduce

    total, count = all_reduce(torch.stack([values_N.sum(), values_N.new_tensor(len(values_N))]))
    return total / count


class TowerProbes(FullCrossEntropy):
    """The mean loss of both towers' probes; the towers are frozen."""

    name = "tower-probes"

    def check(self, backbone: Backbone) -> None:
        """`UserError` for a model without probes."""
        if not _model(backbone).config.probed:
            raise UserError("these towers have no probes; train them with `objective` probe")

    def sum(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        model = _model(backbone)
        with torch.no_grad():
            rows = tower_rows(model, batch)
        total, count = torch.zeros((), device=batch.targets_BT.device), 0
        for k in range(2):
            head = model.head_of(k)
            loss, count = cross_entropy_sum(
                model.model.output(k, rows[k]), head.weight, batch.targets_N, head.bias
            )
            total = total + loss / 2
        return total, count

    @torch.no_grad()
    def each(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        model = _model(backbone)
        return tower_nats(model, tower_rows(model, batch), batch.targets_N).mean(0)
