"""Zero-shot results: accuracies and standard errors in closed form, chance, the command.

Shapes: V vocabulary.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import stdtrit
from scipy.stats import rankdata
from transformers import PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput

from helpers import symbols_tokenizer, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.data.tasks import (
    ContextChoice,
    LastWord,
    MinimalPair,
    MultipleChoice,
    Task,
    WordForms,
)
from lmlab.data.tokenizers import character_tokenizer
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.topics.scoring.predictions import predictions
from lmlab.topics.scoring.tasks_of_runs import compared
from lmlab.topics.scoring.zero_shot import (
    Estimate,
    Evaluation,
    credit,
    mean_estimate,
    mean_over_units,
    zero_shot,
)
from lmlab.training.loop import train

P = (0.5, 0.25, 0.125, 0.125)  # of the symbols a, b, c, d
A, B, C, D = (chr(0x4E00 + i) for i in range(4))


class Unigram(torch.nn.Module):
    """Every symbol as likely as `P` says, whatever came before."""

    def __init__(self, p_V):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))
        self.config = PretrainedConfig()
        self.embedding = torch.nn.Embedding(len(p_V) + 2, 1)
        self.logits_V = torch.tensor([*p_V, 0.0, 0.0]).log()

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, **unused):
        return CausalLMOutput(logits=self.logits_V.expand(*input_ids.shape, -1))


def lm_of(model, order="forward", symbols=4):
    return LanguageModel(
        name="hand-made",
        model=model,
        backbone=Backbone(model),
        tokenizer=symbols_tokenizer(symbols),
        objective=Objective(Causal(order=order, bos_id=symbols), FullCrossEntropy()),
        head="none",
        context=32,
        record={"own": True},
    )


@pytest.fixture
def unigram():
    return lm_of(Unigram(P))


def choices(*items, groups: Any = None):
    made = [
        MultipleChoice(f"item {n}", context, tuple(texts), answer, groups and groups[n])
        for n, (context, texts, answer) in enumerate(items)
    ]
    return Task("choices", "somewhere", made, len(made))


def pairs(*items):
    made = [
        MinimalPair(f"item {n}", good, bad, uid, uid[0], "t")
        for n, (good, bad, uid) in enumerate(items)
    ]
    return Task("blimp", "somewhere", made, len(made) + 5)


def test_choices_by_sum_and_by_byte(unigram):
    # log2 p: a -1, b -2, c -3; the long choice is less likely, and likelier for each byte
    task = choices(
        (D, (A + A + A, B), 0),  # -3 / 9 against -2 / 3
        (D, (A, B), 0),
        ("", (B, A), 0),
        (A, (C, B, A), 2),
        groups=["x", "x", "y", None],
    )
    made = zero_shot(unigram, task)
    by_sum, by_byte = made.metrics["accuracy"], made.metrics["accuracy_per_byte"]
    assert (by_sum.value, by_sum.items) == (0.5, 4)
    assert (by_sum.standard_error, by_sum.sets) == (None, 3)  # of 5 sets there would be one
    assert by_byte.value == 0.75
    alone = zero_shot(unigram, choices(*[(D, (A, B), 0)] * 3, (D, (B, A), 0)))
    assert alone.metrics["accuracy"].standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert alone.metrics["accuracy"].sets is None
    # was: nothing said what the first token was scored from
    assert alone.notes == ("a text is read behind <|bos|> (id 4)",)
    assert {g: m["accuracy"] for g, m in made.parts["group"].items()} == {
        "x": Estimate(0.5, 0.5, 2),
        "y": Estimate(0.0, None, 1),
    }
    result = Evaluation("unigram", "forward", "own", (made,))
    (table,) = result.tables()
    assert [tuple(row[1:3]) for row in table.rows] == [
        (part, name) for part in ("all", "x", "y") for name in ("accuracy", "accuracy per byte")
    ]
    assert Evaluation.from_json(result.to_json()) == result


def test_spaces_that_begin_a_choice_are_no_part_of_its_length():
    lm = replace(
        lm_of(Unigram((0.5, 0.25, 0.25)), symbols=3),
        tokenizer=character_tokenizer(["a", "b", " "]),
    )
    # bits: " aa" 4 over 2 bytes (with the space 3, which would win); "ba" 3 over 2 bytes
    made = zero_shot(lm, choices(("a", (" aa", "ba"), 1)))
    assert made.metrics["accuracy_per_byte"].value == 1


def test_blimp_by_set_and_field(unigram):
    good, bad = (A, B), (B, A)
    task = pairs(
        *[(*good, "s1")] * 3, (*bad, "s1"), (*good, "s2"), (*bad, "s2"), (*good, "m1"),
        (C, C, "m1"),
    )  # fmt: skip
    made = zero_shot(unigram, task)
    sets = {uid: m["accuracy"] for uid, m in made.parts["uid"].items()}
    assert {uid: e.value for uid, e in sets.items()} == {"m1": 0.75, "s1": 0.75, "s2": 0.5}
    s1, s2, m1 = math.sqrt(0.75 * 0.25 / 3), math.sqrt(0.25), 0.25
    assert sets["s1"].standard_error == pytest.approx(s1)
    assert sets["s2"].standard_error == pytest.approx(s2)
    assert sets["m1"].standard_error == pytest.approx(m1)
    syntax = made.parts["field"]["s"]["accuracy"]
    assert (syntax.value, syntax.items) == (0.625, 6)
    assert (syntax.standard_error, syntax.sets) == (None, 2)
    whole = made.metrics["accuracy"]
    assert whole.value == pytest.approx(2 / 3)
    assert (whole.standard_error, whole.sets) == (None, 3)
    assert made.available == 13
    result = Evaluation("unigram", "forward", "own", (made,))
    scores, of_sets = result.tables()
    assert [row[1] for row in scores.rows] == ["all", "m", "s"]
    assert [row[0] for row in of_sets.rows] == ["s2", "m1", "s1"]  # hardest first
    assert "0.6667 no interval; not told from chance (0.5000)" in result.summary()
    assert made.notes[0] == "accuracy is the plain mean over 3 sets"
    assert "no independent texts" in made.notes[1]


def test_items_of_one_template_do_not_count_as_independent_texts():
    """Was: sets taken as given, so 67 sets of 1,000 items had the error of 67,000 texts."""
    rng = np.random.default_rng(0)

    def drawn():
        return rng.binomial(200, rng.beta(3, 2, 20)) / 200

    def error(values):
        return mean_over_units(values, [f"set {n:02}" for n in range(len(values))])

    trials = [drawn() for _ in range(400)]
    spread = np.std([values.mean() for values in trials])  # with other sets
    errors = [error(values).standard_error for values in trials]
    assert np.sqrt(np.mean(np.square(np.array(errors, dtype=float)))) == pytest.approx(
        spread, rel=0.1
    )
    # as if the sets were given, it was less than a third
    given = [np.sqrt((values * (1 - values) / 199).sum()) / 20 for values in trials]
    assert np.mean(given) < 0.3 * spread
    one = error(trials[0])
    assert one.sets == 20
    assert error(trials[0][:4]).standard_error is None


def test_grouped_choices_have_the_error_of_their_groups(unigram):
    right, wrong = (D, (A, B), 0), (D, (B, A), 0)
    items = [right] * 6 + [wrong] * 2 + [right, wrong, right, right, wrong]
    groups = ["a"] * 6 + ["b"] * 2 + ["c", "c", "d", "e", "e"]
    made = zero_shot(unigram, choices(*items, groups=groups)).metrics["accuracy"]
    value_N = np.array([item == right for item in items], dtype=float)
    assert (made.value, made.items, made.sets) == (pytest.approx(value_N.mean()), 13, 5)
    names = sorted(set(groups))
    sums, counts = (
        np.array([v[np.array(groups) == g].sum() for g in names])
        for v in (value_N, np.ones(len(value_N)))
    )
    p = counts / counts.sum()
    weight = p**2 / (1 - 2 * p + p @ p)
    expected = np.sqrt((weight * (sums / counts - value_N.mean()) ** 2).sum())
    assert made.standard_error == pytest.approx(expected)


def test_differences_over_sets_resample_sets():
    """The headless study's intervals: BLiMP's sets, not its pairs."""
    rng = np.random.default_rng(1)
    effect_C = rng.normal(0, 0.1, 12)
    uids = np.repeat([f"set {c:02}" for c in range(12)], 50)
    task = pairs(*[("a", "b", uid) for uid in uids])
    assert task.sets == tuple(uids)
    base_SN = rng.random((3, 600))
    ours_SN = base_SN + np.repeat(effect_C, 50) + 0.01 * rng.normal(size=(3, 600))
    made = compared([{"accuracy": v} for v in ours_SN], [{"accuracy": v} for v in base_SN],
                    task=task)["accuracy"]  # fmt: skip
    difference = made.difference
    assert difference is not None
    assert (difference.clusters, made.unit) == (12, "sets of items")
    assert difference.standard_error == pytest.approx(effect_C.std(ddof=1) / 12**0.5, rel=0.05)
    assert made.value.low is not None
    assert made.value.low >= 0
    alone = compared(
        [{"accuracy": v} for v in ours_SN], None, task=choices(*[(D, (A, B), 0)] * 600)
    )
    assert (alone["accuracy"].value.clusters, alone["accuracy"].unit) == (600, "items")


def test_lambada(unigram):
    words = [LastWord(f"item {n}", D, target) for n, target in enumerate((A, A, B, A + B))]
    made = zero_shot(unigram, Task("lambada", "somewhere", words, 4))
    assert made.metrics["accuracy"].value == 0.5
    assert made.metrics["accuracy"].standard_error == pytest.approx(math.sqrt(0.25 / 3))
    nats = np.log(2) * np.array([1, 1, 2, 3])
    error = nats.std(ddof=1) / 2
    assert made.metrics["nats_per_word"].value == pytest.approx(nats.mean())
    perplexity = made.metrics["perplexity"]
    assert perplexity.value == pytest.approx(2**1.75)
    assert perplexity.standard_error == pytest.approx(2**1.75 * error)
    t = stdtrit(3, 0.975)
    assert made.metrics["nats_per_word"].interval == pytest.approx(
        (nats.mean() - t * error, nats.mean() + t * error)
    )
    assert perplexity.interval is not None
    assert np.log(perplexity.interval) == pytest.approx(made.metrics["nats_per_word"].interval)
    backward = zero_shot(lm_of(Unigram(P), "backward"), Task("lambada", "somewhere", words, 4))
    assert backward.metrics["perplexity"].value == pytest.approx(2**1.75)
    assert "accuracy" not in backward.metrics
    assert "no accuracy" in backward.notes[0]


def test_a_perplexity_too_large_for_a_float_is_left_out():
    hopeless = lm_of(Unigram((1.0, 1e-38, 0.1, 0.1)))
    words = [LastWord("item", D, B * 9)]
    made = zero_shot(hopeless, Task("lambada", "somewhere", words, 1))
    assert made.metrics["nats_per_word"].value > 700
    assert "perplexity" not in made.metrics


def test_perfect_and_hopeless():
    strong = lm_of(Unigram((0.7, 0.1, 0.1, 0.1)))
    right = zero_shot(strong, choices(*[(D, (B, A, C), 1)] * 5))
    wrong = zero_shot(strong, choices(*[(D, (B, A, C), 0)] * 5))
    assert right.metrics["accuracy"] == Estimate(1.0, 0.0, 5)
    assert wrong.metrics["accuracy"] == Estimate(0.0, 0.0, 5)
    # was: a standard error of 0, as if other items could not be wrong; here t^2 / (n + t^2)
    t2 = stdtrit(4, 0.975) ** 2
    assert right.metrics["accuracy"].interval == (pytest.approx(5 / (5 + t2)), 1.0)
    assert wrong.metrics["accuracy"].interval == (0.0, pytest.approx(t2 / (5 + t2)))
    # one unit a set where items come in sets, in the command and over seeds alike
    sets = np.repeat([str(c) for c in range(6)], 50)
    t2 = stdtrit(5, 0.975) ** 2
    grouped = mean_over_units(np.ones(300), sets.tolist())
    task = choices(*[(D, (A, B), 0)] * 300, groups=sets.tolist())
    over_seeds = compared([{"accuracy": np.ones(300)}] * 2, [{"accuracy": np.ones(300)}] * 2,
                          task=task)["accuracy"]  # fmt: skip
    for made in (grouped.interval, over_seeds.value.bounds):
        assert made == pytest.approx((6 / (6 + t2), 1.0))
    assert over_seeds.difference is not None
    assert over_seeds.difference.bounds is None


def test_what_cannot_be_told_apart_is_chance_wherever_the_answer_stands():
    for answer in range(4):
        assert credit(np.array([-1.0, -1.0, -1.0, -1.0]), answer) == 0.25
    assert [credit(np.array([-1.0, -2.0, -1.0]), n) for n in range(3)] == [0.5, 0.0, 0.5]
    flat = lm_of(Unigram((0.25,) * 4))
    for answer in (0, 1):
        made = zero_shot(flat, choices((A, (B, C), answer), ("", (C + A, D + B), answer)))
        assert made.metrics["accuracy"].value == 0.5


def test_ties_are_counted_and_one_of_them_is_named():
    """Was: a tie counted 1/n, and nothing said how many there were. Officially it is right."""
    flat = lm_of(Unigram((0.25,) * 4))
    task = pairs(*[(A, B, f"s{n % 5}") for n in range(200)], (A, B + A, "s0"))
    made = zero_shot(flat, task)
    assert (made.ties, made.values["accuracy"].tolist()) == (200, [0.5] * 200 + [1.0])
    # what is named is right half of the time, and the same every time
    assert 70 < (made.chosen[:200] == 0).sum() < 130
    assert made.chosen[200] == 0
    assert zero_shot(flat, task).chosen.tolist() == made.chosen.tolist()
    named = predictions(task, made)
    assert [p["id"] for p in named["s0"]] == [f"s0_{n}" for n in range(41)]
    assert named["s1"][0]["pred"] == (A, B)[made.chosen[1]]
    result = Evaluation("flat", "forward", "own", (made,))
    assert Evaluation.from_json(result.to_json()).to_json() == result.to_json()
    scores, of_sets = result.tables()
    assert scores.rows[0][-1] == 200
    assert "200 items are ties" in result.summary()
    assert len(of_sets.rows[0]) == len(of_sets.columns)


def test_conditions_have_clusters_for_their_unit(unigram):
    """COMPS and entity tracking: the mean over sets (over files of the means over theirs), its
    error over what is asked again in each. By hand, from the definition of a ratio's error."""
    rng = np.random.default_rng(3)
    files = ["f", "f", "g"]  # of the three sets
    items = [
        MultipleChoice("w", D, (A, B) if rng.random() < 0.3 + 0.2 * c % 0.7 else (B, A), 0,
                       group=f"{files[s]}{s}", part=files[s], cluster=f"c{c}")
        for s, size in enumerate((12, 8, 10)) for c in range(size)
    ]  # fmt: skip
    made = zero_shot(unigram, Task("entity_tracking", "somewhere", items, len(items)))
    right_N = np.array([item.choices[0] == A for item in items], dtype=float)
    sets = [right_N[:12].mean(), right_N[12:20].mean(), right_N[20:].mean()]
    whole = made.metrics["accuracy"]
    assert whole.value == pytest.approx((sets[0] / 2 + sets[1] / 2 + sets[2]) / 2)
    assert made.parts["field"]["f"]["accuracy"].value == pytest.approx(np.mean(sets[:2]))
    assert [made.parts["uid"][name]["accuracy"].value for name in ("f0", "f1", "g2")] == sets
    assert (whole.sets, whole.clusters, whole.items) == (None, 12, 30)
    weight_N = np.repeat([1 / 24, 1 / 16, 1 / 10], [12, 8, 10]) / 2 * 2
    weight_N /= weight_N.sum()
    cluster_N = np.array([int(str(item.cluster)[1:]) for item in items])
    p = np.bincount(cluster_N, weight_N)
    x = np.bincount(cluster_N, weight_N * right_N) / p
    error = np.sqrt((p**2 / (1 - 2 * p + p @ p) * (x - p @ x) ** 2).sum())
    assert whole.standard_error == pytest.approx(error)
    assert made.chance == 0.5
    assert made.parts["uid"]["f0"]["accuracy"].clusters is None  # a cluster an item


@pytest.mark.parametrize(
    ("clusters", "truth", "ours", "as_items"), [(40, 0.05, 0.88, 0.8), (40, 0.5, 0.93, 0.8),
                                                (200, 0.98, 0.93, 0.85)]
)  # fmt: skip
def test_items_of_one_cluster_are_one_piece_of_evidence(clusters, truth, ours, as_items):
    """Was: within a set every item counted, whatever it shared with others. Clusters of 1 to 8
    items with an intraclass correlation of 0.3; an interval of 95 % by Wilson's formula."""
    rng = np.random.default_rng(0)
    size_C = rng.integers(1, 9, clusters)
    names = np.repeat([f"c{c}" for c in range(clusters)], size_C).tolist()
    covered = []
    for _ in range(300):
        own_C = rng.beta(truth * 7 / 3, (1 - truth) * 7 / 3, clusters)
        right_N = (rng.random(len(names)) < np.repeat(own_C, size_C)).astype(float)
        bounds = (mean_over_units(right_N, names, clusters=True).interval,
                  mean_estimate(right_N).interval)  # fmt: skip
        covered.append([b is not None and b[0] <= truth <= b[1] for b in bounds])
    share, of_items = np.mean(covered, axis=0)
    assert share > ours
    assert of_items < as_items


def test_what_is_asked_again_in_other_sets_is_one_piece_of_evidence():
    """Sixty clusters in three sets of unequal means and sizes, each set weighing the same."""
    rng = np.random.default_rng(0)
    means, sizes = (0.5, 0.7, 0.4), (4, 1, 2)
    names = [f"c{c}" for size in sizes for c in range(60) for _ in range(size)]
    weights_N = np.repeat([1 / size for size in sizes], [60 * size for size in sizes])
    covered = []
    for _ in range(300):
        effect_C = rng.normal(0, 0.15, 60)
        right_N = np.concatenate([
            (rng.random((60, size)) < (mean + effect_C).clip(0, 1)[:, None]).ravel()
            for mean, size in zip(means, sizes, strict=True)
        ]).astype(float)  # fmt: skip
        bounds = (mean_over_units(right_N, names, weights_N=weights_N, clusters=True).interval,
                  mean_estimate(right_N).interval)  # fmt: skip
        covered.append([b is not None and b[0] <= np.mean(means) <= b[1] for b in bounds])
    as_clusters, as_items = np.mean(covered, axis=0)
    assert as_clusters > 0.93
    assert as_items < 0.8


def test_the_same_phrase_after_two_contexts():
    """A model that knows pairs: log p(b | a) is not log p(b)."""
    items = [ContextChoice("w", (context, other), B, "base", B) for context, other in
             ((A, C), (C, A))]  # fmt: skip
    task = Task("comps", "somewhere", items, 2)
    made = zero_shot(lm_of(AfterA()), task)
    assert made.values["accuracy"].tolist() == [1.0, 0.0]
    assert [p["pred"] for p in predictions(task, made)["base"]] == [A + B, A + B]
    assert zero_shot(lm_of(Unigram(P)), task).ties == 2


class AfterA(Unigram):
    """`b` is four times as likely after `a`."""

    def __init__(self):
        super().__init__((0.25,) * 4)

    def forward(self, input_ids, **unused):
        logits = self.logits_V.expand(*input_ids.shape, -1).clone()
        logits[..., 1] += math.log(4) * (input_ids == 0)
        return CausalLMOutput(logits=logits)


def test_forms_of_invented_words(unigram):
    # shares of the first form by the softmax: p(a) / (p(a) + p(b)) = 2/3, 1/3, 4/5, 1/2, 1/5
    sentences = [(A, B), (B, A), (A, C), (C, D), (D, A)]
    people = [0.9, 0.2, 0.5, 0.6, 0.1]
    items = [WordForms("w", texts, share) for texts, share in zip(sentences, people, strict=True)]
    task = Task("wug_past", "somewhere", items, 5)
    made = zero_shot(unigram, task)
    assert made.first_share == pytest.approx([2 / 3, 1 / 3, 4 / 5, 1 / 2, 1 / 5])
    assert made.values["spearman"].mean() == pytest.approx(made.metrics["spearman"].value)
    rho = float(np.corrcoef(rankdata(made.first_share), rankdata(people))[0, 1])
    assert made.metrics["spearman"].value == pytest.approx(rho)
    assert (made.ties, made.chosen[[0, 1, 2, 4]].tolist()) == (1, [0, 1, 0, 1])
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 2)
    assert made.metrics["spearman"].interval == pytest.approx(
        (math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half))
    )
    assert predictions(task, made)["wug_past_tense"][1] == {
        "id": "wug_past_tense_1", "pred": A, "prob": pytest.approx(1 / 3)
    }  # fmt: skip
    result = Evaluation("unigram", "forward", "own", (made,))
    assert Evaluation.from_json(result.to_json()).to_json() == result.to_json()
    assert "spearman" in result.summary()
    alike = zero_shot(unigram, replace(task, items=[replace(item, share=0.5) for item in items]))
    assert alike.metrics["spearman"] == Estimate(0.0, None, 5, scale="correlation")
    assert "no correlation" in alike.notes[0]


def test_an_untrained_model_is_at_chance():
    config = build_config(
        ModelConfig(layers=1, heads=2, width=16, initializer_range=0.3),
        vocabulary=14, context=32, bos_id=12, end_of_text_id=13,
    )  # fmt: skip
    lm = lm_of(build_model(config, seed=0).eval(), symbols=12)
    rng = np.random.default_rng(0)
    texts = ["".join(chr(0x4E00 + i) for i in row) for row in rng.integers(0, 12, (400, 6))]
    made = zero_shot(lm, pairs(*((a, b, "s") for a, b in zip(texts[::2], texts[1::2],
                                                                 strict=True))))  # fmt: skip
    found = made.parts["uid"]["s"]["accuracy"]
    assert found.standard_error == pytest.approx(0.035, abs=0.001)
    assert abs(found.value - 0.5) < 0.14


def test_a_task_without_items(unigram):
    with pytest.raises(UserError, match="no item to score"):
        zero_shot(unigram, Task("choices", "somewhere", [], 0))


def test_a_task_without_a_score_has_a_page(unigram):
    """A backward model has no greedy continuation, so a task of lm-eval may leave it no score."""
    score = zero_shot(unigram, choices((D, (A, B), 0)))
    empty = replace(score, metrics={}, chance=None, truncated=2)
    result = Evaluation("unigram", "backward", "own", (empty,))
    assert result.summary().startswith("choices: no score. ")
    assert "2 contexts were cut" in result.page()
    assert result.figures() == []


# the command


@pytest.fixture(scope="module")
def run(text_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "r"
    train(
        tiny_training(
            text_store, out, objective="headless", context=64, steps=30,
            model=ModelConfig(layers=1, heads=2, width=16, tied=True),
        )
    )  # fmt: skip
    return out


@pytest.fixture
def files(tmp_path):
    blimp = [
        {"sentence_good": f"the model {n}", "sentence_bad": f"model the {n}", "UID": uid,
         "field": "syntax", "linguistics_term": "order"}
        for uid in ("one", "two") for n in range(4)
    ]  # fmt: skip
    records = {
        "lambada": [{"text": f"the model reads a {w}"} for w in ("token", "window", "text")],
        "blimp": blimp,
        "choices": [{"context": "the", "choices": [" model", " zq"], "answer": 0, "group": "g"}],
    }
    for name, lines in records.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return [
        ("" if name == "blimp" else f"{name}=") + f"{tmp_path / name}.jsonl" for name in records
    ]


def test_the_command(run, files, tmp_path, capsys, text_store):
    out = tmp_path / "out"
    assert (
        main(["evaluate", str(run), "--tasks", *files, "--out", str(out), "--device", "cpu"]) == 0
    )
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("perplexity", "95 % interval", "syntax", "per byte"))
    made = json.loads((out / "results.json").read_text())
    assert made["command"] == "evaluate"
    assert made["head"] == "tied + fixed log-unigram bias"
    lambada, blimp, choices = made["tasks"]
    assert lambada["metrics"]["perplexity"]["items"] == 3
    assert set(blimp["parts"]["uid"]) == {"one", "two"}
    assert choices["parts"]["group"]["g"]["accuracy"]["items"] == 1
    assert choices["metrics"]["accuracy"]["standard_error"] is None
    arguments = ["evaluate", str(run), "--device", "cpu", "--out"]
    limited = [*arguments, str(tmp_path / "few"), "--limit", "2", "--batch", "1", "--tasks", *files]
    assert main(limited) == 0
    few = json.loads((tmp_path / "few" / "results.json").read_text())["tasks"]
    assert [t["metrics"]["accuracy"]["items"] for t in few] == [
        2, 4, 1
    ]  # fmt: skip
    assert [t["available"] for t in few] == [3, 8, 1]
    nats = {}
    for head in ("raw", "calibrated"):
        store = ["--store", str(text_store.path)] if head == "calibrated" else []
        more = ["--head", head, *store, "--tasks", files[0]]
        assert main([*arguments, str(tmp_path / head), *more]) == 0
        result = json.loads((tmp_path / head / "results.json").read_text())
        nats[head] = result["tasks"][0]["metrics"]["nats_per_word"]["value"]
    own = lambada["metrics"]["nats_per_word"]["value"]
    assert len({round(v, 6) for v in (own, *nats.values())}) == 3


def test_the_commands_mistakes(run, files, tmp_path, capsys, text_store):
    assert main(["evaluate", str(run), "--tasks", "arc=x"]) == 2
    assert "name it KIND=SOURCE" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--tasks", f"lambada={tmp_path / 'no'}"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--tasks", *files, "--store", str(text_store.path)]) == 2
    assert "add --head calibrated" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--tasks", *files, "--head", "calibrated"]) == 2
    assert "give --store" in capsys.readouterr().err
