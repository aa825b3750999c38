"""Splits by document, decided by content.

Documents are ranked by a keyed hash of their text. In this order each goes to validation if that
brings validation nearer to its share of the bytes, else to test if that brings test nearer to its
own, else to training. So a document lands in the same split whatever its name or place, and two
copies of a text always land in the same one.

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
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lmlab.config.numbers import Options, at_least
from lmlab.errors import UserError
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
_FEW = 1000  # documents, among which it matters how many a split has
_BLOCK = 1 << 16  # documents


@dataclass(frozen=True)
class SplitConfig(Options, prefix="split."):
    """Shares of the text (in bytes) held out, by whole documents."""

    validation: float = 0.05
    test: float = 0.05
    seed: int = at_least(0, 0)
    test_documents: int = 1
    """At least so many distinct documents for test, whatever their share of the text."""
    validation_documents: int = 1
    """The same for validation."""

    def __post_init__(self) -> None:
        if not (self.validation > 0 and self.test >= 0 and self.validation + self.test < 1):
            raise UserError(
                f"split shares validation {self.validation} and test {self.test}: validation must "
                "be above 0, test at least 0, and something must remain for training"
            )


def text_rank(text: bytes, seed: int) -> int:
    """The place of a document among all (64 bits), given its text in UTF-8: a keyed hash."""
    content = hashlib.blake2b(text, digest_size=20).digest()
    return int.from_bytes(hashlib.blake2b(content, key=str(seed).encode()).digest()[:8])


def assign_splits(
    ranks: ArrayLike,
    sizes: ArrayLike,
    config: SplitConfig,
    *,
    advice: str = "Give more files",
) -> np.ndarray:
    """The split of each document, (M,) uint8, an index of `SPLITS`, given its `text_rank` and its
    size in bytes.

    A split of which no document brings it nearer to its share still has as many as `config` asks
    for, in the order of the ranking.

    Raises `UserError` with `advice` where the distinct documents are too few to give every split
    one.
    """
    ranked_K, group_M = np.unique(np.asarray(ranks, dtype=np.uint64), return_inverse=True)
    wanted = [(VALIDATION, config.validation, config.validation_documents)]
    if config.test:
        wanted.append((TEST, config.test, config.test_documents))
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


def few_test_documents(documents: Mapping[str, int]) -> str | None:
    """What a store cannot say of other texts, in words; None where it can.

    `documents` is how many each split has. A corpus of few long documents fills its test share with
    one or two: no more are taken unasked, since each costs the training split that much. The cost
    named is the expected one: documents are ranked by a hash, not by their length.
    """
    test = documents.get(TEST, 0)
    if not 0 < test < MINIMUM_DOCUMENTS:
        return None
    whole = sum(documents.values())
    said = (
        f"the test split has {test} document{'s' if test > 1 else ''}: intervals will be over "
        f"sections of {'it' if test == 1 else 'them'}, not over other texts, which takes "
        f"{MINIMUM_DOCUMENTS} documents; a document is never cut, so few long ones fill the "
        "share of the test split"
    )
    missing, train = MINIMUM_DOCUMENTS - test, documents.get(TRAIN, 0)
    if whole < MINIMUM_DOCUMENTS + 2 or missing >= train:
        return f"{said}; give more documents ({whole} are here)"
    return (
        f"{said}. `split.test_documents` {MINIMUM_DOCUMENTS} holds out so many of these {whole}; "
        f"it takes {missing} of the {train} training documents, about {missing / train:.0%} of the "
        "training text"
    )
