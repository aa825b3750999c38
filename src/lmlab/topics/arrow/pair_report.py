"""The page of `lmlab arrow`: the arrow between two existing models, and where in a window it is."""

from __future__ import annotations

from lmlab.pages.figures import Series, line_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.wording import amount_of_text, percent, signed
from lmlab.topics.arrow.arrow import Arrow, PositionArrow
from lmlab.topics.arrow.between_models import ModelsArrow
from lmlab.topics.scoring.score import Score

_WIDEST = 2.0  # of an interval that is drawn: as high as the measure is, it would hide all others


def report(result: ModelsArrow) -> Report:
    """Title, finding and sections of the page."""
    losses, arrow = tables(result)
    return Report(
        f"Arrow of time: {result.forward.model} and {result.backward.model}",
        _finding(result),
        [
            Section("Both directions", tables=[losses, arrow]),
            Section("By position", figures=_position_figures(result)),
            Section("Methods", [_methods(result)]),
        ],
    )


def tables(result: ModelsArrow) -> list[Table]:
    """The loss of each direction; then the arrow."""
    losses = Table(
        ["direction", "model", "nats per token", "bits per byte", "tokens"],
        [_loss_row(side, score) for side, score in _sides(result)],
        f"Loss on {result.forward.split} of {result.forward.store}, on the same windows.",
    )
    arrow = result.arrow
    size = Table(
        ["arrow", "value", "95 % interval"],
        [
            ["relative, 2 (backward − forward) / (backward + forward)", percent(arrow.relative),
             _range(arrow.interval)],
            ["ratio, backward / forward − 1", percent(arrow.ratio), _range(arrow.ratio_interval)],
        ],
        f"Positive: forward is easier. {_basis(arrow)}",
    )  # fmt: skip
    return [losses, size]


def _sides(result: ModelsArrow) -> list[tuple[str, Score]]:
    return [("forward", result.forward), ("backward", result.backward)]


def _loss_row(side: str, score: Score) -> list[str | float | int]:
    bits = score.bits_per_byte
    shown = "only a sample was scored" if bits is None else f"{bits:.5f}"
    return [side, score.model, f"{score.nats_per_token:.5f}", shown, score.tokens]


def _range(interval: tuple[float, float] | None) -> str:
    return "none" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _basis(arrow: Arrow) -> str:
    note = f"; {arrow.note}" if arrow.note else ""
    return f"Interval: {arrow.basis}{note}."


def _finding(result: ModelsArrow) -> str:
    text = (
        f"Relative arrow {percent(result.arrow.relative)} (95 % interval "
        f"{_range(result.arrow.interval)}): {result.arrow.verdict}."
    )
    note = result.forward.loss_note
    return text if note is None else f"{text}\n\nNote: {note}."


def _position_figures(result: ModelsArrow) -> list[Figure]:
    long = result.forward.context > 64
    # the arrow has no bin where all losses are exactly zero
    firsts = [each.first for each in result.by_position]
    losses = [
        Series(
            side,
            _middles(result),
            score.nats_per_token_at(firsts).tolist(),
            colour=colour,
            dashed=colour > 0,
        )
        for colour, (side, score) in enumerate(_sides(result))
    ]
    gaps = [b - f for f, b in zip(losses[0].y, losses[1].y, strict=True)]
    figures = [
        line_plot(
            losses,
            x_label="position in the window (1: from BOS alone)",
            y_label="loss, nats per token",
            finding=f"Backward minus forward is {signed(gaps[0], 3)} nats at the first position "
            f"and {signed(gaps[-1], 3)} at the last ones.",
            alt="Loss by position in the window, in both directions.",
            log_x=long,
        )
    ]
    told = [each for each in result.by_position if _width(each.arrow) < _WIDEST]
    if told:

        def of_bounds(end: int) -> list[float]:
            return [100 * each.arrow.interval[end] for each in told if each.arrow.interval]

        figures.append(
            line_plot(
                [
                    Series(
                        "",
                        [_middle(each) for each in told],
                        [100 * each.arrow.relative for each in told],
                        of_bounds(0),
                        of_bounds(1),
                    )
                ],
                x_label="position in the window (1: from BOS alone)",
                y_label="relative arrow, % (positive: forward is easier)",
                finding=f"{_clear(told)} of {len(told)} bins of positions have an interval that "
                "excludes zero; each interval is for its bin alone, so some would by chance.",
                alt="Relative arrow by position in the window, with intervals.",
                caption=f"Band: 95 % intervals ({result.arrow.basis}), for these two models. Where "
                "the sum of both losses is next to nothing, the bin is left out.",
                log_x=long,
                horizontal=[("no difference", 0.0)],
            )
        )
    return figures


def _width(arrow: Arrow) -> float:
    return float("inf") if arrow.interval is None else arrow.interval[1] - arrow.interval[0]


def _clear(bins: list[PositionArrow]) -> int:
    intervals = [each.arrow.interval for each in bins if each.arrow.interval is not None]
    return sum(low > 0 or high < 0 for low, high in intervals)


def _middle(position: PositionArrow) -> float:
    return (position.first + position.last) / 2 + 1


def _middles(result: ModelsArrow) -> list[float]:
    return [_middle(each) for each in result.by_position]


def _methods(result: ModelsArrow) -> str:
    score = result.forward
    over = amount_of_text(score.clusters.documents, score.cluster_unit, score.clusters.clusters)
    return (
        f"Both models score the same {score.windows:,} windows of up to {score.context:,} tokens: "
        f"forward {score.conditions}. The interval is over {over}, and over no seeds: it speaks of "
        "these two models. What other trainings of the same models would show, a study says "
        "(lmlab study arrow)."
    )
