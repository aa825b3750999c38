"""benchmarks/word_classes.py against a computation by hand, and the text that it writes."""

from __future__ import annotations

import csv
import itertools
import math
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from helpers import script

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "word_classes.py"
TEXTS = [
    "le chat dort . le chien dort . un chat mange . le chien mange un os . un os dort",
    "le chien voit un chat . un chien voit le chat . le chat mange . un chien dort",
]


@cache
def _script():
    return script(SCRIPT)


def _ids(texts, classed):
    names = [w for w, _ in Counter(w for t in texts for w in t.split()).most_common(classed)]
    return [np.array([names.index(w) if w in names else classed for w in t.split()]) for t in texts]


def _by_hand(texts, class_W):
    """Mutual information of adjacent classes, term by term, over all pairs."""
    pairs = [(class_W[a], class_W[b]) for ids in texts for a, b in itertools.pairwise(ids)]
    both, first, second = (
        Counter(pairs), Counter(a for a, _ in pairs), Counter(b for _, b in pairs),
    )  # fmt: skip
    return sum(n * math.log(n * len(pairs) / (first[a] * second[b])) for (a, b), n in both.items())


def _classes(texts, classed, classes):
    return _script().exchange(_script().bigrams(texts, classed + 1), classes)


def test_the_information_is_that_by_hand():
    ids, class_W = _ids(TEXTS, 8), np.array([0, 1, 2, 0, 1, 2, 0, 1, 3])
    pairs_WW = _script().bigrams(ids, 9)
    got = _script().information(_script().of_classes(pairs_WW, class_W, 4))
    assert got == pytest.approx(_by_hand(ids, class_W))


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_no_word_would_gain_by_a_move(classes):
    ids = _ids(TEXTS, 8)
    found = _classes(ids, 8, classes)
    reached = _by_hand(ids, found)
    for word in range(8):
        for other in range(classes):
            moved = found.copy()
            moved[word] = other
            assert _by_hand(ids, moved) <= reached + 1e-6
    assert reached > _by_hand(ids, [*(np.arange(8) % classes), classes])
    assert [int(c) for c in found].index(classes) == 8  # the rest stays alone


def test_a_gain_is_the_difference_by_hand():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 7, 200), rng.integers(0, 7, 3)]
    pairs_WW = _script().bigrams(ids, 7)
    class_W = np.array([0, 1, 2, 0, 1, 2, 3])
    word = 4
    others = np.array([[a != word and b != word for b in range(7)] for a in range(7)])
    without_KK = _script().of_classes(pairs_WW * others, class_W, 4)
    alone = np.arange(7) != word
    after_K = np.bincount(class_W, pairs_WW[word] * alone, 4)
    before_K = np.bincount(class_W, pairs_WW[:, word] * alone, 4)
    gain_K = _script().gains(without_KK, after_K, before_K, pairs_WW[word, word])
    by_hand = []
    for to in range(4):
        class_W[word] = to
        by_hand.append(_by_hand(ids, class_W))
    assert np.diff(gain_K) == pytest.approx(np.diff(by_hand))


def test_the_text_read_backwards_has_the_same_classes():
    rng = np.random.default_rng(1)
    ids = [rng.zipf(1.5, 3000) % 40 for _ in range(2)]
    backwards = [text[::-1] for text in ids]
    assert (_classes(ids, 39, 6) == _classes(backwards, 39, 6)).all()


def test_one_symbol_a_word(tmp_path, monkeypatch):
    source, out = tmp_path / "text", tmp_path / "classes"
    for split, text in (("train", "L'été, l’eau.\nLe chat dort"), ("test", "Le loup dort.\n")):
        (source / split).mkdir(parents=True)
        (source / split / "a.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["", str(source), "--out", str(out), "--classes", "3"])
    _script().main()
    assert _script().words("L'été, l’eau.\n") == ["l'", "été", ",", "l’", "eau", ".", "\n"]
    train = (out / "train" / "a.txt").read_text(encoding="utf-8")
    test = (out / "test" / "a.txt").read_text(encoding="utf-8")
    with (out / "classes.csv").open(encoding="utf-8", newline="") as file:
        symbol = {row["word"]: row["class"] for row in csv.DictReader(file)}
    assert train == "".join(symbol[w] for w in _script().words("L'été, l’eau.\nLe chat dort"))
    assert test == "".join((symbol["le"], "_", symbol["dort"], symbol["."], symbol["\n"]))
    assert {*train} <= {*"ABC"}
