"""The report of the encoding study, from its `results.json` alone (so it can be drawn again).

Every figure stands under its finding in words. The first model of a vocabulary is shown in full;
the tables have all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmlab.pages.page import Section, Table, render_page
from lmlab.results import made_by
from lmlab.studies.provenance import to_repeat
from lmlab.topics.encoding.figures import (
    EDITS,
    dynamics_figures,
    film_figure,
    fit_figure,
    geometric,
    map_figure,
    pruned_words,
    pruning_figures,
    sparsity_figure,
    steered_words,
    steering_figure,
    written_figure,
)
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.encoding.tables import captured_words, explained, share


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
        encoding = first["encoding"]
        lines.append(
            f"Vocabulary {part['vocabulary']:,}, {first['label']}: a linear function of the output "
            f"embedding explains R² {encoding['r2_heldout']:.3f} of -log mean probability on "
            f"held-out tokens (root mean square error {encoding['root_mean_square']:.2f} nats). "
            f"{steered_words(first)} {pruned_words(first)}"
            + (f" {captured_words(first['dynamics'])}" if "dynamics" in first else "")
        )
        others = [m for m in part["models"] if m["name"] != first["name"]]
        if others:
            lines.append(
                "Held-out R² of the others: "
                + "; ".join(f"{m['label']} {explained(m['encoding'])}" for m in others)
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
        bias = m["encoding"]["bias_alone"]
        second = m["predictors"].get("second order, up to a constant")
        rows.append(
            [
                m["label"],
                f"{m['encoding']['r2_heldout']:.3f}",
                f"{m['encoding']['root_mean_square']:.2f}",
                f"{m['encoding']['embedding_alone']['r2']:.3f}",
                "no bias" if bias is None else f"{bias['r2']:.3f}",
                f"{m['nulls']['log counts']:.3f}",
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
            figures=[fit_figure(first), map_figure(first), sparsity_figure(first)],
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
        f"{c['windows']} windows of validation text. R²: 5 folds of tokens, "
        "mean of the folds, each about its own mean; special tokens left out; a head bias is an "
        "offset, and the target of R² is -log mean probability all the same. Steering: single "
        "tokens at places spread evenly over the logarithm of frequency rank; targets above 1 are "
        "left out. Pruning: dimensions ranked by |slope| times standard deviation (encoding), "
        "standard deviation (variance), mean |state| (hidden), singular values (svd), at random."
    )
