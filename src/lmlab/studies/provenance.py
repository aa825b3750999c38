"""What the pages of several studies say alike: how runs are trained, and the command line."""

from __future__ import annotations

import shlex
from typing import Any

from lmlab.config import to_command_line, to_mapping

_TRAINED = (
    "AdamW with weight decay 0.1 on matrices, betas 0.9 and 0.95, gradient clipped at 1, linear "
    "warm-up over 5 % of the steps, cosine to a tenth"
)


def trained(optimizer: str) -> str:
    """How the runs of a study are trained."""
    on = "Muon (momentum 0.9) on matrices, else " if optimizer == "muon" else ""
    return on + _TRAINED


def to_repeat(command: str, config: Any) -> str:
    """How to make the report's study again, wherever its lab may be."""
    asked = {key: value for key, value in to_mapping(config).items() if key not in ("lab", "out")}
    return f"To repeat it: {command} {shlex.join(to_command_line(type(config), asked))}".rstrip()
