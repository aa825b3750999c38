"""The page of a BabyLM study: which recipe learnt more, task by task, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lmlab.numerics.random_effects import Interval
from lmlab.numerics.verdicts import Evidence, power_words, verdict
from lmlab.pages.figures import ForestRow, Series, forest_plot, line_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import fixed, number
from lmlab.pages.wording import bounds_text, capital, signed, with_interval
from lmlab.studies.provenance import to_repeat
from lmlab.studies.rates_report import rates_section
from lmlab.topics.babylm.comparison import About, BabyLMStudy, RecipeScore, TaskComparison
from lmlab.topics.counting.baseline import AgainstCounting
from lmlab.topics.counting.words import counting_section, counting_tables, worse_words


def report(result: BabyLMStudy) -> Report:
    """Title, the findings against the reference, and a section a task. Recipes whose models are
    worse than counting come first of all."""
    sections = [_overview(result), *(_section(result, task) for task in result.tasks)]
    return Report(
        f"What recipes learn from the same words: {result.corpus}",
        "\n\n".join(_findings(result)),
        [
            *sections,
            *counting_section(_counted(result), both_ways=_some_read_both_ways(result)),
            Section("Runs", tables=[runs_table(result)]),
            *rates_section(result.config, result.rates),
            _methods(result),
        ],
    )


def tables(result: BabyLMStudy) -> list[Table]:
    """Every recipe on every task; then models against counting, and the runs."""
    return [
        scores_table(result),
        noise_table(result),
        *counting_tables(_counted(result)),
        runs_table(result),
    ]


def _counted(result: BabyLMStudy) -> dict[str, AgainstCounting | None]:
    return {"": result.counting}


def _some_read_both_ways(result: BabyLMStudy) -> bool:
    """Whether it was counted, and recipes are left out of that."""
    return result.counting is not None and len(result.counting.above) < len(result.recipes)


def noise_table(result: BabyLMStudy) -> Table:
    """What each difference's noise is made of."""
    rows: list[list[str | float | int]] = []
    for task in result.tasks:
        scale = 100.0 if task.about.percent else 1.0
        for score in task.scores:
            if (parts := score.components) is not None:
                deviations = [parts.seed or 0.0, parts.section, parts.residual]
                rows.append(
                    [
                        task.about.task, score.recipe,
                        *(fixed(scale * v**0.5, 2 if task.about.percent else 3)
                          for v in deviations),
                        f"{task.units} {task.about.unit}",
                    ]
                )  # fmt: skip
    return Table(
        ["task", "recipe", "between seeds", "between units", "seed and unit", "units"],
        rows,
        "Standard deviations of the difference from the reference, in points or as the score: of "
        "the seeds of both recipes, of the units beyond them, and of seed and unit together.",
    )


def scores_table(result: BabyLMStudy) -> Table:
    """A row for each task and recipe."""
    rows: list[list[str | float | int]] = []
    for task in result.tasks:
        show, sign = _show(task.about), _sign(task.about)
        for score in task.scores:
            difference = score.difference
            rows.append(
                [
                    task.about.task, f"{task.about.metric}{', %' * task.about.percent}",
                    score.recipe,
                    with_interval(score.value, show),
                    ", ".join(map(show, score.by_seed)),
                    "" if difference is None else
                    f"{sign(difference.estimate)} {bounds_text(difference.bounds, sign)}",
                    "" if score.p is None else number(score.p, 2),
                ]
            )  # fmt: skip
    return Table(
        ["task", "metric", "recipe", "score, 95 % interval", "by seed",
         f"less {result.reference}, 95 % interval", "p"],
        rows,
        "Scores over seeds and units; differences from the reference, with Holm's p-values over "
        "all of them.",
    )  # fmt: skip


def runs_table(result: BabyLMStudy) -> Table:
    """A row for each recipe."""
    return Table(
        ["recipe", "model", "objective", "optimizer", "weights", "validation nats by seed", "runs"],
        [
            [r.recipe, r.model, r.objective, r.optimizer, r.weights,
             ", ".join(f"{nats:.3f}" for nats in r.validation), ", ".join(r.runs)]
            for r in result.recipes
        ],
        "The runs. Nats per token of masked models are no joint, and are not to be compared with "
        "those of others.",
    )  # fmt: skip


def _show(about: About) -> Callable[[float], str]:
    return (lambda v: fixed(100 * v, 1)) if about.percent else (lambda v: fixed(v, 3))


def _sign(about: About) -> Callable[[float], str]:
    return (lambda v: signed(100 * v, 1)) if about.percent else (lambda v: signed(v, 3))


def _findings(result: BabyLMStudy) -> list[str]:
    words = "" if result.words is None else f" of {result.words:,} words"
    first = (
        f"{len(result.recipes)} recipes, {_seeds(result)} each, {result.passes:.1f} passes over a "
        f"text{words} ({result.tokens:,} tokens a run). {capital(result.reference)} is the "
        "reference. What is said holds for these sizes and this text."
    )
    worse = worse_words(_counted(result))
    every = [*[worse] * bool(worse), first, *(_finding(result, task) for task in result.tasks)]
    if result.missing:
        every.append(f"Not measured: {'; '.join(result.missing)}.")
    return every


def _seeds(result: BabyLMStudy) -> str:
    count = result.config.seeds
    return "one seed" if count == 1 else f"{count} seeds"


def _finding(result: BabyLMStudy, task: TaskComparison) -> str:
    about, show = task.about, _show(task.about)
    unit = " %" if about.percent else ""
    reference = task.of(result.reference)
    text = (
        f"{about.task}, {about.metric}: {result.reference} "
        f"{with_interval(reference.value, show, unit)}"
    )
    if about.chance is not None:
        text += f" (chance {show(about.chance)}{unit})"
    return f"{text}; {'; '.join(_against(about, s) for s in task.scores if s.difference)}."


def _against(about: About, score: RecipeScore) -> str:
    assert score.difference is not None
    size = _show(about)
    points = " points" if about.percent else ""
    words = _verdict(score.difference, lambda v: f"{size(v)}{points}")
    sign = _sign(about)
    return (
        f"{score.recipe} {sign(score.difference.estimate)}{points} "
        f"{bounds_text(score.difference.bounds, sign)}: {words}"
    )


def _verdict(difference: Interval, size: Callable[[float], str]) -> str:
    return verdict(
        Evidence.of(difference),
        above="better", below="worse", seen=("a higher score", "a lower score"), size=size,
        models="models",
    )  # fmt: skip


def _overview(result: BabyLMStudy) -> Section:
    """All differences of accuracies in one figure; then the table."""
    shares = [task for task in result.tasks if task.about.percent and len(task.scores) > 1]
    figures = [_differences(result, shares)] if shares else []
    return Section("All tasks", figures=figures, tables=[scores_table(result), noise_table(result)])


def _differences(result: BabyLMStudy, tasks: Sequence[TaskComparison]) -> Figure:
    rows = [
        ForestRow.of(score.recipe, score.difference, group=task.about.task, show=lambda v: 100 * v)
        for task in tasks
        for score in task.scores
        if score.difference is not None
    ]
    apart = sum(row.low is not None and row.high is not None and row.low * row.high > 0
                for row in rows)  # fmt: skip
    return forest_plot(
        rows,
        x_label=f"score less that of {result.reference}, points",
        finding=f"{apart} of {len(rows)} differences from {result.reference} are told from zero, "
        "each taken alone.",
        alt="Differences of each recipe from the reference, by task, with their intervals.",
        caption="95 % intervals over seeds of both recipes and units of the task, each for its row "
        "alone.",
    )


def _section(result: BabyLMStudy, task: TaskComparison) -> Section:
    about = task.about
    scale = 100.0 if about.percent else 1.0
    finding = _finding(result, task)
    figures = [
        forest_plot(
            [
                ForestRow.of(s.recipe, s.value, show=lambda v: scale * v, note=s.value.note)
                for s in task.scores
            ],
            x_label=f"{about.metric}{', %' * about.percent}",
            finding=finding,
            alt=f"The score of each recipe on {about.task}, with its interval.",
            caption=f"95 % intervals over seeds and {task.units:,} {about.unit}, each recipe alone."
            + ("" if about.chance is None else " The line is chance."),
            reference=None if about.chance is None else scale * about.chance,
        )
    ]
    if curve := _curve(result, task):
        figures.append(curve)
    texts = [f"{capital(note)}." for note in about.notes]
    for score in task.scores:
        if score.difference is not None and (
            seen := power_words(Evidence.of(score.difference), _with_points(about))
        ):
            texts.append(f"{score.recipe}: {seen}.")
    return Section(about.task, texts, figures=figures)


def _with_points(about: About) -> Callable[[float], str]:
    show = _show(about)
    return lambda v: f"{show(v)}{' points' * about.percent}"


def _curve(result: BabyLMStudy, task: TaskComparison) -> Figure | None:
    """The score against the words seen."""
    about = task.about
    scale = 100.0 if about.percent else 1.0
    series: list[Series] = []
    for number_, recipe in enumerate(r.recipe for r in result.recipes):
        points = [p for p in result.curves if (p.recipe, p.task) == (recipe, about.task)]
        if points:
            values = [_scaled(p.value, scale) for p in points]
            series.append(Series.of(recipe, [p.words for p in points], values, colour=number_))
    if not series:
        return None
    last = max(series, key=lambda s: s.y[-1])
    return line_plot(
        series,
        x_label="words seen, repeats counted",
        y_label=f"{about.metric}{', %' * about.percent}",
        log_x=True,
        finding=f"At the end {last.label} is highest on the sample of {about.task}, with "
        f"{fixed(last.y[-1], 1 if about.percent else 3)}{' %' * about.percent}.",
        alt=f"Score on {about.task} against words seen, a line a recipe.",
        caption="A fixed sample of the items at each checkpoint; bands: 95 % intervals over seeds "
        "and units.",
        horizontal=[] if about.chance is None else [("chance", scale * about.chance)],
    )


def _scaled(value: Interval, scale: float) -> Interval:
    bounds = (None, None) if value.bounds is None else tuple(scale * b for b in value.bounds)
    return replace(value, estimate=scale * value.estimate, low=bounds[0], high=bounds[1])


def _methods(result: BabyLMStudy) -> Section:
    text = (
        "Every recipe is trained on the same windows in the same number of steps, each seed with "
        "other initial weights and another order. Intervals: random effects over seeds and units "
        "(docs/notes-intervals.md); seeds of two recipes are no pairs, units are. Units are the "
        "sets of a task whose items come in sets, each weighing the same, else its items; the "
        "sentences of reading times and the words of ages of acquisition, by the score's "
        "jackknife. Accuracies have Wilson's interval, a tie counts 1/n. p-values are Holm's over "
        "all differences of the study. A benchmark is scored as it is: what other items would show "
        "is covered only as far as its units are a sample of them. How many seeds a difference "
        "takes: lmlab plan FOLDER --task TASK --effect POINTS."
    )
    return Section("Methods", [text, to_repeat("lmlab study babylm", result.config)])
