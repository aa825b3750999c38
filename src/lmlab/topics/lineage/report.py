"""Tables, figures and page of `lmlab lineage`, from its `results.json` alone."""

from __future__ import annotations

from lmlab.pages.figures import ForestRow, forest_plot, heat_map
from lmlab.pages.matrix import MOST_ROWS
from lmlab.pages.page import Figure, LegendEntry, Section, Table
from lmlab.pages.phylogram import phylogram
from lmlab.pages.report import Report
from lmlab.pages.text import Rounded
from lmlab.pages.wording import amount_of_text, bounds_text, copies_of, share_text, with_interval
from lmlab.topics.lineage.lineage import FLOOR, InnerBranch, Lineage, MeasuredTree

_CHANCE = 1 / 3
_TRUE = (
    LegendEntry("in the true tree, or of one model", "c0", "M0 6H26"),
    LegendEntry("not in the true tree", "c1", "M0 6H26", dash="6 4"),
)


def report(result: Lineage) -> Report:
    """Title, findings and sections of the page."""
    trees = [_tree_figure(result, measured) for measured in result.measures]
    sections = [Section("Trees", [_TREES, *_newick(result)], figures=trees)]
    if result.truth is not None:
        sections.insert(
            0,
            Section(
                "Against the true tree",
                [_TRUTH],
                figures=[_accuracy_figure(result)],
                tables=[accuracy_table(result), *_differences(result), branch_table(result)],
            ),
        )
    else:
        sections[0] = Section(
            "Trees", [_TREES, *_newick(result)], figures=trees, tables=[branch_table(result)]
        )
    maps = [_map(result, m) for m in result.measures] if len(result.models) <= MOST_ROWS else []
    sections += [
        Section("Pairs", [_PAIRS], figures=maps, tables=[pair_table(result)]),
        Section("Methods", [_methods(result)]),
    ]
    return Report(f"Lineage of {len(result.models)} models", summary(result), sections)


def tables(result: Lineage) -> list[Table]:
    """Accuracy of each measure, if the true tree is known; branches; pairs."""
    known = [accuracy_table(result), *_differences(result)] if result.truth else []
    return [*known, branch_table(result), pair_table(result)]


def summary(result: Lineage) -> str:
    """The findings in a few sentences."""
    copies = [f"The same rows: {copies_of(result.same_rows)}."] if result.same_rows else []
    return "\n\n".join([*(_finding(result, m) for m in result.measures), *copies, _reach(result)])


def _finding(result: Lineage, measured: MeasuredTree) -> str:
    if result.truth is None or measured.recovery is None:
        inner = [b for b in measured.branches if b.number is not None]
        sure = sum(b.support >= 0.95 for b in inner)
        return (
            f"{measured.measure}: {sure} of {len(inner)} inner branches are in at least 95 % of "
            "the trees of halves of the text."
        )
    seen = measured.recovery
    return (
        f"{measured.measure}: quartet accuracy {with_interval(seen.accuracy, _percent, ' %')} of "
        f"{result.truth.quartets} quartets (33 % by chance, as good with p = {seen.p:.3f}); "
        f"of the true tree's inner branches {seen.found} of {result.truth.branches} are found."
    )


def _reach(result: Lineage) -> str:
    over = amount_of_text(result.documents, result.cluster_unit, result.units)
    return (
        f"Intervals and supports are over text ({over}), for these {len(result.models)} models: "
        "they are one draw, and another family may come out otherwise."
    )


def accuracy_table(result: Lineage) -> Table:
    """A row a measure."""
    rows: list[list[str | float | int]] = []
    for m in result.measures:
        if (seen := m.recovery) is None or result.truth is None:
            continue
        rows.append([
            m.measure, Rounded(100 * seen.accuracy.estimate, 1),
            bounds_text(seen.accuracy.bounds, _percent), Rounded(seen.p, 3), seen.found,
            result.truth.branches, result.truth.quartets,
        ])  # fmt: skip
    return Table(
        ["measure", "quartet accuracy, %", "95 % interval, text only", "p of random namings",
         "true branches found", "of", "quartets"],
        rows,
        "Quartets of the true tree on which each measure's tree agrees; a random tree has 33.3 %.",
    )  # fmt: skip


def _differences(result: Lineage) -> list[Table]:
    rows: list[list[str | float | int]] = [
        [f"{d.one} less {d.other}", Rounded(100 * d.difference.estimate, 1),
         bounds_text(d.difference.bounds, _percent)]
        for d in result.differences
    ]  # fmt: skip
    caption = "Differences of quartet accuracy, each on the same halves of the text."
    return [Table(["measures", "points", "95 % interval, text only"], rows, caption)]


def branch_table(result: Lineage) -> Table:
    """Inner branches of any tree, with their support by each measure."""
    by_members: dict[tuple[str, ...], dict[str, InnerBranch]] = {}
    for m in result.measures:
        for branch in m.branches:
            by_members.setdefault(branch.members, {})[m.measure] = branch
    names = [m.measure for m in result.measures]

    def row(members: tuple[str, ...], seen: dict[str, InnerBranch]) -> list[str | float | int]:
        known = next(iter(seen.values())).in_truth
        truth = [] if known is None else ["yes" if known else "no"]
        return [", ".join(members), *truth, *(_support(seen.get(name)) for name in names)]

    order = sorted(
        by_members.items(),
        key=lambda item: (
            not next(iter(item[1].values())).in_truth,
            -sum(b.support for b in item[1].values()),
        ),
    )
    rows = [row(members, seen) for members, seen in order]
    truth = [] if result.truth is None else ["in the true tree"]
    return Table(
        ["models on one side of the branch", *truth, *(f"{n}: support, %" for n in names)],
        rows,
        "Inner branches: per cent of the halves of the text whose tree has them; in brackets where "
        "the tree of all text lacks it; a dash: neither this tree nor the true one has it.",
    )


def _support(branch: InnerBranch | None) -> str:
    if branch is None:
        return "–"
    text = f"{100 * branch.support:.0f}"
    return text if branch.number is not None else f"({text})"


def pair_table(result: Lineage) -> Table:
    """A row a pair."""
    columns: list[str] = []
    for m in result.measures:
        columns += [m.measure, "shuffled", "calibrated", "p"]
    rows: list[list[str | float | int]] = []
    for pairs in zip(*(m.similarities for m in result.measures), strict=True):
        row: list[str | float | int] = [f"{pairs[0].one}, {pairs[0].other}"]
        for pair in pairs:
            row += [Rounded(pair.value, 3), Rounded(pair.null, 3), Rounded(pair.calibrated, 3),
                    Rounded(pair.p, 3)]  # fmt: skip
        rows.append(row)
    return Table(
        ["pair", *columns],
        rows,
        f"Similarities on test; shuffled: their mean over {result.permutations} shuffles of the "
        "documents, which is 0 of the calibrated value. p is not corrected for the number of "
        "pairs.",
    )


_TRUTH = (
    "A quartet is a set of four models of which the true tree says which two belong together. Its "
    "accuracy is the share of them on which the tree of a measure says the same. p: how often a "
    "random naming of the leaves does as well. The interval is over halves of the documents."
)
_TREES = (
    "Distances along the tree are the sums of the horizontal lines between two models. The numbers "
    "at inner branches are the share of the halves of the text whose tree has that branch. The "
    "trees have no root: they are drawn from the middle of their longest path, which need not be "
    "the oldest ancestor."
)
_PAIRS = (
    "Calibrated similarity: 0 is the mean of shuffled documents, 1 is identity. Of LMD R² it is "
    "the mean of both ways."
)


def _newick(result: Lineage) -> list[str]:
    return [f"{m.measure}, in Newick's form: {m.newick}" for m in result.measures]


def _tree_figure(result: Lineage, measured: MeasuredTree) -> Figure:
    inner = [b for b in measured.branches if b.number is not None]
    notes = {b.number: share_text(b.support) for b in inner if b.number is not None}
    wrong = [b.number for b in inner if b.in_truth is False and b.number is not None]
    known = result.truth is not None
    least = min(inner, key=lambda b: b.support)
    finding = (
        f"{measured.measure}: the least supported branch, {', '.join(least.members)}, is in "
        f"{share_text(least.support)} of the trees of halves of the text."
    )
    if known and measured.recovery is not None and result.truth is not None:
        finding = (
            f"Of the true tree's inner branches {measured.measure} finds "
            f"{measured.recovery.found} of {result.truth.branches}"
            + (f"; {len(wrong)} of its own {'is' if len(wrong) == 1 else 'are'} not in it." if wrong
               else ".")
        )  # fmt: skip
    scale = "−log" if result.distance == "log" else "1 −"
    return phylogram(
        list(result.models),
        measured.tree,
        notes=notes,
        doubted=wrong,
        legend=_TRUE if known and wrong else (),
        x_label=f"distance from the middle of the tree: {scale} calibrated similarity",
        finding=finding,
        alt=f"Tree of the models by {measured.measure}.",
        caption="Per cent: share of halves of the test documents whose tree has the branch.",
    )


def _accuracy_figure(result: Lineage) -> Figure:
    rows = [
        ForestRow.of(m.measure, m.recovery.accuracy, show=_hundred)
        for m in result.measures
        if m.recovery is not None
    ]
    best = max(rows, key=lambda row: row.estimate)
    alike = [row.label for row in rows if row.estimate == best.estimate]
    most = ", ".join(alike) + (" agree" if len(alike) > 1 else " agrees")
    return forest_plot(
        [*rows, ForestRow("a random tree", 100 * _CHANCE, None, None, "computed")],
        x_label="quartets of the true tree that the measure's tree has, %",
        finding=f"{most} with the true tree on {best.estimate:.0f} % of the quartets"
        + (", most of all." if len(alike) < len(rows) else ", as all measures do."),
        alt="Quartet accuracy of each measure's tree with its interval.",
        caption="Intervals: 95 %, over halves of the test documents, for these models.",
        reference=None,
    )


def _map(result: Lineage, measured: MeasuredTree) -> Figure:
    names = list(result.models)
    values: dict[frozenset[str], float] = {
        frozenset((pair.one, pair.other)): pair.calibrated for pair in measured.similarities
    }
    shown = list(values.values())
    nearest = max(measured.similarities, key=lambda pair: pair.calibrated)
    low, high = min(shown), max(shown)
    return heat_map(
        names,
        [[values.get(frozenset((a, b))) for b in names] for a in names],
        row_label="model",
        column_label="model",
        finding=f"{measured.measure}: the most alike are {nearest.one} and {nearest.other} "
        f"({nearest.calibrated:.3f}).",
        alt=f"Calibrated {measured.measure} of every pair.",
        caption=f"Calibrated similarity, from {low:.3f} to {high:.3f}.",
        low=low - 0.1 * (high - low),
        high=high if high > low else low + 1.0,
    )


def _methods(result: Lineage) -> str:
    layer = result.embedding.layer
    states = "last hidden states" if layer is None else f"states of block {layer}"
    distance = (
        f"minus the logarithm of the calibrated similarity (those below {FLOOR} as {FLOOR})"
        if result.distance == "log"
        else "one minus the calibrated similarity"
    )
    note = f" {result.text_note}" if result.text_note else ""
    unit = result.embedding.unit
    return (
        f"Every model reads the same text of {result.store}; a row is a {unit} "
        f"(`embedding.length` {result.embedding.length}), pooled by {result.embedding.pooling} "
        f"over the {states}. Test: {result.rows['test']:,} rows, {result.shortened:,} pieces of "
        f"all splits shortened. Debiased linear CKA; mutual neighbours: the share of the "
        f"{result.neighbours} nearest rows, by cosine about the mean, that two models have in "
        f"common; LMD R²: ridge regression fitted on {result.rows['train']:,} rows of training "
        f"text, its ridge chosen on validation for every pair. Each less its mean over "
        f"{result.permutations} shuffles of the documents, and scaled so that identity is 1. "
        f"Distances are {distance}; trees by neighbour joining (Saitou and Nei 1987), whose "
        f"branches below zero are drawn as zero. Supports and intervals: {result.halves} random "
        f"halves of the documents; linear maps stay as they were fitted on all training text.{note}"
    )


def _hundred(share: float) -> float:
    return 100 * share


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".replace("-", "−")
