"""The topic's results as tables, and in sentences. Draws nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lmlab.numerics.frequency import decile_name
from lmlab.pages.page import Table
from lmlab.pages.wording import percent
from lmlab.topics.encoding.encoding import DecileError, EncodingFit, Sparsity
from lmlab.topics.encoding.of_model import EncodingResult

METHOD_NAMES = {
    "minimum_norm": "minimum norm",
    "sparse": "sparse",
    "whitened": "whitened",
    "complement": "complement of g",
    "bias": "logit bias (yardstick)",
}


def share(value: float) -> str:
    """A share in whole per cent."""
    return f"{100 * value:.0f} %"


def encoding_table(result: EncodingResult) -> Table:
    """What `encode` measures of a model, a row each."""
    fit = result.encoding
    rows: list[tuple[str, float | str, str]] = [
        ("R² of -log mean probability, held out", fit.r2_heldout, ""),
        ("root mean square error, held out", fit.root_mean_square, "nats"),
    ]
    if fit.bias_alone is not None:
        for name, part in (("embedding", fit.embedding_alone), ("bias", fit.bias_alone)):
            rows += [
                (f"the {name} alone: R², held out", part.r2, ""),
                (f"the {name} alone: root mean square error", part.root_mean_square, "nats"),
            ]
    rows += [
        ("R², in sample", fit.r2_train, ""),
        ("Spearman, held out", "none" if fit.spearman is None else fit.spearman, ""),
        ("tokens fitted", fit.fitted, ""),
        ("tokens of probability 0", fit.zero_alpha, ""),
        ("tokens that no text has", fit.excluded, ""),
    ]
    if result.padded:
        rows.append(
            (f"probability of {result.padded:,} rows without a token",
             result.padded_probability, "")
        )  # fmt: skip
    rows += [(f"R² of the predictor, {name}", r2, "") for name, r2 in result.predictors.items()]
    rows += [(f"null: {name}, R² held out", r2, "") for name, r2 in result.nulls.items()]
    rows.append(("dimensions for 90 % of R²", *_dimensions(result.sparsity)))
    return Table(["measure", "value", "unit"], rows, f"The encoding of {result.model}.")


def _dimensions(sparse: Sparsity) -> tuple[int | str, str]:
    if sparse.needed is None:
        return "none", "held-out R² is not above zero"
    few, many = rotated_range(sparse)
    return sparse.needed, f"of {sparse.sizes[-1]}; after rotations {few} to {many}"


def rotated_range(sparse: Sparsity) -> tuple[int, int]:
    """Fewest and most dimensions that are needed after random rotations."""
    needed = [each for each in sparse.rotated_needed if each is not None]
    return min(needed), max(needed)


def errors_table(errors: Sequence[DecileError]) -> Table:
    """The held-out error by tenths of frequency."""
    return Table(
        ["tenth of the vocabulary", "tokens", "mean error, nats", "root mean square error, nats"],
        [[decile_name(e.bin), e.tokens, e.mean, e.root_mean_square] for e in errors],
        "Held-out error by tenths of the tokens that occur in the training split; a mean above "
        "zero: less likely than predicted.",
    )


def explains(fit: EncodingFit) -> str:
    """How well the encoding predicts, as a sentence without its beginning."""
    return (
        "a linear function of the output embedding explains R² "
        f"{fit.r2_heldout:.3f} of -log mean probability on held-out tokens (root mean square error "
        f"{fit.root_mean_square:.2f} nats)"
    )


def explained(fit: EncodingFit) -> str:
    """R2 with its root mean square error, and what a bias does alone."""
    said = f"{fit.r2_heldout:.3f} ({fit.root_mean_square:.2f} nats"
    if fit.bias_alone is not None:
        said += (
            f"; its bias alone {fit.bias_alone.r2:.3f}, embedding alone "
            f"{fit.embedding_alone.r2:.3f}"
        )
    return f"{said})"


def interval(value: dict[str, Any], digits: int = 4) -> str:
    """An estimate with its interval."""
    text = f"{value['estimate']:.{digits}g}"
    if value["low"] is None:
        return f"{text} (no interval)"
    return f"{text} [{value['low']:.{digits}g}, {value['high']:.{digits}g}]"


def steering_rows(values: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: an edit on a text each."""
    columns = ["edit", "size", "text", "token: asked, got [95 %]", "KL", "JS", "perplexity",
               "dimensions"]  # fmt: skip
    rows = [
        [
            METHOD_NAMES[one["method"]],
            "solved" if one["solved"] else "predicted",
            one["text"],
            "; ".join(
                f"{token['text']!r}: {token['requested']:g}, {interval(token['realised'])}"
                for token in one["tokens"]
            ),
            f"{one['kl']['estimate']:.3g}",
            f"{one['js']['estimate']:.3g}",
            percent(math.expm1(one["nats"]["estimate"])),
            str(one["dimensions"] or "none"),
        ]
        for one in values["effects"]
    ]
    return columns, rows


def steering_words(values: dict[str, Any]) -> list[str]:
    """What a reader must know beside the table."""
    lines = [
        f"encoding: R² {values['encoding_r2_heldout']:.4f} on held-out tokens (root mean square "
        f"error {values['encoding_root_mean_square']:.3f} nats)"
    ]
    if values["untied"]:
        lines.append("the model was tied; it now has an output embedding of its own")
    return lines + [f"not done: {note}" for note in values["notes"]]


def pruning_rows(values: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a way and a replacement on a text each, with what can be removed."""
    columns = ["text", "chosen by", "replaced by", "share within the margin",
               "interval of the rise holds zero up to",
               "at 30 %: KL", "perplexity", "same likeliest token"]  # fmt: skip
    rows = []
    for text in values["texts"]:
        for one in text["prunable"]:
            near = min(
                (
                    p
                    for p in text["points"]
                    if (p["way"], p["replace"]) == (one["way"], one["replace"])
                ),
                key=lambda p: abs(p["share"] - 0.3),
            )
            rows.append(
                [
                    text["text"],
                    one["way"],
                    one["replace"],
                    share(one["within_margin"]),
                    share(one["not_significant"]),
                    f"{near['kl']['estimate']:.3g}",
                    percent(math.expm1(near["nats"]["estimate"])),
                    f"{near['same_best']['estimate']:.1%}",
                ]
            )
    return columns, rows


def parameter_words(values: dict[str, Any]) -> str:
    """How many parameters the written model has, and why more, where it has."""
    count = values["parameters"]
    text = f"parameters: {count['before']:,} before, {count['after']:,} after"
    if values["tied"]:
        text += " (the model was tied: its head is added, the input embedding stays)"
    return text


def snapshot_row(values: dict[str, Any]) -> str:
    """One checkpoint as a line, for a run that is watched."""
    return (
        f"step {values['step']:>8,}  R² log frequency {values['r2_frequency']:7.4f}  "
        f"R² own alpha {values['r2_alpha']:7.4f}  unigram KL {values['unigram_kl']:7.4f}  "
        f"norm {values['mean_norm']:6.3f}  loss {values['loss']:.4f}"
    )


def captured_words(values: dict[str, Any]) -> str:
    """When frequency and when loss were there, which came first, if the checkpoints tell, and
    which of these are copies."""
    copies = ", ".join(f"{name} of {earlier}" for name, earlier in values.get("same_weights", ()))
    same = f" Checkpoints with the same weights, no steps of training: {copies}." if copies else ""
    return _when_captured(values) + same


def _when_captured(values: dict[str, Any]) -> str:
    found, loss = values["frequency"], values["loss"]
    if found["step"] is None:
        return "The output embedding does not encode log frequency at the last checkpoint."
    text = f"Frequency is captured (90 % of the last R²) {between_checkpoints(found)}"
    if found["low"] is not None:
        text += " (95 % over tokens, one run)"
    if loss["step"] is None:
        return f"{text}; the loss has not fallen."
    return (
        f"{text}; 90 % of the fall of the loss is made {between_checkpoints(loss)}. "
        f"{_ORDER[values['order']]}"
    )


_ORDER = {
    "frequency first": "In this run frequency came first.",
    "loss first": "In this run the loss came first.",
    "not decided": "Which comes first is not decided: the checkpoints around them overlap.",
}


def between_checkpoints(found: dict[str, Any]) -> str:
    """The checkpoints around a step, and where it would be if all went evenly between them."""
    if found["after"] == found["by"]:
        return f"by step {found['by']:,.0f}"
    return (
        f"between the checkpoints at steps {found['after']:,.0f} and {found['by']:,.0f} (evenly "
        f"between them: {found['step']:,.0f})"
    )
