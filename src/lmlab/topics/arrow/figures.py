"""The figures of the arrow study, and of two models.

Percentages are of the relative arrow, positive where forward is easier.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from lmlab.pages.figures import ForestRow, Points, Series, forest_plot, line_plot, scatter_plot
from lmlab.pages.page import Figure
from lmlab.pages.wording import capital, percent, signed
from lmlab.topics.arrow.comparison import Comparison, Excess, ModelResult
from lmlab.topics.arrow.counting import CountedText
from lmlab.topics.arrow.family import CorporaMean, Level
from lmlab.topics.arrow.tables import (
    comparison_name,
    comparison_words,
    family_words,
    level_words,
    mean_name,
    mean_words,
    models_name,
    smoothing_words,
    text_name,
)
from lmlab.topics.counting.words import fit_name

_WIDEST = 2.0
"""Of an interval that is drawn, in relative arrows, which lie between -2 and 2. Where both losses
are next to nothing, their ratio can be anything, and its band would hide all others."""


def arrow_figure(comparisons: Sequence[Comparison], means: Sequence[CorporaMean] = ()) -> Figure:
    """The arrow of each comparison, and means over corpora."""
    rows = [
        ForestRow(
            models_name(c.label, c.tokenizer, c.order),
            100 * c.arrow.relative,
            *_per_cents(c.arrow.interval),
            note=c.arrow.note,
            group=c.corpus,
        )
        for c in comparisons
    ]
    rows += [
        ForestRow(
            mean.label, 100 * mean.mean.estimate, *_per_cents(mean.mean.bounds),
            group=f"Mean over {mean.mean.rows} corpora", summary=True,
        )
        for mean in means
    ]  # fmt: skip
    if means:
        finding = f"{capital(mean_name(means[0]))}: {mean_words(means[0])}."
    elif len(comparisons) > 1:
        finding = family_words(comparisons)
    else:
        finding = f"{capital(comparison_words(comparisons[0]))}."
    return forest_plot(
        rows,
        x_label="relative arrow, % (positive: forward loss lower)",
        finding=finding,
        alt="Relative arrow of each comparison with its 95 % interval; zero is marked.",
        caption="Points: relative difference of summed losses, 2 (b − f) / (b + f). Bars: 95 % "
        f"intervals over {_over(comparisons, ' (two-way random effects)')}, each for its row alone."
        + " Diamonds: means over corpora with their 95 % interval (random effects between corpora, "
        "Paule and Mandel, Hartung and Knapp; one seed variance for all rows)." * bool(means),
    )


def _over(comparisons: Sequence[Comparison], how: str = "") -> str:
    """What the intervals of comparisons are over, and where that is several seeds, `how`."""
    several = any(c.arrow.seeds > 1 for c in comparisons)
    return f"seeds and text{how}" if several else "text, for these models"


def _per_cents(interval: tuple[float, float] | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (100 * interval[0], 100 * interval[1])


def levels_figure(levels: Sequence[Level]) -> Figure:
    """The difference of the excess over the floor at each level."""
    decided = sum(level.evidence.finding != "undecided" for level in levels)
    return forest_plot(
        [
            ForestRow(
                f"{level.order} − forward",
                level.difference.estimate,
                level.difference.low,
                level.difference.high,
                group=level.name,
            )
            for level in levels
        ],
        x_label="excess over the floor, other − forward, nats per token (positive: forward easier)",
        finding=f"{levels[0].name}: {level_words(levels[0])}."
        if len(levels) == 1
        else f"The interval over matrices excludes zero at {decided} of {len(levels)} levels.",
        alt="Difference of the excess over the floor at each level, with intervals over matrices.",
        caption="Points: means over the matrices of a level. Bars: 95 % intervals over matrices "
        "(Student t), in which their seeds and strings are contained. The matrices are all of a "
        "range of seeds; none was selected by what it is or shows.",
    )


def floor_figures(comparisons: Sequence[Comparison]) -> list[Figure]:
    """Both directions above the floor; and by the density of the inverse matrix, where linear
    languages differ in it."""
    with_floor = [(c, c.floor) for c in comparisons if c.floor is not None]
    excesses = "; ".join(
        f"{c.corpus}: forward {_excess(floor.forward)}, {c.order} {_excess(floor.other)} above it"
        for c, floor in with_floor[:4]
    )
    figure = forest_plot(
        [
            ForestRow.of(
                name, excess.interval, note=excess.interval.note, group=comparison_name(c)
            )
            for c, floor in with_floor
            for name, excess in (("forward", floor.forward), (c.order, floor.other))
        ],
        x_label="loss above the source's entropy, nats per token",
        finding=f"Both directions have the same floor. {excesses} (nats per token, mean over "
        "seeds).",
        alt="Excess of both directions over the entropy of the source; zero is the floor.",
        caption="The floor is the exact entropy of the source. The excess is the model's nats "
        "minus the source's own surprisal of the same held-out strings, so that the luck of the "
        "sample cancels: an estimate of the divergence of the model from the source. Bars: 95 % "
        "intervals over seeds and strings.",
    )  # fmt: skip
    linear = [(f.inverse_density, c, f) for c, f in with_floor if f.inverse_density is not None]
    if len({density for density, _, _ in linear}) < 2:
        return [figure]
    linear.sort(key=lambda each: each[0])
    (_, first, of_first), (_, _, of_last) = linear[0], linear[-1]
    density_D = [density for density, _, floor in linear for _ in floor.forward.by_seed]
    by_density = scatter_plot(
        [
            Points("forward", density_D, [y for *_, f in linear for y in f.forward.by_seed], 0),
            Points(first.order, density_D, [y for *_, f in linear for y in f.other.by_seed], 1),
        ],
        x_label="share of ones in the inverse of the matrix",
        y_label="loss above the source's entropy, nats per token",
        finding=f"From the sparsest inverse to the densest, the {first.order} excess goes from "
        f"{_excess(of_first.other)} to {_excess(of_last.other)} nats per token, forward's "
        f"from {_excess(of_first.forward)} to {_excess(of_last.forward)} (means over seeds).",
        alt="Excess of each run over the floor against the density of the inverse matrix.",
        caption="A point is a run. Reading backwards a model must compute the inverse of the "
        "matrix: the denser it is, the more bits each bit depends on.",
        horizontal=[("floor", 0.0)],
    )
    return [figure, by_density]


def _excess(excess: Excess) -> str:
    return signed(excess.interval.estimate, 4)


def counting_figure(texts: Sequence[CountedText]) -> Figure:
    """The arrow of the n-gram model of each smoothing."""
    fits = [(text, fit) for text in texts for fit in text.fits]
    return forest_plot(
        [
            ForestRow(
                f"{fit_name(fit.smoothing, fit.order)}: {fit.nats_per_token:.3f} nats",
                100 * fit.arrow.relative,
                *_per_cents(fit.arrow.interval),
                note="" if fit.arrow.interval else fit.arrow.note,
                group=text_name(text),
            )
            for text, fit in fits
        ],
        x_label="relative arrow of n-gram counts, % (positive: forward loss lower)",
        finding=smoothing_words(texts),
        alt="Relative arrow of n-gram models of each smoothing with intervals; zero is marked.",
        caption=f"Bars: 95 % intervals ({', '.join(sorted({f.arrow.basis for _, f in fits}))}); "
        "counts have no seeds. Beside each smoothing its loss in nats per token, mean of both "
        "directions.",
    )


def learning_figures(comparison: Comparison) -> list[Figure]:
    """The losses of both directions while they trained, and the arrow between them."""
    name, of_sides = comparison_name(comparison), [m for _, m in comparison.sides]
    gaps = [
        Series(
            f"seed {seed}",
            forward.curve.tokens,
            (200 * (b - f) / (b + f)).tolist(),
            colour=seed % 6,
        )
        for seed, (forward, other) in enumerate(zip(*of_sides, strict=True))
        for f, b in [(np.array(forward.curve.losses), np.array(other.curve.losses))]
    ]
    final = [float(np.mean([model.curve.losses[-1] for model in models])) for models in of_sides]
    start, end = (float(np.mean([gap.y[i] for gap in gaps])) for i in (0, -1))
    floor = comparison.floor
    return [
        line_plot(
            [
                Series(
                    side, model.curve.tokens, model.curve.losses, colour=colour, dashed=colour > 0
                )
                for colour, (side, models) in enumerate(comparison.sides)
                for model in models
            ],
            x_label="training tokens",
            y_label="validation loss, nats per token",
            finding=f"{name}: after {comparison.forward[0].curve.tokens[-1]:,} tokens forward is "
            f"at {final[0]:.3f} nats per token, {comparison.order} at {final[1]:.3f}.",
            alt="Validation loss against training tokens for both directions, one line a seed.",
            log_x=True,
            horizontal=[] if floor is None else [("floor", floor.nats_per_token)],
        ),
        line_plot(
            gaps,
            x_label="training tokens",
            y_label="relative arrow, %",
            finding=f"{name}: the arrow on validation text goes from {percent(start / 100)} at "
            f"the first validation to {percent(end / 100)} at the last (mean over seeds).",
            alt="Relative arrow against training tokens, one line a seed.",
            log_x=True,
            horizontal=[("no difference", 0.0)],
        ),
    ]


def position_figures(comparison: Comparison) -> list[Figure]:
    """The losses of both directions by position in the window, and the arrow between them."""
    bins, name = comparison.by_position, comparison_name(comparison)
    first, last = (_mean_at(comparison.other, b) - _mean_at(comparison.forward, b) for b in (0, -1))
    figures = [
        line_plot(
            [
                Series(
                    side, [b.middle for b in bins], model.by_position, colour=colour,
                    dashed=colour > 0,
                )
                for colour, (side, models) in enumerate(comparison.sides)
                for model in models
            ],
            x_label=_POSITION,
            y_label="loss, nats per token",
            finding=f"{name}: {comparison.order} minus forward is {signed(first, 3)} nats at the "
            f"first position and {signed(last, 3)} at the last ones.",
            alt="Held-out loss against position for both directions, one line a seed.",
            log_x=comparison.context > 64,
        )
    ]  # fmt: skip
    bands = [(b, b.arrow.interval) for b in bins if b.arrow.interval is not None]
    stretches = [
        list(run)
        for is_told, run in groupby(bands, lambda each: each[1][1] - each[1][0] < _WIDEST)
        if is_told
    ]
    if stretches:
        untold = len(bands) - sum(map(len, stretches))
        clear = sum(b.p_adjusted is not None and b.p_adjusted <= 0.05 for b, _ in bands)
        figures.append(
            line_plot(
                [
                    Series(
                        "relative arrow",
                        [b.middle for b, _ in run],
                        [100 * b.arrow.relative for b, _ in run],
                        [100 * low for _, (low, _) in run],
                        [100 * high for _, (_, high) in run],
                    )
                    for run in stretches
                ],
                x_label=_POSITION,
                y_label="relative arrow, % (positive: forward loss lower)",
                finding=f"{name}: a difference is seen at {clear} of {len(bands)} positions "
                "or groups of them, with a false discovery rate of 5 %.",
                alt="Relative arrow against position, with its interval at each position.",
                caption=f"Band: 95 % interval of each position alone, over {_over([comparison])}. "
                "Of 20 positions without a difference one is expected outside it."
                + f" Not drawn: {untold} whose interval is wider than 200 %."
                * (untold > 0),
                log_x=comparison.context > 64,
                horizontal=[("no difference", 0.0)],
            )
        )
    return figures


_POSITION = "position in the window (1: from BOS alone)"


def _mean_at(models: Sequence[ModelResult], position: int) -> float:
    return float(np.mean([model.by_position[position] for model in models]))
