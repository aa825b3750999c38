"""Tuning: what is trained, what is best, and how sure that is, against journals and by hand."""

from __future__ import annotations

import itertools
import math
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import lmlab
from helpers import journal
from lmlab.cli import main
from lmlab.config import from_command_line, from_mapping, to_command_line, to_mapping
from lmlab.errors import UserError
from lmlab.numerics.best import least_mean
from lmlab.results import read_values
from lmlab.studies.parts import LeftToOthers
from lmlab.topics.registry import read_result
from lmlab.topics.tuning import study
from lmlab.topics.tuning.figures import spaced_as_ratios
from lmlab.topics.tuning.options import TuneConfig
from lmlab.topics.tuning.study import lengths
from lmlab.topics.tuning.tuning import Tuning
from lmlab.training.loop import Trainer

TINY: dict[str, Any] = {
    "layers": 1, "heads": 1, "width": 16, "context": 8, "batch": 4, "steps": 4, "dtype": "float32",
    "threads": 1, "evaluation_windows": 8, "keep": 1, "architecture": "gpt2", "optimizer_name":
    "adamw",
}  # fmt: skip
RATES = [1e-3, 3e-2, 1e-1]


@pytest.fixture
def steps_of(monkeypatch):
    """Counts the steps that are trained."""
    trained: list[float] = []
    update = Trainer.update

    def counted(trainer):
        trained.append(trainer.config.optimizer.learning_rate)
        return update(trainer)

    monkeypatch.setattr(Trainer, "update", counted)
    return trained


def losses_by_rate(lab: Path, *, steps: int) -> dict[float, list[float]]:
    """The last validation loss of every run of a length, by learning rate and in order of seeds, as
    the run folders say themselves."""
    ends: dict[float, dict[int, float]] = {}
    for folder in (lab / "runs").iterdir():
        config = lmlab.Run(folder).config
        if config.steps == steps:
            (*_, last) = journal(folder)
            assert last["step"] == steps
            rate = config.peak_rate
            ends.setdefault(rate, {})[config.seed] = last["validation_nats_per_token"]
    return {rate: [by_seed[s] for s in sorted(by_seed)] for rate, by_seed in ends.items()}


def test_the_result_is_what_the_journals_of_the_runs_say(small_store, tmp_path, steps_of):
    tuned = lmlab.tune(small_store, {"learning_rate": RATES}, seeds=3, seed=5, lab=tmp_path, **TINY)
    ends = losses_by_rate(tmp_path, steps=4)
    assert sorted(ends) == RATES
    best = min(ends, key=lambda rate: np.mean(ends[rate]))
    assert tuned.best == {"optimizer.learning_rate": best}
    for rate, setting, above, p in zip(
        RATES, tuned.settings, tuned.choice.above, tuned.choice.p_values, strict=True
    ):
        (rung,) = setting.rungs
        assert list(rung.nats_per_token) == ends[rate]
        assert (rung.steps, rung.tokens) == (4, 4 * 4 * 8)
        assert rung.mean is not None
        # by hand: three seeds, two degrees of freedom
        mean, half = np.mean(ends[rate]), 4.302653 * np.std(ends[rate], ddof=1) / math.sqrt(3)
        assert rung.mean.bounds == pytest.approx((mean - half, mean + half), rel=1e-6)
        if rate == best:
            assert above is None
            continue
        less = np.subtract(ends[rate], ends[best])
        half = 4.302653 * less.std(ddof=1) / math.sqrt(3)
        assert above is not None
        assert above.bounds == pytest.approx((less.mean() - half, less.mean() + half), rel=1e-5)
        assert p == pytest.approx(min(1, 2 * stats.ttest_rel(ends[rate], ends[best]).pvalue))
    table = tuned.frame()
    assert list(table["learning rate"]) == sorted(RATES, key=lambda rate: np.mean(ends[rate]))
    assert len(steps_of) == 3 * 3 * 4

    # a second call trains nothing, and one with another value only that; read gives the same
    steps_of.clear()
    again = lmlab.tune(small_store, {"learning_rate": RATES}, seeds=3, seed=5, lab=tmp_path, **TINY)
    assert again == tuned
    assert steps_of == []
    (folder,) = tmp_path.glob("tune-*")
    assert read_result(folder) == tuned
    lmlab.tune(
        small_store, {"learning_rate": [*RATES, 2e-3]}, seeds=3, seed=5, lab=tmp_path, **TINY
    )
    assert steps_of == [2e-3] * 3 * 4


def test_a_run_of_the_same_options_is_shared(small_store, tmp_path, steps_of):
    options = {**TINY, "steps": 2}
    tuned = lmlab.tune(small_store, {"learning_rate": RATES[:2]}, seeds=1, lab=tmp_path, **options)
    steps_of.clear()
    (run,) = tuned.settings[1].rungs[0].runs
    lmlab.train(small_store, learning_rate=RATES[1], out=tmp_path / "runs" / run, **options)
    assert steps_of == []
    assert "Of these runs only" in tuned.summary()
    assert tuned.choice.p_value is None
    assert "no interval" in set(tuned.frame()["95 % interval"])


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=6))
def test_the_best_is_the_least_and_the_others_lie_above(values_KS):
    best = least_mean(values_KS)
    means = np.mean(values_KS, axis=1)
    assert means[best.index] == means.min()
    assert best.above[best.index] is None
    for k, above in enumerate(best.above):
        if above is not None:
            assert above.estimate == pytest.approx(means[k] - means.min(), abs=1e-12)
            p = best.p_values[k]
            assert p is not None
            assert (k in best.as_good) == (p >= 0.05)
    assert best.next is not None
    assert means[best.next] == sorted(means)[1]
    assert list(means[list(best.as_good)]) == sorted(means[list(best.as_good)])


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("deviations", "bound"),
    [((1, 1), 0.05), ((1, 100), 0.05), ((1, 1, 1, 1), 0.03), ((1, 10, 100), 0.03),
     ((1, 1, 1, 30), 0.03), ((30, 30, 30, 1), 0.03)],
)  # fmt: skip
def test_settings_of_equal_means_are_seldom_told_apart(seeds, deviations, bound):
    """Each is truly the best: none may be named before the others, nor left out; the best of
    several is chosen by its luck."""
    rng, draws = np.random.default_rng(seeds), 1000
    named = left_out = plain = 0
    for _ in range(draws):
        best = least_mean(rng.normal(size=(len(deviations), seeds)) * np.c_[list(deviations)])
        named += best.is_shown
        left_out += best.index != 0 and 0 not in best.as_good
        others = [value for value in best.above if value is not None]
        plain += any(value.low is not None and value.low > 0 for value in others)
    noise = 2.6 * math.sqrt(0.05 * 0.95 / draws)
    assert named / draws <= bound + noise
    assert left_out / draws <= 0.05 + noise
    if deviations == (1, 1, 1, 1):  # what reading each comparison alone would do
        assert plain / draws > 0.1


def test_clear_differences_are_named():
    values_KS = np.array([[3.0, 3.1, 3.2, 3.3], [2.0, 2.11, 2.2, 2.31], [4.0, 4.1, 4.2, 4.31]])
    best = least_mean(values_KS)
    assert best.index == 1
    assert best.is_shown
    assert best.as_good == ()
    worst = stats.ttest_rel(values_KS[0], values_KS[1]).pvalue
    assert best.p_value == pytest.approx(worst)


def test_several_options_give_every_combination(small_store, tmp_path):
    options = {k: v for k, v in TINY.items() if k not in ("batch", "steps")}
    over = {"batch": [2, 4], "optimizer.betas": [(0.9, 0.95), (0.5, 0.9)], "tied": [True, False]}
    tuned = lmlab.tune(small_store, over, seeds=1, lab=tmp_path, tokens=64, **options)
    configs = [lmlab.Run(tmp_path / "runs" / s.rungs[0].runs[0]).config for s in tuned.settings]
    got = [(c.batch, c.optimizer.betas, c.model.tied) for c in configs]
    assert got == list(itertools.product(*over.values()))
    # a length in tokens is of each setting's own steps
    assert {(c.batch, c.steps) for c in configs} == {(2, 4), (4, 2)}
    assert len(tuned.figures()) == 3
    assert list(tuned.frame().columns[:3]) == ["batch", "optimizer betas", "model tied"]
    asked = to_command_line(TuneConfig, to_mapping(tuned.config))
    assert from_command_line(TuneConfig, asked, program="p") == tuned.config


def test_a_validation_loss_that_is_no_number_is_said(small_store, tmp_path):
    """It ended in a traceback: the journal has no word for it."""
    with pytest.raises(UserError, match=r"the validation nats per token is nan after step \d"):
        lmlab.train(small_store, learning_rate=1e30, evaluate_every=1, out=tmp_path / "run", **TINY)


def test_a_setting_whose_loss_is_no_number_comes_last(small_store, tmp_path):
    tuned = lmlab.tune(
        small_store, {"learning_rate": [1e-3, 1e30]}, seeds=2, lab=tmp_path,
        **{**TINY, "steps": 8},
    )  # fmt: skip
    assert tuned.settings[1].rungs[0].nats_per_token == (None, None)
    assert tuned.best == {"optimizer.learning_rate": 1e-3}
    assert tuned.compared == (0,)
    assert "Only learning rate 0.001 came to its end" in tuned.summary()
    assert list(tuned.frame()["nats per token"])[1] == "broke off"
    assert "Broke off: learning rate 1e+30" in tuned.page()
    with pytest.raises(UserError, match="no setting has a finite loss"):
        lmlab.tune(small_store, {"learning_rate": [1e29, 1e30]}, seeds=1, lab=tmp_path,
                   **{**TINY, "steps": 8})  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "ladder"),
    [
        (2, [(2, 1.0)]),
        (3, [(3, 0.5), (2, 1.0)]),
        (8, [(8, 0.25), (4, 0.5), (2, 1.0)]),
        (9, [(9, 0.125), (5, 0.25), (3, 0.5), (2, 1.0)]),
    ],
)
def test_lengths_of_halving(settings, ladder):
    assert [(each.settings, each.share) for each in lengths(settings, halving=True)] == ladder
    assert [(each.settings, each.share) for each in lengths(settings, halving=False)] == [
        (settings, 1.0)
    ]


def test_halving_trains_the_better_half_for_longer_on_its_own_schedule(
    small_store, tmp_path, steps_of, monkeypatch
):
    monkeypatch.setattr("lmlab.studies.parts._BETWEEN_PASSES", 0.01)
    rates = [1e-4, 1e-3, 3e-2, 1e-1]
    config = from_mapping(
        TuneConfig,
        {
            "store": str(small_store.path), "over": {"learning_rate": rates}, "seeds": 2,
            "halving": True, "lab": str(tmp_path), "context": 8, "batch": 4, "steps": 8,
            "model": {"architecture": "gpt2", "layers": 1, "heads": 1, "width": 16},
            "optimizer": {"name": "adamw"}, "dtype": "float32", "threads": 1,
        },
        where="test",
    )  # fmt: skip
    found: list[Tuning] = []

    def work() -> None:
        with suppress(LeftToOthers):
            found.append(study.run_tune(config, worker=True))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    tuned = found[0]
    short, full = losses_by_rate(tmp_path, steps=4), losses_by_rate(tmp_path, steps=8)
    assert sorted(short) == rates
    better = sorted(sorted(rates, key=lambda rate: np.mean(short[rate]))[:2])
    assert sorted(full) == better
    assert len(steps_of) == 2 * (4 * 4 + 2 * 8)
    assert tuned.best["optimizer.learning_rate"] == min(full, key=lambda r: np.mean(full[r]))
    for rate, setting in zip(rates, tuned.settings, strict=True):
        of_rate = [short[rate], *([full[rate]] if rate in full else [])]
        assert [list(rung.nats_per_token) for rung in setting.rungs] == of_rate
    # a schedule of its own: the last step of either length has the rate's final share
    for setting in tuned.settings:
        for rung in setting.rungs:
            *_, last = journal(tmp_path / "runs" / rung.runs[0])
            rate = tuned.values(setting)["optimizer.learning_rate"]
            assert last["learning_rate"] == pytest.approx(0.1 * rate)
    assert "at full length" in tuned.summary()
    assert "2 more were left out after shorter runs, and are not known to be worse" in (
        tuned.summary()
    )


REFUSED = [
    ({"learing_rate": [1, 2]}, {}, "did you mean `learning_rate`"),
    ({"learning_rate": [0.1, "fast"]}, {}, "expected float, got 'fast'"),
    ({"batch": [4, 2.5]}, {}, "expected int, got 2.5"),
    ({"learning_rate": [0.1, 0.2, 0.1]}, {}, "each once"),
    ({"learning_rate": [1, 1.0]}, {}, "each once"),
    ({"learning_rate": []}, {}, "each once"),
    ({"learning_rate": [0.1]}, {}, "no choice"),
    ({"learning_rate": [0.1, 0.2]}, {"learning_rate": 0.3}, "give it once"),
    ({"learning_rate": [0.1, 0.2], "optimizer.learning_rate": [0.3, 0.4]}, {}, "twice"),
    ({"steps": [1, 2]}, {"steps": 3}, "give one length"),
    ({"steps": [1, 2]}, {"tokens": 300}, "give one length"),
    ({"steps": [1, 2]}, {"halving": True}, "decides on lengths"),
    ({"seed": [1, 2]}, {}, "`seeds`"),
    ({"store": ["a", "b"]}, {}, "do not compare"),
    ({"heads": [3, 2]}, {"width": 16, "layers": 1}, "heads 3: .*width 16 is not a multiple of 3"),
    ({"architecture": ["gpt2", "bert"]}, {}, "architecture bert: .*cannot train"),
]


@pytest.mark.parametrize(("over", "options", "said"), REFUSED)
def test_refusals(small_store, tmp_path, over, options, said, steps_of):
    with pytest.raises(UserError, match=said):
        lmlab.tune(small_store, over, lab=tmp_path, **options)
    assert steps_of == []
    assert list(tmp_path.iterdir()) == []


def test_settings_that_are_one_run_are_refused(small_store, tmp_path, steps_of):
    """Of a batch of 4, no micro-batches and micro-batches of 4 are the same."""
    with pytest.raises(UserError, match="micro batch none and micro batch 4 are the same run"):
        lmlab.tune(small_store, {"micro_batch": [None, 4]}, lab=tmp_path, **TINY)
    assert steps_of == []


def test_the_command(small_store, tmp_path, capsys):
    words = [
        "tune", str(small_store.path), "--lab", str(tmp_path), "--over", "optimizer.learning-rate",
        "1e-3", "3e-2", "--over", "batch", "2", "4", "--seeds", "2", "--steps=2", "--context=8",
        "--layers=1", "--heads=1", "--width=16", "--threads=1", "--evaluation-windows=4",
        "--architecture=gpt2",
    ]  # fmt: skip
    assert main([*words, "--status"]) == 2
    capsys.readouterr()
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "4 settings for 2 steps, 2 seeds each: 8 runs, 384 tokens to train on" in shown.err
    assert "8 runs, 0 of them there already; 384 tokens to train on" in shown.err
    assert "above the best" in shown.out
    assert main([*words, "--status"]) == 0
    assert "8 finished" in capsys.readouterr().out
    assert main(words) == 0
    assert "8 runs, all of them there already" in capsys.readouterr().err
    (folder,) = tmp_path.glob("tune-*")
    values = read_values(folder)
    assert values["config"]["over"] == {
        "optimizer.learning_rate": [1e-3, 3e-2], "batch": [2, 4]
    }  # fmt: skip
    assert "--over optimizer.learning-rate 0.001 0.03 --over batch 2 4" in (
        folder / "report.html"
    ).read_text("utf-8")
    for wrong, said in (
        (["--over"], "takes a name and its values"),
        (["--over", "seed"], "takes a name and its values"),
        (["--over", "batch", "8"], "takes a name and its values, each name once"),
        (["--over", "lr", "1", "2"], "did you mean --learning-rate"),
    ):
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err


def test_a_file_of_options(tmp_path):
    file = tmp_path / "tune.toml"
    file.write_text(
        'store = "a"\n[over]\nlearning-rate = [0.1, 0.2]\n"model.tied" = [true, false]\n'
    )
    config = from_command_line(TuneConfig, ["--config", str(file)], program="lmlab tune")
    assert config.over == {"optimizer.learning_rate": (0.1, 0.2), "model.tied": (True, False)}


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ((1e-3, 2e-3, 4e-3), True),
        ((4e-3, 1e-3, 1.6e-2), True),
        ((1.0, 2.0, 3.0, 4.0), False),
        ((0.0, 0.1, 1.0), False),
        ((8, 16), False),
        ((1, 10), True),
    ],
)
def test_an_axis_is_logarithmic_where_values_are_spaced_as_ratios(values, log):
    assert spaced_as_ratios(values) is log
