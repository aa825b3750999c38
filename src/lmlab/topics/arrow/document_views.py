"""The section on single documents of the arrow's pages: a figure and a table, and their words.

Percentages are of the relative arrow, positive where forward is easier.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmlab.numerics.random_effects import Interval
from lmlab.numerics.verdicts import MINIMUM_SEEDS
from lmlab.pages.figures import Points, scatter_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.text import Rounded
from lmlab.pages.wording import percent, without_label
from lmlab.topics.arrow.comparison import Comparison
from lmlab.topics.arrow.documents import DocumentArrow, DocumentArrows
from lmlab.topics.arrow.tables import comparison_name

_ENDS = 10
"""Documents of each end that a long table shows."""


def documents_section(comparisons: Sequence[Comparison]) -> Section | None:
    """Which documents read forwards; None where no comparison has documents enough."""
    known = _with_documents(comparisons)
    if not known:
        return None
    figures = [_halves_figure(c, documents) for c, documents in known]
    if len(comparisons) == 1:
        figures = without_label(figures, comparison_name(comparisons[0]))
    tables = [reliability_table(known), *(documents_table(c, each, _ENDS) for c, each in known)]
    return Section("Which documents read forwards", [_DOCUMENTS], figures, tables)


def document_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """How reliable the arrows of documents are, and all of them."""
    known = _with_documents(comparisons)
    if not known:
        return []
    return [reliability_table(known), *(documents_table(c, each) for c, each in known)]


def _with_documents(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, DocumentArrows]]:
    return [(c, c.documents) for c in comparisons if c.documents is not None]


def documents_words(documents: DocumentArrows) -> str:
    """Whether documents differ, with the reach of that."""
    others = "other passages" if documents.both is None else "other passages and other seeds"
    given = f"{_share(documents.reliability)} of the variance is found again by {others}"
    if not documents.differ:
        return f"it is not shown that documents differ in their arrow ({given})"
    few = "" if documents.seeds >= MINIMUM_SEEDS else ", for these models"
    return (
        f"documents differ in their arrow, by a standard deviation of "
        f"{percent(documents.spread).lstrip('+')} beyond error ({given}{few})"
    )


def _share(interval: Interval) -> str:
    text = f"{interval.estimate:.2f}"
    return text if interval.bounds is None else f"{text} [{interval.low:.2f}, {interval.high:.2f}]"


def _halves_figure(comparison: Comparison, documents: DocumentArrows) -> Figure:
    every = documents.documents
    first_D, second_D = ([100 * d.halves[half] for d in every] for half in (0, 1))
    return scatter_plot(
        [Points("documents", first_D, second_D, 0, [d.name for d in every])],
        x_label="relative arrow of every other window, %",
        y_label="of the windows between, %",
        finding=f"{comparison_name(comparison)}: {documents_words(documents)}.",
        alt="The arrow of each document in one half of its windows against the other half.",
        caption="A point is a document, mean over seeds. Were the arrow the document's own, the "
        "points would lie on a rising line; were it chance, in a round cloud.",
        horizontal=[("no difference", 0.0)],
    )


def reliability_table(known: Sequence[tuple[Comparison, DocumentArrows]]) -> Table:
    """How much of the documents' differences is found again, and by what."""
    return Table(
        ["comparison", "documents", "spread, %", "other passages", "other seeds", "both",
         "forward, backward (FDR 5 %)"],
        [
            [
                comparison_name(c),
                len(d.documents),
                Rounded(100 * d.spread, 2),
                *("–" if i is None else _share(i) for i in (d.passages, d.trainings, d.both)),
                "{}, {}".format(*d.clear),
            ]
            for c, d in known
        ],
        "Reliability of the documents' arrows, with 95 % intervals over documents (jackknife): the "
        "share of their variance that other passages of the same documents, other training seeds, "
        "or both would show again. Spread: the standard deviation between documents beyond error.",
    )  # fmt: skip


def documents_table(
    comparison: Comparison, documents: DocumentArrows, ends: int | None = None
) -> Table:
    """The arrow of each document; of a long table its two `ends`."""
    rows, count, shown = documents.documents, len(documents.documents), ""
    if ends is not None and count > 2 * ends:
        rows = rows[:ends] + rows[-ends:]
        shown = f" The {ends} most forward and the {ends} most backward of {count:,}; all of them "
        shown += "are in results.json."
    return Table(
        ["document", "tokens", "nats per token", "relative arrow, % [95 %]", "p, adjusted",
         "halves, %", "expected, %"],
        [
            [
                d.name,
                d.tokens,
                Rounded(d.nats_per_token, 3),
                _arrow_cell(d),
                "–" if d.p_adjusted is None else f"{d.p_adjusted:.2g}",
                "{:+.2f}, {:+.2f}".format(*(100 * half for half in d.halves)),
                f"{100 * d.expected:+.2f}",
            ]
            for d in rows
        ],
        f"Documents of {comparison_name(comparison)}, from the most forward on.{shown} Interval: "
        "over the windows of the document and the seeds. p: adjusted for the false discovery rate "
        "among all documents. Expected: the arrow drawn towards the mean by its reliability, what "
        "other passages and seeds are expected to show.",
    )  # fmt: skip


def _arrow_cell(document: DocumentArrow) -> str:
    cell = f"{100 * document.relative:+.2f}"
    if document.low is None or document.high is None:
        return cell
    return f"{cell} [{100 * document.low:+.2f}, {100 * document.high:+.2f}]"


_DOCUMENTS = (
    "Does each document have an arrow of its own? The windows of a document are dealt in turn into "
    "two halves. What the halves, by models of different seeds, have in common is the document's; "
    "the rest is chance. The first of many documents is there by luck in part, so the last column "
    "draws each towards the mean."
)
