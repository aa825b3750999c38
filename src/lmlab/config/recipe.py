"""The recipe: how a run is trained where nothing else is asked. Imports no torch.

Its reach is short: runs of half a million tokens of novels and of child-directed speech, with
vocabularies of 512 and 4,096 types, models of 64, 128 and 192 dimensions, and Shakespeare's
characters; most with one seed (docs/experiments.md, "a recipe").

Notable:
- Muon's best rate fell as models grew wider: twice the width, half the rate. Longer runs, wider and
  deeper models were not swept.
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
_MUON_RATE_WIDTH = 0.5
"""Muon's peak rate times the model's width."""
_MUON_RATE_UNKNOWN_WIDTH = 1e-3
_ADAMW_RATE = 1e-3


def windows_a_step(context: int, *, tokens: int | None = None, steps: int | None = None) -> int:
    """Windows of `context` tokens a step, a power of two, for a run of so many tokens or steps."""
    assert (tokens is None) != (steps is None)
    if steps is not None:  # then tokens = steps x the tokens of a step
        wanted = max(_LEAST_STEP_TOKENS, _STEP_TOKENS**2 * steps)
    else:
        wanted = _STEP_TOKENS * math.sqrt(tokens or 1)
    return 2 ** max(0, round(math.log2(max(1.0, wanted / context))))


def learning_rate(optimizer: str, width: int | None) -> float:
    """The peak rate for a model so wide; None where only its own configuration says how wide."""
    if optimizer != "muon":
        return _ADAMW_RATE
    return _MUON_RATE_UNKNOWN_WIDTH if width is None else _MUON_RATE_WIDTH / width
