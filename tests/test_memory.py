"""Memory over time: flat in every long stream, and small beside a store larger than memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FLAT = "Memory stays flat over 2000 steps"
MOST_A_STEP = 512
"""Bytes by which a flat stream may grow a step, over its second half."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc"
)


def resident(program: str, folder: Path) -> np.ndarray:
    """Resident bytes after each step of a program of `soak.py`."""
    made = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "soak.py"), program, str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return np.array(json.loads(made.stdout))


def growth_a_step(bytes_S: np.ndarray) -> float:
    """Over the second half of the steps; medians, since what is freed at the end is no growth."""
    assert len(bytes_S) == 2000
    return float(np.median(bytes_S[1900:]) - np.median(bytes_S[1000:1100])) / 900


@pytest.mark.trust
@pytest.mark.promise(FLAT)
@pytest.mark.parametrize("program", ["train", "score", "scatter", "alpha"])
def test_memory_stays_flat(tmp_path, program):
    assert growth_a_step(resident(program, tmp_path)) < MOST_A_STEP


@pytest.mark.trust
@pytest.mark.promise(f"{FLAT}: a leak of 1 kB a step would be found")
def test_a_leak_would_be_found(tmp_path):
    assert growth_a_step(resident("leak", tmp_path)) == pytest.approx(1024, rel=0.3)


@pytest.mark.trust
@pytest.mark.promise("A store of 60 GB is opened, drawn from and scored in 256 MB")
def test_a_store_larger_than_memory(tmp_path):
    before, *after = resident("huge", tmp_path)
    assert max(after) - before < 256e6
