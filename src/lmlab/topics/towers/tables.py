"""The preference of one pair of towers as tables, for the command and for the study's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmlab.pages.page import Table
from lmlab.pages.wording import amount_of_text, signed


def preference_tables(found: dict[str, Any]) -> list[Table]:
    """Of a `Preference.to_json`: its figures, what is preferred, and the types."""
    return [figures_table(found), what_table(found), top_table(found)]


def figures_table(found: dict[str, Any]) -> Table:
    """All figures of one pair of towers."""
    oracle = found["oracle_gain"]
    rows: list[Sequence[str]] = [
        ["tower 1, nats per token", interval(found["nats"][0], 4)],
        ["tower 2, nats per token", interval(found["nats"][1], 4)],
        ["joint model, nats per token", interval(found["nats"][2], 4)],
        ["tower 1 better by, nats per token", interval(found["dominance"], 4)],
        ["reliability of types' differences", f"{found['reliability']:.3f}"],
        ["the same, adjusted", f"{found['adjusted_reliability']:.3f}"],
        ["spread between types, adjusted, nats", f"{found['spread']:.4f}"],
        ["types that differ (5 % false discoveries)",
         f"{found['found_types']:,} of {found['tested_types']:,} tested"],
        ["share of tokens of these types", f"{100 * found['found_tokens']:.1f} %"],
        ["p, towers swapped by document", f"{found['p_swapped']:.3f}"],
        ["p, labels permuted within frequency", f"{found['p_labels']:.3f}"],
        ["gain of a router by type, nats per token", signed(found["router_gain"], 4)],
        ["gain of an oracle by token, nats per token",
         "none" if oracle is None else signed(oracle, 4)],
        ["tokens", f"{found['tokens']:,} of {found['types']:,} types"],
        ["groups of text",
         f"{found['groups']} of {amount_of_text(found['documents'], found['cluster_unit'])}"],
    ]  # fmt: skip
    if found["scales"] != [1.0, 1.0] and tuple(found["scales"]) != (1.0, 1.0):
        scales = ", ".join(f"{1 / s:.3f}" for s in found["scales"])
        rows.append(["temperatures of the towers", scales])
    return Table(["", ""], rows, "Two towers")


def interval(values: dict[str, Any], digits: int) -> str:
    """An estimate with its interval, if it has one."""
    text = f"{values['estimate']:.{digits}f}".replace("-", "−")
    if values["low"] is None:
        return f"{text} (no interval)"
    low, high = (f"{values[end]:.{digits}f}".replace("-", "−") for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def what_table(found: dict[str, Any]) -> Table:
    """What is preferred, by class, frequency and position."""
    return Table(
        ["tokens", "types", "tokens of text", "tower 1 better by", "p beyond frequency"],
        [
            [
                f"{group['kind']}: {group['name']}",
                f"{group['types']:,}" if group["types"] else "–",
                f"{group['tokens']:,}",
                interval(group["deviation"], 3),
                "–" if group["p"] is None else f"{group['p']:.3f}",
            ]
            for group in found["what"]
        ],
        "What is preferred: nats per token that tower 1 is better by than at the text as a whole. "
        "p is adjusted over the classes (Holm).",
    )


def top_table(found: dict[str, Any]) -> Table:
    """The strongest types of each tower."""
    return Table(
        ["tower", "types, the strongest first (shrunken difference in nats)"],
        [
            [
                f"tower {number}",
                "  ".join(f"{shown(t['text'])} {abs(t['deviation']):.2f}" for t in types) or "none",
            ]
            for number, types in enumerate(found["top"], start=1)
        ],
        "Types that each tower is better at.",
    )


def shown(text: str) -> str:
    """A token's text with its spaces and line ends made visible."""
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
