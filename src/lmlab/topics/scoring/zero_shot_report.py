"""The page of `lmlab evaluate`: the scores of each task with their intervals, and chance."""

from __future__ import annotations

from collections.abc import Iterator

from lmlab.pages.figures import ForestRow, forest_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import number
from lmlab.pages.wording import bounds_text, capital
from lmlab.topics.scoring.zero_shot import Estimate, Evaluation, TaskScore

_BY = {"": "", "field": "by field", "group": "by group", "task": "by task", "uid": "by set"}
_COLUMNS = ("part", "metric", "value", "95 % interval", "items", "sets", "clusters", "ties")


def report(result: Evaluation) -> Report:
    """Title, findings and a section for each task."""
    return Report(
        f"Zero-shot tasks of {result.model}",
        "\n\n".join(" ".join([_finding(task), *_notes(task)]) for task in result.tasks),
        [*map(_section, result.tasks), Section("Methods", [_methods(result)])],
    )


def tables(result: Evaluation) -> list[Table]:
    """All scores but those of single sets; then the sets of each task that has them."""
    scores = Table(
        ["task", *_COLUMNS],
        [[task.task, *row] for task in result.tasks for row in _rows(task, "", *_BY_PART)],
        f"Scores of {result.model} ({result.order}, head {result.head}), for this one model.",
    )
    return [scores, *(_sets_table(task) for task in result.tasks if "uid" in task.parts)]


_BY_PART = ("field", "group", "task")


def _section(task: TaskScore) -> Section:
    asked = max((estimate.items for estimate in task.metrics.values()), default=0)
    texts = [f"{asked:,} of {task.available:,} items of {task.source}, by {task.method}."]
    scores = Table(_COLUMNS, _rows(task, "", *_BY_PART), f"Scores on {task.task}.")
    sets = [_sets_table(task)] if "uid" in task.parts else []
    return Section(
        task.task,
        texts + _notes(task),
        figures=[_figure(task)] if task.metrics else [],
        tables=[scores, *sets],
    )


def _estimates(task: TaskScore, *kinds: str) -> Iterator[tuple[str, str, str, Estimate]]:
    """Kind of part, part, metric and figure; the kind "" is the whole."""
    for kind in kinds:
        parts = task.parts.get(kind, {}) if kind else {"all": task.metrics}
        for part, metrics in parts.items():
            for metric, estimate in metrics.items():
                yield kind, part, metric.replace("_", " "), estimate


def _rows(task: TaskScore, *kinds: str) -> list[list[str | float | int]]:
    return [
        [
            part,
            metric,
            e.value,
            bounds_text(e.interval, number),
            e.items,
            e.sets or "",
            e.clusters or "",
            _ties(task) if not kind and metric in ("accuracy", "spearman") else "",
        ]
        for kind, part, metric, e in _estimates(task, *kinds)
    ]


def _ties(task: TaskScore) -> int | str:
    return "" if task.ties is None else task.ties


def _sets_table(task: TaskScore) -> Table:
    rows = sorted(_rows(task, "uid"), key=lambda row: row[2])
    columns = [column for column in _COLUMNS if column not in ("sets", "ties")]
    kept = [_COLUMNS.index(column) for column in columns]
    return Table(columns, [[row[n] for n in kept] for row in rows],
                 f"Sets of {task.task}, hardest first.")  # fmt: skip


def _finding(task: TaskScore) -> str:
    """The task's scores in a sentence, and how the accuracies stand to chance."""
    scores = [
        f"{m} {number(e.value)} {bounds_text(e.interval, number)}"
        for _, _, m, e in _estimates(task, "")
    ]
    text = f"{task.task}: {', '.join(scores) or 'no score'}"
    if task.chance is None:
        return f"{text}."
    where = {_against(e, task.chance) for e in task.metrics.values()}
    how = where.pop() if len(where) == 1 else "in some of these and not in others told from"
    return f"{text}; {how} chance ({number(task.chance)})."


def _against(estimate: Estimate, chance: float) -> str:
    low, high = estimate.interval or (0.0, 1.0)
    return "above" if low > chance else "below" if high < chance else "not told from"


def _notes(task: TaskScore) -> list[str]:
    cut = [f"{task.truncated:,} contexts were cut to fit the model"] if task.truncated else []
    ties = [] if not task.ties else [
        f"{task.ties:,} items are ties: several options are exactly as likely, and share the credit"
    ]  # fmt: skip
    return [f"{capital(note)}." for note in (*task.notes, *ties, *cut)]


def _figure(task: TaskScore) -> Figure:
    """Accuracies where the task has them; else perplexities, else what it has."""
    scales = [e.scale for e in task.metrics.values()]
    scale = min(scales, key=("share", "correlation", "positive", "any").index)
    shown = [row for row in _estimates(task, *_BY) if row[3].scale == scale]
    metrics = list(dict.fromkeys(metric for _, _, metric, _ in shown))
    several = len(metrics) > 1
    line = "" if task.chance is None else f" The line is chance, {number(task.chance)}."
    return forest_plot(
        [
            ForestRow(
                part,
                e.value,
                *(e.interval or (None, None)),
                group=", ".join(filter(None, [metric if several else "", _BY[kind]])),
            )
            for name in metrics
            for kind, part, metric, e in shown
            if metric == name
        ],
        x_label=", ".join(metrics),
        finding=_finding(task),
        alt=f"Scores on {task.task}, each with its interval.",
        caption="95 % intervals over items, or over their sets or clusters, each for its row "
        f"alone.{line}",
        reference=task.chance,
        log=scale == "positive",
    )


def _methods(result: Evaluation) -> str:
    return (
        f"{result.model} reads {result.order}; head: {result.head}. Nothing was trained. Intervals "
        "are Student's t at 95 %, for this one model: of an accuracy by Wilson's formula, of a "
        "perplexity on its log scale, of a rank correlation by Fisher's z. Choices that are "
        "exactly as likely as each other share the "
        "credit, so that a model that cannot tell them apart is at chance."
    )
