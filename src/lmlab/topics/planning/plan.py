"""A plan: how many seeds, documents and tokens it takes to see a difference.

The noise comes from the `results.json` of a finished study, or is typed. A plan rests on variances
that were measured from a few seeds themselves, so it says how far off they may be.

Legend: S seeds, D documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lmlab.errors import UserError
from lmlab.numerics.plan import Noise
from lmlab.numerics.power import deviation_interval
from lmlab.results import Result
from lmlab.topics.headless.arms import REFERENCE
from lmlab.topics.headless.comparison import Headless
from lmlab.topics.planning.options import PlanConfig
from lmlab.topics.redraw import read_results

_UNITS = {"arrow": "%", "headless": "nats per token"}
_SCALES = {"arrow": 100.0, "headless": 1.0}


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
class Plan(Result, kind="plan", views="lmlab.topics.planning.report"):
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
    results = read_results(config.study)
    study = results.get("study") or results["kind"]
    if study not in _UNITS:
        raise UserError(
            f"{config.study}: a {study} study; a plan is made from an arrow or a headless study, "
            "or from --seed-sd"
        )
    try:
        components = _components(results)
        tokens = results["config"]["tokens"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{config.study}: without variance components ({error!r}); run the study again with "
            "this version (its runs are kept), or give --seed-sd"
        ) from error
    seeds = [c for c in components if c["seed"] is not None]
    if not seeds and config.seed_sd is None:
        raise UserError(f"{config.study}: one seed tells nothing of others; give --seed-sd")
    scale = _SCALES[study]
    texts = [c for c in components if c["document"] is not None and c["document_df"] >= 4]
    sections = sum(c["sections_per_document"] for c in components) / len(components)
    noise = Noise(
        seed=scale * math.sqrt(_pooled(seeds, "seed", "seed_df")) if seeds else 0.0,
        document=scale * math.sqrt(_pooled(texts, "document", "document_df")) if texts else None,
        section=scale * math.sqrt(_pooled(components, "section", "section_df")),
        residual=scale * math.sqrt(_pooled(components, "residual", "section_df")),
        sections=sections,
    )
    return Measured(
        str(config.study), _UNITS[study], noise, sum(c["seed_df"] for c in seeds),
        sum(c["document_df"] for c in texts), tokens,
        round(sum(c["document_tokens"] for c in components) / len(components)),
    )  # fmt: skip


def _components(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "cells" in results:
        return [cell["components"] for cell in results["cells"] if cell["components"] is not None]
    study = Headless.from_json(results)
    return [
        _seeds_alone(row.nats_per_token, part.by_key[REFERENCE].nats_per_token, part.tokens_scored)
        for part in study.parts
        for row in part.rows
        if row.difference is not None
    ]


def _seeds_alone(
    row_S: Sequence[float], reference_S: Sequence[float], tokens: int
) -> dict[str, Any]:
    """The components of a paired difference on one text, of which results keep the seeds' only."""
    paired_S = np.subtract(row_S, reference_S)
    seeds = len(paired_S)
    return {
        "seed": float(paired_S.var(ddof=1)) if seeds > 1 else None,
        "seed_df": seeds - 1,
        "document": None,
        "document_df": 0,
        "section": 0.0,
        "residual": 0.0,
        "section_df": 1,
        "sections_per_document": 1.0,
        "document_tokens": tokens,
    }


def _pooled(components: Sequence[Mapping[str, Any]], name: str, df: str) -> float:
    """Mean of variances weighted by their degrees of freedom."""
    return sum(c[name] * c[df] for c in components) / sum(c[df] for c in components)
