"""Metrics against scikit-learn and scipy, pseudo-values against leaving each example out."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from lmlab.errors import UserError
from lmlab.numerics import classification
from lmlab.numerics.classification import class_weights, metric, pseudo_values
from lmlab.numerics.random_effects import two_way_interval

OF_CLASSES = ("accuracy", "f1", "matthews")
OF_VALUES = ("pearson", "spearman")


@st.composite
def classes(draw, least=1):
    """Predicted and true numbers of up to five classes, often with absent or single ones."""
    n, many = draw(st.integers(least, 30)), draw(st.integers(1, 5))
    column = st.lists(st.integers(0, many - 1), min_size=n, max_size=n)
    return np.array(draw(column)), np.array(draw(column))


@st.composite
def values(draw, least=1):
    """Predicted and true values with ties, outliers and constant sides."""
    n = draw(st.integers(least, 30))
    one = draw(st.sampled_from([
        st.sampled_from([0.1, 2.0, 3.5]),
        st.floats(-5, 5).map(lambda x: round(x, 3)),
        st.sampled_from([0.1, 0.1, 1e6]),
    ]))  # fmt: skip
    column = st.lists(one, min_size=n, max_size=n)
    return np.array(draw(column)), np.array(draw(column))


def reference(name, predicted, true):
    """scikit-learn's or scipy's value, and ours where they give none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they warn of constant data
        if name == "accuracy":
            return metrics.accuracy_score(true, predicted)
        if name == "matthews":
            return metrics.matthews_corrcoef(true, predicted)
        if name == "f1":
            average = "binary" if max(predicted.max(), true.max()) < 2 else "macro"
            return metrics.f1_score(true, predicted, average=average)
        if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
            return 0.0
        return getattr(stats, {"pearson": "pearsonr", "spearman": "spearmanr"}[name])(
            predicted, true
        ).statistic


@pytest.mark.parametrize("name", OF_CLASSES)
@given(data=classes())
@example(data=(np.array([0]), np.array([0])))
@example(data=(np.array([1, 1, 1]), np.array([0, 1, 1])))
@example(data=(np.array([0, 0, 0]), np.array([0, 0, 0])))
@example(data=(np.array([0, 0, 0]), np.array([3, 1, 3])))
def test_class_metrics_are_scikit_learns(name, data):
    assert metric(name, *data) == pytest.approx(reference(name, *data), abs=1e-12)


@pytest.mark.parametrize("name", OF_VALUES)
@given(data=values())
def test_correlations_are_scipys(name, data):
    assert metric(name, *data) == pytest.approx(reference(name, *data), abs=1e-9)


def without_each(name, predicted, true, **settings):
    n = len(true)
    left_out = [
        metric(name, np.delete(predicted, i), np.delete(true, i), **settings) for i in range(n)
    ]
    return n * metric(name, predicted, true, **settings) - (n - 1) * np.array(left_out)


@pytest.mark.parametrize("name", OF_CLASSES)
@given(data=classes(least=2))
def test_pseudo_values_of_classes_leave_each_out(name, data):
    many = 1 + int(max(map(np.max, data)))  # so that the last of a class does not make F1 binary
    made = pseudo_values(name, *data)
    np.testing.assert_allclose(made, without_each(name, *data, classes=many) if name == "f1"
                               else without_each(name, *data), atol=1e-10)  # fmt: skip


@pytest.mark.parametrize("name", OF_VALUES)
@given(data=values(least=2))
@example(data=(np.array([0.1] * 9 + [1e6]), np.arange(10.0)))
@example(data=(np.arange(10.0), np.array([0.1] * 9 + [1e6])))
@example(data=(np.array([0.1] * 9 + [1e6]), np.array([1e6] + [0.1] * 9)))
@example(data=(np.array([0.1, 0.1 + 1e-9, 1e6]), np.array([1.0, 2.0, 5.0])))
@example(data=(np.array([1.0, 2.0]), np.array([2.0, 1.0])))
@example(data=(np.full(4, 0.1), np.arange(4.0)))
def test_pseudo_values_of_correlations_leave_each_out(name, data):
    made = pseudo_values(name, *data)
    np.testing.assert_allclose(made, without_each(name, *data), atol=1e-8)


def test_pseudo_values_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    data = rng.normal(size=50), rng.integers(0, 9, size=50)
    whole = pseudo_values("spearman", *data)
    monkeypatch.setattr(classification, "_CHUNK", 130)  # two rows at a time, and a rest
    np.testing.assert_array_equal(pseudo_values("spearman", *data), whole)


def test_the_pseudo_values_of_accuracy_have_the_binomial_standard_error():
    rng = np.random.default_rng(1)
    true = rng.integers(0, 3, size=200)
    predicted = np.where(rng.random(200) < 0.7, true, (true + 1) % 3)
    made, p = pseudo_values("accuracy", predicted, true), (predicted == true).mean()
    np.testing.assert_allclose(made, predicted == true, atol=1e-12)
    assert made.std(ddof=1) / 200**0.5 == pytest.approx((p * (1 - p) / 199) ** 0.5, rel=1e-12)
    interval = two_way_interval([made])
    assert interval.standard_error == pytest.approx((p * (1 - p) / 199) ** 0.5, rel=1e-3)


def draw_example(rng, name, shape):
    """Correlated normal values, or two classes made of them."""
    true = rng.normal(size=shape)
    predicted = 0.8 * true + 0.6 * rng.normal(size=shape)
    if name in OF_VALUES:
        return predicted, true
    return (predicted > 0.3).astype(int), (true > 0).astype(int)


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_the_standard_error_is_the_spread_over_samples(name):
    """The jackknife's standard error against what other samples of the same kind give."""
    rng = np.random.default_rng(2)
    figures = [metric(name, *draw_example(rng, name, 200)) for _ in range(600)]
    errors = [
        pseudo_values(name, *draw_example(rng, name, 200)).std(ddof=1) / 200**0.5 for _ in range(60)
    ]
    assert np.mean(errors) == pytest.approx(np.std(figures), rel=0.12)


def test_f1_knows_the_number_of_classes():
    """A third class that no one saw makes F1 the mean over the classes that were seen."""
    predicted, true = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    assert metric("f1", predicted, true) == pytest.approx(2 / 3)
    assert metric("f1", predicted, true, classes=3) == pytest.approx((2 / 3 + 4 / 5) / 2)
    np.testing.assert_allclose(
        pseudo_values("f1", predicted, true, classes=3),
        without_each("f1", predicted, true, classes=3),
    )


def test_class_weights_by_hand():
    np.testing.assert_allclose(class_weights([0, 0, 0, 1], 2), [4 / 6, 4 / 2])
    labels = np.array([2, 0, 0, 1, 2, 2, 2])
    weights = class_weights(labels, 3)
    np.testing.assert_allclose(weights, [7 / 6, 7 / 3, 7 / 12])
    assert weights[labels].mean() == pytest.approx(1)
    with pytest.raises(AssertionError, match="absent"):
        class_weights(labels, 4)


@pytest.mark.parametrize(
    ("name", "predicted", "true", "message"),
    [
        ("auc", [0], [0], "metric 'auc' is none of accuracy, f1"),
        ("pearson", [0.0, 1.0], [0.0, np.nan], "true value 1 is nan"),
    ],
)
def test_what_no_metric_can_be_of(name, predicted, true, message):
    for function in (metric, pseudo_values):
        with pytest.raises(UserError, match=message):
            function(name, np.array(predicted), np.array(true))


def test_classes_beyond_the_task_and_one_example_alone():
    with pytest.raises(AssertionError):
        metric("f1", np.array([3]), np.array([0]), classes=3)
    with pytest.raises(UserError, match="at least two"):
        pseudo_values("accuracy", np.array([0]), np.array([0]))
