"""Ages of acquisition: sigmoids that are known come back, and what has no age is named."""

from __future__ import annotations

import csv
import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq, curve_fit
from scipy.stats import pearsonr

from helpers import tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig
from lmlab.errors import UserError
from lmlab.lm import left_context
from lmlab.lm.language_model import open_model
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.topics.babylm.acquisition import (
    ChildAges,
    Curves,
    Sigmoid,
    acquisition,
    age_of_half,
    ages_of_words,
    correlation,
    draw_contexts,
    fit_sigmoid,
    learning_curves,
    read_child_ages,
)
from lmlab.training.loop import train

SEEN_C = np.geomspace(1e3, 1e7, 16)
X_C = np.log10(SEEN_C)
CHANCE = 9.0


def random_sigmoids(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Sigmoid(rng.uniform(2, 5), rng.uniform(7.5, 9), rng.uniform(4, 6), rng.uniform(0.1, 0.4))
        for _ in range(count)
    ]


def test_noisy_sigmoids_come_back():
    sigmoids = random_sigmoids(40)
    rng = np.random.default_rng(1)
    clean_CW = np.stack([sigmoid.at(X_C) for sigmoid in sigmoids], axis=1)
    ages_W, reasons = ages_of_words(clean_CW, SEEN_C, CHANCE)
    assert reasons == [""] * len(sigmoids)
    for sigmoid, y_C, age in zip(sigmoids, clean_CW.T, ages_W, strict=True):
        level = (CHANCE + y_C.min()) / 2  # by brute force
        expected = brentq(lambda x, s=sigmoid, at=level: s.at(np.array(x)) - at, 2, 8)
        assert age == pytest.approx(expected, abs=1e-3)
    noisy_CW = clean_CW + rng.normal(0, 0.15, clean_CW.shape)
    noisy_W, _ = ages_of_words(noisy_CW, SEEN_C, np.full(len(sigmoids), CHANCE))
    assert np.abs(noisy_W - ages_W).max() < 0.25
    # the order of the checkpoints makes no difference
    shuffled = rng.permutation(len(SEEN_C))
    again_W, _ = ages_of_words(noisy_CW[shuffled], SEEN_C[shuffled], CHANCE)
    np.testing.assert_allclose(again_W, noisy_W)


def test_the_fit_is_no_worse_than_that_of_a_search_from_the_truth():
    rng = np.random.default_rng(2)
    for sigmoid in random_sigmoids(15, seed=3):
        y_C = sigmoid.at(X_C) + rng.normal(0, 0.3, len(X_C))
        ours = fit_sigmoid(X_C, y_C)
        start = [sigmoid.lower, sigmoid.upper, sigmoid.middle, sigmoid.scale]
        theirs, _ = curve_fit(
            lambda x, *values: Sigmoid(*values).at(x), X_C, y_C, start,
            bounds=([-np.inf, -np.inf, X_C[0] - 4, 0.04], [np.inf, np.inf, X_C[-1] + 4, 8]),
        )  # fmt: skip
        errors = [((s.at(X_C) - y_C) ** 2).sum() for s in (ours, Sigmoid(*theirs))]
        assert errors[0] <= errors[1] * (1 + 1e-4)


def test_the_crossing_is_that_of_the_published_table():
    """Parameters and ages of "a" and "about" as published by Chang and Bergen (2022), whose chance
    level is log2 of 30,000 types."""
    for lower, upper, middle, scale, least, age in (
        (3.17317459585703, 20.5744217427227, 2.24047895597443, 0.490144124973571,
         3.00093245506287, 2.58489204847581),
        (3.34860702122769, 19.2238305713853, 2.80926138317519, 0.548681337711874,
         3.22520399093628, 3.12716654951843),
    ):  # fmt: skip
        level = (math.log2(30_000) + least) / 2
        assert Sigmoid(lower, upper, middle, scale).crossing(level) == pytest.approx(age, abs=1e-6)


def test_words_without_an_age_are_named_with_the_reason():
    flat_C = np.full(len(X_C), 9.5)
    curves = {
        "good": Sigmoid(3, 9, 5, 0.3).at(X_C),
        "unknown": flat_C + 0.1 * np.sin(np.arange(len(X_C))),
        "rising": 9.6 - Sigmoid(3, 8, 5, 0.3).at(X_C),
        "early": Sigmoid(3, 9, 2, 0.2).at(X_C),
        "good too": Sigmoid(2, 9, 4, 0.3).at(X_C),
    }
    result = acquisition(
        Curves(
            tuple(curves), SEEN_C, np.stack(list(curves.values()), axis=1), np.full(5, CHANCE), 50,
            without=("absent",),
        ),
        ChildAges("here", ("good", "early", "absent"), np.array([20.0, 21.0, 22.0]), 0, ()),
    )  # fmt: skip
    reasons = {word: reason for reason, words in result.unfitted.items() for word in words}
    assert reasons.pop("early") in (
        "learnt before the first checkpoint", "its curve does not reach the half-way level",
    )  # fmt: skip
    assert reasons == {
        "unknown": "never below chance",
        "rising": "its surprisal does not fall",
        "good too": "no age of children",
        "absent": "no context in the text",
    }
    assert result.fitted == 1
    assert result.correlation is None
    assert np.isnan(result.log10_seen_W).tolist() == [False, True, True, True, False]
    for bad, message in (
        ((np.ones((4, 2)), SEEN_C[:4]), "4 checkpoints"),
        ((np.ones((5, 2)), np.array([0, 1, 2, 3, 4])), "above 0, each once"),
        ((np.full((5, 2), np.nan), SEEN_C[:5]), "finite"),
        ((np.ones((5, 2)), SEEN_C), r"\(C, W\)"),
    ):
        with pytest.raises(UserError, match=message):
            ages_of_words(*bad, CHANCE)


def test_the_correlation_has_fishers_interval_where_fishers_assumptions_hold():
    rng = np.random.default_rng(4)
    first_W = rng.normal(size=400)
    second_W = 0.5 * first_W + rng.normal(size=400)
    interval = correlation(first_W, second_W)
    assert interval is not None
    assert interval.bounds is not None
    theirs: Any = pearsonr(first_W, second_W)
    assert interval.estimate == pytest.approx(theirs.statistic)
    np.testing.assert_allclose(interval.bounds, theirs.confidence_interval(), atol=0.02)
    assert correlation(first_W[:4], second_W[:4]) is None
    assert correlation(first_W, np.ones(400)) is None


def shares(age, scale, months=range(16, 31)):
    return [1 / (1 + math.exp(-(month - age) / scale)) for month in months]


def test_a_childs_age_is_where_the_logistic_is_one_half():
    months_M = np.arange(16.0, 31.0)
    for age in (14.0, 22.3, 33.0):
        assert age_of_half(months_M, np.array(shares(age, 3.0))) == pytest.approx(age, abs=1e-4)
    assert math.isnan(age_of_half(months_M, np.full(15, 0.4)))


def test_ages_of_children_are_read_and_mistakes_named_with_their_line(tmp_path):
    def table(*rows):
        path = tmp_path / "shares.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["definition", "category", *range(16, 31)], *rows])
        return path

    ages = read_child_ages(
        table(
            ["chicken (animal)", "a", *shares(20, 3)],
            ["chicken (food)", "b", *shares(18, 3)],
            ["soda/pop", "b", *shares(31, 3)],
            ["mommy*", "c", *shares(2, 3)],
            ["never", "c", *[0] * 15],
        )
    )
    assert ages.words == ("chicken", "soda")
    np.testing.assert_allclose(ages.months_W, [18, 31], atol=1e-3)
    assert (ages.extrapolated, ages.left_out) == (1, ("mommy", "never"))
    good = ["cat", "a", *shares(20, 3)]
    for path, message in (
        (lambda: table(good, ["dog", "a", *shares(20, 3)[:-1], "x"]), "line 3: '30' 'x' is no"),
        (lambda: table(good, ["dog", "a", 7, *shares(20, 3)[1:]]), "line 3: '16' is no share"),
        (lambda: table(["", "a", *shares(20, 3)]), "line 2: 'definition' is empty"),
    ):
        with pytest.raises(UserError, match=message):
            read_child_ages(path())


def test_contexts_are_places_in_the_text_and_always_the_same():
    texts = ["Mommy wants ice cream . the Dog, the dog's (dog) dog .", "a dog ran ; see the dog"]
    words = ["dog", "ice cream", "mommy", "cow"]
    contexts = draw_contexts(texts, words)
    by_word = {word: [] for word in words}
    for number, before, form in zip(
        contexts.word_P, contexts.contexts, contexts.forms, strict=True
    ):
        by_word[contexts.words[number]].append((before, form))
        # what is scored is the text as it stands
        assert any(before + form in text for text in texts)
    assert by_word["ice cream"] == [("Mommy wants", " ice cream")]
    assert ("Mommy wants ice cream . the", " Dog") in by_word["dog"]
    # "dog's" is another word, "(dog)" has a mark before it, what begins a text has no context
    assert len(by_word["dog"]) == 4
    assert contexts.without == ("mommy", "cow")
    fewer = draw_contexts(texts, words, a_word=2)
    assert (fewer.word_P == 0).sum() == 2
    assert fewer.contexts == draw_contexts(texts, words, a_word=2).contexts
    long = draw_contexts(["w " * 100 + "dog"], ["dog"])
    assert long.contexts == (" ".join(["w"] * 32),)


@pytest.fixture(scope="module")
def run(text_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(tiny_training(
        text_store, folder, context=40, steps=20, checkpoints=CheckpointConfig(every=4),
        model=ModelConfig("gpt2", layers=1, heads=2, width=16),
    ))  # fmt: skip
    return folder


def test_curves_are_means_over_contexts_and_are_kept(run, tmp_path, text_folder, monkeypatch):
    texts = [path.read_text("utf-8") for path in sorted(text_folder.iterdir())[:20]]
    contexts = draw_contexts(texts, ["model", "quick", "nowhere"], a_word=5)
    steps = sorted((run / "checkpoints").iterdir())
    seen = [int(path.name.rpartition("-")[2]) for path in steps]
    curves = learning_curves(
        [(n or 1, path) for n, path in zip(seen, steps, strict=True)], contexts, tmp_path
    )
    assert curves.words == ("model", "quick")
    assert curves.without == ("nowhere",)
    lm = open_model(steps[-1])
    for number in range(2):
        chosen = np.flatnonzero(contexts.word_P == number)
        asked = [Request(contexts.contexts[p], contexts.forms[p], "") for p in chosen]
        likelihoods = log_likelihoods(lm, asked)
        assert curves.surprisal_CW[-1, number] == pytest.approx(
            -likelihoods.nats_N.mean(), abs=1e-5
        )
        assert curves.chance_W[number] == pytest.approx(
            likelihoods.tokens_N.mean() * math.log(lm.tokenizer.vocabulary)
        )

    def refused(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("lmlab.topics.babylm.acquisition.word_nats", refused)
    assert left_context.word_nats is not refused
    again = learning_curves([(n or 1, "not there") for n in seen], contexts, tmp_path)
    np.testing.assert_array_equal(again.surprisal_CW, curves.surprisal_CW)
    with pytest.raises(UserError, match="none of the words"):
        learning_curves([], draw_contexts(texts, ["nowhere"]), tmp_path)
