"""Corpora of a study: text or a synthetic source, as a token store in the lab folder.

A corpus is named by a specification:
- text: `docstrings`, `code`, a file or folder, `hf:NAME` (see `lmlab.data.documents`);
- a folder made by `lmlab prepare`, as it is;
- `shuffled:TEXT`, `unigrams:TEXT`, `bigrams:TEXT`: a text without its word order, without any, and
  with that of pairs alone (`lmlab.data.controls`);
- `linear:BITS:EXTRA[:SEED]`: strings x, separators, A x over F2 (`LinearLanguage`, flip 0.01); the
  arrow study also takes several matrices of a level as they come, `linear:BITS:EXTRA:FIRST-LAST`;
- `primes`: two primes and their product; `markov:STATES[:SEED]`: a stationary chain, windows of 64;
- `map:IMAGES:FAN_IN[:SEED]`: a many-to-one map, spans of 16;
- `spam:SYMBOLS:LENGTH`: one of so many symbols, repeated (`Spam`).

Notable: strings of a synthetic source are documents that fill a window exactly, joined without an
end-of-text token, so that training sees just what is scored. Its context is its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.config import digest
from lmlab.data.controls import CONTROLS, control_store
from lmlab.data.documents import CorpusConfig, source_name, source_names
from lmlab.data.prepare import PrepareConfig, describe_request, prepare
from lmlab.data.splits import TEST, TRAIN, VALIDATION
from lmlab.data.store import EncodedDocument, TokenStore, write_store
from lmlab.data.synthetic import LinearLanguage, ManyToOne, MarkovChain, PrimeProducts, Spam
from lmlab.data.synthetic.linear_language import SEPARATORS
from lmlab.data.synthetic.primes import LINE
from lmlab.data.tokenizers import TokenizerConfig, character_tokenizer
from lmlab.errors import UserError
from lmlab.locks import alone
from lmlab.studies.options import TrainingStudy

_HELD_OUT_STRINGS = 2048
_USAGE = {
    "linear": "linear:BITS:EXTRA[:SEED]",
    "primes": "primes",
    "markov": "markov:STATES[:SEED]",
    "map": "map:IMAGES:FAN_IN[:SEED]",
    "spam": "spam:SYMBOLS:LENGTH",
}
_LABELS = {
    "linear": "linear language, {} bits, {} extra",
    "primes": "prime products",
    "markov": "Markov chain, {} states",
    "map": "{1}-to-1 map, {0} images",
    "spam": "one of {} symbols, {} times",
}
_MARKOV_LENGTH, _MAP_LENGTH = 64, 16


@dataclass(frozen=True)
class Known:
    """What is known of a synthetic source."""

    floor: float
    """Its entropy, nats per token: the least possible loss in either direction."""
    surprisal: Callable[[np.ndarray], np.ndarray]
    """Exact nats of each of its strings."""
    length: int
    """Tokens of a string."""
    inverse_density: float | None = None
    """Of a linear language: the share of ones in the inverse of its matrix."""


@dataclass(frozen=True)
class Corpus:
    """A store and what is known about its source."""

    label: str
    store: TokenStore
    known: Known | None = None
    """None for text."""


@dataclass(frozen=True)
class Draw:
    """One matrix among those of a range of seeds."""

    level: str
    """What they have in common."""
    matrix: int
    """Its seed."""
    number: int
    """From 0, within the range."""


def expanded(specifications: Sequence[str]) -> dict[str, Draw | None]:
    """Specifications with each `linear:BITS:EXTRA:FIRST-LAST` as one of each matrix in the range.

    Raises `UserError` for a range that is none, or a matrix that is named twice.
    """
    draws: dict[str, Draw | None] = {}
    for specification in specifications:
        named: dict[str, Draw | None] = {specification: None}
        if seeds := re.fullmatch(r"(linear:\d+:\d+):(\d+)-(\d+)", specification):
            level, first, last = seeds[1], int(seeds[2]), int(seeds[3])
            if first >= last:
                raise UserError(
                    f"corpus '{specification}': give a range of seeds such as {level}:1-8"
                )
            named = {
                f"{level}:{seed}": Draw(_label(level), seed, number)
                for number, seed in enumerate(range(first, last + 1))
            }
        if twice := sorted(draws.keys() & named.keys()):
            raise UserError(f"corpus '{specification}': {twice[0]} is named twice")
        draws |= named
    return draws


def is_synthetic(specification: str) -> bool:
    """Whether the corpus has a source of our own, with its own alphabet and window length."""
    return specification.partition(":")[0] in _USAGE


def open_corpus(
    specification: str,
    *,
    lab: Path,
    vocabulary: int,
    tokens: int,
    label: str | None = None,
    tokenizer: str = "bpe",
) -> Corpus:
    """The corpus as a store below `lab`/stores, made if it is not there yet.

    `label` is what it is called (default: its own, as by `corpus_labels`). `tokenizer` is bpe,
    bpe-reversed or bytes (text only). `tokens` bounds the number of synthetic training strings.
    Where several processes ask for it at once, one makes it and the others wait. Raises `UserError`
    for a specification that names nothing.
    """
    label = label or _label(specification)
    control, _, text = specification.partition(":")
    if control in CONTROLS:
        base = open_corpus(
            text, lab=lab, vocabulary=vocabulary, tokens=tokens, tokenizer=tokenizer
        ).store
        with alone(lab, f"preparing {label}"):
            folder = _folder(lab, label, {"control": control, "of": base.fingerprint})
            return Corpus(label, control_store(base, control, folder))
    with alone(lab, f"preparing {label}"):
        if is_synthetic(specification):
            return _open_synthetic(specification, label=label, lab=lab, tokens=tokens)
        return Corpus(label, _text_store(specification, label, lab, tokenizer, vocabulary))


def _text_store(text: str, label: str, lab: Path, tokenizer: str, vocabulary: int) -> TokenStore:
    if (Path(text) / "manifest.json").is_file():
        return TokenStore(Path(text))
    kinds = {
        "bpe": TokenizerConfig("bpe", vocabulary),
        "bpe-reversed": TokenizerConfig("bpe", vocabulary, reversed_text=True),
        "bytes": TokenizerConfig("bytes"),
    }
    config = PrepareConfig(lab, CorpusConfig((text,)), kinds[tokenizer])
    return prepare(replace(config, out=_folder(lab, label, describe_request(config))))


def in_tokens(config: Any) -> Any:
    """The options of a study with its length in tokens, where they say it in epochs of its text."""
    if not isinstance(config, TrainingStudy) or config.epochs is None:
        return config
    asked: Any = config
    values = [asked.text, asked.vocabulary, getattr(config, "tokenizer", "bpe")]
    singles = [value if isinstance(value, tuple) else (value,) for value in values]
    if any(len(single) != 1 for single in singles):
        raise UserError(
            "`epochs` of several texts, vocabularies or tokenizers have different lengths; give "
            "`tokens` or `steps`"
        )
    ((text,), (vocabulary,), (tokenizer,)) = singles
    corpus = open_corpus(
        text, lab=config.lab, vocabulary=vocabulary, tokens=asked.tokens, tokenizer=tokenizer
    )
    tokens = round(config.epochs * corpus.store.split(TRAIN).tokens)
    return replace(asked, tokens=tokens, epochs=None)


def corpus_labels(specifications: Sequence[str]) -> list[str]:
    """Short names of corpora, all different.

    Of a file or folder its own name, of a pattern its folder's, of a synthetic source what it is;
    where two would be the same, the specifications themselves.
    """
    return source_names(specifications, _label)


def _label(specification: str) -> str:
    if is_synthetic(specification):
        kind, values, _ = _parse(specification)
        return _LABELS[kind].format(*values)
    control, _, text = specification.partition(":")
    if control in CONTROLS:
        return f"{_label(text)}, {control}"
    return source_name(specification)


def _folder(lab: Path, label: str, request: dict[str, Any]) -> Path:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")[:40]
    return lab / "stores" / f"{plain}-{digest(request)[:8]}"


def _parse(specification: str) -> tuple[str, list[int], int]:
    """Kind, numbers and seed of a synthetic source."""
    kind, *numbers = specification.split(":")
    usage = _USAGE[kind]
    needed = usage.partition("[")[0].count(":")
    if not all(n.isdigit() for n in numbers) or not needed <= len(numbers) <= usage.count(":"):
        raise UserError(f"corpus '{specification}': write it as {usage}, with whole numbers")
    values = [int(n) for n in numbers]
    return kind, values[:needed], values[needed] if len(values) > needed else 0


@dataclass(frozen=True)
class _Synthetic:
    alphabet: Sequence[str]
    sample: Callable[[int, int], np.ndarray]
    known: Known


def _synthetic(specification: str) -> _Synthetic:
    kind, values, seed = _parse(specification)
    if kind == "linear":
        bits, extra = values
        linear = LinearLanguage(bits, extra, 0.01, seed)
        known = Known(
            linear.floor(), linear.surprisal, 2 * bits + SEPARATORS, linear.inverse_density
        )
        return _Synthetic(linear.alphabet, linear.sample, known)
    if kind == "primes":
        primes = PrimeProducts()
        return _Synthetic(
            primes.alphabet, primes.sample, Known(primes.floor(), primes.surprisal, LINE)
        )
    if kind == "markov":
        chain = MarkovChain(values[0], seed)
        return _Synthetic(
            chain.alphabet,
            lambda n, s: chain.sample(n, s, _MARKOV_LENGTH),
            Known(chain.floor(_MARKOV_LENGTH), chain.surprisal, _MARKOV_LENGTH),
        )
    if kind == "spam":
        spam = Spam(*values)
        return _Synthetic(
            spam.alphabet, spam.sample, Known(spam.floor(), spam.surprisal, spam.length)
        )
    images, fan_in = values
    mapping = ManyToOne(images, fan_in, _MAP_LENGTH, seed)
    known = Known(mapping.floor(), mapping.surprisal, 2 * _MAP_LENGTH + 1)
    return _Synthetic(mapping.alphabet, mapping.sample, known)


def _open_synthetic(specification: str, *, label: str, lab: Path, tokens: int) -> Corpus:
    source = _synthetic(specification)
    length = source.known.length
    counts = {
        TRAIN: -(-tokens // length),
        VALIDATION: _HELD_OUT_STRINGS,
        TEST: _HELD_OUT_STRINGS,
    }
    request = {"synthetic": specification, "strings": counts}
    folder = _folder(lab, specification, request)
    if folder.exists():
        return Corpus(label, TokenStore(folder), source.known)

    def strings(split: str, seed: int) -> Iterator[EncodedDocument]:
        for index, ids in enumerate(source.sample(counts[split], seed)):
            yield EncodedDocument(f"{specification}#{split}-{index}", ids, length)

    store = write_store(
        folder,
        character_tokenizer(source.alphabet),
        {split: strings(split, seed) for seed, split in enumerate(counts, start=1)},
        request=request,
        end_of_text=False,
    )
    return Corpus(label, store, source.known)
