"""Synthetic sources: floors against brute force and closed forms, samples against their law.

Legend: N strings, T characters, m bits.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.data.synthetic import (
    LinearLanguage,
    ManyToOne,
    MarkovChain,
    PrimeProducts,
    Spam,
    linear_floor,
)
from lmlab.data.synthetic.linear_language import walsh_hadamard
from lmlab.data.tokenizers import character_tokenizer
from lmlab.errors import UserError


def binary_entropy(p: float) -> float:
    return 0.0 if p == 0 else -p * math.log(p) - (1 - p) * math.log(1 - p)


def joint_distribution(matrix, flip):
    """P(x', y') by enumerating x and both flips: an array with one axis of size 2 per bit."""
    m = len(matrix)
    joint = np.zeros((2,) * (2 * m))
    bits = list(itertools.product((0, 1), repeat=m))
    weight = {e: flip ** sum(e) * (1 - flip) ** (m - sum(e)) for e in bits}
    for x in bits:
        y = np.array(matrix) @ x % 2
        for e_in in bits:
            for e_out in bits:
                shown = (*np.bitwise_xor(x, e_in), *np.bitwise_xor(y, e_out))
                joint[shown] += weight[e_in] * weight[e_out] / 2**m
    return joint


def chain_rule_loss(joint):
    """Sum over characters of the exact conditional entropy given all characters before it."""
    total = 0.0
    for t in range(joint.ndim):
        with_t = joint.sum(axis=tuple(range(t + 1, joint.ndim)))
        before = with_t.sum(axis=t, keepdims=True)
        seen = with_t > 0
        conditional = with_t[seen] / np.broadcast_to(before, with_t.shape)[seen]
        total -= with_t[seen] @ np.log(conditional)
    return total


@pytest.mark.parametrize(("bits", "extra", "flip"), [(2, 1, 0.1), (3, 2, 0.01), (4, 5, 0.2)])
def test_linear_floor_is_brute_force_in_both_directions(bits, extra, flip):
    language = LinearLanguage(bits, extra, flip, seed=1)
    joint = joint_distribution(language.matrix, flip)
    characters = 2 * bits + 7
    forward = chain_rule_loss(joint) / characters
    backward = chain_rule_loss(joint.transpose()) / characters
    assert forward == pytest.approx(backward, abs=1e-12)
    assert language.floor() == pytest.approx(forward, abs=1e-12)


def noise_entropy(matrix, flip):
    """H(A e_in + e_out) by enumerating both flips."""
    m = len(matrix)
    bits = np.array(list(itertools.product((0, 1), repeat=m)))
    weight = flip ** bits.sum(1) * (1 - flip) ** (m - bits.sum(1))
    code = bits @ (1 << np.arange(m))
    image = (bits @ np.array(matrix).T % 2) @ (1 << np.arange(m))
    p = np.zeros(2**m)
    for at, w in zip(image, weight, strict=True):
        np.add.at(p, at ^ code, w * weight)
    return -(p[p > 0] @ np.log(p[p > 0]))


def test_linear_surprisal_is_brute_force():
    language = LinearLanguage(3, 3, 0.1, seed=1)
    joint = joint_distribution(language.matrix, 0.1)
    shown = np.array(list(itertools.product((0, 1), repeat=6)))
    strings = np.concatenate([shown[:, :3], np.full((64, 7), 2), shown[:, 3:]], axis=1)
    assert np.exp(-language.surprisal(strings)) == pytest.approx(joint.reshape(-1), abs=1e-15)
    strings[0, 4] = 0
    strings[1, 0] = 2
    assert np.isinf(language.surprisal(strings)[:2]).all()


@pytest.mark.parametrize("extra", [0, 3, 12])
def test_linear_floor_at_six_bits_is_enumeration(extra):
    language = LinearLanguage(6, extra, 0.05, seed=2)
    expected = (6 * math.log(2) + noise_entropy(language.matrix, 0.05)) / 19
    assert language.floor() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bits", [1, 7, 13, 18])
def test_linear_floor_of_the_identity_is_closed(bits):
    flip = 0.01
    each = math.log(2) + binary_entropy(2 * flip * (1 - flip))
    expected = bits * each / (2 * bits + 7)
    assert LinearLanguage(bits, 0, flip).floor() == pytest.approx(expected, abs=1e-12)


def test_linear_floor_at_25_bits_is_the_papers():
    assert LinearLanguage(25, 0, 0.01).floor() == pytest.approx(0.34667, abs=1e-5)


@pytest.mark.slow
def test_linear_floors_at_25_bits_with_extra_ones_are_the_papers():
    assert LinearLanguage(25, 8, 0.01).floor() == pytest.approx(0.3483, abs=5e-4)
    assert LinearLanguage(25, 50, 0.01).floor() == pytest.approx(0.352, abs=5e-4)


# Places (row, column) of the six extra ones of two 20 x 20 matrices.
FIXTURES = [
    [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)],
    [(0, 1), (1, 2), (2, 3), (9, 4), (9, 5), (15, 19)],
]


@pytest.mark.parametrize("places", FIXTURES)
def test_linear_floor_of_fixed_matrices_is_the_sum_over_connected_bits(places):
    # Bits that no extra one connects are independent: each group is small enough to enumerate.
    matrix = np.eye(20, dtype=int)
    groups = [{bit} for bit in range(20)]
    for i, j in places:
        matrix[i, j] = 1
        joined = [g for g in groups if i in g or j in g]
        groups = [g for g in groups if g not in joined] + [set().union(*joined)]
    noise = sum(noise_entropy(matrix[np.ix_(sorted(g), sorted(g))], 0.01) for g in groups)
    expected = (20 * math.log(2) + noise) / 47
    assert linear_floor(matrix, 0.01) == pytest.approx(expected, abs=1e-12)
    assert 0.3375 < expected < 0.3380


def test_linear_floor_without_flips_is_that_of_the_bits():
    assert LinearLanguage(9, 10, 0.0).floor() == pytest.approx(9 * math.log(2) / 25, abs=1e-12)


@pytest.mark.parametrize("bits", [0, 1, 5, 6, 7, 12, 13])
def test_transform_is_the_matrix_of_signs(bits):
    values = np.random.default_rng(bits).normal(size=2**bits)
    index = np.arange(2**bits)
    expected = [(1.0 - 2.0 * (np.bitwise_count(s & index) % 2)) @ values for s in index[:40]]
    walsh_hadamard(values)
    assert values[:40] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(1, 20), share=st.floats(0, 0.3), seed=st.integers(0, 1000))
def test_linear_matrix_is_the_identity_and_extra_ones_and_invertible(bits, share, seed):
    extra = int(share * bits * (bits - 1))
    language = LinearLanguage(bits, extra, 0.01, seed)
    identity = np.eye(bits, dtype=int)
    assert (np.diag(language.matrix) == 1).all()
    assert language.matrix.sum() == bits + extra
    assert (language.matrix @ language.inverse % 2 == identity).all()
    assert language.matrix.mean() == pytest.approx((bits + extra) / bits**2)


def test_linear_sample_is_the_language():
    language = LinearLanguage(10, 6, 0.0, seed=3)
    ids = language.sample(50, 0)
    assert ids.shape == (50, 27)
    assert ids.dtype == np.int64
    assert (ids[:, 10:17] == 2).all()
    assert (ids[:, 17:] == ids[:, :10] @ language.matrix.T % 2).all()
    assert (ids[:, :10] == ids[:, 17:] @ language.inverse.T % 2).all()
    text = language.text(ids)[0]
    assert text[10:17] == "|||||||"
    assert [language.alphabet.index(c) for c in text] == ids[0].tolist()


def test_linear_sample_flips_at_its_rate():
    clean, noisy = LinearLanguage(10, 0, 0.0), LinearLanguage(10, 0, 0.1)
    assert (clean.matrix == noisy.matrix).all()
    ids = noisy.sample(20_000, 5)
    mismatch = (ids[:, :10] != ids[:, 17:]).mean()
    expected = 2 * 0.1 * 0.9
    assert mismatch == pytest.approx(expected, abs=4 * math.sqrt(expected * 0.82 / 200_000))


def test_primes():
    source = PrimeProducts()
    assert len(source.primes) == 9592
    assert source.pairs == 45_998_436
    assert source.floor() * 30 == pytest.approx(17.644, abs=5e-4)
    assert source.floor() == pytest.approx(0.5881, abs=5e-5)
    known = set(source.primes.tolist())
    for line in source.text(source.sample(500, 0)):
        assert len(line) == 30
        p, q, product = int(line[:5]), int(line[8:13]), int(line[20:][::-1])
        assert line[5:8] + line[13:20] == " *    =   "
        assert p < q
        assert {p, q} <= known
        assert p * q == product


def test_prime_pairs_are_uniform():
    # The smaller index of a uniform pair out of n has mean (n - 2) / 3.
    source = PrimeProducts()
    ids = source.sample(20_000, 1)
    p = ids[:, :5] @ 10 ** np.arange(4, -1, -1)
    rank = np.searchsorted(source.primes, p)
    assert rank.mean() == pytest.approx((9592 - 2) / 3, abs=4 * 9592 / math.sqrt(18 * 20_000))


def test_many_to_one_floors_and_map():
    source = ManyToOne(4, 3, 5, seed=0)
    assert np.bincount(source.map).tolist() == [3, 3, 3, 3]
    # Both directions add up to the same string: half known on the way in, half on the span.
    forward, backward = 5 * math.log(12), 5 * math.log(4) + 5 * math.log(3)
    assert forward == pytest.approx(backward) == pytest.approx(11 * source.floor())
    ids = source.sample(300, 0)
    assert ids.shape == (300, 11)
    assert (ids[:, source.target_span] == 12 + source.map[ids[:, :5]]).all()
    backward_reading = ids[:, ::-1]
    assert (backward_reading[:, source.target_span] < 12).all()
    x, _, y = source.text(ids)[0].partition("|")
    assert x.islower()
    assert y.isupper()


@pytest.mark.parametrize("length", [1, 2, 5])
def test_markov_floor_is_enumeration_in_both_directions(length):
    chain = MarkovChain(4, 0)
    windows = np.array(list(itertools.product(range(4), repeat=length)))
    nats = chain.score(windows).sum(1)
    backward = chain.score(windows, "backward").sum(1)
    assert np.exp(-nats).sum() == pytest.approx(1)
    assert nats == pytest.approx(backward, abs=1e-12)
    assert chain.floor(length) == pytest.approx((np.exp(-nats) * nats).sum() / length, abs=1e-12)


def test_markov_chain_is_stationary_and_its_floor_falls_to_the_rate():
    chain = MarkovChain(6, 3)
    assert chain.transitions.sum(1) == pytest.approx(np.ones(6))
    assert chain.stationary @ chain.transitions == pytest.approx(chain.stationary)
    assert chain.backward_transitions.sum(1) == pytest.approx(np.ones(6))
    assert chain.floor(1) > chain.floor(10) > chain.entropy_rate()
    assert chain.floor(10**9) == pytest.approx(chain.entropy_rate(), abs=1e-8)


def test_markov_samples_follow_the_chain():
    chain = MarkovChain(5, 1)
    ids = chain.sample(4000, 0, 40)
    assert ids.shape == (4000, 40)
    for column in (0, 39):
        frequency = np.bincount(ids[:, column], minlength=5) / 4000
        assert frequency == pytest.approx(chain.stationary, abs=4 * 0.5 / math.sqrt(4000))
    loss = chain.score(ids).sum(1) / 40
    assert loss.mean() == pytest.approx(chain.floor(40), abs=4 * loss.std() / math.sqrt(4000))


def test_spam_is_one_symbol_whose_floor_is_that_of_a_uniform_draw():
    source = Spam(4, 3)
    strings = np.array(list(itertools.product(range(4), repeat=3)))
    probability = np.exp(-source.surprisal(strings))
    assert probability.sum() == pytest.approx(1)
    seen = probability > 0
    assert strings[seen].tolist() == [[symbol] * 3 for symbol in range(4)]
    expected = -(probability[seen] @ np.log(probability[seen])) / 3
    assert source.floor() == pytest.approx(expected, abs=1e-12)
    counts = np.bincount(source.sample(8000, 0)[:, 0], minlength=4)
    assert counts == pytest.approx(np.full(4, 2000), abs=4 * math.sqrt(1500))


def test_spam_has_a_letter_for_each_of_a_hundred_thousand_symbols():
    letters = Spam(100_000, 1).alphabet
    assert len(set(letters)) == 100_000
    tokenizer = character_tokenizer(letters)
    text = "".join(letters)
    assert tokenizer.encode(text).tolist() == list(range(100_000))


SOURCES = [
    LinearLanguage(5, 3, 0.01),
    PrimeProducts(),
    ManyToOne(3, 2, 4, 0),
    MarkovChain(3, 0),
    Spam(9, 4),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: type(s).__name__)
def test_samples_are_a_function_of_their_seed_alone(source):
    ids = source.sample(20, 7)
    np.random.seed(0)  # the global generator must not matter
    assert (source.sample(20, 7) == ids).all()
    assert (source.sample(20, 8) != ids).any()
    assert ids.dtype == np.int64
    assert source.sample(0, 7).shape == (0, ids.shape[1])
    assert all(len(character) == 1 for character in source.alphabet)
    assert len(set(source.alphabet)) == len(source.alphabet)
    with pytest.raises(UserError, match="n is -1"):
        source.sample(-1, 0)
    with pytest.raises(UserError, match=r"seed is 0\.5"):
        source.sample(1, 0.5)
    with pytest.raises(UserError, match="not in the alphabet"):
        source.text([[99]])
    with pytest.raises(UserError, match="integers of shape"):
        source.text([0])


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: type(s).__name__)
def test_surprisal_has_the_floor_as_its_mean(source):
    ids = source.sample(20_000, 3)
    nats = source.surprisal(ids)
    length = ids.shape[1]
    floor = source.floor(length) if isinstance(source, MarkovChain) else source.floor()
    assert nats.mean() / length == pytest.approx(floor, abs=4 * nats.std() / 141 / length + 1e-9)
    with pytest.raises(UserError, match="integers of shape"):
        source.surprisal([0])


def test_impossible_strings_have_infinite_surprisal():
    primes, mapping = PrimeProducts(), ManyToOne(3, 2, 4, 0)
    line = primes.sample(1, 0)
    for place in (0, 6, 8, 14, 16, 25):
        changed = line.copy()
        changed[0, place] = (changed[0, place] + 1) % len(primes.alphabet)
        assert np.isinf(primes.surprisal(changed)), place
    string = mapping.sample(1, 0)
    separator = mapping.alphabet.index("|")
    for place, wrong in ((0, separator), (4, 0), (5, 0), (5, separator)):
        changed = string.copy()
        changed[0, place] = wrong
        assert np.isinf(mapping.surprisal(changed)), place
    assert np.isinf(primes.surprisal(primes.sample(1, 0)[:, ::-1])).all()
    assert MarkovChain(3, 0).surprisal([[0]])[0] > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearLanguage(0, 0, 0.01), "bits is 0"),
        (lambda: LinearLanguage(4, 13, 0.01), "extra is 13"),
        (lambda: LinearLanguage(4, 0, 0.5), "flip is 0.5"),
        (lambda: LinearLanguage(4, 0, 0.1, -1), "seed is -1"),
        (lambda: LinearLanguage(2, 2, 0.1), "no invertible matrix"),
        (lambda: LinearLanguage(28, 0, 0.1).floor(), "at 28 bits"),
        (lambda: linear_floor(np.full((2, 2), 2), 0.1), "entries 0 and 1"),
        (lambda: ManyToOne(9, 3, 2, 0), "only 26"),
        (lambda: Spam(1, 4), "symbols is 1"),
        (lambda: Spam(100_001, 4), "symbols is 100001"),
        (lambda: Spam(5, 0), "length is 0"),
        (lambda: MarkovChain(1, 0), "states is 1"),
        (lambda: MarkovChain(3, 0, concentration=0), "concentration"),
        (lambda: MarkovChain(3, 0).floor(0), "length is 0"),
        (lambda: MarkovChain(3, 0).score([[3]]), "not in the alphabet"),
        (lambda: MarkovChain(3, 0).score([0]), "shape"),
        (lambda: MarkovChain(3, 0).score([[0]], "sideways"), "direction"),  # type: ignore
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
