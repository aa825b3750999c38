"""Positions of the window and the floor: bins that lose nothing, closed forms of both.

Legend: S seeds, N windows, T positions, b bins.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lmlab.data.synthetic import LinearLanguage, ManyToOne, MarkovChain
from lmlab.errors import UserError
from lmlab.numerics.random_effects import Clusters
from lmlab.objectives.evaluate import position_edges, tokens_by_position
from lmlab.topics.arrow.arrow import arrow_by_position, arrow_of_time
from lmlab.topics.scoring.difference import excess_over_floor


@given(st.integers(1, 5000))
@settings(max_examples=50, deadline=None)
def test_bins_of_positions_cover_each_position_once(context):
    edges = position_edges(context)
    assert edges[0] == 0
    assert edges[-1] == context
    widths = np.diff(edges)
    assert (widths > 0).all()
    assert (widths[:8] == 1).all()
    assert (widths <= np.maximum(1, edges[:-1] * 0.25 + 1)).all()


@given(st.lists(st.integers(0, 90), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_tokens_by_position_are_counted_one_by_one(lengths):
    edges = position_edges(90)
    expected = [
        [sum(a <= t < b for t in range(n)) for a, b in itertools.pairwise(edges)] for n in lengths
    ]
    assert np.array_equal(tokens_by_position(np.array(lengths), edges), expected)


def test_each_bin_is_the_arrow_of_its_nats_and_unreached_bins_are_left_out():
    rng = np.random.default_rng(0)
    forward, backward = rng.gamma(3.0, 1.0, (2, 2, 40, 9))
    forward[..., 8] = backward[..., 8] = 0  # no window is that long
    clusters = np.arange(40) % 8
    edges = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]
    bins = arrow_by_position(forward, backward, clusters, edges)
    assert [(b.first, b.last) for b in bins] == [(k, k) for k in range(8)]
    for k, made in enumerate(bins):
        assert made.arrow == arrow_of_time(forward[..., k], backward[..., k], clusters)
    one = arrow_by_position(forward[0], backward[0], clusters, edges)
    assert {b.arrow.basis for b in one} == {"text only"}
    p_values = [b.arrow.p_value for b in bins]
    assert [b.p_adjusted for b in bins] == pytest.approx(stats.false_discovery_control(p_values))
    with pytest.raises(UserError, match="9 bins"):
        arrow_by_position(forward[..., :4], backward, clusters, edges)


def test_exact_markov_models_by_position():
    # Equal amounts of context: a stationary chain costs the same at position k from either end,
    # exactly in expectation; position by position the two sides are different tokens.
    chain = MarkovChain(8, 0)
    ids = chain.sample(4000, 1, 12)
    forward, backward = chain.score(ids), chain.score(ids, "backward")[:, ::-1]
    bins = arrow_by_position(forward, backward, np.arange(4000), position_edges(12))
    assert len(bins) == 12
    assert sum(b.arrow.difference[0] for b in bins) == pytest.approx(0, abs=1e-8)
    # of 12 intervals at 95 %, more than 2 misses have a probability of 2 %; the seed is fixed
    assert sum(b.arrow.finding == "undecided" for b in bins) >= 10


def test_a_map_moves_loss_between_positions_but_makes_no_arrow():
    mapping = ManyToOne(4, 3, 5, 0)
    ids = mapping.sample(200, 0)
    # The exact model: forwards the letters cost ln 12 and the images nothing; backwards the
    # images cost ln 4 and the letters ln 3. Positions count in the order of reading.
    forward = np.where(np.arange(11) < 5, np.log(12), 0.0) * np.ones((len(ids), 1))
    backward = np.select([np.arange(11) < 5, np.arange(11) > 5], [np.log(4), np.log(3)], 0.0)
    backward = backward * np.ones((len(ids), 1))
    bins = arrow_by_position(forward, backward, np.arange(200), position_edges(11))
    assert [b.first for b in bins] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    target = [b.arrow for b in bins if b.first in range(*mapping.target_span.indices(11))]
    assert {a.relative for a in target} == {2.0}
    assert all(a.difference[0] == pytest.approx(200 * np.log(3)) for a in target)
    whole = arrow_of_time(forward.sum(1), backward.sum(1), np.arange(200))
    assert whole.relative == pytest.approx(0, abs=1e-14)


def test_the_exact_model_has_no_excess_and_a_wrong_one_its_divergence():
    chain, other = MarkovChain(5, 0), MarkovChain(5, 1)
    ids = chain.sample(6000, 2, 20)
    surprisal, tokens, clusters = chain.surprisal(ids), np.full(6000, 20), Clusters(np.arange(6000))
    exact = excess_over_floor(chain.score(ids, "backward").sum(1), surprisal, tokens, clusters)
    assert exact.estimate == pytest.approx(0, abs=1e-12)
    wrong = excess_over_floor(other.surprisal(ids), surprisal, tokens, clusters)
    pi = chain.stationary
    divergence = pi @ np.log(pi / other.stationary) + 19 * np.sum(
        pi[:, None] * chain.transitions * np.log(chain.transitions / other.transitions)
    )
    assert wrong.low is not None
    assert wrong.high is not None
    assert wrong.low < divergence / 20 < wrong.high
    assert wrong.basis == "text only"


def test_the_surprisal_takes_the_luck_of_the_sample_out():
    language = LinearLanguage(8, 4, 0.05)
    ids = language.sample(500, 0)
    nats, tokens = language.surprisal(ids) * 1.01, np.full(500, 23)
    paired = excess_over_floor(nats, language.surprisal(ids), tokens, Clusters(np.arange(500)))
    plain = excess_over_floor(nats, tokens * language.floor(), tokens, Clusters(np.arange(500)))
    assert paired.standard_error is not None
    assert plain.standard_error is not None
    assert paired.standard_error < 0.02 * plain.standard_error
    assert paired.estimate == pytest.approx(0.01 * language.floor(), rel=0.05)


def test_excess_over_floor_refuses_what_is_not_the_sources():
    with pytest.raises(UserError, match="window 1 is not a string of the source"):
        excess_over_floor([1.0, 2.0], [1.0, np.inf], [2, 2], Clusters([0, 1]))
    with pytest.raises(UserError, match="one value for each window"):
        excess_over_floor([1.0, 2.0], [1.0], [2, 2], Clusters([0, 1]))
