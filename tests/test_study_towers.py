"""The towers study: its arms and nulls, resumption, the claim, the report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lmlab.cli import main
from lmlab.config import digest, to_mapping
from lmlab.config.model import ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.numerics.preference import exact_permutation
from lmlab.numerics.verdicts import Evidence
from lmlab.pages.page import Passage, Section, render_page
from lmlab.pages.wording import capital
from lmlab.studies.options import study_folder
from lmlab.studies.run_requests import placed
from lmlab.topics.counting.baseline import ngram_baselines
from lmlab.topics.counting.words import counting_words
from lmlab.topics.registry import read_result, redraw
from lmlab.topics.scoring.score import score
from lmlab.topics.towers import study as study
from lmlab.topics.towers.arms import arms, is_scored, request, single, weights
from lmlab.topics.towers.comparison import TowersStudy
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.towers.preference import Vocabulary, preference, strongest_types
from lmlab.topics.towers.preference_sums import preference_sums
from lmlab.topics.towers.report import headline, verdict

TINY = {
    "model": ModelConfig(layers=1, heads=1, width=16),
    "vocabulary": 300,
    "context": 16,
    "tokens": 640,
    "probe_tokens": 320,
    "batch_tokens": 64,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_store):
    lab = tmp_path_factory.mktemp("lab")
    config = TowersStudyConfig(
        text=(str(text_store.path),), seeds=2, other_seeds=1, lab=lab, out=lab / "study", **TINY
    )
    return config, study.run_towers(config)


def test_the_arms_are_what_they_are_named_for(finished):
    config, result = finished
    (part,) = result.parts
    assert {key: len(arm.runs) for key, arm in part.arms.items()} == {
        "cooperative": 2, "separate": 2, "independent": 2, "split": 1, "minimum": 1, "single": 0,
    }  # fmt: skip
    assert len(part.noise.runs) == 2
    assert len(part.single_nats_per_token) == 1
    records = {
        path: json.loads(next(path.rglob("lmlab.json")).read_text())
        for path in (config.lab / "runs").iterdir()
    }
    names = [record["objective"]["name"] for record in records.values()]
    assert sorted(set(names)) == ["probe", "towers"]
    assert names.count("towers") == 8 + 1
    assert len(part.arms["minimum"].own_heads) == 1
    assert len(part.arms["independent"].own_heads) == 2
    assert len(part.arms["separate"].own_heads) == 2
    assert part.arms["cooperative"].own_heads == ()
    assert names.count("probe") == 8 + 2  # cooperative towers are probed twice
    wide = part.arms["cooperative"].weights
    assert part.arms["single"].weights == pytest.approx(wide, rel=0.1)
    assert part.arms["independent"].weights > wide
    assert part.arms["separate"].weights == wide


def test_a_run_of_the_result_is_what_the_analysis_finds(finished, text_store):
    config, result = finished
    (part,) = result.parts
    asked = request(config, text_store, arms(config)["cooperative"], 0)
    towers = placed(asked, text_store, config.lab).path
    child = next(
        path
        for path in (config.lab / "runs").iterdir()
        if json.loads(next(path.rglob("lmlab.json")).read_text()).get("parent") == str(towers)
        and json.loads(next(path.rglob("lmlab.json")).read_text())["training"]["seed"] == 1000
    )
    sums = preference_sums(open_model(child), text_store, context=16)
    found = preference(sums, Vocabulary.of(text_store))
    assert part.arms["cooperative"].runs[0] == found
    assert part.first.overall == found
    assert part.first.strongest == strongest_types(sums, Vocabulary.of(text_store))
    for null in ("separate", "independent"):
        values = [
            np.array([run.adjusted_between_variance for run in part.arms[key].runs])
            for key in ("cooperative", null)
        ]
        assert part.tests[null].variance.p == exact_permutation(*values)
        assert part.tests[null].variance.null == pytest.approx(values[1].mean())
        assert part.tests[null].least_p == pytest.approx(1 / 6)


def test_a_finished_study_trains_and_measures_nothing_again(finished, monkeypatch):
    config, result = finished
    before = (config.out / "report.html").read_bytes()
    monkeypatch.setattr("lmlab.training.loop.Trainer.run", pytest.fail)
    monkeypatch.setattr("lmlab.topics.towers.arms.preference_sums", pytest.fail)
    monkeypatch.setattr("lmlab.topics.scoring.kept_scores.score", pytest.fail)
    assert study.run_towers(config) == result
    assert (config.out / "report.html").read_bytes() == before


def test_the_report_says_what_was_found_and_is_drawn_again(finished):
    config, result = finished
    report = config.out / "report.html"
    page = report.read_text()
    assert "Cannot be told from so few runs" in page
    for words in ("separate losses, else the same (N3)", "independent towers (N0)",
                  "one tower, probed twice (N2)", "What is preferred",
                  'class="passage"', "hard minimum"):  # fmt: skip
        assert words in page
    assert "nan" not in page.split("</style>")[1].replace("dominan", "").replace("finan", "")
    report.unlink()
    assert redraw(config.out) == report
    assert report.read_text() == page == result.page()
    assert read_result(config.out) == result
    said = verdict(result.parts[0])
    assert result.frame().to_dict("records") == [{"corpus": "text", "verdict": said}]
    counting = result.parts[0].counting
    assert headline(result) == f"{counting_words(counting.fit, counting.worse)} {capital(said)}."
    assert result.summary().startswith("Against counting (")
    old = result.to_json()
    old["parts"][0].pop("counting")
    assert headline(TowersStudy.from_json(old)) == f"{capital(said)}."


def test_joint_predictions_stand_against_counts_of_their_text(finished, text_store):
    """By hand: the models' nats of the same windows less those of the n-grams, by token."""
    config, result = finished
    counting = result.parts[0].counting
    baseline = ngram_baselines(
        text_store, split="validation", context=16, smoothings=("modified Kneser-Ney", "Kneser-Ney")
    ).best  # fmt: skip
    counted = baseline.nats_forward_M.sum() / baseline.tokens_M.sum()
    compared = ("cooperative", "separate", "independent", "single")
    assert list(counting.above) == [arms(config)[key].label for key in compared]
    for key in compared:
        arm = arms(config)[key]
        runs = [
            placed(request(config, text_store, arm, seed), text_store, config.lab).path
            for seed in range(arm.seeds)
        ]
        each = [score(open_model(run), text_store, context=16).nats_per_token for run in runs]
        above = counting.above[arm.label]
        assert above.interval.estimate == pytest.approx(np.mean(each) - counted, abs=1e-5)
        assert above.interval.seeds == arm.seeds
        assert above.is_worse  # twenty steps learn less than counts of the same text


def test_towers_that_read_both_ways_are_not_compared(finished):
    result = finished[1]
    config = replace(result.config, model=ModelConfig("bert", layers=1, heads=1, width=16))
    masked = replace(
        result, config=config, parts=tuple(replace(p, counting=None) for p in result.parts)
    )
    (section,) = (each for each in masked.report.sections if each.title == "Against counting")
    assert "have no joint likelihood and are not compared" in section.paragraphs[0]
    assert section.tables == []
    assert "one backward" not in masked.page()
    lstm = ModelConfig("lstm", layers=1, width=16)
    cloze = replace(masked, config=replace(config, model=lstm, cloze=True, split=False))
    assert "1 layers of 16 (one reads forward, one backward" in cloze.page()
    assert not is_scored(config, "cooperative")
    assert is_scored(config, "single")  # as before: its loss stands in a table


def test_a_study_without_independent_towers_decides_the_same(finished):
    """Independent towers stand beside the claim, so without them verdict and page need no other."""
    whole, result = finished
    config = replace(whole, independent=False, split=False, out=whole.lab / "without")
    alone = study.run_towers(config)  # the runs are there
    (part,), (full,) = alone.parts, result.parts
    assert set(part.arms) == {"cooperative", "separate", "minimum", "single"}
    assert part.tests == {"separate": full.tests["separate"]}
    assert verdict(part) == verdict(full).split("; beside them")[0]
    page = alone.page()
    for words in ("N0", "N1", "independent towers (", "separate losses, independent", "other five"):
        assert words not in page
    assert "other two (of router gain and agreement)" in page
    assert "the joint model of separate losses and the hard minimum is the mixture" in page
    whole_words = "model of separate losses, independent towers and the hard minimum is the mixture"
    assert whole_words in result.page()
    assert "N0: towers that never met" in result.page()
    several = replace(alone, parts=(part, replace(part, corpus="another")))
    assert [str(x) for x in several.frame(1)["adjusted p"]] == ["–", "–"]


def test_folders_are_called_as_before_independent_towers_could_be_left_out():
    config = TowersStudyConfig()
    decided = {
        name: value
        for name, value in to_mapping(config).items()
        if name not in ("lab", "out", "learning_rates", "independent")
    }
    assert study_folder("towers", config).name == f"towers-{digest(decided)[:8]}"
    assert study_folder("towers", replace(config, independent=False)) != study_folder(
        "towers", config
    )


def test_losses_and_weights_are_numbers_in_a_data_frame(finished):
    result = finished[1]
    (part,) = result.parts
    losses = result.frame(2).set_index("towers")
    runs = part.arms["separate"].runs
    row = losses.loc["separate losses, else the same (N3)"]
    assert row["weights"] == part.arms["separate"].weights
    assert row["joint"] == np.mean([run.nats[2].estimate for run in runs])
    towers = [[nats.estimate for nats in run.nats[:2]] for run in runs]
    assert [row["better tower"], row["worse tower"]] == [
        np.mean([each(pair) for pair in towers]) for each in (min, max)
    ]


def against(part, null, **measures):
    """The part with other tests against an arm."""
    tests = {**part.tests, null: replace(part.tests[null], **measures)}
    return replace(part, tests=tests)


def test_the_verdict_follows_the_exact_permutation(finished):
    (part,) = finished[1].parts
    # the verdict does not rest on N0
    part = against(part, "independent", variance=replace(part.tests["independent"].variance, p=1.0))
    variance, spread = part.tests["separate"].variance, part.tests["separate"].spread
    difference = Evidence(0.01, -0.02, 0.04, 0.0123, 6.0, seeds=4, documents=9)

    def said(p, documents=9):
        of_spread = replace(spread, difference=replace(difference, documents=documents))
        decided = replace(variance, p=p)
        return verdict(
            against(part, "separate", least_p=1 / 70, variance=decided, spread=of_spread)
        )

    undecided = "not decided, any difference is below 0.040 nats of spread with 95 % over runs"
    assert said(1 / 70).startswith("yes: types")
    assert said(0.05).startswith("yes: types")
    assert said(0.06).startswith(undecided)
    assert said(1.0).startswith(undecided)
    assert said(0.01, documents=1).startswith("yes on these documents: types")


def test_several_corpora_stand_side_by_side(finished):
    result = finished[1]
    (part,) = result.parts
    several = replace(result, parts=(part, replace(part, corpus="another")))
    page = several.page()
    assert "Corpora side by side" in page
    assert page.count("Preference and its nulls: ") == 2 * 2  # in the contents, too
    assert list(several.frame(1)["corpus"]) == [part.corpus, "another"]
    assert several.frame(1)["spread, cooperative"][1] == part.tests["separate"].spread.cooperative


@pytest.mark.parametrize(
    ("architecture", "reading"), [("bert", "masked"), ("lstm", "cloze"), ("llama", "causal")]
)
def test_requests_of_other_ways_of_reading(text_store, tmp_path, architecture, reading):
    objective = {"masked": "towers-masked", "cloze": "towers-cloze", "causal": "towers"}[reading]
    heads = None if architecture == "lstm" else 1
    config = TowersStudyConfig(
        lab=tmp_path, cloze=architecture == "lstm",
        **{**TINY, "model": ModelConfig(architecture, layers=1, heads=heads, width=16)},
    )  # fmt: skip
    made = {key: arm for key, arm in arms(config).items() if arm.towers}
    assert ("split" in made) == (architecture != "lstm")
    for arm in made.values():
        asked = request(config, text_store, arm, 0)
        assert asked.objective == objective
        assert weights(asked, text_store) > 0
    if reading != "cloze":
        wanted = weights(request(config, text_store, made["cooperative"], 0), text_store)
        one = single(config, text_store, 0)
        assert weights(one, text_store) == pytest.approx(wanted, rel=0.15)
        assert one.towers == TowersConfig("concat", split=True)
        assert one.objective == objective


def test_what_cannot_be_studied_is_said(tmp_path, capsys, text_folder, monkeypatch):
    few = TowersStudyConfig(text=(str(text_folder),), lab=tmp_path, **TINY)
    monkeypatch.setattr(study, "train", pytest.fail)
    with pytest.raises(UserError, match="has 3 clusters of text, and at least 5"):
        study.run_towers(few)
    with pytest.raises(UserError, match="must be at least 2"):
        TowersStudyConfig(seeds=1)
    with pytest.raises(UserError, match=r"is for `model\.architecture` lstm"):
        TowersStudyConfig(cloze=True)
    with pytest.raises(UserError, match="towers are tied as it is"):
        TowersStudyConfig(model=ModelConfig(tied=True))
    with pytest.raises(UserError, match="does not fit a batch"):
        TowersStudyConfig(context=128, batch_tokens=64)
    assert TowersStudyConfig().fusion == TowersConfig().fusion
    assert main(["study", "towers", "--text", str(tmp_path / "none")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_a_passage_is_escaped_and_has_its_levels():
    made = Passage("f", [("<b>", 1.0), (" x", -0.25), ("y", 0.0), ("z", -1.0)], "from here")
    page = render_page("t", "s", [Section("a", passages=[made])])
    assert '<span class="a5">&lt;b&gt;</span><span class="b1"> x</span><span>y</span>' in page
    assert '<span class="b5">z</span></div>' in page
    assert ".b5{background:color-mix(" in page
    with pytest.raises(UserError, match="no strength from -1 to 1"):
        render_page("t", "s", [Section("a", passages=[Passage("f", [("x", 1.5)])])])
