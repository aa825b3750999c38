"""The page of the towers study, and its tables.

Every figure stands under its finding in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import stdtrit

from lmlab.numerics.verdicts import holm, power_words, reach
from lmlab.pages.figures import ForestRow, forest_plot, scatter_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import Rounded
from lmlab.pages.wording import capital, share_text, signed
from lmlab.studies.provenance import to_repeat
from lmlab.studies.rates_report import rate_words, rates_section
from lmlab.topics.counting.baseline import AgainstCounting
from lmlab.topics.counting.words import counting_section, counting_tables, worse_words
from lmlab.topics.towers.arms import (
    INDEPENDENT,
    MINIMUM,
    SEPARATE,
    SINGLE,
    SPLIT,
    model_words,
)
from lmlab.topics.towers.comparison import ArmResult, CorpusResult, DifferenceTest, TowersStudy
from lmlab.topics.towers.model_report import ROUTER, clouds, measured, preference_sections

_FIRST = "the first cooperative run"
_OTHER_NULLS = {
    INDEPENDENT: "N0: towers that never met, with embeddings of their own; ",
    SPLIT: "N1: one model's states in two halves; ",
}


def report(result: TowersStudy) -> Report:
    """Title, finding and sections of the page."""
    parts = result.parts
    sections: list[Section] = []
    if len(parts) > 1:
        sections.append(Section("Corpora side by side", tables=[_corpora_table(parts)]))
    for part in parts:
        name = f": {part.corpus}" if len(parts) > 1 else ""
        sections += [
            Section(
                f"Preference and its nulls{name}",
                figures=_bars(part),
                tables=[_measures(part), _losses(part)],
            ),
            Section(f"The same types in every run?{name}", figures=_scatters(part)),
            *preference_sections(part.first, _FIRST, name),
        ]
    rates = rates_section(result.config, result.rates)
    methods = Section(
        "Methods", [*_methods(result), to_repeat("lmlab study towers", result.config)]
    )
    worse, both_ways = worse_words(_counted(result)), result.config.reading != "causal"
    summary = "\n\n".join(filter(None, [worse, _summary(parts)]))
    counting = counting_section(_counted(result), both_ways=both_ways)
    return Report(
        "Two towers with one prediction", summary, [*sections, *counting, *rates, methods]
    )


def _counted(result: TowersStudy) -> dict[str, AgainstCounting | None]:
    return {part.corpus: part.counting for part in result.parts}


def tables(result: TowersStudy) -> list[Table]:
    """The finding of each corpus; corpora side by side; preferences and losses by arm."""
    parts = result.parts
    findings = Table(
        ["corpus", "verdict"],
        [[part.corpus, verdict(part)] for part in parts],
        "Do cooperative towers divide labour?",
    )
    corpora = [_corpora_table(parts)] if len(parts) > 1 else []
    of_parts = [table for part in parts for table in (_measures(part), _losses(part))]
    return [findings, *corpora, *of_parts, *counting_tables(_counted(result))]


def headline(result: TowersStudy) -> str:
    """The models that are worse than counting, if any, and the verdict on each corpus."""
    verdicts = [f"{capital(verdict(part))}." for part in result.parts]
    return " ".join(filter(None, [worse_words(_counted(result)), *verdicts]))


def verdict(part: CorpusResult) -> str:
    """The claim in words: do cooperative towers divide labour beyond those that do not cooperate?

    The null is the same towers with separate losses; independent ones, if any, stand beside it.
    """
    tests, further = part.tests[SEPARATE], part.tests.get(INDEPENDENT)
    spread, variance = tests.spread, tests.variance
    text = (
        f"types differ by a spread of {spread.cooperative:.3f} nats between cooperative towers "
        f"and {spread.null:.3f} between the same towers with separate losses "
        f"(p = {_p_value(variance.p)}, exact permutation of runs, one-sided)"
    )
    if further is not None:
        text += (
            f"; beside them, between independent towers {further.spread.null:.3f} "
            f"(adjusted p = {_p_value(_secondary(part)[INDEPENDENT, 'variance'])})"
        )
    if tests.least_p > 0.05:
        return f"cannot be told from so few runs: {text}"
    if variance.p <= 0.05:
        return f"yes{reach(spread.difference.seeds, spread.difference.documents)}: {text}"
    return f"{_undecided(spread, 'nats of spread')}: {text}"


def _secondary(part: CorpusResult) -> dict[tuple[str, str], float]:
    """The p-values of a corpus that decide nothing, by null and measure, adjusted together (Holm).

    The variance of cooperative runs against those with separate losses is the one test that the
    verdict takes.
    """
    family = {
        (null, measure): p
        for null, tests in part.tests.items()
        for measure, p in tests.p_values.items()
        if (null, measure) != (SEPARATE, "variance")
    }
    adjusted = holm(list(family.values()))
    return {name: p for name, p in zip(family, adjusted, strict=True) if p is not None}


def _undecided(compared: DifferenceTest, unit: str) -> str:
    """What a permutation test that does not reject leaves: a bound, and what would be seen."""
    difference = compared.difference
    if difference.bound is None:
        return "not decided"
    return (
        f"not decided, any difference is below {difference.bound:.3f} {unit} with 95 % over runs, "
        f"and {power_words(difference, lambda value: f'{value:.3f}')}"
    )


def _p_value(p: float) -> str:
    """A p-value with enough digits to be told from 0.05."""
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _summary(parts: Sequence[CorpusResult]) -> str:
    """The finding of the whole study."""
    lines = []
    for part in parts:
        tests = part.tests[SEPARATE]
        where = f"{part.corpus}: " if len(parts) > 1 else ""
        gain, agreement = tests.router_gain, tests.agreement
        secondary = _secondary(part)
        lines.append(
            f"{where}Do cooperative towers divide labour beyond the same towers with separate "
            f"losses? {capital(verdict(part))}."
        )
        lines.append(
            f"Of use? Sending each type to its tower saves {signed(gain.cooperative, 4)} nats "
            f"per token with cooperative towers, {signed(gain.null, 4)} with separate losses "
            f"({_gain(gain, secondary[SEPARATE, 'router_gain'])}). The same preferences in every "
            "run? The types of two "
            f"cooperative runs correlate by {signed(agreement.cooperative, 2)}, those of two "
            f"runs with separate losses by {signed(agreement.null, 2)} "
            f"(adjusted p = {_p_value(secondary[SEPARATE, 'agreement'])})."
        )
        if MINIMUM in part.arms:
            lines.append(_control(part))
    return "\n\n".join(lines)


def _gain(gain: DifferenceTest, adjusted: float) -> str:
    """The difference of two router gains with its interval, and no verdict from a p-value."""
    low, high = gain.difference.low, gain.difference.high
    if low is None or high is None:
        return f"adjusted p = {_p_value(adjusted)}"
    return (
        f"difference {signed(gain.difference.estimate, 4)} [{signed(low, 4)}, {signed(high, 4)}] "
        f"over runs, adjusted p = {_p_value(adjusted)}"
    )


def _control(part: CorpusResult) -> str:
    """Whether the measure sees the division of the hard minimum, by the towers' own heads."""
    control = [run.spread for run in part.arms[MINIMUM].own_heads]
    nulls = {key: [run.spread for run in part.arms[key].own_heads] for key in part.tests}
    names = {SEPARATE: "towers with separate losses", INDEPENDENT: "independent towers"}
    beside = ", ".join(f"{names[key]} {_mean(spreads):.3f}" for key, spreads in nulls.items())
    text = (
        f"The positive control, towers trained by the hard minimum, has a spread of "
        f"{_mean(control):.3f} nats by the towers' own heads, {beside}"
    )
    if min(control) > max(max(spreads) for spreads in nulls.values()):
        return f"{text}: the measure sees a division where there is one."
    return f"{text}: at this size the study does not show that it would see a division."


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _kinds(part: CorpusResult) -> list[ArmResult]:
    """The arms with towers, and the null of probe noise."""
    return [arm for arm in [*part.arms.values(), part.noise] if arm.runs]


def _bars(part: CorpusResult) -> list[Figure]:
    tests = part.tests[SEPARATE]
    caption = (
        "Means over runs; bars: 95 % intervals over runs (Student t), none for a single run. "
        "N3: the cooperative architecture, each tower's loss computed alone; "
        + "".join(words for key, words in _OTHER_NULLS.items() if key in part.arms)
        + "N2: one tower whose two probes differ in initial weights and data, which no other row's "
        "do."
    )
    gain = tests.router_gain
    larger = tests.variance.p <= 0.05
    return [
        forest_plot(
            [_over_runs(arm, [run.spread for run in arm.runs]) for arm in _kinds(part)],
            x_label="spread of preference between types, nats (adjusted standard deviation)",
            finding="The preferences of cooperative towers are larger than those of towers with "
            f"separate losses (p = {_p_value(tests.variance.p)})."
            if larger
            else "Whether preferences of cooperative towers are larger than those of towers with "
            f"separate losses is {_undecided(tests.spread, 'nats')}.",
            alt="Spread of preference between types for each kind of towers, with intervals.",
            caption=caption,
        ),
        forest_plot(
            [_over_runs(arm, [run.router_gain for run in arm.runs]) for arm in _kinds(part)],
            x_label="gain of a router by type, nats per token (above 0: of use)",
            finding=f"A router by type gains {signed(gain.cooperative, 4)} nats per token with "
            f"cooperative towers and {signed(gain.null, 4)} with separate losses.",
            alt="Gain of a router by type for each kind of towers, with intervals.",
            caption="Decided on one half of the text, scored on the other, against the better "
            f"tower there. {caption}",
        ),
    ]


def _over_runs(arm: ArmResult, values: Sequence[float]) -> ForestRow:
    mean, n = _mean(values), len(values)
    if n < 2:
        return ForestRow(arm.label, mean, None, None, note="one run")
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))
    return ForestRow(arm.label, mean, mean - half, mean + half)


def _losses(part: CorpusResult) -> Table:
    rows: list[list[str | float | int]] = []
    names = {INDEPENDENT: "independent towers", MINIMUM: "the hard minimum"}
    beside = [name for key, name in names.items() if key in part.arms]
    mixed = [", ".join(["separate losses", *beside[:-1]]), *beside[-1:]]
    for arm in part.arms.values():
        if not arm.runs:
            continue
        each = [[nats.estimate for nats in run.nats] for run in arm.runs]
        losses = (
            _mean(joint for _, _, joint in each),
            _mean(min(towers) for *towers, _ in each),
            _mean(max(towers) for *towers, _ in each),
        )
        rows.append([arm.label, arm.weights, len(each), *(Rounded(nats, 4) for nats in losses)])
    if single := part.single_nats_per_token:
        arm, mean = part.arms[SINGLE], Rounded(_mean(single), 4)
        rows.append([arm.label, arm.weights, len(single), mean, "–", "–"])
    return Table(
        ["towers", "weights", "runs", "joint", "better tower", "worse tower"],
        rows,
        "Nats per token on held-out text, means over runs. Towers alone by their probes; the joint "
        f"model of {' and '.join(mixed)} is the mixture of halves.",
    )


def _measures(part: CorpusResult) -> Table:
    rows: list[list[str | float | int]] = []
    kinds = [(arm, "", arm.runs) for arm in _kinds(part)]
    kinds += [(arm, ", own heads", arm.own_heads) for arm in part.arms.values() if arm.own_heads]
    for arm, how, runs in kinds:
        oracle = [run.oracle_gain for run in runs if run.oracle_gain is not None]
        agreement = None if how else arm.agreement
        rows.append(
            [
                arm.label + how,
                Rounded(_mean(run.spread for run in runs), 3),
                Rounded(_mean(run.adjusted_reliability for run in runs), 3),
                share_text(_mean(run.found_tokens for run in runs)),
                signed(_mean(run.router_gain for run in runs), 4),
                signed(_mean(oracle), 4) if oracle else "–",
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


def _scatters(part: CorpusResult) -> list[Figure]:
    figures: list[Figure] = []
    for key, pair in part.pairs.items():
        label, agreement = part.arms[key].label, part.arms[key].agreement
        assert agreement is not None
        figures.append(
            scatter_plot(
                clouds(pair.first.deviation_P, pair.second_P, pair.first),
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


def _corpora_table(parts: Sequence[CorpusResult]) -> Table:
    rows: list[list[str | float | int]] = [
        [
            part.corpus,
            Rounded(tests.spread.cooperative, 4),
            Rounded(tests.spread.null, 4),
            _p_value(tests.variance.p),
            *_independent_cells(part),
            signed(tests.router_gain.cooperative, 4),
            signed(tests.router_gain.null, 4),
            signed(tests.agreement.cooperative, 2),
        ]
        for part, tests in ((part, part.tests[SEPARATE]) for part in parts)
    ]
    return Table(
        ["corpus", "spread, cooperative", "spread, separate losses", "p",
         "spread, independent", "adjusted p", "router gain, cooperative",
         "router gain, separate losses", "agreement, cooperative"],
        rows,
        "A division that is there without word order, or without any, is not one of language.",
    )  # fmt: skip


def _independent_cells(part: CorpusResult) -> list[str | float | int]:
    """The spread of independent towers and its adjusted p-value, if there are any."""
    if INDEPENDENT not in part.tests:
        return ["–", "–"]
    p = _secondary(part)[INDEPENDENT, "variance"]
    return [Rounded(part.tests[INDEPENDENT].spread.null, 4), _p_value(p)]


def _methods(result: TowersStudy) -> list[str]:
    config, part = result.config, result.parts[0]
    rate = " (and the rate, see Learning rates)" if result.rates else ""
    both_ends = " (one reads forward, one backward, in every arm)" if config.cloze else ""
    others, independent = "two (of router gain and agreement)", ""
    if INDEPENDENT in part.tests:
        others = "five (of router gain, agreement, and independent towers)"
        independent = "Independent ones (N0) differ in all of these. "
    return [
        f"A tower is {model_words(config.model)}{both_ends}; the embedding, twice as wide, is "
        f"shared and tied. Cooperative towers are joined by {config.fusion}. {config.tokens:,} "
        f"training tokens a run ({part.training_tokens_available:,} available), "
        f"{config.batch_tokens:,} a step, context {config.context}, {config.optimizer} with "
        f"{rate_words(config, f'a peak rate of {config.learning_rate:g}')} (probes: adamw, "
        f"{config.probe_learning_rate:g}), "
        "weight decay 0.1 on matrices, warm-up over 5 % of the steps, cosine to a tenth.",
        f"Every tower gets a probe: dense layer, GELU, layer norm and an untied head, trained on "
        f"{config.probe_tokens:,} tokens over the frozen towers, which are in evaluation mode. "
        "Both probes of a pair start at the same weights and see the same states in the same "
        "order, so that nothing but the tower differs.",
        f"{measured(part.first)} The verdict permutes the "
        "variances of cooperative runs and of those with separate losses exactly. It is the one "
        f"test of a corpus that decides; the p-values of its other {others} are adjusted together "
        "(Holm 1979). Towers with "
        "separate losses (N3) have the weights, the embeddings and the initial values of the "
        f"cooperative ones; only the loss differs{rate}. "
        f"{independent}Towers that do not cooperate have reliable preferences too, and so do "
        f"probes that differ: that is what the nulls are for. {ROUTER}",
    ]
