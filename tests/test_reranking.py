"""Reranking: scores against plain transformers calls, rules against enumeration, choices against
what follows from the definitions.

Shapes: M prompts, P tokens of each, N candidates, C tokens of one, K = N + 1.
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

import lmlab
from helpers import tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig, prepare
from lmlab.data.tokenizers import TokenizerConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.lm.sampling import drawn_ids
from lmlab.topics.reranking import rules as by
from lmlab.topics.reranking.reranking import (
    BITS,
    NATS,
    ORACLE,
    RANDOM,
    TRUTH,
    Reranking,
    continuation_nats,
    rerank,
)
from lmlab.training.loop import train

SMALL = {"prompts": 7, "prompt_tokens": 8, "tokens": 5, "count": 4, "split": "train"}


@pytest.fixture(scope="module")
def models(text_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reranking")
    model = ModelConfig(layers=1, heads=2, width=16)
    kinds = {
        "a": {"seed": 0},
        "b": {"seed": 1},
        "backward": {"order": "backward"},
        "short": {"context": 8},
    }
    return {
        name: open_model(
            str(train(tiny_training(text_store, folder / name, model=model,
                                    **{"context": 16, "steps": 20, **more})).path)
        )
        for name, more in kinds.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def other_store(text_folder, tmp_path_factory):
    return prepare(
        PrepareConfig(
            out=tmp_path_factory.mktemp("reranking") / "other",
            corpus=CorpusConfig(text=(str(text_folder),)),
            tokenizer=TokenizerConfig(vocabulary=280),
        )
    )


@pytest.fixture(scope="module")
def other(other_store, tmp_path_factory):
    """Models of another tokenizer."""
    folder = tmp_path_factory.mktemp("reranking")
    model = ModelConfig(layers=1, heads=2, width=16)
    return {
        order: open_model(
            str(train(tiny_training(other_store, folder / order, model=model, context=48,
                                    steps=20, order=order)).path)
        )
        for order in ("forward", "backward")
    }  # fmt: skip


def reranked(models, store, **changes) -> Reranking:
    return rerank(
        models["a"], models["backward"], store,
        **{"judge": models["b"], "second": models["b"], **SMALL, **changes},
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(models, text_store):
    return reranked(models, text_store)


def plain_nats(lm, ids) -> np.ndarray:
    """Nats of each token of a sequence in the order of reading, by the transformers model alone."""
    inputs = torch.tensor([[lm.tokenizer.bos_id, *map(int, ids)]])
    with torch.no_grad():
        logits = lm.model(inputs).logits[0, :-1].double()
    return -logits.log_softmax(-1)[torch.arange(len(ids)), list(map(int, ids))].numpy()


def test_scores_are_sums_of_plain_log_probabilities(result, models):
    rng = np.random.default_rng(0)
    vocabulary = models["a"].tokenizer.vocabulary
    prompt_MP, ids_MKC = rng.integers(0, vocabulary, (3, 6)), rng.integers(0, vocabulary, (3, 2, 4))
    for name in ("a", "backward"):
        lm = models[name]
        first, rest = continuation_nats(lm, prompt_MP, ids_MKC)
        for m, k in itertools.product(range(3), range(2)):
            text = np.concatenate([prompt_MP[m], ids_MKC[m, k]])
            if name == "a":
                nats = plain_nats(lm, text)
                prompt, continuation = nats[:6].sum(), nats[6:].sum()
            else:  # reads the continuation first, from its end, then the prompt given it
                nats = plain_nats(lm, text[::-1])
                continuation, prompt = nats[:4].sum(), nats[4:].sum()
                # the identity that MMI rests on: whole = continuation + prompt given continuation
                alone = plain_nats(lm, ids_MKC[m, k][::-1]).sum()
                assert continuation == pytest.approx(alone, abs=1e-4)
                assert nats.sum() - alone == pytest.approx(prompt, abs=1e-4)
            assert first[m, k] == pytest.approx(prompt, abs=1e-4)
            assert rest[m, k] == pytest.approx(continuation, abs=1e-4)


def test_true_continuations_are_the_text_and_have_the_scores_of_its_windows(
    result, models, text_store
):
    """The last column by the windows alone: every full window is a prompt here."""
    everything = reranked(models, text_store, split="test", prompts=10**6, count=2)
    lm = models["a"]
    windows = lm.windows(text_store, "test", context=13)
    rows = np.flatnonzero(windows.length_M == 13)
    assert everything.prompts == len(rows) > SMALL["prompts"] == result.prompts
    assert everything.second_MK is not None
    for m, row in list(enumerate(rows))[::3]:
        ids = windows.ids(int(row))
        for name, own, whole in (
            ("a", everything.forward_MK[m, -1], None),
            ("b", everything.second_MK[m, -1], None),
            ("backward", everything.backward_continuation_MK[m, -1],
             everything.backward_prompt_MK[m, -1]),
        ):  # fmt: skip
            nats = plain_nats(models[name], ids if whole is None else ids[::-1])
            if whole is None:
                assert own == pytest.approx(nats[8:].sum(), abs=1e-4)
            else:
                assert own + whole == pytest.approx(nats.sum(), abs=1e-4)
        judged = plain_nats(models["b"], ids)[8:].mean()
        assert everything.judged_MK[m, -1] == pytest.approx(judged, abs=1e-4)


def test_choices_are_those_of_a_loop(result):
    forward, whole = result.forward_MK, result.backward_continuation_MK + result.backward_prompt_MK
    score = {
        "forward": forward,
        "backward": whole,
        "mmi": result.backward_prompt_MK,
        "forward+backward": (forward + whole) / 2,
        "forward+mmi": (forward + result.backward_prompt_MK) / 2,
        "second": result.second_MK,
        "forward+second": (forward + result.second_MK) / 2,
        ORACLE: result.judged_MK,
    }
    prompts, candidates = result.prompts, result.candidates
    judged = {}
    for name, score_MK in score.items():
        picks = [min(range(candidates), key=lambda n: (row[n], n)) for row in score_MK]
        judged[name] = [result.judged_MK[m][picks[m]] for m in range(prompts)]
        choice = result.choice(name)
        assert choice.judged.estimate == pytest.approx(np.mean(judged[name]))
        below = [sum(x > row[-1] for x in row[:-1]) / candidates for row in score_MK]
        assert choice.above_candidates.estimate == pytest.approx(np.mean(below))
    mean = [sum(row[:candidates]) / candidates for row in result.judged_MK]
    assert result.choice(RANDOM).judged.estimate == pytest.approx(np.mean(mean))
    assert result.choice(TRUTH).judged.estimate == pytest.approx(result.judged_MK[:, -1].mean())
    for choice in result.choices:
        if choice.name in judged:
            difference = choice.differences[RANDOM]
            assert difference.value.estimate == pytest.approx(
                np.mean(judged[choice.name]) - np.mean(mean)
            )
        if choice.name in judged and choice.name != "forward":
            gaps = np.array(judged[choice.name]) - judged["forward"]
            assert choice.differences["forward"].value.estimate == pytest.approx(gaps.mean())
    oracle = result.choice(ORACLE).judged.estimate
    assert all(oracle <= c.judged.estimate for c in result.choices if c.name != TRUTH)


def test_intervals_are_over_documents_and_p_values_are_holms(models, text_store):
    everything = reranked(models, text_store, prompts=30, count=3)
    document_M = everything.clusters.document_N
    choice = everything.choice("forward+backward")
    score = everything.forward_MK + everything.backward_continuation_MK
    score = score + everything.backward_prompt_MK
    rows = np.arange(everything.prompts)
    gap_M = (
        everything.judged_MK[rows, score[:, :-1].argmin(1)]
        - everything.judged_MK[rows, everything.forward_MK[:, :-1].argmin(1)]
    )
    value = choice.differences["forward"].value
    assert value.documents == len(np.unique(document_M)) > 5
    assert value.estimate == pytest.approx(gap_M.mean())
    # a jackknife over documents, which is near the linearised error of a ratio
    left = np.array([gap_M[document_M != d].mean() for d in np.unique(document_M)])
    error = math.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())
    assert value.standard_error == pytest.approx(error, rel=0.1)
    asked = ("backward", "mmi", "forward+backward", "forward+mmi", "second", "forward+second")
    p = {}
    for name in asked:
        v = everything.choice(name).differences["forward"].value
        assert v.standard_error
        t = abs(v.estimate) / v.standard_error
        p[name] = 2 * float(student.sf(t, v.degrees_of_freedom))
    order = sorted(asked, key=p.__getitem__)
    least = 0.0
    for place, name in enumerate(order):
        least = max(least, min(1.0, p[name] * (len(order) - place)))
        found = everything.choice(name).differences["forward"]
        assert found.holm == pytest.approx(least)
        assert found.shown == (least < 0.05)
    for name in (TRUTH, ORACLE):
        assert everything.choice(name).differences["forward"].holm is None


def test_a_judge_that_is_the_forward_model_likes_its_own_choice_best(models, text_store):
    same = reranked(models, text_store, judge=models["a"])
    assert np.array_equal(same.judged_MK, same.forward_MK / SMALL["tokens"])
    own, oracle = same.choice("forward"), same.choice(ORACLE)
    assert own.judged == oracle.judged
    assert oracle.as_forward == 1.0
    assert "judges its own choices" in same.summary()


def test_weights_lead_from_forward_to_the_other_model(models, text_store, result):
    for weight, alone in ((0.0, "forward"), (1.0, "backward")):
        changed = reranked(models, text_store, weight=weight)
        assert changed.choice("forward+backward").judged == changed.choice(alone).judged
    sums = {w.rule: w for w in result.weights}
    assert set(sums) == {"forward+backward", "forward+mmi", "forward+second"}
    own = result.choice("forward").judged.estimate
    for rule, found in sums.items():
        assert found.less_forward[0] == 0
        other = rule.partition("+")[2]
        assert found.less_forward[-1] == pytest.approx(result.choice(other).judged.estimate - own)
        assert found.less_forward[5] == pytest.approx(result.choice(rule).judged.estimate - own)


def test_a_seed_repeats_to_the_bit_and_touches_no_global_generator(models, text_store):
    first = reranked(models, text_store)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    again = reranked(models, text_store)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again == first
    other = reranked(models, text_store, seed=1)
    assert not np.array_equal(other.forward_MK, first.forward_MK)


def test_draws_have_one_length_no_special_tokens_and_the_model_s_distribution(models):
    lm = models["a"]
    prompt = np.array([[40, 41, 42]])
    ids_MNC = drawn_ids(lm, np.repeat(prompt, 2, 0), tokens=2, count=3000, seed=3)
    assert ids_MNC.shape == (2, 3000, 2)
    assert not np.isin(ids_MNC, [lm.tokenizer.bos_id, lm.tokenizer.end_of_text_id]).any()
    assert (ids_MNC[0] != ids_MNC[1]).any()
    with torch.no_grad():
        p_V = lm.model(torch.tensor([[lm.tokenizer.bos_id, 40, 41, 42]])).logits[0, -1].double()
    p_V[[lm.tokenizer.bos_id, lm.tokenizer.end_of_text_id]] = -math.inf
    p_V = p_V.softmax(-1).numpy()
    count_V = np.bincount(ids_MNC[:, :, 0].ravel(), minlength=len(p_V))
    often = p_V * 6000 > 5
    z = (count_V - 6000 * p_V)[often] / np.sqrt(6000 * p_V * (1 - p_V))[often]
    assert np.abs(z).max() < 4.5
    # the same, given other prompts behind it
    alone = drawn_ids(lm, prompt, tokens=2, count=3000, seed=3)
    assert np.array_equal(alone[0], ids_MNC[0])
    one = drawn_ids(lm, prompt, tokens=2, count=50, seed=3, top_k=1)
    assert len(np.unique(one[0], axis=0)) == 1


def test_a_judge_of_another_tokenizer_gives_bits_per_byte_of_the_text(models, other, text_store):
    found = reranked(models, text_store, judge=other["forward"], second=None)
    same = reranked(models, text_store, second=None)
    assert (found.unit, same.unit) == (BITS, NATS)
    assert np.array_equal(found.forward_MK, same.forward_MK)
    lm = models["a"]
    windows = lm.windows(text_store, "train", context=13)
    texts = [windows.ids(int(row)) for row in np.flatnonzero(windows.length_M == 13)]
    forward = [plain_nats(lm, ids)[8:].sum() for ids in texts]
    for m in range(found.prompts):
        row = int(np.argmin(np.abs(np.array(forward) - found.forward_MK[m, -1])))
        prompt, continuation = (
            lm.tokenizer.decode(part) for part in (texts[row][:8], texts[row][8:])
        )
        judged = log_likelihoods(other["forward"], [Request(prompt, continuation, "test")])
        bits = -judged.nats_N[0] / math.log(2) / len(continuation.encode())
        assert found.judged_MK[m, -1] == pytest.approx(bits, rel=1e-4)


small_ids = st.lists(
    st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=2, max_size=2),
    min_size=1,
    max_size=4,
).map(np.array)


@given(small_ids, st.integers(1, 3))
def test_expected_distinct_ngrams_are_the_mean_over_all_choices(ids_MNC, n):
    def different(choice):
        texts = [tuple(ids_MNC[m, k].tolist()) for m, k in enumerate(choice)]
        grams = [text[at : at + n] for text in texts for at in range(3 - n + 1)]
        return len(set(grams)) / len(grams)

    choices = list(itertools.product(range(2), repeat=len(ids_MNC)))
    mean = sum(map(different, choices)) / len(choices)
    assert by.expected_distinct_across(ids_MNC, n) == pytest.approx(mean)
    first = ids_MNC[:, 0]
    assert by.distinct_across(first, n) == pytest.approx(different([0] * len(ids_MNC)))
    within = by.distinct_within(ids_MNC, n)
    for m, k in np.ndindex(*within.shape):
        assert within[m, k] == pytest.approx(by.distinct_across(ids_MNC[m, k][None], n))


def test_a_score_that_tells_nothing_puts_half_below_the_truth():
    scores = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0], [2.0, 3.0, 1.0]])
    assert by.share_below_truth(scores).tolist() == [0.5, 0.5, 1.0]
    assert by.picked(scores).tolist() == [0, 0, 0]  # the last column is no candidate


def test_what_cannot_be_reranked_is_refused(models, other, text_store):
    a, backward = models["a"], models["backward"]
    for given_, message in (
        ((backward, backward, a), "reads backward: what it writes stands before"),
        ((a, a, a), "the model that reranks, which has to be a causal model that reads backward"),
        ((a, backward, backward), "the judge, which has to be a causal model that reads forward"),
        ((a, other["backward"], a), "have different tokenizers"),
        ((models["short"], backward, a), "takes windows of at most 8 tokens"),
    ):
        forward, reranks, judge = given_
        with pytest.raises(UserError, match=message):
            rerank(forward, reranks, text_store, judge=judge, **SMALL)
    for changes, message in (
        ({"second": other["forward"]}, "have different tokenizers"),
        ({"second": backward}, "the second model, which has to be"),
        ({"rules": ["backwards"]}, "unknown rules backwards"),
        ({"count": 1}, "needs two continuations"),
        ({"weight": 1.5}, "is a share"),
        ({"temperature": 0.0}, "take one above 0"),
    ):
        with pytest.raises(UserError, match=message):
            reranked(models, text_store, **changes)
    with pytest.raises(UserError, match="made with"):
        rerank(other["forward"], other["backward"], text_store, judge=a, **SMALL)


def test_a_text_of_short_documents_has_no_prompts(models, tmp_path, text_store):
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"a word {number}")
    short = prepare(
        PrepareConfig(
            out=tmp_path / "short",
            corpus=CorpusConfig(text=(str(tmp_path),)),
            tokenizer=TokenizerConfig(kind="pretrained", name=str(text_store.path / "tokenizer")),
        )
    )
    with pytest.raises(UserError, match="no document of the train split has 13 tokens"):
        reranked(models, short)


def test_the_command_writes_a_page_and_a_result_that_can_be_read(models, text_store, tmp_path):
    out = tmp_path / "out"
    places = [models[name].name for name in ("a", "backward")]
    options = ["--judge", models["b"].name, "--store", str(text_store.path), "--split", "train"]
    options += ["--prompts", "12", "--prompt-tokens", "8", "--tokens", "4", "--count", "3"]
    assert main(["rerank", *places, *options, "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "itself finds likeliest" in page
    found = lmlab.read(out)
    assert isinstance(found, Reranking)
    assert found.second_MK is None
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    assert [len(t.rows) for t in found.tables()] == [8, 8, 8]
    assert main(["rerank", *places, *options, "--temperature", "0"]) == 2
    assert main(["rerank", *places, *options, "--rules", "mmi", "mmi"]) == 2
