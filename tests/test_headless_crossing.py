"""benchmarks/headless_crossing.py: its table, from sums that are known."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from helpers import script
from lmlab.numerics.verdicts import holm

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "headless_crossing.py"


@cache
def _script():
    return script(SCRIPT)


def _of(differences, seed: int):
    """Sums of the arms, headless less the others by `differences` (arm, step) and some noise."""
    rng = np.random.default_rng(seed)
    tokens_D = rng.integers(80, 120, 6).astype(float)
    sums = {}
    for (arm, step), value in {
        ("headless", 125): 0.0,
        ("headless", 250): 0.0,
        **differences,
    }.items():
        nats_SD = (4 - value + 0.01 * rng.normal(size=(3, 6))) * tokens_D
        sums[arm, step] = [_script().Sums(tuple(n_D), tuple(tokens_D)) for n_D in nats_SD]
    return sums


def test_differences_are_headless_less_the_other_and_change_from_the_first_point(tmp_path):
    sums = _of(
        {("tied", 125): -0.1, ("tied", 250): -0.3, ("untied", 125): 0.2, ("untied", 250): 0.0}, 1
    )
    rates = {"headless": 8e-3, "tied": 8e-3, "untied": 4e-3}
    rows = {(row["arm"], row["tokens"]): row for row in _script().rows_of(1000, rates, sums)}
    assert len(rows) == 6
    early, late = rows["untied", 125 * 2048], rows["untied", 250 * 2048]
    assert early["headless less it"] == pytest.approx(0.2, abs=0.02)
    assert early["headless less it low"] > 0
    assert "change" not in early
    assert late["change"] == pytest.approx(late["headless less it"] - early["headless less it"])
    assert late["change high"] < 0
    headless, tied = rows["headless", 250 * 2048], rows["tied", 250 * 2048]
    assert headless["nats"] - tied["nats"] == pytest.approx(tied["headless less it"])
    assert (tied["seeds"], tied["documents"], tied["rate"]) == (3, 6, 8e-3)


def test_all_vocabularies_are_one_family(tmp_path):
    rates = {"headless": 8e-3, "tied": 8e-3, "untied": 4e-3}
    found = []
    for vocabulary in (8000, 1000):
        sums = _of({("tied", 125): -0.004, ("untied", 125): 0.1}, vocabulary)
        sums = {key: of_seed for key, of_seed in sums.items() if key[1] == 125}
        rows = _script().rows_of(vocabulary, rates, sums)
        _script().write(tmp_path / f"crossing-{vocabulary}.csv", rows)
        found = [row["p"] for row in rows if row["arm"] != "headless"] + found
    (tmp_path / "crossing.csv").write_text("not read")
    rows = _script().family(tmp_path)
    assert [row["vocabulary"] for row in rows] == ["1000", "1000", "8000", "8000"]
    assert [row["p by Holm"] for row in rows] == pytest.approx(holm(found))
