"""The headless study: its arms and heads, equal time, resumption, the report."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.data.store import TokenStore
from lmlab.data.tasks import read_tasks
from lmlab.data.windows import evaluation_windows
from lmlab.errors import UserError
from lmlab.lm.calibrated_head import Head, open_with_head
from lmlab.lm.language_model import open_model
from lmlab.numerics.random_effects import Clusters, Interval, two_way_interval
from lmlab.run_folders.journal import read_journal
from lmlab.studies.learning_rates import CHOOSING_SEED
from lmlab.topics.headless import study as study
from lmlab.topics.headless.arms import ARMS, REFERENCE, ROWS
from lmlab.topics.headless.curves import Curve
from lmlab.topics.headless.options import HeadlessArm, HeadlessStudyConfig
from lmlab.topics.headless.report import lead
from lmlab.topics.headless.tables import verdict
from lmlab.topics.registry import read_result, redraw
from lmlab.topics.scoring.difference import difference_per_token
from lmlab.topics.scoring.score import score
from lmlab.topics.scoring.zero_shot import zero_shot
from lmlab.training.loop import train
from tolerances import near

SECONDS = {
    "ce-tied": 0.29, REFERENCE: 0.3, "ce-untied": 0.31, "ce-untied-prior": 0.31, "headless": 0.2,
    "headless-unigram": 0.2, "headless-mixture": 0.2, "mixed": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_folder):
    """A study as small as it can be, on a machine whose headless steps take two thirds."""
    lab = tmp_path_factory.mktemp("lab")
    choices = lab / "choices.jsonl"
    choices.write_text(
        "".join(
            json.dumps(
                {"context": "", "choices": [f"the cat {i}", f"a dog {i} s"], "answer": i % 2}
            )
            + "\n"
            for i in range(8)
        )
    )
    config = HeadlessStudyConfig(
        text=str(text_folder),
        vocabulary=(300,),
        arms=get_args(HeadlessArm),
        model=ModelConfig(layers=1, heads=2, width=16),
        context=16,
        seeds=2,
        tokens=640,
        batch_tokens=64,
        fine_tune=0.3,
        cost_vocabularies=(64, 512),
        tasks=(f"choices={choices}",),
        task_limits=(6,),
        lab=lab,
        out=lab / "study",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlab.topics.headless.costs.seconds_per_step", lambda requests: SECONDS)
        result = study.run_headless(config)
    return config, lab / "study/report.html", result


def test_rows_are_what_scoring_by_hand_gives(finished):
    config, _, result = finished
    (part,) = result.parts
    store = TokenStore(next((config.lab / "stores").iterdir()))
    runs = {(c.arm, c.longer, c.seed): c.run for c in part.curves}
    assert len(runs) == 2 * (len(ARMS) + 1)
    rows = part.by_key
    assert set(rows) == {row.key for row in ROWS}
    by_hand = {}
    for key in (REFERENCE, "headless-raw", "headless", "headless-calibrated", "longer"):
        row = rows[key]
        scores = [
            score(
                open_with_head(
                    config.lab / "runs" / runs[row.row.arm, row.row.longer, seed],
                    row.row.head,
                    store=store,
                    held_out="validation",
                ),
                store,
                split="test",
                context=16,
            )
            for seed in range(2)
        ]
        assert row.nats_per_token == near([s.nats_per_token for s in scores])
        by_hand[key] = np.stack([s.nats_M for s in scores])
    expected = (by_hand["headless"] - by_hand[REFERENCE]).sum() / (2 * part.tokens_scored)
    assert rows["headless"].difference.estimate == near(expected)
    assert rows[REFERENCE].difference is None


def test_repeated_and_new_tokens_by_hand(finished):
    """Token by token, from the models' own logits; repeated: it stands earlier in the window."""
    config, _, result = finished
    (part,) = result.parts
    store = TokenStore(next((config.lab / "stores").iterdir()))
    runs = {(c.arm, c.longer, c.seed): c.run for c in part.curves}
    windows = evaluation_windows(store.split("test"), 16)
    sums: dict[str, list[float]] = {"repeated": [0, 0], "new": [0, 0]}
    for seed in range(2):
        models = [
            open_model(config.lab / "runs" / runs[arm, False, seed]).model
            for arm in ("headless-unigram", REFERENCE)
        ]
        for number in range(len(windows)):
            ids = windows.ids(number).tolist()
            read = torch.tensor([[store.bos_id, *ids[:-1]]])
            with torch.no_grad():
                ours, theirs = (
                    torch.log_softmax(model(read).logits[0].double(), 1)[range(len(ids)), ids]
                    for model in models
                )
            for place, gain in enumerate((theirs - ours).tolist()):
                kind = "repeated" if ids[place] in ids[:place] else "new"
                sums[kind][0] += gain
                sums[kind][1] += 1
    row = part.by_key["headless-unigram"]
    for kind, (nats, tokens) in sums.items():
        difference = {"repeated": row.repeated, "new": row.new}[kind]
        assert difference.estimate == pytest.approx(nats / tokens, abs=1e-5)
    share = sums["repeated"][1] / (sums["repeated"][1] + sums["new"][1])
    assert part.repeated_share == pytest.approx(share)


def test_each_arm_has_its_best_rate(finished, tmp_path, monkeypatch):
    config, _, _ = finished
    rates = (1e-4, 2e-3)
    several = replace(
        config, arms=(REFERENCE, "headless"), learning_rates=rates, out=tmp_path / "study",
        geometry=False, tasks=(), task_limits=(), cost_vocabularies=(),
    )  # fmt: skip
    monkeypatch.setattr("lmlab.topics.headless.costs.seconds_per_step", lambda requests: {
        arm: SECONDS[arm] for arm in requests
    })  # fmt: skip
    trained: list[Any] = []

    def noted(run, **options):
        trained.append(run.config)
        return train(run, **options)

    monkeypatch.setattr("lmlab.studies.learning_rates.train", noted)
    monkeypatch.setattr("lmlab.topics.headless.study.train", noted)
    result = study.run_headless(several)
    assert set(result.parts[0].rates) == {REFERENCE, "headless"}
    for tried in result.parts[0].rates.values():
        ends = dict(tried.validation)
        assert set(ends) == set(rates)
        larger, smaller = ends[2e-3], ends[1e-4]
        assert larger is not None
        assert smaller is not None
        assert larger < smaller  # ten steps: the larger rate has learnt more
        assert tried.best == 2e-3
    # the worse rate was tried by the seed that chooses, never by one that is compared
    worse = {(r.objective, r.seed) for r in trained if r.optimizer.learning_rate == 1e-4}
    assert worse == {("causal", CHOOSING_SEED), ("headless", CHOOSING_SEED)}
    curves = {curve.run for curve in result.parts[0].curves}
    assert not curves & {name for tried in result.parts[0].rates.values() for name in tried.runs}
    assert "the learning rate of 0.0001, 0.002 chosen for each arm" in result.page()


def test_who_leads_when():
    """Seeds that agree make a lead; where they do not there is none."""
    nats = {REFERENCE: [[5.0, 4.0, 3.0], [5.0, 4.0, 3.0]],
            "headless": [[4.9, 3.9, 3.1], [4.8, 4.1, 3.2]]}  # fmt: skip
    curves = [
        Curve(arm, False, seed, "run", (1000, 2000, 3000), (0.0,) * 3, tuple(values), (), ())
        for arm, each in nats.items()
        for seed, values in enumerate(each)
    ]
    assert lead(curves, 500) == (
        "While training, the published headless loss was, in all 2 seeds, ahead at 2 and behind at "
        "6 tokens a parameter (validation text; elsewhere seeds disagree)."
    )


def test_what_stands_beside_the_losses(finished):
    config, _, result = finished
    (part,) = result.parts
    runs = {(c.arm, c.longer, c.seed): c for c in part.curves}
    # zero-shot values are those of the model with the head of its row
    (asked,) = part.tasks
    (task,) = read_tasks(config.tasks, limit=6)
    store = TokenStore(next((config.lab / "stores").iterdir()))
    heads: dict[str, Head] = {"headless": "own", "headless-raw": "raw", REFERENCE: "own"}
    for key, head in heads.items():
        arm = REFERENCE if key == REFERENCE else "headless"
        found = [
            zero_shot(
                open_with_head(config.lab / "runs" / runs[arm, False, seed].run, head,
                               store=store, held_out="validation"),
                task,
            ).metrics["accuracy"].value
            for seed in range(2)
        ]  # fmt: skip
        assert asked.rows[key]["accuracy"].value.estimate == pytest.approx(np.mean(found))
    # H(unigram) + loss - log K, one step in each of its points (ten steps are ten points)
    ids = store.split("train").read(0, store.split("train").tokens)
    share = np.unique(ids, return_counts=True)[1] / len(ids)
    entropy = -(share * np.log(share)).sum()
    curve = runs["headless", False, 1]
    journal = read_journal(config.lab / "runs" / curve.run / "journal.jsonl")
    assert len(curve.equivalent) == len(journal) == 10
    assert list(curve.equivalent_tokens) == [r["tokens"] for r in journal]
    assert curve.equivalent == pytest.approx([entropy + r["loss"] - np.log(64) for r in journal])
    assert runs[REFERENCE, False, 1].equivalent == ()
    # cost and geometry
    assert [cost.vocabulary for cost in result.growth] == [64, 512]
    assert all(
        cost.seconds > 0 and cost.bytes > 0
        for each in result.growth
        for cost in (each.headless, each.cross_entropy)
    )
    assert set(part.geometry) == {REFERENCE, "headless"}


def test_states_that_are_all_alike_have_no_rank(finished):
    _, _, result = finished
    (part,) = result.parts
    geometry = part.geometry["headless"]
    alike = {
        name: replace(
            cloud, centred=replace(cloud.centred, effective_rank=None, normalised_entropy=None)
        )
        for name, cloud in geometry.layers.items()
    }
    both = {**part.geometry, "headless": replace(geometry, layers=alike)}
    changed = replace(result, parts=(replace(part, geometry=both),))
    assert changed.frame(2)["effective rank"].tolist().count("none") == 1
    assert "have effective rank none in the headless model" in changed.page()


def test_arms_differ_in_what_they_are_named_for(finished):
    config, _, result = finished
    runs = {
        (c.arm, c.longer): config.lab / "runs" / c.run
        for c in result.parts[0].curves
        if c.seed == 1
    }
    heads = {key: open_model(path).head for key, path in runs.items()}
    assert heads == {
        ("ce-tied", False): "tied",
        (REFERENCE, False): "tied + fixed log-unigram bias",
        ("ce-untied", False): "untied",
        ("ce-untied-prior", False): "untied + fixed log-unigram bias",
        ("headless-unigram", False): "tied + fixed log-unigram bias",
        ("headless-mixture", False): "tied + fixed log-unigram bias",
        ("headless", False): "tied + fixed log-unigram bias",
        ("headless", True): "tied + fixed log-unigram bias",
        ("mixed", False): "tied + fixed log-unigram bias",
    }
    steps = {key: read_journal(path / "journal.jsonl")[-1]["step"] for key, path in runs.items()}
    assert steps == {key: 15 if key[1] else 10 for key in runs}  # 0.3 / 0.2 = 1.5
    children = [
        record
        for path in (config.lab / "runs").iterdir()
        if "parent" in (record := json.loads(next(path.rglob("lmlab.json")).read_text()))
    ]
    assert len(children) == 2 * 3
    own = {str(runs["headless", longer]) for longer in (False, True)}
    assert own <= {record["parent"] for record in children}
    assert {record["head"] for record in children} == {
        "untied", "untied + fixed log-unigram bias"
    }  # fmt: skip


def test_a_finished_study_trains_and_scores_nothing_again(finished, monkeypatch):
    config, report, result = finished
    before = report.read_bytes()
    monkeypatch.setattr("lmlab.training.loop.Trainer.run", pytest.fail)
    monkeypatch.setattr("lmlab.topics.scoring.kept_scores.score", pytest.fail)
    assert study.run_headless(config) == result == read_result(report.parent)
    assert report.read_bytes() == before
    report.unlink()
    assert redraw(report.parent).read_bytes() == before


def test_the_report_and_its_table(finished):
    _, report, result = finished
    page = report.read_text()
    for said in ("cross-entropy, untied", "headless, prior and fine-tuned, equal time",
                 "takes 0.67 of the time", "seconds of training"):  # fmt: skip
        assert said in page
    frame = result.frame()
    assert list(frame)[:2] == ["model and head", "nats per token"]
    assert len(frame) == len(ROWS)
    assert frame["nats per token"].tolist() == pytest.approx(
        [np.mean(row.nats_per_token) for row in result.parts[0].rows], rel=1e-12
    )
    for nats in frame["nats per token"]:
        assert f'<td class="n">{nats:.4f}</td>' in page
    row = result.parts[0].rows[3]
    worse = Interval(0.1, 0.05, 0.15, 0.02, 5.0, 0.95, 3, 9, 9, "seeds and text", "")

    def said_of(**changes: Any) -> str:
        return verdict(replace(row, difference=replace(worse, **changes)))

    assert said_of().startswith("worse: ")
    assert said_of(seeds=1, basis="text only").startswith(
        "no verdict from one seed: a higher loss for these two models on this text: perplexity +10"
    )
    assert said_of(low=-0.05, high=0.25, standard_error=0.06).startswith(
        "not decided: any difference is below 28"
    )
    assert said_of(estimate=-0.1, low=None, high=None) == "perplexity −9.52 % (no interval)"


def test_settings_that_make_no_study():
    changes: dict[str, Any]
    for changes, said in (
        ({"vocabulary": ()}, "at least one"),
        ({"seeds": 0}, "`seeds`"),
        ({"context": 4096}, "does not fit a batch"),
        ({"fine_tune": 0.0}, "`fine_tune`"),
        ({"model": ModelConfig(tied=True)}, "itself decides on tying"),
    ):
        with pytest.raises(UserError, match=said):
            HeadlessStudyConfig(**changes)


def test_a_difference_is_paired_by_seed_and_window():
    rng = np.random.default_rng(0)
    nats_SN, reference_SN = rng.gamma(9, size=(2, 3, 40))
    tokens_N, clusters_N = np.full(40, 5), np.repeat(np.arange(10), 4)
    made = difference_per_token(nats_SN, reference_SN, tokens_N, Clusters(clusters_N))
    # equal clusters: the plain two-way interval of the means
    values_SC = (nats_SN - reference_SN).reshape(3, 10, 4).sum(2) / 20
    expected = two_way_interval(values_SC)
    assert made.estimate == pytest.approx(expected.estimate)
    assert (made.low, made.high) == pytest.approx((expected.low, expected.high))
    with pytest.raises(UserError, match="one value for each window and seed"):
        difference_per_token(nats_SN[:2], reference_SN, tokens_N, Clusters(clusters_N))


def test_heads_from_the_command_line(finished, tmp_path, capsys):
    config, _, result = finished
    run = next(c.run for c in result.parts[0].curves if c.arm == "headless")
    model, store = str(config.lab / "runs" / run), str(next((config.lab / "stores").iterdir()))
    nats = {}
    for head in ("own", "raw", "calibrated"):
        out = tmp_path / head
        options = ["--model", model, "--store", store, "--head", head, "--out", str(out)]
        assert main(["score", *options, "--split", "test"]) == 0
        nats[head] = json.loads((out / "results.json").read_text())["nats_per_token"]
    assert len(set(nats.values())) == 3
    exported = tmp_path / "exported"
    asked = ["export", model, "--out", str(exported), "--head", "calibrated"]
    assert main(asked) == 2
    assert "give --store" in capsys.readouterr().err
    assert main([*asked, "--store", store]) == 0
    made = score(open_model(exported), TokenStore(config.lab / "stores" / store), split="test")
    assert made.nats_per_token == pytest.approx(nats["calibrated"], abs=1e-4)
    assert main(["export", model, "--out", str(tmp_path / "x"), "--store", store]) == 2
    assert "add --head calibrated" in capsys.readouterr().err
