"""Details of the arrow study's report: sources with a floor, learning curves, positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lmlab.pages.figures import Interval, Points, Series, forest_plot, line_plot, scatter_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.wording import percent, signed
from lmlab.topics.arrow.findings import comparison_name, side_name, times_words
from lmlab.topics.arrow.linear_languages import ONE_MATRIX

_FORWARD_COLOUR, _OTHER_COLOUR = 0, 1


def floor_section(cells: Sequence[dict[str, Any]]) -> Section:
    rows: list[list[str | float | int]] = []
    points: list[Interval] = []
    for cell in cells:
        floor = cell["floor"]
        for side in ("forward", "other"):
            name, excess = side_name(cell, side), floor[side]
            points.append(
                Interval(
                    name,
                    excess["estimate"],
                    excess["low"],
                    excess["high"],
                    excess["note"],
                    group=comparison_name(cell),
                )
            )
            for seed, (run, above) in enumerate(zip(cell[side], excess["by_seed"], strict=True)):
                rows.append([
                    f"{comparison_name(cell)}, {name}, seed {seed}",
                    f"{run['nats_per_token']:.5f}",
                    f"{floor['nats_per_token']:.5f}",
                    signed(above, 5),
                ])  # fmt: skip
    said = "; ".join(
        f"{cell['corpus']}: forward {_excess(cell, 'forward')}, {cell['order']} "
        f"{_excess(cell, 'other')} above it"
        for cell in cells[:4]
    )
    figure = forest_plot(
        points,
        x_label="loss above the source's entropy, nats per token",
        finding=f"Both directions have the same floor. {said} (nats per token, mean over seeds).",
        alt="Excess of both directions over the entropy of the source; zero is the floor.",
        caption="The floor is the exact entropy of the source. The excess is the model's nats "
        "minus the source's own surprisal of the same held-out strings, so that the luck of the "
        "sample cancels: an estimate of the divergence of the model from the source. Bars: 95 % "
        "intervals over seeds and strings.",
    )
    table = Table(
        ["run", "loss", "floor", "excess"],
        rows,
        "Nats per token on held-out strings: loss, entropy of the source, excess (paired by "
        "string).",
    )
    alone = [c for c in cells if c["floor"]["inverse_density"] is not None and not c.get("level")]
    return Section(
        "Sources with a known floor",
        [ONE_MATRIX] if alone else [],
        figures=[figure, *_density_figure(cells)],
        tables=[table],
    )


def _density_figure(cells: Sequence[dict[str, Any]]) -> list[Figure]:
    """Excess against the density of the inverse matrix, where linear languages differ in it."""
    linear = [c for c in cells if c["floor"]["inverse_density"] is not None]
    if len({c["floor"]["inverse_density"] for c in linear}) < 2:
        return []
    linear.sort(key=lambda c: c["floor"]["inverse_density"])
    groups = []
    for side, colour in (("forward", _FORWARD_COLOUR), ("other", _OTHER_COLOUR)):
        x = [c["floor"]["inverse_density"] for c in linear for _ in c["floor"][side]["by_seed"]]
        y = [above for c in linear for above in c["floor"][side]["by_seed"]]
        groups.append(Points(side_name(linear[0], side), x, y, colour))
    first, last = linear[0], linear[-1]
    name = linear[0]["order"]
    return [
        scatter_plot(
            groups,
            x_label="share of ones in the inverse of the matrix",
            y_label="loss above the source's entropy, nats per token",
            finding=f"From the sparsest inverse to the densest, the {name} excess goes from "
            f"{_excess(first, 'other')} to {_excess(last, 'other')} nats per token, forward's "
            f"from {_excess(first, 'forward')} to {_excess(last, 'forward')} (means over seeds).",
            alt="Excess of each run over the floor against the density of the inverse matrix.",
            caption="A point is a run. Reading backwards a model must compute the inverse of the "
            "matrix: the denser it is, the more bits each bit depends on.",
            horizontal=[("floor", 0.0)],
        )
    ]


def _excess(cell: dict[str, Any], side: str) -> str:
    return signed(cell["floor"][side]["estimate"], 4)


def learning_section(cells: Sequence[dict[str, Any]]) -> Section:
    figures = [figure for cell in cells for figure in _curves(cell)]
    return Section(
        "Learning curves",
        ["Loss on a fixed sample of validation windows while training, one line a seed. The "
         "comparison above uses other text, held out from this too."],
        figures,
    )  # fmt: skip


def _curves(cell: dict[str, Any]) -> list[Figure]:
    series = [
        Series(
            label=side_name(cell, side),
            x=[point[0] for point in run["curve"]],
            y=[point[1] for point in run["curve"]],
            colour=_FORWARD_COLOUR if side == "forward" else _OTHER_COLOUR,
            dashed=side == "other",
        )
        for side in ("forward", "other")
        for run in cell[side]
    ]
    gaps: list[Series] = []
    for seed, (forward, other) in enumerate(zip(cell["forward"], cell["other"], strict=True)):
        f, b = (np.array([p[1] for p in run["curve"]]) for run in (forward, other))
        gaps.append(
            Series(
                label=f"seed {seed}",
                x=[point[0] for point in forward["curve"]],
                y=(200 * (b - f) / (b + f)).tolist(),
                colour=seed % 6,
            )
        )
    last = [cell[side][0]["curve"][-1] for side in ("forward", "other")]
    final = [float(np.mean([r["curve"][-1][1] for r in cell[s]])) for s in ("forward", "other")]
    start, end = (float(np.mean([g.y[i] for g in gaps])) for i in (0, -1))
    name = comparison_name(cell)
    floor = [("floor", cell["floor"]["nats_per_token"])] if cell["floor"] else []
    return [
        line_plot(
            series,
            x_label="training tokens",
            y_label="validation loss, nats per token",
            finding=f"{name}: after {last[0][0]:,} tokens forward is at {final[0]:.3f} nats per "
            f"token, {cell['order']} at {final[1]:.3f}.",
            alt="Validation loss against training tokens for both directions, one line a seed.",
            log_x=True,
            horizontal=floor,
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


def times_section(cells: Sequence[dict[str, Any]]) -> list[Section]:
    """When runs make their jump, where a validation curve jumps."""
    jumping = [cell for cell in cells if cell["transition"] is not None]
    if not jumping:
        return []
    rows: list[list[str | float | int]] = []
    for cell in jumping:
        found = cell["transition"]
        for side, times in (("forward", found["first"]), ("other", found["second"])):
            for seed, time in enumerate(times):
                rows.append([
                    f"{comparison_name(cell)}, {side_name(cell, side)}, seed {seed}",
                    f"{found['threshold']:.4f}",
                    f"not within {found['budget']:,.0f}" if time is None else f"{time:,.0f}",
                ])  # fmt: skip
    said = [f"{comparison_name(cell)}: {times_words(cell)}." for cell in jumping]
    inside = [comparison_name(c) for c in jumping if c["transition"]["inside"]]
    if inside:
        said.append(
            f"The budget ends among the jumps of {'; '.join(inside)}: some runs have made theirs, "
            "others have not or only just. Final losses then have two values rather than a mean "
            "with noise: an interval from 3 seeds covers 61 to 77 %, one from 2 seeds 39 to 93 %."
        )
    text = (
        "A jump: within a factor of 1.5 of training time the validation loss falls by at least 3 "
        "times as much as within the factor before it, by 1 % of itself, and by 8 times the "
        "curve's noise. The threshold is half-way down the largest one."
    )
    table = Table(
        ["run", "threshold, nats per token", "reached after tokens"],
        rows,
        "Times to the threshold.",
    )
    return [Section("When the curves jump", [text, *said], tables=[table])]


def position_section(cells: Sequence[dict[str, Any]]) -> Section:
    return Section(
        "By position in the window",
        ["A token at position k is predicted from BOS and k tokens: those before it for the "
         "forward model, those after it for the backward one. Tokens near one direction's start "
         "are near the other's end, so the curves compare equal amounts of context, not equal "
         "tokens; only the sum over all positions scores the same text in both directions."],
        [figure for cell in cells for figure in _by_position(cell)],
    )  # fmt: skip


def _by_position(cell: dict[str, Any]) -> list[Figure]:
    bins = cell["by_position"]
    # Positions count from 1 here, in the middle of their bin
    middle = [(bin["first"] + bin["last"]) / 2 + 1 for bin in bins]
    losses = [
        Series(
            side_name(cell, side),
            middle,
            run["by_position"],
            colour=colour,
            dashed=side == "other",
        )
        for side, colour in (("forward", _FORWARD_COLOUR), ("other", _OTHER_COLOUR))
        for run in cell[side]
    ]
    means = {side: [_mean_at(cell[side], b) for b in (0, -1)] for side in ("forward", "other")}
    gap = [b - f for f, b in zip(means["forward"], means["other"], strict=True)]
    name, long = comparison_name(cell), cell["context"] > 64
    figures = [
        line_plot(
            losses,
            x_label="position in the window (1: from BOS alone)",
            y_label="loss, nats per token",
            finding=f"{name}: {cell['order']} minus forward is {signed(gap[0], 3)} nats at the "
            f"first position and {signed(gap[1], 3)} at the last ones.",
            alt="Held-out loss against position for both directions, one line a seed.",
            log_x=long,
        )
    ]
    arrows = [bin for bin in bins if bin["interval"] is not None]
    # Where both losses are next to nothing, their ratio can be anything: a band as high as the
    # measure is (-200 % to 200 %) would hide all others
    told = [
        list(run)
        for is_told, run in groupby(arrows, lambda b: b["interval"][1] - b["interval"][0] < 2)
        if is_told
    ]
    untold = len(arrows) - sum(map(len, told))
    if told:
        clear = [bin for bin in arrows if bin["p_adjusted"] <= 0.05]
        figures.append(
            line_plot(
                [
                    Series(
                        "relative arrow",
                        [(bin["first"] + bin["last"]) / 2 + 1 for bin in run],
                        [100 * bin["relative"] for bin in run],
                        [100 * bin["interval"][0] for bin in run],
                        [100 * bin["interval"][1] for bin in run],
                    )
                    for run in told
                ],
                x_label="position in the window (1: from BOS alone)",
                y_label="relative arrow, % (positive: forward is easier)",
                finding=f"{name}: a difference is seen at {len(clear)} of {len(arrows)} positions "
                "or groups of them, with a false discovery rate of 5 %.",
                alt="Relative arrow against position, with its interval at each position.",
                caption="Band: 95 % interval of each position alone, over seeds and text. Of 20 "
                "positions without a difference one is expected outside it."
                + f" Not drawn: {untold} whose interval is wider than 200 %."
                * (untold > 0),
                log_x=long,
                horizontal=[("no difference", 0.0)],
            )
        )
    return figures


def _mean_at(runs: Sequence[dict[str, Any]], bin: int) -> float:
    return float(np.mean([run["by_position"][bin] for run in runs]))
