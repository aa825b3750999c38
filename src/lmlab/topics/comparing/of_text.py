"""Kinds of models on the same text: their losses, and which documents and tokens set them apart.

Notable:
- Models of one tokenizer score the same windows, and are compared in nats per token. Models of
  several score the same documents, each in windows of its own tokens, and are compared in bits per
  byte of the text.
- Text that is given as files is a token store for the time of the comparison, one a tokenizer; the
  text of a store is spelt out for models of other tokenizers.
- The parts of a difference (documents; classes of token, tenths of frequency and positions, where
  there is one tokenizer) are of the best kind and each other one. What they contribute adds up to
  the whole difference.
- A position is counted from the left of the window for all models, whatever their order, so that
  the same tokens are compared.

Shapes: S runs, C clusters, T tokens of the text, M windows, V vocabulary, P parts of one way to
divide.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmlab.data.documents import Document
from lmlab.data.order import reading_order
from lmlab.data.store import Split, TokenStore
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.unigram import token_counts
from lmlab.data.windows import EvaluationWindows
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.numerics.frequency import DECILES, decile_name, occurrence_deciles
from lmlab.numerics.random_effects import Interval, two_way_difference
from lmlab.objectives.evaluate import can_pad, evaluation_batch, token_nats
from lmlab.progress import Bar, track
from lmlab.topics.comparing.ranking import Pair, Ranking, ranked
from lmlab.topics.scoring.given_text import read_text, text_split
from lmlab.topics.towers.token_classes import CLASSES, token_classes

Kinds = Mapping[str, Sequence[LanguageModel]]
"""The runs of each kind, by its name."""

NATS, BITS = "nats per token", "bits per byte"
_TYPES = 12  # that are shown of each side


@dataclass(frozen=True)
class KindOnText:
    """What is known of a kind beside its place."""

    name: str
    models: tuple[str, ...]
    reading: str
    """Its order; of a masked model that its losses are pseudo-likelihoods."""
    head: str
    conditions: str
    """What each token is scored from."""
    nats_per_token: float
    """Of its own tokens."""
    bits_per_byte: float | None
    """None where only a sample was scored."""


@dataclass(frozen=True)
class PartOfText:
    """What a part of the text has of a difference, worse less better."""

    by: str
    """"document", "class", "frequency" or "position"."""
    name: str
    size: int
    """In tokens; in bytes where tokenizers differ."""
    difference: Interval
    """In the unit of the ranking, in this part alone."""
    contribution: float
    """To the whole difference, in its unit."""


@dataclass(frozen=True)
class TypeOfToken:
    """A type of token and what it has of a difference, worse less better."""

    text: str
    count: int
    difference: float
    """Nats per token of this type."""
    contribution: float
    """To the whole difference, nats per token of the text."""


@dataclass(frozen=True)
class Divided:
    """Where the best kind is ahead of another one."""

    better: str
    worse: str
    parts: tuple[PartOfText, ...]
    types: tuple[TypeOfToken, ...]
    """That contribute most to the lead, and most against it."""

    def by(self, what: str) -> list[PartOfText]:
        """The parts of one way to divide the text."""
        return [part for part in self.parts if part.by == what]


@dataclass(frozen=True)
class ComparedOnText:
    """Kinds of models on one text."""

    text: str
    split: str
    """Of a store; empty of files."""
    context: int
    tokenizers: int
    """How many different ones; above 1 the unit is bits per byte."""
    tokens: int
    """Scored; of the first kind's tokenizer."""
    text_bytes: int
    """UTF-8, of the whole text."""
    documents: int
    cluster_unit: str
    """What a cluster is; where tokenizers differ, a document."""
    whole: bool
    """Whether all of the text was scored, no sample."""
    counted_in: str
    """Where the frequencies of tokens are from."""
    kinds: tuple[KindOnText, ...]
    """As they were given."""
    ranking: Ranking
    divided: tuple[Divided, ...]
    notes: tuple[str, ...]


def compare_on_text(
    kinds: Kinds,
    *,
    text: Sequence[str] = (),
    separator: str | None = None,
    store: TokenStore | None = None,
    split: str = "validation",
    context: int | None = None,
    max_windows: int | None = None,
    batch: int | None = None,
) -> ComparedOnText:
    """Compares kinds of models on files of text, or on a split of a store.

    `context` is the window of all of them, in their own tokens (default: the longest that all take,
    at most 1024).

    Raises `UserError` for text that cannot be read, a context that does not fit, runs of one kind
    that are no kind, a model that gives tokens no probability, and a sample of windows for models
    of several tokenizers.
    """
    models = [lm for runs in kinds.values() for lm in runs]
    notes = [note for name, runs in kinds.items() for note in _check_kind(name, runs)]
    takes = {lm.name: lm.window(context) for lm in models}
    window = context or min(takes.values())
    if max(takes.values()) > window:
        notes.append(
            f"windows have {window} tokens, the longest that all take; with longer ones "
            + ", ".join(f"{n} ({most})" for n, most in takes.items() if most > window)
            + " may be better"
        )
    tokenizers = {lm.tokenizer.fingerprint: lm.tokenizer for lm in models}
    if len(tokenizers) > 1 and max_windows is not None:
        raise UserError(
            "`windows`: these models have different tokenizers, and samples of their windows are "
            "not the same text; leave it out"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        splits = _splits(tokenizers, Path(folder), text, separator, store, split)
        windows = {
            name: [lm.windows(splits[lm.tokenizer.fingerprint].store,
                              splits[lm.tokenizer.fingerprint].name,
                              context=window, max_windows=max_windows) for lm in runs]
            for name, runs in kinds.items()
        }  # fmt: skip
        total = sum(float(w.length_M.sum()) for each in windows.values() for w in each)
        with track("scoring", total, "tokens") as bar:
            nats = {
                name: [
                    _text_nats(lm, w, batch, bar) for lm, w in zip(runs, windows[name], strict=True)
                ]
                for name, runs in kinds.items()
            }
        first = next(iter(splits.values()))
        whole = max_windows is None
        described = tuple(
            _described(name, runs, nats[name], _text_bytes(windows[name][0], whole=whole))
            for name, runs in kinds.items()
        )
        notes += dict.fromkeys(s.loss_note for s in splits.values() if s.loss_note)
        notes += _not_likelihoods(described)
        some_windows = windows[next(iter(kinds))][0]
        if len(tokenizers) == 1:
            counted_in = "the training split" if store is not None else "the scored text itself"
            ranking, divided = _by_token(nats, some_windows, first, counted=store is not None)
        else:
            counted_in = ""
            ranking, divided = _by_document(nats, windows, splits, kinds)
        clusters = some_windows.clusters
        return ComparedOnText(
            text=str(store.path) if store is not None else ", ".join(text),
            split=split if store is not None else "",
            context=window,
            tokenizers=len(tokenizers),
            tokens=int(some_windows.length_M.sum()),
            text_bytes=first.text_bytes,
            documents=clusters.documents,
            cluster_unit=some_windows.cluster_unit if len(tokenizers) == 1 else "document",
            whole=whole,
            counted_in=counted_in,
            kinds=described,
            ranking=ranking,
            divided=divided,
            notes=tuple(notes),
        )


def _check_kind(name: str, runs: Sequence[LanguageModel]) -> Iterator[str]:
    """What must be said of the runs of one kind. `UserError` where they are no kind."""
    ways = {(reading_of(lm), lm.tokenizer.fingerprint) for lm in runs}
    if len(ways) > 1:
        raise UserError(
            f"the runs of {name} are no kind: they differ in order, objective or tokenizer "
            f"({', '.join(reading_of(lm) for lm in runs)}); compare them as kinds of their own"
        )
    trained = [{**lm.record["training"], "step": lm.record["step"]} for lm in runs if lm.record]
    seeds = [values.get("seed") for values in trained]
    keys = {key for values in trained for key in values} - {"seed", "checkpoints"}
    differing = sorted(k for k in keys if len({str(values.get(k)) for values in trained}) > 1)
    if differing:
        yield (
            f"the runs of {name} differ in more than their seed ({', '.join(differing)}): its "
            "interval over runs is over that too"
        )
    elif len(set(seeds)) < len(seeds):
        raise UserError(
            f"two runs of {name} have the same seed and the same training, so they are one run; "
            "train another seed (lmlab train ... --seed N)"
        )


def reading_of(lm: LanguageModel) -> str:
    """How a model reads: its order, or what its scores are if they are no likelihoods."""
    reading = lm.objective.reading
    if reading.continuation == "log-likelihood":
        return lm.order
    return f"{reading.name}, pseudo-likelihood"


def _not_likelihoods(kinds: Sequence[KindOnText]) -> list[str]:
    pseudo = [kind.name for kind in kinds if "pseudo" in kind.reading]
    if not pseudo or len(pseudo) == len(kinds):
        return []
    return [
        f"{', '.join(pseudo)}: pseudo-likelihood, each token given those on both sides of it; that "
        "is an easier question than a causal model's, and no likelihood of the text"
    ]


def _splits(
    tokenizers: Mapping[str, TextTokenizer],
    folder: Path,
    text: Sequence[str],
    separator: str | None,
    store: TokenStore | None,
    split: str,
) -> dict[str, Split]:
    """The text as ids of each tokenizer, by its fingerprint."""
    if store is not None and {*tokenizers} == {store.manifest["tokenizer_fingerprint"]}:
        return {fingerprint: store.split(split) for fingerprint in tokenizers}
    if store is None:
        documents = read_text(text, separator)
    else:
        source = store.split(split)
        documents = [Document(n, t) for n, t in zip(source.names, source.texts(), strict=True)]
    return {
        fingerprint: text_split(folder / fingerprint[:16], tokenizer, documents)
        for fingerprint, tokenizer in tokenizers.items()
    }


def _text_nats(
    lm: LanguageModel, windows: EvaluationWindows, batch: int | None, bar: Bar
) -> NDArray[np.float64]:
    """Nats (T) of each token of the windows, in the order of the text."""
    start_M = np.cumsum(windows.length_M) - windows.length_M
    nats_T = np.zeros(int(windows.length_M.sum()))
    batches = token_nats(
        lm.objective, lm.backbone, windows,
        batch=batch or evaluation_batch(windows.context, lm.model),
        padded=can_pad(lm.backbone, lm.objective, windows), bar=bar,
    )  # fmt: skip
    for rows, ids, nats_BT in batches:
        for row, window, read_T in zip(rows, ids, nats_BT, strict=True):
            n = len(window)
            nats_T[start_M[row] + reading_order(lm.order, n)] = read_T[:n]
    if not np.isfinite(nats_T).all():
        raise UserError(f"{lm.name}: a token of this text has probability 0 or none at all")
    return nats_T


def _text_bytes(windows: EvaluationWindows, *, whole: bool) -> int | None:
    """UTF-8 bytes of the text of the windows; None for a sample whose tokenizer does not tell."""
    if whole:
        return windows.split.text_bytes
    return None if windows.text_bytes_M is None else int(windows.text_bytes_M.sum())


def _described(
    name: str, runs: Sequence[LanguageModel], nats: Sequence[np.ndarray], text_bytes: int | None
) -> KindOnText:
    total = float(np.mean([nats_T.sum() for nats_T in nats]))
    return KindOnText(
        name=name,
        models=tuple(lm.name for lm in runs),
        reading=reading_of(runs[0]),
        head=runs[0].head,
        conditions=runs[0].conditions,
        nats_per_token=total / len(nats[0]),
        bits_per_byte=None if text_bytes is None else total / math.log(2) / text_bytes,
    )


Nats = Mapping[str, Sequence[NDArray[np.float64]]]
"""Of each kind, the nats (T) of each run."""


def _by_document(
    nats: Nats,
    windows: Mapping[str, Sequence[EvaluationWindows]],
    splits: Mapping[str, Split],
    kinds: Kinds,
) -> tuple[Ranking, tuple[Divided, ...]]:
    """Kinds of several tokenizers, in bits per byte of each document."""
    first = next(iter(splits.values()))
    bytes_C = first.documents_M3[:, 2].astype(np.float64)
    sums = {}
    for name, runs in nats.items():
        w = windows[name][0]
        document_T = np.repeat(w.clusters.document_N, w.length_M)
        sums[name] = _summed(document_T, runs, len(bytes_C))
    bits = {name: rows / math.log(2) for name, rows in sums.items()}
    number_C = np.arange(len(bytes_C))
    table = _Table(bits, bytes_C, number_C)
    ranking = table.ranking(BITS)
    divided = tuple(
        Divided(pair.better, pair.worse, tuple(_documents(table, pair, first.names)), ())
        for pair in ranking.pairs[: len(kinds) - 1]
    )
    return ranking, divided


@dataclass(frozen=True)
class _Table:
    """Sums (S, C) of each kind over the clusters of a text or of a part of it, and their sizes."""

    sums: Mapping[str, NDArray[np.float64]]
    size_C: NDArray[np.float64]
    documents_C: NDArray[np.int64]

    def values(self, name: str) -> NDArray[np.float64]:
        """Per unit of size, 0 where there is nothing."""
        return self.sums[name] / np.where(self.size_C > 0, self.size_C, 1.0)

    def ranking(self, measure: str) -> Ranking:
        return ranked(
            {name: self.values(name) for name in self.sums}, measure, lower_is_better=True,
            weights_C=self.size_C, documents_C=self.documents_C,
        )  # fmt: skip

    def difference(self, better: str, worse: str) -> Interval:
        return two_way_difference(
            self.values(worse), self.values(better),
            weights_C=self.size_C, documents_C=self.documents_C,
        )  # fmt: skip

    def part(self, better: str, worse: str, by: str, name: str, whole: float) -> PartOfText:
        """This part of a text of size `whole`."""
        lead = self.sums[worse].mean(0).sum() - self.sums[better].mean(0).sum()
        return PartOfText(
            by, name, int(self.size_C.sum()), self.difference(better, worse), float(lead / whole)
        )

    def chosen(self, inside_C: NDArray[np.bool_]) -> _Table:
        """Some of the clusters."""
        sums = {name: rows[:, inside_C] for name, rows in self.sums.items()}
        return _Table(sums, self.size_C[inside_C], self.documents_C[inside_C])


def _documents(table: _Table, pair: Pair, names: Sequence[str]) -> Iterator[PartOfText]:
    whole = float(table.size_C.sum())
    for number in np.unique(table.documents_C):
        inside = table.chosen(table.documents_C == number)
        if inside.size_C.sum() > 0:
            yield inside.part(pair.better, pair.worse, "document", names[int(number)], whole)


def _by_token(
    nats: Nats, windows: EvaluationWindows, split: Split, *, counted: bool
) -> tuple[Ranking, tuple[Divided, ...]]:
    """Kinds of one tokenizer, in nats per token; `counted`: the store has a training split."""
    tokenizer, vocabulary = split.store.tokenizer, split.store.vocabulary
    ids_T = np.concatenate([windows.ids(row) for row in range(len(windows))])
    labels = np.unique(windows.cluster_M, return_inverse=True)[1]
    cluster_T = np.repeat(labels, windows.length_M)
    documents_C = windows.clusters.documents_C
    position_T = np.concatenate([np.arange(n) for n in windows.length_M])
    seen_V = np.bincount(ids_T, minlength=vocabulary)
    counts_V = token_counts(split.store.split("train"), vocabulary) if counted else seen_V
    if split.store.end_of_text and counted:
        counts_V[split.store.tokenizer.end_of_text_id] = 0
    octave_T = np.frexp((position_T + 1).astype(np.float64))[1] - 1
    deciles = tuple(decile_name(n) for n in range(DECILES + 1))
    octaves = _octave_names(int(position_T.max()) + 1)
    ways: dict[str, tuple[NDArray[np.int64], Sequence[str]]] = {
        "class": (token_classes(tokenizer, vocabulary)[ids_T], CLASSES),
        "frequency": (occurrence_deciles(counts_V)[ids_T], deciles),
        "position": (octave_T, octaves),
    }
    clusters = len(documents_C)

    def table(label_T: NDArray[np.int64], labels: int) -> list[_Table]:
        """The text divided by a label of each token."""
        where_T, size = label_T * clusters + cluster_T, labels * clusters
        sums = {name: _summed(where_T, runs, size) for name, runs in nats.items()}
        count = np.bincount(where_T, minlength=size).astype(np.float64)
        parts = (slice(k * clusters, (k + 1) * clusters) for k in range(labels))
        return [
            _Table({n: rows[:, part] for n, rows in sums.items()}, count[part], documents_C)
            for part in parts
        ]

    (whole,) = table(np.zeros_like(cluster_T), 1)
    divisions = {by: table(label_T, len(names)) for by, (label_T, names) in ways.items()}
    ranking = whole.ranking(NATS)
    total = float(len(ids_T))
    divided = []
    for pair in ranking.pairs[: len(nats) - 1]:
        parts = list(_documents(whole, pair, split.names))
        for by, tables in divisions.items():
            parts += [
                each.part(pair.better, pair.worse, by, name, total)
                for name, each in zip(ways[by][1], tables, strict=True)
                if each.size_C.sum() > 0
            ]
        lead_T = np.mean(nats[pair.worse], axis=0) - np.mean(nats[pair.better], axis=0)
        (lead_V,) = _summed(ids_T, [lead_T], vocabulary)
        types = _types(tokenizer, lead_V, seen_V)
        divided.append(Divided(pair.better, pair.worse, tuple(parts), types))
    return ranking, tuple(divided)


def _summed(
    label_T: NDArray[np.int64], runs: Sequence[NDArray[np.float64]], labels: int
) -> NDArray[np.float64]:
    """Sums (S, labels) over the tokens of each label."""
    return np.array([np.bincount(label_T, nats_T, labels) for nats_T in runs], dtype=np.float64)


def _octave_names(longest: int) -> tuple[str, ...]:
    """1, 2–3, 4–7 and so on, up to a position."""
    bounds = [(1 << n, min((2 << n) - 1, longest)) for n in range(longest.bit_length())]
    return tuple(str(first) if first == last else f"{first}–{last}" for first, last in bounds)


def _types(
    tokenizer: TextTokenizer, lead_V: NDArray[np.float64], seen_V: NDArray[np.int64]
) -> tuple[TypeOfToken, ...]:
    """The types that contribute most to a lead, and those that contribute most against it."""
    order = np.argsort(-lead_V, kind="stable")
    chosen = [*order[:_TYPES][lead_V[order[:_TYPES]] > 0]]
    chosen += [v for v in order[-_TYPES:] if lead_V[v] < 0]
    return tuple(
        TypeOfToken(
            tokenizer.token(int(v)), int(seen_V[v]), float(lead_V[v] / seen_V[v]),
            float(lead_V[v] / seen_V.sum()),
        )
        for v in chosen
    )  # fmt: skip
