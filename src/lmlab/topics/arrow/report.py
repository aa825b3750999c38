"""The report of the arrow study, from its `results.json` alone (so it can be drawn again).

Every figure stands under its finding in words. Percentages are of the relative arrow,
2 (b - f) / (b + f), positive where forward is easier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.numerics.verdicts import reach
from lmlab.pages.figures import Interval, forest_plot
from lmlab.pages.page import Section, Table, render_page
from lmlab.pages.wording import amount_of_text, capital, percent
from lmlab.results import made_by
from lmlab.studies.provenance import to_repeat
from lmlab.topics.arrow.counting import counting_section, counting_summary
from lmlab.topics.arrow.family import mean_name, mean_words
from lmlab.topics.arrow.figures import (
    floor_section,
    learning_section,
    position_section,
    times_section,
)
from lmlab.topics.arrow.findings import comparison_name, verdict
from lmlab.topics.arrow.linear_languages import level_words, levels, levels_section
from lmlab.topics.arrow.options import ArrowConfig


def arrow_page(results: dict[str, Any]) -> str:
    """The HTML page of `results` (see `lmlab.topics.arrow.study`)."""
    return render_page(
        results["title"],
        summary(results["cells"], results["means"]),
        arrow_sections(results),
        footer=made_by(results["environment"]),
    )


def arrow_sections(results: dict[str, Any]) -> list[Section]:
    """What the study shows, as sections of a page."""
    cells = results["cells"]
    with_floor = [c for c in cells if c["floor"] is not None]
    return [
        _arrow_section(cells, results["means"]),
        *([levels_section(cells)] if levels(cells) else []),
        *([floor_section(with_floor)] if with_floor else []),
        *([counting_section(results["ngrams"], cells)] if results["ngrams"] else []),
        learning_section(cells),
        *times_section(cells),
        position_section(cells),
        _methods_section(results),
    ]


def summary(cells: Sequence[dict[str, Any]], means: Sequence[dict[str, Any]]) -> str:
    """The finding of the whole study in a few sentences, the means over corpora first."""
    lines = [f"{capital(mean_name(mean))}: {mean_words(mean)}." for mean in means]
    lines += [f"{level.name}: {level_words(level)}." for level in levels(cells)]
    single = [cell for cell in cells if not cell.get("level")]
    lines += [f"{comparison_name(cell)}: {verdict(cell)}." for cell in single[:8]]
    if len(single) > 1:
        lines.append(_family(single))
    lines += counting_summary(cells)
    return "\n\n".join(lines)


def _family(cells: Sequence[dict[str, Any]]) -> str:
    """How many comparisons show a difference, with 5 % for a false one among all of them."""
    tested = [cell["arrow"] for cell in cells if cell["arrow"]["p_adjusted"] is not None]
    clear = sum(arrow["p_adjusted"] <= 0.05 for arrow in tested)
    seeds, documents = (min(c["arrow"][n] for c in cells) for n in ("seeds", "documents"))
    return (
        f"A difference is seen in {clear} of {len(cells)} comparisons, p-values adjusted for so "
        f"many (Holm){reach(seeds, documents)}."
    )


def _arrow_section(cells: Sequence[dict[str, Any]], means: Sequence[dict[str, Any]]) -> Section:
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
    rows += [
        Interval(
            mean["label"], 100 * mean["estimate"], 100 * mean["low"], 100 * mean["high"],
            group=f"Mean over {mean['rows']} corpora", summary=True,
        )
        for mean in means
    ]  # fmt: skip
    if means:
        finding = f"{capital(mean_name(means[0]))}: {mean_words(means[0])}."
    else:
        finding = f"{comparison_name(cells[0])}: {verdict(cells[0])}."
        finding = finding if len(cells) == 1 else _family(cells)
    figure = forest_plot(
        rows,
        x_label="relative arrow, % (positive: forward is easier)",
        finding=finding,
        alt="Relative arrow of each comparison with its 95 % interval; zero is marked.",
        caption="Points: relative difference of summed losses, 2 (b − f) / (b + f). Bars: 95 % "
        "intervals over seeds and text (two-way random effects), each for its row alone."
        + " Diamonds: means over corpora with their 95 % interval (random effects between corpora, "
        "Paule and Mandel, Hartung and Knapp; one seed variance for all rows)." * bool(means),
    )
    columns, table_rows = _rows(cells)
    table = Table(
        columns,
        table_rows,
        "Losses (nats per token) and bits per byte: forward, other direction; means over seeds.",
    )
    return Section("The arrow", figures=[figure], tables=[table, _power_table(cells)])


def _power_table(cells: Sequence[dict[str, Any]]) -> Table:
    """What each comparison could show, whatever it did."""
    rows = [
        [
            comparison_name(cell),
            "–" if arrow["p_adjusted"] is None else f"{arrow['p_adjusted']:.2g}",
            "–" if arrow["bound"] is None else percent(arrow["bound"]).lstrip("+"),
            "–" if arrow["detectable"] is None else percent(arrow["detectable"]).lstrip("+"),
        ]
        for cell in cells
        for arrow in [cell["arrow"]]
    ]
    return Table(
        ["comparison", "p, adjusted", "difference is below (95 %)", "seen with 80 %"],
        rows,
        "What each comparison could show. p is adjusted for the number of comparisons (Holm). Seen "
        "with 80 %: the difference that so many seeds and so much text would have shown.",
    )


def _rows(
    cells: Sequence[dict[str, Any]],
) -> tuple[list[str], list[list[str | float | int]]]:
    """Columns and rows of the study's main table."""
    columns = ["comparison", "relative arrow [95 % interval]", "b / f − 1", "losses"]
    columns += ["bits per byte", "seeds × documents"]
    return columns, [_row(cell) for cell in cells]


def _row(cell: dict[str, Any]) -> list[str | float | int]:
    arrow = cell["arrow"]
    interval = "no interval"
    if arrow["interval"]:
        low, high = (percent(value).removesuffix(" %") for value in arrow["interval"])
        interval = f"[{low}, {high}]"
    losses = [_mean(cell[side], "nats_per_token") for side in ("forward", "other")]
    return [
        comparison_name(cell),
        f"{percent(arrow['relative'])} {interval}",
        percent(arrow["ratio"]) if arrow["ratio"] is not None else "infinite",
        ", ".join(f"{loss:.4f}" for loss in losses),
        _bits(cell),
        f"{arrow['seeds']} × {arrow['documents']}",
    ]


def _bits(cell: dict[str, Any]) -> str:
    # bits per byte of a synthetic string are bits per character, and say nothing new
    if cell["floor"] or cell["forward"][0]["bits_per_byte"] is None:
        return "–"
    forward, other = (_mean(cell[side], "bits_per_byte") for side in ("forward", "other"))
    return f"{forward:.4f}, {other:.4f}"


def _mean(runs: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))


def _methods_section(results: dict[str, Any]) -> Section:
    config = results["config"]
    rows: list[list[str | float | int]] = []
    for cell in results["cells"]:
        m = cell["methods"]
        rows.append([
            comparison_name(cell), m["parameters"], m["vocabulary"], m["training_tokens_available"],
            m["steps"], m["batch"], cell["context"], f"{m['learning_rate']:g}", m["dtype"],
            cell["tokens_scored"],
            amount_of_text(cell["arrow"]["documents"], cell["cluster"], cell["arrow"]["clusters"]),
            m["store"],
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
        "to a tenth. Intervals are two-way random effects over seeds and documents (sections of "
        "them where there are fewer than five: these documents only) on the ratio of sums, "
        "Student t; with one seed they cover the text only. The numbers of this "
        "page, and digests of runs and stores, are in results.json."
    )
    notes = dict.fromkeys(
        cell["methods"]["text"] for cell in results["cells"] if "text" in cell["methods"]
    )
    text = " ".join([text, *notes])
    repeat = to_repeat("lmlab study arrow", ArrowConfig, config)
    table = Table(
        ["comparison", "parameters", "vocabulary", "training tokens available", "steps",
         "windows a step", "context", "learning rate", "products in", "tokens scored",
         "intervals over", "store"],
        rows,
        "What was equal in both directions.",
    )  # fmt: skip
    return Section("Methods", [text, repeat], tables=[table])
