"""Surprisal: minus the logarithm of the probability of each word or token of a text in context.

How a word's probability follows from those of its tokens stands in `words`; how long texts and
masked models are read, in `lm.token_nats`.

Notable:
- Two models are compared by words wherever both can tell them apart, whatever their tokenizers.
- What a word has beyond its tokens, and what is left at the end of the text, is kept beside it: the
  words' nats and the end's are those of the text's tokens.

Shapes: T tokens of a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lmlab.data.order import BACKWARD
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import check_reads_text, reading_notes
from lmlab.lm.token_nats import TokenNats, token_nats
from lmlab.results import Result
from lmlab.topics.surprisal.texts import Text
from lmlab.topics.surprisal.words import (
    Edges,
    Marks,
    Span,
    edge_term,
    edges_of,
    tokens_of_words,
    word_spans,
)

UnitName = Literal["word", "token"]
Measure = Literal["nats", "bits"]


@dataclass(frozen=True)
class Unit:
    """A word or token; the tuples have a value for each model."""

    text: str
    start: int
    """Its characters in the text are [start, stop)."""
    stop: int
    region: int
    """Counted from 1; 0 where the text has no regions."""
    nats: tuple[float, ...]
    """Minus the logarithm of its probability."""
    uncorrected: tuple[float, ...]
    """The nats of its tokens alone."""
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Total:
    """A whole text under one model."""

    nats: float
    """Of its tokens."""
    tokens: int
    start: float
    """Of the nats of the tokens, what words do not have before the first of them: always 0, since
    at the beginning of a text everything begins a word."""
    end: float
    """And what is behind the last: blanks that end the text, and log B where the last word ends.
    The nats of the tokens are those of the words plus `start` and `end`."""
    unmarked: int
    """Edges of words that the tokens do not show, so that nothing could be left over there."""


@dataclass(frozen=True)
class TextSurprisal:
    """One text."""

    id: str
    text: str
    units: tuple[Unit, ...]
    totals: tuple[Total, ...]
    """One for each model."""


@dataclass(frozen=True)
class ReadBy:
    """A model and how it read."""

    name: str
    order: str
    method: str
    context: int
    overlap: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Surprisal(Result, kind="surprisal"):
    """Surprisal of words or tokens; stored in nats, shown in `measure`."""

    models: tuple[ReadBy, ...]
    """One, or the two that are compared."""
    unit: UnitName
    measure: Measure
    """What tables and page show."""
    marks: Marks
    texts: tuple[TextSurprisal, ...]
    """In the order in which they were given, each with its words or tokens."""

    @property
    def scale(self) -> float:
        """What a nat is in the measure that is shown."""
        return 1.0 if self.measure == "nats" else 1 / math.log(2)


def surprisal(
    lms: Sequence[LanguageModel],
    texts: Sequence[Text],
    *,
    unit: UnitName = "word",
    measure: Measure = "nats",
    marks: Marks = "attached",
    context: int | None = None,
    overlap: int | None = None,
) -> Surprisal:
    """Surprisal of each word or token of the texts under one model, or two.

    `context` and `overlap` are the tokens of a window, and of those that the next one reads again
    (default: half).

    Raises `UserError` for a model that gives texts no likelihood, a window that does not fit,
    tokens of two tokenizers, and regions that begin within a word.
    """
    if not texts:
        raise UserError("there is no text to read")
    for lm in lms:
        check_reads_text(lm)
    if unit == "token" and len({lm.tokenizer.fingerprint for lm in lms}) > 1:
        raise UserError(
            f"{' and '.join(lm.name for lm in lms)} have different tokenizers; compare them by "
            "words: `unit` word"
        )
    read, about = [], []
    for lm in lms:
        window = lm.window(context)
        again = window // 2 if overlap is None else overlap
        read.append(_read(lm, texts, marks, window, again))
        about.append(_about(lm, texts, window, again))
    results = [
        _of_text(text, [each[number] for each in read], unit) for number, text in enumerate(texts)
    ]
    return Surprisal(tuple(about), unit, measure, marks, tuple(results))


def _about(lm: LanguageModel, texts: Sequence[Text], context: int, overlap: int) -> ReadBy:
    method = "log-likelihood"
    if not lm.objective.reading.autoregressive:
        method = "pseudo-log-likelihood, the rest of each word masked"
    notes = reading_notes(lm, [text.text for text in texts])
    return ReadBy(lm.name, lm.order, method, context, overlap, notes)


@dataclass(frozen=True)
class _Read:
    """A text as one model read it."""

    ids_T: np.ndarray
    spans_T2: np.ndarray
    words: list[Span]
    nats: TokenNats
    edges: Edges | None
    """None for masked models, whose words have no edges."""
    backward: bool

    def units(self, spans: Sequence[Span]) -> Iterator[tuple[float, float]]:
        """Nats of runs of tokens as words, and of the tokens alone."""
        for span in spans:
            alone = self.between(span.first, span.last)
            yield alone + self.edge(span.first) - self.edge(span.last), alone

    def between(self, first: int, last: int) -> float:
        """Nats of the tokens [first, last) of the text."""
        if self.backward:
            first, last = len(self.ids_T) - last, len(self.ids_T) - first
        return float(self.nats.nats_T[first:last].sum())

    def edge(self, token: int) -> float:
        return self._edge(token)[0]

    def _edge(self, token: int) -> tuple[float, bool]:
        """Signed so that a word has that of its first token minus that behind its last."""
        if self.edges is None:
            return 0.0, True
        ids_T = self.ids_T[::-1] if self.backward else self.ids_T
        at = len(ids_T) - token if self.backward else token
        term, shown = edge_term(self.edges, ids_T, self.nats.log_mass_T, at)
        return (-term if self.backward else term), shown

    def total(self) -> Total:
        first, last = self.words[0].first, self.words[-1].last
        length = len(self.ids_T)
        before, behind = self.between(0, first), self.between(last, length)
        start, end = 0.0 - self.edge(first), self.edge(last)
        if self.backward:  # what is read last is the beginning of the text
            start, end = end, start
        inner = [span.first for span in self.words[1:]]
        return Total(
            nats=self.between(0, length),
            tokens=length,
            start=start,
            end=before + behind + end,
            unmarked=sum(not self._edge(token)[1] for token in inner),
        )


def _read(
    lm: LanguageModel, texts: Sequence[Text], marks: Marks, context: int, overlap: int
) -> list[_Read]:
    backward = lm.order == BACKWARD
    edges = edges_of(lm.tokenizer, lm.order, marks)
    encoded = lm.tokenizer.encode_with_spans([text.text for text in texts])
    words: list[list[Span]] = []
    for text, (_, spans) in zip(texts, encoded, strict=True):
        found = tokens_of_words(text.text, word_spans(text.text, marks), spans, backward=backward)
        if not found:
            raise UserError(f"{text.id}: {lm.name} has no token for any of it; leave it out")
        words.append(found)
    numbers = []
    for (ids, _), spans in zip(encoded, words, strict=True):
        number_T = -1 - np.arange(len(ids))  # blanks of no word are each alone
        for number, span in enumerate(spans):
            number_T[span.first : span.last] = number
        numbers.append(number_T)
    nats = token_nats(
        lm, [ids for ids, _ in encoded], set_ids=edges.set_ids, words=numbers, context=context,
        overlap=overlap,
    )  # fmt: skip
    causal = lm.objective.reading.autoregressive
    return [
        _Read(ids, spans, own, each, edges if causal else None, backward)
        for (ids, spans), own, each in zip(encoded, words, nats, strict=True)
    ]


def _of_text(text: Text, read: Sequence[_Read], unit: UnitName) -> TextSurprisal:
    if unit == "token":
        spans_by_model = [_token_spans(text.text, each.spans_T2) for each in read]
        values = [[(n, n) for n in (each.between(s.first, s.last) for s in spans)]
                  for each, spans in zip(read, spans_by_model, strict=True)]  # fmt: skip
    else:
        spans_by_model = _common([each.words for each in read])
        values = [list(each.units(s)) for each, s in zip(read, spans_by_model, strict=True)]
    units = []
    for number, span in enumerate(spans_by_model[0]):
        region = _region(text, span)
        units.append(
            Unit(
                text.text[span.start : span.stop],
                span.start,
                span.stop,
                region,
                tuple(of_model[number][0] for of_model in values),
                tuple(of_model[number][1] for of_model in values),
                tuple(spans[number].last - spans[number].first for spans in spans_by_model),
            )
        )
    totals = tuple(each.total() for each in read)
    return TextSurprisal(text.id, text.text, tuple(units), totals)


def _token_spans(text: str, spans_T2: np.ndarray) -> list[Span]:
    """The characters of tokens, each with the blanks before it that no other token has."""
    spans, at = [], 0
    for token, (start, stop) in enumerate(spans_T2.tolist()):
        begin = at if at < start and text[at:start].isspace() else start
        spans.append(Span(begin, stop, token, token + 1))
        at = max(at, stop)
    return spans


def _common(words: Sequence[Sequence[Span]]) -> list[list[Span]]:
    """The words of several models, those together that one of them cannot tell apart."""
    shared = set.intersection(*({span.start for span in spans} for spans in words))
    result = []
    for spans in words:
        joined: list[Span] = []
        for span in spans:
            if span.start in shared or not joined:
                joined.append(span)
            else:
                before = joined[-1]
                first, last = min(before.first, span.first), max(before.last, span.last)
                joined[-1] = Span(before.start, span.stop, first, last)
        result.append(joined)
    return result


def _region(text: Text, span: Span) -> int:
    """The region that a unit is in. `UserError` where one begins inside of it."""
    if not text.cuts:
        return 0
    inside = [cut for cut in text.cuts if span.start < cut < span.stop]
    if inside and not text.text[span.start : inside[0]].isspace():
        raise UserError(
            f"{text.id}: a region begins within {text.text[span.start : span.stop]!r}; let regions "
            "begin with words (`marks` apart makes marks words of their own)"
        )
    return 1 + sum(cut <= span.start or cut in inside for cut in text.cuts)
