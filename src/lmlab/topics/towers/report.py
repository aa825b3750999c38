"""The report of the towers study, from its `results.json` alone (so it can be drawn again).

Every figure stands under its finding in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from lmlab.config import from_mapping
from lmlab.numerics.verdicts import Evidence, holm, power_words, reach
from lmlab.pages.figures import Interval, forest_plot, scatter_plot
from lmlab.pages.page import Figure, Section, Table, render_page
from lmlab.pages.wording import capital, signed
from lmlab.results import made_by
from lmlab.studies.provenance import to_repeat
from lmlab.topics.towers.model_report import ROUTER, clouds, measured, preference_sections
from lmlab.topics.towers.of_model import ModelPreference
from lmlab.topics.towers.options import TowersStudyConfig

_FIRST = "the first cooperative run"


def towers_page(results: dict[str, Any]) -> str:
    """The HTML page of `results` (see `lmlab.topics.towers.study`)."""
    return render_page(
        results["title"],
        summary(results["parts"]),
        towers_sections(results),
        footer=made_by(results["environment"]),
    )


def towers_sections(results: dict[str, Any]) -> list[Section]:
    """What the study shows, as sections of a page."""
    parts = results["parts"]
    made: list[Section] = []
    if len(parts) > 1:
        made.append(_corpora_section(parts))
    for part in parts:
        name = f": {part['corpus']}" if len(parts) > 1 else ""
        made += [
            Section(
                f"Preference and its nulls{name}",
                figures=_bars(part),
                tables=[_measures(part), _losses(part)],
            ),
            Section(f"The same types in every run?{name}", figures=_scatters(part)),
            *preference_sections(_first(part), _FIRST, name),
        ]
    repeat = to_repeat(
        "lmlab study towers", from_mapping(TowersStudyConfig, results["config"], where="towers")
    )
    return [*made, Section("Methods", [*_methods(results), repeat])]


def verdict(part: dict[str, Any]) -> str:
    """The claim in words: do cooperative towers divide labour beyond those that do not cooperate?

    The null is the same towers with separate losses; independent ones stand beside it.
    """
    tests, further = part["tests"]["separate"], part["tests"]["independent"]
    spread, variance = tests["spread"], tests["variance"]
    least = tests["least_p"]
    text = (
        f"types differ by a spread of {spread['cooperative']:.3f} nats between cooperative towers "
        f"and {spread['null']:.3f} between the same towers with separate losses "
        f"(p = {p_value(variance['p'])}, exact permutation of runs); beside them, between "
        f"independent towers {further['spread']['null']:.3f} "
        f"(adjusted p = {p_value(_secondary(part)['independent', 'variance'])})"
    )
    if least > 0.05:
        return f"cannot be told from so few runs: {text}"
    found = Evidence.of(spread["difference"])
    if variance["p"] <= 0.05:
        return f"yes{reach(found.seeds, found.documents)}: {text}"
    return f"{_undecided(spread, 'nats of spread')}: {text}"


def _secondary(part: dict[str, Any]) -> dict[tuple[str, str], float]:
    """The p-values of a corpus that decide nothing, by null and measure, adjusted together (Holm).

    The variance of cooperative runs against those with separate losses is the one test that the
    verdict takes.
    """
    tests = part["tests"]
    names = [
        (null, measure)
        for null in ("separate", "independent")
        for measure in ("variance", "router_gain", "agreement")
        if (null, measure) != ("separate", "variance")
    ]
    adjusted = holm([tests[null][measure]["p"] for null, measure in names])
    return {name: p for name, p in zip(names, adjusted, strict=True) if p is not None}


def _undecided(compared: dict[str, Any], unit: str) -> str:
    """What a permutation test that does not reject leaves: a bound, and what would be seen."""
    found = Evidence.of(compared["difference"])
    if found.bound is None:
        return "not decided"
    return (
        f"not decided, any difference is below {found.bound:.3f} {unit} with 95 % over runs, and "
        f"{power_words(found, lambda value: f'{value:.3f}')}"
    )


def p_value(p: float) -> str:
    """A p-value with enough digits to be told from 0.05."""
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def summary(parts: Sequence[dict[str, Any]]) -> str:
    """The finding of the whole study."""
    lines = []
    for part in parts:
        tests = part["tests"]["separate"]
        where = f"{part['corpus']}: " if len(parts) > 1 else ""
        gain, agreement = tests["router_gain"], tests["agreement"]
        secondary = _secondary(part)
        lines.append(
            f"{where}Do cooperative towers divide labour beyond the same towers with separate "
            f"losses? {capital(verdict(part))}."
        )
        lines.append(
            f"Of use? Sending each type to its tower saves {signed(gain['cooperative'], 4)} nats "
            f"per token with cooperative towers, {signed(gain['null'], 4)} with separate losses "
            f"({_gain(gain, secondary['separate', 'router_gain'])}). The same preferences in every "
            "run? The types of two "
            f"cooperative runs correlate by {signed(agreement['cooperative'], 2)}, those of two "
            f"runs with separate losses by {signed(agreement['null'], 2)} "
            f"(adjusted p = {p_value(secondary['separate', 'agreement'])})."
        )
        if "minimum" in part["arms"]:
            lines.append(_control(part))
    return "\n\n".join(lines)


def _gain(gain: dict[str, Any], adjusted: float) -> str:
    """The difference of two router gains with its interval, and no verdict from a p-value."""
    found = Evidence.of(gain["difference"])
    if found.low is None or found.high is None:
        return f"adjusted p = {p_value(adjusted)}"
    return (
        f"difference {signed(found.estimate, 4)} [{signed(found.low, 4)}, {signed(found.high, 4)}] "
        f"over runs, adjusted p = {p_value(adjusted)}"
    )


def _control(part: dict[str, Any]) -> str:
    """Whether the measure sees the division of the hard minimum, by the towers' own heads."""
    control, separate, independent = (
        [run["spread"] for run in part["arms"][key]["own_heads"]]
        for key in ("minimum", "separate", "independent")
    )
    text = (
        f"The positive control, towers trained by the hard minimum, has a spread of "
        f"{float(np.mean(control)):.3f} nats by the towers' own heads, towers with separate losses "
        f"{float(np.mean(separate)):.3f}, independent towers {float(np.mean(independent)):.3f}"
    )
    if min(control) > max(*separate, *independent):
        return f"{text}: the measure sees a division where there is one."
    return f"{text}: at this size the study does not show that it would see a division."


def _mean(runs: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([run[name] for run in runs]))


def towers_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The finding of each corpus, for the command line."""
    return ["corpus", "verdict"], [[part["corpus"], verdict(part)] for part in results["parts"]]


def _kinds(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The arms with towers, and the null of probe noise."""
    return [arm for arm in [*part["arms"].values(), part["noise"]] if arm["runs"]]


def _bars(part: dict[str, Any]) -> list[Figure]:
    tests = part["tests"]["separate"]
    caption = (
        "Means over runs; bars: 95 % intervals over runs (Student t), none for a single run. "
        "N3: the cooperative architecture, each tower's loss computed alone; N0: towers that never "
        "met, with embeddings of their own; N1: one model's states in two halves; N2: one tower "
        "whose two probes differ in initial weights and data, which no other row's do."
    )
    gain = tests["router_gain"]
    larger = tests["variance"]["p"] <= 0.05
    return [
        forest_plot(
            [_over_runs(arm, "spread") for arm in _kinds(part)],
            x_label="spread of preference between types, nats (adjusted standard deviation)",
            finding="The preferences of cooperative towers are larger than those of towers with "
            f"separate losses (p = {p_value(tests['variance']['p'])})."
            if larger
            else "Whether preferences of cooperative towers are larger than those of towers with "
            f"separate losses is {_undecided(tests['spread'], 'nats')}.",
            alt="Spread of preference between types for each kind of towers, with intervals.",
            caption=caption,
        ),
        forest_plot(
            [_over_runs(arm, "router_gain") for arm in _kinds(part)],
            x_label="gain of a router by type, nats per token (above 0: of use)",
            finding=f"A router by type gains {signed(gain['cooperative'], 4)} nats per token with "
            f"cooperative towers and {signed(gain['null'], 4)} with separate losses.",
            alt="Gain of a router by type for each kind of towers, with intervals.",
            caption="Decided on one half of the text, scored on the other, against the better "
            f"tower there. {caption}",
        ),
    ]


def _over_runs(arm: dict[str, Any], name: str) -> Interval:
    values = np.array([run[name] for run in arm["runs"]])
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(arm["label"], mean, None, None, note="one run")
    half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n))
    return Interval(arm["label"], mean, mean - half, mean + half)


def _losses(part: dict[str, Any]) -> Table:
    rows: list[list[str | float | int]] = []
    for arm in part["arms"].values():
        if not arm["runs"]:
            continue
        each = [[nats["estimate"] for nats in run["nats"]] for run in arm["runs"]]
        rows.append(
            [
                arm["label"],
                f"{arm['weights']:,}",
                len(each),
                f"{float(np.mean([one[2] for one in each])):.4f}",
                f"{float(np.mean([min(one[:2]) for one in each])):.4f}",
                f"{float(np.mean([max(one[:2]) for one in each])):.4f}",
            ]
        )
    if part["single_nats_per_token"]:
        arm, single = part["arms"]["single"], part["single_nats_per_token"]
        mean = f"{float(np.mean(single)):.4f}"
        rows.append([arm["label"], f"{arm['weights']:,}", len(single), mean, "–", "–"])
    return Table(
        ["towers", "weights", "runs", "joint", "better tower", "worse tower"],
        rows,
        "Nats per token on held-out text, means over runs. Towers alone by their probes; the joint "
        "model of separate losses, independent towers and the hard minimum is the mixture of "
        "halves.",
    )


def _measures(part: dict[str, Any]) -> Table:
    rows: list[list[str | float | int]] = []
    kinds = [(arm, "", arm["runs"]) for arm in _kinds(part)]
    kinds += [
        (arm, ", own heads", arm["own_heads"]) for arm in part["arms"].values() if arm["own_heads"]
    ]
    for arm, how, runs in kinds:
        oracle = [run["oracle_gain"] for run in runs if run["oracle_gain"] is not None]
        agreement = None if how else arm.get("agreement")
        rows.append(
            [
                arm["label"] + how,
                f"{_mean(runs, 'spread'):.3f}",
                f"{_mean(runs, 'adjusted_reliability'):.3f}",
                f"{100 * _mean(runs, 'found_tokens'):.0f} %",
                signed(_mean(runs, "router_gain"), 4),
                signed(float(np.mean(oracle)), 4) if oracle else "–",
                "–" if agreement is None else signed(agreement, 2),
            ]
        )
    return Table(
        ["towers", "spread", "reliability", "tokens of types found", "router gain", "oracle gain",
         "agreement of runs"],
        rows,
        "Preference, means over runs. Spread, reliability and agreement are of types' adjusted "
        "differences. By probes; where it says so, by the towers' own heads, calibrated.",
    )  # fmt: skip


def _scatters(part: dict[str, Any]) -> list[Figure]:
    figures: list[Figure] = []
    for key, arm in part["points"].items():
        label = part["arms"][key]["label"]
        agreement = part["arms"][key]["agreement"]
        figures.append(
            scatter_plot(
                clouds(*(np.array(arm[name]) for name in ("first", "second", "class"))),
                x_label="preference for tower 1 in the first run, nats",
                y_label="preference in the second run, nats",
                finding=f"{capital(label)}: the preferences of two runs correlate by "
                f"{signed(agreement, 2)} on average.",
                alt=f"Preference of each type in one run of {label} against another run.",
                caption="A point a type, shrunken and adjusted for difficulty and frequency. The "
                "second run's towers are numbered so that they agree, which alone gives a "
                "correlation above zero in this drawing; the figure in the sentence is free of it.",
            )
        )
    return figures


def _first(part: dict[str, Any]) -> ModelPreference:
    return ModelPreference.from_json(part["first"])


def _corpora_section(parts: Sequence[dict[str, Any]]) -> Section:
    rows: list[list[str | float | int]] = [
        [
            part["corpus"],
            f"{tests['spread']['cooperative']:.4f}",
            f"{tests['spread']['null']:.4f}",
            p_value(tests["variance"]["p"]),
            f"{part['tests']['independent']['spread']['null']:.4f}",
            p_value(_secondary(part)["independent", "variance"]),
            signed(tests["router_gain"]["cooperative"], 4),
            signed(tests["router_gain"]["null"], 4),
            signed(tests["agreement"]["cooperative"], 2),
        ]
        for part, tests in ((part, part["tests"]["separate"]) for part in parts)
    ]
    return Section(
        "Corpora side by side",
        tables=[
            Table(
                ["corpus", "spread, cooperative", "spread, separate losses", "p",
                 "spread, independent", "adjusted p", "router gain, cooperative",
                 "router gain, separate losses", "agreement, cooperative"],
                rows,
                "A division that is there without word order, or without any, is not one of "
                "language.",
            )
        ],
    )  # fmt: skip


def _methods(results: dict[str, Any]) -> list[str]:
    config, part = results["config"], results["parts"][0]
    return [
        f"A tower is {results['tower']}; the embedding, twice as wide, is shared and tied. "
        f"Cooperative towers are joined by {config['fusion']}. {config['tokens']:,} training "
        f"tokens a run ({part['training_tokens_available']:,} available), "
        f"{config['batch_tokens']:,} a step, context {config['context']}, AdamW with a peak rate "
        f"of {config['learning_rate']:g} (probes {config['probe_learning_rate']:g}), weight decay "
        "0.1 on matrices, warm-up over 5 % of the steps, cosine to a tenth.",
        f"Every tower gets a probe: dense layer, GELU, layer norm and an untied head, trained on "
        f"{config['probe_tokens']:,} tokens over the frozen towers, which are in evaluation mode. "
        "Both probes of a pair start at the same weights and see the same states in the same "
        "order, so that nothing but the tower differs.",
        f"{measured(_first(part))} The verdict permutes the "
        "variances of cooperative runs and of those with separate losses exactly. It is the one "
        "test of a corpus that decides; the p-values of its other five (of router gain, agreement, "
        "and independent towers) are adjusted together (Holm 1979). Towers with "
        "separate losses (N3) have the weights, the embeddings and the initial values of the "
        "cooperative ones; only the loss differs. Independent ones (N0) differ in all of these. "
        "Towers that do not cooperate have reliable preferences too, and so do probes that differ: "
        f"that is what the nulls are for. {ROUTER}",
    ]
