"""The arrow of time: its scales, its pairing, its refusals, and an instrument without a bias.

Legend: S seeds, N windows.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.config import from_mapping
from lmlab.data.synthetic import MarkovChain
from lmlab.durable import to_json
from lmlab.errors import UserError
from lmlab.results import plain
from lmlab.topics.arrow.arrow import Arrow, arrow_of_time


def data(seed=0, seeds=3, windows=60, clusters=12, gap=0.02):
    """Nats of two directions; backward costs `gap` more, with noise from seeds and clusters."""
    rng = np.random.default_rng(seed)
    cluster_N = rng.permutation(np.arange(windows) % clusters)
    forward_SN = rng.gamma(20.0, 5.0, windows) * (1 + 0.01 * rng.normal(size=(seeds, windows)))
    relative = gap + 0.003 * rng.normal(size=(seeds, 1)) + 0.003 * rng.normal(size=clusters)
    return forward_SN, forward_SN * (1 + relative[:, cluster_N]), cluster_N


def interval_of(arrow: Arrow) -> tuple[float, float]:
    assert arrow.interval is not None
    return arrow.interval


def test_both_scales_of_the_paper():
    forward, backward, cluster = data()
    arrow = arrow_of_time(forward, backward, cluster)
    f, b = forward.sum(), backward.sum()
    assert arrow.relative == pytest.approx(2 * (b - f) / (b + f), rel=1e-12)
    assert arrow.ratio == pytest.approx(b / f - 1, rel=1e-10)
    assert arrow.difference == pytest.approx((backward - forward).sum(1))
    assert (arrow.seeds, arrow.clusters, arrow.windows) == (3, 12, 60)
    assert arrow.basis == "seeds and text"
    assert arrow.verdict == "forward is easier"
    assert arrow.ratio_interval is not None
    for ratio, relative in zip(arrow.ratio_interval, interval_of(arrow), strict=True):
        assert ratio == pytest.approx(relative / (1 - relative / 2))


def test_the_papers_french_medium_model():
    arrow = arrow_of_time([2.7883], [2.8615], [0])
    assert arrow.ratio == pytest.approx(0.0263, abs=5e-5)
    assert arrow.verdict == "no interval"


def test_one_seed_as_a_plain_list_is_text_only():
    forward, backward, cluster = data(seeds=1)
    arrow = arrow_of_time(forward[0], backward[0], [f"document {c}" for c in cluster])
    numbered = arrow_of_time(forward, backward, cluster)
    assert interval_of(arrow) == pytest.approx(interval_of(numbered), rel=1e-10)
    assert arrow.basis == "text only"
    assert "one seed" in arrow.note


def test_few_clusters_give_no_interval():
    forward, backward, _ = data()
    arrow = arrow_of_time(forward, backward, np.arange(60) % 4)
    assert arrow.interval is arrow.ratio_interval is arrow.standard_error is None
    assert arrow.verdict == "no interval"
    assert "at least 5" in arrow.note
    assert arrow.relative > 0


def test_no_gap_is_a_bound_of_the_difference_and_no_finding():
    arrow = arrow_of_time(*data(gap=0.0))
    assert arrow.finding == "undecided"
    assert arrow.verdict == "not decided: any difference is below 1.02 % with 95 %"
    assert arrow.interval is not None
    assert arrow.bound == pytest.approx(np.abs(arrow.interval).max())


def test_pairing_by_window_removes_the_spread_between_windows():
    forward, backward, cluster = data()
    paired = interval_of(arrow_of_time(forward, backward, cluster))
    shuffled = np.random.default_rng(1).permutation(60)
    unpaired = interval_of(arrow_of_time(forward, backward[:, shuffled], cluster))
    assert paired[1] - paired[0] < 0.2 * (unpaired[1] - unpaired[0])


def test_json_holds_plain_values():
    arrow = arrow_of_time(*data())
    stored = json.loads(to_json(plain(arrow)))
    assert stored["relative"] == arrow.relative
    assert stored["interval"] == list(interval_of(arrow))
    assert stored["verdict"] == "forward is easier"
    assert stored["p_value"] == arrow.evidence.p_value
    assert stored["detectable"] == arrow.evidence.detectable


def test_a_perfect_forward_model_has_an_infinite_ratio():
    arrow = arrow_of_time(np.zeros(10), np.ones(10), np.arange(10))
    assert arrow.relative == 2
    assert arrow.ratio == math.inf
    assert arrow.ratio_interval is None
    assert "infinity" in arrow.note
    assert from_mapping(Arrow, json.loads(to_json(plain(arrow))), where="") == arrow


windows = st.integers(0, 2**32)


@settings(max_examples=40, deadline=None)
@given(seed=windows, seeds=st.integers(1, 3))
def test_swapping_directions_flips_the_sign(seed, seeds):
    forward, backward, cluster = data(seed, seeds, gap=0.0)
    one, other = (
        arrow_of_time(forward, backward, cluster),
        arrow_of_time(backward, forward, cluster),
    )
    assert other.relative == pytest.approx(-one.relative, rel=1e-10)
    low, high = interval_of(one)
    assert interval_of(other) == pytest.approx((-high, -low), rel=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=windows, scale=st.floats(1e-3, 1e3), seeds=st.integers(1, 3))
def test_order_labels_and_unit_do_not_matter(seed, scale, seeds):
    forward, backward, cluster = data(seed, seeds)
    rng = np.random.default_rng(seed)
    order_N, order_S = rng.permutation(60), rng.permutation(seeds)
    names = rng.permutation(12)
    one = arrow_of_time(forward, backward, cluster)
    other = arrow_of_time(
        scale * forward[order_S][:, order_N],
        scale * backward[order_S][:, order_N],
        names[cluster][order_N],
    )
    assert other.relative == pytest.approx(one.relative, rel=1e-9)
    assert interval_of(other) == pytest.approx(interval_of(one), rel=1e-7)


@settings(max_examples=40, deadline=None)
@given(seed=windows)
def test_ratio_follows_from_relative(seed):
    arrow = arrow_of_time(*data(seed, gap=0.3))
    assert arrow.ratio == pytest.approx(arrow.relative / (1 - arrow.relative / 2), rel=1e-12)


def test_simulated_data_without_a_gap_cover_zero():
    # Shown by 4 of issue 3, through the whole analysis: windows, clusters of unequal size, seeds.
    rng = np.random.default_rng(0)
    cluster_N = np.repeat(np.arange(6), [8, 10, 9, 12, 11, 10])
    hits = 0
    for _ in range(2000):
        nats_N = rng.gamma(100.0, 1.0, cluster_N.size)
        gap_SN = 0.01 * (rng.normal(size=(2, 1)) + rng.normal(size=6)[cluster_N])
        gap_SN = gap_SN + 0.01 * rng.normal(size=(2, cluster_N.size))
        low, high = interval_of(
            arrow_of_time(nats_N * (1 - gap_SN / 2), nats_N * (1 + gap_SN / 2), cluster_N)
        )
        hits += low <= 0 <= high
    assert 0.935 <= hits / 2000 <= 0.965


def test_exact_markov_models_have_no_arrow():
    chain = MarkovChain(12, 0)
    ids_NT = chain.sample(200, 0, 64)
    forward, backward = chain.score(ids_NT).sum(1), chain.score(ids_NT, "backward").sum(1)
    arrow = arrow_of_time(forward, backward, np.arange(200) // 10)
    assert abs(arrow.relative) < 1e-10
    # The chain is far from reversible, so the test is not empty.
    flow = chain.stationary[:, None] * chain.transitions
    assert np.abs(flow - flow.T).sum() > 0.5


def test_additive_bigrams_counted_cyclically_have_no_arrow():
    ids_T = MarkovChain(7, 1).sample(1, 1, 6000)[0]
    after_T = np.roll(ids_T, -1)
    counts = np.zeros((7, 7))
    np.add.at(counts, (ids_T, after_T), 1)
    smooth = counts + 0.5
    forward = -np.log(smooth / smooth.sum(1, keepdims=True))[ids_T, after_T]
    backward = -np.log(smooth / smooth.sum(0))[ids_T, after_T]
    arrow = arrow_of_time(
        forward.reshape(60, 100).sum(1), backward.reshape(60, 100).sum(1), np.arange(60) // 5
    )
    assert abs(arrow.relative) < 1e-13
    assert np.abs(forward - backward).max() > 0.1


@pytest.mark.parametrize(
    ("forward", "backward", "clusters", "message"),
    [
        ([], [], [], "at least one"),
        (1.0, 1.0, [0], "at least one"),
        (np.ones((1, 1, 3)), np.ones((1, 1, 3)), [0, 0, 0], "pass \\(seeds, windows\\)"),
        (np.ones((2, 3)), np.ones((1, 3)), [0, 0, 0], "same number of seeds"),
        (np.ones(3), np.ones(3), [0, 0], "3 windows"),
        (np.ones(3), np.ones(3), [0.5, 1.0, 2.0], "integers or strings"),
        ([1.0, np.nan], [1.0, 1.0], [0, 1], "nll_forward_SN: seed 0, window 1 is nan"),
        ([1.0, 1.0], [-1.0, 1.0], [0, 1], "nll_backward_SN: seed 0, window 0 is -1"),
        ([1.0, 1.0], [np.inf, 1.0], [0, 1], "must be finite"),
        ([0.0, 0.0], [0.0, 0.0], [0, 1], "0 nats in both"),
    ],
)
def test_bad_input_is_refused(forward, backward, clusters, message):
    with pytest.raises(UserError, match=message):
        arrow_of_time(forward, backward, clusters)
