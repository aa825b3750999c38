"""How models that are compared with counting are reported: the words, a table and a section.

Notable: what models do not know that counting gives comes first on a page (`worse_words`): it is
the reach of all that is found of them. Nats per token throughout; negative: the model is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmlab.numerics.verdicts import MINIMUM_SEEDS
from lmlab.pages.page import Section, Table
from lmlab.pages.wording import bounds_text, capital, signed
from lmlab.topics.counting.baseline import LONGEST, WORSE, Above, AgainstCounting, NGramFit
from lmlab.topics.counting.ngram import Smoothing

EARLY = "What is found is of early training."
_BOTH_WAYS = (
    "Models that read both ways, as masked ones do, have no joint likelihood and are not compared."
)


def fit_name(smoothing: Smoothing, order: int) -> str:
    """Smoothing and order of an n-gram model."""
    return f"{smoothing}, {order}-grams"


def grouped_words(sides: Sequence[Above]) -> str:
    """How many models are better than counting, and by how much, in a sentence or two."""
    groups: dict[str, list[float]] = {}
    for above in sides:
        groups.setdefault(above.verdict, []).append(above.interval.estimate)
    said = ", ".join(
        f"{len(nats)} {words} ({_span(nats)} nats per token)" for words, nats in groups.items()
    )
    if any(words.startswith(WORSE) for words in groups):
        said += (
            ". Where counting predicts better, the models have not learnt what counting gives: "
            "what is found is of early training"
        )
    return f"{said}."


def _span(nats: Sequence[float]) -> str:
    low, high = signed(min(nats), 3), signed(max(nats), 3)
    return low if low == high else f"{low} to {high}"


def above_words(above: Above | None) -> str:
    """The models of one direction above counting."""
    if above is None:
        return "nothing counted in this order"
    whole, these = (
        each.bounds and bounds_text(each.bounds, lambda value: signed(value, 3))
        for each in (above.interval, above.these)
    )
    words = signed(above.interval.estimate, 3)
    if whole:
        words += f" {whole}"
    if these and these != whole and above.interval.seeds < MINIMUM_SEEDS:
        words += f"; these models {these}"
    return f"{words}, {above.verdict}"


def counting_words(fit: NGramFit, above: Mapping[str, Above]) -> str:
    """Every model above counting, by its name, in a sentence or two."""
    each = "; ".join(f"{name}: {above_words(a)}" for name, a in above.items())
    early = f" {EARLY}" if any(a.is_worse for a in above.values()) else ""
    name = fit_name(fit.smoothing, fit.order)
    return f"Against counting ({name}, nats per token): {each}.{early}"


def worse_words(parts: Mapping[str, AgainstCounting | None]) -> str:
    """The models of each text that are worse than counting: the first finding of a page.

    `parts` is by the name of the text, which is said where there are several. Empty where no model
    is worse or nothing was counted.
    """
    return " ".join(
        (f"{name}: " if len(parts) > 1 else "") + counting_words(against.fit, against.worse)
        for name, against in parts.items()
        if against is not None and against.worse
    )


def counting_section(
    parts: Mapping[str, AgainstCounting | None], *, both_ways: bool = False
) -> list[Section]:
    """The section on counting, none where there is nothing to say of it.

    `parts` is as in `worse_words`; `both_ways`: whether the study has masked or cloze models,
    too.
    """
    counted = {name: against for name, against in parts.items() if against is not None}
    if not counted and not both_ways:
        return []
    said = [
        (f"{name}: " if len(parts) > 1 else "")
        + f"models against counted n-grams, {grouped_words(list(against.above.values()))}"
        for name, against in counted.items()
    ]
    texts = [*map(capital, said), *[_BOTH_WAYS] * both_ways]
    return [Section("Against counting", texts, tables=counting_tables(parts))]


def counting_tables(parts: Mapping[str, AgainstCounting | None]) -> list[Table]:
    """The models of every text against the best of counting; none where nothing was counted."""
    counted = {name: against for name, against in parts.items() if against is not None}
    if not counted:
        return []
    several = len(parts) > 1
    return [
        Table(
            [*["text"] * several, "models", "baseline", "above the baseline", "tokens scored"],
            [
                [
                    *[name] * several,
                    model,
                    fit_name(against.fit.smoothing, against.fit.order),
                    above_words(above),
                    against.tokens,
                ]
                for name, against in counted.items()
                for model, above in against.above.items()
            ],
            "Nats per token of the models above the best n-grams of the training split, counted in "
            f"the direction that the models read, on the same windows of the {_splits(counted)} "
            "split; negative: the model is better. First interval: over seeds and text; below "
            "three seeds also that of just these models, over text. Order (up to "
            f"{LONGEST}) and smoothing are those with the least loss on validation text.",
        )
    ]


def _splits(counted: Mapping[str, AgainstCounting]) -> str:
    return " and ".join(dict.fromkeys(against.split for against in counted.values()))
