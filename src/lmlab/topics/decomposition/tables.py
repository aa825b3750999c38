"""Tables of embeddings and decompositions, and how an R2 is written. Draws nothing."""

from __future__ import annotations

from itertools import combinations

from lmlab.numerics.random_effects import Interval
from lmlab.pages.page import Table
from lmlab.pages.text import fixed
from lmlab.pages.wording import bounds_text, copies_of, with_interval
from lmlab.topics.decomposition.mapping import AppliedMapping
from lmlab.topics.decomposition.of_models import Embeddings, ModelsDecomposition
from lmlab.topics.decomposition.similarity import Null
from lmlab.topics.decomposition.zoo import ZooDecomposition


def interval_text(interval: Interval) -> str:
    """An R2 with its interval."""
    text = with_interval(interval, r2_text)
    # bounds are never broken across lines
    return text if interval.bounds is None else text.replace(" ", "\u00a0")


def r2_text(value: float | None) -> str:
    """An R2 with three decimals and a true minus sign."""
    return fixed(value, 3, none="–")


def copies_text(result: ModelsDecomposition) -> str:
    """Which models are copies of others here, so that their R2 says nothing; empty without any."""
    if not result.same_rows:
        return ""
    return f" Models with the same rows, no models of their own: {copies_of(result.same_rows)}."


def decomposition_tables(result: ModelsDecomposition) -> list[Table]:
    """Targets, pairs, similarities, and what else was asked for."""
    further = [shares_table(result), training_table(result)]
    return [
        target_table(result),
        pair_table(result),
        similarity_table(result),
        *(table for table in further if table.rows),
    ]


def target_table(result: ModelsDecomposition) -> Table:
    """A row a target."""
    rows: list[list[str | float | int]] = []
    for name, target in result.targets.items():
        fit, null = target.fit, target.null
        assert fit.test is not None, "scored on test"
        assert null.test is not None, "scored on test"
        rows.append([
            name, target.interval.estimate, bounds_text(target.interval.bounds, r2_text),
            fit.r2_train, fit.test.whitened, fit.train_floor, null.test.r2, f"{fit.ridge:.0e}",
        ])  # fmt: skip
    return Table(
        ["target", "R² test", "95 % interval", "R² train", "whitened, test", "noise in training",
         "null, test", "ridge"],
        rows,
        f"Each target from all other models.{copies_text(result)}",
    )  # fmt: skip


def pair_table(result: ModelsDecomposition) -> Table:
    """R2 of each target (row) on each model alone (column)."""
    return Table(
        ["target (row), basis (column)", *result.pairs.names],
        [
            [name, *map(r2_text, row)]
            for name, row in zip(result.pairs.names, result.pairs.r2, strict=True)
        ],
        "R² on test of each model (row) on one other alone (column).",
    )


def similarity_table(result: ModelsDecomposition) -> Table:
    """A row a pair with a target in it."""
    rows: list[list[str | float | int]] = []
    for a, b in combinations(result.models, 2):
        if a not in result.similarities:
            continue
        pair = result.similarities[a][b]
        rows.append([
            f"{a}, {b}", r2_text(pair.cka), _highest(pair.cka_null), pair.cca, pair.cca_floor,
            pair.procrustes, _highest(pair.procrustes_null),
        ])  # fmt: skip
    return Table(
        ["pair", "CKA", "unrelated, CKA", "CCA", "unrelated, CCA", "Procrustes",
         "unrelated, Procrustes"],
        rows,
        "Similarities on test, and what unrelated features show: the highest of some shuffles of "
        "the documents; of CCA the mean over all permutations of the rows.",
    )  # fmt: skip


def _highest(null: Null | None) -> str:
    return r2_text(null and null.highest)


def shares_table(result: ModelsDecomposition) -> Table:
    """What each basis model contributes to each target's R2, where that was asked for."""
    rows: list[list[str | float | int]] = []
    for name, target in result.targets.items():
        if (shares := target.shares) is None:
            continue
        for model, share in shares.shapley.items():
            error = "exact" if (e := shares.standard_error) is None else r2_text(e[model])
            rows.append([
                f"{name} from {model}", share, error, shares.unique[model], shares.alone[model]
            ])  # fmt: skip
    return Table(
        ["target and basis model", "Shapley share", "standard error of sampled orders",
         "lost without it", "alone"],
        rows,
        "R² on test by basis model: Shapley shares add up to that of all.",
    )  # fmt: skip


def training_table(result: ModelsDecomposition) -> Table:
    """How R2 varies with the training text, where folds were asked for."""
    rows: list[list[str | float | int]] = [
        [name, target.folds.r2, target.training_uncertainty.standard_error]
        for name, target in result.targets.items()
        if target.folds is not None and target.training_uncertainty is not None
    ]
    return Table(
        ["target", "R² cross-validated in training", "standard error of R² test"],
        rows,
        "Over the training text: folds, and the jackknife that leaves out each.",
    )


def length_table(result: ZooDecomposition) -> Table:
    """The group correlation at each length of text."""
    return Table(
        ["tokens", "group correlation, test [95 %]", "training", "training rows", "test rows"],
        [
            [at.length, interval_text(at.group), r2_text(at.group_train), at.rows["train"],
             at.rows["test"]]
            for at in result.lengths
        ],
        "Group correlation by length of text.",
    )  # fmt: skip


def zoo_table(result: ZooDecomposition) -> Table:
    """The models that the study trained."""
    return Table(
        ["model", "objective", "size", "training tokens", "validation nats per token"],
        [
            [m.label, m.arm, m.size, m.tokens, f"{m.validation_nats_per_token:.3f}"]
            for m in result.zoo
        ],
        "The zoo. Nats of masked models are of masked tokens, and not to be compared with those of "
        "the others; those of a tower are both towers' together.",
    )


def embeddings_table(result: Embeddings) -> Table:
    """A row a model."""
    return Table(
        ["model", "rows", "width", "folder"],
        [[label, kept.rows, kept.width, kept.folder] for label, kept in result.models.items()],
        f"Rows kept of the {result.split} split of {result.store}.",
    )


def agreement_table(result: AppliedMapping) -> Table:
    """Mapped rows beside the target's own, in one row."""
    agreement = result.agreement
    return Table(
        ["target", "rows", "R²", "mean cosine", "mean cosine about the mean", "neighbours",
         "share of neighbours that are the same", "by chance"],
        [[
            result.target, agreement.rows, agreement.r2, agreement.cosine,
            agreement.centred_cosine, agreement.neighbours, agreement.shared_neighbours,
            agreement.chance,
        ]],
        "Mapped rows compared with the target's own.",
    )  # fmt: skip
