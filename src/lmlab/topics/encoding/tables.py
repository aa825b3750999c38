"""The topic's results as tables, and in sentences. Draws nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lmlab.numerics.frequency import decile_name
from lmlab.numerics.random_effects import Interval
from lmlab.pages.page import Table
from lmlab.pages.text import fixed
from lmlab.pages.wording import copies_of, percent, share_text, with_interval
from lmlab.topics.encoding.dynamics import Captured, Dynamics, Snapshot
from lmlab.topics.encoding.encoding import DecileError, EncodingFit, Sparsity
from lmlab.topics.encoding.of_model import EncodingResult
from lmlab.topics.encoding.pruning_curves import PruneResult
from lmlab.topics.encoding.steering import Steering
from lmlab.topics.encoding.steering_effects import Effect, SteeringResult

METHOD_NAMES = {
    "minimum_norm": "minimum norm",
    "sparse": "sparse",
    "whitened": "whitened",
    "complement": "complement of g",
    "bias": "logit bias (yardstick)",
}


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
    text = f"{fixed(fit.r2_heldout, 3)} ({fit.root_mean_square:.2f} nats"
    if fit.bias_alone is not None:
        text += (
            f"; its bias alone {fixed(fit.bias_alone.r2, 3)}, embedding alone "
            f"{fixed(fit.embedding_alone.r2, 3)}"
        )
    return f"{text})"


def interval(value: Interval, digits: int = 4) -> str:
    """An estimate with its interval."""
    return with_interval(value, lambda number: f"{number:.{digits}g}")


def edit_name(edit: Effect | Steering) -> str:
    """A kind of edit in words."""
    return f"{METHOD_NAMES[edit.method]}, {'solved' if edit.solved else 'predicted'}"


def steering_table(result: SteeringResult) -> Table:
    """A row for each edit, text and token; side effects are those of all tokens' edits together."""
    return Table(
        ["edit", "size", "text", "token", "asked", "realised [95 %]", "KL, nats", "JS, nats",
         "perplexity", "dimensions"],
        [
            [
                METHOD_NAMES[effect.method],
                "solved" if effect.solved else "predicted",
                effect.text,
                repr(token.text),
                token.requested,
                interval(token.realised),
                effect.kl.estimate,
                effect.js.estimate,
                percent(math.expm1(effect.nats.estimate)),
                effect.dimensions or "none",
            ]
            for effect in result.effects
            for token in effect.tokens
        ],
        f"Tokens of {result.model}, steered together. Solved: sizes meet the factors on the "
        "estimation text; predicted: as the encoding says.",
    )  # fmt: skip


_PLACES = {
    "estimation": "in the estimation text", "in domain": "in domain",
    "out of domain": "out of domain",
}  # fmt: skip


def realised_words(result: SteeringResult, number: int) -> str:
    """What the chosen edit does to one of the tokens, on each text."""
    chosen = [
        effect
        for effect in result.effects
        if (effect.method, effect.solved) == (result.chosen.method, result.chosen.solved)
    ]
    by_text = ", ".join(
        f"{interval(effect.tokens[number].realised, 3)} {_PLACES[effect.text]}" for effect in chosen
    )
    return f"{edit_name(result.chosen)}, {by_text}"


def steering_words(result: SteeringResult) -> list[str]:
    """What the chosen edit does, and what a reader must know beside it."""
    fit = result.encoding
    lines = [
        *(
            f"{token.text!r}, asked for {token.requested:g} times its mean probability: "
            f"{realised_words(result, number)}."
            for number, token in enumerate(result.effects[0].tokens)
        ),
        f"The encoding that edits follow: R² {fit.r2_heldout:.4f} on held-out tokens (root mean "
        f"square error {fit.root_mean_square:.3f} nats).",
    ]
    if result.untied:
        lines.append("The model was tied; it now has an output embedding of its own.")
    return lines + [f"Not done: {note}." for note in result.notes]


def pruning_table(result: PruneResult) -> Table:
    """A way and a replacement on a text each, with what can be removed."""
    rows = []
    for text in result.texts:
        for largest in text.prunable:
            near = min(
                (
                    point
                    for point in text.points
                    if (point.way, point.replace) == (largest.way, largest.replace)
                ),
                key=lambda point: abs(point.share - 0.3),
            )
            rows.append(
                [
                    text.text,
                    largest.way,
                    largest.replace,
                    share_text(largest.within_margin),
                    share_text(largest.not_significant),
                    near.kl.estimate,
                    percent(math.expm1(near.nats.estimate)),
                    f"{near.same_best.estimate:.1%}",
                ]
            )
    return Table(
        ["text", "chosen by", "replaced by", "share within the margin",
         "interval of the rise holds zero up to",
         "at 30 %: KL, nats", "perplexity", "same likeliest token"],
        rows,
        f"Largest shares of the {result.width} dimensions of {result.model} whose removal passes, "
        "at it and all smaller ones of the grid; and what the share nearest to 30 % does.",
    )  # fmt: skip


def pruned_words(result: PruneResult) -> str:
    """How many dimensions can go, for each way to choose them."""
    of_text = result.told.prunable
    shares = ", ".join(
        f"{share_text(largest.within_margin)} by {largest.way}"
        for largest in of_text
        if largest.replace == of_text[0].replace
    )
    return (
        f"Dimensions that can go for less than {of_text[0].margin:g} nats per token "
        f"({result.told.text}): {shares}."
    )


def written_words(result: PruneResult) -> str:
    """How many parameters a model with a smaller head has, why more, and how fast it is."""
    count, speed = result.parameters, result.speed
    if count is None:
        return ""
    text = f"Parameters: {count.before:,} before, {count.after:,} after"
    if result.tied:
        text += " (the model was tied: its head is added, the input embedding stays)"
    if speed is not None:
        text += (
            f". Head {speed.head_ratio:.2f} times as fast ({speed.head_multiplications:.0%} of the "
            f"multiplications), whole model {speed.forward_ratio:.2f} times"
        )
    return f"{text}."


def snapshot_row(snapshot: Snapshot) -> str:
    """One checkpoint as a line, for a run that is watched."""
    return (
        f"step {snapshot.step:>8,}  R² log frequency {snapshot.r2_frequency:7.4f}  "
        f"R² own alpha {snapshot.r2_alpha:7.4f}  unigram KL {snapshot.unigram_kl:7.4f}  "
        f"norm {snapshot.mean_norm:6.3f}  loss {snapshot.loss:.4f}"
    )


def snapshots_table(result: Dynamics) -> Table:
    """A row for each checkpoint."""
    return Table(
        ["step", "R², log frequency", "R², own -log alpha", "unigram KL, nats",
         "norm of the slope", "mean norm", "loss, nats per token", "movement",
         "movement of the embedding"],
        [
            [s.step, s.r2_frequency, s.r2_alpha, s.unigram_kl, s.slope_norm, s.mean_norm, s.loss,
             moved, moved_embedding]
            for s, moved, moved_embedding in zip(
                result.snapshots, result.moved, result.moved_embedding, strict=True
            )
        ],
        "Checkpoints. R² of the output embedding on held-out tokens; KL of the unigram of the "
        "training split to alpha; movement: distance from the first checkpoint, 1 at the last.",
    )  # fmt: skip


def captured_words(result: Dynamics) -> str:
    """When frequency and when loss were there, which came first, if the checkpoints tell, and
    which of these are copies."""
    copies = copies_of(result.same_weights)
    same = f" Checkpoints with the same weights, no steps of training: {copies}." if copies else ""
    return _when_captured(result) + same


def _when_captured(result: Dynamics) -> str:
    frequency, loss = result.frequency, result.loss
    if frequency.step is None:
        return "The output embedding does not encode log frequency at the last checkpoint."
    text = f"Frequency is captured (90 % of the last R²) {between_checkpoints(frequency)}"
    if frequency.low is not None:
        text += " (95 % over tokens, one run)"
    if loss.step is None or result.order is None:
        return f"{text}; the loss has not fallen."
    return (
        f"{text}; 90 % of the fall of the loss is made {between_checkpoints(loss)}. "
        f"{_ORDER[result.order]}"
    )


_ORDER = {
    "frequency first": "In this run frequency came first.",
    "loss first": "In this run the loss came first.",
    "not decided": "Which comes first is not decided: the checkpoints around them overlap.",
}


def between_checkpoints(captured: Captured) -> str:
    """The checkpoints around a step, and where it would be if all went evenly between them."""
    if captured.after == captured.by:
        return f"by step {captured.by:,.0f}"
    return (
        f"between the checkpoints at steps {captured.after:,.0f} and {captured.by:,.0f} (evenly "
        f"between them: {captured.step:,.0f})"
    )
