"""Splits by document, decided by content.

Documents are ranked by a keyed hash of their text. In this order each goes to validation if that
brings validation nearer to its share of the bytes, else to test if that brings test nearer to its
own, else to training. So a document lands in the same split whatever its name or place, and two
copies of a text always land in the same one.

Notable: an interval over texts needs five documents. Where a few long ones fill the share of test,
shorter ones are taken in their stead, as long as the share has room for them. Where it has none
(all are long), `test_documents` asks for more, which training then lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lmlab.config.numbers import Options, at_least
from lmlab.errors import UserError
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_FEW = 1000  # documents, among which it matters how many a split has


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


def text_key(text: str) -> bytes:
    """The content key by which a document is ranked (20 bytes)."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=20).digest()


def assign_splits(
    keys: Sequence[bytes],
    sizes: Sequence[int],
    config: SplitConfig,
    *,
    advice: str = "Give more files",
) -> list[str]:
    """The split of each document, given its content key and its size in bytes.

    A split of which no document brings it nearer to its share still has as many as `config` asks
    for, in the order of the ranking.

    Raises `UserError` with `advice` where the distinct documents are too few to give every split
    one.
    """
    weight: dict[bytes, int] = {}
    for key, size in zip(keys, sizes, strict=True):
        weight[key] = weight.get(key, 0) + size
    wanted = [(VALIDATION, config.validation, config.validation_documents)]
    if config.test:
        wanted.append((TEST, config.test, config.test_documents))
    if len(weight) <= sum(least for _, _, least in wanted):
        held_out = " and ".join(f"{least} for {name}" for name, _, least in wanted)
        raise UserError(
            f"the corpus has {len(weight)} distinct document(s), too few to hold out {held_out} by "
            f"whole documents. {advice}"
        )
    salt = str(config.seed).encode()
    ranked = sorted(weight, key=lambda key: hashlib.blake2b(key, key=salt).digest())
    total = sum(weight.values())
    split_of: dict[bytes, str] = {}
    for place, (name, share, least) in enumerate(wanted):
        rest = [key for key in ranked if key not in split_of]
        # documents that later splits and training must get
        room = len(rest) - 1 - sum(after for _, _, after in wanted[place + 1 :])
        choose = _several if name == TEST else _nearest
        taken = choose(rest, weight, share * total, room)
        asked_for = [key for key in rest if key not in taken][: max(0, least - len(taken))]
        split_of.update(dict.fromkeys([*taken, *asked_for], name))
    return [split_of.get(key, TRAIN) for key in keys]


def _nearest(
    order: Iterable[bytes], weight: Mapping[bytes, int], quota: float, room: int
) -> dict[bytes, None]:
    """Those that in this order each bring the sum of weights nearer to `quota`, at most `room`."""
    taken: dict[bytes, None] = {}
    for key in order:
        if len(taken) < room and abs(quota - weight[key]) < abs(quota):
            taken[key] = None
            quota -= weight[key]
    return taken


def _several(
    ranked: Sequence[bytes], weight: Mapping[bytes, int], quota: float, room: int
) -> dict[bytes, None]:
    """As `_nearest`; where that is less than five of a few documents, the longest are put last: as
    many of them as give the most documents, up to five, and no more."""
    best = trial = _nearest(ranked, weight, quota, room)
    longest = max(weight.values())
    while len(best) < MINIMUM_DOCUMENTS and len(ranked) <= _FEW:
        short = [weight[key] for key in trial if weight[key] <= longest]
        if not short:
            break
        longest = max(short) - 1
        shortest_first = sorted(ranked, key=lambda key: weight[key] > longest)
        trial = _nearest(shortest_first, weight, quota, room)
        if min(len(trial), MINIMUM_DOCUMENTS) > len(best):
            best = trial
    return best


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
