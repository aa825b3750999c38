"""The figures of the topic's pages, each under its finding in words.

Those of one model are the same on the page of its command and in the study's section.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.numerics.frequency import UNSEEN
from lmlab.pages.figures import Interval, Points, Series, forest_plot, line_plot, scatter_plot
from lmlab.pages.page import Figure
from lmlab.pages.wording import capital, percent
from lmlab.topics.encoding.encoding import Sparsity
from lmlab.topics.encoding.of_model import EncodingResult, TokenSample
from lmlab.topics.encoding.tables import captured_words, rotated_range, share

_GROUPS = (
    (UNSEEN, (0,)),
    ("rarest three tenths", (1, 2, 3)),
    ("middle four tenths", (4, 5, 6, 7)),
    ("most frequent three tenths", (8, 9, 10)),
)
EDITS = (("as predicted by the encoding", "minimum_norm", False),
          ("minimum norm, solved", "minimum_norm", True),
          ("least variance, solved", "whitened", True),
          ("logit bias (yardstick)", "bias", False))  # fmt: skip


def encoding_figures(label: str, result: EncodingResult) -> list[Figure]:
    """How a model's output embedding holds token probability."""
    return [
        _fit_figure(label, result),
        *_error_figure(result),
        _map_figure(result),
        _sparsity_figure(result.sparsity),
    ]


def _groups(sample: TokenSample, x_N: np.ndarray, y_N: np.ndarray) -> list[Points]:
    """The tokens as points, coloured by frequency."""
    inside = [np.isin(sample.tenth_N, tenths) for _, tenths in _GROUPS]
    return [
        Points(name, x_N[here].tolist(), y_N[here].tolist(), colour=colour)
        for colour, ((name, _), here) in enumerate(zip(_GROUPS, inside, strict=True))
        if here.any()
    ]


def _fit_figure(label: str, result: EncodingResult) -> Figure:
    sample, fit = result.sample, result.encoding
    return scatter_plot(
        _groups(sample, sample.predicted_N, sample.actual_N),
        x_label="-log mean probability predicted from the embedding, tokens held out, nats",
        y_label="-log mean probability, nats",
        finding=f"{label}: the embedding predicts -log mean probability with R² "
        f"{fit.r2_heldout:.3f} on held-out tokens, within "
        f"{fit.root_mean_square:.2f} nats root mean square (log corpus counts alone: "
        f"{result.nulls['log counts']:.3f}; permuted: {result.nulls['permuted']:.3f}).",
        alt="Scatter of tokens: predicted against actual, coloured by frequency.",
        caption=f"A sample of {len(sample.id_N):,} of {fit.fitted:,} tokens, by tenths "
        "of the vocabulary by frequency in the training text. A head bias, where there is one, is "
        "part of the prediction.",
    )


def _error_figure(result: EncodingResult) -> list[Figure]:
    seen = [error for error in result.errors if error.bin > 0]
    if not seen:
        return []
    tenths = [error.bin for error in seen]
    rare, frequent = seen[0], seen[-1]
    figure = line_plot(
        [
            Series("root mean square", tenths, [error.root_mean_square for error in seen]),
            Series("mean", tenths, [error.mean for error in seen], colour=1),
        ],
        x_label="tenth of the vocabulary by frequency (1 rarest, 10 most frequent)",
        y_label="held-out error, nats",
        finding=f"The rarest tokens are predicted within {rare.root_mean_square:.2f} nats root "
        f"mean square, the most frequent within {frequent.root_mean_square:.2f}.",
        alt="Held-out error of the encoding in each tenth of the vocabulary, sorted by frequency.",
        caption="A mean error above zero: the tokens are less likely than predicted. Tenths of "
        "the tokens that occur in the training split.",
        horizontal=[
            (f"tokens {UNSEEN}, root mean square", error.root_mean_square)
            for error in result.errors
            if error.bin == 0
        ],
    )
    return [figure]


def _map_figure(result: EncodingResult) -> Figure:
    one, two = result.map_variance
    x_N, y_N = result.sample.map_N2.T
    return scatter_plot(
        _groups(result.sample, x_N, y_N),
        x_label=f"first principal component of the output embedding ({share(one)} of the variance)",
        y_label=f"second principal component ({share(two)})",
        finding=f"The first principal component of the output embedding has {share(one)} of its "
        "variance; colours show where frequency lies.",
        alt="Map of output embeddings on two principal components, coloured by frequency.",
        caption="The sign of the first component is chosen so that it rises with probability.",
    )


def _sparsity_figure(sparse: Sparsity) -> Figure:
    needed = sparse.needed
    if needed is None:
        finding = "The embedding does not predict probability, with however many dimensions."
    else:
        few, many = rotated_range(sparse)
        fewer = "fewer" if needed < few else "more" if needed > many else "as many"
        finding = (
            f"{needed} of {sparse.sizes[-1]} dimensions reach 90 % of R²; in random bases "
            f"of the same space {few} to {many} do: the "
            f"model's own axes need {fewer}."
        )
    # far below zero a curve says no more than zero does
    floor = -0.2
    curves = [sparse.r2, *sparse.rotated_r2]
    return line_plot(
        [
            Series("own dimensions", sparse.sizes, [max(floor, v) for v in sparse.r2]),
            *(
                Series("after a random rotation", sparse.sizes, [max(floor, v) for v in r2],
                       colour=1)
                for r2 in sparse.rotated_r2
            ),
        ],
        x_label="dimensions used, largest |slope| times standard deviation first",
        y_label="held-out R²",
        finding=finding,
        alt="Held-out R² by the number of dimensions, own basis and random rotations.",
        caption="Values below -0.2 are drawn there." if min(map(min, curves)) < floor else "",
        log_x=True,
    )  # fmt: skip


def steered(
    model: dict[str, Any], method: str, solved: bool, text: str
) -> dict[float, list[float]]:
    """Realised factors of the single tokens, by the factor asked for."""
    found: dict[float, list[float]] = {}
    for one in model["steering"]:
        if (one["method"], one["solved"], one["text"]) == (method, solved, text):
            found.setdefault(one["factor"], []).append(one["realised"]["estimate"])
    return dict(sorted(found.items()))


def geometric(values: Sequence[float]) -> float:
    return math.exp(float(np.mean(np.log(values))))


def steered_words(model: dict[str, Any]) -> str:
    found = steered(model, "minimum_norm", False, "estimation")
    said = ", ".join(f"{geometric(v):.2f} for {factor:g}" for factor, v in found.items())
    return f"Minimum-norm edits as the encoding predicts them scale a token by {said} (mean)."


def steering_figure(model: dict[str, Any]) -> Figure:
    series: list[Series] = []
    asked = sorted({one["factor"] for one in model["steering"]})
    for colour, (label, method, solved) in enumerate(EDITS):
        found = steered(model, method, solved, "in domain")
        if found:
            series.append(
                Series(
                    label, list(found), [geometric(v) for v in found.values()],
                    [min(v) for v in found.values()], [max(v) for v in found.values()],
                    colour=colour,
                )
            )  # fmt: skip
    series.append(Series("as asked", asked, asked, colour=5, dashed=True))
    return line_plot(
        series,
        x_label="factor asked for",
        y_label="factor realised in in-domain text",
        finding=f"{capital(model['label'])}: {steered_words(model)} Solved on validation text, "
        "sizes hold on other text as far as the bands show.",
        alt="Realised against requested factors for several kinds of edit.",
        caption="Lines: geometric mean over single tokens from the most to the least frequent; "
        "bands: their range. Solved for the validation split, judged on the test split.",
        log_x=True,
        log_y=True,
    )


def pruned_words(model: dict[str, Any]) -> str:
    text = model["pruning"]["texts"][0]
    margin = text["prunable"][0]["margin"]
    said = ", ".join(f"{share(p['within_margin'])} by {p['way']}" for p in text["prunable"])
    return f"Dimensions that can go for less than {margin:g} nats per token: {said}."


def pruning_figures(model: dict[str, Any]) -> list[Figure]:
    text = model["pruning"]["texts"][0]
    ways = list(dict.fromkeys(p["way"] for p in text["points"]))

    def curves(key: str) -> list[Series]:
        made: list[Series] = []
        for colour, way in enumerate(ways):
            here = [p for p in text["points"] if p["way"] == way and p[key] is not None]
            bounded = all(p[key]["low"] is not None for p in here)
            if here:
                low, high = ([p[key][end] for p in here] for end in ("low", "high"))
                made.append(
                    Series(
                        way, [100 * p["share"] for p in here], [p[key]["estimate"] for p in here],
                        low if bounded else None, high if bounded else None, colour=colour,
                    )
                )  # fmt: skip
        return made

    figures = [
        line_plot(
            curves("nats"),
            x_label="dimensions removed, %",
            y_label="rise of the loss, nats per token",
            finding=f"{capital(model['label'])}: {pruned_words(model)}",
            alt="Rise of the loss by the share of dimensions removed, for each way to choose.",
            caption="Removed dimensions keep their mean as a bias. Bands: 95 % intervals over "
            f"text, one model. Margin of the test: {text['prunable'][0]['margin']:g} nats.",
        )
    ]
    if same := curves("same_generation"):
        figures.append(
            line_plot(
                same,
                x_label="dimensions removed, %",
                y_label="share of greedily generated tokens that are the same",
                finding=_generation_words(text["points"]),
                alt="Agreement of greedy continuations by share of dimensions removed.",
                caption="One token that differs changes all that follow. Bands: 95 % intervals "
                "over prompts, within 0 and 1, where their texts are enough for one.",
            )
        )
    return figures


def _generation_words(points: Sequence[dict[str, Any]]) -> str:
    """How much of the greedy text stays the same at the share nearest to 30 %."""
    known = [p for p in points if p["same_generation"] is not None]
    near = min((p["share"] for p in known), key=lambda at: abs(at - 0.3))
    said = ", ".join(
        f"{share(p['same_generation']['estimate'])} by {p['way']}"
        for p in known
        if p["share"] == near
    )
    return (
        f"With {share(near)} of the dimensions removed, greedy continuations share this much of "
        f"their tokens with the unpruned model: {said}."
    )


def dynamics_figures(models: Sequence[dict[str, Any]]) -> list[Figure]:
    shown = models[:6]

    def curves(key: str) -> list[Series]:
        return [
            Series(
                m["label"],
                [s["step"] + 1 for s in m["dynamics"]["snapshots"]],
                [max(-0.2, s[key]) if key != "loss" else s[key]
                 for s in m["dynamics"]["snapshots"]],
                colour=colour,
            )
            for colour, m in enumerate(shown)
        ]  # fmt: skip

    return [
        line_plot(
            curves("r2_frequency"),
            x_label="training step + 1",
            y_label="held-out R² of the output embedding against log corpus frequency",
            finding=f"{capital(shown[0]['label'])}: {captured_words(shown[0]['dynamics'])}",
            alt="R² against log frequency by training step, for each model.",
            log_x=True,
        ),
        line_plot(
            curves("loss"),
            x_label="training step + 1",
            y_label="validation loss, nats per token",
            finding="The loss of the same checkpoints on the same windows.",
            alt="Validation loss by training step, for each model.",
            log_x=True,
        ),
    ]


def film_figure(model: dict[str, Any]) -> Figure:
    return scatter_plot(
        [
            Points(f"step {one['step']:,}", one["predicted"], one["known"], colour=colour)
            for colour, one in enumerate(model["film"])
        ],
        x_label="log(count + 1) predicted from the embedding, tokens held out",
        y_label="log(count + 1) in the training text",
        finding=f"{capital(model['label'])}: R² against log frequency is "
        + ", ".join(
            f"{s['r2_frequency']:.2f} at step {s['step']:,}"
            for s in model["dynamics"]["snapshots"]
            if s["step"] in {one["step"] for one in model["film"]}
        )
        + ".",
        alt="Predicted against actual log frequency of tokens at four checkpoints.",
        caption="The same sample of tokens at each checkpoint.",
    )


def written_figure(models: Sequence[dict[str, Any]]) -> Figure:
    rows = [
        Interval(
            one["head"],
            one["difference"]["estimate"],
            one["difference"]["low"],
            one["difference"]["high"],
            group=m["label"],
        )
        for m in models
        for one in m["written_prior"]
        if one["head"] != "with the bias"
    ]
    best = {
        m["label"]: min(
            (o for o in m["written_prior"] if o["head"].startswith("written")),
            key=lambda o: o["nats_per_token"],
        )
        for m in models
    }
    said = "; ".join(
        f"{label}: {o['head']}, perplexity {percent(math.expm1(o['difference']['estimate']))}"
        for label, o in best.items()
    )
    return forest_plot(
        rows,
        x_label="nats per token against the head with the bias (0: the same; above: worse)",
        finding=f"Nearest to the head with its bias: {said}.",
        alt="Loss of heads without bias, with the prior written along several directions.",
        caption="95 % intervals over text, one model.",
    )
