"""Lineages: similarities of rows whose relation is known, and a small family end to end."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import special_ortho_group

from helpers import sentences, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.training import ParentConfig
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig, prepare
from lmlab.data.splits import SplitConfig
from lmlab.data.tokenizers import TokenizerConfig
from lmlab.errors import UserError
from lmlab.numerics.scatter import Scatter
from lmlab.numerics.trees import Tree
from lmlab.pages.phylogram import phylogram
from lmlab.topics.decomposition.mapping import agreement
from lmlab.topics.decomposition.of_models import pair_sums
from lmlab.topics.decomposition.options import EmbeddingConfig
from lmlab.topics.decomposition.shares import pairwise
from lmlab.topics.decomposition.similarity import SimilarityRows, similarity
from lmlab.topics.lineage.lineage import CKA, LMD, NEIGHBOURS, Lineage, distances, lineage
from lmlab.topics.lineage.options import LineageConfig
from lmlab.topics.lineage.similarities import (
    LinearMaps,
    calibrated,
    centred_kernel,
    compared,
    gathered,
    grams,
    neighbour_kernel,
)
from lmlab.topics.registry import read_result
from lmlab.training.loop import train

rng = np.random.default_rng(0)
UNIT_N = np.repeat(np.arange(24), 10)


def related_rows() -> dict[str, np.ndarray]:
    """Rows, the same turned and scaled, half of them with noise, and unrelated ones."""
    base = rng.normal(size=(240, 12)).astype(np.float32)
    turned = base @ special_ortho_group.rvs(12, random_state=1)
    return {
        "base": base,
        "turned": (3 * turned + 5).astype(np.float32),
        "near": (base[:, :6] + 0.5 * rng.normal(size=(240, 6))).astype(np.float32),
        "other": rng.normal(size=(240, 12)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def rows():
    return related_rows()


def test_cka_is_that_of_decompositions(rows):
    """The same number by kernels as by covariances and norms."""
    kernels = [centred_kernel(gram) for gram in grams(rows)]
    seen = compared(kernels, UNIT_N, permutations=19)
    scatter = Scatter()
    scatter.update(rows)
    held = SimilarityRows(scatter)
    held.update(rows, UNIT_N)
    names = list(rows)
    for a in range(4):
        for b in range(a):
            expected = similarity(held, names[a], names[b]).cka
            assert seen.value_MM[a, b] == pytest.approx(expected, abs=2e-6)


def test_neighbours_are_those_of_mapped_rows(rows):
    kernels = [neighbour_kernel(gram, 7) for gram in grams(rows)]
    seen = compared(kernels, UNIT_N, permutations=19)
    for name in ("turned", "other"):
        pair = (values - values.mean(0) for values in (rows["base"], rows[name]))
        expected = agreement(*pair, neighbours=7).shared_neighbours
        at = list(rows).index(name)
        assert seen.value_MM[0, at] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "kernel", [centred_kernel, lambda gram: neighbour_kernel(gram, 10)], ids=["CKA", "neighbours"]
)
def test_calibrated_zero_is_no_relation_and_one_is_identity(rows, kernel):
    seen = compared([kernel(gram) for gram in grams(rows)], UNIT_N, permutations=199)
    base, turned, near, other = range(4)
    calibrated_MM, p_MM = seen.calibrated_MM, seen.p_MM
    assert calibrated_MM[base, turned] == pytest.approx(1, abs=1e-5)
    assert calibrated_MM[base, other] == pytest.approx(0, abs=0.03)
    assert calibrated_MM[turned, other] == pytest.approx(0, abs=0.03)
    assert 0.1 < calibrated_MM[base, near] < 0.9
    assert (np.diagonal(calibrated_MM) == 1).all()
    np.testing.assert_allclose(calibrated_MM, calibrated_MM.T, atol=1e-6)
    assert p_MM[base, turned] == p_MM[base, near] == 1 / 200
    assert p_MM[base, other] > 0.02


def test_unrelated_rows_of_the_same_documents_are_calibrated_to_zero():
    """Rows of one document are alike in both, so rows that change places singly would seem related;
    documents that change places do not."""
    means = [rng.normal(size=(24, 8)) for _ in range(2)]
    rows = {
        str(i): (mean[UNIT_N] + 0.3 * rng.normal(size=(240, 8))).astype(np.float32)
        for i, mean in enumerate(means)
    }
    kernels = [centred_kernel(gram) for gram in grams(rows)]
    by_document = compared(kernels, UNIT_N, permutations=199)
    by_row = compared(kernels, np.arange(240), permutations=199)
    assert by_document.p_MM[0, 1] > 0.05
    assert by_row.p_MM[0, 1] == 1 / 200
    assert abs(by_document.calibrated_MM[0, 1]) < abs(by_row.calibrated_MM[0, 1])


def test_distances_add_up_where_similarities_multiply():
    similar = np.array([[1, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 1]])
    log = distances(similar, "log")
    assert log[0, 2] == pytest.approx(log[0, 1] + log[1, 2])
    np.testing.assert_allclose(distances(similar, "linear"), 1 - similar)
    ends = np.array([[1, 1.0001], [-0.2, 1]])
    np.testing.assert_allclose(distances(ends, "log"), [[0, 0], [-np.log(0.01), 0]])
    assert calibrated(np.array([[1, 0.6], [0.6, 1]]), np.array([[0.5, 0.2], [0.2, 0.5]]))[
        0, 1
    ] == pytest.approx(0.5)


def test_rows_that_say_nothing_are_refused(rows):
    with pytest.raises(UserError, match="'flat' is the same for every row"):
        grams({**rows, "flat": np.full((240, 3), 7.0, np.float32)})
    many = {"a": np.zeros((5000, 1), np.float32)}
    with pytest.raises(UserError, match=r"5,000 rows.*at most 4,096"):
        grams(many)


# A family end to end


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Two roots and two children of each, hardly trained, so that each is near to its parent."""
    folder = tmp_path_factory.mktemp("family")
    texts = folder / "text"
    texts.mkdir()
    for number, text in enumerate(sentences(90, seed=5)):
        (texts / f"{number:03d}.txt").write_text(text, "utf-8")
    store = prepare(
        PrepareConfig(
            out=folder / "store",
            corpus=CorpusConfig(text=(str(texts),)),
            tokenizer=TokenizerConfig(vocabulary=300),
            split=SplitConfig(validation=0.2, test=0.4),
        )
    )
    models = []
    for seed in (0, 1):
        root = train(tiny_training(store, folder / f"root{seed}", steps=20, seed=seed)).path
        for child in "ab":
            config = tiny_training(
                store, folder / f"{seed}{child}", steps=6, seed=10 + ord(child) + seed,
                model=ModelConfig(), parent=ParentConfig(str(root)),
            )  # fmt: skip
            models.append(str(train(config).path))
    return store, models


FEW: dict[str, Any] = {
    "pieces": 200,
    "held_out_pieces": 120,
    "permutations": 19,
    "halves": 30,
    "neighbours": 3,
}


@pytest.fixture(scope="module")
def found(family, tmp_path_factory):
    store, models = family
    out = tmp_path_factory.mktemp("lineage")
    words = [f"--{k.replace('_', '-')}={v}" for k, v in FEW.items()]
    command = [
        "lineage", *models, "--store", str(store.path), "--truth", "((0a,0b),(1a,1b))", *words,
        "--embedding.length", "8", "--lab", str(out / "lab"), "--device", "cpu",
        "--out", str(out / "out"),
    ]  # fmt: skip
    assert main(command) == 0
    result = read_result(out / "out")
    assert isinstance(result, Lineage)
    return result, out / "lab"


def test_a_family_of_two_roots_is_recovered(found, family):
    result, _ = found
    assert [m.measure for m in result.measures] == [CKA, NEIGHBOURS, LMD]
    assert result.truth is not None
    assert (result.truth.branches, result.truth.quartets, result.truth.of_quartets) == (1, 1, 1)
    for measured in result.measures:
        assert measured.recovery is not None
        assert measured.recovery.accuracy.estimate == 1
        assert measured.recovery.found == 1
        assert 0.2 < measured.recovery.p < 0.5  # one of the three trees of four
        (branch,) = measured.branches
        assert branch.members == ("1a", "1b")
        assert branch.support > 0.9
        assert branch.in_truth
        siblings = [p for p in measured.similarities if p.one[0] == p.other[0]]
        assert len(siblings) == 2
        others = [p for p in measured.similarities if p.one[0] != p.other[0]]
        assert min(p.calibrated for p in siblings) > max(p.calibrated for p in others)
        assert re.search(r"\b1a:.*\b1b:|\b1b:.*\b1a:", measured.newick)
    assert all(d.difference.estimate == 0 for d in result.differences)
    assert result.units == result.documents == 35


def test_a_wrong_tree_is_told(found, family):
    _, lab = found
    store, models = family
    config = LineageConfig(
        tuple(models), store=store.path, truth="((0a,1b),(1a,0b))", lab=lab,
        embedding=EmbeddingConfig(8), **FEW,
    )  # fmt: skip
    result = lineage(config)
    for measured in result.measures:
        assert measured.recovery is not None
        assert measured.recovery.accuracy.estimate == 0
        assert measured.recovery.found == 0
        own, lacking = measured.branches
        assert (own.in_truth, lacking.in_truth, lacking.number) == (False, True, None)
        assert lacking.support < 0.1
    page = result.page()
    assert "not in the true tree" in page
    assert "1a, 0b" in page or "0b, 1a" in page
    unknown = lineage(replace(config, truth=None, distance="linear"))
    assert unknown.truth is None
    assert unknown.differences == ()
    assert "Against the true tree" not in unknown.page()
    assert unknown.measures[0].branches[0].in_truth is None
    assert "1 of 1 inner branches" in unknown.summary()


def test_linear_maps_are_those_of_decompositions(found, family, monkeypatch):
    """R2 of all text is that of `pairwise`; that of a half is that of its rows."""
    from lmlab.data.store import TokenStore
    from lmlab.progress import track
    from lmlab.topics.decomposition.of_models import embed_models, labels, solvable_ridges
    from lmlab.topics.decomposition.shares import Ridges

    result, lab = found
    store, models = family
    counts = {"train": 200, "validation": 120, "test": 120}
    embedded = embed_models(
        labels(models), TokenStore(store.path), EmbeddingConfig(8), counts=counts, lab=lab
    )
    with track("t", 3.0, "fits") as bar:
        maps = LinearMaps(embedded, permutations=2, bar=bar)
    train_scatter, validation, test = (embedded[s].scatter()[0] for s in counts)
    pairs = pairwise(
        train_scatter,
        ridge=Ridges(tuple(solvable_ridges(train_scatter)), validation),
        test=test,
    )
    r2 = (pairs.r2[0][1] + pairs.r2[1][0]) / 2  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
    assert maps.similarity.value_MM[0, 1] == pytest.approx(r2)
    shown = next(m for m in result.measures if m.measure == LMD).similarities[0]
    assert shown.value == pytest.approx(r2)
    assert maps.similarity.null_mean_MM[0, 1] < 0.1
    rows, unit_N = gathered(embedded["test"])
    units = np.unique(unit_N)
    kept_RC = np.stack([np.ones(len(units), bool), np.arange(len(units)) % 2 == 0])
    of_halves = maps.r2_of(kept_RC)
    assert of_halves[0, 0, 1] == pytest.approx(r2)
    half = Scatter()
    kept_N = np.isin(unit_N, units[kept_RC[1]])
    half.update({name: values[kept_N] for name, values in rows.items()})
    sums = pair_sums(embedded, train_scatter, pairs)
    a, b = list(rows)[:2]
    expected = 0.0
    for target, basis in ((a, b), (b, a)):
        u = rows[target][kept_N].astype(np.float64)
        left = u - sums[target, basis].fit.predict({basis: rows[basis][kept_N]})
        expected += (1 - (left**2).sum() / ((u - u.mean(0)) ** 2).sum()) / 2
    assert of_halves[1, 0, 1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": 3}, "`models`: 3 given"),
        ({"truth": "((0a,0b),(1a,1x))"}, "names '1x'; the models are 0a, 0b, 1a, 1b"),
        ({"truth": "(0a,0b,1a,1b)"}, "says of no four models"),
        ({"truth": "((0a,0b),(1a,1b)"}, "all brackets closed"),
        ({"neighbours": 70}, "`neighbours` is 70"),
        ({"held_out_pieces": 7}, "halves of it need at least 8"),
    ],
)
def test_what_makes_no_lineage_is_refused(changes, message, found, family):
    _, lab = found
    store, models = family
    chosen = tuple(models[: changes.pop("models", 4)])
    with pytest.raises(UserError, match=message):
        lineage(
            LineageConfig(
                chosen,
                store=store.path,
                lab=lab,
                embedding=EmbeddingConfig(8),
                **{**FEW, **changes},
            )
        )


# The drawing


def test_a_tree_is_drawn_from_the_middle_of_its_longest_path():
    """Names, notes and lengths of every branch; two parts as deep as half of the longest path."""
    tree = Tree(5, ((0, 5, 1.0), (1, 5, 2.0), (5, 6, 0.5), (2, 6, -0.1), (6, 7, 0.7), (3, 7, 2.0),
                    (4, 7, 3.0)))  # fmt: skip
    figure = phylogram(
        ["a", "b", "c", "d", "e"], tree, notes={2: "90 %", 4: "40 %"}, doubted=[4], x_label="x",
        finding="f", alt="a",
    )  # fmt: skip
    texts = re.findall(r">([^<>]+)</text>", figure.drawing)
    assert {"a", "b", "c", "d", "e", "90 %", "40 %"} <= set(texts)
    titles = re.findall(r"<title>([^<]+)</title>", figure.drawing)
    assert len(titles) == 7 + 1  # the branch with the middle on it is drawn in two parts
    lengths: dict[str, float] = {}
    for title in titles:
        number, _, names = title.partition(": ")
        lengths[names] = lengths.get(names, 0.0) + float(number.split(",")[0])
    # the longest path is from b to e, 6.2: its middle is 0.1 from the joint of d and e
    assert lengths["d, e"] == pytest.approx(0.1)
    other = next(names for names in lengths if len(names) > 4)
    assert sorted(other.split(", ")) == ["a", "b", "c"]
    assert lengths[other] == pytest.approx(0.6)
    assert lengths["c"] == 0  # what is below zero is drawn as zero
    assert "stroke-dasharray" in figure.drawing
    assert figure.data is not None
    assert sorted(row[1] for row in figure.data.rows) == [-0.1, 0.5, 0.7, 1.0, 2.0, 2.0, 3.0]
    flat = Tree(4, tuple((a, b, 0.0) for a, b in ((0, 4), (1, 4), (2, 5), (3, 5), (4, 5))))
    assert phylogram(list("abcd"), flat, notes={}, x_label="x", finding="f", alt="a").drawing
