"""The tables of the arrow study and of two models, and how findings are worded. Draws nothing.

Losses are in nats per token; percentages are of the relative arrow, 2 (b - f) / (b + f), positive
where forward is easier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmlab.numerics.verdicts import MINIMUM_SEEDS, reach, verdict
from lmlab.pages.page import Table
from lmlab.pages.text import Rounded
from lmlab.pages.wording import amount_of_text, bits_cell, percent, signed
from lmlab.topics.arrow.arrow import lower_loss, per_cent
from lmlab.topics.arrow.between_models import ModelsArrow
from lmlab.topics.arrow.comparison import Comparison, Training
from lmlab.topics.arrow.counting import CountedText, FitWithArrow
from lmlab.topics.arrow.family import ArrowStudy, CorporaMean, Level
from lmlab.topics.counting.baseline import LONGEST
from lmlab.topics.counting.words import above_words, fit_name, grouped_words

_Cells = list[str | float | int]


def models_name(label: str, tokenizer: str | None, order: str) -> str:
    """Which models are compared, and what of them is not the default."""
    usual = tokenizer in ("bpe", "characters", None)
    tokenizer, order = "" if usual else f", {tokenizer}", f", {order}" * (order != "backward")
    return f"{label}{tokenizer}{order}"


def comparison_name(comparison: Comparison) -> str:
    """What is compared: the corpus, and the models."""
    models = models_name(comparison.label, comparison.tokenizer, comparison.order)
    return f"{comparison.corpus} ({models})"


def comparison_words(comparison: Comparison) -> str:
    """The finding of one comparison in words, with its interval."""
    arrow, jumps = comparison.arrow, jump_words(comparison)
    said = "final losses decide nothing here" if jumps else arrow.verdict
    if comparison.order != "backward":
        for words in ("backward is easier", lower_loss("backward")[1]):
            said = said.replace(words, words.replace("backward", comparison.order))
    text = f"{said} ({percent(arrow.relative)}"
    if arrow.interval:
        low, high = arrow.interval
        text += f", 95 % interval {percent(low)} to {percent(high)}"
        text += ", text only" if arrow.basis == "text only" else ""
    return text + ")" + (f"; {jumps}" if jumps else "")


def jump_words(comparison: Comparison) -> str:
    """When each direction makes its jump; empty unless the budget ends among the jumps."""
    if comparison.transition is None or not comparison.transition.inside:
        return ""
    return f"the budget ends among jumps of the validation loss: {times_words(comparison)}"


def times_words(comparison: Comparison) -> str:
    """The times to the threshold of each direction, with the exact comparison."""
    assert comparison.transition is not None, "only where a curve jumps"
    threshold, times = comparison.transition.threshold, comparison.transition.times
    sides = [
        f"{name} falls below {threshold:.3f} nats in {sum(t is not None for t in of_side)} of "
        f"{len(of_side)} run{'s' * (len(of_side) > 1)}, after {mean:,.0f} tokens on average"
        for name, of_side, mean in (
            ("forward", times.first, times.mean_first),
            (comparison.order, times.second, times.mean_second),
        )
    ]
    return (
        f"{', '.join(sides)} (a run that does not, counted with its {times.budget:,.0f}; p = "
        f"{times.p:.2g} by an exact log-rank test, which can reach {times.least_p:.2g})"
    )


def family_words(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons show a difference, with 5 % for a false one among all of them."""
    clear = sum(c.p_adjusted is not None and c.p_adjusted <= 0.05 for c in comparisons)
    seeds = min(c.arrow.seeds for c in comparisons)
    documents = min(c.arrow.documents for c in comparisons)
    return (
        f"A difference is seen in {clear} of {len(comparisons)} comparisons, p-values adjusted for "
        f"so many (Holm){reach(seeds, documents)}."
    )


def mean_name(mean: CorporaMean) -> str:
    """What a mean is over: "mean over 5 corpora", and of which models."""
    models = models_name(mean.label, mean.tokenizer, mean.order)
    return f"mean over {mean.mean.rows} corpora ({models})"


def mean_words(mean: CorporaMean) -> str:
    """The finding of a mean over corpora in words, with its interval."""
    assert mean.mean.bounds is not None, "of three corpora at least"
    low, high = map(percent, mean.mean.bounds)
    return (
        f"{mean.verdict} ({percent(mean.mean.estimate)}, 95 % interval {low} to {high}; corpora "
        f"differ by a standard deviation of {percent(mean.mean.between).lstrip('+')} beyond their "
        "errors)"
    )


def level_words(level: Level) -> str:
    """What the matrices of a level show, with its reach."""
    mean, drawn = level.difference, level.matrices
    finding = verdict(
        level.evidence,
        above="forward is easier",
        below=f"{level.order} is easier",
        size=lambda value: f"{value:.4f} nats per token",
    )
    few = f" for these {mean.draws} matrices" if mean.draws < MINIMUM_SEEDS else ""
    return (
        f"{finding}{few}; {level.order} is {signed(mean.estimate, 4)} nats per token further above "
        f"the floor than forward [{signed(mean.low, 4)}, {signed(mean.high, 4)}] (relative arrow "
        f"{percent(level.relative.estimate)}; 95 % over {mean.draws} matrices as they come, seeds "
        f"{drawn[0]} to {drawn[-1]}, {mean.seeds} training seed(s) each)"
    )


def text_name(text: CountedText) -> str:
    """A counted text: corpus, context, and the tokenizer where it is not the default."""
    usual = text.tokenizer in ("bpe", "characters")
    return f"{text.corpus}, context {text.context}" + ("" if usual else f", {text.tokenizer}")


def smoothing_words(texts: Sequence[CountedText]) -> str:
    """How far the arrow of counts depends on the smoothing."""
    arrows = [[fit.arrow.relative for fit in text.fits] for text in texts]
    widest = max(arrows, key=lambda each: max(each) - min(each))
    best = [text.baseline.arrow.relative for text in texts]
    said = (
        f"The arrow of one text's counts depends on the smoothing: from {percent(min(widest))} to "
        f"{percent(max(widest))}"
    )
    if len(texts) == 1:
        return f"{said}; {percent(best[0])} with the one that predicts best."
    return (
        f"{said} in the text where it depends most; with the smoothing that predicts best it is "
        f"{percent(min(best))} to {percent(max(best))} over {len(texts)} texts."
    )


def counting_words(comparisons: Sequence[Comparison]) -> list[str]:
    """How many models are better than counting, a paragraph; none without baselines."""
    sides = [above for c in comparisons if c.above_counting for above in c.above_counting.sides]
    if not sides:
        return []
    return [
        "Models of text against counted n-grams, each direction of a comparison by itself: "
        f"{grouped_words(sides)}"
    ]


def findings_table(result: ArrowStudy) -> Table:
    """The finding of each comparison, level and mean in words."""
    return Table(
        ["comparison", "verdict"],
        [
            *([comparison_name(c), comparison_words(c)] for c in result.comparisons),
            *([level.name, level_words(level)] for level in result.levels),
            *([mean_name(mean), mean_words(mean)] for mean in result.means),
        ],
        "What each comparison shows.",
    )


def losses_table(result: ModelsArrow) -> Table:
    """The loss of each of two models."""
    return Table(
        ["direction", "model", "nats per token", "bits per byte", "tokens"],
        [
            [
                side,
                score.model,
                Rounded(score.nats_per_token, 5),
                bits_cell(score.bits_per_byte),
                score.tokens,
            ]
            for side, score in (("forward", result.forward), ("backward", result.backward))
        ],
        f"Loss on {result.forward.split} of {result.forward.store}, on the same windows.",
    )


def arrow_table(comparisons: Sequence[Comparison]) -> Table:
    """The arrow of each comparison, and the losses that it is of."""
    return Table(
        ["comparison", "relative arrow [95 % interval]", "b / f − 1 [95 % interval]", "losses",
         "bits per byte", "seeds × documents"],
        [_arrow_row(c) for c in comparisons],
        "Losses (nats per token) and bits per byte: forward, other direction; means over seeds.",
    )  # fmt: skip


def _arrow_row(comparison: Comparison) -> _Cells:
    arrow = comparison.arrow
    losses = [np.mean([m.nats_per_token for m in models]) for _, models in comparison.sides]
    return [
        comparison_name(comparison),
        f"{percent(arrow.relative)} {_range(arrow.interval) or 'no interval'}",
        f"{percent(arrow.ratio)} {_range(arrow.ratio_interval)}".rstrip()
        if np.isfinite(arrow.ratio)
        else "infinite",
        ", ".join(f"{loss:.4f}" for loss in losses),
        _bits(comparison),
        f"{arrow.seeds} × {arrow.documents}",
    ]


def _bits(comparison: Comparison) -> str:
    # bits per byte of a synthetic string are bits per character, and say nothing new
    if comparison.floor is not None:
        return "–"
    of_sides = [
        [m.bits_per_byte for m in models if m.bits_per_byte is not None]
        for _, models in comparison.sides
    ]
    return ", ".join(f"{np.mean(bits):.4f}" for bits in of_sides if bits) or "–"


def _range(interval: tuple[float, float] | None) -> str:
    """An interval in brackets, per cent; empty without one."""
    if interval is None:
        return ""
    low, high = (percent(end).removesuffix(" %") for end in interval)
    return f"[{low}, {high}]"


def power_table(comparisons: Sequence[Comparison]) -> Table:
    """What each comparison could show, whatever it did."""
    return Table(
        ["comparison", "p, adjusted", "difference is below (95 %)", "seen with 80 %"],
        [
            [
                comparison_name(c),
                "–" if c.p_adjusted is None else f"{c.p_adjusted:.2g}",
                "–" if c.arrow.bound is None else per_cent(c.arrow.bound),
                "–" if c.arrow.detectable is None else per_cent(c.arrow.detectable),
            ]
            for c in comparisons
        ],
        "What each comparison could show. p is adjusted for the number of comparisons (Holm). Seen "
        "with 80 %: the difference that so many seeds and so much text would have shown.",
    )


def levels_table(levels: Sequence[Level]) -> Table:
    """Levels of linear languages, each over its matrices."""
    return Table(
        ["level", "matrices × seeds", "inverse density", "excess: forward, other",
         "other − forward [95 %]", "SD: matrices, seeds"],
        [
            [
                level.name,
                f"{level.difference.draws} × {level.difference.seeds}",
                f"{level.inverse_density:.3f}",
                f"{signed(level.forward.estimate, 4)}, {signed(level.other.estimate, 4)}",
                f"{signed(level.difference.estimate, 4)} [{signed(level.difference.low, 4)}, "
                f"{signed(level.difference.high, 4)}]",
                f"{level.difference.sd_draws:.4f}, "
                + ("–" if (sd := level.difference.sd_seeds) is None else f"{sd:.4f}"),
            ]
            for level in levels
        ],
        "Nats per token above the exact floor; interval over matrices; standard deviations of the "
        "difference; inverse density: the share of ones in the inverse of a matrix.",
    )  # fmt: skip


def floor_table(comparisons: Sequence[Comparison]) -> Table:
    """Every run on a source whose entropy is known."""
    return Table(
        ["run", "loss", "floor", "excess"],
        [
            [
                f"{comparison_name(c)}, {name}, seed {seed}",
                Rounded(model.nats_per_token, 5),
                Rounded(floor.nats_per_token, 5),
                signed(above, 5),
            ]
            for c in comparisons
            if (floor := c.floor) is not None
            for (name, models), excess in zip(c.sides, (floor.forward, floor.other), strict=True)
            for seed, (model, above) in enumerate(zip(models, excess.by_seed, strict=True))
        ],
        "Nats per token on held-out strings: loss, entropy of the source, excess (paired by "
        "string).",
    )


def above_counting_table(comparisons: Sequence[Comparison]) -> Table:
    """The models of each text against the best of counting."""
    return Table(
        ["comparison", "baseline", "forward models", "backward models"],
        [
            [
                comparison_name(c),
                fit_name(above.smoothing, above.order),
                *map(above_words, (above.forward, above.other)),
            ]
            for c in comparisons
            if (above := c.above_counting) is not None
        ],
        "Nats per token of the trained models above the baseline, on the same windows, each "
        "direction against the n-grams of that direction; negative: the model is better. First "
        "interval: over seeds and text; below three seeds also that of just these models, over "
        "text.",
    )


def smoothings_table(texts: Sequence[CountedText]) -> Table:
    """The n-gram model of each smoothing."""
    return Table(
        ["text", "smoothing", "order", "forward", "backward", "relative arrow [95 % interval]",
         "validation", "strength"],
        [_fit_row(text, fit) for text in texts for fit in text.fits],
        "Nats per token of n-gram models on the windows that the trained models were scored on. "
        "Order and strength are those with the least loss on validation text (mean of both "
        f"directions); orders up to {LONGEST} were tried. Where the smoothing is marked *, it is "
        "the best of its text on validation text, and the baseline.",
    )  # fmt: skip


def _fit_row(text: CountedText, fit: FitWithArrow) -> _Cells:
    return [
        text_name(text),
        fit.smoothing + " *" * (fit.smoothing == text.best),
        fit.order,
        Rounded(fit.nats_per_token_forward, 4),
        Rounded(fit.nats_per_token_backward, 4),
        f"{percent(fit.arrow.relative)} {_range(fit.arrow.interval)}".rstrip(),
        Rounded(min(fit.validation_nats), 4),
        "–" if fit.strength is None else f"{fit.strength:g}",
    ]


def times_table(comparisons: Sequence[Comparison]) -> Table:
    """When each run falls to the threshold, where a curve jumps."""
    return Table(
        ["run", "threshold, nats per token", "reached after tokens"],
        [
            [
                f"{comparison_name(c)}, {name}, seed {seed}",
                Rounded(jump.threshold, 4),
                f"not within {jump.times.budget:,.0f}" if time is None else f"{time:,.0f}",
            ]
            for c in comparisons
            if (jump := c.transition) is not None
            for (name, _), times in zip(c.sides, (jump.times.first, jump.times.second), strict=True)
            for seed, time in enumerate(times)
        ],
        "Times to the threshold.",
    )


def training_table(comparisons: Sequence[Comparison]) -> Table:
    """What was equal in both directions."""
    return Table(
        ["comparison", "parameters", "vocabulary", "training tokens available", "steps",
         "windows a step", "context", "learning rate", "products in", "tokens scored",
         "intervals over", "store"],
        [
            [
                comparison_name(c), training.parameters, training.vocabulary,
                training.tokens_available, training.steps, training.batch, c.context,
                _rate_words(training), training.dtype, c.tokens_scored, over_words(c),
                training.store,
            ]
            for c in comparisons
            if (training := c.training) is not None
        ],
        "What was equal in both directions; of two learning rates the first is forward's.",
    )  # fmt: skip


def _rate_words(training: Training) -> str:
    forward, other = training.learning_rate, training.other_learning_rate
    return f"{forward:g}" if other is None else f"{forward:g} and {other:g}"


def over_words(comparison: Comparison) -> str:
    """The text that the interval of a comparison is over."""
    arrow = comparison.arrow
    return amount_of_text(arrow.documents, comparison.cluster_unit, arrow.clusters)
