"""How many words a text has, as budgets of text count them (10M, 100M words).

A word is what stands between white space, as `wc -w` has it. Chinese, Japanese, Thai, Lao, Khmer
and Burmese write no blanks between words: a piece that holds a letter of these scripts counts the
words of Unicode Standard Annex 29 (its default rules, by the library `regex`). Those have no
dictionary: a Chinese character is a word of its own, so is nearly every Thai letter, and a run of
Katakana is one word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Where letters of these scripts may be; a scan for this costs a tenth of one by script
_PERHAPS = re.compile("[\u0e00-\u1fff\u2e80-\U0003ffff]")


@dataclass(frozen=True)
class Words:
    """A number of words, and how they were counted."""

    count: int = 0
    segmented: int = 0
    """Of these, by UAX 29."""

    def __add__(self, other: Words) -> Words:
        return Words(self.count + other.count, self.segmented + other.segmented)


@lru_cache(maxsize=1)
def _patterns() -> tuple[Any, Any]:
    """A letter of a script without blanks, and the start of a word by UAX 29."""
    import regex

    letter = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
    return regex.compile(letter), regex.compile(r"\b\w", flags=regex.WORD)


def count_words(text: str) -> Words:
    """The words of a text."""
    return Words(*word_counts(text))


def word_counts(text: str) -> tuple[int, int]:
    """`count_words` as plain numbers, for texts by the million."""
    pieces = text.split()
    if text.isascii() or not _PERHAPS.search(text):
        return len(pieces), 0
    letter, start = _patterns()
    unspaced = [piece for piece in pieces if not piece.isascii() and letter.search(piece)]
    segmented = sum(len(start.findall(piece)) for piece in unspaced)
    return len(pieces) - len(unspaced) + segmented, segmented
