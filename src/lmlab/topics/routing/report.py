"""The page of `lmlab route`, from its `results.json` alone (so it can be drawn again)."""

from __future__ import annotations

from lmlab.numerics.random_effects import Interval
from lmlab.pages.curves import Points, Series, line_plot, scatter_plot
from lmlab.pages.forest import ForestRow, forest_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import Rounded
from lmlab.pages.wording import amount_of_text, bounds_text, spaces_seen
from lmlab.topics.routing.routing import (
    CONSTANT,
    GATE,
    ORACLE,
    SINGLE,
    Routing,
)

_MOST_DOCUMENTS = 300


def report(result: Routing) -> Report:
    """Title, findings and sections of the page."""
    return Report(
        f"A gate between {result.first} and {result.second}",
        summary(result),
        [
            Section("What it gains", [_READING], [_gains(result)], [_losses(result)]),
            Section("What it believes", [], _beliefs(result), [_types(result)]),
            Section("Methods", [_methods(result)]),
        ],
    )


def summary(result: Routing) -> str:
    """The findings in a few sentences."""
    gate, constant = result.alternative(GATE), result.alternative(CONSTANT)
    assert gate.gain is not None
    assert constant.gate_gain is not None
    lines = [
        f"With the gate the text costs {gate.nats.estimate:.4f} nats per token: "
        f"{_less(gate.gain, f'the better model ({result.better}) alone')}, and "
        f"{_less(constant.gate_gain, 'one weight for all tokens')}.",
        f"The gate gives {result.first} a mean weight of {result.weight.estimate:.2f}.",
    ]
    if SINGLE in (a.name for a in result.alternatives):
        single = result.alternative(SINGLE)
        assert single.gate_gain is not None
        lines.append(f"The gate has {_less(single.gate_gain, str(result.single))}.")
    if gate.gain.note:
        lines.append(f"Note: {gate.gain.note}.")
    return "\n\n".join(lines)


def _less(gain: Interval, than: str) -> str:
    """A gain in words, with its interval, whose sign is that of the word."""
    word, sign = ("less", 1) if gain.estimate >= 0 else ("more", -1)
    ends = None if gain.bounds is None else sorted(sign * end for end in gain.bounds)
    bounds = bounds_text(None if ends is None else (ends[0], ends[1]), "{:+.4f}".format)
    if ends is not None and ends[0] <= 0 <= ends[1]:
        bounds = f"not decided: {bounds}"
    return f"{abs(gain.estimate):.4f} nats {word} than {than} ({bounds})"


def tables(result: Routing) -> list[Table]:
    """Losses of each way to predict, and the types that go to each model."""
    return [_losses(result), _types(result)]


_READING = (
    "Gate: for each token a mixture of both models, with weights from their states before it. One "
    "weight: the same mixture with one weight for all tokens. Gate, one model a token: only the "
    "model of the larger weight is asked. Better of both, token by token: looks at the token, so "
    "it is no prediction, but the bound of what picking one model could gain."
)


def _losses(result: Routing) -> Table:
    rows = [
        [
            a.name,
            Rounded(a.nats.estimate, 4),
            bounds_text(a.nats.bounds, "{:.4f}".format),
            *_pair(a.gain),
            *_pair(a.gate_gain),
        ]
        for a in result.alternatives
    ]
    return Table(
        ["prediction", "nats per token", "95 % interval", "less than the better model",
         "95 % interval", "the gate has less", "95 % interval"],
        rows,
        "Nats per token on the same windows; differences are paired. Intervals over text, for "
        "these models.",
    )  # fmt: skip


def _pair(value: Interval | None) -> list[str | float]:
    if value is None:
        return ["–", "–"]
    return [Rounded(value.estimate, 4), bounds_text(value.bounds, "{:.4f}".format)]


def _gains(result: Routing) -> Figure:
    gate = result.alternative(GATE).gain
    assert gate is not None
    rows = [
        ForestRow.of(a.name, a.gain)
        for a in result.alternatives
        if a.gain is not None and a.name != ORACLE
    ]
    oracle = result.alternative(ORACLE).gain
    assert oracle is not None
    return forest_plot(
        rows,
        x_label="nats per token less than the better model (right: predicts better)",
        finding=f"The gate costs {_less(gate, 'the better model alone')}.",
        alt="Gains over the better model of each way to predict.",
        caption=f"95 % intervals over text. The better of both token by token, which is no "
        f"prediction, would have {oracle.estimate:.3f} nats less.",
    )


def _beliefs(result: Routing) -> list[Figure]:
    bins = result.bins
    farthest = max(bins, key=lambda b: b.tokens * abs(b.weight - b.responsibility))
    calibration = line_plot(
        [
            Series("gate", [b.weight for b in bins], [b.responsibility for b in bins], colour=0),
            Series("calibrated", [0, 1], [0, 1], colour=1),
        ],
        x_label=f"weight of {result.first}",
        y_label="mean probability that it made the token",
        finding=f"Where the gate gives {result.first} a weight of {farthest.weight:.2f}, it made "
        f"the token with {farthest.responsibility:.2f}; no other tenth is farther off, weighted by "
        "its tokens.",
        alt="Calibration of the gate.",
        caption="Tenths of the weight; a calibrated gate lies on the diagonal. No intervals.",
    )
    documents = sorted(result.documents, key=lambda d: -d.tokens)[:_MOST_DOCUMENTS]
    if len(documents) < 2:
        return [calibration]
    low, high = (pick(documents, key=lambda d: d.weight) for pick in (min, max))
    by_document = scatter_plot(
        [
            Points(
                "",
                [d.difference for d in documents],
                [d.weight for d in documents],
                names=[d.name for d in documents],
            )
        ],
        x_label=f"nats per token that {result.first} has less than {result.second}",
        y_label=f"mean weight of {result.first}",
        finding=f"By document the weight of {result.first} goes from {low.weight:.2f} to "
        f"{high.weight:.2f}.",
        alt="Mean weight of the first model and difference of the losses in each document.",
        caption="The longest documents." if len(result.documents) > len(documents) else "",
    )
    return [calibration, by_document]


def _types(result: Routing) -> Table:
    rows = [
        [model, spaces_seen(kind.token), kind.occurrences, Rounded(kind.weight, 3)]
        for model, types in (
            (result.first, result.towards_first),
            (result.second, result.towards_second),
        )
        for kind in types
    ]
    return Table(
        ["goes to", "token", "occurrences", f"mean weight of {result.first}"],
        rows,
        "Types of token with the largest and the least mean weight of the first model, of those "
        "that occur 20 times. The gate sees the text before a token, not the token.",
    )


def _methods(result: Routing) -> str:
    over = amount_of_text(
        result.clusters.documents, "section of about 4000 tokens", result.clusters.clusters
    )
    return (
        f"Text: {result.store}, windows of up to {result.context} tokens. The gate was fitted on "
        f"{result.fit_tokens:,} tokens of the {result.fit_split} split and measured on "
        f"{result.tokens:,} tokens of the {result.split} split ({result.windows:,} windows, "
        f"{over}). It is linear in the last states of both models "
        f"({len(result.gate.weight_F):,} features, ridge {result.ridge:g}, chosen by folds of the "
        "text of the fit); its mixture's nats were minimised. The better model is the one that was "
        "better on the text of the fit; one weight for all tokens, fitted there too, is "
        f"{result.constant:.3f} for {result.first}. Intervals cover other text of this kind, not "
        "other seeds of the models. Source: mixtures of experts (Jacobs et al. 1991) with frozen "
        "experts."
    )
