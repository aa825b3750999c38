"""The page of `lmlab rerank`, from its `results.json` alone (so it can be drawn again)."""

from __future__ import annotations

from collections.abc import Sequence

from lmlab.numerics.random_effects import Interval
from lmlab.numerics.verdicts import Evidence
from lmlab.pages.curves import Series, line_plot
from lmlab.pages.forest import ForestRow, forest_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import Rounded
from lmlab.pages.wording import amount_of_text, bounds_text, signed, spaces_seen
from lmlab.topics.reranking.reranking import (
    NATS,
    ORACLE,
    RANDOM,
    TRUTH,
    Choice,
    Difference,
    Reranking,
)
from lmlab.topics.reranking.rules import FORWARD, FORWARD_SECOND, SECOND

_LABELS = {
    RANDOM: "random candidate",
    FORWARD: "forward",
    "backward": "backward, whole text",
    "mmi": "backward, prompt given continuation (MMI)",
    "forward+backward": "forward + backward, whole text",
    "forward+mmi": "forward + backward, prompt given continuation",
    SECOND: "second forward model",
    FORWARD_SECOND: "forward + second forward model",
}
_NO_RULES = (RANDOM, ORACLE, TRUTH)


def report(result: Reranking) -> Report:
    """Title, findings and sections of the page."""
    return Report(
        f"{result.forward} reranked by {result.backward}",
        summary(result),
        [
            Section(
                "What the judge says", [_READING], _differences(result),
                [_judged(result), _baselines(result)],
            ),
            Section("By weight", [], [_weights(result)]),
            Section("Without the judge", [_WITHOUT_JUDGE], tables=[_repetition(result)]),
            Section("Examples", tables=_examples(result)),
            Section("Methods", [_methods(result)]),
        ],
    )  # fmt: skip


def tables(result: Reranking) -> list[Table]:
    """What the judge needs for each choice, differences, and what needs no judge."""
    return [_judged(result), _baselines(result), _repetition(result)]


def summary(result: Reranking) -> str:
    """The findings in a few sentences."""
    own, unit = result.choice(FORWARD), result.unit
    random = result.choice(RANDOM).judged.estimate
    lines = [
        f"By {result.judge}, a continuation drawn from {result.forward} needs {random:.3f} {unit}, "
        f"and the one of {result.candidates} that {result.forward} itself finds likeliest "
        f"{own.judged.estimate:.3f}: {_said(own.differences[RANDOM])}.",
        f"Against that choice, {_against(result, FORWARD)}.",
    ]
    if result.second is not None:
        lines.append(
            f"Against the sum with another forward model ({result.second}), "
            f"{_against(result, FORWARD_SECOND)}."
        )
    if result.judge in (result.forward, result.backward, result.second):
        lines.append(f"Note: {result.judge} judges its own choices here.")
    if own.judged.note:
        lines.append(f"Note: {own.judged.note}.")
    return "\n\n".join(lines)


def _against(result: Reranking, baseline: str) -> str:
    """What each rule of the backward model has more or less than a baseline."""
    found = []
    for choice in result.choices:
        difference = choice.differences.get(baseline)
        if difference is not None and choice.name not in (*_NO_RULES, FORWARD):
            found.append(f"{_label(result, choice)} has {_said(difference)}")
    return "; ".join(found)


def _said(difference: Difference) -> str:
    value = difference.value
    bounds = bounds_text(value.bounds, _show)
    if not difference.shown:
        adjusted = ""
        if difference.holm is not None and Evidence.of(value).finding in ("above", "below"):
            adjusted = f" after Holm (p {difference.holm:.2g})"
        return f"{_show(value.estimate)} {bounds}, no difference shown{adjusted}"
    word = "less" if value.estimate < 0 else "more"
    return f"{abs(value.estimate):.4f} {word} {bounds}"


def _show(value: float) -> str:
    return signed(value, 4)


def _label(result: Reranking, choice: Choice) -> str:
    """The rule in words; sums that are not equal say the weight."""
    label = _LABELS.get(choice.name, choice.name)
    if "+" in choice.name and result.weight != 0.5:
        first, second = label.split(" + ", 1)
        return f"{1 - result.weight:g} {first} + {result.weight:g} {second}"
    return label


_READING = (
    "Each rule chooses one of a prompt's candidates. Backward, whole text: the likeliest text of "
    "prompt and continuation by the backward model, which is its own opinion of how likely the "
    "continuation is after the prompt. Backward, prompt given continuation: how well the "
    "continuation predicts the prompt, however likely it is by itself. The judge's own choice is "
    "no rule, but the bound of what any rule could gain by this judge. A negative difference: the "
    "judge finds the choice likelier."
)
_WITHOUT_JUDGE = (
    "A judge that gives low nats to text that repeats itself rewards repetition, so a gain by the "
    "judge with fewer different n-grams may be no gain in quality. The share of the candidates "
    "that a rule puts below the text's own continuation asks no judge: 0.5 is chance, 1 is always. "
    "The candidates were drawn from the forward model, so they are what it finds typical; its own "
    "share is low for that reason, and is not to be compared with those of other models."
)


def _columns(baseline: str) -> list[str]:
    name = _LABELS[baseline]
    return [f"less {name}", "95 % interval", "p (Holm)"]


def _judged(result: Reranking) -> Table:
    rows = [
        [
            _label(result, choice),
            Rounded(choice.judged.estimate, 4),
            bounds_text(choice.judged.bounds, "{:.4f}".format),
            Rounded(choice.as_forward, 3),
        ]
        for choice in result.choices
    ]
    return Table(
        ["choice", result.unit, "95 % interval", "same as the forward model's"],
        rows,
        f"What the judge needs for the continuation, given the prompt: mean over "
        f"{result.prompts:,} prompts. The last column: share of the prompts.",
    )


def _baselines(result: Reranking) -> Table:
    rows = []
    for choice in result.choices:
        cells: list[str | float] = [_label(result, choice)]
        for baseline in result.baselines:
            difference = choice.differences.get(baseline)
            if difference is None:
                cells += ["–", "–", "–"]
                continue
            cells += [
                Rounded(difference.value.estimate, 4),
                bounds_text(difference.value.bounds, _show),
                "–" if difference.holm is None else f"{difference.holm:.2g}",
            ]
        rows.append(cells)
    columns = [column for baseline in result.baselines for column in _columns(baseline)]
    return Table(
        ["choice", *columns],
        rows,
        f"Differences in {result.unit}, paired by prompt; negative: the judge finds the choice "
        "likelier. p-values are Holm's over the rules of a column.",
    )


def _differences(result: Reranking) -> list[Figure]:
    """Sums with the forward model, others alone, and all against chance: each on its own scale,
    since the differences of sums are the smallest."""
    rules = [c for c in result.choices if c.name not in _NO_RULES]
    sums = [c for c in rules if "+" in c.name]
    alone = [c for c in rules if "+" not in c.name]
    against = [b for b in result.baselines if b != RANDOM]
    groups = (
        ("sums with the forward model", sums, against),
        ("others alone", alone, against[:1]),
        ("all rules", rules, [RANDOM]),
    )
    return [
        _forest(result, what, choices, baselines)
        for what, choices, baselines in groups
        if any(b in c.differences for c in choices for b in baselines)
    ]


def _forest(
    result: Reranking, what: str, choices: Sequence[Choice], baselines: Sequence[str]
) -> Figure:
    rows = [
        ForestRow.of(
            _label(result, choice),
            choice.differences[baseline].value,
            group=f"less {_LABELS[baseline]}",
        )
        for baseline in baselines
        for choice in choices
        if baseline in choice.differences
    ]
    first = baselines[0]
    best = min(
        (c for c in choices if first in c.differences),
        key=lambda c: c.differences[first].value.estimate,
    )
    oracle = result.choice(ORACLE).differences[first].value
    return forest_plot(
        rows,
        x_label=f"difference in the judge's {result.unit} (left: finds the choice likelier)",
        finding=f"Of {what}, the judge likes {_label(result, best)} best: "
        f"{_said(best.differences[first])}, against {_LABELS[first]}.",
        alt=f"Differences of {what} from {', '.join(_LABELS[b] for b in baselines)}.",
        caption="95 % intervals over text, not adjusted for the number of rules. The judge's own "
        f"choice, a bound and no rule, has {signed(oracle.estimate, 3)} against {_LABELS[first]}.",
    )


def _weights(result: Reranking) -> Figure:
    series = [
        Series(_LABELS[sums.rule], sums.weights, sums.less_forward, colour=number)
        for number, sums in enumerate(result.weights)
    ]
    best = min(result.weights, key=lambda sums: min(sums.less_forward))
    least = min(best.less_forward)
    at = best.weights[best.less_forward.index(least)]
    return line_plot(
        series,
        x_label="weight of the other model's score (0: forward alone, 1: the other alone)",
        y_label=f"judge's {result.unit} less those of forward's choice",
        finding=f"Least at weight {at:g} of {_LABELS[best.rule]}: {signed(least, 4)}.",
        alt="What the judge needs for the choice by a weighted sum, against its weight.",
        caption="On the same prompts as everything here, and without intervals: no evidence for "
        "the best weight.",
        horizontal=[("forward alone", 0.0)],
    )


def _repetition(result: Reranking) -> Table:
    sizes = [d.n for d in result.choices[0].distinct]
    rows = [
        [
            _label(result, choice),
            *_interval_cells(choice.above_candidates),
            *(cell for d in choice.distinct for cell in (Rounded(d.within.estimate, 3),)),
            *(Rounded(d.across, 3) for d in choice.distinct),
        ]
        for choice in result.choices
    ]
    return Table(
        [
            "choice", "the text's own continuation above", "95 % interval",
            *(f"distinct {n}-grams within" for n in sizes),
            *(f"distinct {n}-grams across" for n in sizes),
        ],
        rows,
        "Share of the candidates that a rule puts below the text's own continuation; distinct "
        "n-grams, as a share of all in a continuation (mean), and in all chosen ones together (of "
        "random candidates: expected).",
    )  # fmt: skip


def _interval_cells(value: Interval | None) -> list[str | float]:
    if value is None:
        return ["–", "–"]
    return [Rounded(value.estimate, 3), bounds_text(value.bounds, "{:.3f}".format)]


def _examples(result: Reranking) -> list[Table]:
    found = []
    for example in result.examples:
        chosen: dict[str, list[str]] = {}
        for pick in example.picks:  # what several rules chose is shown once
            chosen.setdefault(pick.text, []).append(_LABELS.get(pick.rule, pick.rule))
        judged = {pick.text: pick.judged for pick in example.picks}
        rows = [
            [spaces_seen(text).replace("·", " "), Rounded(judged[text], 3), ", ".join(by)]
            for text, by in sorted(chosen.items(), key=lambda item: judged[item[0]])
        ]
        prompt = spaces_seen(example.prompt).replace("·", " ")
        found.append(
            Table(
                ["continuation", result.unit, "chosen by"],
                rows,
                f"{example.document}: “{prompt}”",
            )
        )
    return found


def _methods(result: Reranking) -> str:
    over = amount_of_text(
        result.clusters.documents, "section of about 4000 tokens", result.clusters.clusters
    )
    among = "" if result.top_k is None else f" among the {result.top_k:,} likeliest tokens"
    judge = (
        "scored by the ids that were drawn"
        if result.unit == NATS
        else "which has another tokenizer, scored by the text; a prompt's value is bits per byte "
        "of its continuation"
    )
    return (
        f"Prompts: {result.prompts:,} beginnings of {result.prompt_tokens} tokens of windows of "
        f"the {result.split} split of {result.store} ({over}). For each, {result.candidates} "
        f"continuations of {result.tokens} tokens at temperature {result.temperature:g}{among}, "
        f"seed {result.seed}; special tokens are not drawn. Scores are sums of nats at temperature "
        f"1; in a sum the other model has the weight {result.weight:g}. Judge: {result.judge}, "
        f"{judge}. A judge that was trained on the same text as the others shares their faults. A "
        "random candidate is the mean over the candidates, exact. Differences are paired by "
        "prompt; each prompt counts alike. Intervals cover other text of this kind, not other "
        "seeds of the models, and not other draws of the candidates beyond those of other prompts. "
        "Source: Li et al. (2016, arXiv 1510.03055), maximum mutual information."
    )
