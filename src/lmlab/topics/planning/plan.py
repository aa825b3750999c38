"""A plan: how many seeds, documents and tokens it takes to see a difference.

The noise comes from the `results.json` of a finished study, or is typed. A plan rests on variances
that were measured from a few seeds themselves, so it says how far off they may be.

Legend: S seeds, D documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lmlab.errors import UserError
from lmlab.numerics.plan import Noise
from lmlab.numerics.power import deviation_interval
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


def plan(config: PlanConfig) -> dict[str, Any]:
    """The plan as plain values of `results.json`; `plan_page` and `plan_rows` show it.

    Raises `UserError` for a study without several seeds, or of another kind.
    """
    measured = _measured(config)
    noise, effect = measured.noise, config.effect
    tokens, document_tokens = measured.tokens, measured.document_tokens
    texts: list[int | None] = [None, *(config.documents if noise.document is not None else ())]
    alone = noise.seeds_for(effect, None, wanted=config.power)
    spread = None
    if measured.seed_df:
        low, high = deviation_interval(noise.seed, measured.seed_df)
        spread = {
            "sd": [low, high],
            "seeds": [
                replace(noise, seed=sd).seeds_for(effect, None, wanted=config.power)
                for sd in (low, high)
            ],
        }
    return {
        "kind": "plan",
        "source": measured.source,
        "effect": effect,
        "unit": measured.unit,
        "power": config.power,
        "noise": asdict(noise),
        "seed_df": measured.seed_df,
        "document_df": measured.document_df,
        "seed_interval": spread,
        "tokens": tokens,
        "document_tokens": document_tokens,
        "seeds_for_this_text": alone,
        "designs": [
            {
                "seeds": seeds,
                "documents": documents,
                "detectable": noise.detectable(seeds, documents, wanted=config.power),
                "power": noise.power(effect, seeds, documents),
            }
            for documents in texts
            for seeds in config.seeds
        ],
        "enough": [
            _enough(noise, effect, seeds, config.power, tokens, document_tokens)
            for seeds in config.seeds
        ]
        if noise.document is not None
        else [],
    }


def _enough(
    noise: Noise,
    effect: float,
    seeds: int,
    wanted: float,
    tokens: int | None,
    document_tokens: int | None,
) -> dict[str, Any]:
    """With so many seeds: the documents that it takes, and the tokens of both."""
    documents = noise.documents_for(effect, seeds, wanted=wanted)
    scored = None
    if documents is not None and document_tokens is not None:
        scored = documents * document_tokens
    return {
        "seeds": seeds,
        "documents": documents,
        "training_tokens": None if tokens is None else 2 * seeds * tokens,
        "scored_tokens": scored,
    }


def _measured(config: PlanConfig) -> Measured:
    """What was measured, with what was typed in its place."""
    found = _of_study(config) if config.study is not None else None
    if found is None:
        assert config.seed_sd is not None
        found = Measured("typed", "the unit of the effect", Noise(0, None, 0, 0, 1), 0, 0, None,
                         None)  # fmt: skip
    typed: dict[str, float] = {}
    for name in ("seed", "document", "section"):
        if (value := getattr(config, f"{name}_sd")) is not None:
            typed[name] = value
    if config.sections is not None:
        typed["sections"] = config.sections
    return replace(
        found,
        noise=replace(found.noise, **typed),
        seed_df=0 if "seed" in typed else found.seed_df,
        document_df=0 if "document" in typed else found.document_df,
        tokens=config.tokens or found.tokens,
        document_tokens=config.document_tokens or found.document_tokens,
    )


def _of_study(config: PlanConfig) -> Measured:
    assert config.study is not None
    results = read_results(config.study)
    study = results["study"]
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
    if results["study"] == "arrow":
        return [cell["components"] for cell in results["cells"] if cell["components"] is not None]
    return [
        _seeds_alone(row["nats_per_token"], reference["nats_per_token"], row["tokens_scored"])
        for part in results["parts"]
        for reference in [next(row for row in part["rows"] if row["difference"] is None)]
        for row in part["rows"]
        if row["difference"] is not None
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
