"""What does the R2 between pretrained models depend on: rows, pooling, length of text, training?

    lmlab prepare 'novels/*.txt' --tokenizer.kind pretrained --tokenizer.name GPT2
        --split.test-documents 12 --split.validation-documents 4 --out store
    python benchmarks/decomposition_reading.py store MODEL MODEL ... --lab lab [--report]

Zhang (EMNLP 2022) reports that twelve pretrained models are 91 % linear in each other. To read such
a figure, each model is fitted to each other one here:

- in sample and on held-out text, at several numbers of rows per dimension of the basis, with the
  published ridge; and with the basis cut to its leading principal components, where few rows reach
  the published number of rows per dimension;
- at four poolings, and three lengths of the same texts (a shorter one is the beginning of a longer
  one);
- beside what length alone explains, what permuted rows explain, and what untrained copies (the same
  architecture and tokenizer, fresh weights of one seed) have in each other.

Notable:
- One pass gives all poolings; a causal model's pass gives all beginnings of the text too. A
  bidirectional model reads each length by itself.
- Texts end with a whole word, so that every tokenizer cuts a beginning as it cuts the whole.
- The first `--paired` training texts are read at all lengths; the others at `--length`. Untrained
  copies read the first ones, up to that length. Texts longer than that are read last.
- Rows are kept in the lab folder in parts: stopped, it goes on with the same command. `--report`
  computes from the rows that are there.
- Intervals are over test documents, the fit as it is (delete-one jackknife, docs/decomposition.md);
  in-sample ones over training documents.

Shapes: N texts, D width of a model, T positions, K components.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any, cast, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import lmlab  # noqa: F401 - before torch

# isort: split
import torch
from scipy.special import stdtr, stdtrit
from transformers import AutoModel

from lmlab.data.pieces import pieces_of
from lmlab.data.store import TokenStore
from lmlab.lm.encoder import Encoded, Encoder, open_encoder
from lmlab.models.behaviour import behaviour
from lmlab.numerics.random_effects import Interval
from lmlab.numerics.scatter import Scatter
from lmlab.numerics.verdicts import holm
from lmlab.objectives.evaluate import batch_tokens
from lmlab.progress import say, track
from lmlab.topics.decomposition.decomposition import Decomposition, decompose
from lmlab.topics.decomposition.embedding import batches, hidden_states, pooled
from lmlab.topics.decomposition.intervals import DocumentSums, r2_difference, r2_interval
from lmlab.topics.decomposition.of_models import labels, solvable_ridges
from lmlab.topics.decomposition.options import EmbeddingConfig, Pooling
from lmlab.topics.decomposition.ridge import permuted_rows, ridge_path

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
PUBLISHED_RIDGE = 1e-6
PART = 64  # texts that are read, and kept, at a time
ORDERS = 4  # of the training rows, of which the first are taken
ROWS_PER_DIMENSION = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 15.0, 18.0, 30.0)
COMPONENTS = 64
UNTRAINED = "untrained "
# Zhang 2022: tokens of a text, training texts, R2 in training, R2 on test; 11 bases of width 768
PUBLISHED = (
    (16, 20_000, 0.865, 0.567), (16, 128_000, 0.779, 0.743), (32, 128_000, 0.826, 0.793),
    (64, 128_000, 0.880, 0.854), (128, 128_000, 0.911, 0.890), (256, 128_000, 0.932, 0.915),
    (512, 128_000, 0.945, 0.930),
)  # fmt: skip
PUBLISHED_FEATURES = 11 * 768

Rows = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Texts:
    """Texts at every length, with their split and document, in a random order within each split."""

    at: dict[int, list[str]]
    """By length in tokens of the store: all texts cut to it."""
    split_N: np.ndarray
    document_N: np.ndarray
    paired: int
    """So many training texts are read at all lengths."""

    @cached_property
    def train(self) -> np.ndarray:
        return np.flatnonzero(self.split_N == "train")

    def held_out(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.split_N == split)

    @property
    def of_all_lengths(self) -> np.ndarray:
        """Numbers of the texts that are read at all lengths."""
        return np.concatenate(
            [self.held_out("test"), self.held_out("validation"), self.train[: self.paired]]
        )

    @property
    def more(self) -> np.ndarray:
        return self.train[self.paired :]


def texts_of(store: TokenStore, lengths: Sequence[int], counts: Mapping[str, int], paired: int):
    """Whole pieces of each split in a random order, each also cut to the shorter lengths."""
    at: dict[int, list[str]] = {length: [] for length in lengths}
    splits, documents = [], []
    for split, most in counts.items():
        # more than are needed, since the ends of documents are shorter and left out
        pieces = pieces_of(store.split(split), max(lengths), most=most + most // 8)
        encoded = store.tokenizer.encode_with_spans(pieces.texts)
        whole_N = np.array([len(spans_n2) >= 0.9 * max(lengths) for _, spans_n2 in encoded])
        order_N = np.random.default_rng(0).permutation(np.flatnonzero(whole_N))
        for i in order_N[:most]:
            text, spans_n2 = pieces.texts[i], encoded[i][1]
            for length in lengths:
                at[length].append(_whole_words(text, int(spans_n2[:length][-1, 1])))
            splits.append(split)
            documents.append(f"{split} {pieces.clusters.document_N[i]}")
    numbers_N = np.unique(documents, return_inverse=True)[1]
    return Texts(at, np.array(splits), numbers_N, paired)


def _whole_words(text: str, stop: int) -> str:
    """The text up to `stop`, without a word that goes on there, unless it is the only one."""
    space = stop
    if stop == len(text) or not text[stop].isspace():  # a piece may end within a word
        space = max((i for i in range(stop) if text[i].isspace()), default=stop)
    return text[:space].rstrip() or text[:stop]


def untrained(encoder: Encoder) -> Encoder:
    """A copy with fresh weights, as transformers initialises this configuration."""
    torch.manual_seed(0)
    body = AutoModel.from_config(encoder.body.config).float().eval()
    return replace(encoder, name=f"{UNTRAINED}{encoder.name}", body=body)


# Reading


def readings(encoded: Mapping[int, Encoded], *, causal: bool) -> list[tuple[Encoded, list[int]]]:
    """What has to be read of one text so that its states at all lengths are known: each with the
    lengths that it serves. A causal model's states of a beginning do not depend on what follows."""
    whole = encoded[max(encoded)]
    shared = [
        length
        for length, part in encoded.items()
        if part is whole or (causal and np.array_equal(part.ids_T, whole.ids_T[: len(part.ids_T)]))
    ]
    rest = [(part, [length]) for length, part in encoded.items() if length not in shared]
    return [(whole, shared), *rest]


@torch.no_grad()
def rows_of_part(
    encoder: Encoder, encoded: Mapping[int, Sequence[Encoded]], *, causal: bool
) -> dict[str, np.ndarray]:
    """Rows (N, D) of texts at every length and pooling, `published` not yet divided by the padded
    length; and how many positions each text has."""
    longest = max(len(piece.ids_T) for pieces in encoded.values() for piece in pieces)
    if encoder.limit is not None and longest > encoder.limit:
        raise SystemExit(f"{encoder.name} reads {encoder.limit} positions; a text has {longest}")
    count = len(next(iter(encoded.values())))
    width = encoder.body.config.hidden_size
    made = {
        f"{length} {pooling}": np.zeros((count, width), np.float32)
        for length in encoded
        for pooling in POOLINGS
    }
    made |= {
        f"{length} positions": np.array([len(piece.ids_T) for piece in pieces])
        for length, pieces in encoded.items()
    }
    units = [
        (i, piece, lengths)
        for i in range(count)
        for piece, lengths in readings({n: e[i] for n, e in encoded.items()}, causal=causal)
    ]
    sizes = [len(piece.ids_T) for _, piece, _ in units]
    config = EmbeddingConfig()
    for numbers in batches(sizes, batch_tokens(encoder.body), mixed=encoder.takes_padding):
        states_BTD = hidden_states(encoder, [units[u][1] for u in numbers], config)
        for states_TD, u in zip(states_BTD, numbers, strict=True):
            i, _, lengths = units[u]
            for length in lengths:
                for pooling in POOLINGS:
                    way = replace(config, pooling=pooling)
                    (row_D,) = pooled(states_TD, encoded[length][i], way, padded_to=1)
                    made[f"{length} {pooling}"][i] = row_D
    return made


def read(encoder: Encoder, name: str, texts: Texts, jobs: Sequence[tuple[str, Any]], lab: Path):
    """Reads what is not kept yet, part after part, and says what it took."""
    causal = not behaviour(encoder.body).bidirectional
    for job, (numbers_N, lengths) in jobs:
        parts = list(_parts(numbers_N))
        missing = [part for part in parts if not _file(lab, name, texts, part, lengths).exists()]
        start, tokens = time.process_time(), 0
        with track(f"{name}, {job}", float(len(missing)), "parts") as bar:
            for part in missing:
                encoded = {
                    length: encoder.encode([texts.at[length][i] for i in part])
                    for length in lengths
                }
                made = rows_of_part(encoder, encoded, causal=causal)
                file = _file(lab, name, texts, part, lengths)
                file.parent.mkdir(parents=True, exist_ok=True)
                kept = file.with_suffix(".unfinished.npz")
                np.savez(kept, **cast(Any, made))
                kept.replace(file)
                read_lengths = [max(lengths)] if causal else list(lengths)
                tokens += sum(int(made[f"{n} positions"].sum()) for n in read_lengths)
                bar.advance()
        if missing:
            took = time.process_time() - start
            say(f"{name}, {job}: {tokens} tokens in {took:.0f} s of the processor")


def _parts(numbers_N: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(numbers_N), PART):
        yield numbers_N[start : start + PART]


def _file(lab: Path, name: str, texts: Texts, part: np.ndarray, lengths: Sequence[int]) -> Path:
    said = json.dumps([[texts.at[length][i] for i in part] for length in lengths])
    return lab / "rows" / name.replace(" ", "-") / f"{zlib.crc32(said.encode()):08x}.npz"


def kept_rows(name: str, texts: Texts, jobs: Sequence[tuple[str, Any]], lab: Path):
    """All that was read of a model: by length and pooling, rows (N, D) with NaN where a text was
    not read; `published` is not yet divided."""
    found: dict[str, np.ndarray] = {}
    for _, (numbers_N, lengths) in jobs:
        for part in _parts(numbers_N):
            file = _file(lab, name, texts, part, lengths)
            if not file.exists():
                continue
            with np.load(file) as made:
                for key, values in made.items():
                    shape = (len(texts.split_N), *values.shape[1:])
                    whole = found.setdefault(key, np.full(shape, np.nan, np.float32))
                    whole[part] = values
    return found


# Fits


@dataclass(frozen=True)
class Fitted:
    """One model fitted to others, with what is known by document."""

    fit: Decomposition
    held_out: DocumentSums
    in_sample: DocumentSums
    ridge_note: str = ""

    def plain(self) -> dict[str, Any]:
        """For the results."""
        fit = self.fit
        assert fit.test is not None
        return {
            "rows": fit.train.n, "features": fit.features, "ridge": fit.ridge,
            "in sample": _plain(r2_interval(self.in_sample)),
            "held out": _plain(r2_interval(self.held_out)),
            "whitened held out": fit.test.whitened, "floor": fit.train_floor,
            "effective dimensions": fit.effective_dimensions, "note": self.ridge_note,
        }  # fmt: skip


def fitted(
    rows: Rows,
    target: str,
    basis: Sequence[str],
    texts: Texts,
    train_N: np.ndarray,
    *,
    ridge: float | None = None,
) -> Fitted:
    """`target` on `basis`, with a given ridge, or the best of a path on validation."""
    used = {name: rows[name] for name in (target, *basis)}
    train, validation, test = (
        _scatter(used, n) for n in (train_N, *map(texts.held_out, ("validation", "test")))
    )
    note = ""
    if ridge is None:
        path = ridge_path(train, validation, {target: basis}, ridges=solvable_ridges(train))
        ridge, note = path[target].ridge, path[target].note
    fit = decompose(train, target, basis, ridge=ridge, test=test)
    sums = []
    for numbers_N in (texts.held_out("test"), train_N):
        of_documents = DocumentSums(fit)
        here = {name: values[numbers_N] for name, values in used.items()}
        of_documents.update(here, texts.document_N[numbers_N])
        sums.append(of_documents)
    return Fitted(fit, *sums, ridge_note=note)


def _scatter(rows: Rows, numbers_N: np.ndarray) -> Scatter:
    scatter = Scatter()
    scatter.update({name: values[numbers_N] for name, values in rows.items()})
    return scatter


def _plain(interval: Interval) -> list[float | None]:
    return [interval.estimate, interval.low, interval.high]


def difference(what: str, interval: Interval) -> dict[str, Any]:
    """A contrast with its p-value."""
    assert interval.standard_error is not None
    assert interval.degrees_of_freedom is not None
    t = abs(interval.estimate) / interval.standard_error
    p = 2 * float(stdtr(interval.degrees_of_freedom, -t))
    return {"what": what, "difference": _plain(interval), "p": p}


def apart(what: str, a: Interval, b: Interval) -> dict[str, Any]:
    """a - b of other documents: their variances add up (Welch 1947)."""
    errors = np.array([cast(float, a.standard_error), cast(float, b.standard_error)]) ** 2
    freedom = np.array([cast(float, a.degrees_of_freedom), cast(float, b.degrees_of_freedom)])
    df = float(errors.sum() ** 2 / (errors**2 / freedom).sum())
    value, error = a.estimate - b.estimate, float(np.sqrt(errors.sum()))
    half = float(stdtrit(df, 0.975)) * error
    p = 2 * float(stdtr(df, -abs(value) / error))
    return {"what": what, "difference": [value, value - half, value + half], "p": p}


def limit(in_sample: float, rows: int, features: int) -> float:
    """R2 with any number of rows, by what so many rows gave in sample: least squares leaves
    1 - p / (n - 1) of the residual variance."""
    return 1 - (1 - in_sample) / (1 - features / (rows - 1))


def expected(limit_: float, rows: int, features: int) -> float:
    """Held-out R2 of least squares on so many rows, where features are normal."""
    return 1 - (1 - limit_) * (1 + features / (rows - features - 2))


# The report


class Reading:
    """All figures, from the kept rows."""

    def __init__(self, texts: Texts, models: Sequence[str], jobs: Mapping[str, Any], lab: Path):
        self.texts, self.models = texts, models
        self.kept = {name: kept_rows(name, texts, jobs[name], lab) for name in jobs}
        self.pairs = list(permutations(models, 2))

    def rows(
        self, length: int, pooling: str, *, untrained_: bool = False, by_split: bool = False
    ) -> dict[str, np.ndarray]:
        """Rows of the models that have read all held-out texts at this length, by name.

        `by_split` divides `published` by the longest text of each split, as lmlab did before.
        """
        rows = {}
        for model in self.models:
            kept = self.kept[f"{UNTRAINED}{model}" if untrained_ else model]
            if f"{length} {pooling}" not in kept:
                continue
            values_ND = kept[f"{length} {pooling}"].astype(np.float64)
            held_out_N = np.concatenate([*map(self.texts.held_out, ("validation", "test"))])
            if np.isnan(values_ND[held_out_N, 0]).any():
                continue
            if pooling == "published":
                positions_N = kept[f"{length} positions"]
                longest_N = np.full(len(positions_N), np.nanmax(positions_N))
                for split in np.unique(self.texts.split_N) if by_split else ():
                    here = self.texts.split_N == split
                    longest_N[here] = np.nanmax(positions_N[here])
                values_ND = values_ND / longest_N[:, None]
            rows[model] = values_ND
        return rows

    def positions(self, length: int) -> np.ndarray:
        """How many positions each text has for each model (N, models)."""
        return np.column_stack([self.kept[m][f"{length} positions"] for m in self.models])

    def train(self, rows: Rows, most: int | None = None, order: int = 0) -> np.ndarray:
        """The training texts that all models of `rows` have read, in one of several orders."""
        train_N = self.texts.train
        read_N = np.all([~np.isnan(values[train_N, 0]) for values in rows.values()], axis=0)
        train_N = train_N[read_N]
        if order:
            train_N = np.random.default_rng(order).permutation(train_N)
        return train_N[:most]

    def poolings(self, length: int, *, untrained_: bool, most: int | None) -> list[dict[str, Any]]:
        """Every pair at every pooling, the ridge chosen on validation; and the nulls."""
        told = []
        for pooling in POOLINGS:
            rows = self.rows(length, pooling, untrained_=untrained_)
            if len(rows) < 2:
                continue
            train_N = self.train(rows, most)
            for target, basis in self.pairs:
                made = fitted(rows, target, [basis], self.texts, train_N)
                told.append({
                    "length": length, "pooling": pooling, "untrained": untrained_,
                    "target": target, "basis": basis, **made.plain(),
                    "length alone": self.length_alone(rows, length, target, train_N),
                    "permuted": self.permuted(rows, target, basis, train_N, made.fit.ridge),
                })  # fmt: skip
        return told

    def length_alone(self, rows: Rows, length: int, target: str, train_N: np.ndarray) -> list:
        """Held-out R2 of the target from how many positions the text has for each model."""
        with_length = {target: rows[target], "positions": self.positions(length).astype(float)}
        made = fitted(
            with_length, target, ["positions"], self.texts, train_N, ridge=PUBLISHED_RIDGE
        )
        return _plain(r2_interval(made.held_out))

    def permuted(
        self, rows: Rows, target: str, basis: str, train_N: np.ndarray, ridge: float
    ) -> list[float]:
        """R2 in sample and held out where every model's rows are permuted by themselves."""
        shuffled = {name: rows[name].copy() for name in (target, basis)}
        for seed, numbers_N in enumerate((train_N, self.texts.held_out("test"))):
            mixed = permuted_rows({n: v[numbers_N] for n, v in shuffled.items()}, seed=seed)
            for name, values in mixed.items():
                shuffled[name][numbers_N] = values
        fit = fitted(shuffled, target, [basis], self.texts, train_N, ridge=ridge).fit
        assert fit.test is not None
        return [fit.train.r2, fit.test.r2]

    def curve(self, length: int, pooling: str, components: int | None) -> list[dict[str, Any]]:
        """R2 against rows per dimension at the published ridge, the mean over orders of rows."""
        rows = self.rows(length, pooling)
        told = []
        for target, basis in self.pairs:
            here = {target: rows[target], basis: rows[basis]}
            if components:
                here[basis] = leading(here[basis], self.train(here), components)
            width = here[basis].shape[1]
            most = len(self.train(here))
            for ratio in (r for r in ROWS_PER_DIMENSION if round(r * width) <= most):
                n = round(ratio * width)
                if n < width + 3:  # no residual is left over
                    continue
                made = [
                    fitted(here, target, [basis], self.texts, self.train(here, n, order),
                           ridge=PUBLISHED_RIDGE)
                    for order in range(ORDERS if n < most else 1)
                ]  # fmt: skip
                inside = float(np.mean([m.fit.train.r2 for m in made]))
                outside = r2_interval(*(m.held_out for m in made))
                ends = limit(inside, n, width)
                told.append({
                    "length": length, "pooling": pooling, "components": components,
                    "target": target, "basis": basis, "rows per dimension": ratio, "rows": n,
                    "in sample": inside, "held out": _plain(outside), "limit": ends,
                    "expected held out": expected(ends, n, width),
                })  # fmt: skip
        return told

    def contrasts(self, length: int) -> list[dict[str, Any]]:
        """The planned differences of the first two models, with Holm's p-values."""
        told = []
        mean, published = (self.rows(length, pooling) for pooling in ("mean", "published"))
        fresh = self.rows(length, "mean", untrained_=True)
        for target, basis in list(permutations(self.models[:2], 2)):
            said = f"{target} from {basis}"
            a, b = (
                fitted(rows, target, [basis], self.texts, self.train(rows)).held_out
                for rows in (published, mean)
            )
            told.append(difference(f"{said}: published less mean", r2_difference([a], [b])))
            n = 2 * mean[basis].shape[1]
            made = fitted(
                mean, target, [basis], self.texts, self.train(mean, n), ridge=PUBLISHED_RIDGE
            )
            inside, outside = r2_interval(made.in_sample), r2_interval(made.held_out)
            told.append(apart(f"{said}: in sample less held out, {n} rows", inside, outside))
            if len(fresh) < 2:
                continue
            train_N = self.train(fresh, self.texts.paired)
            a, b = (
                fitted(rows, target, [basis], self.texts, train_N).held_out
                for rows in (mean, fresh)
            )
            told.append(difference(f"{said}: trained less untrained", r2_difference([a], [b])))
        for row, adjusted in zip(told, holm([row["p"] for row in told]), strict=True):
            row["by Holm"] = adjusted
        return told

    def lengths(self, length: int) -> list[dict[str, Any]]:
        """Held-out R2 at each other length less that at `length`, with the same paired texts."""
        told = []
        for pooling in ("mean", "published"):
            here = self.rows(length, pooling)
            for other in sorted(self.texts.at):
                there = self.rows(other, pooling)
                if other == length or len(there) < len(self.models):
                    continue
                train_N = self.train(there, self.texts.paired)
                for target, basis in self.pairs:
                    a, b = (
                        fitted(rows, target, [basis], self.texts, train_N).held_out
                        for rows in (there, here)
                    )
                    said = f"{target} from {basis}, {pooling}: {other} less {length} tokens"
                    told.append(difference(said, r2_difference([a], [b])))
        return told

    def others(self, length: int) -> list[dict[str, Any]]:
        """Trained models from untrained ones, from all others, at mixed lengths, and with a padded
        length of each split."""
        told = []
        paired_N = self.texts.train[: self.texts.paired]

        def add(what: str, pooling: str, target: str, basis: Sequence[str], rows: Rows, n: Any):
            made = fitted(rows, target, basis, self.texts, n).plain()
            told.append({"what": what, "pooling": pooling, "target": target,
                         "basis": ", ".join(basis), **made})  # fmt: skip

        for pooling in POOLINGS:
            rows = self.rows(length, pooling)
            fresh = {
                f"{UNTRAINED}{name}": values
                for name, values in self.rows(length, pooling, untrained_=True).items()
            }
            for target in self.models:
                for basis in fresh:
                    both = {**rows, **fresh}
                    add("from an untrained model", pooling, target, [basis], both, paired_N)
                if len(self.models) > 2:
                    others = [name for name in self.models if name != target]
                    add("from all others", pooling, target, others, rows, self.train(rows))
            if pooling in ("mean", "published"):
                mixed = self.mixed(pooling)
                for target, basis in self.pairs if mixed else ():
                    add("texts of unequal length", pooling, target, [basis], mixed, paired_N)
        rows = self.rows(length, "published", by_split=True)
        for target, basis in self.pairs:
            add("each split's own padded length", "published", target, [basis], rows,
                self.train(rows))  # fmt: skip
        return told

    def mixed(self, pooling: str) -> dict[str, np.ndarray]:
        """Rows where each text has one of the lengths at random, `published` over the longest."""
        lengths = [n for n in sorted(self.texts.at) if len(self.rows(n, pooling)) > 1]
        if len(lengths) < 2:
            return {}
        pick_N = np.random.default_rng(0).integers(0, len(lengths), len(self.texts.split_N))
        rows = {}
        for model in self.models:
            kept = self.kept[model]
            values_ND = np.stack([kept[f"{n} {pooling}"] for n in lengths]).astype(np.float64)
            values_ND = values_ND[pick_N, np.arange(len(pick_N))]
            if pooling == "published":
                values_ND = values_ND / np.nanmax(kept[f"{max(lengths)} positions"])
            rows[model] = values_ND
        return rows


def leading(rows_ND: np.ndarray, train_N: np.ndarray, components: int) -> np.ndarray:
    """Rows in the leading principal components of the training rows."""
    mean_D = rows_ND[train_N].mean(0)
    _, _, directions_KD = np.linalg.svd(rows_ND[train_N] - mean_D, full_matrices=False)
    return (rows_ND - mean_D) @ directions_KD[:components].T


def published_reading() -> list[dict[str, float]]:
    """The published averages: the R2 that more rows would end at, and the test R2 expected."""
    return [
        {
            "length": length, "rows": rows, "rows per dimension": rows / PUBLISHED_FEATURES,
            "in sample": inside, "held out": outside,
            "limit": limit(inside, rows, PUBLISHED_FEATURES),
            "expected held out": expected(
                limit(inside, rows, PUBLISHED_FEATURES), rows, PUBLISHED_FEATURES
            ),
            "expected at 2 rows a dimension": expected(
                limit(inside, rows, PUBLISHED_FEATURES),
                2 * PUBLISHED_FEATURES,
                PUBLISHED_FEATURES,
            ),
        }
        for length, rows, inside, outside in PUBLISHED
    ]  # fmt: skip


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of Markdown."""
    if not rows:
        return
    print(f"\n{title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(_cell, row.values()))} |")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        first, *rest = (f"{v:.3f}" if v is not None else "–" for v in value)
        return f"{first} [{', '.join(rest)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--length", type=int, default=128, help="the length of all main figures")
    parser.add_argument("--train", type=int, default=1152)
    parser.add_argument("--paired", type=int, default=288)
    parser.add_argument("--validation", type=int, default=72)
    parser.add_argument("--test", type=int, default=192)
    parser.add_argument("--report", action="store_true", help="read nothing more")
    given = parser.parse_args()
    counts = {"train": given.train, "validation": given.validation, "test": given.test}
    texts = texts_of(TokenStore(given.store), given.lengths, counts, given.paired)
    up_to = [length for length in given.lengths if length <= given.length]
    longer = [length for length in given.lengths if length > given.length]
    paired = ("paired rows", (texts.of_all_lengths, up_to))
    jobs: dict[str, list[tuple[str, Any]]] = {}
    paths = labels(given.models)
    for name in paths:
        jobs[name] = [paired, ("more rows", (texts.more, [given.length]))]
        jobs[name] += [("longer texts", (texts.of_all_lengths, longer))] if longer else []
        jobs[f"{UNTRAINED}{name}"] = [paired]
    if not given.report:
        opened = {name: open_encoder(path) for name, path in paths.items()}
        # what is asked first is read first
        for name, encoder in opened.items():
            read(encoder, name, texts, jobs[name][:1], given.lab)
        for name, encoder in opened.items():
            fresh = f"{UNTRAINED}{name}"
            read(untrained(encoder), fresh, texts, jobs[fresh], given.lab)
        for job in range(1, 2 + bool(longer)):
            for name, encoder in opened.items():
                read(encoder, name, texts, jobs[name][job : job + 1], given.lab)
    reading = Reading(texts, list(paths), jobs, given.lab)
    found: dict[str, list[dict[str, Any]]] = {"contrasts": reading.contrasts(given.length)}
    found["lengths"] = reading.lengths(given.length)
    found["pairs, most rows"] = reading.poolings(given.length, untrained_=False, most=None)
    found["pairs, paired rows"] = [
        row
        for length in given.lengths
        for fresh in (False, True)
        for row in reading.poolings(length, untrained_=fresh, most=given.paired)
    ]
    found["rows per dimension"] = [
        row
        for components in (None, COMPONENTS)
        for pooling in POOLINGS
        for row in reading.curve(given.length, pooling, components)
    ]
    found["others"] = reading.others(given.length)
    found["published"] = list(published_reading())
    given.lab.mkdir(parents=True, exist_ok=True)
    (given.lab / "results.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for title, rows in found.items():
        show(title, rows)
    splits = {split: int((texts.split_N == split).sum()) for split in counts}
    print(f"\n{splits} texts; {time.process_time():.0f} s of the processor")


if __name__ == "__main__":
    main()
