"""What a comparison of so many seeds and documents would show.

Legend: S seeds, D documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmlab.numerics.power import detectable_effect, least_number, power
from lmlab.numerics.random_effects import sum_degrees_of_freedom


@dataclass(frozen=True)
class Noise:
    """Standard deviations of a difference, in its unit; text None: the text is given."""

    seed: float
    document: float | None
    section: float
    residual: float
    """Of seed and section together."""
    sections: float
    """Sections a document."""
    sides: int = 1
    """2: the seeds of both sides are no pairs, each side has its own; 1: differences of pairs."""

    def mean_of(self, seeds: int, documents: int | None) -> tuple[float, float]:
        """Standard error and degrees of freedom of the mean over seeds and documents.

        With the variances a (seed), d (document), c (section), e (rest) and m sections a document:
        a/S + d/D + c/(D m) + e/(S D m), which is what `two_way_interval` estimates, and its degrees
        of freedom at these variances. `documents` None: a/S. The degrees of freedom of a are
        S - 1 of each side.
        """
        df_seed = float(self.sides * (seeds - 1))
        if documents is None or self.document is None:
            return self.seed / math.sqrt(seeds), df_seed
        rest = self.residual**2 / (seeds * documents * self.sections)
        of_seeds = self.seed**2 / seeds
        of_text = self.document**2 / documents + self.section**2 / (documents * self.sections)
        df = sum_degrees_of_freedom(of_seeds + rest, of_text + rest, df_seed, float(documents - 1))
        return math.sqrt(of_seeds + of_text + rest), df

    def detectable(self, seeds: int, documents: int | None, *, wanted: float) -> float:
        """The difference that is seen with probability `wanted`."""
        return detectable_effect(*self.mean_of(seeds, documents), wanted=wanted)

    def power(self, effect: float, seeds: int, documents: int | None) -> float:
        """The probability that `effect` is seen."""
        return power(effect, *self.mean_of(seeds, documents))

    def seeds_for(self, effect: float, documents: int | None, *, wanted: float) -> int | None:
        """The least number of seeds, from 3 on, that shows `effect`; None: no number does."""
        return least_number(lambda s: self.power(effect, s, documents) >= wanted, 3)

    def documents_for(self, effect: float, seeds: int, *, wanted: float) -> int | None:
        """The least number of documents, from 5 on, that shows `effect`; None: no number does."""
        if self.document is None:
            return None
        return least_number(lambda d: self.power(effect, seeds, d) >= wanted, 5)
