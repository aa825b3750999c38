"""The arrow of single documents: its reliability, by brute force and on documents that have one.

Legend: S seeds, N windows, D documents, W windows of each.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from lmlab.errors import UserError
from lmlab.topics.arrow.document_views import documents_words
from lmlab.topics.arrow.documents import DocumentArrows, arrows_by_document


def simulated(
    rng: np.random.Generator, *, seeds=3, documents=40, windows=10, own=0.02, trainings=0.005,
    passages=0.03,
):  # fmt: skip
    """Nats of both directions: `own` is the standard deviation between documents' arrows, the
    others those of a training's interaction with a document, and of windows."""
    document_N = np.repeat(np.arange(documents), windows)
    n = len(document_N)
    forward_SN = rng.gamma(100.0, 4.0, (1, n)) * np.ones((seeds, 1))
    relative_SN = 0.01 + own * rng.normal(size=documents)[document_N]
    relative_SN = relative_SN + trainings * rng.normal(size=(seeds, documents))[:, document_N]
    relative_SN = relative_SN + passages * rng.normal(size=n)
    return forward_SN, forward_SN * (1 + relative_SN), np.full(n, 100), document_N


def measured(forward_SN, backward_SN, tokens_N, document_N) -> DocumentArrows:
    result = arrows_by_document(forward_SN, backward_SN, tokens_N, document_N, {})
    assert result is not None
    return result


def halves(forward_SN, backward_SN, document_N):
    """The relative arrow of every other window of each document, and of the rest: (2, S, D)."""
    parts = []
    for half in (0, 1):
        of_half = []
        for d in np.unique(document_N):
            f_S, b_S = (x[:, document_N == d][:, half::2].sum(1) for x in (forward_SN, backward_SN))
            of_half.append((b_S - f_S) / ((b_S + f_S) / 2))
        parts.append(np.stack(of_half, 1))
    return np.stack(parts)


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(5, 12))
def test_each_reliability_is_a_covariance_of_parts_over_the_variance_of_the_whole(seed, S, D):
    f, b, tokens, document_N = simulated(np.random.default_rng(seed), seeds=S, documents=D)
    result = measured(f, b, tokens, document_N)
    y = halves(f, b, document_N)
    variance = np.var(y.mean((0, 1)))

    def covariance(x, z):
        return np.cov(x, z, ddof=0)[0, 1]

    pairs = list(permutations(range(S), 2))
    whole = y.mean(0)
    of_seeds = np.mean([covariance(whole[s], whole[t]) for s, t in pairs])
    of_both = np.mean([covariance(y[0, s], y[1, t]) for s, t in pairs])
    assert result.trainings is not None
    assert result.both is not None
    assert result.trainings.estimate == pytest.approx(min(of_seeds / variance, 0.999), abs=1e-9)
    assert result.both.estimate == pytest.approx(min(of_both / variance, 0.999))
    if of_both > 0:
        assert result.spread == pytest.approx(np.sqrt(min(of_both, 0.999 * variance)), rel=1e-6)


def test_with_equal_halves_one_seed_has_the_correlation_stepped_up():
    rng = np.random.default_rng(1)
    f, b, tokens, document_N = simulated(rng, seeds=1, documents=2000, windows=4, own=0.01)
    result = measured(f, b, tokens, document_N)
    first, second = halves(f, b, document_N)[:, 0]
    r = np.corrcoef(first, second)[0, 1]
    # equal up to the halves' variances, which differ by the luck of 2,000 documents
    assert result.passages.estimate == pytest.approx(2 * r / (1 + r), abs=2e-3)
    assert result.both is None
    assert result.trainings is None
    assert result.reliability is result.passages


def test_the_interval_is_of_the_statistic_without_each_document():
    f, b, tokens, document_N = simulated(np.random.default_rng(2), seeds=1, documents=12)
    without = [
        measured(*(x[..., document_N != d] for x in (f, b, tokens, document_N))).passages.estimate
        for d in range(12)
    ]
    z = -0.5 * np.log(1 - np.array(without))
    error = np.sqrt(11 / 12 * ((z - z.mean()) ** 2).sum())
    result = measured(f, b, tokens, document_N).passages
    assert result.low is not None
    assert result.high is not None
    assert result.degrees_of_freedom is not None
    half = t.ppf(0.975, result.degrees_of_freedom) * error
    ends = -0.5 * np.log(1 - result.estimate) + np.array([-half, half])
    assert [result.low, result.high] == pytest.approx(1 - np.exp(-2 * ends))


def test_what_documents_have_of_their_own_is_found_and_luck_is_not():
    """The truth is known: own^2 / (own^2 + trainings^2 / S + passages^2 / W)."""
    rng = np.random.default_rng(3)
    truth = 0.02**2 / (0.02**2 + 0.005**2 / 3 + 0.03**2 / 10)
    found = [measured(*simulated(rng)) for _ in range(60)]
    assert np.mean([r.reliability.estimate for r in found]) == pytest.approx(truth, abs=0.03)
    assert np.mean([r.spread for r in found]) == pytest.approx(0.02, rel=0.08)
    assert all(r.differ for r in found)
    luck = [measured(*simulated(rng, own=0.0)) for _ in range(60)]
    # passages that both seeds read alike are no property of the document
    assert np.mean([r.trainings.estimate for r in luck if r.trainings]) > 0.9
    assert abs(np.mean([r.reliability.estimate for r in luck])) < 0.1
    assert sum(r.differ for r in luck) <= 6
    assert "not shown" in documents_words(next(r for r in luck if not r.differ))


def test_planted_documents_are_clear_and_the_first_are_drawn_back():
    rng = np.random.default_rng(4)
    f, b, tokens, document_N = simulated(rng, own=0.0, trainings=0.001, passages=0.02)
    b = np.where(document_N < 3, b * 1.15, b)
    b = np.where(document_N == 3, b * 0.85, b)
    result = measured(f, b, tokens, document_N)
    names = [d.name for d in result.documents]
    assert set(names[:3]) == {"0", "1", "2"}
    assert names[-1] == "3"
    forwards, backwards = result.clear
    assert forwards >= 3
    assert backwards >= 1
    assert forwards + backwards < 12
    relative_D = [d.relative for d in result.documents]
    assert relative_D == sorted(relative_D, reverse=True)
    first, last = result.documents[0], result.documents[-1]
    assert first.expected < first.relative
    assert last.expected > last.relative
    # forward and backward change places: the same documents, the other way round
    turned = measured(b, f, tokens, document_N)
    assert [d.relative for d in turned.documents[::-1]] == pytest.approx([-x for x in relative_D])
    assert turned.clear == (backwards, forwards)


def test_short_documents_are_left_out_and_counted():
    f, b, tokens, document_N = simulated(np.random.default_rng(5), documents=8, windows=4)
    kept = np.ones(len(document_N), bool)
    kept[:2] = False  # document 0 has two windows
    result = measured(*(x[..., kept] for x in (f, b, tokens, document_N)))
    assert result.left_out == 1
    assert len(result.documents) == 7
    assert all(d.low is None and d.p_adjusted is None for d in result.documents)
    few = document_N < 4
    assert arrows_by_document(f[:, few], b[:, few], tokens[few], document_N[few], {}) is None


def test_shapes_that_do_not_fit_are_refused():
    f, b, tokens, document_N = simulated(np.random.default_rng(6))
    with pytest.raises(UserError, match=r"nll_backward_SN \(2, 400\)"):
        arrows_by_document(f, b[:2], tokens, document_N, {})
    with pytest.raises(UserError, match=r"tokens_N \(399,\)"):
        arrows_by_document(f, b, tokens[1:], document_N, {})
