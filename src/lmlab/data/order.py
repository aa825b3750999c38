"""Order: in which direction a window is read.

- `forward`: as written.
- `backward`: the window's ids flipped.
- `permutation:SEED`: position k of the sequence is position p[k] of the window, p a fixed random
  permutation of the window's length.

In every order the sequence starts with the same BOS and scores exactly the window's tokens, so the
summed losses of two orders are two factorisations of one joint probability.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lmlab.config import did_you_mean
from lmlab.errors import UserError

FORWARD, BACKWARD = "forward", "backward"


def check_order(order: str) -> str:
    """Returns `order`; `UserError` if there is no such order."""
    kind, _, seed = order.partition(":")
    if order in (FORWARD, BACKWARD) or (kind == "permutation" and seed.isdigit()):
        return order
    hint = did_you_mean(order, [FORWARD, BACKWARD, "permutation:0"], cutoff=0.6)
    raise UserError(
        f"unknown order '{order}'; {hint}{' ' if hint else ''}There are forward, backward and "
        "permutation:SEED (a number)"
    )


@lru_cache(maxsize=4096)
def reading_order(order: str, length: int) -> np.ndarray:
    """Window positions (int64, `length`) in the order in which they are predicted."""
    if order == FORWARD:
        positions = np.arange(length)
    elif order == BACKWARD:
        positions = np.arange(length)[::-1].copy()
    else:
        seed = int(check_order(order).partition(":")[2])
        positions = np.random.default_rng([seed, length]).permutation(length)
    positions.setflags(write=False)
    return positions
