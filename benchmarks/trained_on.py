"""What is left of the cost of a narrower head when a real model is trained on after the removal?

    lmlab prepare eltec_eng/ENG*.txt --kind pretrained --tokenizer.name MODEL.gguf \
        --split.validation 0.4 --split.test 0.4 --out store
    python benchmarks/trained_on.py MODEL.gguf store --lab lab --steps 16

Removes a share of the dimensions of the output embedding, means kept, by each of `WAYS`, chosen on
windows of the validation split; trains the pruned models and the unpruned one (untied, where it was
tied) on by the same batches of the training split; and scores all of them, before and after, on
windows of the test split. The three sets of documents have none in common.

Notable:
- One order of training, so intervals are over the documents of the test split, for this one model.
- The narrower heads have an output bias (the mean of what was removed, trained with the rest) that
  the unpruned model lacks.
- What is there already is not made again: the same command goes on. A lab folder is of one plan,
  whose number of steps alone may change.

Shapes: W models, unpruned first, D documents.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import lmlab
from lmlab.data.store import TokenStore
from lmlab.lm.export import write_model
from lmlab.lm.language_model import LanguageModel
from lmlab.models.head import is_tied
from lmlab.numerics.random_effects import Clusters, Interval, two_way_ratio
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.progress import say
from lmlab.studies.kept import kept
from lmlab.topics.encoding.of_model import regression
from lmlab.topics.encoding.pruning import Removal, Way, narrowed, removal_order
from lmlab.topics.encoding.pruning_curves import narrow_model
from lmlab.topics.encoding.token_probability import all_states, choose_windows, mean_of_states

WAYS: tuple[Way, ...] = ("fisher", "encoding")
UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Plan:
    """What is asked for; `--help` has the words."""

    model: Path
    store: Path
    lab: Path = Path("lab/trained-on")
    share: float = 0.3
    steps: int = 16
    batch: int = 4
    context: int = 128
    rate: float = 2e-4
    windows: int = 64
    """Of the text that dimensions are chosen on."""
    measured: int = 96
    """Windows of the text that models are scored on."""
    seed: int = 0


@dataclass(frozen=True)
class Sums:
    """Nats and tokens of each document that was scored."""

    nats_D: tuple[float, ...]
    tokens_D: tuple[float, ...]


@dataclass(frozen=True)
class Rise:
    """Nats per token over the unpruned model, and what training on leaves of them."""

    way: str
    before: Interval
    after: Interval
    """Both trained on."""
    left: Interval
    """`after` as a share of `before`."""
    p: float | None = None
    """That nothing is left, by Holm over the ways."""


def prune(plan: Plan, lm: LanguageModel, store: TokenStore) -> dict[str, Path]:
    """The pruned models, which are written where they are not there. Only the heads that are
    written are made: `lmlab.prune` would compare all ways and shares as well, twice."""
    places: dict[Way, Path] = {way: plan.lab / f"pruned-{way}" for way in WAYS}
    named: dict[str, Path] = {str(way): place for way, place in places.items()}
    if all(place.exists() for place in places.values()):
        return named
    windows = choose_windows(
        lm, store, split="validation", context=plan.context, max_windows=plan.windows
    )
    states = all_states(lm, windows, label="estimation text")
    fit = regression(lm, windows, mean_of_states(lm, states))
    hidden_ND = states.hidden_ND.double().cpu().numpy()
    removed = round(plan.share * hidden_ND.shape[1])
    for way, place in places.items():
        if not place.exists():
            order = removal_order(way, fit.encoding, fit.head, hidden_ND)
            weights = narrowed(Removal(order, removed, "mean"), fit.head, hidden_ND.mean(0))
            head = f"untied, {hidden_ND.shape[1] - removed} of {hidden_ND.shape[1]} dimensions"
            write_model(lm, narrow_model(lm, weights), place, head=head, pruned_from=lm.name)
    return named


def train_on(plan: Plan, store: TokenStore, name: str, parent: Path, *, untie: bool) -> Path:
    """A child of a model, by the batches that all have."""
    begun = time.process_time()
    child = lmlab.train(
        store, parent_path=str(parent), parent_untie=untie, context=plan.context, batch=plan.batch,
        steps=plan.steps, learning_rate=plan.rate, seed=plan.seed, threads=1,
        evaluate_every=plan.steps, evaluation_windows=plan.batch,
        out=plan.lab / f"{name}-{plan.steps}",
    )  # fmt: skip
    say(f"{name}: {time.process_time() - begun:.0f} s of the processor")
    return child.path


def scored(plan: Plan, store: TokenStore, name: str, model: Path) -> Sums:
    """Sums of a model on the test split, kept in the lab folder."""

    def measure() -> Sums:
        score = lmlab.score(model, store, split="test", context=plan.context, windows=plan.measured)
        # sections of a novel are one unit
        units = Clusters(score.clusters.unit_N)
        nats_D, tokens_D = units.sums(np.stack([score.nats_M, score.tokens_M]))
        return Sums(tuple(nats_D.tolist()), tuple(tokens_D.tolist()))

    return kept(plan.lab / f"{name}-on-{plan.measured}.json", Sums, measure)


def rises(before: Sequence[Sums], after: Sequence[Sums]) -> list[Rise]:
    """A row for each way; `before` and `after` hold the unpruned model's, then theirs."""
    tokens_D = np.array(before[0].tokens_D)
    before_WD, after_WD = (np.array([each.nats_D for each in sums]) for sums in (before, after))
    found = []
    for way, at_first_D, at_last_D in zip(
        WAYS, before_WD[1:] - before_WD[0], after_WD[1:] - after_WD[0], strict=True
    ):
        found.append(
            Rise(
                way,
                before=two_way_ratio(at_first_D[None], tokens_D[None]),
                after=two_way_ratio(at_last_D[None], tokens_D[None]),
                left=share_of(at_last_D, at_first_D),
            )
        )
    adjusted = holm([Evidence.of(each.after).p_value for each in found])
    return [
        Rise(each.way, each.before, each.after, each.left, p)
        for each, p in zip(found, adjusted, strict=True)
    ]


def share_of(part_D: np.ndarray, whole_D: np.ndarray) -> Interval:
    """Sum of the parts over that of the wholes, where every whole is above zero; else of the sums
    alone, by leaving no interval."""
    if (whole_D > 0).all():
        return two_way_ratio(part_D[None], whole_D[None])
    share = float(part_D.sum() / whole_D.sum())
    return Interval(
        share, None, None, None, None, 0.95, 1, len(part_D), len(part_D), "none",
        "a document has no rise to begin with",
    )  # fmt: skip


def gained(before: Sequence[Sums], after: Sequence[Sums]) -> Interval:
    """What training on gave the unpruned model: its fall."""
    fall_D = np.array(before[0].nats_D) - np.array(after[0].nats_D)
    return two_way_ratio(fall_D[None], np.array(before[0].tokens_D)[None])


def ends(name: str, value: Interval) -> dict[str, float | None]:
    return {name: value.estimate, f"{name} low": value.low, f"{name} high": value.high}


def plan_of(arguments: Sequence[str] | None = None) -> Plan:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a file, folder or run")
    parser.add_argument(
        "store", type=Path, help="a token store of its tokenizer, with a test split"
    )
    parser.add_argument("--lab", type=Path, default=Plan.lab, help="where models and scores lie")
    parser.add_argument("--share", type=float, default=Plan.share)
    parser.add_argument("--rate", type=float, default=Plan.rate)
    for name in ("steps", "batch", "context", "windows", "measured", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name))
    return Plan(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> list[Rise]:
    plan = plan_of(arguments)
    store = TokenStore(plan.store)
    lm = lmlab.load(plan.model)
    tied = is_tied(lm.model)
    parents = {UNPRUNED: plan.model, **prune(plan, lm, store)}
    del lm  # its weights are not needed while others are trained
    before, after = [], []
    for name, parent in parents.items():
        child = train_on(plan, store, name, parent, untie=tied and name == UNPRUNED)
        before.append(scored(plan, store, name, parent))
        after.append(scored(plan, store, f"{name}-{plan.steps}", child))
    found = rises(before, after)
    with (plan.lab / "trained-on.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [
            {"way": each.way, **ends("before", each.before), **ends("after", each.after),
             **ends("left", each.left), "p by Holm": each.p}
            for each in found
        ]  # fmt: skip
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    tokens = sum(before[0].tokens_D)
    print(f"{tokens:,.0f} tokens of {len(before[0].tokens_D)} documents")
    for name, sums in (("before", before), ("after", after)):
        nats = {n: round(sum(s.nats_D) / tokens, 4) for n, s in zip(parents, sums, strict=True)}
        print(f"{name}: {nats}")
    print(f"the unpruned one gained {gained(before, after)}")
    for each in found:
        print(f"{each.way}: {each.before} became {each.after}, left {each.left}, p {each.p}")
    return found


if __name__ == "__main__":
    main()
