"""What the pages of studies say of learning rates that were chosen for each arm."""

from __future__ import annotations

from collections.abc import Mapping

from lmlab.pages.page import Section, Table
from lmlab.pages.text import Rounded
from lmlab.studies.options import TrainingStudy
from lmlab.studies.rates import Rates

_DECIMALS, _LISTED = 4, 4
_DIFFER = (
    "So arms that are compared may differ in their rate, too: each is shown at its best, as far as "
    "it was tried. A study without learning-rates shows what the usual rates give."
)


def rate_words(config: TrainingStudy, usual: str) -> str:
    """The learning rates of a study's runs in words; `usual` where none was chosen."""
    if not config.learning_rates:
        return usual
    return f"the learning rate of {_listed(config)} chosen for each arm (see Learning rates)"


def rates_section(
    config: TrainingStudy, rates: Mapping[str, Rates], note: str = ""
) -> list[Section]:
    """Which rate each arm got, by its label; empty where the study chose none. `note` says what
    that means for the comparison."""
    if not rates:
        return []
    seeds = ", ".join(f"{seed:,}" for seed in sorted({each.seed for each in rates.values()}))
    few = "; ".join(f"{arm} {each.best:g}" for arm, each in rates.items())
    chosen = f"Chosen: {few}. " if len(rates) <= _LISTED else ""
    text = [
        f"{chosen}Each arm was trained with each of {_listed(config)} for the whole "
        "length, and is compared at the rate that ended at the least loss on validation text. "
        f"These runs have a seed ({seeds}) that no compared run has. One run stands for a rate, so "
        "it is not known which of two near ones is better. Child runs (probes, fine-tuned heads) "
        "have rates of their own, which are not chosen here.",
        *_beyond(rates),
        *([_DIFFER] if len({each.best for each in rates.values()}) > 1 else []),
        *([note] if note else []),
    ]
    return [Section("Learning rates", text, tables=[rates_table(rates)])]


def rates_table(rates: Mapping[str, Rates]) -> Table:
    """The losses of each arm by rate."""
    tried = dict.fromkeys(rate for each in rates.values() for rate, _ in each.validation)
    rows = [
        [
            arm,
            *(_cell(dict(each.validation).get(rate)) for rate in tried),
            f"{each.best:g}",
            f"the {each.at_end}" if each.at_end else "within",
        ]
        for arm, each in rates.items()
    ]
    return Table(
        ["arm", *(f"{rate:g}" for rate in tried), "chosen", "of those tried"],
        rows,
        "Validation nats per token at the end of training, by learning rate; one run each. Losses "
        "of different arms may be of different objectives: compare along a row.",
    )


def _beyond(rates: Mapping[str, Rates]) -> list[str]:
    """That a best rate is at an end of those tried; empty where none is."""
    at_end = [f"{arm} took the {each.at_end}" for arm, each in rates.items() if each.at_end]
    if not at_end:
        return []
    return [f"At the end of the rates tried: {'; '.join(at_end)}. A better one may lie beyond."]


def _listed(config: TrainingStudy) -> str:
    return ", ".join(f"{rate:g}" for rate in config.learning_rates)


def _cell(nats: float | None) -> Rounded | str:
    return "broke off" if nats is None else Rounded(nats, _DECIMALS)
