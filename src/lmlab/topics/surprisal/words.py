"""Words of a text, the tokens of each, and what is left over where a word ends.

**Why a word is more than its tokens.** GPT-2's token " cat" says where the word begins, not where
it ends: behind it may come " sat" or "alog". The product of the tokens' probabilities is that of
all words which begin so, and the sum over all words exceeds 1. The word has ended where the next
token begins another, or the text ends. Let B be the set of those tokens, and B(c) their probability
after a context c, so that B(c) is the probability that the word before has ended there. Then

    p(word | context, which has ended) = B(context + word) / B(context) x product of its tokens

(Pimentel and Meister 2024, theorem 2; Oh and Schuler 2024 move the same mass). Derivation: the
event "the context has ended, and the word is next, and it has ended" has the probability
product x B(context + word), since the word's first token is in B; divide by B(context). Over all
words this adds up to 1 with the end of the text: each way to go on that begins in B has exactly one
first word. Over a text the factors cancel but for the last: the words' surprisals are the nats of
the tokens, minus log B where the last word ends, and that is reported beside them.

**Where nothing is left over.** If the token before an edge already says that the word is over, B is
everything and the factor 1: at the beginning of a text, behind a token that ends in a blank (merges
learnt on reversed text), behind GPT's "</w>", behind a mark that stands apart.

**Backward models** read the mirror image: a word is complete where the next token to be read ends
another word, that is, ends in a blank. A token that begins with one says so itself; then nothing is
left over but at the word that the text begins with.

What tokens show of words (`Edges`):

- a blank at their beginning or end: byte-level BPE, SentencePiece, bytes and characters. A blank of
  its own belongs to the word that is read after it;
- no "##" at their beginning (WordPiece), "</w>" at their end (BPE with an end of word);
- marks apart: a mark at their beginning or end as well, but for the apostrophe or hyphen of a token
  such as "'s", which goes on with its word.

An edge that the tokens do not show, as among words that are a token each, has the factor 1; so it
has where the token that follows is not in B. How many those are is counted. Words that share a
token cannot be told apart and become one row.

Shapes: V vocabulary, T tokens, W words.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lmlab.data.order import BACKWARD
from lmlab.data.tokenizers import TextTokenizer

Marks = Literal["attached", "apart"]

_RUN = re.compile(r"\S+")
_JOINERS = "'’-‐‑"


@dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a text, and the tokens [first, last) of them."""

    start: int
    stop: int
    first: int
    last: int


def word_spans(text: str, marks: Marks) -> list[tuple[int, int]]:
    """Characters [start, stop) of each word: what stands between blanks; with `marks` apart, the
    marks that it begins and ends with are words of their own, each."""
    spans: list[tuple[int, int]] = []
    for run in _RUN.finditer(text):
        start, stop = run.span()
        if marks == "attached":
            spans.append((start, stop))
            continue
        letters = [at for at in range(start, stop) if not _is_mark(text[at])]
        first, last = (letters[0], letters[-1] + 1) if letters else (stop, stop)
        spans += [(at, at + 1) for at in range(start, first)]
        spans += [(first, last)] if letters else []
        spans += [(at, at + 1) for at in range(last, stop)]
    return spans


def _is_mark(character: str) -> bool:
    """Whether a character is punctuation or a sign; what a token cannot spell alone is none."""
    return unicodedata.category(character)[0] in "PS" and character != "\ufffd"


@dataclass(frozen=True)
class Edges:
    """Which tokens show that a word begins with them, or has ended with them."""

    begins_V: np.ndarray
    ends_V: np.ndarray
    backward: bool

    @property
    def set_ids(self) -> np.ndarray:
        """B: the tokens that, read next, show that the word before is complete."""
        return np.flatnonzero(self.ends_V if self.backward else self.begins_V)

    def complete(self, token: int) -> bool:
        """Whether this token, read last, shows it already."""
        return bool((self.begins_V if self.backward else self.ends_V)[token])

    def shows(self, token: int) -> bool:
        """Whether this token, read next, is in B."""
        return bool((self.ends_V if self.backward else self.begins_V)[token])


def edges_of(tokenizer: TextTokenizer, order: str, marks: Marks) -> Edges:
    """What the tokens of a vocabulary show of words; special tokens show both."""
    begins_V = np.zeros(tokenizer.vocabulary, dtype=bool)
    ends_V = np.zeros(tokenizer.vocabulary, dtype=bool)
    model = json.loads(tokenizer.backend.to_str())["model"]
    prefix = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
    suffix = model.get("end_of_word_suffix") if model["type"] == "BPE" else None
    special = {*tokenizer.special_ids, tokenizer.bos_id, tokenizer.end_of_text_id}
    for token in tokenizer.ids.tolist():
        if token in special:
            begins_V[token] = ends_V[token] = True
        elif prefix:
            begins_V[token] = not (tokenizer.backend.id_to_token(token) or "").startswith(prefix)
        elif suffix:
            ends_V[token] = (tokenizer.backend.id_to_token(token) or "").endswith(suffix)
        else:
            text = tokenizer.token(token)
            begins_V[token] = _begins(text, marks)
            ends_V[token] = _begins(text[::-1], marks)
    return Edges(begins_V, ends_V, order == BACKWARD)


def _begins(text: str, marks: Marks) -> bool:
    if not text or text[0].isspace():
        return bool(text)
    joins = text[0] in _JOINERS and len(text) > 1 and text[1].isalnum()
    return marks == "apart" and _is_mark(text[0]) and not joins


def tokens_of_words(
    text: str, words: list[tuple[int, int]], spans_T2: np.ndarray, *, backward: bool
) -> list[Span]:
    """The tokens of each word, words that share one being one; `spans_T2` are the characters of
    each token, in the order of the text.

    Tokens of blanks alone belong to the word that is read after them, or to none at the end. A word
    without a token of its own (its characters are lost) joins a neighbour.
    """
    word_of = np.full(len(text) + 1, -1)
    for number, (start, stop) in enumerate(words):
        word_of[start:stop] = number
    owners: list[tuple[int, int] | None] = []  # first and last word of each token
    for start, stop in spans_T2.tolist():
        own = word_of[start:stop]
        own = own[own >= 0]
        owners.append((int(own[0]), int(own[-1])) if len(own) else None)
    joined: list[list[int]] = []  # first word, last word, first token, last token
    for token, owner in enumerate(owners):
        if owner is None:
            continue
        if joined and owner[0] <= joined[-1][1]:
            joined[-1][1], joined[-1][3] = max(joined[-1][1], owner[1]), token
        else:
            joined.append([*owner, token, token])
    result: list[Span] = []
    for number, (first_word, last_word, first, last) in enumerate(joined):
        before = joined[number - 1] if number else None
        behind = joined[number + 1] if number + 1 < len(joined) else None
        start = words[first_word if before else 0][0]
        lost = behind[0] - 1 if behind else len(words) - 1  # words up to there have no token
        stop = words[max(last_word, lost)][1]
        if backward:
            last = behind[2] if behind else len(owners)
        else:
            first = before[3] + 1 if before else 0
            last += 1
        result.append(Span(start, stop, first, last))
    return result


def edge_term(
    edges: Edges, ids_T: np.ndarray, log_mass_T: np.ndarray, at: int
) -> tuple[float, bool]:
    """log B at the edge before token `at`, and whether the tokens show that it is one; both arrays
    in the order of reading. 0 where nothing is left over."""
    if at == 0 or edges.complete(int(ids_T[at - 1])):
        return 0.0, True
    if at == len(ids_T) or edges.shows(int(ids_T[at])):
        return float(log_mass_T[at]), True
    return 0.0, False
