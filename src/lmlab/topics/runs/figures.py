"""The figures of a training run's page."""

from __future__ import annotations

from collections.abc import Sequence

from lmlab.pages.figures import Series, line_plot
from lmlab.pages.page import Figure
from lmlab.topics.runs.tables import NATS
from lmlab.topics.runs.training_run import TrainingRun


def loss_figure(result: TrainingRun) -> Figure:
    series = [_series(result, "training", 0)]
    ends = f"After {result.step:,} steps the training loss is {result.loss_P[-1]:.3f}"
    if (validated := result.validations.get(NATS)) is not None and len(validated):
        steps = result.validation_step_E.tolist()
        series.append(Series("validation", steps, list(validated), colour=1))
        ends += f", validation {validated[-1]:.3f}"
    return line_plot(
        series,
        x_label="step",
        y_label="loss, nats per target",
        finding=f"{ends}.",
        alt="Training loss and validation loss by step.",
        caption="Each point of the training loss is a mean over the steps before it.",
    )


def _series(result: TrainingRun, label: str, colour: int) -> Series:
    return Series(label, result.step_P.tolist(), result.loss_P.tolist(), colour=colour)


def losses_figure(runs: Sequence[TrainingRun]) -> Figure:
    """The curves of several runs."""
    return line_plot(
        [_series(run, run.name, i % 6) for i, run in enumerate(runs)],
        x_label="step",
        y_label="training loss, nats per target",
        finding=f"{len(runs)} runs so far.",
        alt="Training loss by step, a curve a run.",
    )


def course_figures(result: TrainingRun) -> list[Figure]:
    """Learning rate, gradient norm and speed."""
    steps = result.step_P.tolist()
    figures = [
        line_plot(
            [Series("learning rate", steps, result.learning_rate_P.tolist())],
            x_label="step", y_label="learning rate", from_zero=True,
            finding=f"The learning rate goes to {result.learning_rate_P[-1]:.3g}.",
            alt="Learning rate by step.",
        ),
        line_plot(
            [Series("gradient norm", steps, result.gradient_norm_P.tolist())],
            x_label="step", y_label="norm of the gradient, before clipping", from_zero=True,
            finding=f"The norm of the gradient is {result.gradient_norm_P[-1]:.3g} at the end.",
            alt="Norm of the gradient by step.",
        ),
    ]  # fmt: skip
    if timed := result.timed_step_M.tolist():
        figures.append(
            line_plot(
                [Series("speed", timed, result.tokens_per_second_M.tolist())],
                x_label="step", y_label="tokens per second", from_zero=True,
                finding=f"{result.tokens_per_second_M[-1]:,.0f} tokens per second at the end.",
                alt="Tokens per second by step.",
                caption="Targets by the clock, validation and saving included.",
            )
        )  # fmt: skip
    return figures
