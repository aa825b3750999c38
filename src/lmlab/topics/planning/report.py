"""The page and the tables of a plan."""

from __future__ import annotations

from lmlab.pages.figures import Series, line_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.wording import share_text
from lmlab.topics.planning.plan import Plan

_MOST_DRAWN = 6  # colours


def report(result: Plan) -> Report:
    """Title, the plan in sentences, and the section of power."""
    return Report(
        f"A plan: to see a difference of {_difference(result, result.effect)}",
        _summary(result),
        [
            Section("Power", figures=[_figure(result)], tables=tables(result)),
            Section("Methods", [_methods(result)]),
        ],
    )


def tables(result: Plan) -> list[Table]:
    """The difference that is seen; then the documents that it takes, where that is known."""
    return [_detectable_table(result), *([_enough_table(result)] if result.enough else [])]


def _summary(result: Plan) -> str:
    """The plan in sentences."""
    measured, effect = result.measured, _difference(result, result.effect)
    noise = measured.noise
    rests = f"from {measured.seed_df} degrees of freedom" if measured.seed_df else "as typed"
    lines = [
        f"To see a difference of {effect} with {share_text(result.power)} on the given text "
        f"takes {_count(result.seeds_for_this_text, 'seeds')} of each side. Seeds differ by a "
        f"standard deviation of {_difference(result, noise.seed)} ({rests})."
    ]
    if (interval := result.seed_interval) is not None:
        low, high = (_difference(result, end) for end in interval.deviation)
        few, many = (_count(end, "seeds") for end in interval.seeds)
        lines.append(
            f"That deviation is itself uncertain: its 95 % interval is {low} to {high}, which is "
            f"{few} to {many}."
        )
    if result.enough:
        ways = [
            f"{row.seeds} seeds and {row.documents:,} documents"
            for row in result.enough
            if row.documents is not None
        ]
        lines.append(
            f"For other texts too: {'; or '.join(ways[:3])}."
            if ways
            else f"For other texts too, none of {result.enough[0].seeds} to "
            f"{result.enough[-1].seeds} seeds is enough, whatever the documents."
        )
    else:
        lines.append(
            "The variance between texts is not known, so the plan says nothing of others than the "
            "given ones."
        )
    return "\n\n".join(lines)


def _detectable_table(result: Plan) -> Table:
    """A row for each number of seeds: the difference that is seen, by documents."""
    texts = list(dict.fromkeys(d.documents for d in result.designs))
    detectable = {(d.seeds, d.documents): d.detectable for d in result.designs}
    return Table(
        ["seeds", *map(_text, texts)],
        [
            [seeds, *(detectable[seeds, documents] for documents in texts)]
            for seeds in dict.fromkeys(d.seeds for d in result.designs)
        ],
        f"The difference, in {result.measured.unit}, that is seen with {share_text(result.power)}.",
    )


def _enough_table(result: Plan) -> Table:
    """A row for each number of seeds: documents and tokens that it takes."""
    return Table(
        ["seeds", "documents", "training tokens, both sides", "tokens to score"],
        [
            [
                row.seeds,
                "no number is enough" if row.documents is None else row.documents,
                *("–" if n is None else n for n in (row.training_tokens, row.scored_tokens)),
            ]
            for row in result.enough
        ],
        "Documents that each number of seeds takes.",
    )


def _figure(result: Plan) -> Figure:
    designs = result.designs
    texts = list(dict.fromkeys(d.documents for d in designs))[:_MOST_DRAWN]
    series = [
        Series(
            _text(documents),
            [d.seeds for d in designs if d.documents == documents],
            [100 * d.power for d in designs if d.documents == documents],
            colour=number,
            dashed=documents is None,
        )
        for number, documents in enumerate(texts)
    ]
    first, last = designs[0], designs[len(series[0].x) - 1]
    return line_plot(
        series,
        x_label="seeds of each side",
        y_label="power, %",
        finding=f"{first.seeds} seeds see a difference of "
        f"{_difference(result, result.effect)} with {share_text(first.power)} on the given "
        f"text, {last.seeds} with {share_text(last.power)}.",
        alt="Probability that the difference is seen, against the number of seeds.",
        caption="Seen: the 95 % interval excludes zero.",
        horizontal=[("asked for", 100 * result.power)],
        log_x=True,
    )


def _methods(result: Plan) -> str:
    noise = result.measured.noise
    text = (
        "" if noise.document is None
        else f", between documents {_difference(result, noise.document)}, between sections of "
        f"a document {_difference(result, noise.section)} ({noise.sections:.3g} in each), "
        f"of section and seed together {_difference(result, noise.residual)}"
    )  # fmt: skip
    return (
        f"Noise ({result.measured.source}): standard deviation between seeds "
        f"{_difference(result, noise.seed)}{text}. The variance of the mean is seed / S + "
        "document / D + section / (D m) + rest / (S D m), with S seeds, D documents and m sections "
        "a document; its degrees of freedom are those of the intervals. Power is that of the "
        "two-sided t test at 5 % (noncentral F). The plan takes the effect to be the same for all "
        "seeds and texts beyond this noise, and the noise to be that of the planned runs: more "
        "tokens a run change both."
    )


def _text(documents: int | None) -> str:
    return "the given text" if documents is None else f"{documents} documents"


def _count(number: int | None, what: str) -> str:
    return f"more than 100,000 {what}" if number is None else f"{number:,} {what}"


def _difference(result: Plan, value: float) -> str:
    unit = result.measured.unit
    return f"{value:.3g} {unit}" if unit in ("%", "nats per token") else f"{value:.3g}"
