"""The report of the arrow study, from its `results.json` alone (so it can be drawn again).

Every figure stands under its finding in words. Percentages are of the relative arrow,
2 (b - f) / (b + f), positive where forward is easier.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.report.figures import Interval, Series, forest_plot, line_plot
from lmlab.report.page import Figure, Section, Table, render_page

_FORWARD_COLOUR, _OTHER_COLOUR = 0, 1


def arrow_page(results: dict[str, Any]) -> str:
    """The HTML page of `results` (see `lmlab.studies.arrow`)."""
    cells = results["cells"]
    sections = [_arrow_section(cells)]
    with_floor = [c for c in cells if c["floor"] is not None]
    if with_floor:
        sections.append(_floor_section(with_floor))
    sections += [_learning_section(cells), _position_section(cells), _methods_section(results)]
    environment = ", ".join(f"{k} {v}" for k, v in results["environment"].items())
    return render_page(
        results["title"],
        summary(cells),
        sections,
        footer=f"Made by lmlab from results.json beside this page. {environment}.",
    )


def verdict(cell: dict[str, Any]) -> str:
    """The finding of one cell in words, with its interval."""
    arrow = cell["arrow"]
    said = arrow["verdict"]
    if cell["order"] != "backward":
        said = said.replace("backward is easier", f"{cell['order']} is easier")
    text = f"{said} ({_percent(arrow['relative'])}"
    if arrow["interval"]:
        low, high = arrow["interval"]
        text += f", 95 % interval {_percent(low)} to {_percent(high)}"
        text += ", text only" if arrow["basis"] == "text only" else ""
    return text + ")"


def summary(cells: Sequence[dict[str, Any]]) -> str:
    """The finding of the whole study in a few sentences."""
    lines = [f"{comparison_name(cell)}: {verdict(cell)}." for cell in cells[:8]]
    if len(cells) > 8:
        counts: dict[str, int] = {}
        for cell in cells:
            counts[cell["arrow"]["verdict"]] = counts.get(cell["arrow"]["verdict"], 0) + 1
        said = ", ".join(f"{n} × {v}" for v, n in counts.items())
        lines.append(f"In all {len(cells)} comparisons: {said}.")
    return "\n\n".join(lines)


def _percent(value: float) -> str:
    return f"{100 * value:+.2f} %".replace("-", "−")


def comparison_name(cell: dict[str, Any]) -> str:
    """What is compared: corpus, model, and what is not the default."""
    tokenizer = f", {cell['tokenizer']}" if cell["tokenizer"] not in ("bpe", "characters") else ""
    order = f", {cell['order']}" if cell["order"] != "backward" else ""
    return f"{cell['corpus']} ({cell['label']}{tokenizer}{order})"


def _arrow_section(cells: Sequence[dict[str, Any]]) -> Section:
    rows = [
        Interval(
            label=comparison_name(cell).removeprefix(f"{cell['corpus']} (").removesuffix(")"),
            estimate=100 * cell["arrow"]["relative"],
            low=100 * cell["arrow"]["interval"][0] if cell["arrow"]["interval"] else None,
            high=100 * cell["arrow"]["interval"][1] if cell["arrow"]["interval"] else None,
            note=cell["arrow"]["note"],
            group=cell["corpus"],
        )
        for cell in cells
    ]
    clear = [c for c in cells if c["arrow"]["verdict"].endswith("easier")]
    finding = (
        f"{comparison_name(cells[0])}: {verdict(cells[0])}."
        if len(cells) == 1
        else f"A difference beyond seeds and text is seen in {len(clear)} of {len(cells)} "
        "comparisons."
    )
    figure = forest_plot(
        rows,
        x_label="relative arrow, % (positive: forward is easier)",
        finding=finding,
        alt="Relative arrow of each comparison with its 95 % interval; zero is marked.",
        caption="Points: relative difference of summed losses, 2 (b − f) / (b + f). Bars: 95 % "
        "intervals over seeds and text (two-way random effects).",
    )
    columns, table_rows = _rows(cells)
    table = Table(
        columns,
        table_rows,
        "Losses (nats per token) and bits per byte: forward, other direction; means over seeds.",
    )
    return Section("The arrow", figures=[figure], tables=[table])


def _rows(
    cells: Sequence[dict[str, Any]],
) -> tuple[list[str], list[list[str | float | int]]]:
    """Columns and rows of the study's main table."""
    columns = ["comparison", "relative arrow [95 % interval]", "b / f − 1", "losses"]
    columns += ["bits per byte", "seeds × clusters"]
    return columns, [_row(cell) for cell in cells]


def _row(cell: dict[str, Any]) -> list[str | float | int]:
    arrow = cell["arrow"]
    interval = "no interval"
    if arrow["interval"]:
        low, high = (_percent(value).removesuffix(" %") for value in arrow["interval"])
        interval = f"[{low}, {high}]"
    losses = [_mean(cell[side], "nats_per_token") for side in ("forward", "other")]
    return [
        comparison_name(cell),
        f"{_percent(arrow['relative'])} {interval}",
        _percent(arrow["ratio"]) if arrow["ratio"] is not None else "infinite",
        ", ".join(f"{loss:.4f}" for loss in losses),
        _bits(cell),
        f"{arrow['seeds']} × {arrow['clusters']}",
    ]


def _bits(cell: dict[str, Any]) -> str:
    # bits per byte of a synthetic string are bits per character, and say nothing new
    if cell["floor"] is not None or cell["forward"][0]["bits_per_byte"] is None:
        return "–"
    forward, other = (_mean(cell[side], "bits_per_byte") for side in ("forward", "other"))
    return f"{forward:.4f}, {other:.4f}"


def _mean(runs: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))


def _floor_section(cells: Sequence[dict[str, Any]]) -> Section:
    rows: list[list[str | float | int]] = []
    points: list[Interval] = []
    for cell in cells:
        for name, runs in (("forward", cell["forward"]), (cell["order"], cell["other"])):
            for seed, run in enumerate(runs):
                loss, label = run["nats_per_token"], f"{name}, seed {seed}"
                excess = loss - cell["floor"]
                points.append(Interval(label, excess, None, None, group=comparison_name(cell)))
                rows.append([
                    f"{comparison_name(cell)}, {label}",
                    f"{loss:.5f}",
                    f"{cell['floor']:.5f}",
                    f"{excess:+.5f}",
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
        alt="Excess of each run's held-out loss over the entropy of its source; zero is the floor.",
        caption="The floor is the exact entropy of the source; held-out strings are a finite "
        "sample, so a loss may fall slightly below it by chance.",
    )
    table = Table(["run", "loss", "floor", "excess"], rows, "Nats per token on held-out strings.")
    return Section("Sources with a known floor", figures=[figure], tables=[table])


def _excess(cell: dict[str, Any], side: str) -> str:
    return f"{_mean(cell[side], 'nats_per_token') - cell['floor']:+.4f}"


def _learning_section(cells: Sequence[dict[str, Any]]) -> Section:
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
            label="forward" if side == "forward" else cell["order"],
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
    floor = [("floor", cell["floor"])] if cell["floor"] is not None else []
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
            finding=f"{name}: the arrow on validation text goes from {_percent(start / 100)} at "
            f"the first validation to {_percent(end / 100)} at the last (mean over seeds).",
            alt="Relative arrow against training tokens, one line a seed.",
            log_x=True,
            horizontal=[("no difference", 0.0)],
        ),
    ]


def _position_section(cells: Sequence[dict[str, Any]]) -> Section:
    return Section(
        "By position in the window",
        ["A token at position k is predicted from BOS and k tokens: those before it for the "
         "forward model, those after it for the backward one. Tokens near one direction's start "
         "are near the other's end, so the curves compare equal amounts of context, not equal "
         "tokens."],
        [_by_position(cell) for cell in cells],
    )  # fmt: skip


def _by_position(cell: dict[str, Any]) -> Figure:
    lines: list[Series] = []
    means: dict[str, np.ndarray] = {}
    for side, colour in (("forward", _FORWARD_COLOUR), ("other", _OTHER_COLOUR)):
        curves = np.array([run["by_position"] for run in cell[side]])
        edges = _bins(curves.shape[1])
        middle = [(a + b - 1) / 2 + 1 for a, b in itertools.pairwise(edges)]
        binned = np.array([curves[:, a:b].mean(axis=1) for a, b in itertools.pairwise(edges)])
        means[side] = binned.mean(axis=1)
        label = "forward" if side == "forward" else cell["order"]
        lines += [
            Series(label, middle, binned[:, s].tolist(), colour=colour, dashed=side == "other")
            for s in range(binned.shape[1])
        ]
    gap = means["other"] - means["forward"]
    return line_plot(
        lines,
        x_label="position in the window (1: from BOS alone)",
        y_label="loss, nats per token",
        finding=f"{comparison_name(cell)}: {cell['order']} minus forward is {gap[0]:+.3f} nats at "
        f"the first position and {gap[-1]:+.3f} at the last ones.",
        alt="Held-out loss against position for both directions, one line a seed.",
        log_x=True,
    )


def _bins(length: int) -> list[int]:
    """Edges of bins that are single positions at first and grow with the position."""
    edges = [0]
    while edges[-1] < length:
        edges.append(min(length, max(edges[-1] + 1, round(edges[-1] * 1.25))))
    return edges


def _methods_section(results: dict[str, Any]) -> Section:
    config = results["config"]
    rows: list[list[str | float | int]] = []
    for cell in results["cells"]:
        m = cell["methods"]
        rows.append([
            comparison_name(cell), m["parameters"], m["vocabulary"], m["training_tokens_available"],
            m["steps"], m["batch"], cell["context"], f"{m['learning_rate']:g}", m["dtype"],
            cell["tokens_scored"], cell["arrow"]["clusters"], cell["cluster"], m["store"],
        ])  # fmt: skip
    held_out = config["split"]
    text = (
        f"For each comparison, {config['seeds']} seed(s) of each direction were trained for "
        f"{config['tokens']:,} tokens. Both directions of a seed have the same initial weights, "
        "the same windows in the same order, the same steps and learning rates, and one tokenizer; "
        "only the order inside the window differs: backward flips the window's ids and then puts "
        "the same beginning-of-sequence token in front. Text is split by document, by a hash of "
        "its content. Training windows are contiguous, non-overlapping runs of the training "
        f"split. Losses are those of the last checkpoint on the {held_out} split, in float32, in "
        "windows that never cross a document; every token is scored, the first of each window "
        "from the beginning-of-sequence token alone. AdamW with weight decay 0.1 on matrices, "
        "betas 0.9 and 0.95, gradient clipped at 1, linear warm-up over 5 % of the steps, cosine "
        "to a tenth. Intervals are two-way random effects over seeds and clusters of text on the "
        "ratio of sums, Student t; with one seed they cover the text only. The numbers of this "
        "page, and digests of runs and stores, are in results.json; `lmlab study arrow` with the "
        "settings there repeats it."
    )
    table = Table(
        ["comparison", "parameters", "vocabulary", "training tokens available", "steps",
         "windows a step", "context", "learning rate", "products in", "tokens scored", "clusters",
         "cluster", "store"],
        rows,
        "What was equal in both directions.",
    )  # fmt: skip
    return Section("Methods", [text], tables=[table])
