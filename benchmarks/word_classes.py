"""A class in place of each word: a text that keeps the order of words' classes and no spelling.

    python benchmarks/word_classes.py FOLDER --out CLASSES [--classes 64] [--words 2000]
    lmlab prepare CLASSES/train --validation CLASSES/validation --test CLASSES/test \
        --kind characters --out STORE

FOLDER has train, validation and test, with .txt files; CLASSES gets the same files with one
character for each word, sign or line end, and `classes.csv`, the words of each class. Capitals are
small. The most frequent words of the training text are classed, all other words are one class, `_`.

Classes are those of the exchange algorithm (Kneser and Ney 1993; Martin, Liermann and Ney 1998):
each word in turn moves to the class that gives adjacent classes of the training text the most
mutual information, until no word moves. Notable: that sum is the same for the text read backwards,
so the classes are too, and favour no direction.

Legend: T words of a text, W classed words and the rest, K classes and the rest.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
REST = "_"
SPLITS = ("train", "validation", "test")
_WORD = re.compile(r"\w+['’]?|[^\w\s]|\n")
_LEAST = 1e-6
"""Nats over the whole text that a move must gain: less is rounding."""

Ids = NDArray[np.int64]
Counts = NDArray[np.float64]


def words(text: str) -> list[str]:
    """Words (an elided one with its apostrophe), signs and line ends, in small letters."""
    return _WORD.findall(text.lower())


def bigrams(texts: Sequence[Ids], vocabulary: int) -> Counts:
    """How often each pair of ids is adjacent within a text (W, W)."""
    pairs_WW = np.zeros((vocabulary, vocabulary))
    for ids_T in texts:
        np.add.at(pairs_WW, (ids_T[:-1], ids_T[1:]), 1)
    return pairs_WW


def of_classes(pairs_WW: Counts, class_W: Ids, classes: int) -> Counts:
    """Counts of adjacent classes (K, K) from those of adjacent words."""
    member_WK = np.eye(classes)[class_W]
    return member_WK.T @ pairs_WW @ member_WK


def information(pairs_KK: Counts) -> float:
    """Mutual information of adjacent classes in nats, summed over all pairs of the text."""
    rows_K, columns_K, total = pairs_KK.sum(1), pairs_KK.sum(0), pairs_KK.sum()
    cells = xlogy(pairs_KK, pairs_KK).sum() + xlogy(total, total)
    return float(cells - xlogy(rows_K, rows_K).sum() - xlogy(columns_K, columns_K).sum())


def gains(pairs_KK: Counts, after_K: Counts, before_K: Counts, itself: float) -> Counts:
    """What the information of `pairs_KK`, in which a word is not counted, gains if it joins each
    class (K).

    `after_K` and `before_K` are how often each class stands after and before the word, and
    `itself` how often the word follows itself.
    """

    def growth(counts: Counts, more: Counts) -> Counts:
        more = counts + more
        return xlogy(more, more) - xlogy(counts, counts)

    row_KK = growth(pairs_KK, after_K[None, :])
    column_KK = growth(pairs_KK, before_K[:, None])
    inner_K = np.diag(pairs_KK)
    cells_K = row_KK.sum(1) - np.diag(row_KK) + column_KK.sum(0) - np.diag(column_KK)
    cells_K += growth(inner_K, after_K + before_K + itself)
    # the word's neighbours are in the margins of their own classes, whichever class it joins
    margins_K = growth(pairs_KK.sum(1) + before_K, after_K.sum() + itself)
    margins_K += growth(pairs_KK.sum(0) + after_K, before_K.sum() + itself)
    return cells_K - margins_K


def exchange(pairs_WW: Counts, classes: int, sweeps: int = 30) -> Ids:
    """The class of each word (W): the last word is the rest, alone in the last class.

    Words are in the order of their frequency, and begin with a class in turn.
    """
    vocabulary = len(pairs_WW)
    class_W = np.arange(vocabulary) % classes
    class_W[-1] = classes
    pairs_KK = of_classes(pairs_WW, class_W, classes + 1)
    for _ in range(sweeps):
        moved = 0
        for word in range(vocabulary - 1):
            own, itself = class_W[word], float(pairs_WW[word, word])
            after_K = np.bincount(class_W, pairs_WW[word], classes + 1).astype(np.float64)
            before_K = np.bincount(class_W, pairs_WW[:, word], classes + 1).astype(np.float64)
            after_K[own] -= itself
            before_K[own] -= itself
            pairs_KK[own] -= after_K
            pairs_KK[:, own] -= before_K
            pairs_KK[own, own] -= itself
            gain_K = gains(pairs_KK, after_K, before_K, itself)[:-1]
            best = int(gain_K.argmax())
            if gain_K[best] > gain_K[own] + _LEAST:
                class_W[word] = own = best
                moved += 1
            pairs_KK[own] += after_K
            pairs_KK[:, own] += before_K
            pairs_KK[own, own] += itself
        print(f"{moved} words moved: {information(pairs_KK) / pairs_KK.sum():.4f} nats a pair")
        if not moved:
            break
    return class_W


def main() -> None:
    parser = argparse.ArgumentParser(description="A class in place of each word of a text.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=len(SYMBOLS))
    parser.add_argument("--words", type=int, default=2000)
    given = parser.parse_args()
    if not 1 <= given.classes <= len(SYMBOLS):
        parser.error(f"--classes: 1 to {len(SYMBOLS)}, one character each")

    texts = {
        path.relative_to(given.folder): words(path.read_text(encoding="utf-8"))
        for split in SPLITS
        for path in sorted((given.folder / split).glob("*.txt"))
    }
    training = [text for path, text in texts.items() if path.parts[0] == SPLITS[0]]
    if not training:
        parser.error(f"{given.folder / SPLITS[0]}: no .txt file")
    counts = Counter(word for text in training for word in text)
    # by count, then by spelling, so that neither the order of files nor of words in them matters
    classed = sorted(counts, key=lambda word: (-counts[word], word))[: given.words]
    number = {word: i for i, word in enumerate(classed)}
    ids = [np.array([number.get(w, len(classed)) for w in text]) for text in training]
    class_W = exchange(bigrams(ids, len(classed) + 1), given.classes)

    symbol = {word: SYMBOLS[class_W[i]] for word, i in number.items()}
    for path, text in texts.items():
        written = given.out / path
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text("".join(symbol.get(word, REST) for word in text), encoding="utf-8")
    with (given.out / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "word", "count"])
        writer.writerows([symbol[word], word, counts[word]] for word in classed)
    kept = sum(counts[word] for word in classed) / counts.total()
    print(f"{len(classed)} words in {len({*symbol.values()})} classes, {kept:.1%} of the text")


if __name__ == "__main__":
    main()
