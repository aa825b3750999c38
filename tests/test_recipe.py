"""The recipe: what a run gets where nothing else is asked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.config.model import ModelConfig
from lmlab.config.recipe import windows_a_step
from lmlab.config.training import OptimizerConfig, ParentConfig, TrainConfig


@given(st.integers(1, 4096), st.integers(1, 10**12))
def test_a_step_is_the_nearest_power_of_two_of_windows(context, tokens):
    windows = windows_a_step(context, tokens=tokens)
    assert windows & (windows - 1) == 0
    wanted = 1.8 * math.sqrt(tokens) / context
    if windows > 1:
        assert 2**-0.5 <= windows / wanted <= 2**0.5
    else:
        assert wanted <= 2**0.5


@given(st.sampled_from([64, 128, 256]), st.integers(700, 10**6))
def test_a_length_in_steps_and_the_same_in_tokens_give_one_batch(context, steps):
    """Steps are whole, and a batch at the border of two powers may fall on either side."""
    windows = windows_a_step(context, steps=steps)
    again = windows_a_step(context, tokens=steps * windows * context)
    assert again / windows in (0.5, 1, 2)
    exact = 1.8**2 * steps / context
    if abs(math.log2(exact) - round(math.log2(exact))) < 0.25:
        assert again == windows


def test_few_steps_still_read_some_text():
    assert windows_a_step(256, steps=1) * 256 == 2048


@pytest.mark.parametrize(
    ("changes", "name", "rate"),
    [
        ({}, "muon", 0.5 / 128),
        ({"order": "backward"}, "muon", 0.5 / 128),
        ({"model": ModelConfig("gpt2")}, "muon", 0.5 / 128),
        ({"model": ModelConfig(width=64)}, "muon", 0.5 / 64),
        ({"model": ModelConfig("auto", path="somewhere")}, "muon", 1e-3),
        ({"model": ModelConfig("lstm")}, "adamw", 1e-3),
        ({"objective": "masked", "model": ModelConfig("bert")}, "adamw", 1e-3),
        ({"objective": "headless", "model": ModelConfig(tied=True)}, "adamw", 1e-3),
        ({"objective": "towers"}, "adamw", 1e-3),
        ({"fsdp": True}, "adamw", 1e-3),
        ({"parent": ParentConfig("somewhere")}, "adamw", 1e-3),
        ({"optimizer": OptimizerConfig("adamw")}, "adamw", 1e-3),
        ({"optimizer": OptimizerConfig(learning_rate=2e-3)}, "muon", 2e-3),
    ],
)
def test_optimizer_and_rate_where_they_are_left_out(changes, name, rate):
    run = TrainConfig(Path("s"), **changes).resolved(device="cpu", dtype="float32", threads=1)
    assert (run.optimizer.name, run.optimizer.learning_rate) == (name, rate)


def test_micro_batches_stay_whole():
    assert TrainConfig(Path("s"), micro_batch=12, steps=1000).batch == 24
