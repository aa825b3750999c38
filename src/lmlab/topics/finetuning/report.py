"""The page of `lmlab finetune`. Every figure stands under its finding in words."""

from __future__ import annotations

from lmlab.numerics.verdicts import Evidence, verdict
from lmlab.pages.figures import ForestRow, forest_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.wording import capital
from lmlab.studies.provenance import to_repeat
from lmlab.topics.finetuning.metrics import Finetuning, TaskResult
from lmlab.topics.finetuning.options import FinetuneConfig
from lmlab.topics.finetuning.tables import difference_text, metrics_table, range_text, seeds_table


def report(result: Finetuning) -> Report:
    """Title, findings and sections of the page: the headline metric of every model, in words, and
    a section for each task."""
    return Report(
        "Fine-tuned on labelled texts",
        "\n\n".join(_finding(task, task.metrics[0]) for task in result.tasks),
        [*map(_section, result.tasks), _methods(result.config)],
    )


def tables(result: Finetuning) -> list[Table]:
    """Every metric; then the seeds of each task."""
    return [metrics_table(result), *map(seeds_table, result.tasks)]


def _finding(task: TaskResult, name: str) -> str:
    first, *others = task.models
    metric = first.metrics[name]
    text = (
        f"{task.task}, {name}: {first.name} {metric.estimate:.3f} {range_text(metric)}; a guess "
        f"without reading has {task.baseline[name]:.3f}."
    )
    for model in others:
        assert model.difference is not None, "only the first model has none"
        difference = model.difference[name]
        words = verdict(
            Evidence.of(difference),
            above="better",
            below="worse",
            seen=("a higher value", "a lower value"),
            size=lambda value: f"{value:.4f}",
            models="classifiers",
        )
        text += (
            f" {model.name} {model.metrics[name].estimate:.3f}, {words} "
            f"({difference_text(difference)})."
        )
    return text


def _section(task: TaskResult) -> Section:
    texts = (
        f"{task.training_texts:,} texts to train on, {task.selection_texts:,} to choose the "
        f"checkpoint, {task.reported_texts:,} reported."
    )
    notes = [f"{capital(note)}." for note in task.notes]
    figures = [_figure(task, name) for name in task.metrics]
    return Section(task.task, [texts, *notes], figures=figures, tables=[seeds_table(task)])


def _figure(task: TaskResult, name: str) -> Figure:
    return forest_plot(
        [
            ForestRow.of(model.name, model.metrics[name], note=model.metrics[name].note)
            for model in task.models
        ],
        x_label=f"{name} on the reported texts",
        finding=_finding(task, name),
        alt=f"{name} of each model with its interval; the line is a guess without reading.",
        caption="Bars: 95 % intervals over seeds and texts, each model alone; differences above "
        "are paired. The line is a guess without reading: the commonest class, or the mean value.",
        reference=task.baseline[name],
    )


def _methods(config: FinetuneConfig) -> Section:
    balanced = ", class-balanced loss" if config.class_balanced else ""
    frozen = " The model itself stays as it is." if config.freeze_body else ""
    text = (
        f"Each model is fine-tuned with a fresh head, {config.seeds} seed(s), at most "
        f"{config.epochs:g} epochs of batches of {config.batch} texts, AdamW, learning rate "
        f"{config.learning_rate:g} (warm-up over 5 % of the steps, cosine to a tenth), weight "
        f"decay 0.01, gradient clipped at 1{balanced}.{frozen} The checkpoint is the best of "
        f"{config.validations} validations an epoch on the selection texts, by the first metric "
        f"and then by loss; training ends after {config.early_stopping} that were no better. "
        "Encoders are read at the first token, causal models at the last. Texts are cut to "
        f"{config.length} tokens. Intervals: two-way random effects over seeds and texts "
        "(jackknife pseudo-values where a metric is no mean), Student t. Seeds are of the head, "
        "the order of the texts and dropout; the pretrained weights are one draw."
    )
    repeat = to_repeat("lmlab finetune", config)
    return Section("Methods", [text, repeat])
