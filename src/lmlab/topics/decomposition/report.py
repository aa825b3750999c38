"""The report of the decomposition study, from its `results.json` alone (so it can be drawn again).

R2 is of held-out text throughout. Intervals cover the choice of test documents, for these models;
they say nothing of other seeds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lmlab.numerics.verdicts import Evidence, verdict
from lmlab.pages.figures import Interval, Series, dendrogram, forest_plot, heat_map, line_plot
from lmlab.pages.page import Figure, Section, Table, render_page
from lmlab.pages.theme import SERIES_COLOURS
from lmlab.pages.tree import leaf_order
from lmlab.pages.wording import amount_of_text
from lmlab.results import made_by
from lmlab.studies.provenance import to_repeat
from lmlab.topics.decomposition.options import DecompositionStudyConfig
from lmlab.topics.decomposition.tables import (
    READING,
    group_finding,
    interval_text,
    notes,
    r2_text,
    target_table,
)

_TEXT_ONLY = "Bars: 95 % intervals over test documents, for these models."


def decomposition_page(results: dict[str, Any]) -> str:
    """The HTML page of `results` (see `lmlab.topics.decomposition.study`)."""
    return render_page(
        results["title"],
        summary(results),
        decomposition_sections(results),
        footer=made_by(results["environment"]),
    )


def decomposition_sections(results: dict[str, Any]) -> list[Section]:
    """What the study shows, as sections of a page."""
    sections = [_whole_section(results), _pairs_section(results)]
    if len(results["lengths"]) > 1:
        sections.append(_length_section(results))
    return [*sections, _greedy_section(results), _methods_section(results)]


def summary(results: dict[str, Any]) -> str:
    """The findings in a few sentences."""
    lines = [group_finding(results["main"])]
    arms = results["kinds"]["arms"]
    asked = [
        ("A backward model from a forward one of another seed", "backward from forward"),
        ("a headless model from one with a softmax", "headless from forward"),
        ("a masked model from a forward one", "masked from forward"),
        ("a tower from a forward model", "tower from forward"),
    ]
    said = [f"{words}: {interval_text(arms[kind])}" for words, kind in asked if kind in arms]
    if said:
        lines.append(f"R² on test. {'; '.join(said)}.")
    if finding := seeds_verdict(results):
        lines.append(finding)
    return "\n\n".join(lines)


def seeds_verdict(results: dict[str, Any]) -> str:
    """Are two seeds more alike than two objectives? Empty where the zoo cannot say."""
    difference = results["kinds"]["seeds_less_objectives"]
    if difference is None:
        return ""
    said = verdict(
        # of these models, as the sentence says; it has no seeds to speak for others
        replace(Evidence.of(difference), seeds=None),
        above="a model is better explained by one of another seed than by one that differs in "
        "objective and seed",
        below="a model is worse explained by one of another seed than by one that differs in "
        "objective and seed",
        size=lambda value: f"{value:.3f} of R²",
    )
    text = (
        "Are two seeds of one objective more alike than two objectives? On average over the models "
        f"of this zoo, {said}: difference of R² {interval_text(difference)}."
    )
    each = {arm: d for arm, d in results["kinds"]["by_target"].items() if d is not None}
    said = [f"{arm} {r2_text(d['estimate'])}" for arm, d in each.items()]
    return f"{text} By the target's objective: {', '.join(said)}."


def _whole_section(results: dict[str, Any]) -> Section:
    main = results["main"]
    rows = [
        Interval(
            name,
            found["interval"]["estimate"],
            found["interval"]["low"],
            found["interval"]["high"],
            "" if found["interval"]["low"] is not None else found["interval"]["note"],
        )
        for name, found in main["targets"].items()
    ]
    most = max(rows, key=lambda row: row.estimate)
    least = min(rows, key=lambda row: row.estimate)
    figure = forest_plot(
        rows,
        x_label="R² on test of each model from all others",
        finding=f"{_capital(most.label)} is most in the others (R² {r2_text(most.estimate)}), "
        f"{least.label} least ({r2_text(least.estimate)}).",
        alt="Held-out R² of each model from all others, with its interval.",
        caption=_TEXT_ONLY,
        reference=None,
    )
    return Section(
        "Each model from all others",
        [READING, *notes(main)],
        figures=[figure],
        tables=[target_table(main)],
    )


def _pairs_section(results: dict[str, Any]) -> Section:
    main, kinds = results["main"], results["kinds"]
    names, r2 = main["pairwise"]["names"], main["pairwise"]["r2_test"]
    merges = [(int(a), int(b), float(d)) for a, b, d in results["tree"]]
    order = leaf_order(len(names), merges)
    shown = [v for row in r2 for v in row if v is not None]
    first, second, nearest = merges[0]
    alike = f"{names[first]} and {names[second]}"
    figures: list[Figure] = []
    if finding := seeds_verdict(results):
        figures.append(
            _pairs_forest(
                kinds["general"],
                finding=finding,
                alt="Mean held-out R² of pairs by what the two models have in common.",
                caption=f"{_TEXT_ONLY} Models of one architecture and one seed began with the same "
                "weights and read the same text in the same order.",
            )
        )
    if kinds["arms"]:
        best = max(kinds["arms"], key=lambda kind: kinds["arms"][kind]["estimate"])
        least = min(kinds["arms"], key=lambda kind: kinds["arms"][kind]["estimate"])
        figures.append(
            _pairs_forest(
                kinds["arms"],
                finding=f"By objective, {best} is explained best, {least} least.",
                alt="Mean held-out R² of pairs by the objectives of target and basis.",
                caption=f"{_TEXT_ONLY} Pairs of different seeds, where there are several.",
            )
        )
    figures += [
        heat_map(
            [names[i] for i in order],
            [[r2[i][j] for j in order] for i in order],
            row_label="target",
            column_label="basis",
            finding=f"Pairs range from {r2_text(min(shown))} to {r2_text(max(shown))}, with a mean "
            f"of {r2_text(main['pairwise']['mean'])}.",
            alt="Held-out R² of each model (row) from one other alone (column).",
            caption="R² on test of the row's model from the column's model alone; the order is "
            "that of the tree below. Not symmetric: a model can hold another and more.",
            low=max(0.0, min(0.0, *shown) if min(shown) < 0 else min(shown) - 0.05),
            high=max(shown),
        ),
        dendrogram(
            names,
            merges,
            x_label="distance: 1 − R², mean of both ways",
            finding=f"The most alike are {alike} (1 − R² is {nearest:.3f}).",
            alt="Tree of the models by one minus the pairwise R².",
            caption="Average linkage of the pairwise R² on test.",
        ),
    ]
    return Section("Pairs", figures=figures)


def _pairs_forest(
    kinds: dict[str, dict[str, Any]], *, finding: str, alt: str, caption: str
) -> Figure:
    rows = [
        Interval(
            kind,
            one["estimate"],
            one["low"],
            one["high"],
            f"mean of {one['pairs']} pairs" if one["pairs"] > 1 else "one pair",
        )
        for kind, one in kinds.items()
    ]
    return forest_plot(
        rows,
        x_label="R² on test of one model from one other",
        finding=finding,
        alt=alt,
        caption=caption,
        reference=None,
    )


def _length_section(results: dict[str, Any]) -> Section:
    lengths = results["lengths"]
    x = [one["length"] for one in lengths]
    groups = [one["group"] for one in lengths]
    bounded = all(group["low"] is not None for group in groups)
    series = [
        Series(
            "all models, test",
            x,
            [group["estimate"] for group in groups],
            [group["low"] for group in groups] if bounded else None,
            [group["high"] for group in groups] if bounded else None,
        ),
        Series("all models, training", x, [one["group_train"] for one in lengths], dashed=True),
    ]
    arms = list(dict.fromkeys(member["arm"] for member in results["zoo"]))
    for colour, arm in enumerate(arms[: SERIES_COLOURS - 1], start=1):
        own = [m["label"] for m in results["zoo"] if m["arm"] == arm]
        series.append(
            Series(
                f"{arm}, test",
                x,
                [
                    float(np.mean([one["targets"][name]["estimate"] for name in own]))
                    for one in lengths
                ],
                colour=colour,
            )
        )
    short, long = (groups[i]["estimate"] for i in (0, -1))
    said = f"{'rises' if long > short else 'falls'} from {r2_text(short)} to {r2_text(long)}"
    if r2_text(short) == r2_text(long):
        said = f"stays at {r2_text(short)}"
    figure = line_plot(
        series,
        x_label="tokens of a piece of text",
        y_label="mean R² of a model from all others",
        finding=f"From {x[0]} to {x[-1]} tokens the group correlation on test {said}.",
        alt="Group correlation against the length of the text, on training and test.",
        caption="Band: 95 % interval over test documents, for these models. Rows are means over "
        "the tokens of a piece, which have less noise the longer it is.",
        log_x=True,
    )
    table = Table(
        ["tokens", "group correlation, test [95 %]", "training", "training rows", "test rows"],
        [
            [one["length"], interval_text(one["group"]), r2_text(one["group_train"]),
             one["rows"]["train"], one["rows"]["test"]]
            for one in lengths
        ],
        "Group correlation by length of text.",
    )  # fmt: skip
    return Section("Length of text", figures=[figure], tables=[table])


def _greedy_section(results: dict[str, Any]) -> Section:
    targets = results["main"]["targets"]
    firsts: dict[str, str] = {}
    for member in results["zoo"]:
        firsts.setdefault(member["arm"], member["label"])
    shown = list(firsts.values()) or list(targets)
    shown = shown[:SERIES_COLOURS]
    series = [
        Series(
            name,
            list(range(1, len(targets[name]["greedy"]["r2"]) + 1)),
            targets[name]["greedy"]["r2"],
            colour=colour,
        )
        for colour, name in enumerate(shown)
    ]
    shares = [
        targets[name]["greedy"]["r2"][0] / targets[name]["greedy"]["r2"][-1] for name in shown
    ]
    figure = line_plot(
        series,
        x_label="models in the basis, in the order in which they add most",
        y_label="R² on test",
        finding=f"The best single model already gives {100 * min(shares):.0f} to "
        f"{100 * max(shares):.0f} % of what all others give together.",
        alt="Held-out R² against the number of basis models, greedily chosen.",
        caption="One target of each objective. Chosen on validation text, scored on test text.",
    )
    table = Table(
        ["target", "first models chosen"],
        [[name, ", ".join(targets[name]["greedy"]["order"][:4])] for name in shown],
        "The order of the choice.",
    )
    return Section("How many models it takes", figures=[figure], tables=[table])


def _methods_section(results: dict[str, Any]) -> Section:
    main, config = results["main"], results["config"]
    zoo = results["zoo"]
    over = amount_of_text(main["test_documents"], main["cluster"], main["test_clusters"])
    text = (
        f"Corpus: {results['corpus']}. Pieces of {main['length']} tokens of its tokenizer; "
        f"{main['rows']['train']:,} rows to fit on (the text that the zoo was trained on), "
        f"{main['rows']['validation']:,} to choose the ridge of each target on, "
        f"{main['rows']['test']:,} to score, from {over}. "
        f"A row is a piece; pooling: {config['embedding']['pooling']}. "
        f"{main['shortened_pieces']:,} pieces were cut to fit the shortest model. R² = 1 − "
        "residual over total sum of squares, pooled over dimensions, about the mean of the test "
        "rows; "
        "whitened R² counts all directions of the target alike. Intervals: delete-one jackknife "
        "over these of log(1 − R²), Student t, the fit as it is; they say nothing "
        "of other seeds. Every pair has its own ridge, chosen on validation as that of a whole fit."
    )
    if "text" in main:
        text += f" Text: {main['text']}."
    tables = []
    if zoo:
        tables.append(
            Table(
                ["model", "objective", "size", "training tokens", "validation nats per token"],
                [
                    [m["label"], m["arm"], m["size"], m["tokens"],
                     f"{m['validation_nats_per_token']:.3f}"]
                    for m in zoo
                ],
                "The zoo. Nats of masked models are of masked tokens, and not to be compared with "
                "those of the others; those of a tower are both towers' together.",
            )
        )  # fmt: skip
    repeat = to_repeat("lmlab study decomposition", DecompositionStudyConfig, config)
    return Section("Methods", [text, repeat], tables=tables)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
