"""A plan: how many seeds, documents and tokens it takes to see a difference.

The noise comes from the `results.json` of a finished study, or is typed. A plan rests on variances
that were measured from a few seeds themselves, so it says how far off they may be.

Legend: S seeds, D documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmlab.errors import UserError
from lmlab.numerics.plan import Noise
from lmlab.numerics.power import VarianceComponents, deviation_interval
from lmlab.results import Result
from lmlab.topics.arrow.family import ArrowStudy
from lmlab.topics.babylm.comparison import BabyLMStudy
from lmlab.topics.headless.arms import REFERENCE
from lmlab.topics.headless.comparison import Headless
from lmlab.topics.planning.options import PlanConfig
from lmlab.topics.registry import read_result


@dataclass(frozen=True)
class Measured:
    """The noise of a study's comparisons, pooled over them, and what its runs cost."""

    source: str
    unit: str
    noise: Noise
    seed_df: int
    """Degrees of freedom behind the standard deviation between seeds; 0: it was typed."""
    document_df: int
    tokens: int | None
    """Training tokens of a run."""
    document_tokens: int | None
    """Scored tokens of a document."""


@dataclass(frozen=True)
class SeedInterval:
    """The 95 % interval of the standard deviation between seeds, and the seeds that its ends take
    (None: no number is enough)."""

    deviation: tuple[float, float]
    seeds: tuple[int | None, int | None]


@dataclass(frozen=True)
class Design:
    """What so many seeds of each side and documents would show."""

    seeds: int
    documents: int | None
    """None: the given text."""
    detectable: float
    """The difference that is seen with the power asked for."""
    power: float
    """The probability that the planned difference is seen."""


@dataclass(frozen=True)
class Enough:
    """The least number of documents for so many seeds, and the tokens of both."""

    seeds: int
    documents: int | None
    """None: no number is enough."""
    training_tokens: int | None
    """Of both sides; None: those of a run are not known."""
    scored_tokens: int | None


@dataclass(frozen=True)
class Plan(Result, kind="plan"):
    """How many seeds, documents and tokens it takes to see a difference."""

    effect: float
    """The difference to be seen, in the unit of `measured`."""
    power: float
    measured: Measured
    seed_interval: SeedInterval | None
    """None where the noise between seeds was typed."""
    seeds_for_this_text: int | None
    designs: tuple[Design, ...]
    enough: tuple[Enough, ...]
    """Empty where the noise between documents is not known."""


def plan(config: PlanConfig) -> Plan:
    """The plan that is asked for.

    Raises `UserError` for a study without several seeds, or of another kind.
    """
    measured = _measured(config)
    noise, effect = measured.noise, config.effect

    def seeds_for(seed_deviation: float) -> int | None:
        return replace(noise, seed=seed_deviation).seeds_for(effect, None, wanted=config.power)

    interval = None
    if measured.seed_df:
        low, high = deviation_interval(noise.seed, measured.seed_df)
        interval = SeedInterval((low, high), (seeds_for(low), seeds_for(high)))
    other_texts = config.documents if noise.document is not None else ()
    return Plan(
        effect=effect,
        power=config.power,
        measured=measured,
        seed_interval=interval,
        seeds_for_this_text=seeds_for(noise.seed),
        designs=tuple(
            Design(
                seeds,
                documents,
                noise.detectable(seeds, documents, wanted=config.power),
                noise.power(effect, seeds, documents),
            )
            for documents in (None, *other_texts)
            for seeds in config.seeds
        ),
        enough=tuple(
            _enough(measured, effect, seeds, config.power)
            for seeds in (config.seeds if noise.document is not None else ())
        ),
    )


def _enough(measured: Measured, effect: float, seeds: int, wanted: float) -> Enough:
    documents = measured.noise.documents_for(effect, seeds, wanted=wanted)
    tokens, of_document = measured.tokens, measured.document_tokens
    return Enough(
        seeds,
        documents,
        None if tokens is None else 2 * seeds * tokens,
        None if documents is None or of_document is None else documents * of_document,
    )


def _measured(config: PlanConfig) -> Measured:
    """What was measured, with what was typed in its place."""
    if config.study is not None:
        measured = _of_study(config)
    else:
        assert config.seed_sd is not None, "checked by the configuration"
        measured = Measured(
            "typed", "the unit of the effect", Noise(0, None, 0, 0, 1), 0, 0, None, None
        )
    typed: dict[str, float] = {}
    for name in ("seed", "document", "section"):
        if (value := getattr(config, f"{name}_sd")) is not None:
            typed[name] = value
    if config.sections is not None:
        typed["sections"] = config.sections
    return replace(
        measured,
        noise=replace(measured.noise, **typed),
        seed_df=0 if "seed" in typed else measured.seed_df,
        document_df=0 if "document" in typed else measured.document_df,
        tokens=config.tokens or measured.tokens,
        document_tokens=config.document_tokens or measured.document_tokens,
    )


def _of_study(config: PlanConfig) -> Measured:
    assert config.study is not None
    study, sides = read_result(config.study), 1
    if isinstance(study, BabyLMStudy):
        unit, scale, components = _of_babylm(study, config)
        sides = 2
    elif isinstance(study, ArrowStudy):
        unit, scale, components = "%", 100.0, _of_arrow(study)
    elif isinstance(study, Headless):
        unit, scale, components = "nats per token", 1.0, _of_headless(study)
    else:
        raise UserError(
            f"{config.study}: a result of kind {study.kind!r}; a plan is made from an arrow, a "
            "headless or a babylm study, or from `seed_sd`"
        )
    if not components:
        raise UserError(
            f"{config.study}: without variance components, for lack of text; give `seed_sd`"
        )
    variances, tokens = zip(*components, strict=True)
    seeds = [(c.seed, c.seed_df) for c in variances if c.seed is not None]
    if not seeds and config.seed_sd is None:
        raise UserError(f"{config.study}: one seed tells nothing of others; give `seed_sd`")
    texts = [
        (c.document, c.document_df)
        for c in variances
        if c.document is not None and c.document_df >= 4
    ]
    noise = Noise(
        seed=scale * math.sqrt(_pooled(seeds)) if seeds else 0.0,
        document=scale * math.sqrt(_pooled(texts)) if texts else None,
        section=scale * math.sqrt(_pooled([(c.section, c.section_df) for c in variances])),
        residual=scale * math.sqrt(_pooled([(c.residual, c.section_df) for c in variances])),
        sections=sum(c.sections_per_document for c in variances) / len(variances),
        sides=sides,
    )
    return Measured(
        str(config.study), unit, noise, sum(df for _, df in seeds), sum(df for _, df in texts),
        study.config.tokens, None if sides == 2 else round(sum(tokens) / len(tokens)),
    )  # fmt: skip


_Components = list[tuple[VarianceComponents, float]]
"""The variance components of each comparison, and its scored tokens of a document."""


def _of_arrow(study: ArrowStudy) -> _Components:
    return [
        (c.components, c.tokens_scored / c.arrow.documents)
        for c in study.comparisons
        if c.components is not None
    ]


def _of_headless(study: Headless) -> _Components:
    """Those of paired differences on one text, of which results keep the seeds' only."""
    return [
        (_seeds_alone(np.subtract(row.nats_per_token, baseline)), part.tokens_scored)
        for part in study.parts
        for baseline in [part.by_key[REFERENCE].nats_per_token]
        for row in part.rows
        if row.difference is not None
    ]


def _of_babylm(study: BabyLMStudy, config: PlanConfig) -> tuple[str, float, _Components]:
    """Unit, its scale, and the components of one task's differences.

    A benchmark's items are given, so the noise is what seeds' scores differ by on those items.
    """
    tasks = {task.about.task: task for task in study.tasks}
    if config.task is not None and config.task not in tasks:
        raise UserError(f"`task` {config.task}: the study has {', '.join(tasks)}")
    if config.task is None and len(tasks) > 1:
        raise UserError(f"{config.study}: name the `task`, one of {', '.join(tasks)}")
    task = tasks[config.task or next(iter(tasks))]
    unit = f"points of {task.about.metric}" if task.about.percent else task.about.metric
    scale = 100.0 if task.about.percent else 1.0
    recipes = [_seeds_alone(np.array(score.by_seed)) for score in task.scores]
    # a difference has the variance of both sides, each taken to be that of any recipe
    return unit, scale, [
        (replace(c, seed=None if c.seed is None else 2 * c.seed), 0.0) for c in recipes
    ]  # fmt: skip


def _seeds_alone(paired_S: np.ndarray) -> VarianceComponents:
    seeds = len(paired_S)
    return VarianceComponents(
        seed=float(paired_S.var(ddof=1)) if seeds > 1 else None,
        document=None,
        section=0.0,
        residual=0.0,
        seed_df=seeds - 1,
        document_df=0,
        section_df=1,
        sections_per_document=1.0,
    )


def _pooled(variances: Sequence[tuple[float, int]]) -> float:
    """Mean of variances weighted by their degrees of freedom."""
    return sum(v * df for v, df in variances) / sum(df for _, df in variances)
