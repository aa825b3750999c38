"""The page of the headless study. Every figure stands under its finding in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from lmlab.config import to_mapping
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.wording import amount_of_text, without_label
from lmlab.studies.provenance import to_repeat, trained
from lmlab.studies.rates import Rates
from lmlab.studies.rates_report import rate_words, rates_section
from lmlab.topics.counting.words import counting_words
from lmlab.topics.headless.arms import ARMS, HEADLESS, REFERENCE
from lmlab.topics.headless.comparison import Headless, VocabularyResult
from lmlab.topics.headless.curves import Curve
from lmlab.topics.headless.figures import (
    growth_figures,
    heads_figure,
    learning_figures,
    rank_figure,
    repeats_figure,
    task_figures,
)
from lmlab.topics.headless.tables import (
    cost_table,
    geometry_table,
    heads_table,
    row_name,
    verdict,
)


def report(result: Headless) -> Report:
    """Title, finding and sections of the page."""
    parts = result.parts

    def once(figures: Iterable[Figure]) -> list[Figure]:
        """Without the vocabulary that the summary names, where there is but one."""
        label = f"Vocabulary {parts[0].vocabulary:,}"
        return without_label(figures, label) if len(parts) == 1 else list(figures)

    return Report(
        "Learning without a softmax",
        "\n\n".join([*map(_verdict, parts), *map(_details, parts)]),
        [
            Section(
                "Models and heads", figures=once([heads_figure(parts)]), tables=[heads_table(parts)]
            ),
            Section("Repeated and new tokens", [_REPEATS], once(map(repeats_figure, parts))),
            Section(
                "Learning", [_LEARNING], once(f for part in parts for f in learning_figures(part))
            ),
            *_tasks(parts),
            Section(
                "Cost",
                [_cost(parts)],
                growth_figures(result.growth),
                tables=[cost_table(parts)],
            ),
            *(replace(section, figures=once(section.figures)) for section in _geometry(parts)),
            *rates_section(result.config, _rates(parts)),
            _methods(result),
        ],
    )


def tables(result: Headless) -> list[Table]:
    """Models and heads, the cost of a step, and the geometry of two models where it was asked."""
    geometry = [geometry_table(result.parts)] if result.config.geometry else []
    return [heads_table(result.parts), cost_table(result.parts), *geometry]


def headline(result: Headless) -> str:
    """The headless model with the prior, which costs nothing to add, against the baseline."""
    return " ".join(
        f"With the prior of cross-entropy, {verdict(part.by_key[HEADLESS])}. {_counting(part)}"
        for part in result.parts
    )


def _counting(part: VocabularyResult) -> str:
    """Whether the models know what counting gives."""
    rows = {key: part.above_counting[key] for key in (REFERENCE, HEADLESS)}
    return counting_words(part.counted, {part.by_key[k].row.label: a for k, a in rows.items()})


_REPEATS = (
    "The published loss takes the micro-batch's targets for candidates. A share of them, one "
    "over the number of windows, is of a row's own window, where repeated tokens are frequent: "
    "its optimum scores them too low. Draws from the unigram distribution have no such bias. "
    "So a loss on repeated tokens beside a gain on new ones is the mark of few windows."
)
_LEARNING = (
    "Validation loss while training, the headless model with its prior head. Seconds are steps "
    "times the measured time of a step on this machine."
)
_TASKS = (
    "Zero-shot, each model with the head of its row. Intervals: two-way random effects over "
    "seeds and items; where items come in sets (BLiMP), over seeds and sets, since those of "
    "one set are often from one template."
)


def _verdict(part: VocabularyResult) -> str:
    """The headless model with the prior against the fair baseline, in one sentence."""
    return (
        f"Vocabulary {part.vocabulary:,}, headless with the prior against cross-entropy with the "
        f"same prior: {verdict(part.by_key[HEADLESS])}."
    )


def _details(part: VocabularyResult) -> str:
    """How much was trained, the other headless heads, counting, and the course of training."""
    rows = [
        part.by_key[key]
        for key in ("headless-raw", "headless-calibrated", "longer")
        if key in part.by_key
    ]
    findings = "; ".join(f"{row_name(row)}: {verdict(row)}" for row in rows)
    reference = [c for c in part.curves if c.arm == REFERENCE]
    tokens, weights = reference[0].tokens[-1], part.weights[REFERENCE]
    seeds = "one seed" if len(reference) == 1 else f"{len(reference)} seeds"
    return (
        f"Vocabulary {part.vocabulary:,}: {tokens:,} tokens of training ({seeds}, "
        f"{tokens / weights:.3g} a parameter of the tied model). Other headless models against the "
        f"same baseline: {findings}.\n\n{_counting(part)}\n\n{lead(part.curves, weights)}"
    )


def lead(curves: Sequence[Curve], weights: int) -> str:
    """At which tokens per parameter, of `weights` in all, the headless model was ahead or behind in
    every seed, by the validation losses of a run."""
    ours, theirs = (
        sorted((c for c in curves if c.arm == arm and not c.longer), key=lambda c: c.seed)
        for arm in (HEADLESS, REFERENCE)
    )
    sign_SP = np.sign([
        np.subtract(a.validation, b.validation) for a, b in zip(ours, theirs, strict=True)
    ])  # fmt: skip
    each_P = [tokens / weights for tokens in ours[0].tokens]
    seeds = len(sign_SP)
    stretches = [
        f"{word} at {'; '.join(_spans(each_P, (sign_SP == sign).all(0)))}"
        for word, sign in (("ahead", -1), ("behind", 1))
        if (sign_SP == sign).all(0).any()
    ]
    how = "in the one seed" if seeds == 1 else f"in all {seeds} seeds"
    if not stretches:
        return f"While training, it was at no point ahead or behind {how} (validation text)."
    rest = "" if (np.abs(sign_SP.sum(0)) == seeds).all() else "; elsewhere seeds disagree"
    return (
        f"While training, the published headless loss was, {how}, {' and '.join(stretches)} tokens "
        f"a parameter (validation text{rest})."
    )


def _spans(each_P: Sequence[float], holds_P: np.ndarray) -> list[str]:
    """The stretches of training where something holds, in tokens per parameter."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], holds_P.astype(int), [0]])))
    spans = []
    for first, after in edges.reshape(-1, 2):
        ends = [f"{each_P[i]:.3g}" for i in (first, after - 1)]
        spans.append(ends[0] if ends[0] == ends[1] else " to ".join(ends))
    return spans


def _tasks(parts: Sequence[VocabularyResult]) -> list[Section]:
    figures = [figure for part in parts for figure in task_figures(part)]
    return [Section("Tasks", [_TASKS], figures)] if figures else []


def _geometry(parts: Sequence[VocabularyResult]) -> list[Section]:
    measured = [part for part in parts if part.geometry]
    if not measured:
        return []
    return [Section("Geometry", [], list(map(rank_figure, measured)), [geometry_table(measured)])]


def _rates(parts: Sequence[VocabularyResult]) -> dict[str, Rates]:
    """The rates of each arm, where several were tried."""
    several = len(parts) > 1
    return {
        ARMS[arm].label + (f" (vocabulary {part.vocabulary:,})" if several else ""): rates
        for part in parts
        for arm, rates in part.rates.items()
    }


def _cost(parts: Sequence[VocabularyResult]) -> str:
    shares = ", ".join(
        f"{part.step_times.by_arm[HEADLESS] / part.step_times.by_arm[REFERENCE]:.2f} of the time "
        f"of one of cross-entropy with a vocabulary of {part.vocabulary:,}"
        for part in parts
    )
    return (
        f"A headless step takes {shares} (with the prior bias; all forms timed in turn on this "
        "machine, evaluation and saving left out). At equal time a headless model trains for as "
        "many more steps, rounded to a twentieth."
    )


def _methods(result: Headless) -> Section:
    config, parts = result.config, result.parts
    over = amount_of_text(parts[0].documents, parts[0].cluster_unit, parts[0].clusters)
    usual = f"learning rate {config.learning_rate:g} for all"
    available = ", ".join(f"{part.training_tokens_available:,}" for part in parts)
    text = (
        f"Corpus {result.corpus}, {config.seeds} seed(s), {config.tokens:,} training "
        f"tokens a run ({available} available), {config.batch_tokens:,} tokens a step, all of "
        "them candidates of a headless "
        f"model's step ({config.batch_tokens // config.context} windows, so one in as many "
        f"is of a row's own window); context {config.context}, {rate_words(config, usual)}, "
        f"{trained(config.optimizer)}. All forms of a seed have the same data "
        "order; tied forms have the same initial weights. The prior is the log-unigram "
        "distribution of the training split (add-one). Calibration fits two scalars, of similarity "
        "and prior, on held-out text that is not scored. Fine-tuning is a child run: the embedding "
        f"becomes an untied head and all weights train on cross-entropy for "
        f"{100 * config.fine_tune:g} % of the steps (learning rate "
        f"{config.fine_tune_learning_rate:g}). Losses are those of the last checkpoint on the "
        f"{config.split} split, in float32 ({parts[0].tokens_scored:,} tokens, "
        f"{over}). Intervals: two-way random effects over seeds and these on the paired "
        "difference, Student t; each for its row alone."
    )
    text = " ".join([text, *dict.fromkeys(part.text_note for part in parts)])
    model = ", ".join(
        f"{k} {v}" for k, v in to_mapping(config.model).items() if v not in (False, 0.0)
    )
    weights = "; ".join(f"{ARMS[arm].label} {n:,}" for arm, n in parts[0].weights.items())
    backbone = f"Backbone: {model}." + (f" Weights: {weights}." if len(parts) == 1 else "")
    repeat = to_repeat("lmlab study headless", config)
    return Section("Methods", [text, backbone, repeat])
