"""The topic's pages: of each command, and of the study, whose sections of one model they are.

Every figure stands under its finding in words. The study shows the first model of a vocabulary in
full; its tables have all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeAlias

import numpy as np
from scipy.stats import gmean

from lmlab.numerics.verdicts import ONE_RUN_EACH
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.wording import capital, share_text
from lmlab.studies.provenance import to_repeat
from lmlab.studies.rates_report import rate_words, rates_section
from lmlab.topics.counting.baseline import AgainstCounting
from lmlab.topics.counting.words import counting_section, counting_tables, worse_words
from lmlab.topics.encoding.comparison import (
    EDITS,
    AnalysedModel,
    EncodingStudy,
    OneVocabulary,
)
from lmlab.topics.encoding.dynamics import Captured, Dynamics
from lmlab.topics.encoding.figures import (
    dynamics_figures,
    edits_figures,
    encoding_figures,
    film_figure,
    pruning_figures,
    single_tokens_figure,
    steered,
    steered_words,
    written_figure,
)
from lmlab.topics.encoding.of_model import EncodingResult
from lmlab.topics.encoding.pruning_curves import PruneResult
from lmlab.topics.encoding.steering_effects import SteeringResult
from lmlab.topics.encoding.tables import (
    captured_words,
    encoding_table,
    errors_table,
    explained,
    explains,
    pruned_words,
    pruning_table,
    rotated_range,
    snapshots_table,
    steering_table,
    steering_words,
    written_words,
)
from lmlab.topics.encoding.token_probability import IN_DOMAIN

AnyResult: TypeAlias = EncodingResult | SteeringResult | PruneResult | Dynamics | EncodingStudy


def report(result: AnyResult) -> Report:
    """Title, findings and sections of the page."""
    if isinstance(result, EncodingStudy):
        return _study(result)
    title, summary, shown, figures, methods = _of_model(result)
    return Report(
        f"{title} {result.model}",
        summary,
        [Section(shown, figures=figures, tables=tables(result)), Section("Methods", [methods])],
    )


def tables(result: AnyResult) -> list[Table]:
    """The result in rows."""
    match result:
        case EncodingResult():
            return [encoding_table(result), errors_table(result.errors)]
        case SteeringResult():
            return [steering_table(result)]
        case PruneResult():
            return [pruning_table(result)]
        case Dynamics():
            return [snapshots_table(result)]
    return [
        _models_table(result.parts),
        *(table for part in result.parts for table in _further_tables(part)),
        *counting_tables(_counted(result)),
    ]


def headline(result: EncodingStudy) -> str:
    """The models that are worse than counting, if any, and how well each model's embedding
    predicts, in a sentence."""
    worse = worse_words(_counted(result))
    models = [f"{m.label} {explained(m.encoding.encoding)}" for p in result.parts for m in p.models]
    return (f"{worse} " if worse else "") + (
        "R² of -log mean probability by a linear function of the embedding and the bias, held out "
        f"(root mean square error): {'; '.join(models)}"
        + (f" ({ONE_RUN_EACH})." if len(models) > 1 else ".")
    )


def _counted(result: EncodingStudy) -> dict[str, AgainstCounting | None]:
    return {f"Vocabulary {part.vocabulary:,}": part.counting for part in result.parts}


# Commands


def _of_model(
    result: EncodingResult | SteeringResult | PruneResult | Dynamics,
) -> tuple[str, str, str, list[Figure], str]:
    """Title before the model's name, summary, heading, figures, methods."""
    model = result.model
    match result:
        case EncodingResult():
            return (
                "Token probability in the output embedding of",
                f"{model}: {explains(result.encoding)}.",
                "The encoding",
                encoding_figures(model, result),
                _methods_of_encoding(result),
            )
        case SteeringResult():
            return (
                "Steering",
                "\n\n".join(steering_words(result)),
                "Steering",
                edits_figures(result),
                "Mean probabilities of tokens are scaled by edits of their output embeddings, all "
                f"at once. {_texts(result.store, result.other)}. {_EDITS} Nothing is run again for "
                "an edit: the new distributions follow from the old ones exactly. Intervals are "
                "over documents of text, one model; those of factors on the log scale.",
            )
        case PruneResult():
            return (
                "Pruning the output embedding of",
                "\n\n".join(filter(None, [pruned_words(result), written_words(result)])),
                "Pruning",
                pruning_figures(model, result),
                "Dimensions are removed from the output embedding. "
                f"{_texts(result.store, result.other)}. The finding and the curves of the loss are "
                f"of the text called {result.told.text}, those of generation of the estimation "
                "text. "
                f"{_WAYS} A share passes if the upper end of the 95 % interval of the rise in nats "
                "per token stays below the margin, at this share and all smaller ones. Intervals "
                "are over text, one model.",
            )
    return (
        "Learning of",
        captured_words(result),
        "Learning",
        [*dynamics_figures(model, [(model, result)]), film_figure(model, result)],
        f"{len(result.snapshots)} checkpoints on at most {result.windows:,} windows of the "
        f"validation split of {result.store}. R² of a linear function of the output embedding, 5 "
        f"folds of tokens. {_CAPTURED}",
    )


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


_EDITS = (
    "Minimum norm: along the encoding's slope; sparse: fewest dimensions; whitened: least variance "
    "over contexts; complement of g: nothing along the direction in which a LayerNorm model's "
    "states are constant; logit bias: the same amount in every context, the yardstick."
)


def _texts(store: str, other: str | None) -> str:
    beyond = "" if other is None else f"; out of domain: the validation split of {other}"
    return f"Estimation: the validation split of {store}; in domain: its test split{beyond}"


# The study


def _study(result: EncodingStudy) -> Report:
    sections: list[Section] = []
    for part in result.parts:
        title = f"Vocabulary {part.vocabulary:,}: " if len(result.parts) > 1 else ""
        sections += _sections(part, title)
    repeat = to_repeat("lmlab study encoding", result.config)
    return Report(
        "How output embeddings hold token probability",
        _summary(result),
        [
            *sections,
            *counting_section(_counted(result)),
            *rates_section(result.config, result.rates),
            Section("Methods", [_methods(result), repeat]),
        ],
    )


def _summary(result: EncodingStudy) -> str:
    """The findings in a few sentences, a paragraph for each vocabulary."""
    worse = worse_words(_counted(result))
    lines = [worse] if worse else []
    for part in result.parts:
        first = part.models[0]
        assert first.pruning is not None, "the first model is with its own head"
        lines.append(
            f"Vocabulary {part.vocabulary:,}, {first.label}: {explains(first.encoding.encoding)}. "
            f"{steered_words(first.steering)} {pruned_words(first.pruning)}"
            + ("" if first.dynamics is None else f" {captured_words(first.dynamics)}")
        )
        others = [model for model in part.models if model.name != first.name]
        if others:
            lines.append(
                "Held-out R² of the others: "
                + "; ".join(f"{m.label} {explained(m.encoding.encoding)}" for m in others)
                + f" ({ONE_RUN_EACH})."
            )
    return "\n\n".join(lines)


def _models_table(parts: Sequence[OneVocabulary]) -> Table:
    """A row of figures for each model."""
    rows: list[list[str]] = []
    for model in (model for part in parts for model in part.models):
        sparse, fit = model.encoding.sparsity, model.encoding.encoding
        needed = "none"
        if sparse.needed is not None:
            few, many = rotated_range(sparse)
            needed = f"{sparse.needed} of {sparse.sizes[-1]} ({few}–{many})"
        second = model.encoding.predictors.get("second order, up to a constant")
        rows.append(
            [
                model.label,
                f"{fit.r2_heldout:.3f}",
                f"{fit.root_mean_square:.2f}",
                f"{fit.embedding_alone.r2:.3f}",
                "no bias" if fit.bias_alone is None else f"{fit.bias_alone.r2:.3f}",
                f"{model.encoding.nulls['log counts']:.3f}",
                "none" if second is None else f"{second:.3f}",
                needed,
                _prunable(model.pruning, "encoding"),
                _prunable(model.pruning, "svd"),
            ]
        )
    return Table(_MODEL_COLUMNS, rows, _TABLE)


_MODEL_COLUMNS = (
    "model", "R², held out", "root mean square error, nats", "R² of the embedding alone",
    "R² of the bias alone", "R² of log counts alone", "R² of the second order",
    "dimensions for 90 % (after rotations)", "prunable by encoding", "prunable by SVD",
)  # fmt: skip


def _sections(part: OneVocabulary, title: str) -> list[Section]:
    first = part.models[0]
    label = capital(first.label)
    assert first.pruning is not None, "the first model is with its own head"

    def named(name: str) -> str:
        return f"{title}{name}" if title else capital(name)

    steering, *dynamics = _further_tables(part)
    sections = [
        Section(
            named("the encoding"),
            figures=encoding_figures(label, first.encoding),
            tables=[_models_table([part])],
        ),
        Section(
            named("steering"),
            figures=[single_tokens_figure(label, first.steering)],
            tables=[steering],
        ),
        Section(named("pruning"), figures=pruning_figures(label, first.pruning)),
    ]
    watched = _watched(part)
    if first.dynamics is not None:
        sections.append(
            Section(
                named("learning"),
                figures=[*dynamics_figures(label, watched), film_figure(label, first.dynamics)],
                tables=dynamics,
            )
        )
    if written := [model for model in part.models if model.written_prior]:
        sections.append(
            Section(
                named("a prior written into the embedding"),
                [_WRITTEN],
                figures=[written_figure(written)],
            )
        )
    return sections


def _watched(part: OneVocabulary) -> list[tuple[str, Dynamics]]:
    return [(m.label, m.dynamics) for m in part.models if m.dynamics is not None]


def _further_tables(part: OneVocabulary) -> list[Table]:
    """Steering, and where models were watched, learning."""
    watched = _watched(part)
    whole = [model for model in part.models if not model.raw]
    return [_steering_table(whole), *([_dynamics_table(watched)] if watched else [])]


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


def _steering_table(models: Sequence[AnalysedModel]) -> Table:
    factors = sorted({row.factor for model in models for row in model.steering})

    def realised_cell(values: Sequence[float]) -> str:
        return f"{gmean(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else "none"

    rows: list[list[str]] = []
    for model, (name, method, solved) in product(models, EDITS):
        realised = steered(model.steering, method, solved, IN_DOMAIN)
        last = (method, solved, IN_DOMAIN, factors[-1])
        kl = [r.kl for r in model.steering if (r.method, r.solved, r.text, r.factor) == last]
        cells = [realised_cell(realised.get(factor, [])) for factor in factors]
        rows.append([model.label, name, *cells, f"{np.mean(kl):.2g}" if kl else "none"])
    return Table(
        ["model", "edit", *(f"asked {f:g}" for f in factors), f"KL at {factors[-1]:g}, nats"],
        rows,
        "Realised factor in in-domain text: geometric mean over single tokens, and their range; "
        "and mean KL of the edited distribution to the original. Left out: tokens whose target "
        "would be above 1, or that no size reaches.",
    )


def _prunable(result: PruneResult | None, way: str) -> str:
    if result is None:
        return "not done"
    return next(share_text(p.within_margin) for p in result.told.prunable if p.way == way)


def _dynamics_table(models: Sequence[tuple[str, Dynamics]]) -> Table:
    return Table(
        ["model", "frequency captured at step (checkpoints around it)",
         "90 % of the fall of the loss at step (checkpoints around it)", "which came first",
         "last R², log frequency", "last unigram KL, nats", "last loss", "steps"],
        [
            [label, _around(result.frequency), _around(result.loss), result.order or "no such step",
             f"{last.r2_frequency:.3f}", f"{last.unigram_kl:.4f}", f"{last.loss:.3f}",
             str(last.step)]
            for label, result in models
            for last in result.snapshots[-1:]
        ],
        _CAPTURED,
    )  # fmt: skip


_CAPTURED = (
    "Captured: 90 % of the last R² against log frequency. The step is a guess, as if all went "
    "evenly between two checkpoints; those of frequency are around its 95 % interval over "
    "tokens. One run each. Which came first is decided only where the checkpoints tell."
)


def _around(captured: Captured) -> str:
    if captured.step is None:
        return "none"
    return f"{captured.step:,.0f} ({captured.after:,.0f}–{captured.by:,.0f})"


def _methods(result: EncodingStudy) -> str:
    c = result.config
    return (
        f"Text: {result.corpus}. Each model: {c.architecture} (but where it says Llama) "
        f"{c.size}, context {c.context}, {c.tokens:,} training tokens in steps of "
        f"{c.batch_tokens:,}, {c.optimizer}, "
        f"{rate_words(c, f'learning rate {c.learning_rate:g}')}, "
        f"seed {c.seed}; one seed each, so differences between models may be those of seeds. "
        "Mean probabilities over "
        f"{c.windows} windows of validation text. {_R2} Steering: single "
        "tokens at places spread evenly over the logarithm of frequency rank; targets above 1 are "
        f"left out. Pruning: {_WAYS[0].lower()}{_WAYS[1:]}"
    )


_WAYS = (
    "Dimensions ranked by |slope| times standard deviation (encoding), "
    "standard deviation (variance), mean |state| (hidden), singular values (svd), change of the "
    "distributions on validation text (fisher), at random."
)
