"""The same activation in fewer passes over memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.activations import NewGELUActivation


@contextmanager
def fused_gelu(model: nn.Module) -> Iterator[None]:
    """Within it, `gelu_new` (GPT-2's, eight elementwise passes) is one operation.

    The function is the same; values differ by rounding. The model is put back as it was.
    """
    slow = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is NewGELUActivation
    ]
    fused = nn.GELU(approximate="tanh")
    for parent, name, _ in slow:
        setattr(parent, name, fused)
    try:
        yield
    finally:
        for parent, name, child in slow:
            setattr(parent, name, child)
