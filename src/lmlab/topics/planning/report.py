"""The page and the table of a plan, from its `results.json` alone."""

from __future__ import annotations

from typing import Any

from lmlab.pages.figures import Series, line_plot
from lmlab.pages.page import Section, Table, render_page
from lmlab.results import made_by

_MOST_DRAWN = 6  # colours


def plan_page(results: dict[str, Any]) -> str:
    """The HTML page of a plan (see `lmlab.topics.planning.plan`)."""
    columns, rows = plan_rows(results)
    table = Table(
        columns,
        [[*row] for row in rows],
        f"The difference, in {results['unit']}, that is seen with {_percent(results['power'])}.",
    )
    tables = [table]
    if results["enough"]:
        names, cells = enough_rows(results)
        tables.append(
            Table(names, [[*cell] for cell in cells], "Documents that each number of seeds takes.")
        )
    return render_page(
        f"A plan: to see a difference of {_difference(results, results['effect'])}",
        "\n\n".join(plan_words(results)),
        [
            Section("Power", figures=[_figure(results)], tables=tables),
            Section("Methods", [_methods(results)]),
        ],
        footer=made_by(results["environment"]),
    )


def plan_words(results: dict[str, Any]) -> list[str]:
    """The plan in sentences."""
    noise, effect = results["noise"], _difference(results, results["effect"])
    rests = f"from {results['seed_df']} degrees of freedom" if results["seed_df"] else "as typed"
    lines = [
        f"To see a difference of {effect} with {_percent(results['power'])} on the given text "
        f"takes {_count(results['seeds_for_this_text'], 'seeds')} of each side. Seeds differ by a "
        f"standard deviation of {_difference(results, noise['seed'])} ({rests})."
    ]
    if (interval := results["seed_interval"]) is not None:
        low, high = (_difference(results, end) for end in interval["sd"])
        few, many = (_count(end, "seeds") for end in interval["seeds"])
        lines.append(
            f"That deviation is itself uncertain: its 95 % interval is {low} to {high}, which is "
            f"{few} to {many}."
        )
    if results["enough"]:
        ways = [
            f"{row['seeds']} seeds and {row['documents']:,} documents"
            for row in results["enough"]
            if row["documents"] is not None
        ]
        lines.append(
            f"For other texts too: {'; or '.join(ways[:3])}."
            if ways
            else f"For other texts too, none of {results['enough'][0]['seeds']} to "
            f"{results['enough'][-1]['seeds']} seeds is enough, whatever the documents."
        )
    else:
        lines.append(
            "The variance between documents is not known, so the plan says nothing of other texts."
        )
    return lines


def plan_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row for each number of seeds: the difference that is seen, by documents."""
    designs = results["designs"]
    texts = list(dict.fromkeys(d["documents"] for d in designs))
    seeds = list(dict.fromkeys(d["seeds"] for d in designs))
    found = {(d["seeds"], d["documents"]): d["detectable"] for d in designs}
    return (
        ["seeds", *(_text(documents) for documents in texts)],
        [[str(s), *(f"{found[s, d]:.3g}" for d in texts)] for s in seeds],
    )


def enough_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row for each number of seeds: documents and tokens that it takes."""
    columns = ["seeds", "documents", "training tokens, both sides", "tokens to score"]
    return columns, [
        [
            str(row["seeds"]),
            "no number is enough" if row["documents"] is None else f"{row['documents']:,}",
            *(
                "–" if row[name] is None else f"{row[name]:,}"
                for name in ("training_tokens", "scored_tokens")
            ),
        ]
        for row in results["enough"]
    ]


def _figure(results: dict[str, Any]):
    designs = results["designs"]
    texts = list(dict.fromkeys(d["documents"] for d in designs))[:_MOST_DRAWN]
    series = [
        Series(
            _text(documents),
            [d["seeds"] for d in designs if d["documents"] == documents],
            [100 * d["power"] for d in designs if d["documents"] == documents],
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
        finding=f"{first['seeds']} seeds see a difference of "
        f"{_difference(results, results['effect'])} with {_percent(first['power'])} on the given "
        f"text, {last['seeds']} with {_percent(last['power'])}.",
        alt="Probability that the difference is seen, against the number of seeds.",
        caption="Seen: the 95 % interval excludes zero.",
        horizontal=[("asked for", 100 * results["power"])],
        log_x=True,
    )


def _methods(results: dict[str, Any]) -> str:
    noise = results["noise"]
    text = (
        "" if noise["document"] is None
        else f", between documents {_difference(results, noise['document'])}, between sections of "
        f"a document {_difference(results, noise['section'])} ({noise['sections']:.3g} in each), "
        f"of section and seed together {_difference(results, noise['residual'])}"
    )  # fmt: skip
    return (
        f"Noise ({results['source']}): standard deviation between seeds "
        f"{_difference(results, noise['seed'])}{text}. The variance of the mean is seed / S + "
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


def _difference(results: dict[str, Any], value: float) -> str:
    unit = results["unit"]
    return f"{value:.3g} {unit}" if unit in ("%", "nats per token") else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
