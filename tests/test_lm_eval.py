"""lm-eval's tasks on models, against lm-eval's own HFLM on the same model, offline.

What needs lm-eval is skipped where it is not installed; `make test` and `make extras` install it.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import sentences, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.training import OptimizerConfig
from lmlab.errors import UserError
from lmlab.lm.export import export_model
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.lm.sampling import continuations
from lmlab.training.loop import train
from tolerances import OF_FLOAT32, near

CONTEXT = 48
WORDS = ["token", "window", "text", "model", "order", "arrow"]


@pytest.fixture(scope="module")
def gpt2(text_store, tmp_path_factory):
    """A GPT-2 as transformers saves it, with weights large enough to have opinions."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    tokenizer = text_store.tokenizer
    config = GPT2Config(
        vocab_size=tokenizer.vocabulary, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.end_of_text_id,
        initializer_range=0.3,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    for name, data in tokenizer.files().items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def runs(text_store, tmp_path_factory):
    """lmlab's own models, by what is special about them."""
    folder = tmp_path_factory.mktemp("runs")
    forms: dict[str, dict[str, Any]] = {
        "headless": {"objective": "headless", "model": ModelConfig(layers=1, heads=2, width=16,
                                                                   tied=True)},
        "backward": {"order": "backward"},
        "masked": {"objective": "masked", "model": ModelConfig("bert", layers=1, heads=2,
                                                               width=16)},
    }  # fmt: skip
    for name, changes in forms.items():
        settings = {"context": CONTEXT, "steps": 20, **changes}
        optimizer = OptimizerConfig(learning_rate=1e-2)
        train(tiny_training(text_store, folder / name, optimizer=optimizer, **settings))
    return folder


@pytest.fixture
def adapter():
    pytest.importorskip("lm_eval")
    return importlib.import_module("lmlab.integrations.lm_eval")


def instances(
    kind: Literal["loglikelihood", "loglikelihood_rolling", "generate_until"],
    arguments: list[tuple[Any, ...]],
) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, a, n, ("task", n, 1)) for n, a in enumerate(arguments)]


def hflm(folder) -> Any:
    from lm_eval.models import huggingface

    its_model: Any = huggingface.HFLM  # a decorator of lm-eval hides its parameters
    return its_model(str(folder), device="cpu", dtype="float32", batch_size=4)


PAIRS = [
    ("The model reads", " a token"),
    ("", "small windows learn"),
    ("the window ", "writes"),
    ("an arrow, \n", "café"),
    *((text[:100], text[100:120]) for text in sentences(6, seed=3)),  # some are cut
]


def test_log_likelihoods_equal_those_of_hflm(adapter, gpt2):
    asked = instances("loglikelihood", PAIRS)
    lm = open_model(gpt2)
    own = adapter.HarnessModel(lm, batch=3)
    made, expected = own.loglikelihood(asked), hflm(gpt2).loglikelihood(asked)
    assert [nats for nats, _ in made] == near([n for n, _ in expected])
    assert [greedy for _, greedy in made] == [greedy for _, greedy in expected]
    assert own.truncated["task"] == log_likelihoods(
        lm, [Request(*pair, "") for pair in PAIRS]
    ).truncated > 0  # fmt: skip
    # a model's next token is one of all; some contexts have one that is a token of its own there
    tokenizer = lm.tokenizer
    tokens = [tokenizer.token(i) for i in range(tokenizer.vocabulary)]
    every = [
        (context, token)
        for context in ("the model", "a window", "order", "arrow", "learns", "reads")
        for token in tokens
        if token.isascii()
        and len(tokenizer.encode(context + token)) == len(tokenizer.encode(context)) + 1
    ]
    asked = instances("loglikelihood", every)
    expected = [greedy for _, greedy in hflm(gpt2).loglikelihood(asked)]
    assert any(expected)
    assert [greedy for _, greedy in own.loglikelihood(asked)] == expected


def test_rolling_log_likelihoods_equal_those_of_hflm(adapter, gpt2):
    texts = [(text,) for text in [*sentences(4, seed=5), "short", "a"]]
    asked = instances("loglikelihood_rolling", texts)
    made = adapter.HarnessModel(open_model(gpt2)).loglikelihood_rolling(asked)
    assert made == near(hflm(gpt2).loglikelihood_rolling(asked))


def test_greedy_generation_equals_that_of_hflm(adapter, gpt2):
    contexts = [text[:n] for n, text in zip((10, 10, 25, 90), sentences(4, seed=6), strict=True)]
    plain = {"until": [], "max_gen_toks": 12, "do_sample": False}
    own = adapter.HarnessModel(open_model(gpt2))
    whole = own.generate_until(instances("generate_until", [(c, plain) for c in contexts]))
    assert all(whole)
    stops = {**plain, "until": [whole[0][3:5], whole[2][4]]}
    asked = instances(
        "generate_until", [(c, settings) for c in contexts for settings in (plain, stops)]
    )
    made = own.generate_until(asked)
    assert made == hflm(gpt2).generate_until(asked)
    assert made[::2] == whole
    assert made[1] != whole[0]


@pytest.fixture
def tasks(tmp_path):
    """lm-eval tasks over local files: one of each kind, and a group of two."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    words = [{"text": f"{text[:60].strip()} {word}"}
             for text, word in zip(sentences(6, seed=7), WORDS, strict=True)]  # fmt: skip
    choices = [{"question": f"the {a} reads", "options": [f"{b} {a}", a, b], "answer": n % 3}
               for n, (a, b) in enumerate(zip(WORDS, WORDS[::-1], strict=True))]  # fmt: skip
    data = {
        "words": words,
        "choices": choices,
        "texts": [{"text": t} for t in sentences(3, seed=9)],
    }
    for name, records in data.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, "utf-8")

    def task(name: str, source: str, **settings: Any) -> None:
        files = {"test": str(tmp_path / f"{source}.jsonl")}
        common = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files},
                  "test_split": "test", "metadata": {"version": 1.0}}  # fmt: skip
        # JSON is YAML
        (folder / f"{name}.yaml").write_text(json.dumps({**common, **settings}))

    def mean(*metrics: str) -> list[dict[str, Any]]:
        return [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics]

    perplexity = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
    task("local_words", "words", output_type="loglikelihood",
         doc_to_text="{{text.split(' ')[:-1]|join(' ')}}",
         doc_to_target="{{' '+text.split(' ')[-1]}}",
         metric_list=[perplexity, *mean("acc")])  # fmt: skip
    for name in ("local_choices", "local_more"):
        task(name, "choices", output_type="multiple_choice", doc_to_text="{{question}}",
             doc_to_choice="{{options}}", doc_to_target="{{answer}}",
             metric_list=mean("acc", "acc_norm"))  # fmt: skip
    task("local_written", "choices", output_type="generate_until", doc_to_text="{{question}}",
         doc_to_target="{{options[0]}}", metric_list=mean("exact_match"),
         generation_kwargs={"until": ["\n"], "max_gen_toks": 4})  # fmt: skip
    task("local_bits", "texts", output_type="loglikelihood_rolling", doc_to_text="",
         doc_to_target="{{text}}", metric_list=[{"metric": "bits_per_byte"}])  # fmt: skip
    group = {"group": "local_group", "task": ["local_choices", "local_more"],
             "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean",
                                        "weight_by_size": False}]}  # fmt: skip
    (folder / "group.yaml").write_text(json.dumps(group))
    return folder


NAMES = ["local_words", "local_written", "local_bits", "local_group"]


@pytest.mark.filterwarnings("default")  # of lm-eval and of what it imports
def test_results_equal_those_of_lm_eval_itself(adapter, gpt2, tasks):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    evaluate: Any = lm_eval.simple_evaluate  # a decorator of lm-eval hides its parameters
    theirs = evaluate(hflm(gpt2), tasks=NAMES, task_manager=manager, bootstrap_iters=1000)
    lm = open_model(gpt2)
    state = repr((random.getstate(), np.random.get_state()))
    made = {one.task: one for one in adapter.harness(lm, NAMES, include=tasks)}
    assert repr((random.getstate(), np.random.get_state())) == state
    assert set(made) == set(NAMES)
    compared = 0
    for name, one in made.items():
        named = {name: one.metrics, **one.parts.get("task", {})}
        for task, metrics in named.items():
            expected = theirs["results"][task]
            assert metrics
            for metric, estimate in metrics.items():
                assert estimate.value == pytest.approx(expected[f"{metric},none"], rel=OF_FLOAT32)
                error = expected[f"{metric}_stderr,none"]
                error = None if error == "N/A" else pytest.approx(error, rel=OF_FLOAT32)
                assert estimate.standard_error == error
                compared += estimate.standard_error is not None
    assert compared >= 8
    assert made["local_words"].metrics["perplexity"].items == 6
    assert set(made["local_group"].parts["task"]) == {"local_choices", "local_more"}
    assert made["local_group"].metrics["acc"].items == 12


@pytest.mark.filterwarnings("default")
def test_headless_backward_and_masked_models(adapter, runs, tasks):
    names = ["local_words", "local_bits", "local_group"]

    def found(name, **options):
        lm = open_model(runs / name, **options)
        return {o.task: o for o in adapter.harness(lm, names, include=tasks)}

    backward, masked = found("backward"), found("masked")
    own, raw = found("headless"), found("headless", raw_head=True)
    assert own["local_words"].metrics["perplexity"] != raw["local_words"].metrics["perplexity"]
    assert "acc" in own["local_words"].metrics
    assert "acc" not in backward["local_words"].metrics
    assert any("no greedy continuation" in note for note in backward["local_words"].notes)
    assert "acc" in backward["local_group"].metrics  # by the likelihood of the choices
    (note,) = backward["local_group"].notes
    assert note.startswith("a text is read behind <|bos|> (id ")
    assert backward["local_group"].method == "difference of joint log-likelihoods"
    assert masked["local_bits"].method == "pseudo-log-likelihood"
    assert any("not comparable" in note for note in masked["local_bits"].notes)
    for name in ("backward", "masked"):
        with pytest.raises(UserError, match=r"stands before a text|masked model"):
            adapter.harness(open_model(runs / name), ["local_written"], include=tasks)


@pytest.mark.filterwarnings("default")
def test_an_exported_headless_model_is_the_same_to_lm_eval(adapter, runs, tmp_path):
    lm = open_model(runs / "headless")
    theirs = hflm(export_model(lm, tmp_path / "exported"))
    whole = instances("loglikelihood", [("", text[:40]) for text in sentences(5, seed=2)])
    made = adapter.HarnessModel(lm).loglikelihood(whole)  # both read BOS and the text
    expected = theirs.loglikelihood(whole)
    assert [n for n, _ in made] == near([n for n, _ in expected])


@pytest.mark.filterwarnings("default")
def test_the_command(adapter, gpt2, tasks, tmp_path, capsys):
    choices = tmp_path / "mine.jsonl"
    choices.write_text(json.dumps({"context": "the", "choices": [" model", " x"], "answer": 0}))
    out = tmp_path / "out"
    named = ["--tasks", f"choices={choices}", "local_group", "--include", str(tasks)]
    more = ["--limit", "4", "--out", str(out), "--device", "cpu"]
    assert main(["evaluate", str(gpt2), *named, *more]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("choices", "local_group", "local_more", "acc norm"))
    mine, group = json.loads((out / "results.json").read_text())["tasks"]
    assert mine["task"] == "choices"
    assert group["source"].startswith("lm-eval ")
    assert group["parts"]["task"]["local_more"]["acc"]["items"] == 4
    assert group["available"] == 12
    assert group["metrics"]["acc"]["standard_error"] > 0


def test_the_commands_mistakes(adapter, gpt2, tasks, tmp_path, capsys, monkeypatch):
    def mistake(*arguments: str) -> str:
        assert main(["evaluate", str(gpt2), "--device", "cpu", "--tasks", *arguments]) == 2
        return capsys.readouterr().err

    assert "no such folder" in mistake("local_bits", "--include", str(tmp_path / "no"))
    assert "--limit 0" in mistake("local_bits", "--include", str(tasks), "--limit", "0")
    (tmp_path / "words.jsonl").unlink()
    assert "cannot load local_words" in mistake("local_words", "--include", str(tasks))
    # lm-eval's own list is long; here it is the local one
    whole = adapter.TaskManager
    monkeypatch.setattr(
        adapter, "TaskManager", lambda include_path, **_: whole(
            include_path=include_path, include_defaults=False
        )
    )  # fmt: skip
    assert "near it: local_bits" in mistake("local_bit", "--include", str(tasks))


def test_what_generation_cannot_do(adapter, gpt2):
    own = adapter.HarnessModel(open_model(gpt2))

    def written(**settings: Any) -> list[str]:
        return own.generate_until(instances("generate_until", [("the", settings)]))

    with pytest.raises(UserError, match="generates with typical_p, which lmlab does not do"):
        written(typical_p=0.9, max_gen_toks=3)
    with pytest.raises(UserError, match="256 new tokens are asked for"):
        written(until="\n")
    assert written(max_gen_toks=3, top_p=1, do_sample=True, temperature=2.0) == written(
        max_new_tokens=3, do_sample=True, temperature=2.0
    )


def test_without_lm_eval(gpt2, capsys, monkeypatch):
    for name in ["lm_eval", *(n for n in sys.modules if n.startswith("lm_eval."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "lmlab.integrations.lm_eval", raising=False)
    assert main(["evaluate", str(gpt2), "--tasks", "hellaswag"]) == 2
    said = capsys.readouterr().err
    assert "pip install -e '.[eval]'" in said
    assert "KIND=SOURCE" in said
    assert main(["evaluate", str(gpt2), "--tasks", "blimp=x", "--include", "."]) == 2
    assert "--include is where lm-eval tasks" in capsys.readouterr().err


def test_continuations_of_own_models(runs, text_store):
    """Those of prompts of several lengths, a batch at a time, are what greedy steps give."""
    lm: LanguageModel = open_model(runs / "headless")
    prompts = ["the model", "", "a window", "reads and writes " * 20]
    made = continuations(lm, prompts, tokens=5)
    for prompt, text in zip(prompts, made, strict=True):
        ids = [lm.tokenizer.bos_id, *lm.tokenizer.encode(prompt)[-(CONTEXT - 5) :]]
        new: list[int] = []
        for _ in range(5):
            with torch.no_grad():
                logits_V = lm.model(input_ids=torch.tensor([ids + new])).logits[0, -1]
            new.append(int(logits_V.argmax()))
            if new[-1] == lm.tokenizer.end_of_text_id:
                break
        assert text == lm.tokenizer.decode(new)
    with pytest.raises(UserError, match="context of 48"):
        continuations(lm, prompts, tokens=48)
