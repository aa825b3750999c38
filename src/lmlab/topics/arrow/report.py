"""The pages of the arrow of time: of the study, and of two models, whose page has its sections.

Every figure stands under its finding in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.wording import capital, without_label
from lmlab.studies.provenance import to_repeat, trained
from lmlab.studies.rates_report import rates_section
from lmlab.topics.arrow.between_models import ModelsArrow
from lmlab.topics.arrow.comparison import Comparison
from lmlab.topics.arrow.document_views import document_tables, documents_section
from lmlab.topics.arrow.family import ArrowStudy, CorporaMean
from lmlab.topics.arrow.figures import (
    arrow_figure,
    counting_figure,
    floor_figures,
    learning_figures,
    levels_figure,
    position_figures,
)
from lmlab.topics.arrow.tables import (
    above_counting_table,
    arrow_table,
    comparison_name,
    comparison_words,
    counting_words,
    family_words,
    findings_table,
    floor_table,
    level_words,
    levels_table,
    losses_table,
    mean_name,
    mean_words,
    over_words,
    power_table,
    smoothings_table,
    times_table,
    times_words,
    training_table,
)


def report(result: ArrowStudy | ModelsArrow) -> Report:
    """Title, finding and sections of the page."""
    if isinstance(result, ModelsArrow):
        return _of_two_models(result)
    every = result.comparisons
    sections = [_arrow_section(every, result.means)]
    if levels := result.levels:
        of_levels = [levels_table(levels)]
        sections.append(Section("Matrices as they come", [], [levels_figure(levels)], of_levels))
    if with_floor := [c for c in every if c.floor is not None]:
        sections.append(_floor_section(with_floor))
    if counted := result.counted:
        of_texts = [above_counting_table(every), smoothings_table(counted)]
        sections.append(
            Section("What counting alone sees", [_COUNTING], [counting_figure(counted)], of_texts)
        )
    sections.append(Section("Learning curves", [_LEARNING], _each(learning_figures, every)))
    if jumping := [c for c in every if c.transition is not None]:
        sections.append(_times_section(jumping))
    sections += [
        _position_section(every),
        *_documents(every),
        *rates_section(result.config, result.rates, _OWN_RATES),
        Section("Methods", _methods(result), tables=[training_table(every)]),
    ]
    return Report(result.title, _finding(result), sections)


def tables(result: ArrowStudy | ModelsArrow) -> list[Table]:
    """What was found, the arrow of each comparison, and what it could show; of a study also its
    levels of linear languages, sources with a floor, and counts, where it has any."""
    if isinstance(result, ModelsArrow):
        of_pair = [result.comparison]
        measured = [losses_table(result), arrow_table(of_pair), power_table(of_pair)]
        return [*measured, *document_tables(of_pair)]
    every = result.comparisons
    return [
        findings_table(result),
        arrow_table(every),
        power_table(every),
        *([levels_table(result.levels)] if result.levels else []),
        *([floor_table(every)] if any(c.floor is not None for c in every) else []),
        *(
            [above_counting_table(every), smoothings_table(result.counted)]
            if result.counted
            else []
        ),
        *document_tables(every),
    ]


def headline(result: ArrowStudy) -> str:
    """The finding of each comparison, and whether its models know what counting gives."""
    found = [f"{capital(comparison_words(c))}." for c in result.comparisons]
    return " ".join([*found, *counting_words(result.comparisons)])


def _of_two_models(result: ModelsArrow) -> Report:
    comparison, score = result.comparison, result.forward
    note = "" if score.loss_note is None else f"\n\nNote: {score.loss_note}."
    methods = (
        f"Both models score the same {score.windows:,} windows of up to {score.context:,} tokens: "
        f"forward {score.conditions}. The interval is over {over_words(comparison)}, and over no "
        "seeds: it speaks of these two models. What other trainings of the same models would show, "
        "a study says (lmlab study arrow)."
    )
    return Report(
        f"Arrow of time: {score.model} and {result.backward.model}",
        f"{capital(comparison_words(comparison))}.{note}",
        [
            Section("Both directions", tables=[losses_table(result)]),
            _arrow_section([comparison]),
            _position_section([comparison]),
            *_documents([comparison]),
            Section("Methods", [methods]),
        ],
    )


def _finding(result: ArrowStudy) -> str:
    """The finding of the whole study in a few sentences, the means over corpora first."""
    lines = [f"{capital(mean_name(mean))}: {mean_words(mean)}." for mean in result.means]
    lines += [f"{level.name}: {level_words(level)}." for level in result.levels]
    single = [c for c in result.comparisons if c.draw is None]
    lines += [f"{comparison_name(c)}: {comparison_words(c)}." for c in single[:8]]
    if len(single) > 1:
        lines.append(family_words(single))
    # what models do not know that counting gives comes first: it is the reach of all that follows
    known = counting_words(result.comparisons)
    worse = any(a.is_worse for c in single if c.above_counting for a in c.above_counting.sides)
    return "\n\n".join([*known, *lines] if worse else [*lines, *known])


def _arrow_section(comparisons: Sequence[Comparison], means: Sequence[CorporaMean] = ()) -> Section:
    figure = arrow_figure(comparisons, means)
    return Section(
        "The arrow", figures=[figure], tables=[arrow_table(comparisons), power_table(comparisons)]
    )


def _floor_section(comparisons: Sequence[Comparison]) -> Section:
    floors = [c.floor for c in comparisons if c.draw is None and c.floor is not None]
    alone = any(floor.inverse_density is not None for floor in floors)
    return Section(
        "Sources with a known floor",
        [ONE_MATRIX] if alone else [],
        figures=floor_figures(comparisons),
        tables=[floor_table(comparisons)],
    )


def _times_section(jumping: Sequence[Comparison]) -> Section:
    """When runs make their jump, where a validation curve jumps."""
    lines = [f"{comparison_name(c)}: {times_words(c)}." for c in jumping]
    inside = [comparison_name(c) for c in jumping if c.transition and c.transition.inside]
    if inside:
        lines.append(
            f"The budget ends among the jumps of {'; '.join(inside)}: some runs have made theirs, "
            "others have not or only just. Final losses then have two values rather than a mean "
            "with noise: an interval from 3 seeds covers 61 to 77 %, one from 2 seeds 39 to 93 %."
        )
    return Section("When the curves jump", [_JUMP, *lines], tables=[times_table(jumping)])


def _position_section(comparisons: Sequence[Comparison]) -> Section:
    figures = _each(position_figures, comparisons)
    return Section("By position in the window", [_POSITIONS], figures)


def _documents(comparisons: Sequence[Comparison]) -> list[Section]:
    section = documents_section(comparisons)
    return [] if section is None else [section]


def _each(
    figures: Callable[[Comparison], list[Figure]], comparisons: Sequence[Comparison]
) -> list[Figure]:
    drawn = [figure for comparison in comparisons for figure in figures(comparison)]
    if len(comparisons) > 1:
        return drawn
    return without_label(drawn, comparison_name(comparisons[0]))


ONE_MATRIX = (
    "A linear language that is named by one seed is one matrix, and it may have been selected: its "
    "figures are of that matrix and say nothing of others of its level. For a level give several "
    "as they come, for example linear:12:6:1-8."
)
_LEARNING = (
    "Loss on a fixed sample of validation windows while training, one line a seed. The comparison "
    "above uses other text, held out from this too."
)
_JUMP = (
    "A jump: within a factor of 1.5 of training time the validation loss falls by at least 3 times "
    "as much as within the factor before it, by 1 % of itself, and by 8 times the curve's noise. "
    "The threshold is half-way down the largest one."
)
_POSITIONS = (
    "A token at position k is predicted from BOS and k tokens: those before it for the forward "
    "model, those after it for the backward one. Tokens near one direction's start are near the "
    "other's end, so the curves compare equal amounts of context, not equal tokens; only the sum "
    "over all positions scores the same text in both directions."
)
_COUNTING = (
    "Baselines without training: k-grams of the whole training split, counted as a ring. The "
    "backward n-gram model is the forward model of the reversed text. A window starts cold, as for "
    "the models: its first tokens have shorter contexts. The same counts have another arrow under "
    "another smoothing, so an arrow of counts is no finding about the text; look at the smoothing "
    "that predicts best. Additive smoothing, scored round a ring, has no arrow at all, whatever "
    "the text."
)


_OWN_RATES = (
    "The paper's null is equal treatment, one rate for both directions. Here each has the best of "
    "the same rates, so that no rate favours one: where they differ, it is another comparison than "
    "the paper's."
)


def _methods(result: ArrowStudy) -> list[str]:
    config = result.config
    text = (
        f"For each comparison, {config.seeds} seed(s) of each direction were trained for "
        f"{config.tokens:,} tokens. Both directions of a seed have the same initial weights, "
        "the same windows in the same order, the same steps"
        f"{', each its best learning rate' if result.rates else ' and learning rates'}, and one "
        f"tokenizer; {'else ' if result.rates else ''}"
        "only the order inside the window differs: backward flips the window's ids and then puts "
        "the same beginning-of-sequence token in front. Text is split by document, by a hash of "
        "its content. Training windows are contiguous, non-overlapping runs of the training "
        f"split. Losses are those of the last checkpoint on the {config.split} split, in float32, "
        "in windows that never cross a document; every token is scored, the first of each window "
        f"from the beginning-of-sequence token alone. {trained(config.optimizer)}. "
        "Intervals are two-way random effects over seeds and documents (sections of them where "
        "there are fewer than five: these documents only) on the ratio of sums, "
        "Student t; with one seed they cover the text only. The numbers of this "
        "page, and digests of runs and stores, are in results.json."
    )
    trainings = [c.training for c in result.comparisons if c.training is not None]
    text = " ".join([text, *dict.fromkeys(training.text_note for training in trainings)])
    return [text, to_repeat("lmlab study arrow", config)]
