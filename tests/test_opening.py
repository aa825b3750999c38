"""What a run says before it trains."""

from __future__ import annotations

from helpers import tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.training import ParentConfig
from lmlab.data.windows import TrainingWindows
from lmlab.lm.language_model import open_model
from lmlab.models.build import parameters
from lmlab.training import opening
from lmlab.training.loop import train


def said_by(capsys, config, **more):
    capsys.readouterr()
    run = train(config, **more)
    return run, capsys.readouterr().err


def test_parameters_device_products_tokens_and_epochs(small_store, tmp_path, capsys):
    config = tiny_training(small_store, tmp_path / "run")
    run, said = said_by(capsys, config)
    weights = parameters(open_model(str(run.path)).model)
    windows = TrainingWindows(small_store.split("train"), 8, batch=4, seed=0).count
    tokens = small_store.split("train").tokens
    assert said.startswith(
        f"{weights:,} parameters on cpu, threads: 1, float32 products, muon; 6 steps of 4 x 8 "
        f"tokens, 192 in all: {6 * 4 / windows:.2g} epochs of {tokens:,} tokens\n"
    )
    assert "warning" not in said
    assert "products" not in said_by(capsys, config)[1]  # finished before: nothing begins


def test_a_warning_of_many_epochs(small_store, tmp_path, capsys):
    windows = TrainingWindows(small_store.split("train"), 8, batch=4, seed=0).count
    for steps, warned in ((windows, False), (windows + 1, True)):  # of 4 windows each
        config = tiny_training(
            small_store, tmp_path / str(steps), steps=steps, evaluate_every=steps
        )
        said = said_by(capsys, config)[1]
        assert ("warning: The budget of" in said) == warned
    assert f"reads the training split {4 + 4 / windows:.1f} times" in said


def test_frozen_weights_are_told(small_store, tmp_path, capsys):
    train(tiny_training(small_store, tmp_path / "parent"))
    child = tiny_training(
        small_store, tmp_path / "child", model=ModelConfig(),
        parent=ParentConfig(str(tmp_path / "parent"), freeze_body=True),
    )  # fmt: skip
    assert f"({14 * 16:,} of them trained)" in said_by(capsys, child)[1]


def test_the_time_left_is_told_once_by_the_steps_themselves(
    small_store, tmp_path, capsys, monkeypatch
):
    """By a clock of 0.5 s a step, after step 5: 15 steps of 4 windows are left, and 4 validations
    of 6 windows, each a third of a trained one."""
    clock = iter(range(10**6))
    monkeypatch.setattr(opening.time, "monotonic", lambda: next(clock) / 2)
    config = tiny_training(small_store, tmp_path / "run", steps=20, evaluate_every=4)
    first = opening.FirstSteps(config, quiet=False)
    for step in range(1, 21):
        first.saw(step)
    said = capsys.readouterr().err
    assert said == "about 0:08 left at 64 tokens/s, by the first 4 steps\n"
    assert 8 <= 0.5 / 4 * (15 * 4 + 4 * 6 / 3) < 9
