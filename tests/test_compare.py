"""Comparing models: differences against scores and brute force, families, and what may be said.

`python tests/test_compare.py [DATA_SETS]` prints the coverage and the family-wise error that stand
in docs/experiments.md.

Legend: K kinds, S runs, C clusters.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import lmlab
from lmlab.cli import main
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.numerics.random_effects import two_way_difference, two_way_interval
from lmlab.topics.comparing.of_tasks import rank_items
from lmlab.topics.comparing.options import parse_kinds
from lmlab.topics.comparing.ranking import design_words, ranked

TINY = {"layers": 1, "heads": 1, "width": 16, "context": 16, "batch": 4, "steps": 6,
        "device": "cpu", "threads": 1}  # fmt: skip
SEED_NOISE = ((0.0, 0.0), (0.3, 0.0), (1.0, 0.0), (3.0, 0.0), (0.3, 1.0), (1.0, 1.0))
"""Standard deviations of seeds and of what is of one seed and one text, that of the differences of
texts being 1."""


@pytest.fixture(scope="module")
def lab(text_store, tmp_path_factory):
    """Tiny runs by name: two kinds of three seeds, and a masked one."""
    out = tmp_path_factory.mktemp("compare")
    kinds = {"forward": {}, "backward": {"order": "backward"}}
    runs = {
        f"{name}{seed}": lmlab.train(
            text_store, **TINY, **more, seed=seed, out=out / name / str(seed)
        )
        for name, more in kinds.items()
        for seed in range(3)
    }
    runs["masked"] = lmlab.train(
        text_store, **TINY, objective="masked", architecture="bert", out=out / "masked"
    )
    runs["headless"] = lmlab.train(
        text_store, **TINY, objective="headless", tied=True, out=out / "headless"
    )
    return runs


def simulated(rng, kinds, runs, clusters, *, seed_noise, interaction):
    """Values (K, S, C) of kinds that are equal: what a kind has of each text is as large as to give
    differences of two kinds a standard deviation of 1 over texts."""
    return (
        seed_noise * rng.normal(size=(kinds, runs, 1))
        + rng.normal(size=(kinds, 1, clusters)) / 2**0.5
        + interaction * rng.normal(size=(kinds, runs, clusters))
    )


def coverage(kinds, runs, clusters, *, seed_noise, interaction, data_sets, second_runs=None):
    """Share of data sets whose interval of the first pair holds the true difference, 0; and of
    those in which any pair of equal kinds is told apart."""
    rng = np.random.default_rng([kinds, runs, clusters, int(100 * seed_noise), int(interaction)])
    held = false = 0
    for _ in range(data_sets):
        v_KSC = simulated(
            rng, kinds, runs, clusters, seed_noise=seed_noise, interaction=interaction
        )
        values = {str(k): v_SC for k, v_SC in enumerate(v_KSC)}
        if second_runs is not None:
            values["1"] = values["1"][:second_runs]
        ranking = ranked(values, "nats", lower_is_better=True, documents_C=np.arange(clusters))
        first = next(p.lead for p in ranking.pairs if {p.better, p.worse} == {"0", "1"})
        assert first.bounds is not None
        held += first.bounds[0] <= 0 <= first.bounds[1]
        false += any(pair.is_decided for pair in ranking.pairs)
    return held / data_sets, false / data_sets


def test_the_difference_of_two_kinds_is_welchs_test_where_all_texts_are_alike():
    rng = np.random.default_rng(0)
    a_S, b_R = rng.normal(1, 1, 5), rng.normal(0, 3, 4)
    spread = [np.repeat(runs[:, None], 9, axis=1) for runs in (a_S, b_R)]
    found = two_way_difference(*spread)
    theirs = stats.ttest_ind(a_S, b_R, equal_var=False).confidence_interval(0.95)
    assert found.bounds == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert (found.seeds, found.basis) == (4, "seeds and text")


def test_one_model_of_each_kind_is_the_paired_t_test_over_texts():
    rng = np.random.default_rng(1)
    a_C, b_C = rng.normal(size=(2, 12))
    found = two_way_difference([a_C], [b_C])
    theirs = stats.ttest_rel(a_C, b_C).confidence_interval(0.95)
    assert found.bounds == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert found.basis == "text only"
    # several runs of one of both change nothing of that: the other has one
    several = two_way_difference([a_C, a_C + 1], [b_C])
    assert several.basis == "text only"
    assert several.estimate == pytest.approx(found.estimate + 0.5)


def test_the_variance_of_a_difference_is_unbiased():
    rng = np.random.default_rng(2)
    weights = np.exp(rng.normal(size=10))
    p = weights / weights.sum()
    squares = []
    for _ in range(3000):
        a_SC = rng.normal(size=(6, 1)) + rng.normal(size=10) + rng.normal(size=(6, 10))
        b_SC = 2 * rng.normal(size=(4, 1)) + 0.5 * rng.normal(size=(4, 10))
        error = two_way_difference(a_SC, b_SC, weights_C=weights).standard_error
        assert error is not None
        squares.append(error**2)
    truth = 1 / 6 + 4 / 4 + p @ p * (1 + 1 / 6 + 0.25 / 4)
    assert np.mean(squares) == pytest.approx(truth, rel=0.04)


def test_a_group_compared_with_nothing_is_its_own_mean():
    rng = np.random.default_rng(3)
    v_SC = rng.normal(size=(4, 8)) + rng.normal(size=(4, 1))
    nothing = np.zeros((2, 8))
    # a second group without any variance leaves the first one's
    with_it, alone = two_way_difference(v_SC, nothing), two_way_interval(v_SC)
    assert with_it.standard_error == pytest.approx(alone.standard_error)
    assert with_it.degrees_of_freedom is not None
    assert alone.degrees_of_freedom is not None
    assert with_it.degrees_of_freedom <= alone.degrees_of_freedom


@pytest.mark.parametrize(
    ("runs", "seed_noise", "interaction"), [(3, 0.3, 0.0), (3, 1.0, 0.0), (5, 0.3, 1.0)]
)
def test_equal_kinds_are_seldom_told_apart(runs, seed_noise, interaction):
    held, false = coverage(
        3, runs, 5, seed_noise=seed_noise, interaction=interaction, data_sets=300
    )
    assert held >= 0.93
    assert false <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5


def test_one_run_a_kind_does_not_cover_other_seeds():
    """What was wrong: two seeds of one model differed by five times the arrow of one pair, whose
    interval over text alone called a direction easier."""
    held, _ = coverage(2, 1, 10, seed_noise=1.0, interaction=0.0, data_sets=300)
    assert held < 0.6
    ranking = ranked(
        {"a": np.zeros((1, 9)), "b": np.ones((1, 9)) + np.arange(9) / 100},
        "nats per token", lower_is_better=True, documents_C=np.arange(9),
    )  # fmt: skip
    assert ranking.pairs[0].verdict == (
        "no verdict from one seed: a is ahead of b for these two models on this text"
    )
    assert not ranking.is_general
    of_more = ranked(
        {"a": np.zeros((3, 9)), "b": np.ones((1, 9)) + np.arange(9) / 100},
        "nats per token", lower_is_better=True, documents_C=np.arange(9),
    )  # fmt: skip
    assert of_more.pairs[0].verdict == (
        "no verdict from one seed: a is ahead of b for 3 runs of a and 1 of b on this text"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [2, 3, 5])
@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize("clusters", [5, 10, 30])
def test_coverage_and_family_wise_error(kinds, runs, clusters):
    """At least 93 %, and at most the level within the error of 1,000 simulations (3 standard
    errors, for there are 108 cells)."""
    for seed_noise, interaction in SEED_NOISE:
        held, false = coverage(
            kinds, runs, clusters, seed_noise=seed_noise, interaction=interaction, data_sets=1000
        )
        assert held >= 0.93
        assert false <= 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5


def test_places_are_what_decided_pairs_leave_open():
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 0.01, (3, 4, 12))
    values = {"low": noise[0], "near": noise[1] + 0.003, "far": noise[2] + 1}
    ranking = ranked(values, "nats", lower_is_better=True, documents_C=np.arange(12))
    assert ranking.names == ("low", "near", "far")
    assert ranking.places == ((1, 2), (1, 2), (3, 3))
    upside_down = ranked(values, "share", lower_is_better=False, documents_C=np.arange(12))
    assert upside_down.places == ((1, 1), (2, 3), (2, 3))
    for one, other in zip(ranking.pairs, sorted(ranking.pairs, key=str), strict=True):
        assert one.adjusted.level == pytest.approx(1 - 0.05 / 3)
        assert other.adjusted.bounds is not None


def test_bits_per_byte_of_a_sample_are_those_of_its_score(lab, text_store):
    run = lab["forward0"]
    text = lmlab.compare((run, lab["backward0"]), text_store, windows=5).text
    assert text is not None
    assert not text.whole
    score = lmlab.score(run, text_store, windows=5, context=text.context)
    assert score.bits_per_byte is not None
    by_name = {kind.name: kind.bits_per_byte for kind in text.kinds}
    assert by_name[str(run.path)] == pytest.approx(score.bits_per_byte)


def test_a_score_of_files_is_that_of_their_split(lab, text_store, tmp_path):
    split = text_store.split("validation")
    for number, text in enumerate(split.texts()):
        (tmp_path / f"{number:03d}.txt").write_text(text, "utf-8")
    of_files = lmlab.score(lab["forward0"], text=tmp_path)
    of_split = lmlab.score(lab["forward0"], text_store)
    assert of_files.nats_per_token == pytest.approx(of_split.nats_per_token, abs=1e-9)
    assert of_files.interval.bounds == pytest.approx(of_split.interval.bounds, abs=1e-9)
    assert of_files.bits_per_byte == pytest.approx(of_split.bits_per_byte, abs=1e-9)
    assert (of_files.store, of_files.split) == (str(tmp_path), "text")
    for asked in ({}, {"store": text_store, "text": tmp_path}):
        with pytest.raises(UserError, match="`text`"):
            lmlab.score(lab["forward0"], **asked)
    with pytest.raises(UserError, match="calibrated"):
        lmlab.score(lab["forward0"], text=tmp_path, head="calibrated")


def test_a_comparison_is_the_difference_of_two_scores(lab, text_store):
    runs = lab["forward0"], lab["backward0"]
    result = lmlab.compare(runs, text_store)
    scores = [lmlab.score(run, text_store) for run in runs]
    text = result.text
    assert text is not None
    (pair,) = text.ranking.pairs
    worse, better = sorted(scores, key=lambda s: -s.nats_per_token)
    expected = worse.clusters.ratio(worse.nats_M - better.nats_M, worse.tokens_M)
    assert pair.lead.estimate == pytest.approx(worse.nats_per_token - better.nats_per_token)
    assert pair.lead.bounds == pytest.approx(expected.bounds, rel=1e-6)
    assert [kind.bits_per_byte for kind in text.kinds] == pytest.approx(
        [score.bits_per_byte for score in scores]
    )
    (divided,) = text.divided
    for by in ("document", "class", "frequency", "position"):
        parts = divided.by(by)
        assert sum(part.contribution for part in parts) == pytest.approx(pair.lead.estimate)
        assert sum(part.size for part in parts) == text.tokens
        for part in parts:
            whole = part.difference.estimate * part.size / text.tokens
            assert part.contribution == pytest.approx(whole)


def test_tokens_of_a_backward_model_stand_where_they_are_in_the_text(lab, text_store):
    """Against the model's own logits of each reversed window."""
    forward, backward = (open_model(lab[name].path) for name in ("forward0", "backward0"))
    result = lmlab.compare([forward, backward], text_store).text
    assert result is not None
    windows = forward.windows(text_store, "validation")
    nats = {}
    for lm in (forward, backward):
        of_first = []
        for row in range(len(windows)):
            ids = windows.ids(row)[:: -1 if lm is backward else 1].copy()
            inputs = torch.tensor([[lm.tokenizer.bos_id, *ids[:-1]]])
            with torch.no_grad():
                log_p = lm.model(inputs).logits[0].double().log_softmax(-1)
            nats_n = -log_p[torch.arange(len(ids)), torch.tensor(ids)].numpy()
            of_first.append(nats_n[-1 if lm is backward else 0])
        nats[lm.name] = np.mean(of_first)
    (divided,) = result.divided
    first = divided.by("position")[0]
    assert first.size == len(windows)
    expected = nats[divided.worse] - nats[divided.better]
    assert first.difference.estimate == pytest.approx(expected, abs=1e-5)


def test_several_runs_a_kind_give_an_interval_over_seeds_and_a_verdict(lab, text_folder, tmp_path):
    kinds = {k: [lab[f"{k}{seed}"] for seed in range(3)] for k in ("forward", "backward")}
    compared = lmlab.compare(kinds, text=text_folder)
    result = compared.text
    assert result is not None
    (pair,) = result.ranking.pairs
    assert (pair.lead.seeds, pair.lead.basis) == (3, "seeds and text")
    assert [len(runs) for runs in result.ranking.by_run] == [3, 3]
    assert "no verdict" not in pair.verdict
    assert result.documents == 60
    assert "weak design" not in compared.summary()


def test_models_of_several_tokenizers_are_compared_in_bits_per_byte(lab, text_store, tmp_path):
    other = lmlab.prepare(
        [str(path) for path in _files(text_store, tmp_path)], tmp_path / "bytes",
        kind="bytes", validation=0.2, test=0.1,
    )  # fmt: skip
    bytes_run = lmlab.train(other, **TINY, out=tmp_path / "run")
    result = lmlab.compare([lab["forward0"], bytes_run], text_store)
    text = result.text
    assert text is not None
    assert (text.tokenizers, text.ranking.measure) == (2, "bits per byte")
    own = lmlab.score(lab["forward0"], text_store)
    by_name = dict(zip(text.ranking.names, text.ranking.values, strict=True))
    assert by_name[str(lab["forward0"].path)].estimate == pytest.approx(own.bits_per_byte)
    (divided,) = text.divided
    assert {part.by for part in divided.parts} == {"document"}
    assert sum(p.contribution for p in divided.parts) == pytest.approx(
        text.ranking.pairs[0].lead.estimate
    )
    with pytest.raises(UserError, match="different tokenizers"):
        lmlab.compare([lab["forward0"], bytes_run], text_store, windows=5)


def _files(store, folder):
    """The training and validation documents of a store as files."""
    for split in ("train", "validation"):
        part = store.split(split)
        for n, (start, tokens, _) in enumerate(part.documents_M3.tolist()):
            path = folder / f"{split}{n}.txt"
            path.write_text(store.tokenizer.decode(part.read(start, start + tokens)), "utf-8")
            yield path


def test_masked_and_headless_models_are_named_for_what_they_are(lab, text_store):
    runs = [lab[name] for name in ("forward0", "masked", "headless")]
    result = lmlab.compare({"gpt": runs[0], "bert": runs[1], "headless": runs[2]}, text_store)
    assert result.text is not None
    reads = {kind.name: kind.reading for kind in result.text.kinds}
    assert reads == {"gpt": "forward", "bert": "masked, pseudo-likelihood", "headless": "forward"}
    assert "Bert: pseudo-likelihood" in result.summary()
    page = result.page()
    assert "place" in page
    assert "<script" not in page
    assert result.text.ranking.measure == "nats per token"
    assert len(result.text.ranking.pairs) == 3
    assert len(result.text.divided) == 2


def test_weak_designs_are_named(lab, text_folder):
    two = {k: [lab[f"{k}{seed}"] for seed in range(2)] for k in ("forward", "backward")}
    few = sorted(text_folder.iterdir())[:3]
    said = lmlab.compare(two, text=[str(path) for path in few]).summary()
    assert "A weak design: 2 runs a kind" in said
    assert "3 documents: nothing is said of other texts" in said
    one = lmlab.compare([lab["forward0"], lab["forward1"]], text=text_folder).summary()
    assert "A weak design: one run of a kind: nothing is said of other seeds" in one
    assert "better than" not in one
    assert design_words(3, 5) == ""


def test_an_arrow_of_one_pair_says_nothing_of_directions(lab, text_store, tmp_path):
    """What was wrong: `lmlab arrow A B` called *forward is easier* from one pair."""
    pair = lab["forward0"], lab["backward0"]
    result = lmlab.arrow(*pair, text_store, split="train")
    for relative in (0.05, -0.05):  # as if the interval were on either side of zero
        arrow = replace(
            result.arrow, relative=relative, interval=(relative - 0.01, relative + 0.01),
            standard_error=0.005, degrees_of_freedom=20.0,
        )  # fmt: skip
        clear = replace(result, comparison=replace(result.comparison, arrow=arrow))
        for said in (clear.summary(), clear.page(), json.dumps(clear.to_json())):
            assert "no verdict from one seed" in said.lower()
            assert "is easier" not in said


def test_what_is_no_comparison(lab, text_store, text_folder):
    run = lab["forward0"]
    compared: Any
    for compared, options, said in (
        ([run], {"store": text_store}, "at least two"),
        ([run, run], {"store": text_store}, "twice"),
        ([run, lab["forward1"]], {}, "to compare models on"),
        ([run, lab["forward1"]], {"store": text_store, "text": text_folder}, "give one of them"),
        ({"a": [run, lab["backward0"]], "b": lab["masked"]}, {"store": text_store}, "no kind"),
        ([run, lab["masked"]], {"store": text_store, "context": 999}, "at most"),
    ):
        with pytest.raises(UserError, match=said):
            lmlab.compare(compared, **options)
    assert parse_kinds(["a=x,y", "gpt2"]) == {"a": ("x", "y"), "gpt2": ("gpt2",)}
    with pytest.raises(UserError, match="NAME=MODEL"):
        parse_kinds(["a=x,", "b"])


def test_runs_that_differ_in_more_than_their_seed_are_said_to(lab, text_store):
    kinds = {"mixed": [lab["forward0"], lab["headless"]], "other": lab["forward1"]}
    with_note = lmlab.compare(kinds, text_store)
    assert "differ in more than their seed" in with_note.summary()


def test_two_models_on_items_are_mcnemars_test_and_the_paired_interval():
    rng = np.random.default_rng(5)
    a_N, b_N = (rng.random((2, 80)) < [[0.8], [0.5]]).astype(float)
    ranking = rank_items({"a": a_N[None], "b": b_N[None]}, "accuracy")
    (pair,) = ranking.pairs
    only_a, only_b = int((a_N > b_N).sum()), int((b_N > a_N).sum())
    assert pair.discordant is not None
    assert (pair.discordant.better, pair.discordant.worse) == (only_a, only_b)
    # the exact test by hand: twice the tail of fair coins
    n, k = only_a + only_b, min(only_a, only_b)
    tail = sum(stats.binom.pmf(j, n, 0.5) for j in range(k + 1))
    assert pair.discordant.p == pytest.approx(min(1.0, 2 * tail))
    theirs = stats.ttest_rel(a_N, b_N).confidence_interval(0.95)
    assert pair.lead.bounds == pytest.approx((theirs.low, theirs.high))
    # items of a set are no independent answers
    sets = [f"set {n // 8}" for n in range(80)]
    of_sets = rank_items({"a": a_N[None], "b": b_N[None]}, "accuracy", sets=sets)
    assert of_sets.pairs[0].discordant is None
    by_set = [v.reshape(10, 8).mean(1) for v in (a_N, b_N)]
    theirs = stats.ttest_rel(*by_set).confidence_interval(0.95)
    assert of_sets.pairs[0].lead.bounds == pytest.approx((theirs.low, theirs.high))


def test_classifiers_are_compared_on_the_texts_of_their_task(lab, tmp_path):
    """Against the predictions that the fine-tuning itself reports."""
    rows = [{"text": f"{label} token {n}", "label": label} for n in range(40) for label in "ab"]
    file = tmp_path / "letters.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    models = [lab["forward0"], lab["headless"]]
    tuned = lmlab.finetune(
        models, f"jsonl={file}", seeds=1, epochs=1, length=8, lab=tmp_path / "lab", device="cpu"
    )
    (task,) = tuned.tasks
    runs = {
        name: [next((tmp_path / "lab").rglob(run)) for run in model.runs]
        for name, model in zip(("causal", "headless"), task.models, strict=True)
    }
    result = lmlab.compare(runs)
    (on_task,) = result.tasks
    (ranking,) = on_task.rankings
    shares = dict(zip(ranking.names, ranking.by_run, strict=True))
    for name, model in zip(runs, task.models, strict=True):
        assert shares[name] == pytest.approx(model.by_seed["accuracy"])
    assert on_task.items == task.reported_texts
    assert "A weak design: one run" in result.summary()
    with pytest.raises(UserError, match="their own task"):
        lmlab.compare(runs, text=tmp_path)


def test_a_command_compares_on_text_and_tasks(lab, text_folder, tmp_path, capsys):
    items = [{"context": "", "choices": ["a token", "token a"], "answer": n % 2} for n in range(9)]
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, items)))
    out = tmp_path / "out"
    forward, backward = (
        ",".join(str(lab[f"{k}{seed}"].path) for seed in range(3)) for k in ("forward", "backward")
    )
    status = main(
        ["compare", f"f={forward}", f"b={backward}", "--text", str(text_folder),
         "--tasks", f"choices={file}", "--device", "cpu", "--out", str(out)]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "Differences in nats per token" in printed
    result = lmlab.read(out)
    assert result.kind == "compare"
    assert [len(frame) for frame in (result.frame(), result.frame(1))] == [2, 1]
    assert "Task: choices" in (out / "report.html").read_text()
    assert main(["compare", "only-one", "--text", str(text_folder)]) == 2


def print_table(data_sets: int) -> None:
    """The table of docs/experiments.md."""
    head = " | ".join(f"{a:g}, {b:g}" for a, b in SEED_NOISE)
    print(f"| kinds | runs | documents | {head} |\n|{'---|' * (3 + len(SEED_NOISE))}")
    for kinds in (2, 3, 5):
        for runs in (1, 2, 3, 5):
            for clusters in (5, 10, 30):
                cells = []
                for seed_noise, interaction in SEED_NOISE:
                    held, false = coverage(
                        kinds, runs, clusters, seed_noise=seed_noise, interaction=interaction,
                        data_sets=data_sets,
                    )  # fmt: skip
                    cells.append(f"{100 * held:.1f}, {100 * false:.1f}")
                print(f"| {kinds} | {runs} | {clusters} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    print_table(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
