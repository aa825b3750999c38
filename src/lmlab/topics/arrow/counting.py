"""Counting beside the models of the arrow study: its arrow by smoothing, and who is better.

Percentages are of the relative arrow, positive where forward is easier.

Legend: S seeds, M windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lmlab.data.order import BACKWARD
from lmlab.numerics.random_effects import Interval
from lmlab.numerics.verdicts import MINIMUM_SEEDS, Evidence, on_text, reach
from lmlab.pages.figures import Interval as Bar
from lmlab.pages.figures import forest_plot
from lmlab.pages.page import Section, Table
from lmlab.pages.wording import percent, signed
from lmlab.progress import track
from lmlab.studies.corpora import Corpus
from lmlab.topics.arrow.counting_baseline import (
    LONGEST,
    NGramBaseline,
    NGramBaselines,
    ngram_baselines,
)
from lmlab.topics.arrow.findings import comparison_name
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.counting.ngram import Direction, Smoothing
from lmlab.topics.scoring.score import Score

Text = tuple[Corpus, str, int]
"""What is counted and scored: corpus, tokenizer, context."""

_WORSE = "worse than counting"


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

    def to_json(self) -> dict[str, Any]:
        """Plain values for `results.json`."""
        return {
            "smoothing": self.smoothing,
            "order": self.order,
            "forward": self.forward.to_json(),
            "other": self.other and self.other.to_json(),
        }


@dataclass(frozen=True)
class Above:
    """How far the models of one direction are above counting, in nats per token.

    Attributes:
        interval: over seeds and text. With two or three seeds it is wide, whatever the text says.
        these: of the mean of just these models, over text alone.
    """

    interval: Interval
    these: Interval

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

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self.interval), "these": asdict(self.these), "verdict": self.verdict}


_SAID = {"above": _WORSE, "below": "better than counting"}


def above_counting(
    baseline: NGramBaseline, order: str, forward: Sequence[Score], other: Sequence[Score]
) -> AboveCounting:
    """Compares the models of one comparison, a score a seed, with counting in their direction."""
    return AboveCounting(
        smoothing=baseline.smoothing,
        order=baseline.order,
        forward=_above_baseline(baseline, forward, "forward"),
        other=_above_baseline(baseline, other, "backward") if order == BACKWARD else None,
    )


def _above_baseline(
    baseline: NGramBaseline, scores: Sequence[Score], direction: Direction
) -> Above:
    nats_SM = np.stack([score.nats_M for score in scores])
    return Above(
        interval=baseline.above(nats_SM, direction),
        these=baseline.above(nats_SM.mean(axis=0), direction),
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


def counted_results(baselines: dict[Text, NGramBaselines]) -> list[dict[str, Any]]:
    """Plain values of `counted`, an entry a text."""
    return [
        {"corpus": corpus.label, "tokenizer": tokenizer, "context": context, **each.to_json()}
        for (corpus, tokenizer, context), each in baselines.items()
    ]


def counting_summary(cells: Sequence[dict[str, Any]]) -> list[str]:
    """For a page's head: how many models are better than counting; none without baselines."""
    verdicts = [above["verdict"] for cell in cells for above in _sides(cell).values()]
    if not verdicts:
        return []
    counts = Counter(verdicts)
    said = "Models of text against counted n-grams, each direction of a comparison by itself: "
    said += ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) + "."
    if any(verdict.startswith(_WORSE) for verdict in counts):
        said += (
            " Where counting predicts better, the models have not learnt what counting gives, and "
            "their arrow is one of early training."
        )
    return [said]


def _sides(cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    above = cell.get("above_counting") or {}
    return {side: above[side] for side in ("forward", "other") if above.get(side)}


def counting_section(ngrams: Sequence[dict[str, Any]], cells: Sequence[dict[str, Any]]) -> Section:
    """What n-grams, which have no training and no seeds, make of the same windows."""
    rows = [
        Bar(
            f"{_model(n)}: {_loss(n):.3f} nats",
            100 * n["arrow"]["relative"],
            *([100 * end for end in n["arrow"]["interval"] or ()] or [None, None]),
            note="" if n["arrow"]["interval"] else n["arrow"]["note"],
            group=_of_text(text),
        )
        for text in ngrams
        for n in text["of_smoothings"]
    ]
    bases = {n["arrow"]["basis"] for text in ngrams for n in text["of_smoothings"]}
    figure = forest_plot(
        rows,
        x_label="relative arrow of n-gram counts, % (positive: forward is easier)",
        finding=_finding(ngrams),
        alt="Relative arrow of n-gram models of each smoothing with intervals; zero is marked.",
        caption=f"Bars: 95 % intervals ({', '.join(sorted(bases))}); counts have no seeds. Beside "
        "each smoothing its loss in nats per token, mean of both directions.",
    )
    by_smoothing = Table(
        ["text", "smoothing", "order", "forward", "backward", "relative arrow [95 % interval]",
         "validation", "strength"],
        [_row(text, n) for text in ngrams for n in text["of_smoothings"]],
        "Nats per token of n-gram models on the windows that the trained models were scored on. "
        "Order and strength are those with the least loss on validation text (mean of both "
        f"directions); orders up to {LONGEST} were tried. Where the smoothing is marked *, it is "
        "the best of its text on validation text, and the baseline.",
    )  # fmt: skip
    against = Table(
        ["comparison", "baseline", "forward models", "backward models"],
        [
            [
                comparison_name(cell),
                _model(cell["above_counting"]),
                *(_above(cell["above_counting"][side]) for side in ("forward", "other")),
            ]
            for cell in cells
            if cell.get("above_counting")
        ],
        "Nats per token of the trained models above the baseline, on the same windows, each "
        "direction against the n-grams of that direction; negative: the model is better. First "
        "interval: over seeds and text; below three seeds also that of just these models, over "
        "text.",
    )
    text = (
        "Baselines without training: k-grams of the whole training split, counted as a ring. The "
        "backward n-gram model is the forward model of the reversed text. A window starts cold, as "
        "for the models: its first tokens have shorter contexts. The same counts have another "
        "arrow under another smoothing, so an arrow of counts is no finding about the text; look "
        "at the smoothing that predicts best. Additive smoothing, scored round a ring, has no "
        "arrow at all, whatever the text."
    )
    return Section(
        "What counting alone sees", [text], figures=[figure], tables=[against, by_smoothing]
    )


def _finding(ngrams: Sequence[dict[str, Any]]) -> str:
    arrows = [[n["arrow"]["relative"] for n in text["of_smoothings"]] for text in ngrams]
    widest = max(arrows, key=lambda each: max(each) - min(each))
    best = [_best(text)["arrow"]["relative"] for text in ngrams]
    said = (
        f"The arrow of one text's counts depends on the smoothing: from {percent(min(widest))} to "
        f"{percent(max(widest))}"
    )
    if len(ngrams) == 1:
        return f"{said}; {percent(best[0])} with the one that predicts best."
    return (
        f"{said} in the text where it depends most; with the smoothing that predicts best it is "
        f"{percent(min(best))} to {percent(max(best))} over {len(ngrams)} texts."
    )


def _best(text: dict[str, Any]) -> dict[str, Any]:
    return next(n for n in text["of_smoothings"] if n["smoothing"] == text["best"])


def _row(text: dict[str, Any], n: dict[str, Any]) -> list[str | float | int]:
    arrow, interval = n["arrow"], ""
    if arrow["interval"]:
        low, high = (percent(value).removesuffix(" %") for value in arrow["interval"])
        interval = f" [{low}, {high}]"
    return [
        _of_text(text),
        n["smoothing"] + (" *" if n["smoothing"] == text["best"] else ""),
        n["order"],
        f"{n['nats_per_token_forward']:.4f}",
        f"{n['nats_per_token_backward']:.4f}",
        f"{percent(arrow['relative'])}{interval}",
        f"{min(n['validation_nats_per_token']):.4f}",
        "–" if n["strength"] is None else f"{n['strength']:g}",
    ]


def _above(above: dict[str, Any] | None) -> str:
    if above is None:
        return "nothing counted in this order"
    said = signed(above["estimate"], 3)
    for over, interval in (("", above), ("; these models ", above["these"])):
        if interval["low"] is not None and (not over or above["seeds"] < MINIMUM_SEEDS):
            said += f"{over or ' '}[{signed(interval['low'], 3)}, {signed(interval['high'], 3)}]"
    return f"{said}, {above['verdict']}"


def _model(ngram: dict[str, Any]) -> str:
    return f"{ngram['smoothing']}, {ngram['order']}-grams"


def _loss(ngram: dict[str, Any]) -> float:
    return (ngram["nats_per_token_forward"] + ngram["nats_per_token_backward"]) / 2


def _of_text(text: dict[str, Any]) -> str:
    tokenizer = text["tokenizer"]
    with_tokenizer = "" if tokenizer in ("bpe", "characters") else f", {tokenizer}"
    return f"{text['corpus']}, context {text['context']}{with_tokenizer}"
