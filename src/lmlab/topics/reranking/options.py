"""Options of reranking by a backward model. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lmlab.config.numbers import above_zero, at_least, check_each_once
from lmlab.errors import UserError
from lmlab.studies.options import OnStore

RuleName = Literal["backward", "mmi", "forward+backward", "forward+mmi"]
RULES: tuple[RuleName, ...] = ("backward", "mmi", "forward+backward", "forward+mmi")


@dataclass(frozen=True)
class RerankConfig(OnStore):
    """Draw continuations from a forward model, choose one by the score of a backward model, and ask
    a third model whether the choice is better than the forward model's own."""

    forward: str
    """Run folder, checkpoint, saved transformers model, or Hub name: writes the continuations."""
    backward: str
    """One of the same tokenizer that reads backward."""
    judge: str = field(kw_only=True)
    """A third model that reads forward, of any tokenizer; with another one the unit is bits per
    byte."""
    second: str | None = None
    """Another forward model of the same tokenizer, as a control: does it help as much as the
    backward one?"""
    split: Literal["train", "validation", "test"] = "test"
    """Of the text that prompts begin."""
    prompts: int = 200
    """At most; a random sample of the text's windows of prompt and continuation."""
    prompt_tokens: int = 32
    tokens: int = 32
    """Of each continuation, all alike: special tokens, and so an early end, are not drawn."""
    count: int = 16
    """Continuations of a prompt."""
    temperature: float = 1.0
    """Above 0, as of samples; scores are the models' own at 1."""
    top_k: int | None = None
    rules: tuple[RuleName, ...] = RULES
    """backward: likeliest text of prompt and continuation; mmi: likeliest prompt given the
    continuation; forward+...: the weighted sum of both."""
    weight: float = 0.5
    """Of the backward model's score in a sum; the forward model's has 1 less it."""
    seed: int = at_least(0, 0)

    def __post_init__(self) -> None:
        check_each_once(self, "rules")
        above_zero(self, "temperature")
        check_choice(self.rules, self.count, self.weight)


def check_choice(rules: Sequence[str], count: int, weight: float) -> None:
    """`UserError` for an unknown rule, one continuation, and a weight that is no share."""
    if unknown := sorted({*rules} - {*RULES}):
        raise UserError(f"unknown rules {', '.join(unknown)}; there are {', '.join(RULES)}")
    if count < 2:
        raise UserError(f"`count` {count}: a choice needs two continuations at least")
    if not 0 <= weight <= 1:
        raise UserError(f"`weight` {weight:g} is a share, from 0 to 1")
