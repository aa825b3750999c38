"""What divides between two towers: the measures find what was put in, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import script
from lmlab.numerics.frequency import occurrence_deciles
from lmlab.topics.towers.preference import Vocabulary
from lmlab.topics.towers.preference_sums import POSITIONS, PreferenceSums

kinds: Any = script(Path(__file__).parents[1] / "benchmarks" / "towers_kinds.py")

GROUPS, TYPES = 12, 400


def vocabulary():
    rng = np.random.default_rng(7)
    counts_V = np.sort((20_000 / np.arange(1, TYPES + 1) ** 0.5).astype(np.int64))[::-1]
    return Vocabulary(counts_V, rng.integers(0, 3, TYPES), tuple(map(str, range(TYPES))))


def simulated(seed, *, token=0.0, frequency=0.0, classes=0.0, position=0.0):
    """Sums whose towers differ by so much (standard deviations, nats) between kinds of token; a
    group has an effect of its own on every type."""
    rng, words = np.random.default_rng(seed), vocabulary()
    share_V = words.counts_V / words.counts_V.sum()
    count_GV = rng.poisson(6000 * share_V, (GROUPS, TYPES)).astype(float)

    def spread(number_V, size):
        """Effects of the kinds (V), with that standard deviation over the text."""
        inside_VX = kinds.one_of(number_V)
        effect_V = inside_VX @ rng.standard_normal(inside_VX.shape[1])
        effect_V -= share_V @ effect_V
        return size * effect_V / np.sqrt(share_V @ effect_V**2)

    true_V = spread(np.arange(TYPES), token) + spread(words.class_V, classes)
    true_V += spread(occurrence_deciles(words.counts_V), frequency)
    noise_GV = np.sqrt(count_GV) * rng.standard_normal((GROUPS, TYPES))
    shift_GV = true_V + 0.02 * rng.standard_normal((GROUPS, TYPES))
    delta_GV = count_GV * shift_GV + noise_GV
    # not a function of frequency alone: else its residual would be the difference itself
    difficulty_GV = count_GV * (-np.log(share_V) + 0.5 * rng.standard_normal(TYPES))
    at_Gb = np.full((GROUPS, POSITIONS), 750.0)
    effect_b = position * np.resize([1.0, -1.0], POSITIONS)
    nats_Gb = at_Gb * (effect_b + 0.002 * rng.standard_normal((GROUPS, POSITIONS)))
    return PreferenceSums(
        count_GV=count_GV,
        nats_KGV=np.stack(
            [difficulty_GV - delta_GV / 2, difficulty_GV + delta_GV / 2, difficulty_GV]
        ),
        better_G=np.zeros(GROUPS),
        position_count_Gb=at_Gb,
        position_nats_KGb=np.stack([0 * at_Gb, nats_Gb, 0 * at_Gb]),
        text="simulated",
        cluster_unit="documents",
        documents=GROUPS,
    )


@pytest.mark.parametrize(
    ("put_in", "found", "not_found"),
    [
        ({"token": 0.3}, ["token"], ["position"]),
        ({"frequency": 0.3}, ["frequency"], ["class", "position"]),
        ({"classes": 0.3}, ["class", "token"], ["position"]),
        ({"position": 0.3}, ["position"], ["frequency", "class"]),
        ({}, [], ["token", "frequency", "class", "position"]),
    ],
)
def test_a_measure_finds_what_was_put_in(put_in, found, not_found):
    values = {
        name: np.mean([measure(simulated(seed, **put_in), vocabulary()) for seed in range(8)])
        for name, measure in kinds.MEASURES.items()
    }
    for name in found:
        assert values[name] == pytest.approx(0.3, abs=0.09), values
    for name in not_found:
        assert abs(values[name]) < 0.05, values


def test_runs_that_divide_more_are_told_from_a_null_and_alike_runs_are_not():
    words = vocabulary()
    null = [simulated(100 + seed, token=0.1) for seed in range(5)]
    larger = [simulated(seed, token=0.3) for seed in range(5)]
    alike = [simulated(200 + seed, token=0.1) for seed in range(5)]
    first = kinds.compared(larger, null, words, kinds.of_tokens)
    assert first.exact == pytest.approx(2 / 252)
    assert first.over_both.low > 0
    second = kinds.compared(alike, null, words, kinds.of_tokens)
    assert second.exact > 0.05
    assert second.over_both.low < 0 < second.over_both.high
    swapped = kinds.compared(null, larger, words, kinds.of_tokens)
    assert swapped.exact == first.exact
    assert swapped.over_both.estimate == pytest.approx(-first.over_both.estimate)


def test_two_families_and_kinds_that_were_not_run_count():
    words = vocabulary()
    null = [simulated(100 + seed, token=0.1) for seed in range(5)]
    larger = [simulated(seed, token=0.3) for seed in range(5)]
    of_kind = {
        "causal": {
            name: kinds.compared(larger, null, words, measure)
            for name, measure in kinds.MEASURES.items()
        }
    }
    rows = kinds.difference_rows(of_kind)
    assert [(row["row"], row["measure"]) for row in rows] == [
        ("causal", name) for name in kinds.MEASURES
    ]
    assert rows[0]["p by Holm"] == pytest.approx(3 * 2 / 252)
    assert all(row["p by Holm"] >= min(1.0, row["p"]) for row in rows)
    least = min(row["p"] for row in rows[1:])
    assert min(row["p by Holm"] for row in rows[1:]) == pytest.approx(min(1.0, 9 * least))
