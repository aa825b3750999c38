"""Reading times on surprisal, against plain least squares and the models' own logits."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from helpers import WORDS, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.lm.left_context import word_nats
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.topics.babylm.reading import (
    EYE_TRACKING,
    SELF_PACED,
    ReadingWords,
    eye_tracking_gain,
    read_reading_times,
    reading,
    self_paced_gain,
)
from lmlab.training.loop import train
from tolerances import near

BASELINE = ("Subtlex_log10", "length", "context_length")


def some_words(sentences: int = 40, *, effect: float = 0.0, seed: int = 0):
    """Words whose times have an effect of a surprisal, and that surprisal (N)."""
    rng = np.random.default_rng(seed)
    contexts, words, names = [], [], []
    for sentence in range(sentences):
        text = rng.choice(WORDS, rng.integers(5, 12)).tolist()
        for place in range(1, len(text)):
            contexts.append(" ".join(text[:place]))
            words.append(text[place])
            names.append(f"s{sentence}")
    n = len(words)
    length_N = np.array([float(len(word)) for word in words])
    place_N = np.array([float(len(context.split())) for context in contexts])
    frequency_N = rng.normal(12, 2, n) - 0.3 * length_N
    surprisal_N = rng.gamma(2.0, 2.0, n)
    of_sentence_N = rng.normal(0, 10, sentences)[[int(name[1:]) for name in names]]
    numbers = {"Subtlex_log10": frequency_N, "length": length_N, "context_length": place_N}
    for time in (*EYE_TRACKING, SELF_PACED):
        numbers[time] = (
            200 + 8 * length_N - 3 * frequency_N + effect * surprisal_N
            + of_sentence_N + rng.normal(0, 30, n)
        )  # fmt: skip
    frequency_N[3] = np.nan
    return ReadingWords("here", tuple(contexts), tuple(words), tuple(names), numbers), surprisal_N


def raw_design(columns, added_N=None):
    """1, the columns as they are, their products, and what is added."""
    pairs = [a * b for a, b in combinations(columns, 2)]
    added = [] if added_N is None else [added_N]
    return np.column_stack([np.ones(len(columns[0])), *columns, *pairs, *added])


def plain_gain(words, columns, surprisal_N, times, *, held_out, without=None):
    """The gain by `lstsq`, row by row."""
    ok_N = np.isfinite(np.stack([*columns, surprisal_N])).all(0)
    ok_N &= np.array(words.sentences) != without
    sentence_N = np.array(words.sentences)[ok_N]
    gains = []
    for time in times:
        y_N = words.numbers[time][ok_N]
        errors = []
        for added_N in (None, surprisal_N[ok_N]):
            x_NP = raw_design([column_N[ok_N] for column_N in columns], added_N)
            if held_out:
                total = 0.0
                for name in set(sentence_N):
                    out_N = sentence_N == name
                    fit_P = np.linalg.lstsq(x_NP[~out_N], y_N[~out_N])[0]
                    total += float(((y_N[out_N] - x_NP[out_N] @ fit_P) ** 2).sum())
            else:
                fit_P = np.linalg.lstsq(x_NP, y_N)[0]
                total = float(((y_N - x_NP @ fit_P) ** 2).sum())
            errors.append(total)
        gains.append(1 - errors[1] / errors[0])
    return float(np.mean(gains))


def columns_of(words, previous_N=None):
    columns = [words.numbers[name] for name in BASELINE]
    if previous_N is None:
        return columns
    lengths_N = np.array([float(len(c.split()[-1])) for c in words.contexts])
    return [*columns, lengths_N, previous_N]


@pytest.mark.parametrize("held_out", [False, True])
def test_gains_are_those_of_plain_least_squares(held_out):
    words, surprisal_N = some_words(effect=3.0)
    rng = np.random.default_rng(5)
    previous_N = rng.gamma(2.0, 2.0, len(words))
    previous_N[[" " not in context for context in words.contexts]] = np.nan
    eye = eye_tracking_gain(words, surprisal_N)
    paced = self_paced_gain(words, surprisal_N, previous_N)
    for gain, columns, times in (
        (eye, columns_of(words), EYE_TRACKING),
        (paced, columns_of(words, previous_N), (SELF_PACED,)),
    ):
        figure = gain.held_out if held_out else gain.official
        expected = plain_gain(words, columns, surprisal_N, times, held_out=held_out)
        assert figure.interval.estimate == pytest.approx(expected, abs=1e-9)
        names = sorted(set(words.sentences))  # the order of the kept figures
        for c in (0, 7):
            expected = plain_gain(
                words, columns, surprisal_N, times, held_out=held_out, without=names[c]
            )
            assert figure.without_C[c] == pytest.approx(expected, abs=1e-9)
    assert (eye.words, eye.left_out) == (len(words) - 1, 1)
    first_words = sum(" " not in context for context in words.contexts)
    assert paced.left_out in (first_words, first_words + 1)
    assert eye.official.words_C.sum() == eye.words


def test_noise_gains_what_is_said_in_sample_and_nothing_held_out():
    words, _ = some_words(20)
    rng = np.random.default_rng(1)
    gains = [eye_tracking_gain(words, rng.normal(size=len(words))) for _ in range(60)]
    official = np.array([gain.official.interval.estimate for gain in gains])
    error = official.std(ddof=1) / np.sqrt(len(official))
    assert abs(official.mean() - gains[0].noise) < 3 * error
    assert official.mean() - 2 * error > 0
    assert np.mean([gain.held_out.interval.estimate for gain in gains]) < 0


def test_what_is_there_is_found_and_two_models_are_compared_word_by_word():
    words, surprisal_N = some_words(effect=4.0)
    rng = np.random.default_rng(2)
    right = eye_tracking_gain(words, surprisal_N)
    for figure in (right.official, right.held_out):
        assert figure.interval.low is not None
        assert figure.interval.low > 0
    in_bits = eye_tracking_gain(words, surprisal_N / np.log(2)).official
    assert in_bits.interval.estimate == pytest.approx(right.official.interval.estimate)
    blurred = eye_tracking_gain(words, surprisal_N + rng.normal(0, 1, len(words)))
    difference = right.official.less(blurred.official)
    assert difference.estimate == pytest.approx(
        right.official.interval.estimate - blurred.official.interval.estimate
    )
    assert difference.standard_error is not None
    assert right.official.interval.standard_error is not None
    # paired: much of what sentences differ by is common
    assert difference.standard_error < 0.8 * right.official.interval.standard_error
    fewer, less_N = some_words(30)
    with pytest.raises(UserError, match="different words"):
        right.official.less(eye_tracking_gain(fewer, less_N).official)


def test_pseudo_values_have_the_interval_of_the_jackknife():
    words, surprisal_N = some_words(effect=4.0)
    figure = eye_tracking_gain(words, surprisal_N).official
    values_C = figure.pseudo_values_C
    error = values_C.std(ddof=1) / np.sqrt(len(values_C))
    assert error == pytest.approx(figure.interval.standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["official", "held_out"])
def test_the_jackknife_has_the_spread_of_a_bootstrap_over_sentences(kind):
    words, surprisal_N = some_words(120, effect=4.0)
    figure = getattr(eye_tracking_gain(words, surprisal_N), kind)
    rng = np.random.default_rng(3)
    of_sentence: dict[str, list[int]] = {}
    for n, name in enumerate(words.sentences):
        of_sentence.setdefault(name, []).append(n)
    names = list(of_sentence)
    estimates = []
    for _ in range(150):
        chosen = [of_sentence[names[i]] for i in rng.integers(0, len(names), len(names))]
        rows = [n for group in chosen for n in group]
        again = replace(
            words,
            contexts=tuple(words.contexts[n] for n in rows),
            words=tuple(words.words[n] for n in rows),
            # a sentence drawn twice stays one, or its fit would have seen it
            sentences=tuple(words.sentences[n] for n in rows),
            numbers={name: values_N[rows] for name, values_N in words.numbers.items()},
        )
        estimates.append(
            getattr(eye_tracking_gain(again, surprisal_N[rows]), kind).interval.estimate
        )
    assert figure.interval.standard_error == pytest.approx(np.std(estimates, ddof=1), rel=0.25)


@pytest.fixture(scope="module")
def lms(text_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"causal": ("gpt2", {}), "backward": ("gpt2", {"order": "backward"}),
             "masked": ("bert", {"objective": "masked"})}  # fmt: skip
    for name, (architecture, options) in kinds.items():
        model = ModelConfig(architecture, layers=1, heads=2, width=16)
        train(tiny_training(
            text_store, folder / name, context=60, steps=10, model=model, **options
        ))  # fmt: skip
    return {name: open_model(folder / name) for name in kinds}


@pytest.mark.parametrize("kind", ["causal", "backward"])
def test_words_of_a_causal_model_have_the_likelihood_of_continuations(lms, kind):
    lm, (words, _) = lms[kind], some_words(12)
    result = reading(lm, words)
    for n in (0, 1, 5, 20):
        asked = [Request(words.contexts[n], f" {words.words[n]}", "")]
        assert result.surprisal_N[n] == near(-log_likelihoods(lm, asked).nats_N[0], tokens=5)
        before, _, last = words.contexts[n].rpartition(" ")
        if not before:
            assert np.isnan(result.previous_N[n])
            continue
        asked = [Request(before, f" {last}", "")]
        assert result.previous_N[n] == near(-log_likelihoods(lm, asked).nats_N[0], tokens=5)
    assert result.eye_tracking.words == len(words) - 1
    assert result.truncated == 0


def test_words_of_a_masked_model_are_read_before_three_masks(lms):
    lm = lms["masked"]
    tokenizer = lm.tokenizer
    pairs = [("The model reads", "quick"), ("the", "windowless"), ("an arrow of", "café")]
    result = word_nats(lm, [Request(context, f" {word}", "") for context, word in pairs])
    for n, (context, word) in enumerate(pairs):
        before, whole = (tokenizer.encode(t).tolist() for t in (context, f"{context} {word}"))
        total = 0.0
        for place in range(len(before), len(whole)):
            ids = [tokenizer.bos_id, *whole[:place], *[tokenizer.mask_id] * 3]
            ids.append(tokenizer.end_of_text_id)
            with torch.no_grad():
                logits_TV = lm.model(torch.tensor([ids])).logits[0]
            log_p_V = torch.log_softmax(logits_TV[place + 1].double(), -1)
            total -= float(log_p_V[whole[place]])
        tokens = len(whole) - len(before)
        assert result.tokens_N[n] == tokens
        assert result.nats_N[n] == near(total, tokens=tokens)
    assert max(result.tokens_N) > 1
    cut = word_nats(lm, [Request("the model " * 40, " quick", "")])
    assert cut.truncated == 1


def test_mistakes_in_a_table_are_named_with_their_line(tmp_path):
    names = ["item", "word", "sent_id", *BASELINE, *EYE_TRACKING, SELF_PACED]
    row = ["The model", "reads", "1", "7.5", "5", "2", "1", "2", "3", "4", "NA"]

    def table(*rows, header=names):
        path = tmp_path / "times.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    words = read_reading_times(table(row, [*row[:3], "NA", *row[4:]]))
    assert (words.contexts[0], words.words[0]) == ("The model", "reads")
    assert np.isnan(words.numbers["Subtlex_log10"]).tolist() == [False, True]
    assert np.isnan(words.numbers[SELF_PACED]).all()
    for path, message in (
        (lambda: table(row, [*row[:4], "five", *row[5:]]), r"line 3: 'length' 'five' is no number"),
        (lambda: table(row, row[:-1]), "line 3: not 11 values"),
        (lambda: table(["", *row[1:]]), "line 2: 'item' is empty"),
        (lambda: table(row, header=["text", *names[1:]]), "no column 'item'"),
        (table, "no row"),
        (lambda: tmp_path / "none.csv", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            read_reading_times(path())
    with pytest.raises(UserError, match="2 words have all"):
        eye_tracking_gain(read_reading_times(table(row, row)), np.ones(2))
