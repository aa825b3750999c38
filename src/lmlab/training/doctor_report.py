"""The page of `lmlab doctor`: what a training run costs, and what speaks against it.

Shapes: T context, D width, V vocabulary, K targets of a micro-batch, U distinct ones.
"""

from __future__ import annotations

from lmlab.pages.figures import ForestRow, forest_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.progress import duration
from lmlab.training.doctor import Diagnosis
from lmlab.training.doctor_warnings import byte_size, short


def report(result: Diagnosis) -> Report:
    """Title, costs with their warnings, and where the FLOPs go."""
    config = result.config
    return Report(
        f"The cost of training {config.objective}",
        "\n\n".join([_finding(result), *(f"Warning: {text}" for text in result.warnings)]),
        [
            Section("Where the FLOPs go", figures=[_flops_figure(result)]),
            Section("Costs", tables=tables(result)),
            Section("Methods", [_METHODS]),
        ],
    )


_METHODS = (
    "FLOPs are those of matrix products, forward and backward, counted from shapes; attention is "
    "counted as all T x T. Seconds are the median of a few real steps. K targets of a micro-batch "
    "and U distinct ones among them are of the first micro-batches that training will see."
)


def _finding(result: Diagnosis) -> str:
    config = result.config
    length = f"{config.steps:,} steps, {result.tokens:,} tokens"
    if result.timing is None:
        return f"{length}: {short(result.tokens * result.flops.total)}FLOPs; not timed."
    return (
        f"{length} will take {_times(result.timing.seconds, config.steps)}, on this machine "
        f"({_where(result)}; evaluation and saving left out)."
    )


def _flops_figure(result: Diagnosis) -> Figure:
    """The parts of both forms side by side; where no headless form is, those of the one."""
    forms = {"cross-entropy": result.flops_cross_entropy, "headless": result.flops_headless}
    if result.other_form is None:
        forms = {"": result.flops}
    parts = "; ".join(
        f"{100 * flops.head_share:.1f} % of the FLOPs" + (f" of {name}" if name else "")
        for name, flops in forms.items()
    )
    return forest_plot(
        [
            ForestRow(part, getattr(flops, part), None, None, group=name)
            for name, flops in forms.items()
            for part in ("body", "attention", "head")
        ],
        x_label="FLOPs per token of training",
        finding=f"The head takes {parts}.",
        alt="FLOPs per token of the body, of attention and of the head, in each form.",
        caption="Forward and backward, counted from shapes; a headless head from U.",
    )


def tables(result: Diagnosis) -> list[Table]:
    """One table: a name and a text with its unit in each row."""
    caption = f"What training {result.config.objective} costs."
    return [Table(["quantity", "value"], _rows(result), caption)]


def _rows(result: Diagnosis) -> list[list[str]]:
    config, targets, timing, memory = result.config, result.targets, result.timing, result.memory
    p, flops = result.parameters, result.flops
    candidates = "U" if config.is_headless else "V"
    if config.headless.cross_entropy:
        candidates = "U + V"
    rows = [
        ["parameters", f"{p.total:,}: body {p.body:,}, embeddings {p.embeddings:,}, head {p.head:,}"
         + ("" if result.other_form is None else " (tied)")],
        ["FLOPs per token of training", f"{short(flops.total)}: body {short(flops.body)}, "
         f"attention {short(flops.attention)}{' (all T x T)' if flops.attention else ''}, "
         f"head {short(flops.head)} (D x {candidates})"],
        ["the head's share of them", f"{100 * flops.head_share:.1f} %"],
        ["K, targets of a micro-batch", f"{targets.per_micro_batch:,.0f} of {config.micro_batch:,} "
         "windows" + (f": 1 in {config.micro_batch:,} candidates of a row is of its own window"
         if config.is_headless and config.headless.candidates == "batch" else "")],
        ["U, distinct ones", f"{targets.distinct:,.0f} ± {targets.distinct_deviation:,.0f} in "
         f"{targets.micro_batches} micro-batches; {targets.distinct_if_independent:,.0f} expected "
         "of independent draws"],
        ["V, vocabulary", f"{targets.vocabulary:,}"],
        ["budget", f"{config.steps:,} steps, {result.tokens:,} tokens, {result.epochs:.2f} epochs"],
        ["weights, gradients, optimizer", " + ".join(
            byte_size(b) for b in (memory.weights, memory.gradients, memory.optimizer))
         + f" = {byte_size(memory.total)}"],
    ]  # fmt: skip
    if memory.available is not None:
        rows.append([f"available on {config.device}", byte_size(memory.available)])
    if timing is not None:
        if timing.peak_memory is not None:
            whole = " (whole process)" if config.device == "cpu" else ""
            rows.append(["peak memory", byte_size(timing.peak_memory) + whole])
        times = f"{_times(timing.seconds, config.steps)} ({_where(result)})"
        rows.append([f"time, {config.objective}", times])
        if result.other_form is not None and timing.other_seconds is not None:
            with_bias = " with prior bias" if config.is_headless else ""
            times = _times(timing.other_seconds, config.steps)
            rows.append([f"time, {result.other_form}{with_bias}", times])
    rows.append(["speed-up by headless, ideal", f"{result.ideal_speed_up:.2f} x (by FLOPs)"])
    if result.measured_speed_up is not None and timing is not None:
        measured = f"{result.measured_speed_up:.2f} x ({timing.rounds} rounds)"
        rows.append(["speed-up by headless, measured", measured])
    if result.not_timed is not None:
        rows.append(["not timed", result.not_timed])
    return rows


def _times(seconds: float, steps: int) -> str:
    return f"{duration(seconds * steps)}, {seconds:.4g} s a step"


def _where(result: Diagnosis) -> str:
    config = result.config
    threads = f", threads {config.threads}" if config.device == "cpu" else ""
    return f"{config.device}, {config.dtype}{threads}"
