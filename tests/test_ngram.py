"""N-gram models: probabilities by brute force, both directions, the arrow they leave.

Legend: N tokens fitted, T tokens scored, M windows.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.data.synthetic import MarkovChain
from lmlab.errors import UserError
from lmlab.topics.arrow.arrow import arrow_of_time
from lmlab.topics.counting.counts import NGramCounts, sorted_with_places
from lmlab.topics.counting.ngram import SMOOTHINGS, WITH_STRENGTH, estimated_discounts
from ngram_model import NGram

DIRECTIONS = ("forward", "backward")
STRENGTH = 0.7


class BruteForce:
    """p(x | c) from the papers' formulas, by going round the ring for each number."""

    def __init__(self, stream, *, vocabulary, smoothing):
        self.stream, self.vocabulary, self.smoothing = list(stream), vocabulary, smoothing

    def grams(self, k):
        """How often each k-gram stands in the ring; the empty one stands at every token."""
        n = len(self.stream)
        return Counter(tuple(self.stream[(i + j) % n] for j in range(k)) for i in range(n))

    def numbers(self, k, longest):
        """What is discounted: counts, or how many different tokens stand to the left."""
        if longest or self.smoothing == "absolute discounting":
            return self.grams(k)
        return Counter(gram[1:] for gram in self.grams(k + 1))

    def discount(self, number, numbers, k):
        """Chen and Goodman's D(number), with the fallbacks that `estimated_discounts` promises."""
        if number == 0:
            return 0.0
        n = [sum(value == r for value in numbers.values()) for r in range(5)]
        if k == 1 or n[1] == 0 or n[2] == 0:
            return 0.5
        one = n[1] / (n[1] + 2 * n[2])
        if self.smoothing != "modified Kneser-Ney" or n[3] == 0 or n[4] == 0:
            return one
        three = [r - (r + 1) * one * n[r + 1] / n[r] for r in (1, 2, 3)]
        if any(d <= 0 or d > r for r, d in zip((1, 2, 3), three, strict=True)):
            return one
        return three[min(number, 3) - 1]

    def p(self, context, x, longest=True):
        """p(x | context); `longest`: not as what a longer context leaves."""
        k = len(context) + 1
        gram, context = (*context, x), tuple(context)
        rest = self.p(context[1:], x, longest=False) if k > 1 else 1 / self.vocabulary
        if self.smoothing in WITH_STRENGTH:
            mean = 1 / self.vocabulary if self.smoothing == "additive" else rest
            whole, given = self.grams(k)[gram], self.grams(k - 1)[context]
            return (whole + STRENGTH * mean) / (given + STRENGTH)
        numbers = self.numbers(k, longest)
        following = [numbers[(*context, y)] for y in range(self.vocabulary)]
        if sum(following) == 0:
            return rest
        kept = numbers[gram] - self.discount(numbers[gram], numbers, k)
        taken = sum(self.discount(number, numbers, k) for number in following)
        return (kept + taken * rest) / sum(following)


def model(stream, *, vocabulary=4, order=3, smoothing: Any = "Kneser-Ney", **changes: Any):
    if smoothing in WITH_STRENGTH:
        changes = {"strength": STRENGTH, **changes}
    return NGram(stream, vocabulary=vocabulary, order=order, smoothing=smoothing, **changes)


def ids_of(vocabulary, longest):
    return st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=longest)


directions: Any = st.sampled_from(DIRECTIONS)
smoothings: Any = st.sampled_from(SMOOTHINGS)
orders = st.integers(1, 6)
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


@given(
    stream=ids_of(3, 40),
    windows=st.lists(ids_of(3, 6), min_size=1, max_size=3),
    longest=orders,
    smoothing=smoothings,
    direction=directions,
)
def test_windows_cost_what_brute_force_counting_says(
    stream, windows, longest, smoothing, direction
):
    # The stream may be shorter than the order: the ring then runs past itself.
    fitted = model(stream, vocabulary=3, order=longest, smoothing=smoothing, direction=direction)
    got_KT = fitted.score(np.concatenate(windows), [len(w) for w in windows])
    step = 1 if direction == "forward" else -1
    brute = BruteForce(stream[::step], vocabulary=3, smoothing=smoothing)
    for order, got_T in enumerate(got_KT, start=1):
        want = []
        for window in windows:
            read = window[::step]
            nats = [
                -np.log(brute.p(read[max(0, t - order + 1) : t], x)) for t, x in enumerate(read)
            ]
            want += nats[::step]
        np.testing.assert_allclose(got_T, want, rtol=1e-12, atol=1e-14)


@given(
    stream=ids_of(3, 30),
    ring=ids_of(3, 9),
    order=orders,
    smoothing=smoothings,
    direction=directions,
)
def test_rings_cost_what_brute_force_counting_says(stream, ring, order, smoothing, direction):
    fitted = model(stream, vocabulary=3, order=order, smoothing=smoothing, direction=direction)
    got_T = fitted.score_ring(ring)[-1]
    step = 1 if direction == "forward" else -1
    brute = BruteForce(stream[::step], vocabulary=3, smoothing=smoothing)
    n = len(ring)
    for t, x in enumerate(ring):
        context = [ring[(t - step * back) % n] for back in range(order - 1, 0, -1)]
        assert got_T[t] == pytest.approx(-np.log(brute.p(context, x)), rel=1e-12, abs=1e-14)


@given(
    stream=ids_of(5, 80),
    context=st.lists(st.integers(0, 5), max_size=5),
    smoothing=smoothings,
    direction=directions,
)
def test_probabilities_add_up_to_one_and_none_is_zero(stream, context, smoothing, direction):
    # 5 is never in the stream: contexts that hold it were never seen, and it is never zero itself.
    fitted = model(stream, vocabulary=6, order=6, smoothing=smoothing, direction=direction)
    backward = direction == "backward"
    windows = [[x, *context] if backward else [*context, x] for x in range(6)]
    length = len(context) + 1
    nats = fitted.score(np.concatenate(windows), np.full(6, length))
    p_Kx = np.exp(-nats.reshape(6, 6, length)[:, :, 0 if backward else -1])
    np.testing.assert_allclose(p_Kx.sum(1), 1, rtol=1e-12)
    assert (p_Kx > 0).all()


def test_kneser_ney_of_six_tokens_by_hand():
    # The ring a b a b a c. Pairs: ab 2, ba 2, ac 1, ca 1; so n1 = n2 = 2 and D = 2 / (2 + 4).
    # To the left of a stand b and c, of b only a, of c only a: 2, 1, 1 of 4; less 0.5 each, and
    # three halves of 4 go to 1/3 each.
    fitted = model([0, 1, 0, 1, 0, 2], vocabulary=3, order=2)
    p_a, p_b = (1.5 + 1.5 / 3) / 4, (0.5 + 1.5 / 3) / 4
    p_b_after_a = (2 - 1 / 3) / 3 + (2 / 3) / 3 * p_b
    p_a_after_c = (1 - 1 / 3) / 1 + (1 / 3) / 1 * p_a
    got = np.exp(-fitted.score([0, 1, 2, 0], [2, 2])[1])
    # A window's first token has no context: its counts are discounted, 3 and 1 of 6
    assert got == pytest.approx([(2.5 + 0.5) / 6, p_b_after_a, (0.5 + 0.5) / 6, p_a_after_c])


@each_direction
def test_modified_kneser_ney_has_three_discounts_in_every_order(direction):
    # The short streams above hardly have k-grams of all numbers from 1 to 4.
    ids = np.minimum(np.random.default_rng(0).zipf(1.6, 620), 30) - 1
    stream, window = ids[:600], ids[600:]
    step = 1 if direction == "forward" else -1
    brute = BruteForce(stream[::step], vocabulary=31, smoothing="modified Kneser-Ney")
    for k in (2, 3):
        for longest in (True, False):
            numbers = brute.numbers(k, longest)
            assert len({brute.discount(r, numbers, k) for r in (1, 2, 3)}) == 3
    fitted = model(
        stream, vocabulary=31, order=4, smoothing="modified Kneser-Ney", direction=direction
    )
    read = list(window[::step])
    want = [-np.log(brute.p(read[max(0, t - 3) : t], x)) for t, x in enumerate(read)]
    np.testing.assert_allclose(fitted.score(window, [20])[3], want[::step], rtol=1e-12)


def test_no_estimate_of_discounts_is_zero_or_without_a_number():
    # n1 to n4 = 8, 4, 2, 1: Y = 1/2, and D = 1 - 1/2, 2 - 3/4, 3 - 1
    numbers = np.repeat([1, 2, 3, 4, 9], [8, 4, 2, 1, 5])
    assert estimated_discounts(numbers, modified=True) == pytest.approx((0.5, 1.25, 2.0))
    assert estimated_discounts(numbers, modified=False) == (0.5, 0.5, 0.5)
    # None seen four times, as in a small alphabet: one discount
    few = np.repeat([1, 2, 3, 9], [6, 2, 1, 5])
    assert estimated_discounts(few, modified=True) == pytest.approx((0.6, 0.6, 0.6))
    # 2 - 3Y n3/n2 is negative: one discount
    odd = np.repeat([1, 2, 3, 4], [8, 1, 9, 1])
    assert estimated_discounts(odd, modified=True) == pytest.approx((0.8, 0.8, 0.8))
    # None seen once (n1/(n1 + 2 n2) is 0: unseen tokens would cost infinitely many nats), none
    # seen twice (it is 1: what was seen once would count for nothing), neither (0/0)
    for numbers in ([2, 3, 4], [1, 3, 4], [7, 8]):
        assert estimated_discounts(numbers, modified=True) == (0.5, 0.5, 0.5)


@given(stream=ids_of(4, 60), window=ids_of(4, 20), order=orders, smoothing=smoothings)
def test_the_backward_model_is_the_forward_model_of_the_reversed_stream(
    stream, window, order, smoothing
):
    backward = model(stream, order=order, smoothing=smoothing, direction="backward")
    flipped = model(stream[::-1], order=order, smoothing=smoothing)
    lengths = [len(window)]
    np.testing.assert_array_equal(
        backward.score(window, lengths), flipped.score(window[::-1], lengths)[:, ::-1]
    )
    np.testing.assert_array_equal(
        backward.score_ring(window), flipped.score_ring(window[::-1])[:, ::-1]
    )


@given(
    windows=st.lists(ids_of(4, 12), min_size=2, max_size=8),
    smoothing=smoothings,
    direction=directions,
)
def test_scores_do_not_depend_on_the_other_windows(windows, smoothing, direction):
    stream = np.random.default_rng(1).integers(0, 4, 80)
    fitted = model(stream, smoothing=smoothing, direction=direction)
    together = fitted.score(np.concatenate(windows), [len(w) for w in windows])
    alone = [fitted.score(w, [len(w)]) for w in windows]
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=1))


@given(stream=ids_of(4, 60), window=ids_of(4, 20), smoothing=smoothings)
def test_shorter_orders_of_one_model_are_models_of_that_order(stream, window, smoothing):
    fitted = model(stream, order=6, smoothing=smoothing).score(window, [len(window)])
    for order in (1, 2, 4):
        shorter = model(stream, order=order, smoothing=smoothing).score(window, [len(window)])
        np.testing.assert_array_equal(fitted[:order], shorter)


# What counting says of the arrow is said by the smoothing.


def both_ways(stream, ring, **how):
    """Nats (order,) of a ring, forward and backward."""
    return [model(stream, direction=d, **how).score_ring(ring).sum(1) for d in DIRECTIONS]


@given(stream=ids_of(4, 60), ring=ids_of(4, 60), strength=st.floats(0.01, 100))
def test_additive_smoothing_has_no_arrow_on_any_ring(stream, ring, strength):
    for text in (stream, ring):
        forward_K, backward_K = both_ways(stream, text, smoothing="additive", strength=strength)
        np.testing.assert_allclose(forward_K, backward_K, rtol=1e-12, atol=1e-12)


def test_the_ring_of_an_irreversible_chain_is_no_empty_test():
    ids = MarkovChain(7, 1).sample(2, 1, 3000)
    nats = [
        model(ids[0], vocabulary=7, order=2, smoothing="additive", direction=d).score_ring(ids[1])
        for d in DIRECTIONS
    ]
    forward, backward = (n[1].reshape(60, 50).sum(1) for n in nats)
    arrow = arrow_of_time(forward, backward, np.arange(60) // 5)
    assert abs(arrow.relative) < 1e-13
    assert np.abs(nats[0] - nats[1]).max() > 0.1
    for smoothing in ("MacKay-Peto", "Kneser-Ney", "modified Kneser-Ney"):
        forward_K, backward_K = both_ways(ids[0], ids[1], vocabulary=7, smoothing=smoothing)
        assert abs(forward_K[2] - backward_K[2]) > 1e-3


@given(stream=ids_of(4, 60), middle=ids_of(4, 20), other=ids_of(4, 20), order=st.integers(1, 4))
def test_additive_arrow_of_a_window_depends_on_its_ends_only(stream, middle, other, order):
    fitted = [model(stream, order=order, smoothing="additive", direction=d) for d in DIRECTIONS]

    def arrow(between):
        window = [0, 1, 1, *between, 2, 0, 3]
        forward, backward = (each.score(window, [len(window)])[-1].sum() for each in fitted)
        return backward - forward

    assert arrow(middle) == pytest.approx(arrow(other), rel=1e-10, abs=1e-10)


def stems_and_endings(count, seed):
    """Stems of 2,000, each with one of seven endings that it decides: [stem, ending, stem, ...].

    Endings follow many stems, and stems precede few endings; the pairs are independent. The exact
    model has no arrow on whole pairs: both directions cost the surprisals of the stems.
    """
    stems = np.minimum(np.random.default_rng(seed).zipf(1.3, count), 2000) - 1
    return np.stack([stems, 2000 + stems % 7], axis=1).ravel()


def test_an_arrow_of_counts_was_the_smoothing_and_not_the_text():
    train, held_out = stems_and_endings(50_000, 0), stems_and_endings(10_000, 1)
    lengths = np.full(20, 1000)
    arrow, loss = {}, {}
    for smoothing in ("MacKay-Peto", "absolute discounting", "Kneser-Ney", "modified Kneser-Ney"):
        forward, backward = (
            model(
                train, vocabulary=2007, order=2, smoothing=smoothing, direction=direction,
                **({"strength": 16.0} if smoothing == "MacKay-Peto" else {}),
            ).score(held_out, lengths)[1].sum()
            for direction in DIRECTIONS
        )  # fmt: skip
        arrow[smoothing] = 2 * (backward - forward) / (backward + forward)
        loss[smoothing] = (forward + backward) / 2 / len(held_out)
    assert arrow["MacKay-Peto"] < -0.05
    assert arrow["absolute discounting"] < -0.01
    for smoothing in ("Kneser-Ney", "modified Kneser-Ney"):
        assert abs(arrow[smoothing]) < 0.003
        assert loss[smoothing] < loss["absolute discounting"] - 0.02 < loss["MacKay-Peto"] - 0.07


# Counts


def test_orders_that_do_not_fit_a_64_bit_key_are_counted():
    # 50257**4 is 6.4e18, and longer k-grams were refused.
    stream = np.array([50256] * 5 + [0, 50256, 1], dtype=np.uint16)
    counts = NGramCounts(stream, vocabulary=50257, order=6)
    ranks_KT = counts.look_up(stream)
    for k in range(1, 7):
        grams = [tuple(int(stream[(i + j) % 8]) for j in range(k)) for i in range(8)]
        often, distinct = Counter(grams), sorted(set(grams))
        kgrams = counts.level(k)
        assert kgrams.counts_U[ranks_KT[k]].tolist() == [often[gram] for gram in grams]
        assert ranks_KT[k].tolist() == [distinct.index(gram) for gram in grams]
        if k < 6:
            before = Counter(
                gram[1:] for gram in {tuple(np.roll(stream, -i)[: k + 1]) for i in range(8)}
            )
            assert kgrams.left_U is not None
            assert kgrams.left_U.tolist() == [before[gram] for gram in distinct]


@given(
    stream=st.lists(st.integers(0, 2), min_size=1, max_size=50),
    query=st.lists(st.integers(0, 3), min_size=1, max_size=20),
)
def test_what_was_never_counted_has_no_rank(stream, query):
    counts = NGramCounts(stream, vocabulary=4, order=5)
    ranks_KT = counts.look_up(query)
    n, m = len(stream), len(query)
    for k in range(1, 6):
        seen = sorted({tuple(stream[(i + j) % n] for j in range(k)) for i in range(n)})
        wanted = [tuple(query[(i + j) % m] for j in range(k)) for i in range(m)]
        assert ranks_KT[k].tolist() == [seen.index(w) if w in seen else -1 for w in wanted]


@pytest.mark.parametrize("largest", [50, 2**62])
def test_keys_are_sorted_with_their_places_however_large(largest):
    keys = np.random.default_rng(0).integers(0, largest, 1000)
    ordered, places = sorted_with_places(keys)
    np.testing.assert_array_equal(ordered, np.sort(keys))
    np.testing.assert_array_equal(keys[places], ordered)
    assert sorted(places) == list(range(1000))


# What is refused


@pytest.mark.parametrize(
    ("stream", "changes", "message"),
    [
        ([0, 1], {"order": 0}, "order 0 and vocabulary 4 must be at least 1"),
        ([], {}, "at least one integer"),
        ([[0, 1]], {}, r"shape \(1, 2\)"),
        ([0.5], {}, "float64"),
        ([0, 4], {}, "token id 4 is outside the vocabulary of 4"),
        ([0, -1], {}, "token id -1"),
    ],
)
def test_bad_models_are_refused(stream, changes, message):
    with pytest.raises(UserError, match=message):
        model(stream, **{"smoothing": "MacKay-Peto", **changes})


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([0, 1, 2], [2], "lengths of 1 windows add up to 2, but there are 3"),
        ([0, 1, 2], [3, 0], "each at least 1"),
        ([0, 1, 2], [1.5, 1.5], "must hold integers"),
        ([0, 1, 9], [3], "token id 9 is outside"),
    ],
)
@each_direction
def test_bad_windows_are_refused(ids, lengths, direction, message):
    with pytest.raises(UserError, match=message):
        model([0, 1, 2], direction=direction).score(ids, lengths)
