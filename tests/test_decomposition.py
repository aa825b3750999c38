"""Decompositions against direct solves on the rows themselves, and against each other.

Shapes: N rows, D width, U width of the target, Z width of the basis.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes

from lmlab.errors import UserError
from lmlab.numerics.jackknife import jackknife_interval
from lmlab.numerics.scatter import Scatter
from lmlab.results import plain
from lmlab.topics.decomposition import decomposition as module
from lmlab.topics.decomposition.decomposition import (
    Decomposition,
    decompose,
    leave_one_out,
)
from lmlab.topics.decomposition.intervals import (
    DocumentSums,
    r2_difference,
    r2_interval,
)
from lmlab.topics.decomposition.ridge import (
    k_fold,
    permuted_rows,
    ridge_path,
    training_uncertainty,
)
from lmlab.topics.decomposition.shares import Ridges, greedy, pairwise, shares
from lmlab.topics.decomposition.similarity import SimilarityRows, similarity

WIDTHS = {"a": 6, "b": 9, "c": 4, "d": 1}


def features(n, widths=WIDTHS, *, seed=0, common=5, noise=0.5):
    """Every model sees the same `common` directions through a map of its own, and noise."""
    maps = np.random.default_rng(100)
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, common))
    return {
        name: hidden @ maps.normal(size=(common, d)) + noise * rng.normal(size=(n, d)) + 3
        for name, d in widths.items()
    }


def of_rows(rows, start=0, stop=None) -> Scatter:
    made = Scatter()
    made.update({name: values[start:stop] for name, values in rows.items()})
    return made


def joined(rows, names):
    return np.concatenate([rows[name] for name in names], axis=1)


def direct(rows, target, basis, ridge):
    """Weights and bias by augmented least squares on the centred rows: no normal equations."""
    z, u = joined(rows, basis), rows[target]
    zc, uc = z - z.mean(0), u - u.mean(0)
    root = np.sqrt(ridge * len(z))
    system = np.concatenate([zc, root * np.eye(z.shape[1])])
    goal = np.concatenate([uc, np.zeros((z.shape[1], u.shape[1]))])
    weights = np.linalg.lstsq(system, goal)[0].T
    return weights, u.mean(0) - weights @ z.mean(0)


def r2_of_rows(rows, target, basis, weights, bias):
    u = rows[target]
    left = ((u - joined(rows, basis) @ weights.T - bias) ** 2).sum()
    return 1 - left / ((u - u.mean(0)) ** 2).sum()


def all_weights(made: Decomposition):
    return np.concatenate(list(made.weights.values()), axis=1)


@pytest.fixture(scope="module")
def rows():
    return features(600)


@pytest.fixture(scope="module")
def train(rows):
    return of_rows(rows, 0, 400)


@pytest.fixture(scope="module")
def test_rows(rows):
    return {name: values[400:] for name, values in rows.items()}


@pytest.fixture(scope="module")
def test(test_rows):
    return of_rows(test_rows)


# Fits


@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 1.0, 50.0])
@pytest.mark.parametrize("target", list(WIDTHS))
def test_weights_and_r2_are_those_of_a_direct_solve(rows, train, test, test_rows, target, ridge):
    basis = [name for name in WIDTHS if name != target]
    weights, bias = direct({k: v[:400] for k, v in rows.items()}, target, basis, ridge)
    made = decompose(train, target, basis, ridge=ridge, test=test)
    found = all_weights(made)
    assert np.abs(found - weights).max() <= 1e-8 * np.abs(weights).max()
    np.testing.assert_allclose(made.bias, bias, rtol=1e-8)
    fitted = {k: v[:400] for k, v in rows.items()}
    assert made.r2_train == pytest.approx(
        r2_of_rows(fitted, target, basis, weights, bias), abs=1e-8
    )
    # held out: from the scatter alone, and from the rows
    assert made.r2_test == pytest.approx(
        r2_of_rows(test_rows, target, basis, weights, bias), abs=1e-8
    )
    np.testing.assert_allclose(
        made.predict(test_rows), joined(test_rows, basis) @ weights.T + bias, rtol=1e-7, atol=1e-7
    )


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.sampled_from([1e-6, 1e-2, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_leave_one_out_is_so_many_separate_fits(widths, ridge, seed):
    names = {f"m{i}": d for i, d in enumerate(widths)}
    rng = np.random.default_rng(seed)
    rows = {name: rng.normal(size=(60, d)) * rng.uniform(0.1, 5) for name, d in names.items()}
    train, test = of_rows(rows, 0, 40), of_rows(rows, 40)
    fits = leave_one_out(train, ridge=ridge, test=test)
    assert list(fits) == list(names)
    for target, made in fits.items():
        alone = decompose(train, target, made.basis, ridge=ridge, test=test)
        assert made.basis == tuple(name for name in names if name != target)
        scale = np.abs(all_weights(alone)).max()
        assert np.abs(all_weights(made) - all_weights(alone)).max() <= 1e-8 * scale
        np.testing.assert_allclose(made.bias, alone.bias, rtol=1e-7, atol=1e-9)
        assert made.r2_train == pytest.approx(alone.r2_train, abs=1e-9)
        assert made.r2_test == pytest.approx(alone.r2_test, abs=1e-8)
        np.testing.assert_allclose(
            made.train.by_dimension_U, alone.train.by_dimension_U, rtol=0, atol=1e-8
        )


def test_where_the_inverse_has_no_digits_each_fit_is_solved_by_itself(rows, train, monkeypatch):
    expected = leave_one_out(train)
    assert expected["a"].note == ""
    monkeypatch.setattr(module, "TRUSTED_CONDITION", 1.0)
    monkeypatch.setattr(module, "leave_out", pytest.fail)
    made = leave_one_out(train)
    for name, fit in made.items():
        assert fit.r2_train == pytest.approx(expected[name].r2_train, abs=1e-10)
        assert "few correct digits" in fit.note


def test_r2_of_dimensions_and_of_the_whitened_target(rows, train, test, test_rows):
    made = decompose(train, "b", ["a", "c"], test=test)
    assert made.test is not None
    residual = test_rows["b"] - made.predict(test_rows)
    centred = test_rows["b"] - test_rows["b"].mean(0)
    by_dimension = 1 - (residual**2).sum(0) / (centred**2).sum(0)
    np.testing.assert_allclose(made.test.by_dimension_U, by_dimension, atol=1e-10)
    # whitened by the training covariance
    values, vectors = np.linalg.eigh(np.cov(rows["b"][:400].T, bias=True))
    whiten = vectors / np.sqrt(values)
    expected = 1 - ((residual @ whiten) ** 2).sum() / ((centred @ whiten) ** 2).sum()
    assert made.test.whitened == pytest.approx(expected, abs=1e-9)
    variance = rows["b"][:400].var(0)
    assert made.effective_dimensions == pytest.approx(variance.sum() ** 2 / (variance**2).sum())


def test_a_dimension_that_does_not_vary_has_no_r2(rows):
    changed = {**rows, "a": rows["a"].copy()}
    changed["a"][:, 2] = 1.5
    made = decompose(of_rows(changed), "a", ["b"])
    assert np.flatnonzero(np.isnan(made.train.by_dimension_U)).tolist() == [2]
    json.dumps(plain(made.summary()), allow_nan=False)


def test_a_duplicate_explains_all_and_independent_noise_nothing(rows):
    rng = np.random.default_rng(5)
    more = {
        "a": rows["a"], "copy": rows["a"] * 2 - 1, "turned": rows["a"] @ rng.normal(size=(6, 6)),
        "noise": rng.normal(size=(600, 40)),
    }  # fmt: skip
    train, test = of_rows(more, 0, 400), of_rows(more, 400)
    for basis in (["copy"], ["turned"], ["copy", "noise"]):
        made = decompose(train, "a", basis, test=test)
        assert made.r2_train > 1 - 1e-5
        assert made.r2_test is not None
        assert made.r2_test > 1 - 1e-5
    made = decompose(train, "a", ["noise"], test=test)
    assert made.r2_test is not None
    assert made.r2_test <= 0
    assert made.train_floor == pytest.approx(40 / 399)


def test_the_train_floor_is_what_noise_explains_on_average():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(200):
        noise = {"u": rng.normal(size=(50, 3)), "z": rng.normal(size=(50, 12))}
        found.append(decompose(of_rows(noise), "u", ["z"], ridge=0))
    mean = np.mean([fit.r2_train for fit in found])
    error = np.std([fit.r2_train for fit in found]) / np.sqrt(200)
    assert abs(mean - found[0].train_floor) < 3 * error
    assert error < 0.005


def test_permuted_rows_leave_the_floor(rows):
    null = permuted_rows(rows, seed=3)
    for name, values in null.items():
        np.testing.assert_array_equal(np.sort(values[:, 0]), np.sort(rows[name][:, 0]))
    fits = leave_one_out(of_rows(null, 0, 400), test=of_rows(null, 400))
    real = leave_one_out(of_rows(rows, 0, 400))
    for name, fit in fits.items():
        assert fit.r2_train < 3 * fit.train_floor + 0.02 < real[name].r2_train
        assert fit.r2_test is not None
        assert fit.r2_test < 0.02


def test_a_singular_basis_at_ridge_zero_reports_its_rank(rows, train):
    wide = {**rows, "twice": np.concatenate([rows["b"], rows["b"][:, :3] * 2], axis=1)}
    made = decompose(of_rows(wide), "a", ["twice", "b"], ridge=0)
    assert (made.rank, made.features) == (9, 21)
    expected = decompose(of_rows(rows), "a", ["b"], ridge=0)
    assert made.r2_train == pytest.approx(expected.r2_train, abs=1e-10)
    assert expected.rank == 9
    # the pseudo-inverse has the least weights of all that fit as well
    assert np.linalg.norm(all_weights(made)) < np.linalg.norm(all_weights(expected))
    fits = leave_one_out(of_rows(wide), ridge=0)
    assert fits["b"].r2_train == pytest.approx(1, abs=1e-9)


def test_at_ridge_zero_it_is_least_squares(rows, train):
    weights, _ = direct({k: v[:400] for k, v in rows.items()}, "a", ["b", "c"], 0)
    made = decompose(train, "a", ["b", "c"], ridge=0)
    np.testing.assert_allclose(all_weights(made), weights, rtol=1e-8, atol=1e-10)


def test_what_makes_no_sense_is_refused(rows, train, test):
    constant = {**rows, "c": np.tile([0.1, 7.3, 1e3, 2.2], (600, 1))}
    scatter = of_rows(constant)
    with pytest.raises(UserError, match="'c' is the same for every row of the training text"):
        decompose(scatter, "c", ["a"])
    with pytest.raises(UserError, match="'c' is the same for every row"):
        leave_one_out(scatter)
    decompose(scatter, "a", ["b", "c"])  # as a basis it only adds nothing
    with pytest.raises(UserError, match="'c' is the same for every row of the test text"):
        decompose(train, "c", ["a"], test=scatter)
    with pytest.raises(UserError, match="in its own basis"):
        decompose(train, "a", ["b", "a"])
    with pytest.raises(UserError, match="each once"):
        decompose(train, "a", ["b", "b"])
    with pytest.raises(UserError, match="no model 'x'"):
        decompose(train, "a", ["x"])
    for ridge in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="ridge"):
            decompose(train, "a", ["b"], ridge=ridge)
        with pytest.raises(UserError, match="ridge"):
            leave_one_out(train, ridge=ridge)
    with pytest.raises(UserError, match="at least two models"):
        leave_one_out(of_rows({"a": rows["a"]}))
    large = {"a": rows["a"], "b": np.concatenate([rows["b"] * 1e8] * 2, axis=1)}
    with pytest.raises(UserError, match="too small for features of this size"):
        decompose(of_rows(large), "a", ["b"], ridge=1e-12)
    made = decompose(train, "a", ["b", "c"])
    with pytest.raises(UserError, match="no rows of the basis model 'c'"):
        made.predict({"b": rows["b"]})
    with pytest.raises(UserError, match=r"not \(N, 4\)"):
        made.predict({"b": rows["b"], "c": rows["b"]})


def test_a_summary_is_all_but_the_weights(train, test):
    fit = decompose(train, "a", ["b"], test=test)
    summary = fit.summary()
    values = json.loads(json.dumps(plain(summary), allow_nan=False))
    assert values["test"]["r2"] == summary.r2_test == fit.r2_test
    assert values["test"]["n"] == 200
    assert values.keys() == plain(fit).keys() - {"weights", "bias"}
    assert summary.train_floor == fit.train_floor
    assert decompose(train, "a", ["b"]).r2_test is None


# Sets of models


def test_pairs_are_separate_fits_and_symmetric_where_they_must_be(train, test):
    for scored in (None, test):
        made = pairwise(train, ridge=1e-3, test=scored)
        for i, row in enumerate(made.names):
            for j, column in enumerate(made.names):
                found = made.r2[i][j]
                if row == column:
                    assert found is None
                    continue
                fit = decompose(train, row, [column], ridge=1e-3, test=scored)
                expected = fit.r2_train if scored is None else fit.r2_test
                assert found == pytest.approx(expected, abs=1e-12)
    # of one-dimensional models R2 is the squared correlation, the same both ways
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1))
    narrow = {"x": x, "y": 2 * x + rng.normal(size=(300, 1))}
    ((_, xy), (yx, _)) = pairwise(of_rows(narrow), ridge=0).r2
    correlation = np.corrcoef(narrow["x"][:, 0], narrow["y"][:, 0])[0, 1]
    assert xy == pytest.approx(yx, abs=1e-12)
    assert xy == pytest.approx(correlation**2, abs=1e-12)
    assert pairwise(of_rows(narrow), ridge=0).mean == pytest.approx(correlation**2)


WIDE = {"t": 4, "noisy": 80, "plain": 6}


@pytest.fixture(scope="module")
def of_two_scales():
    """A target, a wide basis model that needs a large ridge, and a narrow one that needs none."""
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(900, 6))
    maps = {name: rng.normal(size=(6, d)) for name, d in WIDE.items()}
    noise = {"t": 0.3, "noisy": 12.0, "plain": 0.05}
    rows = {n: hidden @ maps[n] + noise[n] * rng.normal(size=(900, d)) for n, d in WIDE.items()}
    return of_rows(rows, 0, 120), of_rows(rows, 120, 500), of_rows(rows, 500, 900)


GRID = (1e-4, 1e-2, 1.0, 1e2, 1e4)


def best_of_grid(train, validation, target, basis):
    scores = {r: decompose(train, target, basis, ridge=r, test=validation).r2_test for r in GRID}
    return max(scores, key=lambda r: (scores[r], r))


def test_pairs_take_a_ridge_of_their_own(of_two_scales):
    """Was: the ridge of the whole for every pair (R2 0.078 in place of 0.223)."""
    train, validation, test = of_two_scales
    made = pairwise(train, ridge=Ridges(GRID, validation), test=test)
    for target, basis in itertools.permutations(WIDE, 2):
        ridge = best_of_grid(train, validation, target, [basis])
        assert made.ridge(target, basis) == ridge
        expected = decompose(train, target, [basis], ridge=ridge, test=test).r2_test
        row, column = made.names.index(target), made.names.index(basis)
        assert made.r2[row][column] == pytest.approx(expected, abs=1e-12)
    assert made.ridge("t", "noisy") != made.ridge("t", "plain")
    whole = best_of_grid(train, validation, "t", ["noisy", "plain"])
    at_whole = pairwise(train, ridge=whole, test=test)
    assert made.mean > at_whole.mean
    with pytest.raises(UserError, match="validation"):
        Ridges(GRID)


@pytest.mark.parametrize("start", [None, 1e-4, 1e4])
def test_sets_of_basis_models_take_a_ridge_of_their_own(of_two_scales, start):
    train, validation, test = of_two_scales
    ridges = Ridges(GRID, validation, start=start)
    best = {
        names: best_of_grid(train, validation, "t", list(names))
        for names in (("noisy",), ("plain",), ("noisy", "plain"))
    }
    value = {
        names: decompose(train, "t", list(names), ridge=ridge, test=test).r2_test
        for names, ridge in best.items()
    }
    made = shares(train, "t", ["noisy", "plain"], ridge=ridges, test=test)
    assert made.alone == pytest.approx({"noisy": value["noisy",], "plain": value["plain",]})
    assert made.r2 == pytest.approx(value["noisy", "plain"])
    path = greedy(train, "t", ["noisy", "plain"], ridge=ridges, test=test)
    assert path.order == ("plain", "noisy")
    assert path.ridges == (best["plain",], best["noisy", "plain"])
    assert path.r2 == pytest.approx((value["plain",], value["noisy", "plain"]))


def test_greedy_takes_what_adds_most(train, test):
    made = greedy(train, "a", ["b", "c", "d"], ridge=Ridges((1e-6,), test), test=test)
    left, chosen = ["b", "c", "d"], []
    for name, r2 in zip(made.order, made.r2, strict=True):
        scores = {n: decompose(train, "a", [*chosen, n], test=test).r2_test or 0 for n in left}
        assert name == max(scores, key=lambda n: scores[n])
        assert r2 == pytest.approx(scores[name], abs=1e-10)
        left.remove(name)
        chosen.append(name)


@pytest.mark.parametrize("held_out", [False, True])
def test_shapley_shares_are_means_over_all_orders(train, test, held_out):
    basis = ["b", "c", "d"]
    scored = test if held_out else None
    made = shares(train, "a", basis, test=scored, ridge=1e-4)

    def value(names):
        if not names:
            return 0.0
        fit = decompose(train, "a", names, test=scored, ridge=1e-4)
        found = fit.r2_test if held_out else fit.r2_train
        assert found is not None
        return found

    expected = dict.fromkeys(basis, 0.0)
    for order in itertools.permutations(basis):
        for i, name in enumerate(order):
            expected[name] += (value(list(order[: i + 1])) - value(list(order[:i]))) / 6
    assert made.shapley == pytest.approx(expected, abs=1e-10)
    assert sum(made.shapley.values()) == pytest.approx(made.r2)
    assert made.standard_error is None
    assert made.orders == 6
    assert made.unique == pytest.approx(
        {n: value(basis) - value([m for m in basis if m != n]) for n in basis}, abs=1e-10
    )
    assert made.alone == pytest.approx({n: value([n]) for n in basis}, abs=1e-10)
    assert made.shared == pytest.approx(made.r2 - sum(made.unique.values()))


def test_sampled_shares_are_near_the_exact_ones(monkeypatch):
    widths = {f"m{i}": 2 for i in range(8)}
    train = of_rows(features(300, widths, noise=1.0))
    basis = list(widths)[1:]
    exact = shares(train, "m0", basis)
    monkeypatch.setattr("lmlab.topics.decomposition.shares.EXACT_MODELS", 3)
    sampled = shares(train, "m0", basis, orders=100)
    assert sampled.standard_error is not None
    assert sampled.orders == 100
    assert sum(sampled.shapley.values()) == pytest.approx(exact.r2)
    z = [
        (sampled.shapley[name] - exact.shapley[name]) / sampled.standard_error[name]
        for name in basis
    ]
    assert np.abs(z).max() < 4
    assert np.sqrt(np.mean(np.square(z))) > 0.2  # an error far too large would pass the first
    with pytest.raises(UserError, match="at least 4"):
        shares(train, "m0", basis, orders=3)


# Choice


def test_the_ridge_is_the_best_on_validation(train, test):
    ridges = [1e-4, 1.0, 1e-2, 1e4]
    others = {name: [other for other in WIDTHS if other != name] for name in WIDTHS}
    for name, path in ridge_path(train, test, others, ridges=ridges).items():
        basis = others[name]
        scores = {r: decompose(train, name, basis, ridge=r, test=test).r2_test for r in ridges}
        assert path.ridges == tuple(sorted(ridges))
        assert path.ridge == max(scores, key=lambda r: scores[r] or 0)
        assert path.r2_validation == pytest.approx([scores[r] for r in path.ridges], abs=1e-9)
        assert list(path.r2_train) == sorted(path.r2_train, reverse=True)
    (one,) = ridge_path(train, test, {"a": ["b"]}, ridges=[1e3, 1e4]).values()
    assert one.ridge == 1e3
    assert "end of the path" in one.note
    with pytest.raises(UserError, match="at least one ridge"):
        ridge_path(train, test, others, ridges=[])


def test_k_fold_is_that_of_the_rows(rows):
    cuts = [0, 100, 250, 400]
    folds = [of_rows(rows, a, b) for a, b in itertools.pairwise(cuts)]
    made = k_fold(folds, "a", ["b", "c"], ridge=1e-2)
    left = spread = 0.0
    for a, b in itertools.pairwise(cuts):
        inside = {k: v[a:b] for k, v in rows.items()}
        others = {k: np.concatenate([v[:a], v[b:400]]) for k, v in rows.items()}
        weights, bias = direct(others, "a", ["b", "c"], 1e-2)
        u = inside["a"]
        left += ((u - joined(inside, ["b", "c"]) @ weights.T - bias) ** 2).sum()
        spread += ((u - u.mean(0)) ** 2).sum()
    assert made.r2 == pytest.approx(1 - left / spread, abs=1e-9)
    assert len(made.r2_of_folds) == 3
    with pytest.raises(UserError, match="at least two"):
        k_fold(folds[:1], "a", ["b"])


def test_training_uncertainty_is_that_of_repeating_the_training():
    """The jackknife's error, over many training sets, against the true spread of R2."""
    test = of_rows(features(3000, {"a": 2, "b": 3}, seed=999, noise=1.0))
    scores, errors = [], []
    for seed in range(25):
        rows = features(200, {"a": 2, "b": 3}, seed=seed, noise=1.0)
        groups = [of_rows(rows, 20 * g, 20 * g + 20) for g in range(10)]
        found = training_uncertainty(groups, test, "a", ["b"])
        errors.append(found.standard_error)
        scores.append(decompose(of_rows(rows), "a", ["b"], test=test).r2_test)
        assert len(found.r2_without) == 10
    ratio = np.sqrt(np.mean(np.square(errors))) / np.std(scores, ddof=1)
    assert 0.6 < ratio < 1.7


# Similarities


def seen_rows(rows, *, clusters_N=None, parts=3):
    """Rows, all of a scatter, seen in several parts; every row its own document by default."""
    seen = SimilarityRows(of_rows(rows))
    n = len(next(iter(rows.values())))
    cluster_N = np.arange(n) if clusters_N is None else np.asarray(clusters_N)
    for at in np.array_split(np.arange(n), parts):
        seen.update({name: values[at] for name, values in rows.items()}, cluster_N[at])
    return seen


def unbiased_hsic(k_nn, l_nn):
    """Song et al. (2012), equation 4, on n x n kernels with zeroed diagonals."""
    n = len(k_nn)
    x_nn, y_nn = k_nn - np.diag(np.diag(k_nn)), l_nn - np.diag(np.diag(l_nn))
    total = np.trace(x_nn @ y_nn) + x_nn.sum() * y_nn.sum() / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (x_nn @ y_nn).sum()) / (n * (n - 3))


def brute_cka(x, y):
    xx, yy = x @ x.T, y @ y.T
    return unbiased_hsic(xx, yy) / np.sqrt(unbiased_hsic(xx, xx) * unbiased_hsic(yy, yy))


def test_cka_is_that_of_kernels_with_zeroed_diagonals(rows):
    half = {name: values[:150] for name, values in rows.items()}
    seen = seen_rows(half)
    for a, b in itertools.combinations(WIDTHS, 2):
        made = similarity(seen, a, b)
        assert made.cka == pytest.approx(brute_cka(half[a], half[b]), abs=1e-10)
    # means of any size do not count
    moved = {name: values + 100 for name, values in half.items()}
    assert brute_cka(moved["a"], moved["b"]) == pytest.approx(
        brute_cka(half["a"], half["b"]), abs=1e-6
    )


@pytest.mark.parametrize(
    ("n", "d", "plain"),
    [(500, 128, 0.20), pytest.param(1500, 768, 0.34, marks=pytest.mark.slow)],
)
def test_independent_white_features_have_no_cka(n, d, plain):
    """Was: 0.20 at n 500 and d 128, 0.34 at n 1500 and d 768, in the plain form."""
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(n, d)) for name in "xy"}
    x, y = (values - values.mean(0) for values in rows.values())
    biased = np.square(x.T @ y).sum() / np.sqrt(np.square(x.T @ x).sum() * np.square(y.T @ y).sum())
    assert biased == pytest.approx(plain, abs=0.01)
    made = similarity(seen_rows(rows), "x", "y")
    assert made.cka == pytest.approx(0, abs=4 / n)
    assert made.cka_null is not None
    assert made.cka_null.mean == pytest.approx(0, abs=2 / n)
    assert abs(made.cka_null.highest) < 8 / n
    # CCA of noise is what its floor says, Procrustes what its null says
    assert made.cca == pytest.approx(d / (n - 1), rel=0.02)
    assert made.cca_floor == pytest.approx(d / (n - 1))
    assert made.procrustes_null is not None
    assert made.procrustes == pytest.approx(made.procrustes_null.mean, rel=0.02)


def test_few_documents_show_in_the_null_of_cka():
    """Rows of 6 documents, alike within each: unrelated models seem similar, and so does the null
    that shuffles documents; one that shuffles rows would call it a finding."""
    rng = np.random.default_rng(1)
    document_N = np.repeat(np.arange(6), 40)
    rows = {
        name: rng.normal(size=(6, 30))[document_N] + 0.5 * rng.normal(size=(240, 30))
        for name in "xy"
    }
    made = similarity(seen_rows(rows, clusters_N=document_N), "x", "y")
    by_row = similarity(seen_rows(rows), "x", "y")
    assert made.cka == pytest.approx(by_row.cka)
    assert made.cka is not None
    assert made.cka > 0.3
    assert made.cka_null is not None
    assert by_row.cka_null is not None
    assert (made.cka_null.clusters, by_row.cka_null.clusters) == (6, 240)
    assert by_row.cka_null.highest < 0.1 * made.cka
    assert made.cka_null.highest > 0.5 * made.cka
    # of one document there is no null; seen in other parts it is the same
    assert similarity(seen_rows(rows, clusters_N=0 * document_N), "x", "y").cka_null is None
    assert similarity(seen_rows(rows, clusters_N=document_N, parts=7), "x", "y") == made


def test_similarities_are_those_of_the_rows(rows):
    first = {name: values[:400] for name, values in rows.items()}
    seen = seen_rows(first)
    made = similarity(seen, "a", "b")
    x, y = (first[n] - first[n].mean(0) for n in "ab")
    cosines = np.cos(subspace_angles(x, y))
    assert made.cca == pytest.approx((cosines**2).mean(), abs=1e-10)
    assert made.directions == 6
    padded = np.pad(x, ((0, 0), (0, y.shape[1] - x.shape[1])))
    assert made.procrustes == pytest.approx(1 - procrustes(y, padded)[2], abs=1e-10)
    other = similarity(seen, "b", "a")
    assert (made.cka, made.cca, made.procrustes) == pytest.approx(
        (other.cka, other.cca, other.procrustes)
    )


def test_similarities_of_equals_are_one(rows):
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    pair = seen_rows({"a": rows["a"], "b": 3 * rows["a"] @ turn + 1})
    made = similarity(pair, "a", "b")
    assert (made.cka, made.cca, made.procrustes) == pytest.approx((1, 1, 1))
    singular = {"a": rows["a"], "b": np.concatenate([rows["a"], rows["a"]], axis=1)}
    assert similarity(seen_rows(singular), "a", "b").directions == 6
    half = SimilarityRows(of_rows(rows))
    half.update({name: values[:10] for name, values in rows.items()}, np.arange(10))
    with pytest.raises(UserError, match="10 rows of 'a' of the scatter's 600"):
        similarity(half, "a", "b")
    with pytest.raises(UserError, match="at least 4"):
        similarity(seen_rows({name: values[:3] for name, values in rows.items()}), "a", "b")


# Intervals


def documents_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def test_document_sums_give_the_r2_of_the_rows_with_and_without_each(train, test, test_rows):
    made = decompose(train, "a", ["b", "c"], test=test)
    document_N = np.random.default_rng(0).permutation(documents_of([20] * 10))
    sums = DocumentSums(made)
    for start in range(0, 200, 37):
        sums.update(
            {name: values[start : start + 37] for name, values in test_rows.items()},
            document_N[start : start + 37],
        )
    assert sums.r2 == pytest.approx(made.r2_test, abs=1e-12)
    weights = all_weights(made)
    for document, found in zip(sums.documents, sums.r2_without(), strict=True):
        rest = {name: values[document_N != document] for name, values in test_rows.items()}
        assert found == pytest.approx(
            r2_of_rows(rest, "a", ["b", "c"], weights, made.bias), abs=1e-12
        )
    interval = r2_interval(sums)
    assert interval.low is not None
    assert interval.high is not None
    assert interval.estimate == pytest.approx(sums.r2)
    assert interval.low < sums.r2 < interval.high < 1
    assert interval.basis == "text only"


def test_the_jackknife_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=30)
    without = (values.sum() - values) / 29
    made = jackknife_interval(values.mean(), without, np.ones(30))
    assert made.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(30))
    assert made.degrees_of_freedom == pytest.approx(29)
    doubled = jackknife_interval(values.mean(), without, np.ones(30), back=lambda v: -2 * v)
    assert made.standard_error is not None
    assert made.high is not None
    assert doubled.standard_error == pytest.approx(2 * made.standard_error)
    assert doubled.low == pytest.approx(-2 * made.high)
    with pytest.raises(UserError, match="not finite"):
        jackknife_interval(1.0, np.array([1.0] * 9 + [np.nan]), np.ones(10))


def test_too_few_documents_give_no_interval(train, test, test_rows):
    sums = DocumentSums(decompose(train, "a", ["b"], test=test))
    with pytest.raises(UserError, match="no test rows"):
        _ = sums.r2
    sums.update(test_rows, documents_of([50] * 4))
    made = r2_interval(sums)
    assert (made.low, made.high) == (None, None)
    assert "4 clusters" in made.note
    assert made.estimate == pytest.approx(sums.r2)
    with pytest.raises(UserError, match="documents of shape"):
        sums.update(test_rows, np.zeros(3))
    with pytest.raises(UserError, match="no rows of the target"):
        sums.update({"b": test_rows["b"]}, np.zeros(200))


def test_means_and_differences_are_paired_by_document(train, test, test_rows):
    fits = leave_one_out(train, test=test)
    document_N = documents_of([20] * 10)
    sums = {}
    for name, fit in fits.items():
        sums[name] = DocumentSums(fit)
        sums[name].update(test_rows, document_N)
    mean = r2_interval(*sums.values())
    assert mean.estimate == pytest.approx(np.mean([fit.r2_test or 0.0 for fit in fits.values()]))
    difference = r2_difference([sums["a"]], [sums["b"]])
    assert difference.estimate == pytest.approx(sums["a"].r2 - sums["b"].r2)
    zero = r2_difference([sums["a"], sums["b"]], [sums["b"], sums["a"]])
    assert (zero.low, zero.high) == pytest.approx((0, 0), abs=1e-12)
    other = DocumentSums(fits["a"])
    other.update(test_rows, documents_of([40] * 5))
    with pytest.raises(UserError, match="different test documents"):
        r2_difference([sums["a"]], [other])


def coverage(documents: int, simulations: int, *, seed: int, spread: float = 0.25) -> float:
    """Share of intervals that hold the R2 of the population, W fixed; documents of unequal size
    that differ in their mean and in how well they are fitted (`spread`: standard deviation of the
    logarithm of the residual's size)."""
    rng = np.random.default_rng(seed)
    fitted = {"u": np.eye(4), "z": np.eye(4)}
    fit = decompose(of_rows({k: np.concatenate([v, -v]) for k, v in fitted.items()}), "u", ["z"],
                    ridge=0)  # fmt: skip
    # u = z + residual; documents differ by z's mean (variance 0.1) and by the residual's scale
    noise, doc = 0.3, 0.1
    residual = noise**2 * np.exp(2 * spread**2)
    truth = 1 - residual / (1 + doc + residual)
    held = 0
    for _ in range(simulations):
        sizes = np.maximum(1, np.round(15 * np.exp(0.5 * rng.normal(size=documents)))).astype(int)
        document_N = documents_of(sizes)
        mean = np.sqrt(doc) * rng.normal(size=(documents, 4))
        scale = noise * np.exp(spread * rng.normal(size=(documents, 1)))
        z = mean[document_N] + rng.normal(size=(len(document_N), 4))
        u = z + scale[document_N] * rng.normal(size=z.shape)
        sums = DocumentSums(fit)
        sums.update({"u": u, "z": z}, document_N)
        made = r2_interval(sums)
        assert made.low is not None
        assert made.high is not None
        held += made.low <= truth <= made.high
    return held / simulations


def test_intervals_cover_the_truth():
    # 200 simulations: 95 % has a standard error of 1.5 %
    assert 0.90 <= coverage(60, 200, seed=1) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("documents", [60, 200])
def test_coverage_is_near_95_per_cent(documents):
    assert 0.935 <= coverage(documents, 2000, seed=2) <= 0.965
