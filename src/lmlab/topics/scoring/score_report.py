"""The page of `lmlab score`: the loss with its interval, by position, by source and by document."""

from __future__ import annotations

import numpy as np

from lmlab.pages.figures import ForestRow, Series, forest_plot, line_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import Rounded
from lmlab.pages.wording import amount_of_text, bits_cell, capital, with_interval
from lmlab.topics.scoring.score import Score

_MOST_DOCUMENTS = 30  # of a forest plot; of more, those with the most tokens


def report(result: Score) -> Report:
    """Title, finding and sections of the page."""
    of_parts = [_parts_figure(result)] if result.sources is not None else []
    summary, *others = tables(result)
    return Report(
        f"Score of {result.model}",
        _finding(result),
        [
            Section("Loss", figures=[_position_figure(result), *of_parts], tables=[summary]),
            Section("Documents", figures=[_document_figure(result)], tables=others),
            Section("Methods", [_methods(result)]),
        ],
    )


def tables(result: Score) -> list[Table]:
    """The whole split and its sources; then every document."""
    rows = [
        _row("all", result),
        *(_row(name, part) for name, part in result.by_source()),
    ]
    columns = ["text", "nats per token", "low", "high", "bits per byte", "tokens", "documents"]
    documents = Table(
        ["document", "nats per token", "tokens"],
        [[name, Rounded(nats, 4), tokens] for name, nats, tokens in _documents(result)],
        "Loss of each document.",
    )
    return [
        Table(
            columns,
            rows,
            f"Loss on {result.split} of {result.store}, for this one model; low and high: 95 %.",
        ),
        documents,
    ]


def _row(name: str, score: Score) -> list[str | float | int]:
    interval = score.interval
    return [
        name,
        Rounded(score.nats_per_token, 5),
        *("none" if end is None else Rounded(end, 4) for end in (interval.low, interval.high)),
        bits_cell(score.bits_per_byte),
        score.tokens,
        score.clusters.documents,
    ]


def _finding(result: Score) -> str:
    bits = result.bits_per_byte
    bytes_too = "" if bits is None else f", {bits:.4f} bits per byte"
    interval = with_interval(result.interval, "{:.4f}".format, " nats per token")
    text = f"{result.model} ({result.order}) needs {interval}{bytes_too}."
    if result.interval.note:
        text += f" {capital(result.interval.note)}."
    return text if result.loss_note is None else f"{text}\n\nNote: {result.loss_note}."


def _position_figure(result: Score) -> Figure:
    edges = result.position_edges
    seen = ~np.isnan(result.nats_per_token_b)
    nats_b = result.nats_per_token_b[seen]
    middle_b = ((edges[:-1] + edges[1:] - 1) / 2 + 1)[seen]
    first, last = nats_b[0], nats_b[-1]
    return line_plot(
        [Series("", middle_b.tolist(), nats_b.tolist())],
        x_label="position in the window, in the order of reading",
        y_label="nats per token",
        finding=f"The loss goes from {first:.2f} nats at the first positions of a window to "
        f"{last:.2f} at the last ones.",
        alt="Loss by position in the window.",
        log_x=len(middle_b) > 2,
        horizontal=[("all positions", result.nats_per_token)],
    )


def _parts_figure(result: Score) -> Figure:
    parts = sorted(result.by_source(), key=lambda part: part[1].nats_per_token)
    return forest_plot(
        [ForestRow.of(name, part.interval) for name, part in parts],
        x_label="nats per token",
        finding=f"Of {len(parts)} sources {parts[0][0]} is the easiest, {parts[-1][0]} the "
        "hardest.",
        alt="Loss of each source.",
        reference=result.nats_per_token,
    )


def _documents(result: Score) -> list[tuple[str, float, int]]:
    """Name, nats per token and tokens of each document, the hardest first."""
    labels, number_M = np.unique(result.clusters.document_N, return_inverse=True)
    names = [result.document_names.get(label, f"document {label}") for label in labels]
    tokens_D = np.bincount(number_M, result.tokens_M)
    nats_D = np.bincount(number_M, result.nats_M) / tokens_D
    return [(names[d], float(nats_D[d]), int(tokens_D[d])) for d in np.argsort(-nats_D)]


def _document_figure(result: Score) -> Figure:
    documents = _documents(result)
    largest = sorted(documents, key=lambda row: -row[2])[:_MOST_DOCUMENTS]
    shown = [row for row in documents if row in largest]
    left_out = len(documents) - len(shown)
    (hardest, most, _), (easiest, least, _) = documents[0], documents[-1]
    finding = f"One document was scored: {most:.3f} nats per token."
    if len(documents) > 1:
        finding = (
            f"Documents differ by {most - least:.3f} nats per token: {hardest} is the hardest, "
            f"{easiest} the easiest."
        )
    return forest_plot(
        [ForestRow(name, nats, None, None) for name, nats, _ in shown],
        x_label="nats per token",
        finding=finding,
        alt="Loss of each document.",
        caption=f"The {len(shown)} with the most tokens; {left_out:,} more are in the table."
        if left_out
        else "",
        reference=result.nats_per_token,
    )


def _methods(result: Score) -> str:
    over = amount_of_text(result.clusters.documents, result.cluster_unit, result.clusters.clusters)
    return (
        f"{result.windows:,} windows of up to {result.context:,} tokens, {result.tokens:,} tokens "
        f"scored, each once. {capital(result.conditions)}. The interval "
        f"is over {over}. Bits per byte are total nats / ln 2 / UTF-8 bytes of the text."
    )
