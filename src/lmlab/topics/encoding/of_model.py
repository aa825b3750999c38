"""The encoding of token probability in one model's output embedding, on a split of a store.

Notable:
- Left out of the fit, and counted: rows that pad the vocabulary, and the tokenizer's special
  tokens, which no text has.
- The output bias that a model has (its own or lmlab's log-unigram) is an offset of the fit; R2 is
  of -log alpha for all models, and what the bias explains alone stands beside it.
- A scaled head counts as its embedding scaled. A soft-capped one has no closed-form predictors.

Shapes: D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlab.data.store import TokenStore
from lmlab.data.unigram import token_counts
from lmlab.lm.language_model import LanguageModel
from lmlab.models.logits import LogitHead
from lmlab.numerics.frequency import decile_name
from lmlab.progress import track
from lmlab.topics.encoding.encoding import (
    NULLS,
    DecileError,
    Encoding,
    EncodingStatistics,
    Sparsity,
    error_by_frequency,
    fit_encoding,
    null_fits,
    predictor_r2,
    sparsity,
)
from lmlab.topics.encoding.token_probability import choose_windows, store_statistics


@dataclass(frozen=True)
class Head:
    """The output embedding and bias as arrays, float64, the scale of the head included."""

    embedding_VD: NDArray[np.float64]
    offset_V: NDArray[np.float64] | None
    capped: bool


def output_head(lm: LanguageModel) -> Head:
    """`UserError` for a head whose output embedding is not known (`models.logits`)."""
    head = LogitHead(lm.backbone)
    bias = head.bias_V
    return Head(
        head.scale * head.weight_VD.detach().double().cpu().numpy(),
        None if bias is None else head.scale * bias.detach().double().cpu().numpy(),
        head.cap is not None,
    )


@dataclass(frozen=True)
class EncodingResult:
    """What `encode` finds."""

    model: str
    order: str
    head: str
    store: str
    split: str
    context: int
    windows: int
    conditions: str
    """What each position's distribution was given."""
    statistics: EncodingStatistics
    encoding: Encoding
    predictors: dict[str, float]
    """R2 of the closed-form predictors; empty for a soft-capped head."""
    nulls: dict[str, float]
    sparsity: Sparsity
    errors: tuple[DecileError, ...]
    padded: int
    """Rows of the embedding that are no token; their probability is `statistics.unused`."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; arrays over tokens are left out."""
        return {
            "model": self.model,
            "order": self.order,
            "head": self.head,
            "store": self.store,
            "split": self.split,
            "context": self.context,
            "windows": self.windows,
            "positions": self.statistics.positions,
            "conditions": self.conditions,
            "encoding": self.encoding.to_json(),
            "mean_hidden": self.statistics.mean_hidden_D.tolist(),
            "predictors": self.predictors,
            "nulls": self.nulls,
            "sparsity": asdict(self.sparsity),
            "errors": [asdict(error) for error in self.errors],
            "padded": self.padded,
            "padded_probability": self.statistics.unused,
        }


def encode(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str = "validation",
    context: int | None = None,
    max_windows: int | None = 256,
    ridge: float = 0.0,
    rotations: int = 5,
) -> EncodingResult:
    """How a model's output embedding encodes its tokens' mean probability on a split.

    Raises `UserError` as `token_probability.choose_windows` and `models.logits.LogitHead`.
    """
    head = output_head(lm)
    windows = choose_windows(lm, store, split=split, context=context, max_windows=max_windows)
    statistics = store_statistics(lm, windows)
    counts_V = training_counts(lm, store, len(head.embedding_VD))
    with track("regressions", float(1 + NULLS + 1 + rotations), "fits") as bar:
        encoding = _fit(lm, head, statistics, ridge)
        bar.advance()
        nulls = null_fits(head.embedding_VD, encoding, counts_V=counts_V, bar=bar)
        sparse = sparsity(head.embedding_VD, encoding, rotations=rotations, bar=bar)
    return EncodingResult(
        model=lm.name,
        order=lm.order,
        head=lm.head,
        store=str(store.path),
        split=split,
        context=windows.context,
        windows=len(windows),
        conditions=lm.conditions,
        statistics=statistics,
        encoding=encoding,
        predictors={}
        if head.capped
        else predictor_r2(head.embedding_VD, statistics, encoding, offset_V=head.offset_V),
        nulls=nulls,
        sparsity=sparse,
        errors=error_by_frequency(encoding, counts_V),
        padded=len(lm.unused_rows),
    )


def encoding_of(
    lm: LanguageModel,
    store: TokenStore,
    *,
    context: int | None = None,
    max_windows: int | None = 256,
    ridge: float = 0.0,
) -> Encoding:
    """The regression of `encode` on the validation split, without what it is compared with.

    Raises `UserError` as `encode`.
    """
    windows = choose_windows(
        lm, store, split="validation", context=context, max_windows=max_windows
    )
    return _fit(lm, output_head(lm), store_statistics(lm, windows), ridge)


def _fit(lm: LanguageModel, head: Head, statistics: EncodingStatistics, ridge: float) -> Encoding:
    return fit_encoding(
        head.embedding_VD,
        statistics.alpha_V,
        offset_V=head.offset_V,
        exclude=not_text(lm, len(head.embedding_VD)),
        ridge=ridge,
    )


def not_text(lm: LanguageModel, rows: int) -> NDArray[np.int64]:
    """Ids that no text has: special tokens, and rows that are no token of the tokenizer."""
    special = [token for token in lm.tokenizer.special_ids if token < rows]
    return np.array([*special, *lm.unused_rows], dtype=np.int64)


def training_counts(lm: LanguageModel, store: TokenStore, rows: int) -> NDArray[np.int64]:
    """How often each row's token stands in the training split; 0 for rows that pad."""
    counts_V = np.zeros(rows, dtype=np.int64)
    found_V = token_counts(store.split("train"), store.vocabulary)
    counts_V[: len(found_V)] = found_V
    return counts_V


def encoding_rows(made: EncodingResult) -> list[tuple[str, str]]:
    """The figures in words, for a table."""
    encoding = made.encoding
    rows = [
        ("R² of -log mean probability, held out", f"{encoding.r2_heldout:.4f}"),
        ("root mean square error, held out", f"{encoding.root_mean_square:.3f} nats"),
        *_parts(encoding),
        ("R², in sample", f"{encoding.r2_train:.4f}"),
        ("Spearman, held out", "none" if encoding.spearman is None else f"{encoding.spearman:.4f}"),
        ("tokens fitted", f"{len(encoding.tokens):,}"),
        ("tokens of probability 0", f"{encoding.zero_alpha:,}"),
        ("tokens that no text has", f"{encoding.excluded:,}"),
        *(
            [
                (
                    f"probability of {made.padded:,} rows without a token",
                    f"{made.statistics.unused:.2e}",
                )
            ]
            if made.padded
            else []
        ),
        *((f"R² of the predictor, {name}", f"{r2:.4f}") for name, r2 in made.predictors.items()),
        *((f"null: {name}, R2 held out", f"{r2:.4f}") for name, r2 in made.nulls.items()),
        ("dimensions for 90 % of R2", dimensions_needed(made.sparsity)),
    ]
    return rows + [
        (
            f"error of {tenth_of_vocabulary(error.bin)}",
            f"mean {error.mean:+.3f}, root mean square {error.root_mean_square:.3f} nats",
        )
        for error in made.errors
    ]


def tenth_of_vocabulary(number: int) -> str:
    """A bin of `error_by_frequency` in words."""
    if number == 0:
        return f"tokens {decile_name(number)}"
    return f"tenth {decile_name(number)} of the tokens that are in it"


def _parts(encoding: Encoding) -> list[tuple[str, str]]:
    """Of a head with a bias: what each half predicts without the other."""
    if encoding.bias_alone is None:
        return []
    return [
        (f"the {name} alone: R², held out", f"{part.r2:.4f} ({part.root_mean_square:.3f} nats)")
        for name, part in (
            ("embedding", encoding.embedding_alone), ("bias", encoding.bias_alone)
        )
    ]  # fmt: skip


def dimensions_needed(sparse: Sparsity) -> str:
    """How many, and how many after rotations, in words."""
    if sparse.needed is None:
        return "none: held-out R2 is not above zero"
    rotated = [needed for needed in sparse.rotated_needed if needed is not None]
    return (
        f"{sparse.needed} of {sparse.sizes[-1]}; after rotations {min(rotated)} to {max(rotated)}"
    )
