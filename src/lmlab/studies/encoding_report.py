"""The report of the encoding study, from its `results.json` alone (so it can be drawn again).

Every figure stands under its finding in words. The first model of a vocabulary is shown in full;
the tables have all models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.report.figures import Interval, Points, Series, forest_plot, line_plot, scatter_plot
from lmlab.report.page import Figure, Section, Table, render_page
from lmlab.studies.encoding_words import captured_words
from lmlab.studies.words import made_by, percent

_GROUPS = (("never seen", (0,)), ("rarest three tenths", (1, 2, 3)),
           ("middle four tenths", (4, 5, 6, 7)), ("most frequent three tenths", (8, 9, 10)))  # fmt: skip
_EDITS = (("as predicted by the encoding", "minimum_norm", False),
          ("minimum norm, solved", "minimum_norm", True),
          ("least variance, solved", "whitened", True),
          ("logit bias (yardstick)", "bias", False))  # fmt: skip


def encoding_page(results: dict[str, Any]) -> str:
    """The HTML page of `results` (see `lmlab.studies.encoding`)."""
    sections: list[Section] = []
    for part in results["parts"]:
        title = f"Vocabulary {part['vocabulary']:,}: " if len(results["parts"]) > 1 else ""
        sections += _sections(part, title)
    sections.append(Section("Methods", [_methods(results)]))
    return render_page(
        results["title"], summary(results), sections, footer=made_by(results["environment"])
    )


def summary(results: dict[str, Any]) -> str:
    """The findings in a few sentences, a paragraph for each vocabulary."""
    lines: list[str] = []
    for part in results["parts"]:
        first = part["models"][0]
        encoding = first["encoding"]
        lines.append(
            f"Vocabulary {part['vocabulary']:,}, {first['label']}: a linear function of the output "
            f"embedding explains R2 {encoding['r2_heldout']:.3f} of -log mean probability on "
            f"held-out tokens. {_steered_words(first)} {_pruned_words(first)} "
            f"{captured_words(first['dynamics'])}"
        )
        others = [m for m in part["models"] if m["name"] != first["name"]]
        if others:
            lines.append(
                "Held-out R2 of the others: "
                + ", ".join(f"{m['label']} {m['encoding']['r2_heldout']:.3f}" for m in others)
                + "."
            )
    return "\n\n".join(lines)


def model_rows(part: dict[str, Any]) -> list[list[str]]:
    """A row of figures for each model: the table of the report and of the command."""
    rows: list[list[str]] = []
    for m in part["models"]:
        sparse, rotated = m["sparsity"], [r for r in m["sparsity"]["rotated_needed"] if r]
        needed = "none" if sparse["needed"] is None else (
            f"{sparse['needed']} of {sparse['sizes'][-1]} ({min(rotated)}–{max(rotated)})"
        )  # fmt: skip
        second = m["predictors"].get("second order, up to a constant")
        rows.append(
            [
                m["label"],
                f"{m['encoding']['r2_heldout']:.3f}",
                f"{m['nulls']['log counts']:.3f}",
                f"{m['nulls']['norm alone']:.3f}",
                "none" if second is None else f"{second:.3f}",
                needed,
                _prunable(m, "encoding"),
                _prunable(m, "svd"),
            ]
        )
    return rows


MODEL_COLUMNS = (
    "model", "R2, held out", "R2 of log counts alone", "R2 of the norm alone",
    "R2 of the second order", "dimensions for 90 % (after rotations)",
    "prunable by encoding", "prunable by SVD",
)  # fmt: skip


def _sections(part: dict[str, Any], title: str) -> list[Section]:
    first = part["models"][0]
    full = [m for m in part["models"] if not m["raw"]]
    sections = [
        Section(
            f"{title}the encoding",
            figures=[_fit_figure(first), _map_figure(first), _sparsity_figure(first)],
            tables=[Table(list(MODEL_COLUMNS), model_rows(part), _TABLE)],
        ),
        Section(
            f"{title}steering",
            figures=[_steering_figure(first)],
            tables=[_steering_table(full)],
        ),
        Section(f"{title}pruning", figures=_pruning_figures(first)),
        Section(
            f"{title}learning",
            figures=[*_dynamics_figures(full), _film_figure(first)],
            tables=[_dynamics_table(full)],
        ),
    ]
    if written := [m for m in full if "written_prior" in m]:
        sections.append(
            Section(
                f"{title}a prior written into the embedding",
                [_WRITTEN],
                figures=[_written_figure(written)],
            )
        )
    return sections


_TABLE = (
    "R2 is of -log mean probability, on tokens the fit has not seen. Prunable: largest share of "
    "dimensions (on the grid) whose removal raises the loss by less than the margin, by the upper "
    "end of its 95 % interval."
)
_WRITTEN = (
    "A headless model predicts by its embedding and the log-unigram prior as a bias. Here the prior "
    "is added to the embedding along one direction instead, found on validation text, judged on test "
    "text; in LayerNorm models in the orthogonal complement of the direction g along which states "
    "are constant."
)


def _fit_figure(model: dict[str, Any]) -> Figure:
    encoding = model["encoding"]
    return scatter_plot(
        [
            Points(name, [p[1] for p in chosen], [p[2] for p in chosen], colour=colour)
            for colour, (name, tenths) in enumerate(_GROUPS)
            if (chosen := [p for p in model["points"] if p[0] in tenths])
        ],
        x_label="-log mean probability predicted from the embedding, tokens held out, nats",
        y_label="-log mean probability, nats",
        finding=f"{model['label']}: the embedding predicts -log mean probability with R2 "
        f"{encoding['r2_heldout']:.3f} on held-out tokens (log corpus counts alone: "
        f"{model['nulls']['log counts']:.3f}; permuted: {model['nulls']['permuted']:.3f}).",
        alt="Scatter of tokens: predicted against actual, coloured by frequency.",
        caption=f"A sample of {len(model['points']):,} of {encoding['tokens']:,} tokens, by tenths "
        "of the vocabulary by frequency in the training text. A head bias, where there is one, is "
        "taken out of both axes.",
    )


def _map_figure(model: dict[str, Any]) -> Figure:
    one, two = model["map_variance"]
    return scatter_plot(
        [
            Points(name, [p[3] for p in chosen], [p[4] for p in chosen], colour=colour)
            for colour, (name, tenths) in enumerate(_GROUPS)
            if (chosen := [p for p in model["points"] if p[0] in tenths])
        ],
        x_label=f"first principal component of the output embedding ({one:.0%} of the variance)",
        y_label=f"second principal component ({two:.0%})",
        finding=f"The first principal component of the output embedding has {one:.0%} of its "
        "variance; colours show where frequency lies.",
        alt="Map of output embeddings on two principal components, coloured by frequency.",
        caption="The sign of the first component is chosen so that it rises with probability.",
    )


def _sparsity_figure(model: dict[str, Any]) -> Figure:
    sparse = model["sparsity"]
    needed, rotated = sparse["needed"], [r for r in sparse["rotated_needed"] if r is not None]
    if needed is None:
        finding = "The embedding does not predict probability, with however many dimensions."
    else:
        fewer = "fewer" if needed < min(rotated) else "more" if needed > max(rotated) else "as many"
        finding = (
            f"{needed} of {sparse['sizes'][-1]} dimensions reach 90 % of R2; in random bases of the "
            f"same space {min(rotated)} to {max(rotated)} do: the model's own axes need {fewer}."
        )
    # far below zero a curve says no more than zero does
    floor = -0.2
    return line_plot(
        [
            Series("own dimensions", sparse["sizes"], [max(floor, v) for v in sparse["r2"]]),
            *(
                Series("after a random rotation", sparse["sizes"], [max(floor, v) for v in r2],
                       colour=1)
                for r2 in sparse["rotated_r2"]
            ),
        ],
        x_label="dimensions used, largest |slope| times standard deviation first",
        y_label="held-out R2",
        finding=finding,
        alt="Held-out R2 by the number of dimensions, own basis and random rotations.",
        caption="Values below -0.2 are drawn there.",
        log_x=True,
    )  # fmt: skip


def _steered(
    model: dict[str, Any], method: str, solved: bool, text: str
) -> dict[float, list[float]]:
    """Realised factors of the single tokens, by the factor asked for."""
    found: dict[float, list[float]] = {}
    for one in model["steering"]:
        if (one["method"], one["solved"], one["text"]) == (method, solved, text):
            found.setdefault(one["factor"], []).append(one["realised"]["estimate"])
    return dict(sorted(found.items()))


def _geometric(values: Sequence[float]) -> float:
    return math.exp(float(np.mean(np.log(values))))


def _steered_words(model: dict[str, Any]) -> str:
    found = _steered(model, "minimum_norm", False, "estimation")
    said = ", ".join(f"{_geometric(v):.2f} for {factor:g}" for factor, v in found.items())
    return f"Minimum-norm edits as the encoding predicts them scale a token by {said} (mean)."


def _steering_figure(model: dict[str, Any]) -> Figure:
    series: list[Series] = []
    asked = sorted({one["factor"] for one in model["steering"]})
    for colour, (label, method, solved) in enumerate(_EDITS):
        found = _steered(model, method, solved, "in domain")
        if found:
            series.append(
                Series(
                    label, list(found), [_geometric(v) for v in found.values()],
                    [min(v) for v in found.values()], [max(v) for v in found.values()],
                    colour=colour,
                )
            )  # fmt: skip
    series.append(Series("as asked", asked, asked, colour=5, dashed=True))
    return line_plot(
        series,
        x_label="factor asked for",
        y_label="factor realised in in-domain text",
        finding=f"{model['label']}: {_steered_words(model)} Solved on validation text, sizes hold "
        "on other text as far as the bands show.",
        alt="Realised against requested factors for several kinds of edit.",
        caption="Lines: geometric mean over single tokens from the most to the least frequent; "
        "bands: their range. Solved for the validation split, judged on the test split.",
        log_x=True,
        log_y=True,
    )


def _steering_table(models: Sequence[dict[str, Any]]) -> Table:
    factors = sorted({one["factor"] for m in models for one in m["steering"]})
    rows: list[list[str]] = []
    for m in models:
        for label, method, solved in _EDITS:
            row = [f"{m['label']}: {label}"]
            for factor in factors:
                here = [
                    one for one in m["steering"]
                    if (one["method"], one["solved"], one["text"], one["factor"])
                    == (method, solved, "in domain", factor)
                ]  # fmt: skip
                got = [one["realised"]["estimate"] for one in here]
                row.append(
                    "none" if not got
                    else f"{_geometric(got):.2f} ({min(got):.2f}–{max(got):.2f}), n {len(got)}"
                )  # fmt: skip
                row.append("none" if not got else f"{np.mean([one['kl'] for one in here]):.2g}")
            rows.append(row)
    return Table(
        ["model and edit", *(c for f in factors for c in (f"asked {f:g}", "KL, nats"))],
        rows,
        "Realised factor in in-domain text: geometric mean over tokens (range), number of tokens; "
        "and mean KL of the edited distribution to the original.",
    )


def _prunable(model: dict[str, Any], way: str) -> str:
    if "pruning" not in model:
        return "not done"
    text = model["pruning"]["texts"][0]
    return next(f"{p['within_margin']:.0%}" for p in text["prunable"] if p["way"] == way)


def _pruned_words(model: dict[str, Any]) -> str:
    text = model["pruning"]["texts"][0]
    margin = text["prunable"][0]["margin"]
    said = ", ".join(f"{p['within_margin']:.0%} by {p['way']}" for p in text["prunable"])
    return f"Dimensions that can go for less than {margin:g} nats per token: {said}."


def _pruning_figures(model: dict[str, Any]) -> list[Figure]:
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
            finding=f"{model['label']}: {_pruned_words(model)}",
            alt="Rise of the loss by the share of dimensions removed, for each way to choose.",
            caption="Removed dimensions keep their mean as a bias. Bands: 95 % intervals over text, "
            f"one model. Margin of the test: {text['prunable'][0]['margin']:g} nats per token.",
        )
    ]
    if same := curves("same_generation"):
        figures.append(
            line_plot(
                same,
                x_label="dimensions removed, %",
                y_label="share of greedily generated tokens that are the same",
                finding="Generation parts sooner than the loss says: one token that differs changes "
                "all that follow.",
                alt="Agreement of greedy continuations by share of dimensions removed.",
                caption="Bands: 95 % intervals over prompts, where their texts are enough for one.",
            )
        )
    return figures


def _dynamics_figures(models: Sequence[dict[str, Any]]) -> list[Figure]:
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
            y_label="held-out R2 of the output embedding against log corpus frequency",
            finding=f"{shown[0]['label']}: {captured_words(shown[0]['dynamics'])}",
            alt="R2 against log frequency by training step, for each model.",
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


def _film_figure(model: dict[str, Any]) -> Figure:
    return scatter_plot(
        [
            Points(f"step {one['step']:,}", one["predicted"], one["known"], colour=colour)
            for colour, one in enumerate(model["film"])
        ],
        x_label="log(count + 1) predicted from the embedding, tokens held out",
        y_label="log(count + 1) in the training text",
        finding=f"{model['label']}: the cloud turns onto the diagonal as the embedding learns "
        "frequency.",
        alt="Predicted against actual log frequency of tokens at four checkpoints.",
        caption="The same sample of tokens at each checkpoint.",
    )


def _dynamics_table(models: Sequence[dict[str, Any]]) -> Table:
    rows: list[list[str]] = []
    for m in models:
        d = m["dynamics"]
        found, last = d["frequency"], d["snapshots"][-1]
        step = "none" if found["step"] is None else f"{found['step']:,.0f}"
        if found["low"] is not None:
            step += f" [{found['low']:,.0f}, {found['high']:,.0f}]"
        loss = d["loss"]["step"]
        rows.append(
            [
                m["label"], step, "none" if loss is None else f"{loss:,.0f}",
                f"{last['r2_frequency']:.3f}", f"{last['unigram_kl']:.4f}", f"{last['loss']:.3f}",
                str(last["step"]),
            ]
        )  # fmt: skip
    return Table(
        ["model", "frequency captured at step [95 %]", "90 % of the fall of the loss at step",
         "last R2, log frequency", "last unigram KL, nats", "last loss", "steps"],
        rows,
        "Captured: 90 % of the last R2 against log frequency. Intervals are over tokens, for one "
        "run each.",
    )  # fmt: skip


def _written_figure(models: Sequence[dict[str, Any]]) -> Figure:
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
        caption="95 % intervals over text, one model. Perplexity is against the head with the bias.",
    )


def _methods(results: dict[str, Any]) -> str:
    c = results["config"]
    return (
        f"Text: {results['corpus']}. Each model: {c['size']}, context {c['context']}, "
        f"{c['tokens']:,} training tokens in steps of {c['batch_tokens']:,}, learning rate "
        f"{c['learning_rate']:g}, seed {c['seed']}; one seed each, so differences between models "
        "may be those of seeds. Mean probabilities over "
        f"{c['windows']} windows of validation text. R2: 5 folds of tokens, mean of the folds, each "
        "about its own mean; special tokens left out; a head bias is an offset. Steering: single "
        "tokens at places spread evenly over the logarithm of frequency rank; targets above 1 are "
        "left out. Pruning: dimensions ranked by |slope| times standard deviation (encoding), "
        "standard deviation (variance), mean |state| (hidden), singular values (svd), at random."
    )
