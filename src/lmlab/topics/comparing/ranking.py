"""Kinds of models by one measure: how far they lead each other, and which places they may have.

Notable:
- A kind is one model, or several runs that differ by their seed. Runs of two kinds are no pairs,
  even where they have a seed in common: each kind has a seed variance of its own, and the texts are
  shared (`random_effects.two_way_difference`). If a common seed makes runs alike, the interval is
  wider than it need be. (Pairs of 2 seeds named a difference of equal kinds, 3 of them, in 14 % of
  trials instead of 5.)
- All pairs of one measure are a family. The adjusted intervals hold all differences at once with
  95 % (Bonferroni: each at 1 - 0.05 / pairs). Not Tukey's range: it supposes one variance and one
  number of degrees of freedom for all pairs, and text makes a pair of like models far more exact
  than one of unlike. Not Holm's p-values: intervals would not agree with them. For many degrees of
  freedom these intervals are 2 % wider than Tukey's for 3 kinds, 3 % for 5.
- A kind's best and worst place follow from the pairs that are decided so, together with 95 %
  (Klein, Wright and Wieczorek 2020, J. R. Stat. Soc. C 69).

Shapes: S runs, C clusters of text or items. Arrays only; nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lmlab.numerics.bounded import share_interval, unless_all_agree
from lmlab.numerics.random_effects import Interval, two_way_difference, two_way_interval
from lmlab.numerics.verdicts import MINIMUM_SEEDS, Evidence, on_text, verdict

_ERROR = 0.05


@dataclass(frozen=True)
class Discordant:
    """Items that one kind has right and the other wrong; of kinds of one model each."""

    better: int
    worse: int
    p: float
    """McNemar's exact test: two-sided binomial, adjusted for the number of pairs (Holm)."""


@dataclass(frozen=True)
class Pair:
    """Two kinds. `lead` is how far the better one is ahead in this measure, so not negative."""

    better: str
    worse: str
    lead: Interval
    """95 % for this pair alone."""
    adjusted: Interval
    """95 % for all pairs together."""
    runs: tuple[int, int]
    """Of the better one and of the worse one."""
    discordant: Discordant | None = None

    derived = ("verdict",)

    @property
    def verdict(self) -> str:
        """In words, from the adjusted interval; of the given models where runs are few."""
        evidence, about = Evidence.of(self.adjusted), None
        if min(self.runs) < MINIMUM_SEEDS and self.runs != (1, 1):  # runs are no pairs
            ours, theirs = self.runs
            about = f" for {ours} run{'s' * (ours > 1)} of {self.better} and {theirs} of "
            about += f"{self.worse} {on_text(evidence.documents)}"
        return verdict(
            evidence,
            above=f"{self.better} is better than {self.worse}",
            below=f"{self.worse} is better than {self.better}",
            seen=(f"{self.better} is ahead of {self.worse}", f"{self.worse} is ahead"),
            size=lambda value: f"{value:.4g}",
            about=about,
        )

    @property
    def is_decided(self) -> bool:
        """Whether the adjusted interval excludes zero."""
        return self.adjusted.low is not None and self.adjusted.low > 0


@dataclass(frozen=True)
class Ranking:
    """Kinds by one measure, the best first; what stands by kind is in that order."""

    measure: str
    """With its unit."""
    lower_is_better: bool
    names: tuple[str, ...]
    values: tuple[Interval, ...]
    """Each for itself, over its own runs and the text."""
    by_run: tuple[tuple[float, ...], ...]
    pairs: tuple[Pair, ...]

    derived = ("places",)

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """The best and the worst place that each kind may have, all together with 95 %."""
        decided = [pair for pair in self.pairs if pair.is_decided]
        return tuple(
            (
                1 + sum(pair.worse == name for pair in decided),
                len(self.names) - sum(pair.better == name for pair in decided),
            )
            for name in self.names
        )

    @property
    def runs(self) -> int:
        """Of the kind that has the fewest."""
        return min(map(len, self.by_run))

    @property
    def is_general(self) -> bool:
        """Whether there are runs and documents enough to speak of others."""
        return all(Evidence.of(pair.adjusted).general for pair in self.pairs)


def ranked(
    values: Mapping[str, NDArray[np.float64]],
    measure: str,
    *,
    lower_is_better: bool,
    weights_C: NDArray[np.float64] | None = None,
    documents_C: NDArray[np.int64] | None = None,
    share: bool = False,
) -> Ranking:
    """Ranks kinds, given their values (S, C), in the unit of `measure`, on the same clusters.

    `weights_C` and `documents_C` as of `random_effects.two_way_interval`; `share`: the mean is a
    share of 0 to 1.
    """
    own = {
        name: two_way_interval(v_SC, weights_C=weights_C, documents_C=documents_C)
        for name, v_SC in values.items()
    }
    sign = 1 if lower_is_better else -1
    order = sorted(values, key=lambda name: sign * own[name].estimate)
    pairs = list(combinations(order, 2))

    def lead(better: str, worse: str, level: float) -> Interval:
        ahead = (values[worse], values[better])
        interval = two_way_difference(
            *ahead[::sign], weights_C=weights_C, documents_C=documents_C, level=level
        )
        if documents_C is not None:
            return interval
        return unless_all_agree(interval, ahead[0].mean(0) - ahead[1].mean(0))  # of items

    return Ranking(
        measure=measure,
        lower_is_better=lower_is_better,
        names=tuple(order),
        values=tuple(share_interval(own[name]) if share else own[name] for name in order),
        by_run=tuple(
            tuple(np.average(values[name], axis=1, weights=weights_C).tolist()) for name in order
        ),
        pairs=tuple(
            Pair(
                *pair,
                lead(*pair, 1 - _ERROR),
                lead(*pair, 1 - _ERROR / len(pairs)),
                runs=(len(values[pair[0]]), len(values[pair[1]])),
            )
            for pair in pairs
        ),
    )


def design_words(runs: int, documents: int | None) -> str:
    """What a comparison of so few runs or documents cannot say; empty where there are enough.

    `documents` None: it is over items of a task.
    """
    weak = []
    if runs == 1:
        weak.append(
            "one run of a kind: nothing is said of other seeds, which alone make two models of one "
            "kind differ"
        )
    elif runs < MINIMUM_SEEDS:
        weak.append(
            f"{runs} runs a kind: the intervals cover other seeds but are wide, and no verdict is "
            f"given below {MINIMUM_SEEDS}"
        )
    if documents is not None and documents < 5:
        weak.append(
            f"{documents} document{'s' * (documents > 1)}: nothing is said of other texts, which "
            "takes 5"
        )
    return f"A weak design: {'; '.join(weak)}." if weak else ""
