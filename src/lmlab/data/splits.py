"""Splits by document, decided by content.

Documents are ranked by a keyed hash of their text. In this order each goes to validation if that
brings validation nearer to its share of the bytes, else to test if that brings test nearer to its
own, else to training. So a document lands in the same split whatever its name or place, and two
copies of a text always land in the same one. A split may be given as files instead; and where it is
asked, documents are cut, each into a stretch for every split.

Notable:
- Documents are numbers here, 8 bytes of the hash and the length of each, so that ten million of
  them take little memory. Two texts that share these 8 bytes (one chance in a million among six
  million texts) would only go to the same split.
- An interval over texts needs five documents. Where a few long ones fill the share of test,
  shorter ones are taken in their stead, as long as the share has room for them. Where it has none
  (all are long), `test_documents` asks for more, which training then lacks.

Shapes: M documents, K distinct ones, N of them that are not assigned yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from lmlab.config.numbers import Options, at_least
from lmlab.data.documents import Document
from lmlab.errors import UserError
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
_SHARE = 0.05
_FEW = 1000  # documents, among which it matters how many a split has
_BLOCK = 1 << 16  # documents
FAR = 2.0  # times the share that was asked for, or a half of it: worth a warning
_STRETCH = 200  # characters, of which a stretch for a split has at least so many


@dataclass(frozen=True)
class SplitConfig(Options, prefix="split."):
    """What is held out: shares of the text (in bytes), by whole documents, or files."""

    validation: float | tuple[str, ...] | None = None
    """A share of the text, or the files, folders or patterns that are this split (default: the .dev
    files of a folder with .train files, else 0.05)."""
    test: float | tuple[str, ...] | None = None
    """As `validation`, of .test files; 0 for none."""
    seed: int = at_least(0, 0)
    test_documents: int = 1
    """At least so many distinct documents for test, whatever their share of the text."""
    validation_documents: int = 1
    """The same for validation."""
    within_documents: bool = False
    """Cut every document at blank lines, its end for test, what is before that for validation: for
    few and long documents. What is measured is then of the very documents that were trained on."""

    def __post_init__(self) -> None:
        for name in (VALIDATION, TEST):
            value = getattr(self, name)
            if isinstance(value, int):
                object.__setattr__(self, name, float(value))
            if value == () or (isinstance(value, tuple) and self.within_documents):
                raise UserError(
                    f"`split.{name}` names no files"
                    if value == ()
                    else f"`split.{name}` is given as files: with `split.within_documents` the "
                    "splits are stretches of each document, by shares"
                )
            least = f"{name}_documents"
            if (isinstance(value, tuple) or self.within_documents) and getattr(self, least) != 1:
                raise UserError(
                    f"`split.{least}` is of a split by shares of whole documents; leave it out"
                )
        validation, test = (self.shares.get(name, 0.0) for name in (VALIDATION, TEST))
        if self.shares.get(VALIDATION) == 0 or test < 0 or not 0 <= validation + test < 1:
            raise UserError(
                f"split shares validation {validation} and test {test}: validation must "
                "be above 0, test at least 0, and something must remain for training"
            )

    @property
    def shares(self) -> dict[str, float]:
        """The shares asked for, of the splits that have one."""
        asked = {name: getattr(self, name) for name in (VALIDATION, TEST)}
        shares = {name: _SHARE if value is None else value for name, value in asked.items()}
        return {name: value for name, value in shares.items() if isinstance(value, float)}

    @property
    def given(self) -> list[tuple[str, str]]:
        """Each source that is a split, or a part of one, with the split's name."""
        asked = [(name, getattr(self, name)) for name in (VALIDATION, TEST)]
        return [(s, name) for name, value in asked if isinstance(value, tuple) for s in value]

    @property
    def names(self) -> list[str]:
        """The splits that there are."""
        return [TRAIN, VALIDATION, *([TEST] if self.test is None or self.test else [])]


def text_rank(text: bytes, seed: int) -> int:
    """The place of a document among all (64 bits), given its text in UTF-8: a keyed hash."""
    content = hashlib.blake2b(text, digest_size=20).digest()
    return int.from_bytes(hashlib.blake2b(content, key=str(seed).encode()).digest()[:8])


def cut(document: Document, config: SplitConfig) -> Iterator[Document]:
    """The stretches of a document for each split, in its order: training, validation, test. They
    end at a blank line, else at a line end, else between two words. One so short that a split would
    get less than a paragraph is all for training."""
    text, ends, used = document.text, [], 0.0
    for name, share in reversed(config.shares.items()):
        used += share
        size = len(text) * share
        if share and size < _STRETCH:
            ends = []
            break
        if share:
            ends.append((name, _cut_near(text, round(len(text) * (1 - used)))))
    places = [*reversed(ends), ("", len(text))]
    pieces = [(TRAIN, text[: places[0][1]])]
    pieces += [(name, text[start:stop]) for (name, start), (_, stop) in pairwise(places)]
    if len(pieces) == 1 or not all(piece.strip() for _, piece in pieces):
        yield replace(document, split=TRAIN)
        return
    for name, piece in pieces:
        yield replace(document, name=f"{document.name} ({name})", text=piece, split=name)


def _cut_near(text: str, place: int) -> int:
    """The end of a paragraph, line or word at most half a stretch before or after `place`."""
    for mark in ("\n\n", "\n", " "):
        with suppress(ValueError):
            return text.rindex(mark, place - _STRETCH // 2, place + _STRETCH // 2) + len(mark)
    return place


def assign_splits(
    ranks: ArrayLike,
    sizes: ArrayLike,
    config: SplitConfig,
    *,
    given: Collection[str] = (),
    advice: str = "Give more files",
) -> np.ndarray:
    """The split of each document, (M,) uint8, an index of `SPLITS`, given its `text_rank` and its
    size in bytes. The splits `given` get none of these.

    A split of which no document brings it nearer to its share still has as many as `config` asks
    for, in the order of the ranking.

    Raises `UserError` with `advice` where the distinct documents are too few to give every split
    one.
    """
    ranked_K, group_M = np.unique(np.asarray(ranks, dtype=np.uint64), return_inverse=True)
    least_of = {VALIDATION: config.validation_documents, TEST: config.test_documents}
    wanted = [
        (name, share, least_of[name])
        for name, share in config.shares.items()
        if share and name not in given
    ]
    if len(ranked_K) <= sum(least for _, _, least in wanted):
        held_out = " and ".join(f"{least} for {name}" for name, _, least in wanted)
        raise UserError(
            f"the corpus has {len(ranked_K)} distinct document(s), too few to hold out {held_out} "
            f"by whole documents. {advice}"
        )
    size_K = np.bincount(group_M, weights=np.asarray(sizes)).astype(np.int64)
    total = int(size_K.sum())
    split_K = np.zeros(len(size_K), dtype=np.uint8)
    for place, (name, share, least) in enumerate(wanted):
        rest_N = np.flatnonzero(split_K == SPLITS.index(TRAIN))
        # documents that later splits and training must get
        room = len(rest_N) - 1 - sum(after for _, _, after in wanted[place + 1 :])
        choose = _several if name == TEST else _nearest
        taken_N = choose(size_K[rest_N], share * total, room)
        taken_N[np.flatnonzero(~taken_N)[: max(0, least - taken_N.sum())]] = True
        split_K[rest_N[taken_N]] = SPLITS.index(name)
    return split_K[group_M]


def _nearest(size_N: np.ndarray, quota: float, room: int) -> np.ndarray:
    """Those that in this order each bring the sum of sizes nearer to `quota`, at most `room`: a
    bool each."""
    taken_N = np.zeros(len(size_N), dtype=bool)
    least = int(size_N.min())
    for start in range(0, len(size_N), _BLOCK):
        for number, size in enumerate(size_N[start : start + _BLOCK].tolist(), start):
            if room <= 0 or abs(quota - least) >= abs(quota):  # then no other does either
                return taken_N
            if abs(quota - size) < abs(quota):
                taken_N[number] = True
                quota -= size
                room -= 1
    return taken_N


def _several(size_N: np.ndarray, quota: float, room: int) -> np.ndarray:
    """As `_nearest`; where that is less than five of a few documents, the longest are put last: as
    many of them as give the most documents, up to five, and no more."""
    best_N = trial_N = _nearest(size_N, quota, room)
    longest = int(size_N.max())
    while best_N.sum() < MINIMUM_DOCUMENTS and len(size_N) <= _FEW:
        short = size_N[trial_N & (size_N <= longest)]
        if not len(short):
            break
        longest = int(short.max()) - 1
        order_N = np.argsort(size_N > longest, kind="stable")
        trial_N = np.zeros_like(best_N)
        trial_N[order_N] = _nearest(size_N[order_N], quota, room)
        if min(trial_N.sum(), MINIMUM_DOCUMENTS) > best_N.sum():
            best_N = trial_N
    return best_N


def few_test_documents(documents: Mapping[str, int], *, within: bool = False) -> str | None:
    """What a store cannot say of other texts, in words; None where it can.

    `documents` is how many each split has, `within` whether they are stretches of documents. A
    corpus of few long documents fills its test share with one or two: no more are taken unasked,
    since each costs the training split that much. The cost named is the expected one: documents are
    ranked by a hash, not by their length.
    """
    test = documents.get(TEST, 0)
    if not 0 < test < MINIMUM_DOCUMENTS:
        return None
    whole = sum(documents.values())
    said = (
        f"the test split has {test} document{'s' if test > 1 else ''}: intervals will be over "
        f"sections of {'it' if test == 1 else 'them'}, not over other texts, which takes "
        f"{MINIMUM_DOCUMENTS} documents"
    )
    if within:
        return f"{said}; give more documents"
    said += "; a document is never cut, so few long ones fill the share of the test split"
    missing, train = MINIMUM_DOCUMENTS - test, documents.get(TRAIN, 0)
    if whole < MINIMUM_DOCUMENTS + 2 or missing >= train:
        return f"{said}; give more documents ({whole} are here)"
    return (
        f"{said}. `split.test_documents` {MINIMUM_DOCUMENTS} holds out so many of these {whole}; "
        f"it takes {missing} of the {train} training documents, about {missing / train:.0%} of the "
        "training text"
    )


def uneven_shares(text_bytes: Mapping[str, int], asked: Mapping[str, float]) -> list[str]:
    """Which splits are far from the shares that were asked for, in words; `text_bytes` is what each
    has."""
    whole = sum(text_bytes.values())
    return [
        f"the {name} split has {text_bytes[name] / whole:.0%} of the text, and {share:.0%} was "
        "asked for: documents go to a split whole, and few long ones fit no share. Give more "
        "documents, say where they end (`corpus.separator`), or cut long ones "
        "(`split.within_documents`)"
        for name, share in asked.items()
        if share and not share / FAR <= text_bytes[name] / whole <= share * FAR
    ]
