"""N-gram baselines: counts by brute force, probabilities, both directions, the arrow they leave.

Legend: N tokens fitted, T tokens scored, M windows.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import id_store, random_documents
from lmlab.analyses.arrow import arrow_of_time
from lmlab.analyses.ngram import STRENGTHS, NGram, NGramCounts, ngram_baseline
from lmlab.data.synthetic import MarkovChain
from lmlab.data.windows import evaluation_windows
from lmlab.durable import to_json
from lmlab.errors import UserError

DIRECTIONS = ("forward", "backward")
PRIORS = ("uniform", "lower order")


def occurrences(stream, gram):
    """How often `gram` occurs in `stream` read as a ring; the empty one occurs at every token."""
    n = len(stream)
    return sum(all(stream[(i + j) % n] == g for j, g in enumerate(gram)) for i in range(n))


def probability(stream, context, x, *, vocabulary, strength, prior, direction):
    """p(x | context) from its formula; `context` in text order, before x or (backward) after it."""
    gram = [*context, x] if direction == "forward" else [x, *context]
    shorter = context[1:] if direction == "forward" else context[:-1]
    if prior == "uniform" or not context:
        mean = 1 / vocabulary
    else:
        mean = probability(
            stream,
            shorter,
            x,
            vocabulary=vocabulary,
            strength=strength,
            prior=prior,
            direction=direction,
        )
    return (occurrences(stream, gram) + strength * mean) / (occurrences(stream, context) + strength)


def expected_nats(stream, window, order, *, direction, **how):
    """Nats of each token of a window from a cold start."""
    made = []
    for t, x in enumerate(window):
        if direction == "forward":
            context = window[max(0, t - order + 1) : t]
        else:
            context = window[t + 1 : t + order]
        made.append(-np.log(probability(stream, context, x, direction=direction, **how)))
    return made


def model(stream, *, vocabulary=4, order=3, strength=0.7, prior: Any = "uniform"):
    return NGram(NGramCounts(stream, vocabulary=vocabulary, order=order), strength, prior)


def ids_of(vocabulary, longest):
    return st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=longest)


directions = st.sampled_from(DIRECTIONS)
priors = st.sampled_from(PRIORS)
orders = st.integers(1, 4)
strengths = st.floats(0.01, 100)


@given(
    stream=ids_of(3, 20),
    windows=st.lists(ids_of(3, 6), min_size=1, max_size=4),
    order=orders,
    strength=strengths,
    prior=priors,
    direction=directions,
)
def test_windows_cost_what_brute_force_counting_says(
    stream, windows, order, strength, prior, direction
):
    # The stream may be shorter than the order: the ring then runs past itself.
    fitted = model(stream, vocabulary=3, order=order, strength=strength, prior=prior)
    got = fitted.score(np.concatenate(windows), [len(w) for w in windows], direction)
    how = {"vocabulary": 3, "strength": strength, "prior": prior, "direction": direction}
    want = [expected_nats(stream, window, order, **how) for window in windows]
    np.testing.assert_allclose(got, np.concatenate(want), rtol=1e-12, atol=1e-14)


@given(stream=ids_of(3, 20), ring=ids_of(3, 9), order=orders, prior=priors, direction=directions)
def test_rings_cost_what_brute_force_counting_says(stream, ring, order, prior, direction):
    got = model(stream, vocabulary=3, order=order, prior=prior).score_ring(ring, direction)
    n = len(ring)
    for t, x in enumerate(ring):
        first = t - order + 1 if direction == "forward" else t + 1
        context = [ring[(first + j) % n] for j in range(order - 1)]
        p = probability(
            stream, context, x, vocabulary=3, strength=0.7, prior=prior, direction=direction
        )
        assert got[t] == pytest.approx(-np.log(p), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("context", [[], [2], [0, 3], [4, 4]])
def test_probabilities_add_up_to_one(prior, direction, context):
    # 4 is not in the stream, so [4, 4] is a context that was never seen.
    stream = np.random.default_rng(0).integers(0, 4, 50)
    fitted = model(stream, vocabulary=5, prior=prior)
    windows = [[*context, x] if direction == "forward" else [x, *context] for x in range(5)]
    length = len(context) + 1
    nats = fitted.score(np.concatenate(windows), np.full(5, length), direction)
    last = nats.reshape(5, length)[:, -1 if direction == "forward" else 0]
    assert np.exp(-last).sum() == pytest.approx(1, rel=1e-12)


@given(stream=ids_of(4, 60), ring=ids_of(4, 60), order=orders, strength=strengths)
def test_additive_smoothing_has_no_arrow_on_any_ring(stream, ring, order, strength):
    for text in (stream, ring):
        fitted = model(stream, order=order, strength=strength)
        forward, backward = (fitted.score_ring(text, d).sum() for d in DIRECTIONS)
        assert forward == pytest.approx(backward, rel=1e-12, abs=1e-12)


def test_the_ring_of_an_irreversible_chain_is_no_empty_test():
    ids = MarkovChain(7, 1).sample(2, 1, 3000)
    additive = model(ids[0], vocabulary=7, order=2, strength=3.5)
    nats = [additive.score_ring(ids[1], d) for d in DIRECTIONS]
    forward, backward = (n.reshape(60, 50).sum(1) for n in nats)
    arrow = arrow_of_time(forward, backward, np.arange(60) // 5)
    assert abs(arrow.relative) < 1e-13
    assert np.abs(nats[0] - nats[1]).max() > 0.1
    backed_off = model(ids[0], vocabulary=7, order=3, strength=3.5, prior="lower order")
    forward, backward = (backed_off.score_ring(ids[1], d).sum() for d in DIRECTIONS)
    assert abs(forward - backward) > 1e-3


@given(stream=ids_of(4, 60), middle=ids_of(4, 20), other=ids_of(4, 20), order=orders)
def test_additive_arrow_of_a_window_depends_on_its_ends_only(stream, middle, other, order):
    fitted = model(stream, order=order)

    def arrow(between):
        window = [0, 1, 1, *between, 2, 0, 3]
        forward, backward = (fitted.score(window, [len(window)], d).sum() for d in DIRECTIONS)
        return backward - forward

    assert arrow(middle) == pytest.approx(arrow(other), rel=1e-10, abs=1e-10)


@given(stream=ids_of(4, 60), window=ids_of(4, 20), order=orders, prior=priors)
def test_reversed_text_swaps_the_directions(stream, window, order, prior):
    as_written = model(stream, order=order, prior=prior)
    flipped = model(stream[::-1], order=order, prior=prior)
    lengths = [len(window)]
    np.testing.assert_array_equal(
        as_written.score(window, lengths, "backward"), flipped.score(window[::-1], lengths)[::-1]
    )
    np.testing.assert_array_equal(
        as_written.score_ring(window, "backward"), flipped.score_ring(window[::-1])[::-1]
    )


@given(windows=st.lists(ids_of(4, 12), min_size=2, max_size=8), prior=priors, direction=directions)
def test_scores_do_not_depend_on_the_other_windows(windows, prior, direction):
    fitted = model(np.random.default_rng(1).integers(0, 4, 80), prior=prior)
    together = fitted.score(np.concatenate(windows), [len(w) for w in windows], direction)
    alone = [fitted.score(w, [len(w)], direction) for w in windows]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_keys_reach_to_the_end_of_int64():
    # 50257**4 is 6.4e18: the largest key needs 63 bits.
    vocabulary = 50257
    stream = np.array([50256] * 5 + [0, 50256, 1], dtype=np.uint16)
    counts = NGramCounts(stream, vocabulary=vocabulary, order=4)
    got = counts.look_up(stream)
    grams = [[stream[(i + j) % 8] for j in range(4)] for i in range(8)]
    assert got[4].tolist() == [occurrences(stream, gram) for gram in grams]
    assert got[0].tolist() == [8] * 8


@pytest.fixture(scope="module")
def chain_store(tmp_path_factory):
    """A Markov chain in a store: (chain, store), documents without end-of-text between them."""
    chain = MarkovChain(6, 3)
    sizes = {"train": (150, 1), "validation": (20, 2), "test": (40, 3)}
    splits = {name: list(chain.sample(n, seed, 600)) for name, (n, seed) in sizes.items()}
    folder = tmp_path_factory.mktemp("stores") / "chain"
    return chain, id_store(folder, splits, symbols=6, end_of_text=False)


@pytest.mark.parametrize("prior", PRIORS)
def test_bigrams_of_a_markov_chain_reach_its_floor_both_ways(chain_store, prior):
    chain, store = chain_store
    made = ngram_baseline(store, split="test", context=200, order=2, prior=prior)
    ids_MT = chain.sample(40, 3, 600).reshape(120, 200)
    for direction, got in (
        ("forward", made.nats_per_token_forward),
        ("backward", made.nats_per_token_backward),
    ):
        # Paired with the exact model on the same text, and near its expectation on any text
        assert got == pytest.approx(chain.score(ids_MT, direction).mean(), abs=1e-3)
        assert got == pytest.approx(chain.floor(200), abs=0.03)
    assert abs(made.arrow.relative) < 1e-3
    unigram = ngram_baseline(store, split="test", context=200, order=1, prior=prior)
    assert unigram.nats_per_token_forward > made.nats_per_token_forward + 0.2
    assert unigram.nats_per_token_forward == unigram.nats_per_token_backward


def test_baseline_scores_the_windows_that_models_are_scored_on(small_store):
    made = ngram_baseline(small_store, split="validation", context=9, order=3, max_windows=10)
    windows = evaluation_windows(small_store.split("validation"), 9, max_windows=10)
    np.testing.assert_array_equal(made.tokens_M, windows.length_M)
    np.testing.assert_array_equal(made.clusters.cluster_N, windows.cluster_M)
    train = small_store.split("train")
    stream = train.read(0, train.tokens)
    fitted = model(
        stream, vocabulary=small_store.vocabulary, strength=made.strength, prior="lower order"
    )
    for row in range(10):
        ids = windows.ids(row)
        for direction, nats_M in zip(
            DIRECTIONS, (made.nats_forward_M, made.nats_backward_M), strict=True
        ):
            want = fitted.score(ids, [len(ids)], direction).sum()
            assert nats_M[row] == pytest.approx(want, rel=1e-12)
    assert made.fitted_tokens == train.tokens
    assert made.arrow.basis == "text only"
    assert made.arrow.windows == 10


@pytest.mark.parametrize("prior", PRIORS)
def test_one_strength_has_the_least_loss_of_both_directions(chain_store, prior):
    _, store = chain_store
    made = ngram_baseline(store, split="test", context=50, order=4, prior=prior)
    train, source = store.split("train"), store.split("validation")
    counts = NGramCounts(train.read(0, train.tokens), vocabulary=store.vocabulary, order=4)
    windows = evaluation_windows(source, 50)
    ids = np.concatenate([windows.ids(row) for row in range(len(windows))])

    def loss(strength):
        fitted = NGram(counts, strength, prior)
        return sum(fitted.score(ids, windows.length_M, d).sum() for d in DIRECTIONS)

    place = STRENGTHS.index(made.strength)
    assert 0 < place < len(STRENGTHS) - 1
    assert loss(made.strength) == pytest.approx(min(loss(s) for s in STRENGTHS), rel=1e-14)


def many_to_one_documents(count, seed):
    """A symbol below 40, then its parity: easy to tell from its past, hard from its future."""
    x = np.random.default_rng(seed).integers(0, 40, (count, 30))
    return np.stack([x, 40 + x % 2], axis=2).reshape(count, 60)


def test_reversing_a_store_swaps_the_directions_and_keeps_the_strength(tmp_path):
    # Alone, the two directions of this text choose different strengths, so a choice that favoured
    # one of them would change.
    splits = {name: many_to_one_documents(n, n) for name, n in (("train", 5), ("validation", 20))}
    written = id_store(
        tmp_path / "written", {k: list(v) for k, v in splits.items()}, symbols=42, end_of_text=False
    )
    flipped = id_store(
        tmp_path / "flipped",
        {k: list(v[::-1, ::-1]) for k, v in splits.items()},
        symbols=42,
        end_of_text=False,
    )
    one, other = (
        ngram_baseline(store, split="validation", context=60, order=2)
        for store in (written, flipped)
    )
    assert one.strength == other.strength
    np.testing.assert_allclose(one.nats_forward_M, other.nats_backward_M[::-1], rtol=1e-12)
    np.testing.assert_allclose(one.nats_backward_M, other.nats_forward_M[::-1], rtol=1e-12)
    assert one.arrow.relative == pytest.approx(-other.arrow.relative, rel=1e-9)

    train = splits["train"].ravel()
    counts = NGramCounts(train, vocabulary=written.vocabulary, order=2)
    ids, lengths = splits["validation"].ravel(), np.full(20, 60)
    alone = {
        direction: min(
            STRENGTHS,
            key=lambda s: NGram(counts, s, "lower order").score(ids, lengths, direction).sum(),
        )
        for direction in DIRECTIONS
    }
    assert alone["forward"] != alone["backward"]


def test_json_holds_plain_values(chain_store):
    _, store = chain_store
    made = ngram_baseline(store, split="test", context=100, order=2)
    plain = json.loads(to_json(made.to_json()))
    assert plain["nats_per_token_forward"] == made.nats_per_token_forward
    assert plain["arrow"]["relative"] == made.arrow.relative
    assert plain["tokens"] == 24000
    assert (plain["order"], plain["prior"], plain["strength"]) == (
        2,
        "lower order",
        made.strength,
    )


@pytest.mark.parametrize(
    ("stream", "changes", "message"),
    [
        ([0, 1], {"order": 0}, "order 0 and vocabulary 4 must be at least 1"),
        ([0, 1], {"vocabulary": 50257, "order": 5}, "order is at most 4"),
        ([0, 1], {"vocabulary": 2, "order": 63}, "order is at most 62"),
        ([], {}, "at least one integer"),
        ([[0, 1]], {}, r"shape \(1, 2\)"),
        ([0.5], {}, "float64"),
        ([0, 4], {}, "token id 4 is outside the vocabulary of 4"),
        ([0, -1], {}, "token id -1"),
        ([0, 1], {"strength": 0.0}, "strength is 0.0; it must be positive"),
        ([0, 1], {"strength": float("nan")}, "strength is nan"),
        ([0, 1], {"prior": "jeffreys"}, "choose 'uniform' or 'lower order'"),
    ],
)
def test_bad_models_are_refused(stream, changes, message):
    with pytest.raises(UserError, match=message):
        model(stream, **changes)


@pytest.mark.parametrize(
    ("ids", "lengths", "direction", "message"),
    [
        ([0, 1, 2], [2], "forward", "lengths of 1 windows add up to 2, but there are 3"),
        ([0, 1, 2], [3, 0], "forward", "each at least 1"),
        ([0, 1, 2], [1.5, 1.5], "forward", "must hold integers"),
        ([0, 1, 2], [3], "sideways", "choose 'forward' or 'backward'"),
        ([0, 1, 9], [3], "forward", "token id 9 is outside"),
    ],
)
def test_bad_windows_are_refused(ids, lengths, direction, message):
    with pytest.raises(UserError, match=message):
        model([0, 1, 2]).score(ids, lengths, direction)


def test_an_unknown_direction_of_a_ring_is_refused():
    with pytest.raises(UserError, match="sideways"):
        model([0, 1, 2]).score_ring([0, 1], "sideways")  # pyright: ignore[reportArgumentType]


def test_stores_without_the_text_it_takes_are_refused(small_store, tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        ngram_baseline(small_store, split="test", context=8, order=2)
    with pytest.raises(UserError, match="at least 1"):
        ngram_baseline(small_store, split="validation", context=0, order=2)
    documents = random_documents(2, 5, 9, symbols=3, seed=0)
    for missing in ("train", "validation", "test"):
        splits = dict.fromkeys(("train", "validation", "test"), documents)
        store = id_store(tmp_path / missing, {**splits, missing: []}, symbols=3)
        with pytest.raises(UserError, match=f"split {missing} has no"):
            ngram_baseline(store, split="test", context=8, order=2)
