"""How much of people's reading times does a model's surprisal explain?

The words are those of a table (de Varda, Marelli and Amenta 2023, reading times of Frank et al.
2013 and 2015): each with its context, and the mean times of its readers. The two figures are those
of BabyLM: the gain in R2 when the word's surprisal joins a linear regression, as a share of what
the regression without it leaves.

- Eye tracking: the mean gain over four times (first fixation, first pass, right-bounded, go-past),
  over log frequency, length, place in the sentence, and the products of every two of them.
- Self-paced reading: over these and the previous word's length and surprisal, with all products.
  Where the previous word begins its sentence it has no surprisal in a context: such words are left
  out of this figure.

Notable:
- The official figure is that of the fit's own words. It is above 0 for noise: `noise` says by how
  much on the average. `held_out` predicts each sentence by the fit to all others; noise has a
  little less than 0 there. Gains of several times are averaged in both.
- Intervals are over sentences, by the delete-one jackknife; the figures without each sentence are
  kept, so that the difference of two models on the same words is paired (`Gain.less`) and that of
  several seeds can be taken over seeds and sentences (`Gain.pseudo_values_C`).

Shapes: N words, C sentences, M times.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.left_context import WordNats, word_nats
from lmlab.lm.likelihood import Request
from lmlab.numerics.added_predictor import ClusterSums, share_of_noise, with_products
from lmlab.numerics.jackknife import jackknife_interval, pseudo_values
from lmlab.numerics.random_effects import Interval

EYE_TRACKING = ("RTfirstfix", "RTfirstpass", "RTrightbound", "RTgopast")
SELF_PACED = "self_paced_reading_time"
_FREQUENCY, _LENGTH, _PLACE = "Subtlex_log10", "length", "context_length"
_WORDS = ("item", "word", "sent_id")
_NUMBERS = (_FREQUENCY, _LENGTH, _PLACE, *EYE_TRACKING, SELF_PACED)
_MISSING = ("", "NA", "NaN", "nan")


@dataclass(frozen=True)
class ReadingWords:
    """Words in context with the times that people took for them, in the order of their file."""

    source: str
    contexts: tuple[str, ...]
    words: tuple[str, ...]
    sentences: tuple[str, ...]
    """The name of each word's sentence."""
    numbers: dict[str, np.ndarray]
    """Columns of the file (N) by their names; NaN where a word has no value."""

    def __len__(self) -> int:
        return len(self.words)

    @property
    def previous(self) -> list[tuple[str, str]]:
        """The context of each word's previous word, "" where it begins the sentence, and it."""
        parts = [context.rsplit(maxsplit=1) for context in self.contexts]
        return [("", part[0]) if len(part) == 1 else (part[0], part[1]) for part in parts]


@dataclass(frozen=True)
class Figure:
    """A figure over text with its interval, and what it is without each sentence."""

    interval: Interval
    without_C: np.ndarray
    words_C: np.ndarray
    """Words of each sentence."""

    @property
    def pseudo_values_C(self) -> np.ndarray:
        """What each sentence stands for."""
        return pseudo_values(self.interval.estimate, self.without_C)

    def less(self, other: Figure) -> Interval:
        """Interval of this figure less another's on the same sentences."""
        if self.words_C.tolist() != other.words_C.tolist():
            raise UserError("the two figures are of different words; take the same file for both")
        difference = self.interval.estimate - other.interval.estimate
        return jackknife_interval(difference, self.without_C - other.without_C, self.words_C)


@dataclass(frozen=True)
class Gain:
    """Share of the squared error of the regression without surprisal that surprisal takes away."""

    official: Figure
    """On the words that were fitted."""
    held_out: Figure
    """Each sentence by the fit to all others."""
    noise: float
    """What the official figure is on the average if surprisal is noise."""
    words: int
    left_out: int
    """Words without all that the regression needs."""


@dataclass(frozen=True)
class Reading:
    """Surprisal of words under a model, and what it explains of reading times."""

    model: str
    method: str
    """How the model gave the words their surprisal."""
    surprisal_N: np.ndarray
    """Nats, in the order of the file."""
    previous_N: np.ndarray
    """That of the previous word; NaN where it begins its sentence."""
    truncated: int
    """Words whose context was cut to fit the model."""
    eye_tracking: Gain
    self_paced: Gain


def reading_nats(lm: LanguageModel, words: ReadingWords) -> tuple[WordNats, np.ndarray]:
    """Surprisal of the words, and that of each one's previous word (N), NaN where it begins its
    sentence.

    Raises `UserError` as `lm.left_context.word_nats`.
    """
    previous = words.previous
    asked = [
        *zip(words.contexts, words.words, strict=True),
        *((context, word) for context, word in previous if context),
    ]
    requests = [
        Request(context, f" {word}", f"{words.source}: {word!r} after {context!r}")
        for context, word in asked
    ]
    nats = word_nats(lm, requests)
    previous_N = np.full(len(words), math.nan)
    previous_N[[bool(context) for context, _ in previous]] = nats.nats_N[len(words) :]
    now = replace(nats, nats_N=nats.nats_N[: len(words)], tokens_N=nats.tokens_N[: len(words)])
    return now, previous_N


def reading(lm: LanguageModel, words: ReadingWords) -> Reading:
    """Scores the words, and what their surprisal explains. `UserError` as `reading_nats`."""
    nats, previous_N = reading_nats(lm, words)
    return Reading(
        model=lm.name,
        method=nats.method,
        surprisal_N=nats.nats_N,
        previous_N=previous_N,
        truncated=nats.truncated,
        eye_tracking=eye_tracking_gain(words, nats.nats_N),
        self_paced=self_paced_gain(words, nats.nats_N, previous_N),
    )


def eye_tracking_gain(words: ReadingWords, surprisal_N: np.ndarray) -> Gain:
    """The mean gain over the four eye-tracking times. `UserError` for too few words."""
    baseline = [words.numbers[name] for name in (_FREQUENCY, _LENGTH, _PLACE)]
    return _gain(words, baseline, surprisal_N, EYE_TRACKING)


def self_paced_gain(words: ReadingWords, surprisal_N: np.ndarray, previous_N: np.ndarray) -> Gain:
    """The gain in self-paced reading times. `UserError` for too few words."""
    baseline = [
        *(words.numbers[name] for name in (_FREQUENCY, _LENGTH, _PLACE)),
        np.array([float(len(word)) for _, word in words.previous]),
        previous_N,
    ]
    return _gain(words, baseline, surprisal_N, (SELF_PACED,))


def _gain(
    words: ReadingWords,
    baseline: list[np.ndarray],
    surprisal_N: np.ndarray,
    times: tuple[str, ...],
) -> Gain:
    needed = np.stack([*baseline, surprisal_N, *(words.numbers[name] for name in times)])
    usable_N = np.isfinite(needed).all(0)
    rows = int(usable_N.sum())
    columns = [column_N[usable_N] for column_N in baseline]
    predictors = len(baseline) * (len(baseline) + 1) // 2
    if rows < 4 * predictors:
        raise UserError(
            f"{words.source}: {rows} words have all that a regression on {predictors} predictors "
            f"needs; give at least {4 * predictors}"
        )
    baseline_NP = with_products(columns)
    sums = ClusterSums(
        np.column_stack([baseline_NP, surprisal_N[usable_N]]),
        np.column_stack([words.numbers[name][usable_N] for name in times]),
        np.array(words.sentences)[usable_N],
    )

    def official(without: int | None = None) -> float:
        before_M, after_M = (sums.in_sample(k, without) for k in (predictors, predictors + 1))
        return float((1 - after_M / before_M).mean())

    def held_out(without: int | None = None) -> float:
        before_CM, after_CM = (sums.held_out(k, without) for k in (predictors, predictors + 1))
        return float((1 - after_CM.sum(0) / before_CM.sum(0)).mean())

    return Gain(
        official=_figure(official, sums.sizes_C),
        held_out=_figure(held_out, sums.sizes_C),
        noise=share_of_noise(rows, predictors),
        words=rows,
        left_out=len(words) - rows,
    )


def _figure(of: Callable[[int | None], float], words_C: np.ndarray) -> Figure:
    without_C = np.array([of(sentence) for sentence in range(len(words_C))])
    return Figure(jackknife_interval(of(None), without_C, words_C), without_C, words_C)


def read_reading_times(path: Path) -> ReadingWords:
    """The words of a csv file with the columns `item` (the context), `word`, `sent_id`,
    `Subtlex_log10`, `length`, `context_length`, the four eye-tracking times and
    `self_paced_reading_time`; others that are numbers throughout are kept too. A number may be
    missing (nothing, or NA).

    Raises `UserError`, naming file and line, for what is missing or no number.
    """
    rows = read_table(path, (*_WORDS, *_NUMBERS))
    for line, row in rows:
        if empty := [name for name in _WORDS if not (row[name] or "").strip()]:
            raise UserError(f"{path}, line {line}: '{empty[0]}' is empty; give it, or remove it")
    return ReadingWords(
        source=str(path),
        contexts=tuple(row["item"].strip() for _, row in rows),
        words=tuple(row["word"].strip() for _, row in rows),
        sentences=tuple(row["sent_id"] for _, row in rows),
        numbers={name: number_column(path, rows, name) for name in _NUMBERS},
    )


def read_table(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a csv file and the lines that they end at.

    Raises `UserError` for what cannot be read, is no UTF-8, has no row, or lacks a column.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        names = reader.fieldnames or ()
        if missing := [name for name in columns if name not in names]:
            raise UserError(
                f"{path}: no column '{missing[0]}' (found: {', '.join(names) or 'none'})"
            )
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num}: not {len(names)} values, as the first line "
                    "has names"
                )
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: no csv: {error}") from error
    if not rows:
        raise UserError(f"{path}: no row in it")
    return rows


def number_column(path: Path, rows: list[tuple[int, dict[str, str]]], name: str) -> np.ndarray:
    """A column (N) as numbers, NaN where there is none. `UserError` for what is no number."""
    values = []
    for line, row in rows:
        text = row[name].strip()
        try:
            value = math.nan if text in _MISSING else float(text)
        except ValueError as error:
            raise UserError(f"{path}, line {line}: '{name}' {text!r} is no number") from error
        if math.isinf(value):
            raise UserError(f"{path}, line {line}: '{name}' is not finite")
        values.append(value)
    return np.array(values)
