"""The page of `lmlab prefer`, which is the study's section for one pair of towers.

Every figure stands under its finding in words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmlab.numerics.frequency import rank_correlation
from lmlab.numerics.random_effects import Interval
from lmlab.numerics.verdicts import reach
from lmlab.pages.figures import Points, scatter_plot
from lmlab.pages.page import Figure, Passage, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import fixed
from lmlab.pages.wording import amount_of_text, signed, spaces_seen, with_interval
from lmlab.topics.towers.of_model import ModelPreference
from lmlab.topics.towers.preference import Group, Preference, Strongest, TypePoints

_CLASSES = {"words of the closed class": (0,), "other words": (1,), "pieces": (2,)}
_OTHER = "all else (punctuation, digits, space)"
_STRONG = 1.0  # nats of difference at which a token has its full colour


def report(result: ModelPreference) -> Report:
    """Title, finding and sections of the page."""
    return Report(
        f"Preference of two towers: {result.model}",
        _summary(result.overall),
        [
            *preference_sections(result, "this pair"),
            Section("Methods", [f"{measured(result)} {ROUTER}"]),
        ],
    )


def preference_sections(result: ModelPreference, towers: str, where: str = "") -> list[Section]:
    """A passage, and what is preferred by the pair that `towers` names; `where` ends headings."""
    return [
        _passages(result, towers, where),
        Section(
            f"What is preferred{where}",
            [f"Of {towers}. Which tower is called 1 is arbitrary."],
            [_against_frequency(result.types, towers)] if len(result.types.count_P) else [],
            tables(result),
        ),
    ]


def tables(result: ModelPreference) -> list[Table]:
    """The figures, what is preferred by kind of token, and the types."""
    return [_figures(result.overall), _kinds(result.kinds), _strongest(result.strongest)]


def _summary(overall: Preference) -> str:
    return (
        "Do the towers prefer different types of token? The types' differences have, "
        f"{reach(1, overall.documents, models='towers').strip()}, a reliability of "
        f"{overall.adjusted_reliability:.3f} and a spread of {overall.spread:.3f} nats, "
        f"adjusted for difficulty and frequency; {overall.found_types:,} of "
        f"{overall.tested_types:,} tested types differ from the text as a whole. Of use? Sending "
        f"each type to its tower saves {signed(overall.router_gain, 4)} nats per token.\n\n"
        "Towers that never cooperated have reliable preferences too, and so has one tower under "
        "two different probes: whether there is more here, only several runs and their nulls can "
        "tell (lmlab study towers)."
    )


def measured(result: ModelPreference) -> str:
    """How preferences are measured, for the methods of a page."""
    text = result.overall
    return (
        f"Measured on {text.tokens:,} tokens of the {result.split} split, "
        f"{text.groups} groups of {amount_of_text(text.documents, text.cluster_unit)}, never "
        "split. A type's difference is the mean over its tokens of tower 2's loss less tower 1's. "
        "Adjusted: less what is linear in the type's mean difficulty and log frequency. The "
        "spread is the square root of the variance between types, estimated without bias from the "
        "covariance of halves of the text, weighted by tokens."
    )


ROUTER = "A router by type knows the token to be predicted: its gain is a measure, not a model."


def _figures(overall: Preference) -> Table:
    """All figures of one pair of towers."""
    oracle = overall.oracle_gain
    tower_1, tower_2, joint = overall.nats
    rows: list[Sequence[str]] = [
        ["tower 1, nats per token", _interval(tower_1, 4)],
        ["tower 2, nats per token", _interval(tower_2, 4)],
        ["joint model, nats per token", _interval(joint, 4)],
        ["tower 1 better by, nats per token", _interval(overall.dominance, 4)],
        ["reliability of types' differences", f"{overall.reliability:.3f}"],
        ["the same, adjusted", f"{overall.adjusted_reliability:.3f}"],
        ["spread between types, adjusted, nats", f"{overall.spread:.4f}"],
        ["types that differ (5 % false discoveries)",
         f"{overall.found_types:,} of {overall.tested_types:,} tested"],
        ["share of tokens of these types", f"{100 * overall.found_tokens:.1f} %"],
        ["p, towers swapped by document", f"{overall.p_swapped:.3f}"],
        ["p, labels permuted within frequency", f"{overall.p_labels:.3f}"],
        ["gain of a router by type, nats per token", signed(overall.router_gain, 4)],
        ["gain of an oracle by token, nats per token",
         "none" if oracle is None else signed(oracle, 4)],
        ["tokens", f"{overall.tokens:,} of {overall.types:,} types"],
        ["groups of text",
         f"{overall.groups} of {amount_of_text(overall.documents, overall.cluster_unit)}"],
    ]  # fmt: skip
    if overall.scales != (1.0, 1.0):
        scales = ", ".join(f"{1 / scale:.3f}" for scale in overall.scales)
        rows.append(["temperatures of the towers", scales])
    return Table(["", ""], rows, "Two towers")


def _interval(interval: Interval, digits: int) -> str:
    return with_interval(interval, lambda value: fixed(value, digits))


def _kinds(groups: Sequence[Group]) -> Table:
    """What is preferred, by class, frequency and position."""
    return Table(
        ["tokens", "types", "tokens of text", "tower 1 better by", "p beyond frequency"],
        [
            [
                f"{group.kind}: {group.name}",
                f"{group.types:,}" if group.types else "–",
                f"{group.tokens:,}",
                _interval(group.deviation, 3),
                "–" if group.p is None else f"{group.p:.3f}",
            ]
            for group in groups
        ],
        "What is preferred: nats per token that tower 1 is better by than at the text as a whole. "
        "p is adjusted over the classes (Holm).",
    )


def _strongest(strongest: Strongest) -> Table:
    """The strongest types of each tower."""
    return Table(
        ["tower", "types, the strongest first (shrunken difference in nats)"],
        [
            [
                f"tower {number}",
                "  ".join(f"{spaces_seen(t.text)} {abs(t.deviation):.2f}" for t in types) or "none",
            ]
            for number, types in enumerate(strongest, start=1)
        ],
        "Types that each tower is better at.",
    )


def _against_frequency(types: TypePoints, towers: str) -> Figure:
    correlations = [
        rank_correlation(types.count_P, y_P)
        for y_P in (types.deviation_P, np.abs(types.deviation_P))
    ]
    finding = f"Preference against frequency, {towers}."
    if None not in correlations:
        preferred, size = (signed(each, 2) for each in correlations if each is not None)
        finding = (
            f"Preference and frequency have a rank correlation of {preferred}, the size of "
            f"preference and frequency one of {size} ({towers})."
        )
    return scatter_plot(
        clouds(np.maximum(types.count_P, 1), types.deviation_P, types),
        x_label="occurrences in the training text",
        y_label="preference for tower 1, nats",
        finding=finding,
        alt="Preference of each type against how often it occurs.",
        caption="A point a type, adjusted: what is linear in the logarithm of frequency is "
        "taken out.",
        log_x=True,
    )


def clouds(x_P: NDArray, y_P: NDArray, types: TypePoints) -> list[Points]:
    """Points of types, a colour for each kind of class."""
    class_P = types.class_P
    kinds = {name: np.isin(class_P, which) for name, which in _CLASSES.items()}
    kinds[_OTHER] = ~np.isin(class_P, sum(_CLASSES.values(), ()))
    return [
        Points(
            name,
            x_P[inside_P].tolist(),
            y_P[inside_P].tolist(),
            colour=colour,
            names=[spaces_seen(types.text_P[n]) for n in np.flatnonzero(inside_P)]
            if types.text_P
            else (),
        )
        for colour, (name, inside_P) in enumerate(kinds.items())
        if inside_P.any()
    ]


def _passages(result: ModelPreference, towers: str, where: str) -> Section:
    shown = []
    for passage in result.passages:
        delta_N = np.array(passage.delta) - result.overall.dominance.estimate
        strength_N = np.clip(delta_N / _STRONG, -1, 1)
        share = float((delta_N > 0).mean())
        shown.append(
            Passage(
                f"Tower 1 takes {100 * share:.0f} % of these tokens.",
                list(zip(passage.tokens, strength_N.tolist(), strict=True)),
                f"From {passage.document}.",
                notes=[f"{signed(delta, 2)} nats" for delta in delta_N],
            )
        )
    text = (
        f"Text of the {result.split} split, as {towers} reads it. Blue: tower 1 predicts the token "
        "better than tower 2 does, beyond what it is better at altogether; red and dotted: tower "
        f"2. Full colour is a difference of {_STRONG:g} nat or more. A single token is mostly "
        "chance; what is reliable is in the tables."
    )
    return Section(f"A passage, token by token{where}", [text], passages=shown)
