"""A K-to-1 map: forwards the answer is certain, backwards K causes are equally likely.

A string is `length` source letters, a separator, and the image of each letter under a fixed map
that sends exactly K letters to each image letter. Read forwards the images cost nothing; read
backwards each source letter costs ln K. The whole string costs the same both ways, as it must:
an irreversible map moves loss from one place to another and makes no arrow of its own.

Legend: N strings, T = 2 length + 1 characters.
"""

from __future__ import annotations

import math
import string

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.data.synthetic.source import Spelt, check_ids, check_integer, keyed_generator, sampling
from lmlab.errors import UserError


class ManyToOne(Spelt):
    """`length` random letters, `|`, and their images under a random `fan_in`-to-1 map.

    Args:
        images: how many image letters (upper case).
        fan_in: K, how many source letters (lower case) share an image; images * fan_in <= 26.
        length: letters in each half.
        seed: chooses the map.

    Raises `UserError` where these do not fit.
    """

    def __init__(self, images: int, fan_in: int, length: int, seed: int) -> None:
        check_integer("images", images, 1)
        check_integer("fan_in", fan_in, 1)
        check_integer("length", length, 1)
        check_integer("seed", seed, 0)
        letters = images * fan_in
        if letters > len(string.ascii_lowercase):
            raise UserError(
                f"images * fan_in is {letters}; there are only {len(string.ascii_lowercase)} "
                "source letters, choose smaller numbers"
            )
        self.images, self.fan_in, self.length, self.letters = images, fan_in, length, letters
        self.alphabet = [
            *string.ascii_lowercase[:letters],
            *string.ascii_uppercase[:images],
            "|",
        ]
        shuffled = keyed_generator("many to one: map", seed).permutation(letters)
        self.map: NDArray[np.int64] = (shuffled % images).astype(np.int64)
        """Image number of each source letter."""

    def sample(self, n: int, seed: int) -> NDArray[np.int64]:
        """`n` strings as ids, int64 (n, 2 length + 1)."""
        rng = sampling("many to one: sample", n, seed)
        source_NL = rng.integers(self.letters, size=(n, self.length))
        separator = np.full((n, 1), self.letters + self.images)
        return np.concatenate([source_NL, separator, self.letters + self.map[source_NL]], axis=1)

    def floor(self) -> float:
        """Entropy in nats per character of the whole string, the same in both directions."""
        return self.length * math.log(self.letters) / (2 * self.length + 1)

    def surprisal(self, ids_NT: ArrayLike) -> NDArray[np.float64]:
        """-ln P of whole strings, nats, (N,): the same for each string of the map."""
        ids = check_ids(ids_NT, self.alphabet, 2 * self.length + 1)
        source_NL, image_NL = ids[:, : self.length], ids[:, self.target_span]
        possible_N = (
            np.all(source_NL < self.letters, axis=1)
            & (ids[:, self.length] == self.letters + self.images)
            & np.all(
                image_NL == self.letters + self.map[np.minimum(source_NL, self.letters - 1)], axis=1
            )
        )
        return np.where(possible_N, self.length * math.log(self.letters), np.inf)

    @property
    def target_span(self) -> slice:
        """The half that is read last, in reading order: the same slice for both directions."""
        return slice(self.length + 1, 2 * self.length + 1)
