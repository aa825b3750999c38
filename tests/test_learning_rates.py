"""A learning rate for each arm of a study: chosen as by hand, by runs that are not compared."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmlab
from helpers import journal
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.errors import UserError
from lmlab.studies.finished_runs import validations
from lmlab.studies.learning_rates import CHOOSING_SEED
from lmlab.studies.options import TrainingStudy, study_folder
from lmlab.studies.parts import LeftToOthers
from lmlab.studies.rates import Rates, end_of
from lmlab.studies.rates_report import rates_section
from lmlab.studies.status import study_status
from lmlab.topics.arrow.family import ArrowStudy
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.study import run_arrow
from lmlab.topics.babylm.options import BabyLMStudyConfig
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.decomposition.study import run_decomposition
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.encoding.study import run_encoding
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.registry import read_result
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.study import run_towers
from lmlab.training.loop import Trainer, train

RATES = (1e-4, 3e-3, 3e-1)
FOLDER = "arrow-21dd0b75"
"""Of the arrow study with its defaults, before there was a choice of rates."""
TINY: dict[str, Any] = {"vocabulary": 300, "tokens": 640, "batch_tokens": 64}


@pytest.fixture(scope="module")
def tiny_arrow(text_folder, tmp_path_factory):
    lab = tmp_path_factory.mktemp("lab")
    config = ArrowConfig(
        text=(str(text_folder),), size=("nano",), context=(16,), seeds=2, learning_rates=RATES,
        lab=lab, **TINY,
    )  # fmt: skip
    return config, run_arrow(config)


def runs_of(lab: Path) -> list[lmlab.Run]:
    """The runs in a lab that have no parent."""
    runs = [lmlab.Run(folder) for folder in sorted((lab / "runs").iterdir())]
    return [run for run in runs if run.config.parent.path is None]


def is_choosing(run: lmlab.Run) -> bool:
    return run.config.seed >= CHOOSING_SEED


def losses_of_choosing(lab: Path) -> dict[str, float]:
    """The last validation loss of every run that chooses, by its folder."""
    runs = filter(is_choosing, runs_of(lab))
    return {run.path.name: journal(run.path)[-1]["validation_nats_per_token"] for run in runs}


def test_the_rate_is_that_of_the_best_of_runs_made_by_hand(tiny_arrow, tmp_path):
    config, result = tiny_arrow
    ends: dict[str, dict[float, float]] = {"forward": {}, "backward": {}}
    for run in filter(is_choosing, runs_of(config.lab)):
        asked = run.config
        again = train(replace(asked, out=tmp_path / run.path.name))  # elsewhere, from its options
        nats = validations(again.path)[-1].nats_per_token
        ends[asked.order][asked.peak_rate] = nats
    for label, rates in result.rates.items():
        order = label.rpartition(", ")[2]
        assert dict(rates.validation) == ends[order]
        assert rates.best == min(RATES, key=lambda rate: ends[order][rate])
        assert rates.seed == CHOOSING_SEED
    assert len(result.rates) == 2
    # ten steps: a small rate learns too little, a huge one nothing that stays
    assert {each.best for each in result.rates.values()} == {3e-3}


def test_compared_runs_have_that_rate_and_another_seed(tiny_arrow):
    config, result = tiny_arrow
    best = {label.rpartition(", ")[2]: each.best for label, each in result.rates.items()}
    compared = [run.config for run in runs_of(config.lab) if not is_choosing(run)]
    assert sorted((run.order, run.seed) for run in compared) == [
        (order, seed) for order in ("backward", "forward") for seed in (0, 1)
    ]
    assert all(run.optimizer.learning_rate == best[run.order] for run in compared)
    (comparison,) = result.comparisons
    assert comparison.training.learning_rate == best["forward"]
    assert comparison.training.other_learning_rate is None  # the same: equal treatment
    names = {model.name for _, models in comparison.sides for model in models}
    assert not names & {name for each in result.rates.values() for name in each.runs}
    assert read_result(study_folder("arrow", config)) == result
    page = result.page()
    assert "Learning rates" in page
    assert "null is equal treatment" in page
    assert "each its best learning rate" in page


def test_directions_may_have_different_rates(tiny_arrow, monkeypatch):
    config, _ = tiny_arrow
    taken = {"forward": 1e-4, "backward": 3e-3}

    def end(run):
        asked = lmlab.Run(run.path).config
        return 3.0 if asked.peak_rate == taken[asked.order] else 4.0

    monkeypatch.setattr("lmlab.studies.learning_rates.final_validation", end)
    result = run_arrow(replace(config, out=config.lab / "different"))
    (comparison,) = result.comparisons
    assert comparison.training is not None
    assert comparison.training.learning_rate == 1e-4
    assert comparison.training.other_learning_rate == 3e-3
    for order, models in comparison.sides:
        for model in models:
            run = lmlab.Run(config.lab / "runs" / model.name).config
            assert (run.order, run.peak_rate) == (order, taken[order])
    page = result.page()
    assert "0.0001 and 0.003" in page
    assert "may differ in their rate" in page
    assert "forward took the smallest" in page


def test_runs_are_shared_by_digest(tiny_arrow, monkeypatch):
    """Again nothing is trained; of another list only its new rate; the usual study shares what has
    the chosen rate."""
    config, result = tiny_arrow
    steps: list[tuple[float, int]] = []
    update = Trainer.update

    def counted(trainer):
        if trainer.config.optimizer.learning_rate != 1e-6:  # steps that are only timed
            steps.append((trainer.config.optimizer.learning_rate, trainer.config.seed))
        return update(trainer)

    monkeypatch.setattr(Trainer, "update", counted)
    assert run_arrow(config).rates == result.rates
    assert steps == []
    more = run_arrow(replace(config, learning_rates=(*RATES, 1e-5)))
    assert steps == [(1e-5, CHOOSING_SEED)] * 20
    assert {each.best for each in more.rates.values()} == {3e-3}
    steps.clear()
    usual = run_arrow(replace(config, learning_rates=(), learning_rate=3e-3))
    assert steps == []
    assert usual.rates == {}
    assert usual.comparisons[0].arrow.relative == result.comparisons[0].arrow.relative
    page = usual.page()
    assert "Learning rates" not in page
    assert "null is equal treatment" not in page


def test_an_arm_that_breaks_off_with_every_rate_is_named(tiny_arrow, monkeypatch):
    config, _ = tiny_arrow

    def ends(run, label, bar):
        return None if run.config.order == "backward" else 4.0

    monkeypatch.setattr("lmlab.studies.learning_rates.trained_end", ends)
    too_large = replace(config, learning_rates=(1e8, 1e9), out=config.lab / "broken")
    with pytest.raises(UserError, match=r"backward: no finite loss with any of the rates 1e\+08"):
        run_arrow(too_large)


def test_a_plan_counts_the_runs_that_choose(text_folder, tmp_path, capsys):
    command = [
        "study", "arrow", "--text", str(text_folder), "--size", "nano", "--context", "16",
        "--vocabulary", "300", "--seeds", "2", "--tokens", "640", "--batch-tokens", "64",
        "--lab", str(tmp_path / "lab"), "--learning-rates", "1e-3", "3e-3", "1e-2",
    ]  # fmt: skip
    assert main([*command, "--plan"]) == 0
    said = capsys.readouterr()
    assert "arrow of time: 10 runs, 0 of them there already; 6,400 tokens to train on" in said.err
    assert said.out.count("to choose a rate: ") == 6
    assert said.out.count("its rate is to be chosen") == 4
    assert "10 waiting" in said.out
    assert not list(tmp_path.glob("lab/runs/*/checkpoints/*"))
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--status"]) == 0
    said = capsys.readouterr().out
    assert "10 finished" in said
    assert "to be chosen" not in said
    assert main([*command, "--plan"]) == 0  # all is known now
    assert "10 finished" in capsys.readouterr().out


def test_workers_share_the_choice_and_what_follows(tiny_arrow, tmp_path, monkeypatch):
    config, _ = tiny_arrow
    shared = replace(config, lab=tmp_path / "lab")
    monkeypatch.setattr("lmlab.studies.parts._BETWEEN_PASSES", 0.05)
    found: list[ArrowStudy] = []

    def work():
        with suppress(LeftToOthers):
            found.append(run_arrow(shared, worker=True))

    run_arrow(replace(shared, learning_rates=(), seeds=1, tokens=64))  # the store, made once
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found
    assert read_result(study_folder("arrow", shared)) == found[0]
    ends = losses_of_choosing(shared.lab)
    for rates in found[0].rates.values():  # threads share torch's generator: not those of one alone
        assert [ends[name] for name in rates.runs] == [nats for _, nats in rates.validation]
    rows = study_status(study_folder("arrow", shared), shared.lab)
    assert [row.state for row in rows] == ["finished"] * (2 * 3 + 4)


@pytest.fixture(params=["towers", "decomposition", "encoding"])
def tuned_study(request, text_folder, tmp_path):
    """A tiny study with two rates, and the numbers of its arms and of the runs that it compares."""
    more = {"lab": tmp_path, "learning_rates": (1e-4, 3e-3), **TINY}
    if request.param == "towers":
        config = TowersStudyConfig(
            text=(str(text_folder),), model=ModelConfig(layers=1, heads=1, width=16), context=16,
            seeds=2, control=False, split=False, single=False, probe_tokens=64,
            evaluation="test", **more,
        )  # fmt: skip
        return config, run_towers(config), 3, 6
    if request.param == "decomposition":
        config = DecompositionStudyConfig(
            text=str(text_folder), arms=("forward", "masked", "tower"), size=("nano",), context=16,
            seeds=1, embedding=EmbeddingConfig(length=10), lengths=(), pieces=100,
            held_out_pieces=30, device="cpu", **more,
        )  # fmt: skip
        return config, run_decomposition(config), 3, 3
    more["vocabulary"] = (300,)
    config = EncodingStudyConfig(
        text=str(text_folder), arms=("ce-untied", "headless"), size="nano", context=16, windows=4,
        factors=(2.0,), shares=(0.5,), dynamics=False, seed=3, **more,
    )  # fmt: skip
    return config, run_encoding(config), 2, 2


def test_every_study_compares_arms_at_their_rates(tuned_study):
    config, result, arms, compared = tuned_study
    assert len(result.rates) == arms
    ends = losses_of_choosing(config.lab)
    assert len(ends) == 2 * arms
    for rates in result.rates.values():
        assert [ends.pop(name) for name in rates.runs] == [nats for _, nats in rates.validation]
        assert rates.best == min(dict(rates.validation), key=dict(rates.validation).__getitem__)
    runs = [run for run in runs_of(config.lab) if not is_choosing(run)]
    assert len(runs) == compared
    best = {each.best for each in result.rates.values()}
    assert {run.config.optimizer.learning_rate for run in runs} == best
    assert "Learning rates" in result.page()
    assert type(result).from_json(result.to_json()) == result


def test_a_recipe_of_babylm_keeps_all_but_its_rate(tmp_path):
    config = BabyLMStudyConfig(text="t", data=tmp_path, learning_rates=(1e-3, 2e-3))
    usual, tuned = (config.request("gpt2", 0, tmp_path, rate) for rate in (None, 2e-3))
    assert usual.optimizer.learning_rate == 5e-4
    assert tuned.optimizer.learning_rate == 2e-3
    assert replace(tuned, optimizer=usual.optimizer) == usual
    assert replace(tuned.optimizer, learning_rate=5e-4) == usual.optimizer


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (ArrowConfig, {"learning_rates": (1e-3, 1e-3)}, "each once"),
        (ArrowConfig, {"learning_rates": (0.0, 1e-3)}, "positive"),
        (EncodingStudyConfig, {"learning_rates": (1e-3,)}, "no choice"),
        (ArrowConfig, {"split": "validation"}, "give `split` test"),
        (HeadlessStudyConfig, {"split": "validation"}, "give `split` test"),
        (TowersStudyConfig, {}, "give `evaluation` test"),
    ],
)
def test_what_would_choose_by_what_is_compared_is_refused(kind, options, words):
    with pytest.raises(UserError, match=words):
        kind(**{"learning_rates": (1e-3, 2e-3), **options})


def test_a_study_without_a_choice_keeps_its_folder():
    """Labs of before the option find their results again."""
    assert study_folder("arrow", ArrowConfig()).name == FOLDER
    assert study_folder("arrow", ArrowConfig(learning_rates=(1e-3, 2e-3))).name != FOLDER


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=6, unique=True), st.data())
def test_an_end_is_the_least_or_the_greatest(values, data):
    value = data.draw(st.sampled_from(values))
    place, last = sorted(values).index(value), len(values) - 1
    expected = {0: "smallest", last: "largest"}.get(place) if last else None
    assert end_of(values, value) == expected


def test_the_page_says_what_broke_off_and_what_lies_at_the_end():
    rates = Rates(((1e-3, 5.0), (1e-2, 4.0), (1e-1, None)), seed=7)
    assert (rates.best, rates.at_end) == (1e-2, None)
    at_end = Rates(((1e-3, 3.0), (1e-2, 4.0), (1e-1, 6.0)), seed=7)
    config = TrainingStudy.__new__(TrainingStudy)
    object.__setattr__(config, "learning_rates", (1e-3, 1e-2, 1e-1))
    (section,) = rates_section(config, {"a": rates, "b": at_end}, "A note.")
    text = " ".join(section.paragraphs)
    assert "Chosen: a 0.01; b 0.001." in text
    assert "b took the smallest. A better one may lie beyond." in text
    assert "a took" not in text
    assert text.endswith("A note.")
    (table,) = section.tables
    assert list(table.rows[0])[-3:] == ["broke off", "0.01", "within"]
    assert list(table.rows[1])[-2:] == ["0.001", "the smallest"]
    assert rates_section(config, {}) == []
