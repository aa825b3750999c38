"""Recipes compared on tasks: intervals, differences, variance components, page, plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.numerics.power import difference_components
from lmlab.numerics.random_effects import two_way_interval
from lmlab.topics.babylm.comparison import (
    About,
    BabyLMStudy,
    CurvePoint,
    RecipeRuns,
    Units,
    compare_recipes,
)
from lmlab.topics.babylm.options import BabyLMStudyConfig
from lmlab.topics.babylm.units import sets_of_items, units_of_items, units_of_jackknife
from lmlab.topics.planning.options import PlanConfig
from lmlab.topics.planning.plan import plan

RECIPES = ("gpt2", "causal", "masked")


def about(task: str, **options) -> About:
    return About(task, "accuracy", "sets", percent=True, chance=0.5, **options)


def units(values_C) -> Units:
    values = np.asarray(values_C, dtype=float)
    return Units(tuple(map(str, range(len(values)))), values, np.ones(len(values)))


def drawn(seed: int, seeds: int, items: int, *, better: float = 0.0) -> dict[str, list[Units]]:
    rng = np.random.default_rng(seed)
    item_C = rng.normal(0.6, 0.1, items)
    return {
        recipe: [
            units(np.clip(item_C + better * n + rng.normal(0, 0.01) + rng.normal(0, 0.02, items),
                          0, 1))
            for _ in range(seeds)
        ]
        for n, recipe in enumerate(RECIPES)
    }  # fmt: skip


def study(tmp_path: Path, *, better: float = 0.05, seeds: int = 3) -> BabyLMStudy:
    tasks = [(about(name), drawn(n, seeds, 23, better=better)) for n, name in enumerate("ab")]
    compared = compare_recipes(tasks)
    point = compared[0].scores[0].value
    return BabyLMStudy(
        config=BabyLMStudyConfig(
            text="t", data=tmp_path, recipes=RECIPES, seeds=seeds, tokens=4096
        ),
        corpus="speech",
        words=1000,
        tokens=4096,
        passes=2.0,
        recipes=tuple(
            RecipeRuns(r, "m", "causal", "muon", ("x",) * seeds, 10, (1.0,) * seeds)
            for r in RECIPES
        ),
        tasks=compared,
        curves=tuple(CurvePoint(r, "a", w, point) for r in RECIPES for w in (10, 100)),
        missing=("comps: no data",),
    )


def test_a_difference_is_that_of_the_means_and_the_reference_has_none():
    of_recipes = drawn(0, 3, 23, better=0.05)
    (task,) = compare_recipes([(about("a"), of_recipes)])
    assert [score.recipe for score in task.scores] == list(RECIPES)
    assert task.scores[0].difference is None
    means = {name: np.mean([u.values_C for u in seeds]) for name, seeds in of_recipes.items()}
    for score in task.scores:
        assert score.value.estimate == pytest.approx(means[score.recipe])
        assert np.mean(score.by_seed) == pytest.approx(means[score.recipe])
    for score in task.scores[1:]:
        assert score.difference is not None
        assert score.difference.estimate == pytest.approx(means[score.recipe] - means["gpt2"])


def test_p_values_are_those_of_holm_over_the_whole_study(tmp_path):
    both = study(tmp_path).tasks
    alone = [compare_recipes([(t.about, drawn(n, 3, 23, better=0.05))])[0]
             for n, t in enumerate(both)]  # fmt: skip
    together = [s.p for t in both for s in t.scores if s.p is not None]
    each = [s.p for t in alone for s in t.scores if s.p is not None]
    assert len(together) == 4
    assert all(a >= b for a, b in zip(together, each, strict=True))
    assert together != each


def test_components_of_a_difference_are_those_that_it_was_drawn_with():
    rng = np.random.default_rng(1)
    a, e, c = 0.5, 0.4, 0.7  # seed (each side), seed and unit, unit of the difference
    seeds, of_units = 40, 400
    shared_C = rng.normal(0, 5, of_units)

    def side(own_C):
        return shared_C + own_C + rng.normal(0, a, (seeds, 1)) + rng.normal(0, e, (seeds, of_units))

    parts = difference_components(side(rng.normal(0, c, of_units)), side(np.zeros(of_units)))
    assert parts.residual == pytest.approx(2 * e**2, rel=0.05)
    assert parts.section == pytest.approx(c**2, rel=0.25)
    assert parts.seed == pytest.approx(2 * a**2, rel=0.6)
    assert parts.seed_df == 2 * (seeds - 1)


def test_an_interval_of_right_and_wrong_stays_a_share_where_all_are_right():
    (task,) = compare_recipes([(about("a"), {"gpt2": [units(np.ones(23))] * 3})])
    value = task.scores[0].value
    assert value.high == 1
    assert value.low is not None
    assert 0.8 < value.low < 1


def test_the_page_says_who_is_better_and_what_was_not_measured(tmp_path):
    result = study(tmp_path)
    page = result.page()
    assert "causal +" in page
    assert "better" in page
    assert "comps: no data" in page
    assert BabyLMStudy.from_json(result.to_json(), where="here").page() == page
    one = study(tmp_path, seeds=1)
    assert "no verdict from one seed" in one.page()


def test_a_plan_counts_the_seeds_of_both_sides(tmp_path):
    folder = tmp_path / "study"
    study(tmp_path).save(folder)
    with pytest.raises(UserError, match="name the `task`, one of a, b"):
        plan(PlanConfig(study=folder, effect=1.0))
    with pytest.raises(UserError, match="the study has a, b"):
        plan(PlanConfig(study=folder, effect=1.0, task="c"))
    result = plan(PlanConfig(study=folder, effect=1.0, task="a"))
    noise = result.measured.noise
    task = study(tmp_path).tasks[0]
    # the variance of both sides' means over the given items, each side's that of any recipe
    pooled = 2 * np.mean([np.var(score.by_seed, ddof=1) for score in task.scores])
    assert result.measured.seed_df == 6
    assert noise.seed == pytest.approx(100 * np.sqrt(pooled))
    assert noise.mean_of(5, None)[1] == 8
    assert result.measured.unit == "points of accuracy"


def test_one_recipe_seen_alone_has_the_usual_interval():
    seeds = drawn(3, 4, 30)["gpt2"]
    (task,) = compare_recipes([(about("a"), {"gpt2": seeds})])
    plain = two_way_interval(np.stack([u.values_C for u in seeds]))
    assert task.scores[0].value.estimate == pytest.approx(plain.estimate)
    assert task.scores[0].value.standard_error == pytest.approx(plain.standard_error)


@pytest.mark.parametrize(
    ("recipes", "said"),
    [
        (("gpt2", "gpt2"), "each once"),
        (("gpt2", "cousal"), "causal"),
        (("gpt2=missing.toml",), "missing.toml"),
    ],
)
def test_recipes_that_are_none_are_refused(recipes, said, tmp_path):
    with pytest.raises(UserError, match=said):
        BabyLMStudyConfig(text="t", data=tmp_path, recipes=recipes)


def test_a_recipe_of_ones_own_is_options_of_train_and_may_not_say_its_length(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('objective = "masked"\n[model]\narchitecture = "bert"\n')
    config = BabyLMStudyConfig(text="t", data=tmp_path, recipes=("gpt2", f"own={own}"))
    run = config.request("own", 2, tmp_path)
    assert (run.objective, run.model.architecture, run.seed) == ("masked", "bert", 2)
    assert run.model.size == "micro"
    own.write_text("steps = 3\n")
    with pytest.raises(UserError, match="the study decides steps"):
        config.request("own", 0, tmp_path)


def test_units_are_clusters_with_the_weight_of_their_items_and_items_where_they_are_few():
    values, weights = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0], [0.5, 0.5, 1, 1, 1, 2]
    five = units_of_items(values, ["a", "a", "b", "c", "d", "e"], weights)
    assert five.names == ("a", "b", "c", "d", "e")
    assert five.score == pytest.approx((0.5 + 1 + 1 + 0 + 2) / 6)
    two = units_of_items(values, ["a", "a", "a", "a", "b", "b"], weights)
    assert len(two.names) == 6
    assert sets_of_items(["a", "a", "a", "a", "b", "b"]) is None
    assert two.score == pytest.approx(five.score)
    assert units_of_items(values, None, np.ones(6)).score == pytest.approx(4 / 6)


def test_pseudo_values_of_a_mean_are_its_values():
    values = np.random.default_rng(0).normal(size=9)
    without = [np.delete(values, i).mean() for i in range(9)]
    pseudo = units_of_jackknife(values.mean(), without, list("abcdefghi"))
    assert pseudo.values_C == pytest.approx(values)
