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

Shapes: M documents, D of a block, N distinct texts of a block.
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
_BLOCK = 1 << 18  # documents, about; more than _FEW
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
    ranked = _Ranked(np.asarray(ranks, dtype=np.uint64), np.asarray(sizes))
    least_of = {VALIDATION: config.validation_documents, TEST: config.test_documents}
    wanted = [
        (name, share, least_of[name])
        for name, share in config.shares.items()
        if share and name not in given
    ]
    if ranked.texts <= sum(least for _, _, least in wanted):
        held_out = " and ".join(f"{least} for {name}" for name, _, least in wanted)
        raise UserError(
            f"the corpus has {ranked.texts} distinct document(s), too few to hold out {held_out} "
            f"by whole documents. {advice}"
        )
    rest = ranked.texts
    for place, (name, share, least) in enumerate(wanted):
        # documents that later splits and training must get
        room = rest - 1 - sum(after for _, _, after in wanted[place + 1 :])
        kind = _Several if name == TEST and rest <= _FEW else _Nearest
        taken = ranked.give(name, kind(share * ranked.total, room, ranked.smallest))
        taken += ranked.give(name, _First(max(0, least - taken)))
        rest -= taken
    return ranked.split_M


class _Ranked:
    """Documents in the order of their ranks, a block of them at a time, and the split of each.

    A block is a range of ranks, found by a pass over all; so little memory is needed beyond the
    ranks and sizes themselves. Copies of a text have one rank and count as one, of all their size.
    """

    def __init__(self, ranks_M: np.ndarray, sizes_M: np.ndarray) -> None:
        self.ranks_M, self.sizes_M = ranks_M, sizes_M
        self.split_M = np.full(len(ranks_M), SPLITS.index(TRAIN), dtype=np.uint8)
        self._bits = (len(ranks_M) // _BLOCK).bit_length()
        sums = [(len(s), int(s.sum()), int(s.min())) for *_, s in self._rest()]
        self.texts, self.total = (sum(each[n] for each in sums) for n in (0, 1))
        self.smallest = min((least for *_, least in sums), default=0)
        if self.texts <= _BLOCK:  # copies of few texts
            self._bits = 0

    def give(self, name: str, choose: _Nearest | _First) -> int:
        """Gives to a split what `choose` takes of the training documents; how many texts."""
        taken = 0
        for document_D, text_D, size_N in self._rest():
            if choose.done:
                break
            chosen_N = choose(size_N)
            self.split_M[document_D[chosen_N[text_D]]] = SPLITS.index(name)
            taken += int(chosen_N.sum())
        return taken

    def _rest(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Training documents by rank in blocks: documents (D), the text of each within the block
        (D), and the size of each text (N)."""
        for block in range(1 << self._bits):
            document_D = self._documents(block)
            document_D = document_D[self.split_M[document_D] == SPLITS.index(TRAIN)]
            if not len(document_D):
                continue
            document_D = document_D[np.argsort(self.ranks_M[document_D], kind="stable")]
            rank_D = self.ranks_M[document_D]
            text_D = np.concatenate([[0], np.cumsum(rank_D[1:] != rank_D[:-1])])
            size_N = np.bincount(text_D, weights=self.sizes_M[document_D]).astype(np.int64)
            yield document_D, text_D, size_N

    def _documents(self, block: int) -> np.ndarray:
        """Those whose rank begins with the bits of `block`."""
        if not self._bits:
            return np.arange(len(self.ranks_M))
        shift, parts = np.uint64(64 - self._bits), []
        for start in range(0, len(self.ranks_M), _BLOCK):
            inside = self.ranks_M[start : start + _BLOCK] >> shift == block
            parts.append(start + np.flatnonzero(inside))
        return np.concatenate(parts)


class _Nearest:
    """Takes those that in their order each bring the sum of sizes nearer to `quota`.

    At most `room`; none is smaller than `smallest`, so it is known when no other brings it nearer.
    """

    def __init__(self, quota: float, room: int, smallest: int) -> None:
        self.quota, self.room, self.smallest = quota, room, smallest

    @property
    def done(self) -> bool:
        return self.room <= 0 or abs(self.quota - self.smallest) >= abs(self.quota)

    def __call__(self, size_N: np.ndarray) -> np.ndarray:
        """Which are taken, (N,) bool."""
        taken_N = np.zeros(len(size_N), dtype=bool)
        for number, size in enumerate(size_N.tolist()):
            if self.done:
                break
            if abs(self.quota - size) < abs(self.quota):
                taken_N[number] = True
                self.quota -= size
                self.room -= 1
        return taken_N


class _Several(_Nearest):
    """As `_Nearest`; where that is less than five of a few documents, the longest are put last: as
    many of them as give the most documents, up to five, and no more."""

    def __call__(self, size_N: np.ndarray) -> np.ndarray:
        def nearest(size_N: np.ndarray) -> np.ndarray:
            return _Nearest(self.quota, self.room, self.smallest)(size_N)

        best_N = trial_N = nearest(size_N)
        longest = int(size_N.max())
        while best_N.sum() < MINIMUM_DOCUMENTS:
            short = size_N[trial_N & (size_N <= longest)]
            if not len(short):
                break
            longest = int(short.max()) - 1
            order_N = np.argsort(size_N > longest, kind="stable")
            trial_N = np.zeros_like(best_N)
            trial_N[order_N] = nearest(size_N[order_N])
            if min(trial_N.sum(), MINIMUM_DOCUMENTS) > best_N.sum():
                best_N = trial_N
        return best_N


class _First:
    """Takes the first so many."""

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def done(self) -> bool:
        return not self.count

    def __call__(self, size_N: np.ndarray) -> np.ndarray:
        """Which are taken, (N,) bool."""
        taken_N = np.arange(len(size_N)) < self.count
        self.count -= int(taken_N.sum())
        return taken_N


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
