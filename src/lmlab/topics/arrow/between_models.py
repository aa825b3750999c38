"""The arrow of time between two existing models, of lmlab or from the Hugging Face Hub.

Notable: two models that differ in more than direction are refused, since their difference would
not be the arrow of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.results import Result
from lmlab.topics.arrow.arrow import Arrow
from lmlab.topics.arrow.comparison import Comparison, Scored, compare
from lmlab.topics.scoring.score import Score, score


@dataclass(frozen=True)
class ModelsArrow(Result, kind="arrow", schema=2):
    """The arrow between two models, and their scores on the same windows."""

    comparison: Comparison
    forward: Score
    backward: Score

    @property
    def arrow(self) -> Arrow:
        """The arrow over all positions."""
        return self.comparison.arrow


def arrow_of_models(
    forward: LanguageModel,
    backward: LanguageModel,
    store: TokenStore,
    *,
    split: str = "test",
    context: int | None = None,
    max_windows: int | None = None,
) -> ModelsArrow:
    """The arrow between two existing models on the same windows of a store (one seed: text only).

    Raises `UserError` unless one reads forward, the other backward, and they differ in nothing
    else (see `check_pair`).
    """
    check_pair(forward, backward)
    f, b = (
        score(lm, store, split=split, context=context, max_windows=max_windows)
        for lm in (forward, backward)
    )
    sides = ([Scored(each.model, each)] for each in (f, b))
    return ModelsArrow(compare(*sides, corpus=store.path.name, label="these two models"), f, b)


def check_pair(forward: LanguageModel, backward: LanguageModel) -> None:
    """`UserError` unless two models differ in direction only.

    Models of lmlab are compared by all that decided their training, others by architecture and
    tokenizer, which is all that can be known of them.
    """
    if (forward.order, backward.order) != (FORWARD, BACKWARD):
        raise UserError(
            f"{forward.name} reads {forward.order} and {backward.name} {backward.order}; give a "
            "forward model, then a backward one"
        )
    pair = [_decided(lm) for lm in (forward, backward)]
    differing = sorted(k for k in {*pair[0], *pair[1]} if pair[0].get(k) != pair[1].get(k))
    if differing:
        raise UserError(
            f"{forward.name} and {backward.name} differ in more than direction "
            f"({', '.join(differing)}), so a difference in loss would not be the arrow of time"
        )


def _decided(lm: LanguageModel) -> dict[str, Any]:
    if "training" in lm.record:
        values = {**lm.record["training"], "step": lm.record["step"]}
        values.pop("order")
        values.pop("checkpoints", None)  # when a run is saved changes nothing of it
        return values
    config = lm.model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "dtype"):
        config.pop(name, None)
    return {**config, "tokenizer": lm.tokenizer.fingerprint}
