"""Bounds of numeric options: one rule for all, checked wherever a configuration is made.

Notable: a number below its bound is refused by the configuration itself, so that a command, a TOML
file and Python code are told alike, before any work. Without a word of its own a whole number is at
least 1 (sizes, counts, windows, seeds) and another one finite and not negative; what may be
0 says so (`at_least`). Closer bounds stand in each configuration's `__post_init__`, which runs
after.
- A whole number for an option that takes any is kept as the float that a command line would give
  (3 as 3.0): a configuration is the same, and has the same digest, however it was made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

from lmlab.errors import UserError


def at_least(least: int, default: Any) -> Any:
    """A field of a configuration whose numbers may be as small as `least`."""
    return dataclasses.field(default=default, metadata={"least": least})


class Options:
    """Base of configurations: their numbers are checked as soon as one is made.

    `prefix` is what their options' names begin with, where they stand within another configuration.
    """

    _prefix = ""
    one_of: ClassVar[tuple[str, ...]] = ()
    """Options of which at most one is given."""

    def __init_subclass__(cls, *, prefix: str = "") -> None:
        cls._prefix = prefix or cls._prefix
        further: Callable[[Any], None] | None = getattr(cls, "__post_init__", None)

        def __post_init__(self: Any) -> None:
            _as_floats(self)
            check_numbers(self, cls._prefix)
            if further is not None:
                further(self)

        cls.__post_init__ = __post_init__  # pyright: ignore[reportAttributeAccessIssue]


def above_zero(config: Any, *names: str) -> None:
    """`UserError` for a number of a configuration that is 0; None is none."""
    for name in names:
        if getattr(config, name) == 0:
            raise UserError(f"`{config._prefix}{name}` {getattr(config, name)} must be above 0")


def check_each_once(config: Any, *names: str) -> None:
    """`UserError` for options of these names without a value, or with one twice."""
    for name in names:
        values = getattr(config, name)
        if not values or len(set(values)) != len(values):
            raise UserError(f"`{name}` needs at least one value, each once; got {values}")


def check_fits_batch(context: int, batch_tokens: int) -> None:
    """`UserError` unless a window of `context` tokens fits a step's batch."""
    if context > batch_tokens:
        raise UserError(
            f"`context` {context} does not fit a batch of `batch_tokens` {batch_tokens}"
        )


def _as_floats(config: Any) -> None:
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if type(value) is int and each.type in ("float", "float | None"):
            object.__setattr__(config, each.name, float(value))
        elif isinstance(value, tuple) and each.type == "tuple[float, ...]":
            object.__setattr__(config, each.name, tuple(map(float, value)))


def check_numbers(config: Any, prefix: str) -> None:
    """`UserError` that names the option, for a number of a dataclass below its bound."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        for number in value if isinstance(value, tuple | list) else (value,):
            # texts and switches, and what only the command line will give
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            name = f"`{prefix}{each.name}`"
            if not math.isfinite(number):
                raise UserError(f"{name} {number} must be finite")
            least = each.metadata.get("least", 0 if "float" in str(each.type) else 1)
            if number < least:
                raise UserError(f"{name} {number} must be at least {least}")
