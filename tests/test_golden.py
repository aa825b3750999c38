"""Losses that a refactor must give again, for every objective."""

from __future__ import annotations

from typing import get_args

import pytest

from golden_losses import golden, losses
from lmlab.config.objective import ObjectiveName
from objective_cases import CASES


@pytest.mark.promise("The same losses after a refactor: 50 steps, float32, relative 1e-4")
@pytest.mark.parametrize("name", CASES)
def test_losses_are_the_golden_ones(name, tmp_path):
    made, kept = losses(name, tmp_path), golden(name)
    assert len(kept["loss"]) == 50
    assert len(kept["validation"]) == 2
    assert kept["loss"][-1] < kept["loss"][0]
    for what, values in kept.items():
        assert made[what] == pytest.approx(values, rel=1e-4), what


def test_every_objective_has_a_case():
    covered = {case.settings.get("objective", "causal") for case in CASES.values()}
    assert covered == set(get_args(ObjectiveName)), "add a case to objective_cases.CASES"
