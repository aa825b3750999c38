"""Intervals over seeds and clusters: closed forms, invariances, measured coverage.

`python tests/test_random_effects.py` prints the coverage table of docs/notes-intervals.md.

Legend: S seeds, C clusters.
"""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lmlab.errors import UserError
from lmlab.numerics import random_effects
from lmlab.numerics.random_effects import (
    Clusters,
    Interval,
    bell_mccaffrey,
    cluster_degrees_of_freedom,
    sum_degrees_of_freedom,
    two_way_interval,
    two_way_ratio,
)


def simulate(rng, seeds, clusters, *, seed_noise, cluster_noise=1.0, interaction=0.0):
    """One data set (S, C) with mean zero."""
    return (
        seed_noise * rng.normal(size=(seeds, 1))
        + cluster_noise * rng.normal(size=(1, clusters))
        + interaction * rng.normal(size=(seeds, clusters))
    )


def coverage(
    seeds,
    clusters,
    *,
    seed_noise,
    interaction,
    data_sets,
    cluster_noise=1.0,
    spread=0.0,
    level=0.95,
):
    """Share of simulated data sets whose interval covers the true mean, 0.

    `spread`: standard deviation of the logarithm of the cluster sizes.
    """
    rng = np.random.default_rng([seeds, clusters, int(1000 * seed_noise), int(1000 * interaction)])
    hits = 0
    for _ in range(data_sets):
        values_SC = simulate(
            rng,
            seeds,
            clusters,
            seed_noise=seed_noise,
            cluster_noise=cluster_noise,
            interaction=interaction,
        )
        weights_C = np.exp(spread * rng.normal(size=clusters))
        low, high = ends(two_way_interval(values_SC, weights_C=weights_C, level=level))
        hits += low <= 0 <= high
    return hits / data_sets


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def test_one_seed_is_the_ordinary_t_interval():
    values = np.random.default_rng(0).normal(1.0, 2.0, 17)
    interval = two_way_interval(values[None])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert ends(interval) == pytest.approx((expected.low, expected.high), rel=1e-10)
    assert interval.degrees_of_freedom == pytest.approx(16)
    assert interval.basis == "text only"
    assert "one seed" in interval.note


def test_equal_weights_give_the_mean_squares_of_the_analysis_of_variance():
    rng = np.random.default_rng(1)
    S, C = 5, 9
    v = simulate(rng, S, C, seed_noise=1.0, interaction=0.3) + 2.0
    mean = v.mean()
    ms_seed = C * ((v.mean(1) - mean) ** 2).sum() / (S - 1)
    ms_cluster = S * ((v.mean(0) - mean) ** 2).sum() / (C - 1)
    residual = v - v.mean(1, keepdims=True) - v.mean(0) + mean
    ms_error = (residual**2).sum() / ((S - 1) * (C - 1))
    interval = two_way_interval(v)
    assert interval.estimate == pytest.approx(mean)
    assert interval.standard_error is not None
    assert interval.standard_error**2 == pytest.approx(
        (ms_seed + ms_cluster - ms_error) / (S * C), rel=1e-10
    )
    assert (interval.basis, interval.note) == ("seeds and text", "")


def test_variance_is_unbiased_with_unequal_clusters():
    rng = np.random.default_rng(2)
    S, C, a, b, e = 6, 12, 1.0, 1.5, 1.0
    weights = np.exp(rng.normal(size=C))
    p = weights / weights.sum()
    estimates = [
        two_way_interval(
            simulate(rng, S, C, seed_noise=a, cluster_noise=b, interaction=e), weights_C=weights
        ).standard_error
        for _ in range(4000)
    ]
    truth = a**2 / S + b**2 * (p @ p) + e**2 * (p @ p) / S
    assert np.mean(np.square(np.array(estimates, dtype=float))) == pytest.approx(truth, rel=0.03)


def test_cluster_degrees_of_freedom_against_explicit_matrices():
    weights = np.exp(np.random.default_rng(3).normal(size=13))
    p = weights / weights.sum()
    g = p**2 / (1 - 2 * p + p @ p)
    residual_maker = np.eye(13) - np.outer(np.ones(13), p)
    form = residual_maker.T @ np.diag(g) @ residual_maker
    expected = np.trace(form) ** 2 / np.trace(form @ form)
    assert bell_mccaffrey(p, g) == pytest.approx(expected, rel=1e-10)
    assert bell_mccaffrey(p, g) < cluster_degrees_of_freedom(p, g) < 12
    equal = np.full(8, 1 / 8)
    g = equal**2 / (1 - 2 / 8 + 1 / 8)
    assert cluster_degrees_of_freedom(equal, g) == pytest.approx(7)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_degrees_of_freedom_are_satterthwaites_for_many_seeds(share):
    df = sum_degrees_of_freedom(share, 1 - share, 5000, 4000)
    assert df == pytest.approx(1 / (share**2 / 5000 + (1 - share) ** 2 / 4000), rel=1e-2)


def test_degrees_of_freedom_at_the_ends():
    assert sum_degrees_of_freedom(0.0, 1.0, 1, 5) == 5
    assert sum_degrees_of_freedom(1.0, 0.0, 1, 5) == 1
    assert sum_degrees_of_freedom(1e6, 1.0, 1, 5) == pytest.approx(1)


def test_ratio_standard_error_is_the_textbook_ratio_estimators():
    rng = np.random.default_rng(4)
    C = 4000
    size = np.exp(0.5 * rng.normal(size=C))
    y = size * (0.3 + 0.1 * rng.normal(size=C))
    interval = two_way_ratio(y[None], size[None])
    ratio = y.sum() / size.sum()
    textbook = np.sqrt(((y - ratio * size) ** 2).sum() / (C * (C - 1))) / size.mean()
    assert interval.estimate == pytest.approx(ratio)
    assert interval.standard_error == pytest.approx(textbook, rel=1e-2)


def test_ratio_ignores_clusters_without_weight():
    rng = np.random.default_rng(5)
    y, size = rng.normal(size=(2, 7)), rng.uniform(1, 2, (2, 7))
    padded = two_way_ratio(np.pad(y, ((0, 0), (0, 2))), np.pad(size, ((0, 0), (0, 2))))
    plain = two_way_ratio(y, size)
    assert padded.clusters == plain.clusters == 7
    assert ends(padded) == pytest.approx(ends(plain), rel=1e-10)


@pytest.mark.parametrize("clusters", [1, 2, 4])
def test_too_few_clusters_give_no_interval_and_say_why(clusters):
    interval = two_way_interval(np.ones((3, clusters)))
    assert (interval.low, interval.high, interval.standard_error) == (None, None, None)
    assert interval.basis == "none"
    assert "at least 5 are needed" in interval.note


def nested(rng, seeds, documents, sections, *, document_noise, seed_noise=0.0):
    """Values (S, C), mean zero, of sections (standard deviation 1), and their documents (C)."""
    document_C = np.repeat(np.arange(documents), sections)
    text_C = rng.normal(size=len(document_C)) + document_noise * rng.normal(size=documents)[
        document_C
    ]  # fmt: skip
    return text_C + seed_noise * rng.normal(size=(seeds, 1)), document_C


def nested_coverage(
    seeds, documents, sections, *, document_noise, data_sets, by_document, seed_noise=0.0
):
    """Share of data sets whose interval covers the mean of all texts, and how many have one.

    An interval "these documents only" is counted where `by_document` is False: there every section
    is taken for a text, as it was once.
    """
    rng = np.random.default_rng([seeds, documents, sections, int(100 * document_noise)])
    hits = 0
    for _ in range(data_sets):
        values_SC, documents_C = nested(
            rng, seeds, documents, sections, document_noise=document_noise, seed_noise=seed_noise
        )
        interval = two_way_interval(values_SC, documents_C=documents_C if by_document else None)
        if by_document and "documents only" in interval.basis:
            return None
        low, high = ends(interval)
        hits += low <= 0 <= high
    return hits / data_sets


def test_sections_of_one_novel_are_no_texts():
    """What was wrong: 63 % covered with one document, 84 % with four, for a nominal 95 %."""
    old = {
        documents: nested_coverage(
            1, documents, 10, document_noise=0.3 * 10**0.5, data_sets=1000, by_document=False
        )
        for documents in (1, 4)
    }
    assert old[1] is not None
    assert old[4] is not None
    assert old[1] < 0.75
    assert old[4] < 0.9
    for documents in (1, 4):
        assert nested_coverage(
            1, documents, 10, document_noise=1.0, data_sets=1, by_document=True
        ) is None  # fmt: skip
    for documents in (5, 10):
        for noise in (0.3, 1.0):
            covered = nested_coverage(
                1, documents, 10, document_noise=noise, data_sets=1500, by_document=True
            )
            assert covered is not None
            assert 0.935 <= covered <= 0.965
    seeded = nested_coverage(
        3, 6, 10, document_noise=1.0, seed_noise=0.5, data_sets=1000, by_document=True
    )
    assert seeded is not None
    assert 0.93 <= seeded <= 0.98


def test_documents_are_units_as_if_each_were_one_cluster():
    rng = np.random.default_rng(8)
    numerator, size = rng.normal(size=(3, 14)), rng.uniform(1, 5, (3, 14))
    documents_C = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 5, 5, 6])
    label_C = np.array(list("zyxwvut"))[documents_C]
    sums = [np.stack([x[:, documents_C == d].sum(1) for d in range(7)], 1)
            for x in (numerator, size)]  # fmt: skip
    expected = two_way_ratio(sums[0], sums[1])
    for labels in (documents_C, label_C):
        made = two_way_ratio(numerator, size, documents_C=labels)
        assert made.estimate == pytest.approx(expected.estimate, rel=1e-12)
        assert ends(made) == pytest.approx(ends(expected), rel=1e-9)
        assert made.degrees_of_freedom == pytest.approx(expected.degrees_of_freedom, rel=1e-9)
        assert (made.documents, made.clusters, made.basis) == (7, 14, "seeds and text")


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_cluster_a_document_changes_nothing(seeds):
    v = np.random.default_rng(seeds).normal(size=(seeds, 9))
    w = np.arange(1.0, 10)
    assert two_way_interval(v, weights_C=w, documents_C=np.arange(9)) == two_way_interval(
        v, weights_C=w
    )


@pytest.mark.parametrize(("documents", "named"), [(1, "this document"), (4, "these 4 documents")])
def test_few_documents_have_an_interval_for_them_only(documents, named):
    v = np.random.default_rng(0).normal(size=(2, 12))
    made = two_way_interval(v, documents_C=np.arange(12) % documents)
    assert ends(made) == pytest.approx(ends(two_way_interval(v)), rel=1e-12)
    assert (made.documents, made.basis) == (documents, "seeds, these documents only")
    assert f"sections of {named} only" in made.note
    one = two_way_interval(v[:1], documents_C=np.arange(12) % documents)
    assert one.basis == "these documents only"
    none = two_way_interval(v[:, :4], documents_C=np.arange(4) % documents)
    assert (none.basis, none.low) == ("none", None)


def test_documents_without_weight_do_not_count():
    v, w = np.random.default_rng(0).normal(size=(2, 10)), np.array([1.0] * 8 + [0.0] * 2)
    made = two_way_interval(v, weights_C=w, documents_C=np.repeat(np.arange(5), 2))
    assert (made.documents, made.basis) == (4, "seeds, these documents only")


def test_clusters_know_their_documents():
    made = Clusters([3, 1, 1, 2, 3], ["b", "a", "a", "a", "b"])
    assert (made.clusters, made.documents, len(made)) == (3, 2, 5)
    assert made.documents_C.tolist() == ["a", "a", "b"]
    assert made.sums([1.0, 2, 3, 4, 5]).tolist() == [[5, 4, 6]]
    assert made[[0, 4]].documents == 1
    assert made.unit_N.tolist() == [3, 1, 1, 2, 3]  # few documents: their sections
    many = Clusters(np.arange(10), np.arange(10) // 2)
    assert many.unit_N.tolist() == (np.arange(10) // 2).tolist()
    with pytest.raises(UserError, match="cluster 1 lies in two documents"):
        Clusters([1, 1], [0, 1])
    with pytest.raises(UserError, match="one label for each window"):
        Clusters([1, 1], [0])
    with pytest.raises(UserError, match="integers or strings"):
        Clusters([1.5, 2.0])


def test_a_dominant_cluster_is_named():
    interval = two_way_interval(
        np.random.default_rng(0).normal(size=(2, 8)), weights_C=[100, 1, 1, 1, 1, 1, 1, 1]
    )
    assert "one document holds 93% of the text" in interval.note
    assert interval.degrees_of_freedom is not None
    assert interval.degrees_of_freedom < 4


def test_identical_values_give_an_interval_of_no_width():
    assert ends(two_way_interval(np.zeros((2, 6)))) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros(6), {}, "a row for each seed"),
        (np.zeros((2, 0)), {}, "a row for each seed"),
        (np.array([[0.0, np.nan]]), {}, r"values_SC\[0, 1\] is nan"),
        (np.zeros((2, 6)), {"weights_C": np.ones(5)}, "6 clusters"),
        (np.zeros((2, 6)), {"weights_C": -np.ones(6)}, "not negative"),
        (np.zeros((2, 6)), {"weights_C": np.zeros(6)}, "not all zero"),
        (np.zeros((2, 6)), {"level": 95}, "between 0 and 1"),
    ],
)
def test_bad_input_is_refused(values, options, message):
    with pytest.raises(UserError, match=message):
        two_way_interval(values, **options)


@pytest.mark.parametrize(
    ("numerator", "denominator", "message"),
    [
        (np.ones((2, 6)), np.ones((2, 5)), "one shape"),
        (np.ones((2, 6)), -np.ones((2, 6)), "not negative"),
        (np.ones((2, 6)), np.eye(2, 6), "whose denominator is zero"),
    ],
)
def test_bad_ratios_are_refused(numerator, denominator, message):
    with pytest.raises(UserError, match=message):
        two_way_ratio(numerator, denominator)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    seeds=st.integers(1, 4),
    scale=st.floats(-50, 50).filter(lambda x: abs(x) > 1e-3),
    shift=st.floats(-5, 5),
)
def test_interval_follows_an_affine_change_of_the_values(seed, seeds, scale, shift):
    rng = np.random.default_rng(seed)
    v, w = rng.normal(size=(seeds, 7)), rng.uniform(0.2, 3, 7)
    before = two_way_interval(v, weights_C=w)
    order_S, order_C = rng.permutation(seeds), rng.permutation(7)
    moved = (scale * v + shift)[order_S][:, order_C]
    after = two_way_interval(moved, weights_C=7.0 * w[order_C])
    expected = sorted(scale * x + shift for x in ends(before))
    assert ends(after) == pytest.approx(expected, rel=1e-7, abs=1e-7)


# Seed noise as large as cluster noise, without and with interaction, and as large in its share of
# the variance of the mean (seed variance / 2 = cluster variance / 6).
@pytest.mark.parametrize(
    ("seed_noise", "interaction"), [(1.0, 0.0), (1.0, 1.0), (1.0, 0.5), (3**-0.5, 0.0)]
)
def test_two_seeds_and_six_clusters_cover(seed_noise, interaction):
    covered = coverage(2, 6, seed_noise=seed_noise, interaction=interaction, data_sets=2000)
    assert 0.935 <= covered <= 0.965


def test_covers_where_clusters_differ_in_size():
    covered = coverage(3, 12, seed_noise=0.3, interaction=0.5, data_sets=2000, spread=0.7)
    assert 0.935 <= covered <= 0.97


GRID = [
    (seeds, clusters, ratio, interaction)
    for seeds in (2, 3, 4, 8)
    for clusters in (6, 12, 30, 100)
    for ratio in (0, 0.3, 1, 3)
    for interaction in (0, 1)
]


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "clusters", "ratio", "interaction"), GRID)
def test_covers_over_the_grid(seeds, clusters, ratio, interaction):
    covered = coverage(seeds, clusters, seed_noise=ratio, interaction=interaction, data_sets=4000)
    assert covered >= 0.935 - 0.004
    # Over-coverage is known only where seeds hardly matter: see docs/notes-intervals.md.
    assert covered <= (0.99 if ratio < 1 else 0.97 + 0.004)


def print_table(title: str, data_sets: int, **options: float) -> None:
    cells = [(ratio, interaction) for interaction in (0, 1) for ratio in (0, 0.3, 1, 3)]
    print(f"\n{title}\n")
    print("| seeds | clusters |" + "".join(f" {r:g}, {i} |" for r, i in cells))
    print("|---" * (2 + len(cells)) + "|")
    for seeds in (2, 3, 4, 8):
        for clusters in (6, 12, 30, 100):
            row = [
                coverage(
                    seeds,
                    clusters,
                    seed_noise=ratio,
                    interaction=interaction,
                    data_sets=data_sets,
                    **options,
                )
                for ratio, interaction in cells
            ]
            print(f"| {seeds} | {clusters} |" + "".join(f" {100 * c:.1f} |" for c in row))


def print_nested(data_sets: int, *, sections: int = 42) -> None:
    """Coverage where texts differ: each section taken for a text, and documents as units."""
    print(f"\nNested: {sections} sections a document, standard deviation 1\n")
    print("| seeds | documents | sections as texts: 0.3 | 1 | documents as units: 0.3 | 1 |")
    print("|---" * 6 + "|")
    for seeds in (1, 2, 3, 4):
        for documents in (1, 2, 4, 5, 10, 30):
            cells = [
                nested_coverage(
                    seeds, documents, sections, document_noise=noise, seed_noise=0.1 * (seeds > 1),
                    data_sets=data_sets, by_document=by_document,
                )
                for by_document in (False, True)
                for noise in (0.3, 1.0)
            ]  # fmt: skip
            row = "".join(" none |" if c is None else f" {100 * c:.1f} |" for c in cells)
            print(f"| {seeds} | {documents} |{row}")


def satterthwaite(v_seed: float, v_cluster: float, df_seed: float, df_cluster: float) -> float:
    share = v_seed / (v_seed + v_cluster)
    return 1 / (share**2 / df_seed + (1 - share) ** 2 / df_cluster)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    if "nested" in sys.argv:
        sys.exit(print_nested(count))
    print(f"{count} data sets a cell; standard error {(0.0475 / count) ** 0.5:.2%}")
    print_table("Equal clusters", count)
    print_table("Cluster sizes log-normal, sd 0.7", count, spread=0.7)
    print_table("Equal clusters, level 0.9", count, level=0.9)
    print_table("Equal clusters, level 0.99", count, level=0.99)
    with mock.patch.object(random_effects, "sum_degrees_of_freedom", satterthwaite):
        print_table("Equal clusters, plain Satterthwaite degrees of freedom", count)
