"""The decomposition study: its zoo, its figures by hand, resumption, the page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster

from hostile_text import attack_report
from lmlab.cli import main
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.pages.figures import dendrogram, heat_map
from lmlab.pages.tree import leaf_order
from lmlab.topics.decomposition import study as study
from lmlab.topics.decomposition.decomposition import decompose
from lmlab.topics.decomposition.of_models import embed_models
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.redraw import redraw, result_rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_folder):
    """A study as small as it can be: four arms, two seeds."""
    lab = tmp_path_factory.mktemp("lab")
    config = DecompositionStudyConfig(
        corpus=str(text_folder),
        arms=("forward", "backward", "headless", "masked"),
        sizes=("nano",),
        vocabulary=300,
        context=16,
        tokens=160,
        batch_tokens=32,
        embedding=EmbeddingConfig(length=10),
        lengths=(5,),
        pieces=200,
        held_out_pieces=60,
        device="cpu",
        lab=lab,
        out=lab / "study",
    )
    report = study.run_decomposition(config)
    return config, report, json.loads((report.parent / "results.json").read_text())


def test_the_zoo_is_what_it_is_named_for(finished):
    config, _, results = finished
    found = {
        member["label"]: open_model(config.lab / "runs" / member["run"])
        for member in results["zoo"]
    }
    assert list(found) == [f"{a} {s}" for a in config.arms for s in (1, 2)]
    objective = {label: s.objective.record()["name"] for label, s in found.items()}
    assert objective["forward 1"] == objective["backward 2"] == "causal"
    assert (objective["headless 1"], objective["masked 1"]) == ("headless", "masked")
    assert {label for label, s in found.items() if s.order == "backward"} == {
        "backward 1", "backward 2"
    }  # fmt: skip
    assert len({member["run"] for member in results["zoo"]}) == 8


def test_figures_are_those_of_single_decompositions(finished):
    config, _, results = finished
    main_part = results["main"]
    store = TokenStore(next((config.lab / "stores").iterdir()))
    embedded = embed_models(
        main_part["models"],
        store,
        config.embedding,
        counts={"train": 200, "test": 60},
        lab=config.lab,
    )
    (train,), (test,) = (embedded[split].scatter() for split in ("train", "test"))
    for name, found in main_part["targets"].items():
        basis = [other for other in main_part["models"] if other != name]
        fit = decompose(train, name, basis, ridge=found["ridge"], test=test)
        assert found["r2_test"] == pytest.approx(fit.r2_test, abs=1e-8)
        assert found["interval"]["estimate"] == pytest.approx(fit.r2_test, abs=1e-8)
    pair = results["kinds"]["arms"]["backward from forward"]
    assert pair["pairs"] == 2
    names, ridges = main_part["pairwise"]["names"], main_part["pairwise"]["ridges"]

    def own_ridge(target, basis):
        return ridges[names.index(target)][names.index(basis)]

    expected = [
        decompose(train, target, [basis], ridge=own_ridge(target, basis), test=test).r2_test
        for target, basis in (("backward 1", "forward 2"), ("backward 2", "forward 1"))
    ]
    assert pair["estimate"] == pytest.approx(np.mean([r for r in expected if r]), abs=1e-8)
    general = results["kinds"]["general"]
    assert general[study.OTHER_SEED]["pairs"] == 8
    assert general[study.OTHER_OBJECTIVE]["pairs"] == general[study.SAME_SEED]["pairs"] == 24
    assert set(results["kinds"]["by_target"]) == set(config.arms)
    assert results["kinds"]["seeds_less_objectives"]["estimate"] == pytest.approx(
        general[study.OTHER_SEED]["estimate"] - general[study.OTHER_OBJECTIVE]["estimate"]
    )
    assert [one["length"] for one in results["lengths"]] == [5, 10]
    assert results["lengths"][1]["group"] == main_part["group_correlation"]


def test_towers_are_members_each(finished):
    config, _, _ = finished
    with_towers = replace(
        config, arms=("forward", "tower"), lengths=(10,), out=config.lab / "towers"
    )
    report = study.run_decomposition(with_towers)
    results = json.loads((report.parent / "results.json").read_text())
    towers = ["tower 1a", "tower 1b", "tower 2a", "tower 2b"]
    assert [m["label"] for m in results["zoo"]] == ["forward 1", "forward 2", *towers]
    assert len({m["run"] for m in results["zoo"]}) == 4
    assert [results["main"]["models"][name][-2:] for name in towers] == ["@1", "@2"] * 2
    assert results["main"]["widths"]["tower 1a"] == results["main"]["widths"]["forward 1"]
    general = results["kinds"]["general"]
    # of six models: 2 towers of 2 runs, 2 forward and 2 x 2 x 2 towers of other seeds, and so on
    assert {kind: general[kind]["pairs"] for kind in general} == {
        study.SAME_RUN: 4, study.OTHER_SEED: 2 + 8, study.SAME_SEED: 8, study.OTHER_OBJECTIVE: 8,
    }  # fmt: skip
    assert results["kinds"]["arms"]["tower from another tower"]["pairs"] == 8


def test_the_tree_is_that_of_the_pairs(finished):
    _, _, results = finished
    r2 = results["main"]["pairwise"]["r2_test"]
    names = results["main"]["pairwise"]["names"]
    distance = {
        (i, j): 1 - (r2[i][j] + r2[j][i]) / 2
        for i in range(len(names))
        for j in range(len(names))
        if i < j
    }
    first = results["tree"][0]
    nearest = min(distance, key=lambda pair: distance[pair])
    assert (first[0], first[1]) == nearest
    assert first[2] == pytest.approx(distance[nearest])
    merges = np.array([[*row, 0] for row in results["tree"]], dtype=float)
    assert len(set(fcluster(merges, 2, "maxclust"))) == 2


def test_a_finished_study_repeats_nothing(finished, monkeypatch):
    config, report, _ = finished
    before = report.read_bytes()
    monkeypatch.setattr("lmlab.training.loop.Trainer.run", pytest.fail)
    monkeypatch.setattr("lmlab.topics.decomposition.embedding_store.embed", pytest.fail)
    assert study.run_decomposition(config) == report
    assert report.read_bytes() == before
    report.unlink()
    assert redraw(report.parent).read_bytes() == before
    columns, rows = result_rows(report.parent)
    assert len(rows) == 8
    assert columns[0] == "target, from all others"


def test_the_page_says_what_was_found(finished):
    _, report, _ = finished
    page = report.read_text()
    for said in ("A backward model from a forward one", "masked from forward", "another headless",
                 "group correlation", "1 − R²", "Every pair has its own ridge"):  # fmt: skip
        assert said in page


def test_other_models_join_and_a_single_arm_has_no_difference(finished, capsys):
    config, _, results = finished
    run = config.lab / "runs" / results["zoo"][2]["run"]
    out = config.lab / "joined"
    options: dict[str, Any] = {
        "corpus": config.corpus, "sizes": "nano", "vocabulary": 300, "context": 16, "tokens": 160,
        "batch-tokens": 32, "embedding.length": 10, "lengths": 10, "pieces": 200,
        "held-out-pieces": 60, "device": "cpu", "lab": config.lab, "out": out, "arms": "forward",
        "models": run,
    }  # fmt: skip
    asked = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    assert main(["study", "decomposition", *asked]) == 0
    made = json.loads((out / "results.json").read_text())
    assert list(made["main"]["models"]) == ["forward 1", "forward 2", run.name]
    assert made["kinds"]["seeds_less_objectives"] is None
    assert "Length of text" not in (out / "report.html").read_text()
    assert "forward 1" in capsys.readouterr().out


def test_settings_that_make_no_study():
    base = DecompositionStudyConfig()
    assert base.all_lengths() == [16, 32, 64, 128]
    changes: dict[str, Any]
    for changes, said in (
        ({"arms": ()}, "--arms"),
        ({"sizes": ("huge",)}, "--sizes huge"),
        ({"seeds": 0}, "--seeds"),
        ({"context": 4096}, "does not fit a batch"),
        ({"arms": ("forward",), "seeds": 1}, "at least two models"),
        ({"lengths": (256,)}, "below --context"),
        ({"lengths": (0,)}, "at least 1"),
        ({"pieces": 1}, "--pieces"),
    ):
        with pytest.raises(UserError, match=said):
            replace(base, **changes)


# Figures


def test_a_heat_map_shows_every_value():
    made = heat_map(
        ["a", "b <i>"], [[None, 0.25], [-0.5, None]], row_label="target", column_label="basis",
        finding="f", alt="a",
    )  # fmt: skip
    for drawing in (made.svg_wide, made.svg_narrow):
        assert "0.25" in drawing or ".25" in drawing
        assert "−0.50" in drawing
        assert ">1 a<" in drawing
    wrong: Any
    for wrong, said in (
        ([[1.0]], "as many rows"),
        ([[1.0, float("nan")], [1.0, 1.0]], "row 'a'"),
    ):
        with pytest.raises(UserError, match=said):
            heat_map(["a", "b"], wrong, row_label="", column_label="", finding="f", alt="")
    with pytest.raises(UserError, match="too many"):
        heat_map(["x"] * 25, [[None] * 25] * 25, row_label="", column_label="", finding="f", alt="")


def test_a_dendrogram_joins_all_leaves():
    merges = [(0, 2, 0.1), (1, 3, 0.4)]
    assert leaf_order(3, merges) == [1, 0, 2]
    made = dendrogram(["a", "b", "c"], merges, x_label="distance", finding="f", alt="a")
    assert made.svg_wide.count("<path") >= 2
    for wrong, said in (
        ([(0, 1, 0.1)], "need 2 merges"),
        ([(0, 1, 0.1), (0, 2, 0.2)], "exactly once"),
        ([(0, 1, 0.1), (2, 3, float("inf"))], "distance"),
    ):
        with pytest.raises(UserError, match=said):
            dendrogram(["a", "b", "c"], wrong, x_label="", finding="f", alt="")


@pytest.mark.trust
@pytest.mark.promise("Script in any string of a study's results does not reach its report alive")
def test_hostile_strings_stay_text(finished, cases):
    assert len(attack_report(finished[1].parent, cases)) > 10
