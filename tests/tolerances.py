"""How near two computations of one thing must be where models work in float32.

Another instruction set (AVX2, AVX-512, AMX) adds the same numbers in another order, and so does
another batch: the last bits of a float32 result differ from machine to machine. What lmlab promises
is absolute, in nats a token (DESIGN: "Scores do not depend on batch size (1e-5 nat per token)"); a
relative 1e-6 (pytest's own) asks for more than that of a small value. What is computed in float64
from the same numbers is held to tighter bounds where it stands.
"""

from __future__ import annotations

from typing import Any

import pytest

NATS_A_TOKEN = 1e-5
"""Promised of scores, whatever the batch and the machine."""
OF_FLOAT32 = 1e-4
"""Relative; of figures that are fitted to or averaged over float32 states and probabilities."""


def near(expected: Any, *, tokens: int = 1) -> Any:
    """`expected` (a number or several), each the nats of at most `tokens` tokens, as promised."""
    return pytest.approx(expected, rel=1e-6, abs=NATS_A_TOKEN * tokens)
