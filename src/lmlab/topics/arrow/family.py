"""The comparisons of an arrow study taken together: adjusted p-values, and means over corpora.

Five languages that each say "not decided" may say something together; and of twenty comparisons
without a difference one is expected to show one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

from lmlab.numerics.synthesis import MINIMUM_ROWS, pooled_variances, synthesis
from lmlab.numerics.verdicts import Evidence, holm, verdict
from lmlab.pages.wording import percent


def with_adjusted(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with `p_adjusted` beside each p-value: of the arrows by Holm, over the whole
    study; of the positions of one comparison by their false discovery rate (Benjamini and
    Hochberg), since they are many."""
    adjusted = holm([cell["arrow"]["p_value"] for cell in cells])
    return [
        {
            **cell,
            "arrow": {**cell["arrow"], "p_adjusted": p},
            "by_position": _positions(cell["by_position"]),
        }
        for cell, p in zip(cells, adjusted, strict=True)
    ]


def _positions(bins: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    p_values = [each["p_value"] for each in bins if each["p_value"] is not None]
    adjusted = iter(false_discovery_control(p_values).tolist() if p_values else [])
    return [
        {**each, "p_adjusted": None if each["p_value"] is None else next(adjusted)} for each in bins
    ]


def means_over_corpora(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One random-effects mean over the corpora for each model, tokenizer and order.

    Of texts only: synthetic sources are chosen to differ. Left out are comparisons whose final
    losses decide nothing (jumps), and those without a standard error.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        if cell["floor"] is None:
            key = cell["label"], cell["tokenizer"], cell["order"]
            groups.setdefault(key, []).append(cell)
    means = []
    for group in groups.values():
        rows = [cell for cell in group if _decides(cell)]
        if len(rows) >= MINIMUM_ROWS:
            means.append(_mean(rows, [c["corpus"] for c in group if not _decides(c)]))
    return means


def _decides(cell: dict[str, Any]) -> bool:
    jumps = cell["transition"] is not None and cell["transition"]["inside"]
    return not jumps and bool(cell["arrow"]["standard_error"])


def _mean(rows: Sequence[dict[str, Any]], left_out: list[str]) -> dict[str, Any]:
    arrows = [cell["arrow"] for cell in rows]
    variances = np.array([arrow["standard_error"] ** 2 for arrow in arrows])
    by_seed = [arrow["relative_by_seed"] for arrow in arrows]
    deviation, df = None, 0
    if any(len(values) > 1 for values in by_seed):
        variances, deviation, df = pooled_variances(by_seed, variances)
    mean = synthesis([arrow["relative"] for arrow in arrows], variances)
    evidence = Evidence(
        mean.estimate, mean.low, mean.high, mean.standard_error, mean.degrees_of_freedom,
        sum(arrow["seeds"] for arrow in arrows), sum(arrow["documents"] for arrow in arrows),
    )  # fmt: skip
    order = rows[0]["order"]
    return {
        **mean.to_json(),
        "label": rows[0]["label"],
        "tokenizer": rows[0]["tokenizer"],
        "order": order,
        "corpora": [cell["corpus"] for cell in rows],
        "left_out": left_out,
        "seed_sd": deviation,
        "seed_df": df,
        "finding": evidence.finding,
        "bound": evidence.bound,
        "detectable": evidence.detectable,
        "verdict": verdict(
            evidence,
            above="forward is easier",
            below=f"{order} is easier",
            size=lambda value: percent(value).lstrip("+"),
        ),
    }


def mean_words(mean: dict[str, Any]) -> str:
    """The finding of a mean over corpora in words, with its interval."""
    low, high = percent(mean["low"]), percent(mean["high"])
    return (
        f"{mean['verdict']} ({percent(mean['estimate'])}, 95 % interval {low} to {high}; corpora "
        f"differ by a standard deviation of {percent(mean['between']).lstrip('+')} beyond their "
        "errors)"
    )


def mean_name(mean: dict[str, Any]) -> str:
    """What a mean is over: "mean over 5 corpora", and of which models."""
    tokenizer = f", {mean['tokenizer']}" if mean["tokenizer"] != "bpe" else ""
    order = f", {mean['order']}" if mean["order"] != "backward" else ""
    return f"mean over {mean['rows']} corpora ({mean['label']}{tokenizer}{order})"
