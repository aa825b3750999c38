"""The decomposition study: its zoo, its figures by hand, resumption, the page."""

from __future__ import annotations

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
from lmlab.topics.counting.baseline import ngram_baselines
from lmlab.topics.decomposition.decomposition import decompose
from lmlab.topics.decomposition.figures import pairs_matrix, pairs_tree
from lmlab.topics.decomposition.of_models import embed_models
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.decomposition.report import group_finding, headline
from lmlab.topics.decomposition.study import run_decomposition
from lmlab.topics.decomposition.zoo import (
    OTHER_OBJECTIVE,
    OTHER_SEED,
    SAME_RUN,
    SAME_SEED,
    ZooDecomposition,
)
from lmlab.topics.registry import read_result, redraw
from lmlab.topics.scoring.score import score


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_folder):
    """A study as small as it can be: four arms, two seeds."""
    lab = tmp_path_factory.mktemp("lab")
    config = DecompositionStudyConfig(
        text=str(text_folder),
        arms=("forward", "backward", "headless", "masked"),
        size=("nano",),
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
    return config, run_decomposition(config)


def test_the_zoo_is_what_it_is_named_for(finished):
    config, result = finished
    opened = {m.label: open_model(config.lab / "runs" / m.run) for m in result.zoo}
    assert list(opened) == [f"{a} {s}" for a in config.arms for s in (1, 2)]
    objective = {label: s.objective.record()["name"] for label, s in opened.items()}
    assert objective["forward 1"] == objective["backward 2"] == "causal"
    assert (objective["headless 1"], objective["masked 1"]) == ("headless", "masked")
    assert {label for label, s in opened.items() if s.order == "backward"} == {
        "backward 1", "backward 2"
    }  # fmt: skip
    assert len({m.run for m in result.zoo}) == 8


def test_figures_are_those_of_single_decompositions(finished):
    config, result = finished
    main, kinds = result.main, result.kinds
    store = TokenStore(next((config.lab / "stores").iterdir()))
    embedded = embed_models(
        main.models, store, config.embedding, counts={"train": 200, "test": 60}, lab=config.lab
    )
    (train,), (test,) = (embedded[split].scatter() for split in ("train", "test"))
    for name, target in main.targets.items():
        basis = [other for other in main.models if other != name]
        fit = decompose(train, name, basis, ridge=target.fit.ridge, test=test)
        assert target.fit.r2_test == pytest.approx(fit.r2_test, abs=1e-8)
        assert target.interval.estimate == pytest.approx(fit.r2_test, abs=1e-8)
    pair = kinds.arms["backward from forward"]
    assert pair.pairs == 2
    expected = [
        decompose(train, target, [basis], ridge=main.pairs.ridge(target, basis), test=test).r2_test
        for target, basis in (("backward 1", "forward 2"), ("backward 2", "forward 1"))
    ]
    assert pair.interval.estimate == pytest.approx(np.mean([r for r in expected if r]), abs=1e-8)
    general = kinds.general
    assert general[OTHER_SEED].pairs == 8
    assert general[OTHER_OBJECTIVE].pairs == general[SAME_SEED].pairs == 24
    assert set(kinds.by_target) == set(config.arms)
    assert kinds.seeds_less_objectives is not None
    assert kinds.seeds_less_objectives.estimate == pytest.approx(
        general[OTHER_SEED].interval.estimate - general[OTHER_OBJECTIVE].interval.estimate
    )
    assert [at.length for at in result.lengths] == [5, 10]
    assert result.lengths[1].group == main.group


def test_towers_are_members_each(finished):
    config, _ = finished
    with_towers = replace(
        config, arms=("forward", "tower"), lengths=(10,), out=config.lab / "towers"
    )
    result = run_decomposition(with_towers)
    towers = ["tower 1a", "tower 1b", "tower 2a", "tower 2b"]
    assert [m.label for m in result.zoo] == ["forward 1", "forward 2", *towers]
    assert len({m.run for m in result.zoo}) == 4
    assert [result.main.models[name][-2:] for name in towers] == ["@1", "@2"] * 2
    assert result.main.widths["tower 1a"] == result.main.widths["forward 1"]
    # of six models: 2 towers of 2 runs, 2 forward and 2 x 2 x 2 towers of other seeds, and so on
    assert {kind: of_kind.pairs for kind, of_kind in result.kinds.general.items()} == {
        SAME_RUN: 4, OTHER_SEED: 2 + 8, SAME_SEED: 8, OTHER_OBJECTIVE: 8,
    }  # fmt: skip
    assert result.kinds.arms["tower from another tower"].pairs == 8


def test_the_tree_is_that_of_the_pairs(finished):
    _, result = finished
    r2 = result.main.pairs.r2
    distance = {
        (i, j): 1 - ((r2[i][j] or 0.0) + (r2[j][i] or 0.0)) / 2
        for i in range(len(r2))
        for j in range(len(r2))
        if i < j
    }
    first = result.main.tree[0]
    nearest = min(distance, key=lambda pair: distance[pair])
    assert (first[0], first[1]) == nearest
    assert first[2] == pytest.approx(distance[nearest])
    merges = np.array([[*row, 0] for row in result.main.tree], dtype=float)
    assert len(set(fcluster(merges, 2, "maxclust"))) == 2


def test_a_finished_study_repeats_nothing(finished, monkeypatch):
    config, result = finished
    page = config.out / "report.html"
    before = page.read_bytes()
    monkeypatch.setattr("lmlab.training.loop.Trainer.run", pytest.fail)
    monkeypatch.setattr("lmlab.topics.decomposition.embedding_store.embed", pytest.fail)
    assert read_result(config.out) == result
    run_decomposition(config)  # products of matrices may differ in the last digit
    assert page.read_bytes() == before
    page.unlink()
    assert redraw(config.out).read_bytes() == before
    table = result.tables()[0]
    assert len(table.rows) == 8
    assert table.columns[0] == "target"
    assert result.frame()["R² test"].tolist() == [
        target.interval.estimate for target in result.main.targets.values()
    ]


def test_the_page_says_what_was_found(finished):
    config, result = finished
    page = (config.out / "report.html").read_text()
    for said in ("A backward model from a forward one", "masked from forward", "another headless",
                 "group correlation", "1 − R²", "Every pair has its own ridge"):  # fmt: skip
        assert said in page
    assert group_finding(result.main) in result.summary()


def test_the_page_of_the_command_has_the_figures_of_the_study(finished):
    _, result = finished
    single = {name: target for name, target in result.main.targets.items() if name == "masked 2"}
    alone = replace(result.main, targets=single, group=None, group_train=None)
    assert {figure.finding for figure in result.main.figures()} & {
        figure.finding for figure in result.figures()
    } >= {figure.finding for figure in (pairs_matrix(alone), pairs_tree(alone))}
    assert "of masked 2's variance" in alone.summary()
    assert "R² of masked 2 from all others is" in alone.page()


def test_pages_can_be_drawn_where_no_model_explains_another(finished):
    """The scale of the pairs had equal ends, and shares of nothing were divided by."""
    _, result = finished
    main = result.main
    r2 = tuple(tuple(None if v is None else -0.1 for v in row) for row in main.pairs.r2)
    targets = {
        name: replace(t, greedy=replace(t.greedy, r2=tuple(0.0 for _ in t.greedy.r2)))
        for name, t in main.targets.items()
    }
    page = replace(main, pairs=replace(main.pairs, r2=r2), targets=targets).page()
    assert "All others together give no R² above 0." in page


def test_more_models_than_a_matrix_takes_are_drawn_without_it(finished):
    _, result = finished
    main = result.main
    names = [f"model {i}" for i in range(25)]
    pairs = replace(
        main.pairs,
        names=tuple(names),
        r2=tuple(tuple(None if i == j else 0.5 for j in range(25)) for i in range(25)),
    )
    tree = tuple((0 if i == 0 else 24 + i, i + 1, 0.5) for i in range(24))
    many = replace(main, models=dict.fromkeys(names, "x"), pairs=pairs, tree=tree, similarities={})
    assert "25 models are too many to draw" in many.page()


def test_other_models_join_and_a_single_arm_has_no_difference(finished, capsys):
    config, result = finished
    run = config.lab / "runs" / result.zoo[2].run
    out = config.lab / "joined"
    options: dict[str, Any] = {
        "text": config.text, "size": "nano", "vocabulary": 300, "context": 16, "tokens": 160,
        "batch-tokens": 32, "embedding.length": 10, "lengths": 10, "pieces": 200,
        "held-out-pieces": 60, "device": "cpu", "lab": config.lab, "out": out, "arms": "forward",
        "models": run,
    }  # fmt: skip
    asked = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    assert main(["study", "decomposition", *asked]) == 0
    joined = read_result(out)
    assert isinstance(joined, ZooDecomposition)
    assert list(joined.main.models) == ["forward 1", "forward 2", run.name]
    assert joined.kinds.seeds_less_objectives is None
    assert "Length of text" not in (out / "report.html").read_text()
    assert "forward 1" in capsys.readouterr().out


def test_settings_that_make_no_study():
    base = DecompositionStudyConfig()
    assert base.all_lengths() == [16, 32, 64, 128]
    changes: dict[str, Any]
    for changes, said in (
        ({"arms": ()}, "`arms`"),
        ({"size": ("huge",)}, "`size` huge"),
        ({"seeds": 0}, "`seeds`"),
        ({"context": 4096}, "does not fit a batch"),
        ({"arms": ("forward",), "seeds": 1}, "at least two models"),
        ({"lengths": (256,)}, "below `context`"),
        ({"lengths": (0,)}, "at least 1"),
        ({"pieces": 1}, "`pieces`"),
    ):
        with pytest.raises(UserError, match=said):
            replace(base, **changes)


# Figures


def test_a_heat_map_shows_every_value():
    made = heat_map(
        ["a", "b <i>"], [[None, 0.25], [-0.5, None]], row_label="target", column_label="basis",
        finding="f", alt="a",
    )  # fmt: skip
    for drawing in [made.drawing]:
        assert "0.25" in drawing or ".25" in drawing
        assert "−0.50" in drawing
        assert ">1 a<" in drawing
    wrong: Any
    for wrong, refused in (
        ([[1.0]], pytest.raises(AssertionError)),
        ([[1.0, float("nan")], [1.0, 1.0]], pytest.raises(UserError, match="row 'a'")),
    ):
        with refused:
            heat_map(["a", "b"], wrong, row_label="", column_label="", finding="f", alt="")
    with pytest.raises(UserError, match="too many"):
        heat_map(["x"] * 25, [[None] * 25] * 25, row_label="", column_label="", finding="f", alt="")


def test_a_dendrogram_joins_all_leaves():
    merges = [(0, 2, 0.1), (1, 3, 0.4)]
    assert leaf_order(3, merges) == [1, 0, 2]
    made = dendrogram(["a", "b", "c"], merges, x_label="distance", finding="f", alt="a")
    assert made.drawing.count("<path") >= 2
    for wrong, refused in (
        ([(0, 1, 0.1)], pytest.raises(AssertionError, match="merged once")),
        ([(0, 1, 0.1), (0, 2, 0.2)], pytest.raises(AssertionError, match="merged once")),
        ([(0, 1, 0.1), (2, 3, float("inf"))], pytest.raises(UserError, match="distance")),
    ):
        with refused:
            dendrogram(["a", "b", "c"], wrong, x_label="", finding="f", alt="")


@pytest.mark.trust
@pytest.mark.promise("Script in any string of a study's results does not reach its report alive")
def test_hostile_strings_stay_text(finished, cases):
    assert len(attack_report(finished[0].out, cases)) > 10


def test_causal_models_stand_against_counts_of_their_text(finished):
    """By hand: the models' nats of the same windows less those of the n-grams, by token."""
    config, result = finished
    store = TokenStore(next((config.lab / "stores").iterdir()))
    counting = result.counting
    assert counting is not None
    assert list(counting.above) == ["forward", "backward", "headless"]
    baseline = ngram_baselines(
        store, split="test", context=config.context, max_windows=config.held_out_pieces,
        smoothings=("modified Kneser-Ney", "Kneser-Ney"),
    ).best  # fmt: skip
    assert counting.fit == baseline.fit
    for arm, above in counting.above.items():
        scores = [
            score(open_model(config.lab / "runs" / m.run), store, split="test", context=16,
                  max_windows=config.held_out_pieces)
            for m in result.zoo if m.arm == arm
        ]  # fmt: skip
        mean = np.mean([each.nats_per_token for each in scores])
        counted = baseline.nats_backward_M if arm == "backward" else baseline.nats_forward_M
        assert above.interval.estimate == pytest.approx(
            mean - counted.sum() / baseline.tokens_M.sum(), abs=1e-5
        )
        assert (above.interval.seeds, scores[0].tokens) == (2, counting.tokens)


def test_what_models_do_not_know_that_counting_gives_comes_first(finished):
    _, result = finished
    counting = result.counting
    assert counting is not None
    # ten steps learn less than counts of the same text
    assert set(counting.worse) == {"forward", "backward", "headless"}
    for text in (headline(result), result.summary()):
        assert text.startswith(f"Against counting ({counting.fit.smoothing}, ")
        assert "What is found is of early training." in text
    report = result.report
    (section,) = (each for each in report.sections if each.title == "Against counting")
    assert "as masked ones do, have no joint likelihood" in str(section.paragraphs)
    assert next(iter(result.tables()[-1].rows))[0] == "forward"
    better = replace(
        counting,
        above={
            name: replace(
                above,
                these=replace(above.these, estimate=-0.2, low=-0.3, high=-0.1),
                interval=replace(above.interval, estimate=-0.2, low=-0.4, high=0.1),
            )
            for name, above in counting.above.items()
        },
    )
    result = replace(result, counting=better)
    assert "ounting" not in headline(result)
    (section,) = (each for each in result.report.sections if each.title == "Against counting")
    assert "3 better than counting" in str(section.paragraphs)
    # a result from before this was counted
    old = {key: value for key, value in result.to_json().items() if key != "counting"}
    assert "Against counting" not in ZooDecomposition.from_json(old).report.summary
    assert [s for s in ZooDecomposition.from_json(old).report.sections if "count" in s.title] == []
