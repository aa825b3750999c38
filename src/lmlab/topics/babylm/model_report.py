"""The page of one model on the tasks of BabyLM: scores beside chance and the baselines, learning
curves, and every set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lmlab.pages.figures import ForestRow, Points, Series, forest_plot, line_plot, scatter_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import fixed
from lmlab.pages.wording import bounds_text, capital, with_interval
from lmlab.topics.babylm.model_score import SuiteScore, headline
from lmlab.topics.babylm.reading import Gain
from lmlab.topics.scoring.zero_shot import Estimate, TaskScore

BASELINES = {
    "blimp": (74.5, 65.1), "supplement": (65.0, 57.3), "comps": (55.9, 51.8),
    "entity_tracking": (23.6, 21.1), "wug_adj": (62.0, 56.0), "wug_past": (19.0, 16.0),
}  # fmt: skip
"""GPT-2 of the shared task of 2026, single runs: strict, strict-small; per cent, of word forms 100
times the correlation."""
_BOTH = ("GPT-2 baseline, strict", "GPT-2 baseline, strict-small")


def report(result: SuiteScore) -> Report:
    """Title, findings, all tasks in one figure, and a section a task."""
    sections = [Section("All tasks", figures=[_figure(result)], tables=[scores_table(result)])]
    if result.course:
        sections.append(Section("Over training", figures=_curves(result)))
    sections += [_section(task) for task in result.tasks]
    if result.reading is not None:
        sections.append(Section("Reading times", _reading_texts(result)))
    if result.acquisition is not None:
        sections.append(_acquisition(result))
    return Report(
        f"BabyLM's tasks: {result.model}", _summary(result),
        [*sections, Section("Methods", [_METHODS])],
    )  # fmt: skip


def tables(result: SuiteScore) -> list[Table]:
    """All tasks; then the sets of each."""
    return [scores_table(result), *(_sets(task) for task in result.tasks if "uid" in task.parts)]


def _hundred(value: float) -> str:
    return fixed(100 * value, 1)


def scores_table(result: SuiteScore) -> Table:
    """A row for each task; reading times and ages too."""
    rows: list[list[str | float | int]] = []
    for task in result.tasks:
        estimate = headline(task)
        strict, small = BASELINES.get(task.task, (None, None))
        rows.append([
            task.task, "accuracy, %" if "accuracy" in task.metrics else "Spearman x 100",
            _hundred(estimate.value), bounds_text(estimate.interval, _hundred),
            "" if task.chance is None else _hundred(task.chance),
            "" if task.ties is None else task.ties, estimate.items,
            fixed(strict, 1, ""), fixed(small, 1, ""),
        ])  # fmt: skip
    if result.reading is not None:
        for name, gain in _gains(result):
            interval = gain.official.interval
            rows.append([
                name, "gain in R2, %", fixed(100 * interval.estimate, 2),
                bounds_text(interval.bounds, lambda v: fixed(100 * v, 2)),
                fixed(100 * gain.noise, 2), "", gain.words, "", "",
            ])  # fmt: skip
    if result.acquisition is not None and (r := result.acquisition.correlation):
        rows.append([
            "acquisition", "correlation", fixed(r.estimate, 3),
            bounds_text(r.bounds, lambda v: fixed(v, 3)), "0", "", result.acquisition.fitted,
            "", "",
        ])  # fmt: skip
    return Table(
        ["task", "metric", "score", "95 % interval", "chance", "ties", "items",
         "GPT-2, strict", "GPT-2, strict-small"],
        rows,
        f"Scores of {result.model}, this one model. The baselines are single runs of the shared "
        "task, without intervals, on its data.",
    )  # fmt: skip


def _gains(result: SuiteScore) -> list[tuple[str, Gain]]:
    assert result.reading is not None
    return [
        ("reading, eye tracking", result.reading.eye_tracking),
        ("reading, self-paced", result.reading.self_paced),
    ]


def _summary(result: SuiteScore) -> str:
    seen = "" if result.words is None else f", after {result.words:,} words seen"
    lines = [f"{result.model} ({result.order}, head {result.head}){seen}."]
    for task in result.tasks:
        estimate = headline(task)
        chance = f", {_against(estimate, task.chance)}" if task.chance is not None else ""
        ties = f"; {task.ties:,} ties, which count a share" if task.ties else ""
        lines.append(
            f"{task.task}: {_hundred(estimate.value)} "
            f"{bounds_text(estimate.interval, _hundred)}{chance}{ties}."
        )
    if result.reading is not None:
        lines += _reading_texts(result)
    if result.acquisition is not None:
        lines.append(_ages_finding(result))
    if result.missing:
        lines.append(f"Not measured: {'; '.join(result.missing)}.")
    if result.fast:
        lines.append("A sample of each set was asked (fast), not all items.")
    return "\n\n".join(lines)


def _against(estimate: Estimate, chance: float) -> str:
    low, high = estimate.interval or (-1.0, 1.0)
    where = "above" if low > chance else "below" if high < chance else "not told from"
    return f"{where} chance ({_hundred(chance)})"


def _figure(result: SuiteScore) -> Figure:
    rows: list[ForestRow] = []
    for task in result.tasks:
        estimate = headline(task)
        low, high = ([None, None] if estimate.interval is None
                     else [100 * end for end in estimate.interval])  # fmt: skip
        rows.append(ForestRow("this model", 100 * estimate.value, low, high, group=task.task))
        if task.chance is not None:
            rows.append(ForestRow("chance", 100 * task.chance, None, None, group=task.task))
        for name, value in zip(_BOTH, BASELINES.get(task.task, ()), strict=False):
            rows.append(ForestRow(name, value, None, None, group=task.task))
    if not rows:
        rows = [ForestRow("no zero-shot task", 0.0, None, None)]
    apart = [
        task for task in result.tasks
        if task.chance is not None and (e := headline(task)).interval is not None
        and e.interval[0] > task.chance
    ]  # fmt: skip
    return forest_plot(
        rows,
        x_label="accuracy, %; of word forms 100 times Spearman's correlation",
        finding=f"Above chance: {len(apart)} of {len(result.tasks)} tasks.",
        alt="The score on each task with its interval, chance, and the baselines.",
        caption="95 % intervals over sets, clusters or items, for this one model: another seed "
        "would differ by more. Hollow: chance, and single runs of the shared task.",
        reference=None,
    )


def _curves(result: SuiteScore) -> list[Figure]:
    names = list(dict.fromkeys(point.task for point in result.course))
    figures: list[Figure] = []
    for start in range(0, len(names), 4):
        series: list[Series] = []
        for number, name in enumerate(names[start : start + 4]):
            points = [p for p in result.course if p.task == name]
            ends = [p.value.interval for p in points]
            known = [end for end in ends if end is not None]
            low, high = (
                ([100 * end[0] for end in known], [100 * end[1] for end in known])
                if len(known) == len(points) else (None, None)
            )  # fmt: skip
            series.append(
                Series(name, [p.words for p in points], [100 * p.value.value for p in points],
                       low, high, colour=number)
            )  # fmt: skip
        told = ", ".join(f"{s.label} from {fixed(s.y[0], 1)} to {fixed(s.y[-1], 1)}"
                         for s in series)  # fmt: skip
        figures.append(
            line_plot(
                series, x_label="words seen, repeats counted", y_label="score, %", log_x=True,
                finding=f"Over training: {told}.",
                alt="Scores on samples of the tasks against words seen.",
                caption="A fixed sample of each set at every checkpoint; bands: 95 % intervals.",
            )
        )  # fmt: skip
    return figures


def _section(task: TaskScore) -> Section:
    texts = [f"{capital(note)}." for note in task.notes]
    if task.truncated:
        texts.append(f"{task.truncated:,} contexts were cut to fit the model.")
    if "uid" not in task.parts:
        return Section(task.task, texts)
    return Section(task.task, texts, figures=[_sets_figure(task)], tables=[_sets(task)])


def _sets_figure(task: TaskScore) -> Figure:
    """The sets of a task, easiest first."""
    sets = sorted(
        ((name, next(iter(metrics.values()))) for name, metrics in task.parts["uid"].items()),
        key=lambda each: -each[1].value,
    )
    rows: list[ForestRow] = []
    for name, estimate in sets:
        low, high = estimate.interval or (None, None)
        low, high = (None, None) if low is None or high is None else (100 * low, 100 * high)
        rows.append(ForestRow(name, 100 * estimate.value, low, high))
    chance = task.chance or 0.0
    above = sum(row.low is not None and row.low > 100 * chance for row in rows)
    below = sum(row.high is not None and row.high < 100 * chance for row in rows)
    return forest_plot(
        rows,
        x_label="score, %",
        finding=f"Of {len(rows)} sets of {task.task} {above} are above chance and {below} below.",
        alt="The score on each set with its interval; the line is chance.",
        caption="95 % intervals over the items of a set, which are often from one template, each "
        "for its row alone. The line is chance.",
        reference=100 * chance,
    )


def _sets(task: TaskScore) -> Table:
    rows: list[list[str | float | int]] = []
    for kind in ("field", "uid"):
        for name, metrics in task.parts.get(kind, {}).items():
            for estimate in metrics.values():
                rows.append([
                    name, "set" if kind == "uid" else "part", _hundred(estimate.value),
                    bounds_text(estimate.interval, _hundred), estimate.items,
                ])  # fmt: skip
    return Table(
        ["name", "what", "score, %", "95 % interval", "items"], rows, f"Parts of {task.task}."
    )


def _reading_texts(result: SuiteScore) -> list[str]:
    texts: list[str] = []
    for name, gain in _gains(result):
        two = [
            with_interval(figure.interval, lambda v: fixed(100 * v, 2), " %")
            for figure in (gain.official, gain.held_out)
        ]
        texts.append(
            f"{capital(name)}: surprisal takes away {two[0]} of the squared error that word "
            f"frequency, length and place leave (noise takes {fixed(100 * gain.noise, 2)} %); each "
            f"sentence predicted by the fit to all others, {two[1]}. Take care: where words end in "
            f"a mark explains as much (docs/babylm.md). {gain.words:,} words"
            + (f", {gain.left_out:,} left out for lack of a value." if gain.left_out else ".")
        )
    return texts


def _ages_finding(result: SuiteScore) -> str:
    ages = result.acquisition
    assert ages is not None
    if ages.correlation is None:
        return f"Ages of acquisition: {ages.fitted} words have one, too few for a correlation."
    r = with_interval(ages.correlation, lambda v: fixed(v, 2))
    return (
        f"Ages of acquisition: over {ages.fitted} words the correlation with the ages of children "
        f"is {r}."
    )


def _acquisition(result: SuiteScore) -> Section:
    ages = result.acquisition
    assert ages is not None
    both = [
        (10**x, y, word)
        for x, y, word in zip(
            ages.log10_seen_W.tolist(), ages.months_W.tolist(), ages.words, strict=True
        )
        if math.isfinite(x) and math.isfinite(y)
    ]
    figures = [_ages_figure(result, both)] if both else []
    lost = [f"{reason}: {_listed(words)}" for reason, words in ages.unfitted.items()]
    texts = [f"Without an age: {'; '.join(lost)}."] if lost else []
    return Section("Ages of acquisition", texts, figures=figures)


def _listed(words: Sequence[str]) -> str:
    shown = ", ".join(words[:6])
    return f"{len(words)} ({shown}{', ...' if len(words) > 6 else ''})"


def _ages_figure(result: SuiteScore, both: Sequence[tuple[float, float, str]]) -> Figure:
    x, y, names = zip(*both, strict=True)
    return scatter_plot(
        [Points("words", x, y, names=names)],
        x_label="words seen when the model learns the word", y_label="age of children, months",
        log_x=True, finding=_ages_finding(result),
        alt="Age of each word in training against that of children.",
        caption="The model's age: where its surprisal has fallen half-way from chance to its "
        "lowest. The child's: where half of the children say it.",
    )  # fmt: skip


_METHODS = (
    "Scores as in docs/evaluation.md: whole sentences, continuations and contexts by "
    "log-likelihood (masked models by pseudo-log-likelihood), the mean over items of a set and "
    "then over sets. A tie counts 1/n here; the official script gives it to the first option, "
    "which is the right one in every file. Intervals of accuracies are Wilson's with the "
    "effective number of answers, over sets, clusters or items, for this one model. To say that "
    "one recipe is better than another takes several seeds of each: lmlab study babylm."
)
