"""A stationary Markov chain: irreversible, yet exactly as hard backwards as forwards.

The exact model of either direction is known, so any arrow measured with them is an error of the
instrument.

Notable:
- The backward chain is P*[j, i] = pi_i P[i, j] / pi_j (Bayes); both directions give each window
  the same probability.
- From a cold window of n characters the first costs H(pi) and each other one the entropy rate h:
  the floor is (H(pi) + (n - 1) h) / n, in both directions.

Legend: N windows, T characters, V states (`ab...`).
"""

from __future__ import annotations

import string
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.data.synthetic.source import (
    Spelt,
    check_ids,
    check_integer,
    entropy,
    keyed_generator,
    sampling,
)
from lmlab.errors import UserError

_LETTERS = string.ascii_lowercase + string.ascii_uppercase


class MarkovChain(Spelt):
    """A random chain of first order; each row of `transitions` is a Dirichlet draw.

    Args:
        states: 2 to 52.
        seed: chooses the chain.
        concentration: of the Dirichlet; small makes rows peaked and the chain less reversible.

    Raises `UserError` for arguments out of range.
    """

    def __init__(self, states: int, seed: int, *, concentration: float = 0.5) -> None:
        check_integer("states", states, 2, len(_LETTERS))
        check_integer("seed", seed, 0)
        if not 0.01 <= concentration < np.inf:
            raise UserError(f"concentration is {concentration}; it must be at least 0.01")
        self.states = states
        self.alphabet = list(_LETTERS[:states])
        rng = keyed_generator("markov chain: transitions", seed)
        rows_VV = rng.dirichlet(np.full(states, concentration), size=states)
        # A trace of the uniform keeps every transition possible: irreducible, aperiodic, and no
        # infinite loss for a wrong guess.
        self.transitions: NDArray[np.float64] = 0.99 * rows_VV + 0.01 / states
        """P[i, j]: probability of j after i."""
        self.stationary: NDArray[np.float64] = _stationary(self.transitions)
        """pi: the distribution of each character alone."""

    @property
    def backward_transitions(self) -> NDArray[np.float64]:
        """P*[j, i]: probability of i before j."""
        joint_VV = self.stationary[:, None] * self.transitions
        return (joint_VV / self.stationary).T

    def sample(self, n: int, seed: int, length: int = 256) -> NDArray[np.int64]:
        """`n` independent stationary windows as ids, int64 (n, length)."""
        check_integer("length", length, 1)
        rng = sampling("markov chain: sample", n, seed)
        cumulative_VV = np.cumsum(self.transitions, axis=1)
        uniform_NT = rng.random((n, length))
        ids = np.empty((n, length), dtype=np.int64)
        last = self.states - 1  # a cumulative sum may end just below 1
        start = np.searchsorted(np.cumsum(self.stationary), uniform_NT[:, 0], side="right")
        ids[:, 0] = np.minimum(start, last)
        for t in range(1, length):
            steps_N = (cumulative_VV[ids[:, t - 1]] <= uniform_NT[:, t, None]).sum(1)
            ids[:, t] = np.minimum(steps_N, last)
        return ids

    def entropy_rate(self) -> float:
        """h in nats per character: the entropy of a character given the one before (or after)."""
        rows_V = np.array([entropy(row) for row in self.transitions])
        return float(self.stationary @ rows_V)

    def floor(self, length: int) -> float:
        """Nats per character of the best model on a cold window of `length` characters."""
        check_integer("length", length, 1)
        return (entropy(self.stationary) + (length - 1) * self.entropy_rate()) / length

    def score(
        self, ids_NT: ArrayLike, direction: Literal["forward", "backward"] = "forward"
    ) -> NDArray[np.float64]:
        """Nats of each character under the exact model of `direction`, (N, T).

        In the positions of the text as given: a backward model predicts the last character cold
        and each other from the one after it.
        """
        ids = check_ids(ids_NT, self.alphabet, None)
        if ids.shape[1] == 0:
            raise UserError("the windows hold no character; score at least one")
        nats = np.empty(ids.shape)
        if direction == "forward":
            nats[:, 0] = -np.log(self.stationary)[ids[:, 0]]
            nats[:, 1:] = -np.log(self.transitions)[ids[:, :-1], ids[:, 1:]]
        elif direction == "backward":
            nats[:, -1] = -np.log(self.stationary)[ids[:, -1]]
            nats[:, :-1] = -np.log(self.backward_transitions)[ids[:, 1:], ids[:, :-1]]
        else:
            raise UserError(f"direction is {direction!r}; choose 'forward' or 'backward'")
        return nats

    def surprisal(self, ids_NT: ArrayLike) -> NDArray[np.float64]:
        """-ln P of whole windows, nats, (N,); the same from either end."""
        return self.score(ids_NT).sum(axis=1)


def _stationary(transitions_VV: NDArray[np.float64]) -> NDArray[np.float64]:
    """pi with pi P = pi and sum 1, by least squares over both conditions."""
    states = len(transitions_VV)
    conditions = np.vstack([transitions_VV.T - np.eye(states), np.ones(states)])
    pi_V = np.linalg.lstsq(conditions, np.append(np.zeros(states), 1.0), rcond=None)[0]
    return pi_V / pi_V.sum()
