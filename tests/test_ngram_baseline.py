"""The baseline that a model must beat: its windows, its choice, its floor, what is refused.

Legend: M windows, K orders, S seeds.
"""

from __future__ import annotations

import numpy as np
import pytest

from helpers import id_store, random_documents
from lmlab.data.synthetic import MarkovChain
from lmlab.data.windows import evaluation_windows
from lmlab.errors import UserError
from lmlab.topics.arrow.counting import with_arrow
from lmlab.topics.counting.baseline import STRENGTHS, ngram_baselines
from lmlab.topics.counting.ngram import DIRECTIONS, SMOOTHINGS, WITH_STRENGTH
from ngram_model import NGram


@pytest.fixture(scope="module")
def chain_store(tmp_path_factory):
    """A Markov chain in a store: (chain, store), documents without end-of-text between them."""
    chain = MarkovChain(6, 3)
    sizes = {"train": (150, 1), "validation": (20, 2), "test": (40, 3)}
    splits = {name: list(chain.sample(n, seed, 600)) for name, (n, seed) in sizes.items()}
    folder = tmp_path_factory.mktemp("stores") / "chain"
    return chain, id_store(folder, splits, symbols=6, end_of_text=False)


@pytest.fixture(scope="module")
def chain_baselines(chain_store):
    return ngram_baselines(chain_store[1], split="test", context=200)


def test_a_markov_chain_is_counted_to_its_floor_both_ways(chain_store, chain_baselines):
    chain, _ = chain_store
    ids_MT = chain.sample(40, 3, 600).reshape(120, 200)
    assert [each.fit.smoothing for each in chain_baselines.of_smoothings] == list(SMOOTHINGS)
    for made in chain_baselines.of_smoothings:
        # The chain's memory is one token: longer contexts only cost
        assert made.fit.order == 2
        for direction in DIRECTIONS:
            got = getattr(made.fit, f"nats_per_token_{direction}")
            # Paired with the exact model on the same text, and near its expectation on any text
            assert got == pytest.approx(chain.score(ids_MT, direction).mean(), abs=1e-3)
            assert got == pytest.approx(chain.floor(200), abs=0.03)
        assert abs(with_arrow(made).arrow.relative) < 1e-3
        assert made.fit.validation_nats[0] > made.fit.validation_nats[1] + 0.2


@pytest.mark.parametrize("smoothing", ["modified Kneser-Ney", "MacKay-Peto"])
def test_baseline_scores_the_windows_that_models_are_scored_on(small_store, smoothing):
    made = ngram_baselines(
        small_store, split="validation", context=9, longest=3, max_windows=10,
        smoothings=(smoothing,),
    ).best  # fmt: skip
    windows = evaluation_windows(small_store.split("validation"), 9, max_windows=10)
    np.testing.assert_array_equal(made.tokens_M, windows.length_M)
    np.testing.assert_array_equal(made.clusters.cluster_N, windows.cluster_M)
    train = small_store.split("train")
    for direction in DIRECTIONS:
        fitted = NGram(
            train.read(0, train.tokens), vocabulary=small_store.vocabulary, order=made.fit.order,
            smoothing=smoothing, strength=made.fit.strength, direction=direction,
        )  # fmt: skip
        for row in range(10):
            ids = windows.ids(row)
            want = fitted.score(ids, [len(ids)])[-1].sum()
            got = getattr(made, f"nats_{direction}_M")[row]
            assert got == pytest.approx(want, rel=1e-12)
    assert made.fit.fitted_tokens == train.tokens
    assert with_arrow(made).arrow.windows == 10


def test_order_and_strength_have_the_least_loss_of_both_directions(chain_store, chain_baselines):
    _, store = chain_store
    train = store.split("train")
    stream = train.read(0, train.tokens)
    windows = evaluation_windows(store.split("validation"), 200)
    ids = np.concatenate([windows.ids(row) for row in range(len(windows))])

    def losses(smoothing, strength):
        """Nats per token (K,), mean of both directions."""
        return np.mean([
            NGram(
                stream, vocabulary=store.vocabulary, order=6, smoothing=smoothing,
                strength=strength, direction=direction,
            ).score(ids, windows.length_M).mean(1)
            for direction in DIRECTIONS
        ], axis=0)  # fmt: skip

    for made in chain_baselines.of_smoothings:
        expected = losses(made.fit.smoothing, made.fit.strength)
        np.testing.assert_allclose(made.fit.validation_nats, expected, rtol=1e-12)
        assert made.fit.order == expected.argmin() + 1
        if made.fit.smoothing in WITH_STRENGTH:
            for strength in STRENGTHS[::3]:
                assert losses(made.fit.smoothing, strength).min() >= expected.min()
            # Order 1 hardly depends on it: the choice of order 2 decides
            assert made.fit.strength < 64
        else:
            assert made.fit.strength is None
    least = min(min(each.fit.validation_nats) for each in chain_baselines.of_smoothings)
    assert min(chain_baselines.best.fit.validation_nats) == least


def many_to_one_documents(count, seed):
    """A symbol below 40, then its parity: easy to tell from its past, hard from its future."""
    x = np.random.default_rng(seed).integers(0, 40, (count, 30))
    return np.stack([x, 40 + x % 2], axis=2).reshape(count, 60)


def test_reversing_a_store_swaps_the_directions_and_keeps_the_choice(tmp_path):
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
    first, second = (
        ngram_baselines(store, split="validation", context=60, longest=3)
        for store in (written, flipped)
    )
    for here, there in zip(first.of_smoothings, second.of_smoothings, strict=True):
        assert (here.fit.order, here.fit.strength) == (there.fit.order, there.fit.strength)
        np.testing.assert_allclose(here.nats_forward_M, there.nats_backward_M[::-1], rtol=1e-12)
        np.testing.assert_allclose(here.nats_backward_M, there.nats_forward_M[::-1], rtol=1e-12)
        assert with_arrow(here).arrow.relative == pytest.approx(
            -with_arrow(there).arrow.relative, rel=1e-9, abs=1e-12
        )

    ids, lengths = splits["validation"].ravel(), np.full(20, 60)

    def loss(strength, direction):
        fitted = NGram(
            splits["train"].ravel(), vocabulary=written.vocabulary, order=2,
            smoothing="MacKay-Peto", strength=strength, direction=direction,
        )  # fmt: skip
        return fitted.score(ids, lengths)[-1].sum()

    alone = [min(STRENGTHS, key=lambda s: loss(s, direction)) for direction in DIRECTIONS]
    assert alone[0] != alone[1]


def test_a_model_is_compared_with_the_direction_that_it_reads(chain_baselines):
    made = chain_baselines.best
    rng = np.random.default_rng(0)
    for direction in DIRECTIONS:
        own_M = getattr(made, f"nats_{direction}_M")
        nats_SM = own_M + 0.3 * made.tokens_M + rng.normal(0, 1, (3, len(own_M)))
        above = made.above(nats_SM, direction)
        want = (nats_SM.sum() - 3 * own_M.sum()) / (3 * made.tokens_M.sum())
        assert above.estimate == pytest.approx(want)
        assert above.low is not None
        assert above.low > 0.2
        assert above.seeds == 3
    with pytest.raises(UserError, match="score the same windows"):
        made.above(np.ones((3, 4)), "forward")


def test_stores_without_the_text_it_takes_are_refused(small_store, tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        ngram_baselines(small_store, split="test", context=8)
    with pytest.raises(UserError, match="at least 1"):
        ngram_baselines(small_store, split="validation", context=0)
    documents = random_documents(2, 5, 9, symbols=3, seed=0)
    for missing in ("train", "validation", "test"):
        splits = dict.fromkeys(("train", "validation", "test"), documents)
        store = id_store(tmp_path / missing, {**splits, missing: []}, symbols=3)
        with pytest.raises(UserError, match=f"split {missing} has no"):
            ngram_baselines(store, split="test", context=8)
