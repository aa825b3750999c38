"""Counting beside the arrow: the arrow of counts, and the models of each direction above them.

What is counted and compared is `topics.counting.baseline`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from lmlab.data.order import BACKWARD
from lmlab.numerics.verdicts import verdict
from lmlab.progress import track
from lmlab.studies.corpora import Corpus
from lmlab.topics.arrow.arrow import Arrow, arrow_of_time, per_cent
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.counting.baseline import (
    Above,
    NGramBaseline,
    NGramBaselines,
    NGramFit,
    above_baseline,
    ngram_baselines,
)
from lmlab.topics.counting.ngram import Smoothing
from lmlab.topics.scoring.score import Score

Text = tuple[Corpus, str, int]
"""What is counted and scored: corpus, tokenizer, context."""


@dataclass(frozen=True)
class FitWithArrow(NGramFit):
    """The n-gram model of one smoothing, with the arrow of its counts."""

    arrow: Arrow
    """Of these counts. There are no seeds."""

    derived = ("verdict",)

    @property
    def verdict(self) -> str:
        """The finding on these counts in words. Counts have no seeds: they are what they are."""
        return verdict(
            replace(self.arrow.evidence, seeds=None),
            above="forward is easier for these counts",
            below="backward is easier for these counts",
            size=per_cent,
        )


@dataclass(frozen=True)
class AboveCounting:
    """Nats per token of a comparison's models above the best n-gram model of their text.

    Attributes:
        smoothing, order: of the n-gram model.
        forward, other: of the models of each direction; negative is better. `other` is None for an
            order that is neither forward nor backward: nothing is counted for it.
    """

    smoothing: Smoothing
    order: int
    forward: Above
    other: Above | None

    @property
    def sides(self) -> tuple[Above, ...]:
        """Of the directions that are counted."""
        return (self.forward,) if self.other is None else (self.forward, self.other)


@dataclass(frozen=True)
class CountedText:
    """What counting makes of one text: the n-gram model of each smoothing."""

    corpus: str
    tokenizer: str
    context: int
    tokens: int
    """Scored."""
    fits: tuple[FitWithArrow, ...]
    best: Smoothing
    """With the least loss on validation text: the baseline."""

    @property
    def baseline(self) -> FitWithArrow:
        return next(fit for fit in self.fits if fit.smoothing == self.best)


def with_arrow(baseline: NGramBaseline) -> FitWithArrow:
    """The fit of a baseline, with the arrow of its nats on the windows that it scored."""
    fit = {field.name: getattr(baseline.fit, field.name) for field in fields(NGramFit)}
    forward_M, backward_M, clusters = (
        baseline.nats_forward_M, baseline.nats_backward_M, baseline.clusters,
    )  # fmt: skip
    arrow = arrow_of_time(forward_M, backward_M, clusters.cluster_N, clusters.document_N)
    return FitWithArrow(**fit, arrow=arrow)


def above_counting(
    baseline: NGramBaseline, order: str, forward: Sequence[Score], other: Sequence[Score]
) -> AboveCounting:
    """Compares the models of one comparison, a score a seed, with counting in their direction."""
    return AboveCounting(
        smoothing=baseline.fit.smoothing,
        order=baseline.fit.order,
        forward=above_baseline(baseline, forward, "forward"),
        other=above_baseline(baseline, other, "backward") if order == BACKWARD else None,
    )


def counted(config: ArrowConfig, texts: Iterable[Text]) -> dict[Text, NGramBaselines]:
    """The n-gram baselines of each text, once for all its models. A bar shows the progress."""
    distinct = dict.fromkeys(texts)
    baselines: dict[Text, NGramBaselines] = {}
    if not distinct:
        return baselines
    with track("n-gram baselines", float(len(distinct)), "texts") as bar:
        for corpus, tokenizer, context in distinct:
            baselines[corpus, tokenizer, context] = ngram_baselines(
                corpus.store, split=config.split, context=context, max_windows=config.windows
            )
            bar.advance()
    return baselines


def counted_text(text: Text, baselines: NGramBaselines) -> CountedText:
    """What the result has of the baselines of a text."""
    corpus, tokenizer, context = text
    fits, best = tuple(map(with_arrow, baselines.of_smoothings)), baselines.best
    return CountedText(
        corpus.label, tokenizer, context, int(best.tokens_M.sum()), fits, best.fit.smoothing
    )
