"""Objectives from outside of lmlab: readings and criteria that a script or a notebook brings.

Notable:
- Nothing is imported by a name that stands in a checkpoint: a process knows an objective from
  outside after its code has registered it, and not before.
- A run's identity holds the source of such classes (`source_of`), so a run is never taken for the
  one that a changed class would give. What stands outside of the classes, in functions and values
  that they use, is not in it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from typing import Any, get_args

from lmlab.config import digest
from lmlab.config.objective import ADDED, OBJECTIVES, CriterionName, Pair, ReadingName
from lmlab.errors import UserError
from lmlab.objectives.base import Criterion, Reading
from lmlab.objectives.causal import Causal

READINGS: dict[str, type[Reading]] = {}
CRITERIA: dict[str, type[Criterion]] = {}
"""Those from outside by their names."""
_OWN_READINGS, _OWN_CRITERIA = ("causal", "masked", "mixed"), ("softmax", "contrastive")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def register_objective(
    name: str,
    *,
    reading: str | type[Reading] = "causal",
    criterion: str | type[Criterion] = "softmax",
) -> None:
    """Makes an objective of your own known to this process: `lmlab.train(..., objective=name)`
    trains with it, and a run or checkpoint of it can be opened.

    Registered again under the same name, as when a cell of a notebook is run again, the new classes
    take the place of those before.

    Args:
        name: lower-case letters, digits and hyphens.
        reading: "causal", "masked" or "mixed", or a subclass of `Causal` with a `name` of its own.
        criterion: "softmax" or "contrastive", or a subclass of `Criterion` (such as
            `FullCrossEntropy`) with a `name` of its own.

    Raises `UserError` for a name that lmlab has, a class that will not do, and one whose source
    cannot be read.
    """
    if not _NAME.fullmatch(name) or name in OBJECTIVES:
        why = "lmlab has one of that name" if name in OBJECTIVES else "use letters, digits and -"
        raise UserError(f"objective {name!r}: {why}")
    parts = (
        _part(reading, Causal, _OWN_READINGS, get_args(ReadingName)),
        _part(criterion, Criterion, _OWN_CRITERIA, get_args(CriterionName)),
    )
    if isinstance(reading, str) and isinstance(criterion, str):
        raise UserError(
            f"objective {name!r}: give a class of your own, for one of the two at least"
        )
    if isinstance(reading, type) and reading.ends:
        raise UserError(f"{reading.__qualname__}: `ends` must be 0, as in Causal")
    pair = Pair(*parts)
    for other, known in ADDED.items():
        if known == pair and other != name:
            raise UserError(f"objective {name!r}: registered as {other!r} already")
    if isinstance(reading, type):
        READINGS[reading.name] = reading
    if isinstance(criterion, type):
        CRITERIA[criterion.name] = criterion
    ADDED[name] = pair


def _part(
    given: str | type[Any], base: type[Any], takes: tuple[str, ...], own: tuple[str, ...]
) -> str:
    """The name of a reading or a criterion. `UserError` for what will not do."""
    if isinstance(given, str):
        if given not in takes:
            raise UserError(f"{given!r} is not one of {', '.join(takes)}; or give a class")
        return given
    if not (isinstance(given, type) and issubclass(given, base)) or inspect.isabstract(given):
        raise UserError(f"{given!r} is no whole subclass of {base.__name__}")
    name = vars(given).get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in own:
        raise UserError(
            f"{given.__qualname__}: give it a `name` of its own, of letters, digits and -"
            + (f"; {name!r} is one of lmlab's" if name in own else "")
        )
    _source(given)
    return name


def source_of(pair: Pair) -> str | None:
    """A digest of the classes from outside that an objective is made of; None if it has none."""
    kinds = (READINGS.get(pair.reading), CRITERIA.get(pair.criterion))
    sources = [_source(kind) for kind in kinds if kind is not None]
    return digest({"sources": sources}) if sources else None


def _source(kind: type) -> list[str]:
    """The functions and plain values of a class and of those that it inherits from, lmlab's and
    Python's own left out. Raises `UserError` where a function's text is not to be had."""
    texts: list[str] = []
    for each in kind.__mro__:
        if each is object or each.__module__.partition(".")[0] in ("lmlab", "abc", "typing"):
            continue
        for name, value in sorted(vars(each).items()):
            value = getattr(value, "__func__", value)  # of class methods and static ones
            value = value.fget if isinstance(value, property) else value
            generated = dataclasses.is_dataclass(each) and name[:2] == "__"
            if inspect.isfunction(value) and not generated:
                try:
                    texts.append(textwrap.dedent(inspect.getsource(value)))
                except OSError as error:
                    raise UserError(
                        f"{kind.__qualname__}.{name}: its source cannot be read, and a run's "
                        "identity holds it; write the class in a file or a notebook"
                    ) from error
            elif isinstance(value, str | int | float | bool | tuple) and name[:2] != "__":
                texts.append(f"{name} = {value!r}")
    return texts
