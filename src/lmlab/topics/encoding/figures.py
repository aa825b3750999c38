"""The figures of the topic's pages, each under its finding in words.

Those of one model are the same on the page of its command and in the study's section.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import gmean

from lmlab.numerics import random_effects
from lmlab.numerics.frequency import UNSEEN
from lmlab.pages.figures import ForestRow, Points, Series, forest_plot, line_plot, scatter_plot
from lmlab.pages.page import Figure
from lmlab.pages.wording import capital, percent, share_text, spaces_seen
from lmlab.topics.encoding.comparison import EDITS, AnalysedModel, SteeredToken
from lmlab.topics.encoding.dynamics import Dynamics, Snapshot
from lmlab.topics.encoding.edits import Method
from lmlab.topics.encoding.encoding import Sparsity
from lmlab.topics.encoding.of_model import EncodingResult, TokenSample
from lmlab.topics.encoding.pruning import Point
from lmlab.topics.encoding.pruning_curves import PruneResult
from lmlab.topics.encoding.steering_effects import SteeringResult
from lmlab.topics.encoding.tables import (
    captured_words,
    edit_name,
    pruned_words,
    realised_words,
    rotated_range,
)
from lmlab.topics.encoding.token_probability import IN_DOMAIN, TEXTS

_GROUPS = (
    (UNSEEN, (0,)),
    ("rarest three tenths", (1, 2, 3)),
    ("middle four tenths", (4, 5, 6, 7)),
    ("most frequent three tenths", (8, 9, 10)),
)
_TOKENS = 6  # that have a figure of their own


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
        Points(
            name,
            x_N[here].tolist(),
            y_N[here].tolist(),
            colour=colour,
            names=[spaces_seen(sample.text_N[n]) for n in np.flatnonzero(here)]
            if sample.text_N
            else (),
        )
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
    first, second = map(share_text, result.map_variance)
    x_N, y_N = result.sample.map_N2.T
    return scatter_plot(
        _groups(result.sample, x_N, y_N),
        x_label=f"first principal component of the output embedding ({first} of the variance)",
        y_label=f"second principal component ({second})",
        finding=f"The first principal component of the output embedding has {first} of its "
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
    rows: Sequence[SteeredToken], method: Method, solved: bool, text: str
) -> dict[float, list[float]]:
    """Realised factors of the single tokens, by the factor asked for."""
    realised: dict[float, list[float]] = {}
    for row in rows:
        if (row.method, row.solved, row.text) == (method, solved, text):
            realised.setdefault(row.factor, []).append(row.realised.estimate)
    return dict(sorted(realised.items()))


def steered_words(rows: Sequence[SteeredToken]) -> str:
    realised = steered(rows, "minimum_norm", False, "estimation")
    scaled = ", ".join(f"{gmean(v):.2f} for {factor:g}" for factor, v in realised.items())
    return f"Minimum-norm edits as the encoding predicts them scale a token by {scaled} (mean)."


def single_tokens_figure(label: str, rows: Sequence[SteeredToken]) -> Figure:
    """Single tokens, steered one at a time by several factors."""
    asked = sorted({row.factor for row in rows})
    return line_plot(
        [
            *(
                Series(
                    name, list(realised), [float(gmean(v)) for v in realised.values()],
                    [min(v) for v in realised.values()], [max(v) for v in realised.values()],
                    colour=colour,
                )
                for colour, (name, method, solved) in enumerate(EDITS)
                if (realised := steered(rows, method, solved, IN_DOMAIN))
            ),
            Series("as asked", asked, asked, colour=5, dashed=True),
        ],
        x_label="factor asked for",
        y_label="factor realised in in-domain text",
        finding=f"{label}: {steered_words(rows)} Solved on validation text, "
        "sizes hold on other text as far as the bands show.",
        alt="Realised against requested factors for several kinds of edit.",
        caption="Lines: geometric mean over single tokens from the most to the least frequent; "
        "bands: their range. Solved for the validation split, judged on the test split.",
        log_x=True,
        log_y=True,
    )  # fmt: skip


def edits_figures(result: SteeringResult) -> list[Figure]:
    """Chosen tokens, steered together: every edit on every text, a figure for each token."""
    effects = sorted(result.effects, key=lambda effect: TEXTS.index(effect.text))
    figures: list[Figure] = []
    for number, token in enumerate(effects[0].tokens[:_TOKENS]):
        realised = [effect.tokens[number].realised for effect in effects]
        notes = dict.fromkeys(value.note for value in realised if value.note)
        figures.append(
            forest_plot(
                [
                    ForestRow.of(edit_name(effect), value, note="", group=capital(effect.text))
                    for effect, value in zip(effects, realised, strict=True)
                ],
                x_label="realised factor of the mean probability (line: as asked)",
                finding=f"{token.text!r}, asked for {token.requested:g} times its mean "
                f"probability: {realised_words(result, number)}.",
                alt=f"Realised factors of {token.text!r} for each kind of edit on each text.",
                caption="95 % intervals over text, one model. Solved: sizes meet the factors of "
                "all tokens together on the estimation text; predicted: as the encoding says."
                + "".join(f" {capital(note)}." for note in notes),
                reference=token.requested,
                log=True,
            )
        )  # fmt: skip
    return figures


def pruning_figures(label: str, result: PruneResult) -> list[Figure]:
    text = result.told
    how = text.prunable[0].replace
    ways = list(dict.fromkeys(point.way for point in text.points))

    def curves(
        points: Sequence[Point], metric: Callable[[Point], random_effects.Interval | None]
    ) -> list[Series]:
        of_ways = [
            [
                (100 * point.share, value)
                for point in points
                if point.way == way and (value := metric(point)) is not None
            ]
            for way in ways
        ]
        return [
            Series.of(way, *zip(*points, strict=True), colour=colour)
            for colour, (way, points) in enumerate(zip(ways, of_ways, strict=True))
            if points
        ]

    kept = "keep their mean as a bias" if how == "mean" else "are left at zero"
    figures = [
        line_plot(
            curves(text.points, lambda point: point.nats if point.replace == how else None),
            x_label="dimensions removed, %",
            y_label="rise of the loss, nats per token",
            finding=f"{label}: {pruned_words(result)}",
            alt="Rise of the loss by the share of dimensions removed, for each way to choose.",
            caption=f"Text: {text.text}. Removed dimensions {kept}. Bands: 95 % intervals over "
            f"text, one model. Margin of the test: {text.prunable[0].margin:g} nats.",
        )
    ]
    estimation = result.texts[0].points
    if same := curves(estimation, lambda point: point.same_generation):
        figures.append(
            line_plot(
                same,
                x_label="dimensions removed, %",
                y_label="share of greedily generated tokens that are the same",
                finding=_generation_words(estimation),
                alt="Agreement of greedy continuations by share of dimensions removed.",
                caption="One token that differs changes all that follow. Bands: 95 % intervals "
                "over prompts, within 0 and 1, where their texts are enough for one.",
            )
        )
    return figures


def _generation_words(points: Sequence[Point]) -> str:
    """How much of the greedy text stays the same at the share nearest to 30 %."""
    compared = [(p, p.same_generation) for p in points if p.same_generation is not None]
    near = min((p.share for p, _ in compared), key=lambda at: abs(at - 0.3))
    agreements = ", ".join(
        f"{share_text(same.estimate)} by {p.way}" for p, same in compared if p.share == near
    )
    return (
        f"With {share_text(near)} of the dimensions removed, greedy continuations share this much "
        f"of their tokens with the unpruned model: {agreements}."
    )


def dynamics_figures(label: str, models: Sequence[tuple[str, Dynamics]]) -> list[Figure]:
    """The course of training of one or several models; the finding is of the first, `label`."""
    shown = models[:6]

    def curves(metric: Callable[[Snapshot], float]) -> list[Series]:
        return [
            Series(
                name,
                [snapshot.step + 1 for snapshot in result.snapshots],
                [metric(snapshot) for snapshot in result.snapshots],
                colour=colour,
            )
            for colour, (name, result) in enumerate(shown)
        ]

    return [
        line_plot(
            curves(lambda snapshot: max(-0.2, snapshot.r2_frequency)),
            x_label="training step + 1",
            y_label="held-out R² of the output embedding against log corpus frequency",
            finding=f"{label}: {captured_words(shown[0][1])}",
            alt="R² against log frequency by training step, for each model.",
            log_x=True,
        ),
        line_plot(
            curves(lambda snapshot: snapshot.loss),
            x_label="training step + 1",
            y_label="validation loss, nats per token",
            finding="The loss of the same checkpoints on the same windows.",
            alt="Validation loss by training step, for each model.",
            log_x=True,
        ),
    ]


def film_figure(label: str, result: Dynamics) -> Figure:
    steps = {sample.step for sample in result.film}
    return scatter_plot(
        [
            Points(
                f"step {sample.step:,}",
                sample.predicted_N.tolist(),
                sample.known_N.tolist(),
                colour=colour,
                names=list(map(spaces_seen, sample.text_N)),
            )
            for colour, sample in enumerate(result.film)
        ],
        x_label="log(count + 1) predicted from the embedding, tokens held out",
        y_label="log(count + 1) in the training text",
        finding=f"{label}: R² against log frequency is "
        + ", ".join(
            f"{snapshot.r2_frequency:.2f} at step {snapshot.step:,}"
            for snapshot in result.snapshots
            if snapshot.step in steps
        )
        + ".",
        alt="Predicted against actual log frequency of tokens at four checkpoints.",
        caption="The same sample of tokens at each checkpoint.",
    )


def written_figure(models: Sequence[AnalysedModel]) -> Figure:
    rows = [
        ForestRow.of(head.head, head.difference, note="", group=model.label)
        for model in models
        for head in model.written_prior
        if head.head != "with the bias"
    ]
    best = {
        model.label: min(
            (head for head in model.written_prior if head.head.startswith("written")),
            key=lambda head: head.nats_per_token,
        )
        for model in models
    }
    nearest = "; ".join(
        f"{label}: {head.head}, perplexity {percent(math.expm1(head.difference.estimate))}"
        for label, head in best.items()
    )
    return forest_plot(
        rows,
        x_label="nats per token against the head with the bias (0: the same; above: worse)",
        finding=f"Nearest to the head with its bias: {nearest}.",
        alt="Loss of heads without bias, with the prior written along several directions.",
        caption="95 % intervals over text, one model.",
    )
