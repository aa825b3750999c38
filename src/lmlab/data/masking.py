"""Masks: which tokens of a window a masked model has to predict, and what it sees instead.

Notable:
- A mask is a pure function of the window and a key (seed, step, row): no state, exact on resume.
- The number of chosen tokens has exactly the asked-for share of the ordinary ones as its mean, and
  is at least one where there is an ordinary token. Special tokens are never chosen.
- What is seen (mask, random token, the token itself) is decided for each chosen token alone, with
  exactly the asked-for probabilities. Random tokens are ordinary ones.
- Whole words: a word is a token and what continues it. In byte-level BPE and characters, letters,
  digits and bytes outside ASCII continue each other; in WordPiece, what begins with ## continues.

Shapes: n tokens of a window, W words of it, V vocabulary.
"""

from __future__ import annotations

import json

import numpy as np

from lmlab.config.objective import MaskingConfig
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.windows import mix
from lmlab.errors import UserError

_CHOICE, _COUNT, _SEEN, _RANDOM = 1, 2, 3, 4  # streams of random numbers of a key


def random_bits(key: int, stream: int, count: int) -> np.ndarray:
    """`count` independent uint64 of a key and stream."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        start = mix(np.array([key], dtype=np.uint64) + np.uint64(stream << 56))
        return mix(mix(start + np.arange(1, count + 1, dtype=np.uint64)))


def uniform(key: int, stream: int, count: int) -> np.ndarray:
    """`count` independent floats in [0, 1) of a key and stream."""
    return (random_bits(key, stream, count) >> np.uint64(11)) * 2.0**-53


class Masking:
    """Draws the masks of windows for a tokenizer that has a mask token."""

    def __init__(self, config: MaskingConfig, tokenizer: TextTokenizer) -> None:
        if tokenizer.mask_id is None:
            raise UserError("the tokenizer has no mask token; give TextTokenizer.with_mask()")
        self.config, self.mask_id = config, tokenizer.mask_id
        self._special_V = np.zeros(tokenizer.vocabulary, dtype=bool)
        self._special_V[tokenizer.special_ids] = True
        self._ordinary = np.flatnonzero(~self._special_V)
        self._begins_V, self._letter_end_V = (
            _word_tables(tokenizer) if config.whole_words else (None, None)
        )

    def draw(self, ids_n: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
        """What the model sees of a window (n), and which of its tokens it has to predict (n)."""
        chosen_n = self._chosen(ids_n, key)
        seen_n = ids_n.copy()
        share_n = uniform(key, _SEEN, len(ids_n))
        masked_n = chosen_n & (share_n < self.config.mask)
        random_n = chosen_n & ~masked_n & (share_n < self.config.mask + self.config.random)
        seen_n[masked_n] = self.mask_id
        drawn_n = random_bits(key, _RANDOM, len(ids_n)) % np.uint64(len(self._ordinary))
        seen_n[random_n] = self._ordinary[drawn_n[random_n].astype(np.int64)]
        return seen_n, chosen_n

    def ordinary(self, ids_n: np.ndarray) -> np.ndarray:
        """Which tokens are not special (n)."""
        return ~self._special_V[ids_n]

    def _chosen(self, ids_n: np.ndarray, key: int) -> np.ndarray:
        ordinary = np.flatnonzero(self.ordinary(ids_n))
        chosen_n = np.zeros(len(ids_n), dtype=bool)
        if len(ordinary) == 0:
            return chosen_n
        wanted = self.config.rate * len(ordinary)
        rounding = float(uniform(key, _COUNT, 1)[0])
        if not self.config.whole_words:
            count = max(1, int(wanted + rounding))  # rounded up as often as its fraction says
            order = np.argsort(random_bits(key, _CHOICE, len(ordinary)))
            chosen_n[ordinary[order[:count]]] = True
            return chosen_n
        word_n = self.words(ids_n)
        word_of = np.unique(word_n[ordinary], return_inverse=True)[1]
        length_W = np.bincount(word_of)
        order_W = np.argsort(random_bits(key, _CHOICE, len(length_W)))
        before_W = np.cumsum(length_W[order_W]) - length_W[order_W]
        # the word that crosses the wanted number is taken as often as the share of it that is
        # wanted, so that the mean number of tokens is right
        taken = before_W + rounding * length_W[order_W] < wanted
        taken[0] = True
        chosen_n[ordinary[np.isin(word_of, order_W[taken])]] = True
        return chosen_n

    def words(self, ids_n: np.ndarray) -> np.ndarray:
        """Number of the word of each token (n), counted from 0; special tokens are their own."""
        assert self._begins_V is not None
        assert self._letter_end_V is not None
        begins_n = self._begins_V[ids_n].copy()
        begins_n[1:] |= ~self._letter_end_V[ids_n[:-1]]
        special_n = self._special_V[ids_n]
        begins_n |= special_n
        begins_n[1:] |= special_n[:-1]
        begins_n[:1] = True
        return np.cumsum(begins_n) - 1


def _word_tables(tokenizer: TextTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Of each token (V): whether it begins a word whatever is before, whether it may go on."""
    described = json.loads(tokenizer.backend.to_str())
    model = described["model"]
    pieces = [tokenizer.backend.id_to_token(i) or "" for i in range(tokenizer.vocabulary)]
    if tokenizer.reversed_text:
        pieces = [piece[::-1] for piece in pieces]
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        begins_V = np.array([not piece.startswith(prefix) for piece in pieces])
        return begins_V, np.ones(len(pieces), dtype=bool)
    byte_of = _byte_level_bytes() if '"ByteLevel"' in json.dumps(described) else {}

    def letter(character: str) -> bool:
        byte = byte_of.get(character)
        if byte is None:
            return character.isalnum()
        return byte >= 0x80 or chr(byte).isalnum()

    begins_V = np.array([not piece or not letter(piece[0]) for piece in pieces])
    return begins_V, np.array([bool(piece) and letter(piece[-1]) for piece in pieces])


def _byte_level_bytes() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary.

    Printable Latin-1 stands for itself; all other bytes, in their order, for U+0100 and on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
