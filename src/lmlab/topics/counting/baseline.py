"""What counting alone makes of the windows that models are scored on, and whether a model beats it.

For each smoothing, the order is chosen on validation text, and the strength where there is one. The
baseline that a model must beat is the smoothing that is best on validation text.

Legend: M windows, T tokens, K orders, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.data.order import BACKWARD
from lmlab.data.store import TokenStore
from lmlab.data.windows import EvaluationWindows, evaluation_windows
from lmlab.errors import UserError
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.numerics.verdicts import MINIMUM_SEEDS, Evidence, on_text, reach
from lmlab.topics.counting.counts import NGramCounts
from lmlab.topics.counting.ngram import (
    DIRECTIONS,
    SMOOTHINGS,
    WITH_STRENGTH,
    Direction,
    Smoothing,
    WindowContexts,
    in_direction,
)
from lmlab.topics.scoring.difference import difference_per_token
from lmlab.topics.scoring.score import Score

STRENGTHS = tuple(2.0**power for power in range(-3, 19))
"""What a strength is chosen from. The loss is flat near its least, so steps of 2 suffice."""
VALIDATION_TOKENS = 1 << 18
"""About as many tokens of validation text choose the order and the strength."""
LONGEST = 6
"""Orders go up to this."""
KNESER_NEY: tuple[Smoothing, ...] = ("modified Kneser-Ney", "Kneser-Ney")
"""What a study counts that asks nothing of counts but what they can do."""

WORSE = "worse than counting"


@dataclass(frozen=True)
class NGramFit:
    """The n-gram model of one smoothing, and its loss on the windows that models are scored on."""

    smoothing: Smoothing
    order: int
    """With the least loss on validation text, both directions together."""
    strength: float | None
    """Likewise; None of a smoothing without one."""
    validation_nats: tuple[float, ...]
    """Nats per token there, mean of both directions, for order 1, 2 and so on."""
    fitted_tokens: int
    nats_per_token_forward: float
    nats_per_token_backward: float

    @property
    def nats_per_token(self) -> float:
        """Mean of both directions."""
        return (self.nats_per_token_forward + self.nats_per_token_backward) / 2


@dataclass(frozen=True)
class NGramBaseline:
    """The n-gram model of one smoothing, with its nats on each window."""

    fit: NGramFit
    nats_forward_M: NDArray[np.float64]
    nats_backward_M: NDArray[np.float64]
    tokens_M: NDArray[np.int64]
    clusters: Clusters

    def above(self, nats_SM: ArrayLike, direction: Direction) -> Interval:
        """Nats per token of models above this baseline's, with its 95 % interval.

        Args:
            nats_SM: nats of each window, a row a seed, of models that give each token a
                probability from the tokens before it in `direction`. A masked model's
                pseudo-likelihood is another quantity, and no such sum.

        Raises `UserError` for other windows than these.
        """
        nats = np.atleast_2d(np.asarray(nats_SM, dtype=np.float64))
        own_M = self.nats_forward_M if direction == "forward" else self.nats_backward_M
        if nats.ndim != 2 or nats.shape[1:] != own_M.shape:
            raise UserError(
                f"nats_SM has shape {nats.shape}, but the baseline scored {len(own_M)} windows; "
                "score the same windows"
            )
        own_SM = np.broadcast_to(own_M, nats.shape)
        return difference_per_token(nats, own_SM, self.tokens_M, self.clusters)


@dataclass(frozen=True)
class NGramBaselines:
    """The baselines of several smoothings, on the same windows."""

    of_smoothings: tuple[NGramBaseline, ...]

    @property
    def best(self) -> NGramBaseline:
        """The one with the least loss on validation text: what counting can do."""
        return min(self.of_smoothings, key=lambda each: min(each.fit.validation_nats))


@dataclass(frozen=True)
class Above:
    """How far the models of one direction are above counting, in nats per token.

    Attributes:
        interval: over seeds and text. With two or three seeds it is wide, whatever the text says.
        these: of the mean of just these models, over text alone.
    """

    interval: Interval
    these: Interval

    derived = ("verdict",)

    @property
    def verdict(self) -> str:
        """Over seeds where there are enough of them and they decide; else, of these models."""
        general, these = Evidence.of(self.interval), Evidence.of(self.these)
        if general.seeds is not None and general.seeds >= MINIMUM_SEEDS:
            decided = _SAID.get(general.finding)
            if decided:
                return decided + reach(general.seeds, general.documents)
        if these.finding == "none":
            return "no interval"
        said = _SAID.get(these.finding, "not decided")
        return f"{said}, for these models {on_text(these.documents)}"

    @property
    def is_worse(self) -> bool:
        """Whether these models are above counting, as far as this text tells."""
        return self.verdict.startswith(WORSE)


_SAID = {"above": WORSE, "below": "better than counting"}


@dataclass(frozen=True)
class AgainstCounting:
    """The models of a study against the best Kneser-Ney model of their text, on the same windows.

    Masked models are not among them: they have no joint likelihood.
    """

    fit: NGramFit
    split: str
    """Scored."""
    tokens: int
    """Scored."""
    above: dict[str, Above]
    """By what the study calls the models, a run a seed."""

    @property
    def worse(self) -> dict[str, Above]:
        """The models that have not learnt what counting gives."""
        return {name: above for name, above in self.above.items() if above.is_worse}


def ngram_baselines(
    store: TokenStore,
    *,
    split: str,
    context: int,
    longest: int = LONGEST,
    smoothings: tuple[Smoothing, ...] = SMOOTHINGS,
    max_windows: int | None = None,
) -> NGramBaselines:
    """Fits n-grams to a store's train split and scores the evaluation windows of `split`.

    The train split is counted as one ring, end-of-text tokens included. One order and strength
    serve both directions, those with the least sum of both losses on a fixed sample of validation
    windows, so that neither direction is favoured. Where `split` is "validation", they were chosen
    on text that is scored here.

    `context` is the window in tokens and `max_windows` a fixed random sample of windows, as in
    `topics.scoring.score`.

    Raises `UserError` if a split is missing or empty.
    """
    train = store.split("train")
    if train.tokens == 0:
        raise UserError(f"{store.path}: split train has no tokens to fit n-grams to")
    windows = _filled(evaluation_windows(store.split(split), context, max_windows=max_windows))
    sample = _filled(
        evaluation_windows(
            store.split("validation"), context, max_windows=max(1, VALIDATION_TOKENS // context)
        )
    )
    stream = train.read(0, train.tokens)
    ids_T = np.concatenate([_ids(sample), _ids(windows)])
    length_M = np.concatenate([sample.length_M, windows.length_M])
    start_M = np.cumsum(length_M) - length_M
    candidates: list[tuple[Smoothing, float | None]] = [
        (smoothing, strength)
        for smoothing in smoothings
        for strength in (STRENGTHS if smoothing in WITH_STRENGTH else (None,))
    ]
    nats_KM: dict[tuple[Smoothing, float | None, Direction], NDArray[np.float64]] = {}
    for direction in DIRECTIONS:
        # One direction's counts at a time: they are the memory this takes
        counts = NGramCounts(
            in_direction(stream, direction), vocabulary=store.vocabulary, order=longest
        )
        looked_up = WindowContexts(counts, ids_T, length_M, direction)
        for smoothing, strength in candidates:
            nats_KT = looked_up.nats(smoothing, strength)
            nats_KM[smoothing, strength, direction] = np.add.reduceat(nats_KT, start_M, axis=1)
    first = len(sample)
    tokens = int(sample.length_M.sum())
    validation_K = {
        each: np.sum([nats_KM[*each, d][:, :first] for d in DIRECTIONS], axis=(0, 2)) / (2 * tokens)
        for each in candidates
    }
    baselines = []
    for smoothing in smoothings:
        _, strength = min(
            (each for each in candidates if each[0] == smoothing),
            key=lambda each: validation_K[each].min(),
        )
        losses_K = validation_K[smoothing, strength]
        row = int(losses_K.argmin())
        forward_M, backward_M = (nats_KM[smoothing, strength, d][row, first:] for d in DIRECTIONS)
        fit = NGramFit(
            smoothing=smoothing,
            order=row + 1,
            strength=strength,
            validation_nats=tuple(losses_K.tolist()),
            fitted_tokens=train.tokens,
            nats_per_token_forward=float(forward_M.sum() / windows.length_M.sum()),
            nats_per_token_backward=float(backward_M.sum() / windows.length_M.sum()),
        )
        baselines.append(
            NGramBaseline(fit, forward_M, backward_M, windows.length_M, windows.clusters)
        )
    return NGramBaselines(tuple(baselines))


def _ids(windows: EvaluationWindows) -> NDArray[np.int64]:
    return np.concatenate([windows.ids(row) for row in range(len(windows))])


def _filled(windows: EvaluationWindows) -> EvaluationWindows:
    if len(windows) == 0:
        raise UserError(
            f"{windows.split.store.path}: split {windows.split.name} has no documents; n-grams "
            "need validation text to choose their order, and text to be scored on"
        )
    return windows


def above_baseline(baseline: NGramBaseline, scores: Sequence[Score], direction: Direction) -> Above:
    """Compares the models of one direction, a score a seed, with counting in it."""
    nats_SM = np.stack([score.nats_M for score in scores])
    return Above(
        interval=baseline.above(nats_SM, direction),
        these=baseline.above(nats_SM.mean(axis=0), direction),
    )


def against_counting(
    store: TokenStore,
    scores: Mapping[str, Sequence[Score]],
    *,
    split: str,
    context: int,
    max_windows: int | None,
) -> AgainstCounting | None:
    """Compares causal models, a score a seed, with counting in the direction that each reads.

    The scores are of `split` in windows of `context` tokens, at most `max_windows`. None where
    there are no models to compare. Raises `UserError` as `ngram_baselines`.
    """
    if not scores:
        return None
    baseline = ngram_baselines(
        store, split=split, context=context, max_windows=max_windows, smoothings=KNESER_NEY
    ).best
    above = {
        name: above_baseline(
            baseline, of_seeds, "backward" if of_seeds[0].order == BACKWARD else "forward"
        )
        for name, of_seeds in scores.items()
    }
    return AgainstCounting(baseline.fit, split, int(baseline.tokens_M.sum()), above)
