"""The topic's pages: of each command, and of the study, whose sections of one model they are.

Every figure stands under its finding in words. The study shows the first model of a vocabulary in
full; its tables have all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from lmlab.pages.page import Section, Table, render_page
from lmlab.pages.report import Report
from lmlab.pages.wording import capital
from lmlab.results import made_by
from lmlab.studies.provenance import to_repeat
from lmlab.topics.encoding.figures import (
    EDITS,
    dynamics_figures,
    encoding_figures,
    film_figure,
    geometric,
    pruned_words,
    pruning_figures,
    steered_words,
    steering_figure,
    written_figure,
)
from lmlab.topics.encoding.of_model import EncodingResult
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.encoding.tables import (
    captured_words,
    encoding_table,
    errors_table,
    explained,
    explains,
    rotated_range,
    share,
)


@singledispatch
def report(result: object) -> Report:
    """Title, findings and sections of the page of any of the topic's results."""
    raise TypeError(type(result))


@singledispatch
def tables(result: object) -> list[Table]:
    """Any of the topic's results in rows."""
    raise TypeError(type(result))


@report.register
def _(result: EncodingResult) -> Report:
    return Report(
        f"Token probability in the output embedding of {result.model}",
        f"{result.model}: {explains(result.encoding)}.",
        [
            Section(
                "The encoding",
                figures=encoding_figures(result.model, result),
                tables=tables(result),
            ),
            Section("Methods", [_methods_of_encoding(result)]),
        ],
    )


@tables.register
def _(result: EncodingResult) -> list[Table]:
    return [encoding_table(result), errors_table(result.errors)]


def _methods_of_encoding(result: EncodingResult) -> str:
    fit = result.encoding
    how = f"ridge regression, {fit.ridge:g} added to the diagonal" if fit.ridge else "least squares"
    return (
        f"Model {result.model} (order {result.order}, head {result.head}), in float32. Mean "
        f"probabilities over {result.positions:,} positions in {result.windows:,} windows of up to "
        f"{result.context} tokens of the {result.split} split of {result.store} "
        f"({result.conditions}). -log mean probability by {how} on the output embedding. {_R2} "
        f"Sparsity is beside that in {len(result.sparsity.rotated_r2)} random bases. Frequencies "
        "are counts in the training split. One model and one text: the figures have no intervals."
    )


_R2 = (
    "R²: 5 folds of tokens, mean of the folds, each about its own mean; special tokens left out; "
    "a head bias is an offset, and the target of R² is -log mean probability all the same."
)


def encoding_page(results: dict[str, Any]) -> str:
    """The HTML page of `results` (see `lmlab.topics.encoding.study`)."""
    return render_page(
        results["title"],
        summary(results),
        encoding_sections(results),
        footer=made_by(results["environment"]),
    )


def encoding_sections(results: dict[str, Any]) -> list[Section]:
    """What the study shows, as sections of a page."""
    sections: list[Section] = []
    for part in results["parts"]:
        title = f"Vocabulary {part['vocabulary']:,}: " if len(results["parts"]) > 1 else ""
        sections += _sections(part, title)
    repeat = to_repeat("lmlab study encoding", EncodingStudyConfig, results["config"])
    return [*sections, Section("Methods", [_methods(results), repeat])]


def summary(results: dict[str, Any]) -> str:
    """The findings in a few sentences, a paragraph for each vocabulary."""
    lines: list[str] = []
    for part in results["parts"]:
        first = part["models"][0]
        lines.append(
            f"Vocabulary {part['vocabulary']:,}, {first['label']}: "
            f"{explains(encoded(first).encoding)}. "
            f"{steered_words(first)} {pruned_words(first)}"
            + (f" {captured_words(first['dynamics'])}" if "dynamics" in first else "")
        )
        others = [m for m in part["models"] if m["name"] != first["name"]]
        if others:
            lines.append(
                "Held-out R² of the others: "
                + "; ".join(f"{m['label']} {explained(encoded(m).encoding)}" for m in others)
                + "."
            )
    return "\n\n".join(lines)


def encoded(model: dict[str, Any]) -> EncodingResult:
    return EncodingResult.from_json(model["encoding"])


def model_rows(part: dict[str, Any]) -> list[list[str]]:
    """A row of figures for each model: the table of the report and of the command."""
    rows: list[list[str]] = []
    for m in part["models"]:
        result = encoded(m)
        sparse, fit = result.sparsity, result.encoding
        needed = "none"
        if sparse.needed is not None:
            few, many = rotated_range(sparse)
            needed = f"{sparse.needed} of {sparse.sizes[-1]} ({few}–{many})"
        second = result.predictors.get("second order, up to a constant")
        rows.append(
            [
                m["label"],
                f"{fit.r2_heldout:.3f}",
                f"{fit.root_mean_square:.2f}",
                f"{fit.embedding_alone.r2:.3f}",
                "no bias" if fit.bias_alone is None else f"{fit.bias_alone.r2:.3f}",
                f"{result.nulls['log counts']:.3f}",
                "none" if second is None else f"{second:.3f}",
                needed,
                _prunable(m, "encoding"),
                _prunable(m, "svd"),
            ]
        )
    return rows


MODEL_COLUMNS = (
    "model", "R², held out", "root mean square error, nats", "R² of the embedding alone",
    "R² of the bias alone", "R² of log counts alone", "R² of the second order",
    "dimensions for 90 % (after rotations)", "prunable by encoding", "prunable by SVD",
)  # fmt: skip


def _sections(part: dict[str, Any], title: str) -> list[Section]:
    first = part["models"][0]
    full = [m for m in part["models"] if not m["raw"]]

    def named(name: str) -> str:
        return f"{title}{name}" if title else f"{name[0].upper()}{name[1:]}"

    sections = [
        Section(
            named("the encoding"),
            figures=encoding_figures(capital(first["label"]), encoded(first)),
            tables=[Table(list(MODEL_COLUMNS), model_rows(part), _TABLE)],
        ),
        Section(
            named("steering"),
            figures=[steering_figure(first)],
            tables=[_steering_table(full)],
        ),
        Section(named("pruning"), figures=pruning_figures(first)),
    ]
    if "dynamics" in first:
        sections.append(
            Section(
                named("learning"),
                figures=[*dynamics_figures(full), film_figure(first)],
                tables=[_dynamics_table(full)],
            )
        )
    if written := [m for m in full if "written_prior" in m]:
        sections.append(
            Section(
                named("a prior written into the embedding"),
                [_WRITTEN],
                figures=[written_figure(written)],
            )
        )
    return sections


_TABLE = (
    "R² is of -log mean probability for every model, on tokens the fit has not seen, by the "
    "embedding and, where the head has one, its bias as it is; dimensions are those of the "
    "embedding alone. "
    "Prunable: largest share of "
    "dimensions (on the grid) whose removal raises the loss by less than the margin (upper end of "
    "the 95 % interval)."
)
_WRITTEN = (
    "A headless model predicts by its embedding and the log-unigram prior as a bias. Here the "
    "prior is added to the embedding along one direction instead, found on validation text, judged "
    "on test text; in LayerNorm models in the orthogonal complement of the direction g along which "
    "states are constant."
)


def _steering_table(models: Sequence[dict[str, Any]]) -> Table:
    factors = sorted({one["factor"] for m in models for one in m["steering"]})
    rows: list[list[str]] = []
    for m in models:
        for label, method, solved in EDITS:
            found = [
                one
                for one in m["steering"]
                if (one["method"], one["solved"], one["text"]) == (method, solved, "in domain")
            ]
            row = [m["label"], label]
            for factor in factors:
                got = [o["realised"]["estimate"] for o in found if o["factor"] == factor]
                row.append(
                    f"{geometric(got):.2f} ({min(got):.2f}–{max(got):.2f})" if got else "none"
                )
            kl = [o["kl"] for o in found if o["factor"] == factors[-1]]
            row.append(f"{sum(kl) / len(kl):.2g}" if kl else "none")
            rows.append(row)
    return Table(
        ["model", "edit", *(f"asked {f:g}" for f in factors), f"KL at {factors[-1]:g}, nats"],
        rows,
        "Realised factor in in-domain text: geometric mean over single tokens, and their range; "
        "and mean KL of the edited distribution to the original. Left out: tokens whose target "
        "would be above 1, or that no size reaches.",
    )


def _prunable(model: dict[str, Any], way: str) -> str:
    if "pruning" not in model:
        return "not done"
    text = model["pruning"]["texts"][0]
    return {p["way"]: share(p["within_margin"]) for p in text["prunable"]}[way]


def _dynamics_table(models: Sequence[dict[str, Any]]) -> Table:
    rows: list[list[str]] = []
    for m in models:
        d = m["dynamics"]
        last = d["snapshots"][-1]
        rows.append(
            [
                m["label"], _around(d["frequency"]), _around(d["loss"]),
                d["order"] or "no such step",
                f"{last['r2_frequency']:.3f}", f"{last['unigram_kl']:.4f}", f"{last['loss']:.3f}",
                str(last["step"]),
            ]
        )  # fmt: skip
    return Table(
        ["model", "frequency captured at step (checkpoints around it)",
         "90 % of the fall of the loss at step (checkpoints around it)", "which came first",
         "last R², log frequency", "last unigram KL, nats", "last loss", "steps"],
        rows,
        "Captured: 90 % of the last R² against log frequency. The step is a guess, as if all went "
        "evenly between two checkpoints; those of frequency are around its 95 % interval over "
        "tokens. One run each. Which came first is decided only where the checkpoints tell.",
    )  # fmt: skip


def _around(found: dict[str, Any]) -> str:
    if found["step"] is None:
        return "none"
    return f"{found['step']:,.0f} ({found['after']:,.0f}–{found['by']:,.0f})"


def _methods(results: dict[str, Any]) -> str:
    c = results["config"]
    return (
        f"Text: {results['corpus']}. Each model: {c['size']}, context {c['context']}, "
        f"{c['tokens']:,} training tokens in steps of {c['batch_tokens']:,}, learning rate "
        f"{c['learning_rate']:g}, seed {c['seed']}; one seed each, so differences between models "
        "may be those of seeds. Mean probabilities over "
        f"{c['windows']} windows of validation text. {_R2} Steering: single "
        "tokens at places spread evenly over the logarithm of frequency rank; targets above 1 are "
        "left out. Pruning: dimensions ranked by |slope| times standard deviation (encoding), "
        "standard deviation (variance), mean |state| (hidden), singular values (svd), at random."
    )
