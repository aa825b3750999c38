"""The page of `lmlab geometry`, from its `results.json` alone (so it can be drawn again).

Every figure stands under its finding in words. Layers are numbered as they are computed: 0 is what
the first block reads, the last is what the head reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmlab.numerics.frequency import UNSEEN, decile_name
from lmlab.numerics.geometry import Cloud
from lmlab.pages.figures import Series, line_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import fixed, number
from lmlab.pages.wording import amount_of_text, bounds_text, capital, signed
from lmlab.topics.geometry.geometry import Geometry, Norms


def report(result: Geometry) -> Report:
    """Title, findings and sections of the page."""
    clouds, norms, losses = tables(result)
    return Report(
        f"Geometry of {result.model}",
        summary(result),
        [
            Section("Directions", [_READING], figures=_layer_figures(result), tables=[clouds]),
            Section("Norm and frequency", figures=_norm_figures(result), tables=[norms]),
            Section("Loss and frequency", figures=_loss_figures(result), tables=[losses]),
            Section("Methods", [_methods(result)]),
        ],
    )


def summary(result: Geometry) -> str:
    """The findings in a few sentences."""
    final = _named(result)[-1][1]
    lines = [
        f"The states that the head reads fill {_rank(final)} of {final.dimensions} dimensions "
        f"(effective rank about their mean); their mean cosine is {_cosine(final)}.",
        f"{_embedding_name(result)}: effective rank {_rank(result.input_embedding)}, mean "
        f"cosine {_cosine(result.input_embedding)}; {_norm_finding(result.input_norms)}.",
        _loss_finding(result),
    ]
    if result.note:
        lines.append(f"Note: {result.note}.")
    return "\n\n".join(lines)


def tables(result: Geometry) -> tuple[Table, Table, Table]:
    """Clouds of vectors, norms by frequency, loss by frequency."""
    return _cloud_table(result), _norm_table(result), _loss_table(result)


_READING = (
    "Mean cosine is over all pairs of different rows: near 0 they point everywhere, near 1 all one "
    "way. Effective rank is exp of the entropy of the shares that singular values have of their "
    "sum: as many directions as would fill the space evenly (Roy and Vetterli 2007). About zero, "
    "an offset that all rows share is a direction of its own; about the mean, it is taken out."
)


def _embedding_name(result: Geometry) -> str:
    return "Input embedding" + (", which is also the output embedding" if result.tied else "")


def _named(result: Geometry) -> list[tuple[str, Cloud]]:
    """The layers with their names, in order; the embedding itself is another row of the table."""
    return [
        ("input of block 1" if name == "embeddings" else name, cloud)
        for name, cloud in result.layers.items()
    ]


def _rank(cloud: Cloud) -> str:
    return fixed(cloud.centred.effective_rank, 1)


def _cosine(cloud: Cloud) -> str:
    return fixed(cloud.mean_cosine, 3)


def _cloud_table(result: Geometry) -> Table:
    clouds = [("input embedding", result.input_embedding)]
    if result.output_embedding is not None and not result.tied:
        clouds.append(("output embedding", result.output_embedding))
    elif result.tied:
        clouds[0] = ("embedding, input and output", result.input_embedding)
    clouds += _named(result)
    return Table(
        ["vectors", "mean cosine", "effective rank, about zero", "effective rank, about the mean",
         "normalised entropy, about the mean", "participation ratio", "mean norm"],
        [
            [
                name,
                _cell(c.mean_cosine),
                _cell(c.uncentred.effective_rank),
                _cell(c.centred.effective_rank),
                _cell(c.centred.normalised_entropy),
                _cell(c.participation_ratio),
                c.mean_norm,
            ]
            for name, c in clouds
        ],
        f"Embeddings ({result.input_embedding.rows:,} tokens of the vocabulary) and hidden "
        f"states ({clouds[-1][1].rows:,} tokens of text).",
    )  # fmt: skip


def _cell(value: float | None) -> float | str:
    return "none" if value is None else value


def _layer_figures(result: Geometry) -> list[Figure]:
    layers = _named(result)
    if len(layers) < 2:
        return []  # a model that gives no states of its layers
    names, clouds = zip(*layers, strict=True)
    where = (
        f"0: {names[0]}; {len(names) - 1}: {names[-1]}, what the head reads; between them "
        "the output of each block."
    )
    rank_curves = {
        "about the mean": [cloud.centred.effective_rank for cloud in clouds],
        "about zero": [cloud.uncentred.effective_rank for cloud in clouds],
    }
    figures: list[Figure] = []
    for what, digits, curves, y_label, alt, caption in (
        ("The effective rank about the mean", 1, rank_curves, "effective rank",
         "Effective rank of the hidden states of each layer, centred and uncentred.",
         f"{where} The most there could be: {clouds[-1].dimensions:,}."),
        ("The mean cosine", 3, {"": [cloud.mean_cosine for cloud in clouds]},
         "mean cosine of two states", "Mean cosine of the hidden states of each layer.", where),
    ):  # fmt: skip
        series = [
            Series(label, *zip(*points, strict=True), colour=colour)
            for colour, (label, values) in enumerate(curves.items())
            if (points := [(i, v) for i, v in enumerate(values) if v is not None])
        ]
        if series:
            figures.append(
                line_plot(
                    series,
                    x_label="layer, in the order of computation",
                    y_label=y_label,
                    finding=_course(what, names, next(iter(curves.values())), digits),
                    alt=alt,
                    caption=caption,
                )
            )
    return figures


def _course(what: str, names: Sequence[str], values: Sequence[float | None], digits: int) -> str:
    """Where it is lowest and highest, and where it ends."""
    known = [(v, name) for name, v in zip(names, values, strict=True) if v is not None]
    (low, lowest), (high, highest) = min(known), max(known)
    return (
        f"{what} is lowest at {lowest} ({fixed(low, digits)}), highest at {highest} "
        f"({fixed(high, digits)}), and {fixed(known[-1][0], digits)} where the head reads."
    )


def _norm_finding(norms: Norms) -> str:
    rho = norms.spearman
    if rho is None:
        return "norms have no order by frequency"
    way = "larger" if rho > 0 else "smaller"
    how = f"rank correlation {signed(rho, 2)} over {norms.types:,} tokens"
    if abs(rho) < 0.1:
        return f"norms hardly go with frequency ({how})"
    return f"frequent tokens tend to have {way} norms ({how})"


def _norm_parts(result: Geometry) -> list[tuple[str, Norms]]:
    if result.tied:
        return [("embedding", result.input_norms)]
    parts = [("input embedding", result.input_norms)]
    if result.output_norms is not None:
        parts.append(("output embedding", result.output_norms))
    return parts


def _norm_figures(result: Geometry) -> list[Figure]:
    parts = _norm_parts(result)
    series, unseen = [], []
    for colour, (name, norms) in enumerate(parts):
        of_this = f"{name}, " if len(parts) > 1 else ""
        seen = [b for b in norms.bins if b.bin > 0]
        unseen += [(f"{of_this}tokens {UNSEEN}", b.mean_norm) for b in norms.bins if b.bin == 0]
        if seen:
            series.append(
                Series(
                    name if len(parts) > 1 else "",
                    [b.bin for b in seen],
                    [b.mean_norm for b in seen],
                    [b.quartiles[0] for b in seen],
                    [b.quartiles[1] for b in seen],
                    colour=colour,
                )
            )
    if not series:
        return []
    finding = "; ".join(f"{name}: {_norm_finding(norms)}" for name, norms in parts)
    figure = line_plot(
        series,
        x_label="tenth of the vocabulary by frequency (1 rarest, 10 most frequent)",
        y_label="norm of the embedding",
        finding=f"{capital(finding)}.",
        alt="Mean norm of embeddings in each tenth of the vocabulary, sorted by frequency.",
        caption="Lines: means. Bands: the middle half of the tokens. Each tenth has as many tokens "
        "of the vocabulary; counts are of the training split.",
        horizontal=unseen,
    )
    return [figure]


def _norm_table(result: Geometry) -> Table:
    parts = _norm_parts(result)
    rows: list[list[str | float | int]] = [
        [
            decile_name(b.bin) if len(parts) == 1 else f"{name}, {decile_name(b.bin)}",
            b.types,
            f"{b.lowest_count:,}–{b.highest_count:,}",
            b.mean_norm,
            "–".join(number(q, 3) for q in b.quartiles),
        ]
        for name, norms in parts
        for b in norms.bins
    ]
    return Table(
        ["tenth of the vocabulary", "tokens of the vocabulary", "count in training",
         "mean norm", "middle half"],
        rows,
        "Norms of embeddings by tenths of the tokens that occur in the training split.",
    )  # fmt: skip


def _loss_finding(result: Geometry) -> str:
    seen = [b for b in result.loss_bins if b.bin > 0]
    loss = f"The loss is {result.loss.estimate:.3f} nats per token"
    if len(seen) < 2:
        return f"{loss}."
    rare, frequent = (b.loss.estimate for b in (seen[0], seen[-1]))
    return (
        f"{loss}: {frequent:.2f} for tokens of the most frequent tenth of the text, {rare:.2f} for "
        "those of the rarest."
    )


def _loss_figures(result: Geometry) -> list[Figure]:
    seen = [b for b in result.loss_bins if b.bin > 0]
    if not seen:
        return []
    # one curve needs no legend
    series = Series.of("", [b.bin for b in seen], [b.loss for b in seen])
    band = (
        "Band: 95 % intervals over text, one model; for each tenth alone."
        if series.low is not None
        else "No band: some tenths have too few clusters of text for an interval."
    )
    figure = line_plot(
        [series],
        x_label="tenth of the text by frequency of the token (1 rarest, 10 most frequent)",
        y_label="loss, nats per token",
        finding=_loss_finding(result),
        alt="Loss of the tokens in each tenth of the text, sorted by frequency.",
        caption=f"Each tenth holds about a tenth of the training text's tokens: the most "
        f"frequent has {seen[-1].types:,} of the vocabulary, the rarest {seen[0].types:,}. "
        f"{band}",
        horizontal=[("all tokens", result.loss.estimate)],
    )
    return [figure]


def _loss_table(result: Geometry) -> Table:
    rows: list[list[str | float | int]] = [
        [
            decile_name(b.bin),
            b.types,
            f"{100 * b.share_of_training_text:.1f} %",
            b.tokens,
            f"{b.loss.estimate:.4f}",
            bounds_text(b.loss.bounds, "{:.4f}".format),
        ]
        for b in result.loss_bins
    ]
    whole = result.loss
    interval = bounds_text(whole.bounds, "{:.4f}".format)
    rows.append(["all", "–", "–", result.tokens, f"{whole.estimate:.4f}", interval])
    return Table(
        ["tenth of the text", "tokens of the vocabulary", "share of training text",
         "tokens evaluated", "nats per token", "95 % interval, text only"],
        rows,
        "Loss by tenths of the occurrences in the training split: about a tenth of the text each.",
    )  # fmt: skip


def _methods(result: Geometry) -> str:
    layers = _named(result)
    few = (
        " This model gives no states of its layers, only those that the head reads."
        if len(layers) < 2
        else ""
    )
    over = amount_of_text(result.documents, result.cluster_unit, result.clusters)
    return (
        f"Model {result.model} (objective {result.objective}, order {result.order}), "
        f"in float32. Hidden states and losses: {result.windows:,} windows of up to "
        f"{result.context} tokens of the {result.split} split of {result.store}, a "
        f"random sample where the split has more; {result.tokens:,} tokens scored "
        f"({result.conditions}). States are read at {layers[-1][1].rows:,} tokens of text, "
        "with nothing masked; padding and the special tokens around a window are left out."
        f"{few} Embeddings: one row for each token of the tokenizer. Frequencies are counts in the "
        "training split, tokens between documents not counted; special tokens have no part in the "
        "norms by frequency. Tokens of equal count go by their id. Singular values are of the "
        "matrix of all rows; normalised entropy is their entropy over the log of the number of "
        "dimensions; participation ratio is (sum λ)² / sum λ² of the eigenvalues λ of the "
        f"covariance. Intervals are over text, not over seeds: {over}; ratio of sums, Student t."
    )
