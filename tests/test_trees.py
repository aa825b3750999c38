"""Trees: neighbour joining against trees of which the distances are, quartets against counting."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.errors import UserError
from lmlab.numerics.half_samples import half_sample_interval, half_samples
from lmlab.numerics.trees import (
    Tree,
    neighbour_joining,
    newick_splits,
    path_lengths,
    quartet_accuracy,
    quartets,
    topologies,
)


@st.composite
def trees(draw, *, least=3, most=9):
    """A random binary tree: each further leaf hangs on a branch that is there already."""
    leaves = draw(st.integers(least, most))
    lengths = st.floats(0.01, 5.0)
    branches = [(0, leaves), (1, leaves), (2, leaves)]
    for leaf in range(3, leaves):
        a, b = branches.pop(draw(st.integers(0, len(branches) - 1)))
        node = leaves + leaf - 2
        branches += [(a, node), (node, b), (leaf, node)]
    return Tree(leaves, tuple((a, b, draw(lengths)) for a, b in branches))


def walked(tree: Tree) -> np.ndarray:
    """Distances between leaves by walking from each of them."""
    around: dict[int, list[tuple[int, float]]] = {}
    for a, b, length in tree.branches:
        around.setdefault(a, []).append((b, length))
        around.setdefault(b, []).append((a, length))
    found = np.zeros((tree.leaves, tree.leaves))
    for leaf in range(tree.leaves):
        reached, waiting = {leaf: 0.0}, [leaf]
        while waiting:
            node = waiting.pop()
            for other, length in around[node]:
                if other not in reached:
                    reached[other] = reached[node] + length
                    waiting.append(other)
        found[leaf] = [reached[i] for i in range(tree.leaves)]
    return found


def by_sums(distances: np.ndarray, four: tuple[int, ...]) -> int:
    """The topology of a quartet by the four-point condition (Buneman 1971)."""
    a, b, c, d = four
    sums = [
        distances[a, b] + distances[c, d],
        distances[a, c] + distances[b, d],
        distances[a, d] + distances[b, c],
    ]
    return int(np.argmin(sums))


@given(trees())
def test_neighbour_joining_gives_back_every_tree(tree):
    distances = walked(tree)
    np.testing.assert_allclose(path_lengths(tree), distances, atol=1e-12)
    found = neighbour_joining(distances)
    assert set(found.splits().values()) == set(tree.splits().values())
    np.testing.assert_allclose(walked(found), distances, atol=1e-9)


@given(trees(least=4))
def test_splits_and_quartets_are_those_of_the_distances(tree):
    distances = walked(tree)
    fours = quartets(tree.leaves)
    assert [tuple(four) for four in fours] == list(combinations(range(tree.leaves), 4))
    expected = [by_sums(distances, tuple(four)) for four in fours]
    assert topologies(list(tree.splits().values()), fours).tolist() == expected
    names = [f"m{i}" for i in range(tree.leaves)]
    assert newick_splits(tree.newick(names), names) == sorted(set(tree.splits().values()))


@given(trees(least=4, most=7), trees(least=7, most=7), st.data())
def test_quartet_accuracy_is_what_counting_says(known, other, data):
    """Against every quartet in each of its 24 orders, with some of the true branches unknown."""
    leaves = known.leaves
    splits = sorted(known.splits().values())
    kept = data.draw(st.lists(st.sampled_from(splits), min_size=1, unique=True))
    found = neighbour_joining(walked(other)[:leaves, :leaves])

    def together(splits, a, b, c, d):
        return any((s >> a & 1) == (s >> b & 1) != (s >> c & 1) == (s >> d & 1) for s in splits)

    right = resolved = 0
    for four in combinations(range(leaves), 4):
        for order in permutations(four):
            if together(kept, *order):
                resolved += 1
                right += together(found.splits().values(), *order)
    fours = quartets(leaves)
    accuracy = quartet_accuracy(
        topologies(kept, fours), topologies(list(found.splits().values()), fours)
    )
    assert accuracy == pytest.approx(right / resolved)


def test_a_random_tree_has_a_third_of_the_quartets():
    rng = np.random.default_rng(0)
    fours = quartets(8)
    truth = topologies(newick_splits("(((a,b),(c,d)),((e,f),(g,h)))", list("abcdefgh")), fours)
    assert (truth >= 0).all()
    points = rng.random((300, 8, 8))
    found = [neighbour_joining(p + p.T) for p in points]
    accuracy = [
        quartet_accuracy(truth, topologies(list(t.splits().values()), fours)) for t in found
    ]
    assert np.mean(accuracy) == pytest.approx(1 / 3, abs=0.03)


def test_brackets_are_read_as_they_are_meant():
    names = ["a", "b b", "c'", "d", "e:1"]
    assert newick_splits("((a,'b b'):0.5,'c''',(d:2,e:1)x:1);", names) == [0b11000, 0b11100]
    assert newick_splits("(a,'b b','c''',d,e:1)", names) == []
    assert newick_splits("(((a , 'b b')),'c''',d,e:1)", names) == [0b11100]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("((a,b),(c,d)", "is no tree"),
        ("((a,b),(c,d)))", "is no tree"),
        ("(a,b)(c,d)", "is no tree"),
        ("a,b,c,d", "is no tree"),
        ("((a,),(c,d))", "is no tree"),
        ("((),(a,b),(c,d))", "is no tree"),
        ("", "is no tree"),
        ("((a,b),(c,x))", "names 'x'; the models are a, b, c, d"),
        ("((a,b),(c,a))", "has a twice"),
        ("((a,b),c)", "lacks d"),
    ],
)
def test_what_is_no_tree_of_the_names_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        newick_splits(text, list("abcd"))


def test_distances_that_make_no_tree_are_refused():
    with pytest.raises(UserError, match="2 leaves"):
        neighbour_joining(np.zeros((2, 2)))
    distances = np.ones((4, 4))
    distances[0, 1] = distances[1, 0] = np.inf
    with pytest.raises(UserError, match="not finite"):
        neighbour_joining(distances)


def test_halves_are_halves_and_their_interval_covers_a_mean():
    """Of means and of medians (no smooth function of sums) of 20 units, 1,000 data sets each."""
    kept = half_samples(21, 50, seed=3)
    assert (kept.sum(1) == 10).all()
    assert len(np.unique(kept, axis=0)) == 50
    rng = np.random.default_rng(1)
    at = np.argsort(~half_samples(20, 200), axis=1, kind="stable")[:, :10]
    for statistic in (np.mean, np.median):
        covered = 0
        for values in rng.normal(size=(1000, 20)):
            halves = statistic(values[at], axis=1)
            seen = half_sample_interval(float(statistic(values)), halves, units=20, documents=20)
            assert seen.bounds is not None
            covered += seen.bounds[0] <= 0 <= seen.bounds[1]
        assert 0.9 < covered / 1000 < 0.99, statistic
        assert half_sample_interval(0.0, [0.0], units=20, documents=20).basis == "text only"
    few = half_sample_interval(0.5, [0.6, 0.7], units=9, documents=2)
    assert (few.low, few.basis) == (0.5, "these documents only")
    assert "these 2 documents only" in few.note
