"""Trained models against exact floors: minutes of training, run by `make slow`."""

from __future__ import annotations

import pytest

from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.study import run_arrow


@pytest.mark.slow
def test_a_trained_model_reaches_the_floor_and_does_not_pass_it(tmp_path):
    """Twelve bits copied (k = 0): within 0.001 nats per character, in both directions."""
    config = ArrowConfig(
        text=("linear:12:0",),
        seeds=1,
        tokens=500 * 128 * 31,
        batch_tokens=128 * 31,
        initializer_range=0.2,
        lab=tmp_path,
    )
    floor = run_arrow(config).comparisons[0].floor
    assert floor is not None
    for excess in (floor.forward.interval, floor.other.interval):
        assert excess.estimate < 0.001
        assert excess.standard_error is not None
        assert excess.estimate > -3 * excess.standard_error
