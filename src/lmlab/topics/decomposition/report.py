"""Pages of embeddings, decompositions, applied mappings and the study's zoo.

R2 is of held-out text throughout. Intervals cover the choice of test documents, for these models;
they say nothing of other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lmlab.numerics.verdicts import Evidence, verdict
from lmlab.pages.matrix import MOST_ROWS
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.theme import SERIES_COLOURS
from lmlab.pages.wording import amount_of_text
from lmlab.studies.provenance import to_repeat
from lmlab.studies.rates_report import rates_section
from lmlab.topics.counting.words import counting_section, counting_tables, worse_words
from lmlab.topics.decomposition.figures import (
    TEXT_ONLY,
    greedy_curve,
    kinds_forest,
    length_curve,
    pairs_matrix,
    pairs_tree,
    targets_forest,
)
from lmlab.topics.decomposition.mapping import AppliedMapping
from lmlab.topics.decomposition.of_models import Embeddings, ModelsDecomposition
from lmlab.topics.decomposition.options import EmbeddingConfig
from lmlab.topics.decomposition.tables import (
    agreement_table,
    copies_text,
    decomposition_tables,
    embeddings_table,
    interval_text,
    length_table,
    pair_table,
    r2_text,
    target_table,
    zoo_table,
)
from lmlab.topics.decomposition.zoo import ZooDecomposition

_READING = (
    "R² is pooled over the target's dimensions, so those of large variance rule it; whitened R² "
    "counts all directions alike. Noise in training is what as many random features explain on "
    "average; the null has the rows of every model in a random order of their own."
)
_SIMILARITIES = (
    "CKA is debiased, so it can be below 0. CCA is the mean squared canonical correlation, which "
    "no invertible map changes; Procrustes the R² of the best rotation and scaling of one onto the "
    "other. Neither is debiased: what unrelated features show stands beside each."
)
AnyResult = Embeddings | ModelsDecomposition | AppliedMapping | ZooDecomposition


def tables(result: AnyResult) -> list[Table]:
    """The result in rows; the first table is the main one."""
    match result:
        case Embeddings():
            return [embeddings_table(result)]
        case AppliedMapping():
            return [agreement_table(result)]
        case ModelsDecomposition():
            return decomposition_tables(result)
    return [
        target_table(result.main),
        pair_table(result.main),
        length_table(result),
        zoo_table(result),
        *counting_tables({"": result.counting}),
    ]


def report(result: AnyResult) -> Report:
    """Title, findings and sections of the page."""
    match result:
        case Embeddings():
            return _embeddings(result)
        case AppliedMapping():
            return _applied(result)
        case ModelsDecomposition():
            return _decomposition(result)
    return _zoo(result)


def headline(result: ZooDecomposition) -> str:
    """The models that are worse than counting, if any, and the group correlation in a sentence."""
    return " ".join(filter(None, [worse_words({"": result.counting}), group_finding(result.main)]))


# Embeddings and mappings


def _embeddings(result: Embeddings) -> Report:
    text = (
        f"{result.pieces:,} pieces, {result.shortened:,} cut to fit the model with the shortest "
        "input."
    )
    if result.text_note:
        text += f"\n\nText: {result.text_note}."
    return Report(
        f"Rows of {', '.join(result.models)}",
        text,
        [Section("Rows", [_rows(result.embedding)], tables=tables(result))],
    )


def _applied(result: AppliedMapping) -> Report:
    basis = ", ".join(name for name in result.models if name != result.target)
    agreement = result.agreement
    text = (
        f"Mapped from {basis}, rows explain {_share(agreement.r2)} of {result.target}'s variance. "
        f"Their mean cosine with the true rows is {r2_text(agreement.cosine)}, about the mean "
        f"{r2_text(agreement.centred_cosine)}. Of {agreement.neighbours} nearest neighbours "
        f"{100 * agreement.shared_neighbours:.1f} % are the same, "
        f"{100 * agreement.chance:.1f} % by chance."
    )
    methods = (
        f"{agreement.rows:,} rows of the {result.split} split of {result.store}, for this mapping "
        f"and these rows only. {_rows(result.embedding)} About the mean: of the true rows; a "
        "direction that all rows share counts for nothing. Neighbours are by that cosine, among "
        "the other rows."
    )
    return Report(
        f"{result.target} from {basis}",
        text,
        [Section("Agreement", tables=tables(result)), Section("Methods", [methods])],
    )


# Decompositions


def _decomposition(result: ModelsDecomposition) -> Report:
    of_targets, _, *further = decomposition_tables(result)
    targets = list(result.targets)
    lm = targets[0] if len(targets) == 1 else f"each of {len(targets)} models"
    methods = _methods(result, f"Text: {result.text}.", "")
    return Report(
        f"How much of {lm} is in others",
        "\n\n".join([group_finding(result), *(f"Note: {note}." for note in _notes(result))]),
        [
            Section(
                "From all others", [_READING], figures=[targets_forest(result)], tables=[of_targets]
            ),
            _pairs_section(result),
            _greedy_section(result, targets[:SERIES_COLOURS]),
            Section("Similarities and shares", [_SIMILARITIES], tables=further),
            Section("Methods", [methods]),
        ],
    )


def group_finding(result: ModelsDecomposition) -> str:
    """The finding of a whole set, or of a single target, in a sentence."""
    if result.group is not None:
        others = len(result.models) - 1
        return (
            f"On average {_share(result.group.estimate)} of a model's variance is a linear "
            f"function of the other {f'{others} models' if others > 1 else 'one'} (group "
            f"correlation on test {interval_text(result.group)}).{copies_text(result)}"
        )
    ((name, target),) = result.targets.items()
    return (
        f"{_share(target.interval.estimate)} of {name}'s variance is a linear function of "
        f"{', '.join(target.fit.basis)} (R² on test {interval_text(target.interval)})."
        f"{copies_text(result)}"
    )


def _share(r2: float) -> str:
    return f"{100 * r2:.1f} %".replace("-", "−")


def _notes(result: ModelsDecomposition) -> list[str]:
    """What a reader must know of single fits."""
    texts = [] if result.text_note is None else [result.text_note]
    for name, target in result.targets.items():
        path = "" if target.ridge_path is None else target.ridge_path.note
        for note in (target.fit.note, target.interval.note, path):
            if note and not note.startswith("one model each"):
                texts.append(f"{name}: {note}")
    return texts


def _pairs_section(result: ModelsDecomposition, kinds: Sequence[Figure] = ()) -> Section:
    figures, texts = [*kinds], []
    if len(result.models) <= MOST_ROWS:
        figures.append(pairs_matrix(result))
    else:
        texts.append(f"{len(result.models)} models are too many to draw R² of all pairs.")
    return Section("Pairs", texts, figures=[*figures, pairs_tree(result)])


def _greedy_section(result: ModelsDecomposition, shown: Sequence[str], which: str = "") -> Section:
    order = Table(
        ["target", "first models chosen"],
        [[name, ", ".join(result.targets[name].greedy.order[:4])] for name in shown],
        "The order of the choice.",
    )
    caption = f"{which}Chosen on validation text, scored on test text."
    return Section(
        "How many models it takes",
        figures=[greedy_curve(result, shown, caption)],
        tables=[order],
    )


def _methods(result: ModelsDecomposition, opening: str, fitted: str) -> str:
    """How it was measured. `opening` says which text; `fitted` more of the training text."""
    over = amount_of_text(result.documents, result.cluster_unit, result.clusters)
    text = (
        f"{opening} Pieces of {result.embedding.length} tokens of its tokenizer; "
        f"{result.rows['train']:,} rows to fit on{fitted}, "
        f"{result.rows['validation']:,} to choose the ridge of each target on, "
        f"{result.rows['test']:,} to score, from {over}. "
        f"{_rows(result.embedding)} "
        f"{result.shortened:,} pieces were cut to fit the shortest model. R² = 1 − "
        "residual over total sum of squares, pooled over dimensions, about the mean of the test "
        "rows; "
        "whitened R² counts all directions of the target alike. Intervals: delete-one jackknife "
        "over these of log(1 − R²), Student t, the fit as it is; they say nothing "
        "of other seeds. Every pair has its own ridge, chosen on validation as that of a whole fit."
    )
    return text if result.text_note is None else f"{text} Text: {result.text_note}."


def _rows(embedding: EmbeddingConfig) -> str:
    """What a row is."""
    layer = "" if embedding.layer is None else f", states of layer {embedding.layer}"
    return f"A row is a {embedding.unit}; pooling: {embedding.pooling}{layer}."


# The study


def _zoo(result: ZooDecomposition) -> Report:
    main, seeds = result.main, seeds_verdict(result)
    firsts: dict[str, str] = {}
    for member in result.zoo:
        firsts.setdefault(member.arm, member.label)
    shown = (list(firsts.values()) or list(main.targets))[:SERIES_COLOURS]
    sections = [
        Section(
            "Each model from all others",
            [_READING, *_notes(main)],
            figures=[targets_forest(main)],
            tables=[target_table(main)],
        ),
        _pairs_section(main, _kinds_figures(result)),
    ]
    if len(result.lengths) > 1:
        sections.append(
            Section("Length of text", figures=[length_curve(result)], tables=[length_table(result)])
        )
    known = [
        worse_words({"": result.counting}), group_finding(main), _asked(result), seeds,
    ]  # fmt: skip
    masked = {member.arm == "masked" for member in result.zoo}
    # a result from before models were counted against says nothing of it
    both_ways = masked == {True} or (True in masked and result.counting is not None)
    methods = _methods(main, f"Corpus: {main.text}.", " (the text that the zoo was trained on)")
    repeat = to_repeat("lmlab study decomposition", result.config)
    return Report(
        "How much of a model is in others",
        "\n\n".join(text for text in known if text),
        [
            *sections,
            _greedy_section(main, shown, "One target of each objective. "),
            *counting_section({"": result.counting}, both_ways=both_ways),
            *rates_section(result.config, result.rates),
            Section("Methods", [methods, repeat], tables=[zoo_table(result)]),
        ],
    )


def _asked(result: ZooDecomposition) -> str:
    """What the study asks of pairs of arms."""
    asked = [
        ("A backward model from a forward one of another seed", "backward from forward"),
        ("a headless model from one with a softmax", "headless from forward"),
        ("a masked model from a forward one", "masked from forward"),
        ("a tower from a forward model", "tower from forward"),
    ]
    arms = result.kinds.arms
    answers = [
        f"{words}: {interval_text(arms[kind].interval)}" for words, kind in asked if kind in arms
    ]
    return f"R² on test. {'; '.join(answers)}." if answers else ""


def seeds_verdict(result: ZooDecomposition) -> str:
    """Are two seeds more alike than two objectives? Empty where the zoo cannot say."""
    difference = result.kinds.seeds_less_objectives
    if difference is None:
        return ""
    words = verdict(
        # of these models, as the sentence says; it has no seeds to speak for others
        replace(Evidence.of(difference), seeds=None),
        above="a model is better explained by one of another seed than by one that differs in "
        "objective and seed",
        below="a model is worse explained by one of another seed than by one that differs in "
        "objective and seed",
        size=lambda value: f"{value:.3f} of R²",
    )
    text = (
        "Are two seeds of one objective more alike than two objectives? On average over the models "
        f"of this zoo, {words}: difference of R² {interval_text(difference)}."
    )
    by_target = [
        f"{arm} {r2_text(each.estimate)}"
        for arm, each in result.kinds.by_target.items()
        if each is not None
    ]
    return f"{text} By the target's objective: {', '.join(by_target)}."


def _kinds_figures(result: ZooDecomposition) -> list[Figure]:
    kinds, figures = result.kinds, []
    if finding := seeds_verdict(result):
        figures.append(
            kinds_forest(
                kinds.general,
                finding=finding,
                alt="Mean held-out R² of pairs by what the two models have in common.",
                caption=f"{TEXT_ONLY} Models of one architecture and one seed began with the same "
                "weights and read the same text in the same order.",
            )
        )
    if kinds.arms:
        ordered = sorted(kinds.arms, key=lambda kind: -kinds.arms[kind].interval.estimate)
        figures.append(
            kinds_forest(
                kinds.arms,
                finding=f"By objective, {ordered[0]} is explained best, {ordered[-1]} least.",
                alt="Mean held-out R² of pairs by the objectives of target and basis.",
                caption=f"{TEXT_ONLY} Pairs of different seeds, where there are several.",
            )
        )
    return figures
