"""The preference of one model of two towers, or of a pair of probes: the result of `lmlab prefer`,
and what the study shows of its first pair."""

from __future__ import annotations

from dataclasses import dataclass

from lmlab.data.store import TokenStore
from lmlab.lm.language_model import LanguageModel
from lmlab.results import Result
from lmlab.topics.towers.passage import Passage, passage
from lmlab.topics.towers.preference import (
    Group,
    Preference,
    Strongest,
    TypePoints,
    Vocabulary,
    kinds_of_token,
    preference,
    strongest_types,
    type_points,
)
from lmlab.topics.towers.preference_sums import PreferenceSums, preference_sums

_PASSAGES, _PASSAGE_TOKENS = 2, 128


@dataclass(frozen=True)
class ModelPreference(Result, kind="prefer", views="lmlab.topics.towers.model_report"):
    """What two towers of one model prefer."""

    model: str
    store: str
    split: str
    overall: Preference
    kinds: tuple[Group, ...]
    """By class of token, frequency and position."""
    strongest: Strongest
    types: TypePoints
    passages: tuple[Passage, ...]


def prefer(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str,
    held_out: str,
    context: int | None,
    max_windows: int | None,
    seed: int,
) -> ModelPreference:
    """What the towers of `lm` prefer on a split; arguments and errors as for `preference_sums`.

    `seed` decides splits into halves and permutations.
    """
    sums = preference_sums(
        lm, store, split=split, held_out=held_out, context=context, max_windows=max_windows
    )
    vocabulary = Vocabulary.of(store)
    return model_preference(lm, store, sums, vocabulary, split=split, context=context, seed=seed)


def model_preference(
    lm: LanguageModel,
    store: TokenStore,
    sums: PreferenceSums,
    vocabulary: Vocabulary,
    *,
    split: str,
    context: int | None,
    seed: int = 0,
) -> ModelPreference:
    """As `prefer`, of sums that are there already."""
    shown = min(_PASSAGE_TOKENS, lm.windows(store, split, context=context).context)
    return ModelPreference(
        model=lm.name,
        store=str(store.path),
        split=split,
        overall=preference(sums, vocabulary, seed=seed),
        kinds=kinds_of_token(sums, vocabulary, seed=seed),
        strongest=strongest_types(sums, vocabulary, seed=seed),
        types=type_points(sums, vocabulary),
        passages=tuple(
            passage(lm, store, split=split, context=shown, windows=_PASSAGES, scales=sums.scales)
        ),
    )
