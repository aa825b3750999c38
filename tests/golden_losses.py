"""Golden losses: what 50 steps of each objective gave once, in `golden/*.json`.

`make golden` writes them anew; `python tests/golden_losses.py CASE...` only some. Do that only
where a change of the losses is meant, and say why in the commit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lmlab  # noqa: F401 - before torch
from helpers import journal
from lmlab.durable import write_json
from lmlab.training.loop import train
from objective_cases import CASES, case_config

FOLDER = Path(__file__).parent / "golden"


def losses(name: str, folder: Path) -> dict[str, Any]:
    """Losses (nats a target) by step, and validations (nats), of a case in float32, eager."""
    run = train(case_config(name, folder))
    records = journal(run.path)
    return {
        "loss": [record["loss"] for record in records],
        "validation": [
            record[key]
            for record in records
            for key in ("validation_nats_per_token", "validation_loss")
            if key in record
        ],
    }


def golden(name: str) -> dict[str, Any]:
    """The losses that are kept of a case."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def main(names: Iterable[str]) -> None:
    for name in names:
        with TemporaryDirectory() as folder:
            made = losses(name, Path(folder))
        rounded = {key: [float(f"{v:.7g}") for v in values] for key, values in made.items()}
        write_json(FOLDER / f"{name}.json", rounded)


if __name__ == "__main__":
    main(sys.argv[1:] or CASES)
