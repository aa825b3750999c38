"""The page of `lmlab bottleneck`, from its `results.json` alone (so it can be drawn again)."""

from __future__ import annotations

from lmlab.pages.forest import ForestRow, forest_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import Rounded
from lmlab.pages.wording import amount_of_text, bounds_text
from lmlab.topics.bottleneck.bottleneck import Bottleneck, HeadGradient


def report(result: Bottleneck) -> Report:
    """Title, findings and sections of the page."""
    first = result.gradients[0]
    count = len({g.model for g in result.gradients})
    title = first.model if count == 1 else f"{count} models"
    return Report(
        f"The head as a bottleneck: {title}",
        summary(result),
        [
            Section("What passes", [_READING], figures=_figures(result), tables=tables(result)),
            Section("Methods", [_methods(result)]),
        ],
    )


def summary(result: Bottleneck) -> str:
    """The findings in a few sentences."""
    over = amount_of_text(result.documents, result.cluster_unit, result.clusters)
    reach = f"Intervals are over text ({over}), for these models: other seeds may differ."
    return "\n\n".join([*map(_finding, result.gradients), reach])


def tables(result: Bottleneck) -> list[Table]:
    """One row for each model and loss."""
    rows = [
        [
            g.model,
            g.loss,
            g.columns,
            g.rank,
            Rounded(100 * g.states.estimate, 2),
            bounds_text(g.states.bounds, _percent),
            Rounded(100 * g.random_states, 2),
            Rounded(100 * g.best, 2),
            Rounded(100 * g.both.estimate, 2),
            bounds_text(g.both.bounds, _percent),
            Rounded(100 * g.random_both, 2),
            Rounded(100 * g.suppressed, 1),
            Rounded(g.alignment, 3),
            g.positions,
        ]
        for g in result.gradients
    ]
    return [
        Table(
            ["model", "loss", "logits a position", "rank of the head",
             "% kept by the states", "95 % interval, text only", "% at random", "% at best",
             "% kept by states and head", "95 % interval, text only", "% at random",
             "% of the norm suppressed", "cosine", "positions"],
            rows,
            "Shares of the squared gradient in the logits; in one column of its norm, not squared.",
        )
    ]  # fmt: skip


_READING = (
    "A model's logits are its states times the output embedding. The gradient of the loss in the "
    "logits has as many directions as there are logits; the states have only as many as the model "
    "is wide. What lies outside the span of the output embedding cannot move the body of the "
    "model. Kept by the states: the share inside that span. At random: the share that a gradient "
    "without any direction in common with the head would keep. At best: the share that the best "
    "head of the same rank would keep for these positions. Kept by states and head: the share that "
    "a step can use which changes the output embedding too, for the positions of one batch. "
    "Cosine: between the gradient and the change of the logits where the states follow theirs."
)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _finding(g: HeadGradient) -> str:
    bounds = bounds_text(g.states.bounds, lambda share: f"{100 * share:.1f}")
    times = g.states.estimate / g.random_states
    return (
        f"{g.model}, {g.loss}: {100 * g.states.estimate:.1f} % of the squared gradient in "
        f"{g.columns:,} logits passes a head of rank {g.rank:,} to the states ({bounds}), "
        f"{times:.1f} times the share at random; {100 * g.suppressed:.0f} % of its norm is lost. "
        f"The head of this rank that is best for the {g.positions // g.batches:,} positions of one "
        f"batch would let {100 * g.best:.1f} % pass."
    )


def _figures(result: Bottleneck) -> list[Figure]:
    rows: list[ForestRow] = []
    for g in result.gradients:
        label, group = g.loss, g.model
        rows.append(ForestRow.of(f"{label}: states", g.states, group=group, show=_hundred))
        rows.append(ForestRow.of(f"{label}: states and head", g.both, group=group, show=_hundred))
        for what, share in (("states, at random", g.random_states), ("states, at best", g.best)):
            rows.append(
                ForestRow(f"{label}: {what}", _hundred(share), None, None, "computed", group)
            )
    least, most = (pick(result.gradients, key=lambda g: g.states.estimate) for pick in (min, max))
    finding = (
        f"Of the gradient's squared norm {100 * least.states.estimate:.1f} % reaches the states"
        if least is most
        else f"Of the gradient's squared norm {100 * least.states.estimate:.1f} % "
        f"({least.model}, {least.loss}) to {100 * most.states.estimate:.1f} % ({most.model}, "
        f"{most.loss}) reaches the states"
    )
    return [
        forest_plot(
            rows,
            x_label="share of the squared gradient in the logits that is kept, %",
            finding=f"{finding}.",
            alt="Shares of the gradient that pass the head, for each model and loss.",
            caption="Intervals: 95 %, over text, for these models. Hollow: computed, no interval.",
            reference=None,
        )
    ]


def _hundred(share: float) -> float:
    return 100 * share


def _methods(result: Bottleneck) -> str:
    over = amount_of_text(result.documents, result.cluster_unit, result.clusters)
    return (
        f"{result.windows:,} windows of up to {result.context} tokens of the {result.split} split "
        f"of {result.store}, the same for all models; batches of up to {result.batch_tokens:,} "
        "tokens. Models read as in training (masked models masked by chance, headless ones with "
        "the candidates of their law), without dropout. Gradients are of the summed nats of a "
        "batch, in float32; spans by eigendecomposition in float64. Source of the question: Godey "
        "and Artzi (arXiv 2603.10145). Their figure is of the norm; shares here are of the squared "
        "norm, which adds up over positions. Intervals are over text, not over seeds: "
        f"{over}; ratio of sums, Student t."
    )
