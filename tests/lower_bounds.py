"""The oldest versions that pyproject.toml allows, a line each, for `make lower`:

    python tests/lower_bounds.py EXTRA...

Those of lmlab itself and of the extras that are named. What else they need is newest.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lower_bounds(extras: list[str]) -> list[str]:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    table = project["project"]
    asked = [
        *table["dependencies"],
        *(d for e in extras for d in table["optional-dependencies"][e]),
    ]
    return [re.sub(r">=([^,;]+).*", r"==\1", each) for each in asked]


if __name__ == "__main__":
    print("\n".join(lower_bounds(sys.argv[1:])))
