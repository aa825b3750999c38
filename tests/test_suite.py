"""All tasks of a folder on one model, and a study of recipes on them: kept, resumed, handed in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lmlab
from helpers import TASK_WORDS as WORDS
from helpers import task_folder
from lmlab.cli import main
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.topics.babylm import model_score, study
from lmlab.topics.babylm.comparison import BabyLMStudy
from lmlab.topics.babylm.model_score import SuiteScore
from lmlab.topics.babylm.options import BabyLMStudyConfig
from lmlab.topics.babylm.suite import Suite, open_suite
from lmlab.topics.counting.baseline import KNESER_NEY, ngram_baselines
from lmlab.topics.registry import read_result


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return task_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(text_store, tmp_path_factory):
    return lmlab.train(
        text_store, steps=32, every=32, logarithmic=True, layers=1, heads=1, width=16, context=40,
        batch=4, out=tmp_path_factory.mktemp("lab") / "run",
    )  # fmt: skip


@pytest.fixture(scope="module")
def scored(run, data, tmp_path_factory) -> tuple[SuiteScore, Path]:
    out = tmp_path_factory.mktemp("suite") / "out"
    words = ["evaluate", str(run.path), "--suite", "babylm", "--data", str(data)]
    assert main([*words, "--out", str(out)]) == 0
    result = read_result(out)
    assert isinstance(result, SuiteScore)
    return result, out


def test_all_that_is_there_is_scored_and_what_is_not_is_named(scored):
    result, _ = scored
    assert [task.task for task in result.tasks] == ["wug_adj", "zorro"]
    assert result.reading is not None
    assert result.reading.eye_tracking.words == 90
    assert result.acquisition is not None
    assert set(result.acquisition.words) <= set(WORDS)
    missing = " ".join(result.missing)
    assert all(name in missing for name in ("blimp", "comps", "ewok", "entity_tracking"))
    assert "zorro" not in missing
    assert "stopped at step" not in missing


def test_a_run_that_was_stopped_is_scored_where_it_is_and_that_is_said(run, data, tmp_path):
    stopped = tmp_path / "run"
    shutil.copytree(run.path, stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-00000032")
    result = lmlab.evaluate_suite(stopped, data, out=tmp_path / "out", fast=True)
    assert any("stopped at step 16 of 32" in each for each in result.missing)


def test_scores_are_those_of_the_tasks_alone(scored, run, data):
    result, _ = scored
    (alone,) = lmlab.evaluate(run, str(data / "zorro")).tasks
    (suite,) = (task for task in result.tasks if task.task == "zorro")
    assert suite.metrics["accuracy"] == alone.metrics["accuracy"]
    assert suite.values["accuracy"].tolist() == alone.values["accuracy"].tolist()


def test_curves_end_at_the_score_and_rise_by_words_seen(scored, run):
    result, _ = scored
    for name in ("wug_adj", "zorro"):
        points = [point for point in result.course if point.task == name]
        assert [p.words for p in points] == sorted({p.words for p in points})
        assert points[-1].words == result.words
        # the sample has all items here
        assert points[-1].value == result.score(name)


def test_predictions_are_the_likelier_texts_by_item(scored, run, data):
    _, out = scored
    handed = json.loads((out / "predictions.json").read_text())
    assert set(handed) == {"wug_adj", "zorro", "reading"}
    lm = run.model()
    for file in sorted((data / "zorro").glob("*.txt")):
        lines = file.read_text().splitlines()
        entries = handed["zorro"][file.stem]["predictions"]
        assert [entry["id"] for entry in entries] == [f"{file.stem}_{n}" for n in range(4)]
        for entry, bad, good in zip(entries, lines[::2], lines[1::2], strict=True):
            nats = [
                sum(unit.nats[0] for unit in lmlab.surprisal(lm, [text]).texts[0].units)
                for text in (bad, good)
            ]
            assert entry["pred"] == (bad, good)[int(np.argmin(nats))]
    (forms,) = handed["wug_adj"].values()
    assert all(0 < entry["prob"] < 1 for entry in forms["predictions"])
    assert len(handed["reading"]["reading"]["predictions"]) == 90


def test_the_same_command_scores_nothing_again(scored, run, data, monkeypatch):
    result, out = scored

    def never(*given, **options):
        raise AssertionError("scored again")

    for module, name in ((model_score, "zero_shot"), (model_score, "reading")):
        monkeypatch.setattr(module, name, never)
    again = lmlab.evaluate_suite(run, data, out=out)
    assert again.to_json() == result.to_json()


def test_a_model_object_is_scored_without_curves(run, data, tmp_path):
    result = lmlab.evaluate_suite(run.model(), data, out=tmp_path, fast=True)
    assert result.course == ()
    assert any("take a run" in each for each in result.missing)
    page = result.page()
    assert "A sample of each set" in page


def test_mistakes_are_refused_before_a_model_is_opened(data, tmp_path, capsys):
    for words, said in (
        (["--suite", "babylm"], "--data"),
        (["--tasks", "blimp=x", "--fast"], "--limit"),
        ([], "--suite"),
        (["--suite", "babylm", "--data", str(data), "--limit", "3"], "--limit"),
    ):
        assert main(["evaluate", "missing-model", *words]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="no file of a known form"):
        lmlab.evaluate_suite("missing-model", tmp_path, out=tmp_path / "out")


@pytest.fixture(scope="module")
def studied(text_store, data, tmp_path_factory):
    lab = tmp_path_factory.mktemp("study")
    own = lab / "own.toml"
    own.write_text('[model]\narchitecture = "llama"\nlayers = 1\nheads = 1\nwidth = 16\n')
    base = lab / "base.toml"
    base.write_text('[model]\narchitecture = "gpt2"\nlayers = 1\nheads = 1\nwidth = 16\n')
    recipes = (f"base={base}", f"own={own}")
    options = {
        "text": str(text_store.path), "data": data, "recipes": recipes, "seeds": 2,
        "context": 40, "batch_tokens": 160, "steps": 24, "lab": lab,
    }  # fmt: skip
    return lmlab.study("babylm", **options), options


def test_a_study_compares_recipes_on_every_task(studied):
    result, _ = studied
    names = [task.about.task for task in result.tasks]
    assert {"zorro", "wug_adj", "reading, eye tracking", "reading, self-paced"} <= set(names)
    zorro = next(task for task in result.tasks if task.about.task == "zorro")
    assert zorro.units == 6
    assert [score.recipe for score in zorro.scores] == ["base", "own"]
    difference = zorro.scores[1].difference
    assert difference is not None
    means = [np.mean(score.by_seed) for score in zorro.scores]
    assert difference.estimate == pytest.approx(means[1] - means[0])
    assert {point.recipe for point in result.curves} == {"base", "own"}
    assert "own" in result.page()


def test_a_task_of_few_sets_says_that_its_units_are_items(data):
    """Two of its sets were 4,000 "sets of items"."""
    zorro = next(task for task in open_suite(data).tasks if task.name == "zorro")
    assert zorro.sets is not None
    few = replace(zorro, items=[i for i in zorro.items if i.set_name == zorro.sets[0]])
    assert study._about(zorro).unit == "sets of items"
    assert study._about(few).unit == "items"


def test_a_run_of_the_study_has_the_score_of_the_suite(studied, data, tmp_path):
    result, options = studied
    run = options["lab"] / "runs" / result.recipes[0].runs[0]
    alone = lmlab.evaluate_suite(run, data, out=tmp_path)
    task = next(task for task in result.tasks if task.about.task == "zorro")
    score = alone.score("zorro")
    assert score is not None
    assert task.scores[0].by_seed[0] == pytest.approx(score.value)
    eyes = next(task for task in result.tasks if task.about.task == "reading, eye tracking")
    assert alone.reading is not None
    figure = alone.reading.eye_tracking.official
    assert eyes.scores[0].by_seed[0] == pytest.approx(figure.pseudo_values_C.mean())


def test_recipes_stand_against_counts_of_their_text(studied, text_store):
    """By hand: the models' nats of the same windows less those of the n-grams, by token."""
    result, options = studied
    baseline = ngram_baselines(
        text_store, split="test", context=40, max_windows=(1 << 17) // 40, smoothings=KNESER_NEY
    ).best
    counted = baseline.nats_forward_M.sum() / baseline.tokens_M.sum()
    assert list(result.counting.above) == ["base", "own"]
    for recipe in result.recipes:
        scores = [
            lmlab.score(options["lab"] / "runs" / run, text_store, split="test", context=40)
            for run in recipe.runs
        ]
        mean = np.mean([each.nats_per_token for each in scores])
        above = result.counting.above[recipe.recipe].interval
        assert above.estimate == pytest.approx(mean - counted, abs=1e-5)
        assert (above.seeds, scores[0].tokens) == (2, result.counting.tokens)
    # 24 steps learn less than counts of the same text: said before anything is compared
    assert result.summary().startswith("Against counting (")


def test_a_recipe_that_reads_both_ways_is_not_compared_with_counting(text_store, data, tmp_path):
    masked = tmp_path / "masked.toml"
    masked.write_text(
        'objective = "masked"\n[model]\narchitecture = "bert"\nlayers = 1\nheads = 1\nwidth = 16\n'
    )
    options = {
        "text": str(text_store.path), "data": data, "seeds": 1, "curve_items": 0,
        "context": 40, "batch_tokens": 160, "steps": 4, "lab": tmp_path,
    }  # fmt: skip
    alone = lmlab.study("babylm", recipes=(f"masked={masked}",), **options)
    assert isinstance(alone, BabyLMStudy)
    assert alone.counting is None
    assert "Against counting" not in alone.page()


def test_a_store_without_test_text_has_its_validation_text_counted_and_without_that_none(
    text_store, tmp_path
):
    def held_out(*splits: str) -> str | None:
        store = TokenStore(text_store.path)
        store.splits = {name: store.splits[name] for name in splits}
        config = BabyLMStudyConfig(text="t", data=tmp_path)
        return study._Plan(config, store, Suite((), None, None, ()), 1).held_out

    assert held_out("train", "validation", "test") == "test"
    assert held_out("train", "validation") == "validation"
    assert held_out("train", "test") is None


def test_a_study_that_is_asked_for_again_is_read(studied, monkeypatch):
    result, options = studied

    def never(*given, **more):
        raise AssertionError("measured again")

    monkeypatch.setattr(study, "reading_nats", never)
    monkeypatch.setattr("lmlab.topics.scoring.tasks_of_runs.zero_shot", never)
    assert lmlab.study("babylm", **options).to_json() == result.to_json()


def test_of_full_and_fast_data_each_is_read_where_it_is_asked_for(data, tmp_path):
    """A study refused BabyLM's own folder, as it has every set twice."""
    for name in ("full_eval", "fast_eval"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zorro").symlink_to(data / "zorro")
    (tmp_path / "full_eval" / "reading.csv").symlink_to(data / "reading.csv")
    full, fast = open_suite(tmp_path), open_suite(tmp_path, fast=True, limit=2)
    assert [len(task.items) for task in full.tasks] == [24]
    assert [len(task.items) for task in fast.tasks] == [12]
    assert fast.reading is not None
