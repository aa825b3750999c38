"""The arrow study: resumable, shared runs, equal pairs, a report drawn from results.json alone."""

from __future__ import annotations

import html
import json
import math
import shlex
from dataclasses import replace

import numpy as np
import pytest

from lmlab.config import from_command_line
from lmlab.data.store import TokenStore
from lmlab.data.synthetic import LinearLanguage
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.numerics.random_effects import Clusters
from lmlab.studies.corpora import Draw, corpus_labels, expanded, open_corpus
from lmlab.topics.arrow import study as study
from lmlab.topics.arrow.comparison import Scored, compare
from lmlab.topics.arrow.counting import AboveCounting
from lmlab.topics.arrow.figures import position_figures
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.arrow.tables import comparison_words, counting_words
from lmlab.topics.counting.baseline import Above
from lmlab.topics.counting.ngram import SMOOTHINGS
from lmlab.topics.registry import read_result, redraw
from lmlab.topics.scoring.difference import difference_per_token
from lmlab.topics.scoring.score import score
from lmlab.training import setup


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_folder):
    """A study of a text and a linear language, as small as it can be."""
    lab = tmp_path_factory.mktemp("lab")
    config = ArrowConfig(
        text=(str(text_folder), "linear:3:1"),
        size=("nano",),
        context=(16,),
        seeds=2,
        vocabulary=300,
        tokens=600,
        batch_tokens=64,
        lab=lab,
        out=lab / "study",
    )
    return config, study.run_arrow(config)


def test_results_agree_with_scoring_by_hand(finished):
    config, result = finished
    comparison = result.comparisons[0]
    sums = {}
    for side, models in comparison.sides:
        total = 0.0
        for model in models:
            lm = open_model(config.lab / "runs" / model.name)
            store = next(
                s
                for s in map(TokenStore, (config.lab / "stores").iterdir())
                if s.manifest["tokenizer_fingerprint"] == lm.tokenizer.fingerprint
            )
            made = score(lm, store, split="test", context=16, batch=1)
            assert math.isclose(made.nats_per_token, model.nats_per_token, rel_tol=1e-6)
            total += made.nats_M.sum()
        sums[side] = total
    f, b = sums["forward"], sums["backward"]
    assert math.isclose(2 * (b - f) / (b + f), comparison.arrow.relative, abs_tol=1e-6)
    assert comparison.arrow.seeds == 2


def test_models_are_told_from_the_best_of_counting_in_their_direction(finished):
    _, result = finished
    text, synthetic = result.comparisons
    assert synthetic.above_counting is None
    above = text.above_counting
    (counted,) = result.counted
    assert [fit.smoothing for fit in counted.fits] == list(SMOOTHINGS)
    best = min(counted.fits, key=lambda fit: min(fit.validation_nats))
    assert counted.best == best.smoothing == above.smoothing
    assert best.order == above.order
    assert counted.tokens == text.tokens_scored
    for models, of_side, nats in (
        (text.forward, above.forward, best.nats_per_token_forward),
        (text.other, above.other, best.nats_per_token_backward),
    ):
        mean = np.mean([model.nats_per_token for model in models])
        assert of_side.interval.estimate == pytest.approx(mean - nats)
        # two seeds of six documents: far above counting
        assert of_side.interval.low > 1
        assert of_side.verdict == "worse than counting, for these models on this text"
    page = html.unescape(result.page())
    assert "Models of text against counted n-grams" in page
    assert all(f"{fit.smoothing}, {fit.order}-grams" in page for fit in counted.fits)
    assert f"{best.smoothing} *" in page


@pytest.mark.parametrize(
    ("seeds", "over_seeds", "these", "verdict"),
    [
        (3, (-0.2, -0.1), (-0.2, -0.1), "better than counting"),
        (3, (0.1, 0.2), (0.1, 0.2), "worse than counting"),
        (3, (-0.2, 0.1), (-0.1, 0.1), "not decided, for these models on this text"),
        (3, (-9.0, 11.0), (1.2, 1.4), "worse than counting, for these models on this text"),
        # two seeds far above counting are worse, whatever two seeds say of others
        (2, (-9.0, 11.6), (1.2, 1.4), "worse than counting, for these models on this text"),
        (2, (1.0, 1.6), (1.2, 1.4), "worse than counting, for these models on this text"),
        (1, (None, None), (None, None), "no interval"),
    ],
)
def test_a_model_is_better_than_counting_only_beyond_its_interval(
    finished, seeds, over_seeds, these, verdict
):
    intervals = [
        replace(
            difference_per_token(
                np.ones((seeds, 9)), np.zeros((seeds, 9)), np.ones(9), Clusters(np.arange(9))
            ),
            low=low, high=high,
        )
        for low, high in (over_seeds, these)
    ]  # fmt: skip
    above = AboveCounting("Kneser-Ney", 3, Above(*intervals), None)
    assert above.forward.verdict == verdict
    (said,) = counting_words([replace(finished[1].comparisons[0], above_counting=above)])
    assert f"1 {verdict}" in said
    assert ("early training" in said) == verdict.startswith("worse than counting")


def test_positions_that_cost_nothing_are_left_out(finished):
    config, result = finished
    comparison = result.comparisons[0]
    stores = {
        s.manifest["tokenizer_fingerprint"]: s
        for s in map(TokenStore, (config.lab / "stores").iterdir())
    }
    sides = []
    for _, models in comparison.sides:
        scored = []
        for model in models:
            lm = open_model(config.lab / "runs" / model.name)
            made = score(lm, stores[lm.tokenizer.fingerprint], split="test", context=16)
            made.nats_Mb[:, [1, 5]] = 0.0
            scored.append(Scored(model.name, made))
        sides.append(scored)
    again = compare(*sides, corpus="c", label="m")
    assert [each.first for each in again.by_position] == [k for k in range(16) if k not in (1, 5)]
    for model in [*again.forward, *again.other]:
        assert len(model.by_position) == 14
    assert position_figures(again)


def test_a_pair_has_the_same_start_and_the_same_data(finished):
    config, result = finished
    for comparison in result.comparisons:
        for pair in zip(comparison.forward, comparison.other, strict=True):
            records = [
                json.loads(next((config.lab / "runs" / m.name).rglob("lmlab.json")).read_text())
                for m in pair
            ]
            assert [r["order"] for r in records] == ["forward", "backward"]
            a, b = ({**r["training"], "order": ""} for r in records)
            assert a == b


def test_a_finished_study_trains_and_scores_nothing_again(finished, monkeypatch):
    config, result = finished
    files = [config.out / name for name in ("results.json", "report.html")]
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr("lmlab.training.loop.Trainer.run", pytest.fail)
    monkeypatch.setattr("lmlab.topics.scoring.kept_scores.score", pytest.fail)
    assert study.run_arrow(config) == result
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("name", ["resolve", "deciding_values", "find_parent"])
def test_a_run_is_resolved_and_identified_once(finished, monkeypatch, name):
    """Was: three times resolved, twice identified, and its parent verified three times."""
    config, result = finished
    seen = []
    real = getattr(setup, name)
    monkeypatch.setattr(setup, name, lambda *given: seen.append(given) or real(*given))
    assert study.run_arrow(config) == result
    assert len(seen) == sum(len(models) for c in result.comparisons for _, models in c.sides) == 8


def test_an_interrupted_study_ends_with_the_same_results(finished, tmp_path, monkeypatch):
    config, result = finished
    fresh = replace(config, lab=tmp_path, out=tmp_path / "study")
    calls = 0
    real = study.train

    def dies(*arguments, **more):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(study, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        study.run_arrow(fresh)
    assert not (tmp_path / "study" / "results.json").exists()
    assert study.run_arrow(fresh).comparisons == result.comparisons


def test_a_pair_that_differs_in_more_than_direction_is_refused(finished, monkeypatch):
    config, _ = finished
    real = study._run

    def uneven(config, cell, order, seed):
        run = real(config, cell, order, seed)
        return replace(run, config=replace(run.config, seed=9)) if order == "backward" else run

    monkeypatch.setattr(study, "_run", uneven)
    with pytest.raises(UserError, match="more than direction"):
        study.run_arrow(replace(config, out=config.lab / "other"))


def test_the_report_is_drawn_again_from_results_alone(finished):
    config, result = finished
    report = config.out / "report.html"
    page = report.read_bytes()
    report.unlink()
    assert read_result(config.out) == result
    assert redraw(config.out) == report
    assert report.read_bytes() == page
    rows = result.frame()
    assert list(rows) == ["comparison", "verdict"]
    assert len(rows) == 2
    for said in rows["verdict"]:
        assert said.split(" (")[0] in page.decode()


def test_the_tables_of_a_study_are_data_frames(finished):
    _, result = finished
    for number, table in enumerate(result.tables()):
        assert result.frame(number).shape == (len(table.rows), len(table.columns)), table.caption
    of_floor = next(n for n, t in enumerate(result.tables()) if t.columns[0] == "run")
    losses = [m.nats_per_token for _, models in result.comparisons[1].sides for m in models]
    assert result.frame(of_floor)["loss"].tolist() == losses


def test_the_command_in_the_report_has_the_same_settings(finished):
    config, result = finished
    page = html.unescape(result.page())
    line = next(line for line in page.splitlines() if "To repeat it: " in line)
    words = shlex.split(line.partition("To repeat it: ")[2].removesuffix("</p>"))
    assert words[:3] == ["lmlab", "study", "arrow"]
    again = from_command_line(ArrowConfig, words[3:], program="")
    assert replace(again, lab=config.lab, out=config.out) == config


def test_folders_without_results_are_named(tmp_path):
    with pytest.raises(UserError, match="run the study first"):
        redraw(tmp_path)
    (tmp_path / "results.json").write_text('{"kind": "arrow study", "schema": 1, "levels": []}')
    with pytest.raises(UserError, match="missing key 'title'"):
        redraw(tmp_path)


def test_no_difference_is_said_where_the_interval_covers_zero(finished):
    _, result = finished
    for comparison in result.comparisons:
        if comparison.arrow.finding == "undecided":
            said = comparison_words(comparison)
            assert said.startswith("not decided for these 2 pairs of models on this text")


def test_synthetic_corpora_are_strings_that_fill_a_window(tmp_path):
    corpus = open_corpus(
        "linear:3:1:5", label="a", lab=tmp_path, tokenizer="bpe", vocabulary=0, tokens=130
    )
    source = LinearLanguage(3, 1, 0.01, 5)
    assert corpus.known is not None
    assert corpus.known.length == 13
    assert corpus.known.floor == pytest.approx(source.floor(), abs=0)
    assert corpus.known.inverse_density == source.inverse.mean()
    train = corpus.store.split("train")
    assert train.tokens == 130
    assert not corpus.store.end_of_text
    strings = train.read(0, 130).reshape(10, 13)
    assert (strings == source.sample(10, 1)).all()
    assert (corpus.store.split("test").read(0, 13) == source.sample(2048, 3)[0]).all()
    assert np.array_equal(corpus.store.tokenizer.encode(source.text(strings)[0]), strings[0])


def test_labels_of_corpora_are_short_and_never_the_same(tmp_path):
    (tmp_path / "novels.txt").write_text("text")
    there = str(tmp_path / "novels.txt")
    given = ["docstrings", there, str(tmp_path / "*.txt"), "linear:4:1", "primes", "hf:a/b"]
    short = ["docstrings", "novels", tmp_path.name, "linear language, 4 bits, 1 extra",
             "prime products", "hf:a/b"]  # fmt: skip
    assert corpus_labels(given) == short
    assert corpus_labels(["linear:4:1", "linear:4:1:2"]) == ["linear:4:1", "linear:4:1:2"]
    with pytest.raises(UserError, match="write it as"):
        corpus_labels(["linear:4"])


def test_a_range_of_matrices_is_each_of_them(tmp_path):
    made = expanded(["docstrings", "linear:4:1:3-5", "linear:4:2:3"])
    assert list(made) == ["docstrings", "linear:4:1:3", "linear:4:1:4", "linear:4:1:5",
                          "linear:4:2:3"]  # fmt: skip
    level = "linear language, 4 bits, 1 extra"
    assert made["linear:4:1:4"] == Draw(level, matrix=4, number=1)
    assert made["docstrings"] is None is made["linear:4:2:3"]
    with pytest.raises(UserError, match="linear:4:1:3 is named twice"):
        expanded(["linear:4:1:1-3", "linear:4:1:3"])
    with pytest.raises(UserError, match="a range of seeds such as linear:4:1:1-8"):
        expanded(["linear:4:1:3-3"])
    with pytest.raises(UserError, match="write it as"):
        open_corpus(
            "linear:4:1:1-3", label="a", lab=tmp_path, tokenizer="bpe", vocabulary=0, tokens=10
        )


@pytest.mark.parametrize("name", ["linear:3", "linear:a:b", "primes:1:2", "markov", "map:2"])
def test_synthetic_corpora_that_make_no_sense(name, tmp_path):
    with pytest.raises(UserError, match="write it as"):
        open_corpus(name, label=name, lab=tmp_path, tokenizer="bpe", vocabulary=0, tokens=10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": ("huge",)}, "`size` huge"),
        ({"architecture": ("gru",)}, "`architecture` gru needs `size`"),
        ({"context": (9999,)}, "does not fit a batch"),
        ({"order": ("sideways",)}, "permutation:SEED"),
        ({"text": ("a", "a")}, "each once"),
        ({"seeds": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        ArrowConfig(**changes)
