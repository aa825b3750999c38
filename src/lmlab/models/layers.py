"""Hidden states of every layer of a model, from one pass through its body.

Notable: transformers gives the last block's output after the final norm, where there is one. The
output before it, whose shape is often quite different, is caught as the block returns it.

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lmlab.errors import UserError
from lmlab.models.backbone import Backbone, inputs_of

FINAL = "final"
LAST = "last"


@torch.no_grad()
def layer_states(
    backbone: Backbone, ids_BT: torch.Tensor, attention_BT: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """States (B, T, D) by name, in the order of computation.

    `embeddings` (what the first block reads), `block 1` and so on (what each block gives), and
    `final` (what the linear head reads: after the final norm, and after the dense layer of a masked
    model's head). Models that give no states of their layers, such as lmlab's recurrent ones, have
    `final` only.

    Raises `UserError` for a model without a body.
    """
    model = backbone.model
    body: Any = getattr(model, "base_model", model)
    if body is model:
        raise UserError(f"{type(model).__name__}: its hidden states cannot be read")
    states = body_states(body, ids_BT, attention_BT)
    last_BTD = states.pop(LAST)
    return {**states, FINAL: backbone.transformed(last_BTD)}


@torch.no_grad()
def body_states(
    body: Any, ids_BT: torch.Tensor, attention_BT: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """States (B, T, D) of a model without head: `embeddings`, `block 1` and so on, as above, and
    `last`, the body's own last hidden state (after the final norm, where there is one)."""
    blocks = _blocks(body)
    seen: list[torch.Tensor] = []

    def keep(block: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hook = None if blocks is None else blocks[-1].register_forward_hook(keep)
    try:
        output = body(**inputs_of(body, ids_BT, attention_BT), output_hidden_states=True)
    finally:
        if hook is not None:
            hook.remove()
    last_BTD = output.last_hidden_state
    given: tuple[torch.Tensor, ...] = getattr(output, "hidden_states", None) or ()
    states = {f"block {i}" if i else "embeddings": state for i, state in enumerate(given[:-1])}
    if blocks and len(given) == len(blocks) + 1 and [s.shape for s in seen] == [last_BTD.shape]:
        states[f"block {len(blocks)}"] = seen[0]
    return {**states, LAST: last_BTD}


@torch.no_grad()
def last_states(
    body: Any, ids_BT: torch.Tensor, attention_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """The last hidden state alone (B, T, D): `body_states`'s `last` without holding the others."""
    return body(**inputs_of(body, ids_BT, attention_BT)).last_hidden_state


def _blocks(body: nn.Module) -> nn.ModuleList | None:
    """The list of the body's blocks; None where it is not plain which it is."""
    count = getattr(getattr(body, "config", None), "num_hidden_layers", None)
    lists = [m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    # A list inside a block may have as many entries; the blocks' own list comes first
    return lists[0] if count and lists else None
