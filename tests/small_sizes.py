"""Documentation in small: its commands, Python blocks and notebooks with less of everything.

Notable:
- The one place that reads the environment variable LMLAB_SMALL. Set to 0, whatever is run here
  runs as it stands, for hours where it says so; `make commands LMLAB_SMALL=0` gives the times.
- What a command says is cut where it says it (`small_command`, `small_python`): steps, tokens,
  seeds, types and so on. What it leaves to a default is cut by options added to its end.
- What has a name stays as it is, and the name means less (`shrink`): models of each size, and the
  default corpus. The package itself knows nothing of this.

`python tests/small_sizes.py ...` is `lmlab ...` in small, for commands that stand in a pipe.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

SMALL = os.environ.get("LMLAB_SMALL", "1") != "0"


def _root(number: float) -> int:
    """Of what is counted one by one. What was more stays more, or the same."""
    return max(2, round(number**0.4))


def _few_steps(tokens: float) -> int:
    """Enough for one step of a documented size."""
    return min(int(tokens), max(2048, round(2 * tokens**0.5)))


def _at_most(most: int) -> Callable[[float], int]:
    return lambda number: min(int(number), most)


_CUTS: dict[str, Callable[[float], int]] = {
    "steps": _root,
    "every": _root,
    "evaluate-every": _root,
    "tokens": _few_steps,
    "probe-tokens": _few_steps,
    "vocabulary": lambda number: min(int(number), 480 + _root(number)),
    "cost-vocabularies": lambda number: min(int(number), 480 + _root(number)),
    "context": _at_most(128),
    "seeds": _at_most(2),
    "windows": _at_most(16),
    "limit": _at_most(16),
    "pieces": _at_most(256),
    "held-out-pieces": _at_most(128),
    "rounds": _at_most(1),
}
"""By the last part of an option's name."""
_ADDED = {
    "tokens": (2048,),
    "probe-tokens": (1024,),
    "vocabulary": (496,),
    "cost-vocabularies": (496,),
    "context": (128,),
    "seeds": (2,),
    "pieces": (256,),
    "held-out-pieces": (128,),
}
"""What a study is given where it is not told otherwise."""
_NUMBER = re.compile(r"\d[\d_]*(?:\.\d+)?(?:e\d+)?")
_CONDITION = re.compile(rf"([\w.-]+)!?=({_NUMBER.pattern})")
"""An option of a run and its number, as `--where` of `lmlab runs` has them."""
_SUFFIXES = {"K": 1e3, "M": 1e6}


def small_command(words: Sequence[str]) -> list[str]:
    """The words of an `lmlab` command (without "lmlab"), with smaller numbers."""
    if not SMALL:
        return list(words)
    small: list[str] = []
    option, cut = "", None
    for word in words:
        if word.startswith("--"):
            option, cut = word, _CUTS.get(word[2:].rpartition(".")[2])
            small.append(word)
        elif option == "--where" and (asked := _CONDITION.fullmatch(word)):
            name, number = asked.groups()  # of a run that was made with fewer
            fewer = _CUTS.get(name.rpartition(".")[2].replace("_", "-"))
            small.append(f"{word[: asked.start(2)]}{fewer(float(number))}" if fewer else word)
        elif cut and _NUMBER.fullmatch(word.rstrip("KM")):
            small.append(str(cut(float(word.rstrip("KM")) * _SUFFIXES.get(word[-1], 1))))
        else:
            small.append(word)
    return small + _added(small)


def _added(words: Sequence[str]) -> list[str]:
    """Options of a study that are left to their defaults."""
    if words[:1] != ["study"] or {"--help", "-h", "--status"} & set(words):
        return []
    from lmlab.cli.commands import COMMANDS
    from lmlab.config.spelling import names_of
    from lmlab.topics.registry import find

    names = names_of(find(COMMANDS[" ".join(words[:2])].options))
    has = {place[-1].replace("_", "-") for place in names.hints if len(place) == 1}
    given = {word[2:] for word in words if word.startswith("--")}
    options = [
        [f"--{name}", *map(str, values)]
        for name, values in _ADDED.items()
        if name in has - given and not (name == "tokens" and given & {"steps", "epochs"})
    ]
    return [word for option in options for word in option]


def small_python(code: str) -> str:
    """Python code with smaller numbers in its keywords."""
    if not SMALL:
        return code

    def smaller(match: re.Match[str]) -> str:
        name, number = match.groups()
        return f"{name}={_CUTS[name.replace('_', '-')](float(number))}"

    names = "|".join(name.replace("-", "_") for name in _CUTS)
    return re.sub(rf"\b({names})=({_NUMBER.pattern})", smaller, code)


def shrink() -> None:
    """From here on in this process, names of sizes and the default corpus mean less."""
    if not SMALL:
        return
    from lmlab.config import training
    from lmlab.config.model import RECURRENT_SIZES, SIZES, Size
    from lmlab.data import docstrings

    for sizes in (SIZES, RECURRENT_SIZES):
        for number, name in enumerate(sizes):
            sizes[name] = Size(1, 2, 16 + 4 * number)
    training._STEPS = _root(training._STEPS)
    modules, every = docstrings._standard_library(), 12
    docstrings._standard_library = lambda: modules[::every]
    docstrings._installed_packages = list


if __name__ == "__main__":
    from lmlab.cli import main

    shrink()
    sys.exit(main(small_command(sys.argv[1:])))
