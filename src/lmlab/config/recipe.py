"""The recipe: how a run is trained where nothing else is asked. Imports no torch.

Its reach is short: rates, momentum and optimizer were chosen on one text (Shakespeare's
characters), at one size (4 layers of 128), in runs of at most 460,800 tokens, most with one seed
(docs/experiments.md, "a recipe").

Notable:
- The tokens of a step grow with the square root of the tokens of the run: small runs need many
  updates, and long ones profit from less noise. Only the constant was looked at, with steps of 384
  to 1,536 tokens; the square root is a guess.
- Muon learnt more from the same tokens than AdamW where fresh weights of a causal Transformer were
  trained with cross-entropy. Only that was tried at length; all else has AdamW.
"""

from __future__ import annotations

import math

_STEP_TOKENS = 1.8
"""Tokens of a step over the square root of the run's tokens."""
_LEAST_STEP_TOKENS = 2048
"""Of a run whose length is given in steps: few steps are not to mean little text as well."""
_MUON_RATE, _ADAMW_RATE = 8e-3, 1e-3


def windows_a_step(context: int, *, tokens: int | None = None, steps: int | None = None) -> int:
    """Windows of `context` tokens a step, a power of two, for a run of so many tokens or steps."""
    assert (tokens is None) != (steps is None)
    if steps is not None:  # then tokens = steps x the tokens of a step
        wanted = max(_LEAST_STEP_TOKENS, _STEP_TOKENS**2 * steps)
    else:
        wanted = _STEP_TOKENS * math.sqrt(tokens or 1)
    return 2 ** max(0, round(math.log2(max(1.0, wanted / context))))


def learning_rate(optimizer: str) -> float:
    """The peak rate."""
    return _MUON_RATE if optimizer == "muon" else _ADAMW_RATE
