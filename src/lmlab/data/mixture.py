"""Training windows of several sources, each source drawn as often as a temperature says.

For training on several languages at once. A source of n_c tokens has the share

    p_c = n_c ** (1 / T) / sum over sources of n ** (1 / T)

of the training windows: T = 1 in proportion to its tokens, larger T nearer to equal shares.
Languages are usually drawn with 1 / T between 0.7 (multilingual BERT, Devlin 2018; Conneau and
Lample 2019) and 0.3 (Conneau et al. 2020, "Unsupervised cross-lingual representation learning at
scale").

Notable:
- A window lies within one source: each source's part of the stream is cut on its own.
- The batch is a pure function of (seed, step). Windows are drawn in periods of P slots, of which
  each source has P p_c (rounded, at least one), in an order keyed by (seed, period). So the n-th
  window that a source gives is known without the steps before, and its epochs are as those of
  `TrainingWindows`: every window once, in an order keyed by (seed, source, epoch).
- The order of a period is kept for the steps that share it; it is computed from its key again
  wherever it is not there.

Shapes: C sources, P slots of a period, B rows of a batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lmlab.data.store import SourcePart, Split
from lmlab.data.windows import TrainingWindows, key, keyed_bijection
from lmlab.errors import UserError

PERIOD, LONGEST_PERIOD = 1 << 12, 1 << 20
_LEAST_SLOTS = 16
_ORDER, _WINDOWS = 0x0DE2, 0x317D0  # what a key is for

_window_key = lru_cache(maxsize=1 << 14)(key)


def training_sources(split: Split) -> tuple[SourcePart, ...]:
    """The sources of a split, to be sampled from. `UserError` where the store has one source."""
    if split.sources:
        return split.sources
    raise UserError(
        f"{split.store.path} has one source, and `source_temperature` is for several. Prepare a "
        "store of several (lmlab prepare --text A B), or leave it out."
    )


def source_shares(tokens_C: np.ndarray, temperature: float) -> np.ndarray:
    """The share (C) of the training windows of sources of so many tokens."""
    logarithm_C = np.log(tokens_C) / temperature
    weight_C = np.exp(logarithm_C - logarithm_C.max())
    return weight_C / weight_C.sum()


def slots(share_C: np.ndarray) -> np.ndarray:
    """Slots (C) of a period for each source, by the largest remainder; at least one.

    The period is PERIOD slots, longer where the rarest source would have fewer than 16 of them
    (and be rounded too much), up to LONGEST_PERIOD.
    """
    period = PERIOD
    while period * share_C.min() < _LEAST_SLOTS and period < LONGEST_PERIOD:
        period *= 2
    assert len(share_C) <= period
    slots_C = np.maximum(np.floor(period * share_C).astype(np.int64), 1)
    missing = period - int(slots_C.sum())
    if missing >= 0:
        slots_C[np.argsort(slots_C - period * share_C, kind="stable")[:missing]] += 1
    for _ in range(-missing):  # sources below one slot were rounded up; the largest pay
        slots_C[slots_C.argmax()] -= 1
    return slots_C


@lru_cache(maxsize=4)
def _period(slots_C: tuple[int, ...], seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Source (P) of each slot of a period, and how many slots (P) before it are of that source."""
    last_C = np.cumsum(slots_C)
    size = int(last_C[-1])
    place_P = keyed_bijection(np.arange(size), size, key(seed, _ORDER, number))
    source_P = np.searchsorted(last_C, place_P, side="right")
    rank_P = np.empty(size, dtype=np.int64)
    rank_P[np.argsort(source_P, kind="stable")] = np.concatenate([np.arange(n) for n in slots_C])
    return source_P, rank_P


class MixedWindows(TrainingWindows):
    """The training windows of a split of several sources, and the batch of each step.

    Windows are numbered through all sources, in the order of the sources.
    """

    def __init__(
        self, split: Split, context: int, *, batch: int, seed: int, temperature: float
    ) -> None:
        super().__init__(split, context, batch=batch, seed=seed)
        assert temperature > 0
        self.sources = training_sources(split)
        tokens_C = np.array([source.tokens for source in self.sources])
        self.windows_C = tokens_C // context
        for source in self.sources:
            if source.tokens < context:
                raise UserError(
                    f"{split.store.path}: source {source.name} has {source.tokens} tokens in split "
                    f"{split.name}, not one window of {context}. Use a shorter `context`, give it "
                    "more text, or prepare the store without it."
                )
        self.count = int(self.windows_C.sum())
        self.slots_C = slots(source_shares(tokens_C, temperature))
        self._first_C = np.cumsum(self.windows_C) - self.windows_C

    def indices(self, step: int) -> np.ndarray:
        """Window numbers (B,) of the batch of `step` (counted from 0)."""
        number_B, slot_B = np.divmod(
            step * self.batch + np.arange(self.batch), int(self.slots_C.sum())
        )
        source_B, drawn_B = np.empty((2, self.batch), dtype=np.int64)
        for number in np.unique(number_B):
            source_P, rank_P = _period(tuple(self.slots_C.tolist()), self.seed, int(number))
            rows = number_B == number
            source_B[rows] = source_P[slot_B[rows]]
            drawn_B[rows] = number * self.slots_C[source_B[rows]] + rank_P[slot_B[rows]]
        epoch_B, index_B = np.divmod(drawn_B, self.windows_C[source_B])
        key_B = np.array(
            [
                _window_key(self.seed, _WINDOWS, source, epoch)
                for source, epoch in zip(source_B.tolist(), epoch_B.tolist(), strict=True)
            ]
        )
        within_B = keyed_bijection(index_B, self.windows_C[source_B], key_B)
        return self._first_C[source_B] + within_B

    def start(self, index: int) -> int:
        """Where window `index` begins in the split's stream."""
        source = int(np.searchsorted(self._first_C, index, side="right")) - 1
        within = index - int(self._first_C[source])
        return self.sources[source].first_token + within * self.context

    def summary(self, steps: int) -> str:
        """The share of each source, and how often its text is read in so many steps."""
        share_C = self.slots_C / self.slots_C.sum()
        epochs_C = share_C * steps * self.batch / self.windows_C
        return ", ".join(
            f"{source.name} {share:.1%} ({epochs:.2g} epochs)"
            for source, share, epochs in zip(self.sources, share_C, epochs_C, strict=True)
        )
