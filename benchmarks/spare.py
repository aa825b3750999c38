"""Why do small models have few dimensions to spare? Width, tying and length of training varied.

    lmlab prepare eltec_eng/ENG*.txt --vocabulary 4096 --split.validation 0.25 --split.test 0.35 \
        --out store
    python benchmarks/spare.py store --seeds 3 --tokens 300000
    python benchmarks/spare.py store --given RUN0 RUN1 RUN2     # finished runs, a seed each

Trains models of each width, of some both tied and untied, with each seed, and measures what the
removal of dimensions of the output embedding costs them on other text than it was chosen on; what
is left of that when both the pruned and the unpruned model are trained on; and when in training the
output embedding comes to hold frequency.

Notable:
- What is there already, runs and measures, is not made again: the same command goes on. All seeds
  of a width come before the next width (in the order given), so that what is there is whole.
- Tied and untied models begin alike: without the zeros that untied ones begin with by default.
- Rises and losses are over seeds and novels (`numerics.random_effects`); steps, ranks and R2 over
  seeds alone. Models of different widths or tying are not pairs, a model and its own earlier
  checkpoint or child are.
- A time to half is where a quantity first has half of its last value, between two checkpoints by
  the logarithm of the step.

Shapes: S seeds, C clusters of text, N positions, D width, H removals.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

import lmlab
from lmlab.config import digest
from lmlab.data.unigram import log_unigram
from lmlab.extend import (
    Evidence,
    ForestRow,
    Interval,
    Report,
    Result,
    Section,
    Series,
    Table,
    forest_plot,
    holm,
    interval_over_seeds,
    line_plot,
    register_result,
)
from lmlab.numerics.geometry import RowMoments, cloud
from lmlab.numerics.random_effects import two_way_difference, two_way_interval, two_way_ratio
from lmlab.numerics.text_directions import mean_fisher
from lmlab.pages.page import Figure
from lmlab.studies.kept import kept
from lmlab.topics.encoding.dynamics import Dynamics, crossing
from lmlab.topics.encoding.of_model import output_head, regression, training_counts
from lmlab.topics.encoding.pruning import Removal, Way, metrics_of_heads, removal_order
from lmlab.topics.encoding.token_probability import (
    all_states,
    choose_windows,
    mean_of_states,
)

Array = np.ndarray

WAYS: tuple[Way, ...] = ("fisher", "encoding", "hidden", "svd")
SHARES = (0.1, 0.3, 0.5)
ASKED_SHARE = 0.3
TUNED_WAYS: tuple[Way, ...] = ("fisher", "encoding")
UNPRUNED = "unpruned"
_NATS = 2
"""Of the metrics of a head: the rise of the target's nats."""


@dataclass(frozen=True)
class Plan:
    """What is asked for; `--help` has the words."""

    store: Path
    lab: Path = Path("lab/spare")
    widths: tuple[int, ...] = (64, 32, 128)
    asked_width: int = 64
    """Of the questions that are about one width, of the models that are trained on, and of those
    that are watched over their checkpoints."""
    tied_widths: tuple[int, ...] = (64,)
    """Widths that have tied models beside the untied ones."""
    tuned_tied: bool = False
    """Also train tied models on after the removal."""
    seeds: int = 3
    tokens: int = 300_000
    context: int = 128
    batch: int = 8
    short: int = 64
    """The step of the short models, a checkpoint of the long ones."""
    windows: int = 64
    """Of the text that directions are chosen on."""
    measured: int = 64
    """Windows of the text that they are measured on."""
    tuned_steps: int = 100
    tuned_rate: float = 1e-3
    threads: int = 1
    given: tuple[Path, ...] = ()
    """Finished runs of one kind, a seed each, whose checkpoints are measured; none is trained."""

    def arms(self) -> list[Arm]:
        """Width by width, untied first."""
        arms = [Arm(width, tied) for width in self.widths for tied in (False, True)]
        return [arm for arm in arms if not arm.tied or arm.width in self.tied_widths]

    def is_tuned(self, arm: Arm) -> bool:
        """Whether models of an arm are trained on after a removal."""
        wanted = arm.width == self.asked_width and (self.tuned_tied or not arm.tied)
        return wanted and self.tuned_steps > 0

    def training(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Options of `lmlab.train`."""
        return {
            "architecture": "qwen3", "layers": 2, "heads": 4, "width": arm.width,
            "zero_init": False, "tied": arm.tied, "context": self.context, "batch": self.batch,
            "tokens": self.tokens, "seed": seed, "threads": self.threads,
            "evaluate_every": 10_000, "checkpoints_every": 10_000,
            "checkpoints_logarithmic": True, "checkpoints_per_doubling": 4,
        }  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """Models that differ by their seeds."""

    width: int
    tied: bool

    @property
    def name(self) -> str:
        return f"{self.width}-{'tied' if self.tied else 'untied'}"


@dataclass(frozen=True)
class Removed:
    """What removals cost one checkpoint, on text that they were not chosen on."""

    step: int
    documents: tuple[str, ...]
    """Of each cluster."""
    tokens_C: np.ndarray
    nats_C: np.ndarray
    """Sums over a cluster's tokens."""
    unigram_C: np.ndarray
    """The same by the training split's unigram distribution."""
    rise_HC: np.ndarray
    """Rise of the nats; a row for each of `WAYS` and, within it, of `SHARES`."""
    fitted: tuple[float, ...]
    """Mean rise by fisher on the text that it was chosen on, for each of `SHARES`."""
    encoding_r2: float
    """Of -log mean probability by the embedding alone, tokens held out."""
    effective_rank: float
    """exp of the entropy of the shares of the centred states' singular values."""
    participation: float
    """(sum l)^2 / sum l^2 of the eigenvalues of the states' covariance."""
    fisher_rank: float
    """exp of the entropy of the shares of the eigenvalues of C^1/2 F C^1/2: over how many
    directions what changes the predictions is spread."""


@dataclass(frozen=True)
class Tuned:
    """Nats of a model and its pruned children on the measured text, summed by cluster."""

    documents: tuple[str, ...]
    tokens_C: np.ndarray
    before_WC: np.ndarray
    """Rows: unpruned, then each of `TUNED_WAYS`."""
    after_WC: np.ndarray
    """When all have been trained on."""


# ---------------------------------------------------------------- one model


class Lab:
    """Runs and what is measured of them, in one folder."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.store = plan, lmlab.TokenStore(plan.store)

    def run(self, arm: Arm, seed: int) -> lmlab.Run:
        """The trained run, which is trained where it is not there."""
        return lmlab.train(
            self.store,
            **self.plan.training(arm, seed),
            out=self.plan.lab / f"{arm.name}-s{seed}",
        )

    def file(self, name: str, *decided: Any) -> Path:
        """Where a measure of a model is kept; `decided` is what decides it."""
        plan = self.plan
        asked = digest([self.store.fingerprint, plan.tokens, plan.context, *decided])[:10]
        return plan.lab / "measured" / f"{name}-{asked}.json"

    def removed(self, run: lmlab.Run, step: int) -> Removed:
        """What removals cost at a step."""
        plan, checkpoint = self.plan, run.path / "checkpoints" / f"step-{step:08d}"
        decided = [plan.windows, plan.measured, step, WAYS, SHARES]
        file = self.file(f"{run.path.name}-removed", *decided)
        return kept(file, Removed, lambda: self._removed(checkpoint, step))

    def _removed(self, checkpoint: Path, step: int) -> Removed:
        lm = lmlab.load(checkpoint)
        chosen_on, measured_on = (
            choose_windows(
                lm, self.store, split=split, context=self.plan.context, max_windows=windows
            )
            for split, windows in (
                ("validation", self.plan.windows), ("test", self.plan.measured),
            )
        )  # fmt: skip
        chosen, measured = (
            all_states(lm, windows, label=f"{checkpoint.parents[1].name}, step {step}")
            for windows in (chosen_on, measured_on)
        )
        fit = regression(lm, chosen_on, mean_of_states(lm, chosen))
        hidden_ND = chosen.hidden_ND.double().numpy()
        mean_D, width = hidden_ND.mean(0), hidden_ND.shape[1]
        orders = [removal_order(way, fit.encoding, fit.head, hidden_ND) for way in WAYS]
        removals = [
            Removal(order, round(share * width), "mean") for order, share in product(orders, SHARES)
        ]
        rise_HN = metrics_of_heads(
            measured.hidden_ND.numpy(), measured.targets_N.numpy(), fit.head, removals, mean_D
        )[..., _NATS]
        fitted_HN = metrics_of_heads(
            hidden_ND, chosen.targets_N.numpy(), fit.head, removals[: len(SHARES)], mean_D
        )[..., _NATS]
        moments = RowMoments(width)
        moments.update(hidden_ND)
        shape = cloud(moments)
        logits_NV = measured.hidden_ND.double().numpy() @ fit.head.embedding_VD.T
        logits_NV += fit.head.bias_V
        log_z_N = np.logaddexp.reduce(logits_NV, axis=1)
        targets_N = measured.targets_N.numpy()
        nats_N = log_z_N - logits_NV[np.arange(len(targets_N)), targets_N]
        log_p_V = log_unigram(training_counts(lm, self.store, len(fit.head.embedding_VD)))
        sums = measured.clusters.sums(
            np.stack([np.ones(len(targets_N)), nats_N, -log_p_V[targets_N], *rise_HN])
        )
        return Removed(
            step=step,
            documents=tuple(str(d) for d in measured.clusters.documents_C),
            tokens_C=sums[0], nats_C=sums[1], unigram_C=sums[2], rise_HC=sums[3:],
            fitted=tuple(fitted_HN.mean(1).tolist()),
            encoding_r2=fit.encoding.embedding_alone.r2,
            effective_rank=shape.centred.effective_rank or 0.0,
            participation=shape.participation_ratio or 0.0,
            fisher_rank=fisher_rank(fit.head.embedding_VD, fit.head.bias_V, hidden_ND),
        )  # fmt: skip

    def dynamics(self, arm: Arm, seed: int, run: lmlab.Run) -> Dynamics:
        """`lmlab.dynamics` of all checkpoints."""
        return kept(
            self.file(f"{arm.name}-s{seed}-dynamics"),
            Dynamics,
            lambda: lmlab.dynamics(run, self.store, context=self.plan.context),
        )

    def unigram_loss(self, run: lmlab.Run) -> float:
        """Nats per token of the training split's unigram distribution on the text of `dynamics`."""
        lm = lmlab.load(run)
        windows = choose_windows(
            lm, self.store, split="validation", context=self.plan.context, max_windows=32
        )
        targets_N = all_states(lm, windows, label="unigram").targets_N.numpy()
        rows = len(output_head(lm).embedding_VD)
        return float(-log_unigram(training_counts(lm, self.store, rows))[targets_N].mean())

    def tuned(self, arm: Arm, seed: int, run: lmlab.Run) -> Tuned:
        """A model and its pruned children, before and after they are trained on."""
        plan = self.plan
        decided = [plan.tuned_steps, plan.tuned_rate, plan.windows, plan.measured, TUNED_WAYS]
        file = self.file(f"{arm.name}-s{seed}-tuned", *decided)
        return kept(file, Tuned, lambda: self._tuned(arm, seed, run))

    def _tuned(self, arm: Arm, seed: int, run: lmlab.Run) -> Tuned:
        plan, base = self.plan, self.plan.lab / f"{arm.name}-s{seed}-children"
        parents: list[tuple[str, Path, bool]] = [(UNPRUNED, run.path, arm.tied)]
        for way in TUNED_WAYS:
            out = base / f"pruned-{way}"
            if not out.exists():
                lmlab.prune(
                    run, self.store, share=ASKED_SHARE, way=way, untie=arm.tied, out=out,
                    shares=[ASKED_SHARE], windows=plan.windows, context=plan.context, prompts=0,
                )  # fmt: skip
            parents.append((way, out, False))
        before, after = [], []
        for name, parent, untie in parents:
            child = lmlab.train(
                self.store, parent_path=str(parent), parent_untie=untie, context=plan.context,
                batch=plan.batch, steps=plan.tuned_steps, learning_rate=plan.tuned_rate,
                seed=seed + 1000, threads=plan.threads, evaluate_every=10_000,
                out=base / f"{name}-{plan.tuned_steps}",
            )  # fmt: skip
            before.append(self._score(parent))
            after.append(self._score(child.path))
        clusters = before[0].clusters
        return Tuned(
            documents=tuple(str(d) for d in clusters.documents_C),
            tokens_C=clusters.sums(before[0].tokens_M)[0],
            before_WC=clusters.sums(np.stack([score.nats_M for score in before])),
            after_WC=clusters.sums(np.stack([score.nats_M for score in after])),
        )

    def _score(self, model: Path) -> Any:
        plan = self.plan
        return lmlab.score(
            model, self.store, split="test", context=plan.context, windows=plan.measured
        )


def fisher_rank(embedding_VD: Array, bias_V: Array, hidden_ND: Array) -> float:
    """exp of the entropy of the shares of the eigenvalues of C^1/2 F C^1/2, C the covariance of the
    states and F `mean_fisher`."""
    values_D, vectors_DD = np.linalg.eigh(np.cov(hidden_ND, rowvar=False, bias=True))
    root_DD = (vectors_DD * np.sqrt(np.maximum(values_D, 0))) @ vectors_DD.T
    cost_D = np.linalg.eigvalsh(root_DD @ mean_fisher(embedding_VD, bias_V, hidden_ND) @ root_DD)
    share_D = np.maximum(cost_D, 0) / np.maximum(cost_D, 0).sum()
    share_D = share_D[share_D > 0]
    return float(np.exp(-(share_D * np.log(share_D)).sum()))


# ---------------------------------------------------------------- over seeds


@dataclass(frozen=True)
class Rise:
    """What a removal costs an arm."""

    arm: str
    step: int
    way: str
    share: float
    nats: Interval
    of_known: Interval | None
    """As a share of what the model knows beyond the unigram distribution; None where that is not
    above zero in every novel."""


@dataclass(frozen=True)
class OfArm:
    """An arm at a step, beside its rises; over seeds, the loss over novels too."""

    arm: str
    step: int
    loss: Interval
    known: Interval
    """Nats below the unigram distribution."""
    encoding_r2: Interval
    effective_rank: Interval
    participation: Interval
    fisher_rank: Interval


@dataclass(frozen=True)
class Times:
    """Steps at which half is there, of an arm; None where a seed has none."""

    arm: str
    frequency: Interval | None
    context: Interval | None
    loss: Interval | None
    over_context: Interval | None
    """log2 of frequency's step over context's, a seed a pair."""
    over_loss: Interval | None
    late: Interval | None
    """The same as `over_loss` where both have 90 % of their last value (`lmlab dynamics`)."""
    moved: Interval | None
    """At frequency's step: the weights' distance from the first, of the last's distance."""
    r2: Interval
    """Of log frequency, at the last step."""


@dataclass(frozen=True)
class AtStep:
    """Means over the seeds of an arm at a checkpoint; no intervals."""

    arm: str
    step: int
    r2_frequency: float
    loss: float
    unigram_kl: float
    by_prior: float
    """Share of the loss's fall that the fall of the unigram's KL to the mean distribution is."""


@dataclass(frozen=True)
class Remaining:
    """Rise of a pruned model over the unpruned one."""

    arm: str
    way: str
    before: Interval
    after: Interval
    """Both trained on."""
    gained: Interval
    """What training on gave the unpruned one: its fall."""


@dataclass(frozen=True)
class Asked:
    """A question fixed before the run, and its answer."""

    question: str
    unit: str
    evidence: Evidence
    p: float | None = None
    """By Holm over all."""


@register_result
@dataclass(frozen=True)
class Spare(Result, kind="spare"):
    """Removal, training on, and dynamics of small models by width and tying."""

    store: str
    tokens: int
    seeds: int
    unigram_loss: float
    """Of the text of the dynamics."""
    asked: tuple[Asked, ...]
    rises: tuple[Rise, ...]
    arms: tuple[OfArm, ...]
    times: tuple[Times, ...]
    steps: tuple[AtStep, ...]
    remaining: tuple[Remaining, ...]


def row_of(way: str, share: float) -> int:
    """The row of a removal in `Removed.rise_HC`."""
    return WAYS.index(cast(Way, way)) * len(SHARES) + SHARES.index(share)


def rises_of(models: Sequence[Removed], way: str, share: float = ASKED_SHARE) -> Array:
    """Nats per token by seed and cluster (S, C)."""
    return np.stack([each.rise_HC[row_of(way, share)] / each.tokens_C for each in models])


def slope(by_width: dict[int, Array]) -> Array:
    """Least-squares slope over log2 width, of values (S, C) at each width."""
    x = np.log2(np.array(list(by_width), dtype=float))
    weight = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return np.tensordot(weight, np.stack(list(by_width.values())), 1)


def halves(watched: Dynamics, unigram_loss: float) -> tuple[float, float, float]:
    """Steps at which R2 of log frequency, the loss's distance below the unigram loss, and its whole
    fall have half of their last value; NaN where that is not above zero."""
    steps_K = np.array([s.step for s in watched.snapshots], dtype=float)
    loss_K = np.array([s.loss for s in watched.snapshots])
    values = (
        np.array([s.r2_frequency for s in watched.snapshots]),
        np.maximum(unigram_loss - loss_K, 0),
        loss_K[0] - loss_K,
    )
    found = (crossing(steps_K, each_K, share=0.5).step for each_K in values)
    frequency, context, loss = (np.nan if step is None else step for step in found)
    return frequency, context, loss


def times_of(arm: Arm, watched: Sequence[Dynamics], unigram_loss: float) -> Times:
    frequency_S, context_S, loss_S = np.array([halves(w, unigram_loss) for w in watched]).T
    return Times(
        arm.name,
        frequency=_of_all(frequency_S),
        context=_of_all(context_S),
        loss=_of_all(loss_S),
        over_context=_of_all(np.log2(frequency_S / context_S)),
        over_loss=_of_all(np.log2(frequency_S / loss_S)),
        late=_of_all(
            np.log2([(w.frequency.step or np.nan) / (w.loss.step or np.nan) for w in watched])
        ),
        moved=_of_all(
            np.array([moved_at(w, step) for w, step in zip(watched, frequency_S, strict=True)])
        ),
        r2=interval_over_seeds([w.snapshots[-1].r2_frequency for w in watched]),
    )


def moved_at(watched: Dynamics, step: float) -> float:
    """How far the weights are from the first ones at a step, of how far they end; between
    checkpoints by the logarithm of the step."""
    steps = np.array([s.step for s in watched.snapshots], dtype=float)
    return float(np.interp(np.log1p(step), np.log1p(steps), watched.moved))


def _of_all(values_S: Array) -> Interval | None:
    return interval_over_seeds(values_S) if np.isfinite(values_S).all() else None


def steps_of(arm: Arm, watched: Sequence[Dynamics]) -> list[AtStep]:
    """Means over seeds; all have the same checkpoints."""
    rows = []
    for snapshots in zip(*(w.snapshots for w in watched), strict=True):
        fall = [w.snapshots[0].loss - s.loss for w, s in zip(watched, snapshots, strict=True)]
        prior = [
            w.snapshots[0].unigram_kl - s.unigram_kl
            for w, s in zip(watched, snapshots, strict=True)
        ]
        rows.append(
            AtStep(
                arm.name, snapshots[0].step,
                r2_frequency=float(np.mean([s.r2_frequency for s in snapshots])),
                loss=float(np.mean([s.loss for s in snapshots])),
                unigram_kl=float(np.mean([s.unigram_kl for s in snapshots])),
                by_prior=sum(prior) / sum(fall) if sum(fall) else 0.0,
            )
        )  # fmt: skip
    return rows


def arm_of(name: str, models: Sequence[Removed]) -> OfArm:
    tokens_SC = np.stack([m.tokens_C for m in models])
    documents_C = np.array(models[0].documents)
    nats_SC = np.stack([m.nats_C for m in models])
    unigram_SC = np.stack([m.unigram_C for m in models])
    return OfArm(
        name, models[0].step,
        loss=two_way_ratio(nats_SC, tokens_SC, documents_C=documents_C),
        known=two_way_ratio(unigram_SC - nats_SC, tokens_SC, documents_C=documents_C),
        encoding_r2=interval_over_seeds([m.encoding_r2 for m in models]),
        effective_rank=interval_over_seeds([m.effective_rank for m in models]),
        participation=interval_over_seeds([m.participation for m in models]),
        fisher_rank=interval_over_seeds([m.fisher_rank for m in models]),
    )  # fmt: skip


def all_rises(name: str, models: Sequence[Removed]) -> list[Rise]:
    first, documents_C = models[0], np.array(models[0].documents)
    known_SC = np.stack([m.unigram_C - m.nats_C for m in models])
    rows = []
    for way, share in product(WAYS, SHARES):
        rise_SC = np.stack([m.rise_HC[row_of(way, share)] for m in models])
        nats = two_way_ratio(
            rise_SC, np.stack([m.tokens_C for m in models]), documents_C=documents_C
        )
        of_known = None
        if (known_SC > 0).all():
            of_known = two_way_ratio(rise_SC, known_SC, documents_C=documents_C)
        rows.append(Rise(name, first.step, way, share, nats, of_known))
    return rows


def remaining_of(arm: Arm, models: Sequence[Tuned]) -> list[Remaining]:
    tokens_C, documents_C = models[0].tokens_C, np.array(models[0].documents)

    def interval(nats_SC: Array) -> Interval:
        return two_way_interval(nats_SC / tokens_C, weights_C=tokens_C, documents_C=documents_C)

    before_SWC = np.stack([m.before_WC for m in models])
    after_SWC = np.stack([m.after_WC for m in models])
    return [
        Remaining(
            arm.name, way,
            before=interval(before_SWC[:, number] - before_SWC[:, 0]),
            after=interval(after_SWC[:, number] - after_SWC[:, 0]),
            gained=interval(before_SWC[:, 0] - after_SWC[:, 0]),
        )
        for number, way in enumerate(TUNED_WAYS, start=1)
    ]  # fmt: skip


def questions(
    plan: Plan,
    models: dict[tuple[Arm, int], list[Removed]],
    times: Sequence[Times],
    remaining: Sequence[Remaining],
) -> tuple[Asked, ...]:
    """The questions of the plan that the runs can answer; p by Holm over these."""
    width = plan.asked_width
    untied, tied = Arm(width, False), Arm(width, True)
    last = max(step for _, step in models)
    first = models[untied, last][0]
    on_text: dict[str, Any] = {
        "weights_C": first.tokens_C, "documents_C": np.array(first.documents)
    }  # fmt: skip

    def rises(arm: Arm, way: str, step: int = last) -> Array:
        return rises_of(models[arm, step], way)

    found = [
        Asked(
            f"tied less untied, width {width}, 30 % by {way}", "nats",
            Evidence.of(two_way_difference(rises(tied, way), rises(untied, way), **on_text)),
        )
        for way in ("encoding", "fisher")
    ]  # fmt: skip
    if len(plan.widths) > 1:
        for way in ("fisher", "encoding"):
            of_widths = {w: rises(Arm(w, False), way) for w in sorted(plan.widths)}
            found.append(
                Asked(
                    f"a doubling of the width, untied, 30 % by {way}", "nats",
                    Evidence.of(two_way_interval(slope(of_widths), **on_text)),
                )
            )  # fmt: skip
    longer_SC = rises(untied, "fisher") - rises(untied, "fisher", plan.short)
    found.append(
        Asked(
            f"long less short, untied, width {width}, 30 % by fisher", "nats",
            Evidence.of(two_way_interval(longer_SC, **on_text)),
        )
    )  # fmt: skip
    for each in remaining:
        if (each.arm, each.way) == (untied.name, "encoding"):
            question = f"rise after training on, untied, width {width}, 30 % by encoding"
            found.append(Asked(question, "nats", Evidence.of(each.after)))
    for each in times:
        if each.arm == untied.name and each.over_context is not None:
            found.append(
                Asked(
                    f"step of frequency over that of context, untied, width {width}", "log2",
                    Evidence.of(each.over_context),
                )
            )  # fmt: skip
    adjusted = holm([each.evidence.p_value for each in found])
    return tuple(replace(each, p=p) for each, p in zip(found, adjusted, strict=True))


def spare(plan: Plan) -> Spare:
    """Trains and measures what is not there yet. Raises `UserError` as `lmlab.train`."""
    lab = Lab(plan)
    models: dict[tuple[Arm, int], list[Removed]] = {}
    times: list[Times] = []
    steps: list[AtStep] = []
    remaining: list[Remaining] = []
    unigram_loss = np.nan
    for arm in plan.arms():
        watched: list[Dynamics] = []
        tuned: list[Tuned] = []
        for seed in range(plan.seeds):
            print(f"{arm.name}, seed {seed}")
            run = lab.run(arm, seed)
            for step in (plan.short, run.config.steps):
                removed = lab.removed(run, step)
                models.setdefault((arm, step), []).append(removed)
            if arm.width == plan.asked_width:
                watched.append(lab.dynamics(arm, seed, run))
            if np.isnan(unigram_loss):
                unigram_loss = lab.unigram_loss(run)
            if plan.is_tuned(arm):
                tuned.append(lab.tuned(arm, seed, run))
        if watched:
            times.append(times_of(arm, watched, unigram_loss))
            steps += steps_of(arm, watched)
        if tuned:
            remaining += remaining_of(arm, tuned)
    return Spare(
        store=str(lab.store.path),
        tokens=plan.tokens,
        seeds=plan.seeds,
        unigram_loss=unigram_loss,
        asked=questions(plan, models, times, remaining),
        rises=tuple(row for (arm, _), m in models.items() for row in all_rises(arm.name, m)),
        arms=tuple(arm_of(arm.name, m) for (arm, _), m in models.items()),
        times=tuple(times),
        steps=tuple(steps),
        remaining=tuple(remaining),
    )


def of_given(plan: Plan) -> Spare:
    """The removals alone, of finished runs that have the same checkpoints."""
    lab, name = Lab(plan), plan.given[0].name
    runs = [lmlab.Run(path) for path in plan.given]
    steps = [int(path.name.removeprefix("step-")) for path in _checkpoints(runs[0])]
    models = {step: [lab.removed(run, step) for run in runs] for step in steps}
    first, last = models[steps[0]], models[steps[-1]]
    on_text: dict[str, Any] = {
        "weights_C": first[0].tokens_C, "documents_C": np.array(first[0].documents)
    }  # fmt: skip
    longer_SC = rises_of(last, "fisher") - rises_of(first, "fisher")
    evidence = Evidence.of(two_way_interval(longer_SC, **on_text))
    question = f"step {steps[-1]:,} less step {steps[0]:,}, 30 % by fisher"
    return Spare(
        store=str(lab.store.path),
        tokens=runs[0].config.steps * runs[0].config.step_windows * runs[0].config.context,
        seeds=len(runs),
        unigram_loss=float(first[0].unigram_C.sum() / first[0].tokens_C.sum()),
        asked=(Asked(question, "nats", evidence),),
        rises=tuple(row for of_step in models.values() for row in all_rises(name, of_step)),
        arms=tuple(arm_of(name, of_step) for of_step in models.values()),
        times=(), steps=(), remaining=(),
    )  # fmt: skip


def _checkpoints(run: lmlab.Run) -> list[Path]:
    return sorted((run.path / "checkpoints").glob("step-*"))


# ---------------------------------------------------------------- how it is shown


def ends(value: Interval | Evidence | None, decimals: int = 4) -> list[str]:
    """Estimate and bounds, as cells; empty without a value."""
    if value is None:
        return ["", "", ""]
    numbers = (value.estimate, value.low, value.high)
    return ["" if number is None else f"{number:.{decimals}f}" for number in numbers]


def three(name: str) -> list[str]:
    """The columns of `ends`."""
    return [name, f"{name} low", f"{name} high"]


def tables(result: Spare) -> list[Table]:
    over = f"{result.seeds} seeds; 95 % intervals over seeds and novels"
    alone = f"{result.seeds} seeds; 95 % intervals over seeds alone"
    asked = [
        [a.question, a.unit, *ends(a.evidence), "" if a.p is None else f"{a.p:.3g}"]
        for a in result.asked
    ]
    rises = [
        [f"{r.arm}, step {r.step}, {r.share:.0%}", r.way, *ends(r.nats), *ends(r.of_known)]
        for r in result.rises
    ]
    arms = [
        [f"{a.arm}, step {a.step}", *ends(a.loss), *ends(a.known), *ends(a.encoding_r2),
         *ends(a.effective_rank, 1), *ends(a.participation, 1), *ends(a.fisher_rank, 1)]
        for a in result.arms
    ]  # fmt: skip
    times = [
        [t.arm, *ends(t.frequency, 1), *ends(t.context, 1), *ends(t.loss, 1),
         *ends(t.over_context, 2), *ends(t.over_loss, 2), *ends(t.late, 2),
         *ends(t.moved, 3), *ends(t.r2, 3)]
        for t in result.times
    ]  # fmt: skip
    remaining = [
        [r.arm, r.way, *ends(r.before), *ends(r.after), *ends(r.gained)] for r in result.remaining
    ]
    steps = [
        [f"{s.arm}, step {s.step}", f"{s.r2_frequency:.3f}", f"{s.loss:.3f}",
         f"{s.unigram_kl:.4f}", f"{s.by_prior:.3f}"]
        for s in result.steps
    ]  # fmt: skip
    return [
        Table(
            ["question", "unit", *three("difference"), "p"], asked,
            f"What was asked. {over}; of steps over seeds alone. p by Holm over all.",
        ),
        Table(
            ["row", "chosen by", *three("rise, nats"), *three("of what is known")], rises,
            f"Rise of the loss on other novels, means kept. {over}.",
        ),
        Table(
            ["row", *three("loss"), *three("known"), *three("encoding R2"),
             *three("effective rank"), *three("participation"), *three("fisher rank")], arms,
            f"{over}; R2 and ranks over seeds alone.",
        ),
        Table(
            ["row", *three("frequency"), *three("context"), *three("loss"),
             *three("log2 frequency / context"), *three("log2 frequency / loss"),
             *three("the same at 90 %"), *three("moved at frequency"), *three("last R2")],
            times, f"Steps to half. {alone}.",
        ),
        Table(
            ["row", "chosen by", *three("rise before"), *three("rise after"),
             *three("unpruned gained")], remaining, f"Trained on after the removal. {over}.",
        ),
        Table(
            ["row", "R2 of log frequency", "loss", "unigram KL", "share by prior"], steps,
            f"Means over {result.seeds} seeds.",
        ),
    ]  # fmt: skip


def dynamics_figure(result: Spare) -> Figure:
    """What the embedding holds of frequency, and what context gives, over the steps."""
    of_arms = {t.arm: [s for s in result.steps if s.arm == t.arm and s.step] for t in result.times}
    curves = [
        Series(f"{arm}: {label}", [s.step for s in steps], [value(s) for s in steps],
               colour=number, dashed=label != "frequency")
        for number, (arm, steps) in enumerate(of_arms.items())
        for label, value in (
            ("frequency", lambda s, last=steps[-1]: s.r2_frequency / last.r2_frequency),
            ("context", lambda s, last=steps[-1]: max(0.0, result.unigram_loss - s.loss)
             / max(1e-9, result.unigram_loss - last.loss)),
        )
    ]  # fmt: skip
    return line_plot(
        curves, x_label="step", y_label="share of the last value", log_x=True,
        finding="What the embedding holds of frequency, and what context gives.",
        alt="Curves that rise from 0 to 1, those of frequency first.",
        caption="Solid: R2 of log frequency. Dashed: loss below the unigram loss. Means of seeds.",
    )  # fmt: skip


def report(result: Spare) -> Report:
    """The page: what was asked, three pictures, the tables."""
    names = ["asked", "removal", "models", "times", "training on", "checkpoints"]
    made = dict(zip(names, tables(result), strict=True))
    last = max(r.step for r in result.rises)
    shown = [r for r in result.rises if r.share == ASKED_SHARE and r.step == last]
    rows = [ForestRow.of(f"{r.arm}, {r.way}", r.nats) for r in shown]
    removal = forest_plot(
        rows, x_label="rise of the loss at 30 % removed, nats per token", reference=0.0,
        finding="What it costs to remove 30 %, on other novels.",
        alt="A row for each width, tying and way of choosing.",
    )  # fmt: skip
    primary = result.asked[0]
    low, high = primary.evidence.low, primary.evidence.high
    between = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    finding = f"{primary.question}: {primary.evidence.estimate:+.3f} nats per token{between}."
    sections = [
        Section("What was asked", tables=[made["asked"]]),
        Section("Removal", figures=[removal], tables=[made["removal"], made["models"]]),
    ]
    if result.remaining:
        sections.append(Section("Trained on", tables=[made["training on"]]))
    if result.times:
        figure, shown_tables = dynamics_figure(result), [made["times"], made["checkpoints"]]
        sections.append(Section("When", figures=[figure], tables=shown_tables))
    return Report("Dimensions to spare", finding, sections)


def plan_of(arguments: Sequence[str] | None = None) -> tuple[Plan, Path]:
    """The plan and the folder of results of a command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("store", type=Path, help="a token store, split by document")
    parser.add_argument("--lab", type=Path, default=Plan.lab, help="where runs and measures lie")
    parser.add_argument("--out", type=Path, help="folder of the result (default: LAB/result)")
    parser.add_argument("--widths", type=int, nargs="+", default=Plan.widths)
    parser.add_argument("--tied-widths", type=int, nargs="*", default=Plan.tied_widths)
    parser.add_argument("--given", type=Path, nargs="*", default=Plan.given)
    parser.add_argument("--tuned-tied", action="store_true", help="train tied models on as well")
    for name in (
        "asked_width", "seeds", "tokens", "context", "batch", "short", "windows", "measured",
        "tuned_steps", "threads",
    ):  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Plan, name))
    asked = vars(parser.parse_args(arguments))
    out = asked.pop("out") or asked["lab"] / "result"
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in asked.items()}
    return Plan(**values), out


def main(arguments: Sequence[str] | None = None) -> Spare:
    """Writes results.json, report.html and a CSV file for each table."""
    plan, out = plan_of(arguments)
    result = of_given(plan) if plan.given else spare(plan)
    result.save(out)
    names = ("asked", "rises", "arms", "times", "remaining", "steps")
    for name, table in zip(names, tables(result), strict=True):
        (out / f"{name}.csv").write_text(table.csv(), "utf-8")
    for each in result.asked:
        estimate, low, high = ends(each.evidence)
        p = "" if each.p is None else f"p {each.p:.3g}"
        print(f"{each.question}: {estimate} [{low}, {high}] {each.unit} {p}")
    print(f"\n{result.summary()}\n{out}")
    return result


if __name__ == "__main__":
    main()
