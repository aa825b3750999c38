"""A model saved by lmlab scores the same in a stranger's script: plain transformers, the saved
tokenizer called plainly, no lmlab to import.

The script is the logic of BabyLM's official evaluation as its facts are written down (repository
babylm-org/babylm-eval, November 2026), in our words: nothing is added by hand to what the tokenizer
gives. A causal model's token is scored from those before it, the first one only if something stands
before it; of a masked model each token of the completion is masked alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer

import lmlab
from helpers import WORDS, tiny_training
from lmlab.config.model import MASKED, ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.config.training import ParentConfig
from lmlab.data.tasks import LastWord, Task, read_suite
from lmlab.data.tokenizers import Surround, TextTokenizer, load_tokenizer, train_bpe
from lmlab.durable import write_json
from lmlab.errors import UserError
from lmlab.lm.card import source_name
from lmlab.lm.export import export_model, write_model
from lmlab.lm.language_model import open_model
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.models.narrow import with_narrow_head
from lmlab.topics.scoring.predictions import predictions
from lmlab.topics.scoring.zero_shot import zero_shot
from lmlab.training.loop import train
from tolerances import NATS_A_TOKEN

STRANGER = """
import json, sys

sys.modules["lmlab"] = None  # as if it were not installed: importing it is an ImportError
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

torch.set_num_threads(1)
asked = json.load(open(sys.argv[1]))
answers = []
for model in asked["models"]:
    kind = AutoModelForMaskedLM if model["masked"] else AutoModelForCausalLM
    options = {"trust_remote_code": model["own_code"]}
    tokenizer = AutoTokenizer.from_pretrained(model["folder"], **options)
    network, info = kind.from_pretrained(
        model["folder"], dtype=torch.float32, output_loading_info=True, **options
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    network.eval()
    backward = getattr(network.config, "lmlab_order", "forward") == "backward"
    said = getattr(network, "generation_config", None)
    assert backward == hasattr(said, "lmlab_reads")
    nats = []
    for prefix, completion in model["items"]:
        encoded = tokenizer(prefix + completion, return_offsets_mapping=True)
        ids = torch.tensor(encoded["input_ids"])
        assert len(ids) <= tokenizer.model_max_length
        chosen = [
            at for at, (start, stop) in enumerate(encoded["offset_mapping"])
            if stop > start and stop > len(prefix)
        ]
        with torch.no_grad():
            if model["masked"]:
                rows = ids.repeat(len(chosen), 1)
                for row, at in enumerate(chosen):
                    rows[row, at] = tokenizer.mask_token_id
                logits = network(input_ids=rows).logits.double()
                logits = torch.stack([logits[row, at] for row, at in enumerate(chosen)])
            else:
                assert encoded["offset_mapping"][0][1] == 0, "nothing stands before the first token"
                if backward:  # as its model card says; whole texts only
                    ids = torch.cat([ids[:1], ids[1:].flip(0)])
                logits = network(input_ids=ids[None]).logits[0].double()
                logits = logits[[at - 1 for at in chosen]]
            scores = torch.log_softmax(logits, -1).gather(1, ids[chosen][:, None])
        nats.append(float(scores.sum()))
    answers.append(nats)
json.dump(answers, open(sys.argv[2], "w"))
"""
BPE = train_bpe([" ".join(WORDS) * 3], 300)


class Saved(NamedTuple):
    """A model that was exported, and what it is asked."""

    folder: Path
    masked: bool
    items: list[tuple[str, str]]
    own_code: bool = False


def ask_a_stranger(models: dict[str, Saved], scratch: Path) -> dict[str, np.ndarray]:
    """Nats of each model's items (prefix, completion), in a process that cannot import lmlab."""
    asked, answered = scratch / "asked.json", scratch / "answered.json"
    plain = [{**saved._asdict(), "folder": str(saved.folder)} for saved in models.values()]
    asked.write_text(json.dumps({"models": plain}))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(asked), str(answered)],
        capture_output=True, text=True, cwd=scratch,
        env={**environment, "HF_MODULES_CACHE": str(scratch / "modules"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {
        name: np.array(nats)
        for name, nats in zip(models, json.loads(answered.read_text()), strict=True)
    }


def by_lmlab(saved: Saved) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens of each of a model's items."""
    requests = [Request(*item, str(n)) for n, item in enumerate(saved.items)]
    scored = log_likelihoods(open_model(saved.folder), requests)
    return scored.nats_N, scored.tokens_N


PAIRS = [
    ("the windows read a text .", "the window read a text ."),
    ("every model learns in time .", "every models learns in time ."),
    ("Naïve café, 東京!", "Naïve 東京, café!"),
    ("a", "the"),
]
WHOLE = [("", text) for pair in PAIRS for text in pair]
ITEMS = [*WHOLE, ("the model reads", " many tokens"), ("the model reads", " many small tokens .")]


def zorro() -> list[tuple[str, str]]:
    """Pairs (good, bad): one of each paradigm of Zorro where that lies beside the checkout, else
    some like them."""
    beside = (parent / "shared" / "data" / "zorro" for parent in Path(__file__).parents)
    files = next((sorted(f.glob("*.txt")) for f in beside if f.is_dir()), [])
    lines = [file.read_text().splitlines() for file in files if file.stem != "SOURCE"]
    return [(good, bad) for bad, good, *_ in lines] or [
        (f"{w} {noun} is there ?", f"{w} {noun}s is there ?")
        for w in ("which", "look at this") for noun in ("cat", "red book", "small model")
    ]  # fmt: skip


def official_tasks(folder: Path) -> list[Task]:
    """Zorro's pairs, COMPS, EWoK's form and entity tracking; EWoK's second is a tie."""
    ewok = {"Context1": "the model reads", "Context2": "a text", "Target1": "many",
            "Target2": "the", "Domain": "d"}  # fmt: skip
    comps = {"prefix_acceptable": "the model", "prefix_unacceptable": "every window",
             "property_phrase": "reads a text ."}  # fmt: skip
    boxes = {"input_prefix": "Box 1 has the text. Box 1 has", "numops": 0,
             "options": [" the text.", " a model", " the model."]}  # fmt: skip
    files = {
        "zorro/all-of.txt": [line for good, bad in zorro() for line in (bad, good)],
        "comps/comps_base.jsonl": [json.dumps(comps)],
        "ewok/d.jsonl": [json.dumps(ewok), json.dumps({**ewok, "Target2": "many"})],
        "entity_tracking/regular.jsonl": [json.dumps(boxes)],
    }
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("\n".join(lines))
    return list(read_suite(folder).tasks)


RECURRENT = ModelConfig("gru", layers=1, width=16, initializer_range=0.5)


def attention(architecture: Any, *, tied: bool = False) -> ModelConfig:
    """Weights so large that predictions are far from uniform."""
    return ModelConfig(architecture, layers=1, heads=2, width=16, initializer_range=0.5, tied=tied)


STOCK: dict[str, dict[str, Any]] = {
    **{name: {"model": attention(name)} for name in ("gpt2", "neox", "llama", "qwen3")},
    **{name: {"model": attention(name), "objective": "masked"} for name in MASKED},
    "gpt2, its bias folded": {
        "model": attention("gpt2", tied=True), "objective": "headless", "output_bias": "fixed",
    },
    "backward": {"model": attention("qwen3"), "order": "backward"},
}  # fmt: skip
OURS: dict[str, dict[str, Any]] = {
    "gru": {"model": RECURRENT},
    "lstm, with a bias": {
        "model": replace(RECURRENT, architecture="lstm", tied=True), "objective": "headless",
        "output_bias": "fixed",
    },
    **{
        f"{name}, with a bias": {
            "model": attention(name, tied=True), "objective": "headless", "output_bias": "fixed",
        }
        for name in ("llama", "qwen3")
    },
    "towers": {"model": attention("gpt2"), "objective": "towers"},
    "towers, a mixture, masked": {
        "model": attention("bert"), "objective": "towers-masked",
        "towers": TowersConfig(fusion="mixture", gate="learnt"),
    },
    "towers, recurrent": {"model": RECURRENT, "objective": "towers"},
}  # fmt: skip


def exported(store, out: Path, **settings: Any) -> Path:
    settings = {"context": 40, "steps": 1, "evaluate_every": 1, **settings}
    return export_model(open_model(train(tiny_training(store, out / "run", **settings)).path),
                        out / "export")  # fmt: skip


def narrow(of: Path, out: Path, *, projected: bool) -> Path:
    """The model of `of` with a head of half its dimensions."""
    lm = open_model(of)
    weight_VD = lm.model.get_output_embeddings().weight.detach()
    kept_E = torch.arange(0, weight_VD.shape[1], 2)
    turned_DE = torch.eye(weight_VD.shape[1])[:, kept_E].flip(0)
    how: dict[str, Any] = {"projection_DE": turned_DE} if projected else {"kept_E": kept_E}
    bias_V = torch.linspace(-1, 1, len(weight_VD))
    write_model(lm, with_narrow_head(lm.model, weight_VD[:, kept_E], bias_V, **how), out)
    return out


@pytest.fixture(scope="module")
def strangers(text_store, tmp_path_factory) -> tuple[dict[str, Saved], dict[str, np.ndarray]]:
    """All models, and what the stranger's script says of their items: one process for all."""
    scratch = tmp_path_factory.mktemp("strangers")
    models: dict[str, Saved] = {}
    for name, settings in {**STOCK, **OURS}.items():
        folder = exported(text_store, scratch / name, **settings)
        # a backward model scores a continuation as a difference of two texts
        items = WHOLE if name == "backward" else ITEMS
        models[name] = Saved(folder, "masked" in settings.get("objective", ""), items, name in OURS)
    for name in ("gpt2", "neox", "llama", "qwen3"):
        projected = name in ("gpt2", "llama")
        folder = narrow(models[name].folder, scratch / f"{name}, narrow", projected=projected)
        models[f"{name}, narrow"] = Saved(folder, False, ITEMS, True)
    tasks = official_tasks(scratch / "data")
    pairs = [option for task in tasks for item in task.items for option in item.options]
    for name in ("qwen3", "bert"):
        folder = exported(text_store, scratch / f"zorro {name}", **STOCK[name], context=128)
        models[f"zorro {name}"] = Saved(folder, name in MASKED, pairs)
    return models, ask_a_stranger(models, scratch)


def test_a_stranger_scores_what_lmlab_scores(strangers):
    """Was: the saved tokenizer added no BOS, and a stranger's script scored something else; models
    of our own classes could not be opened without lmlab at all."""
    for name, saved in strangers[0].items():
        nats_N, tokens_N = by_lmlab(saved)
        apart_N = np.abs(strangers[1][name] - nats_N)
        assert (apart_N <= NATS_A_TOKEN * tokens_N).all(), name
        assert np.ptp(nats_N / tokens_N) > 0.02, f"{name}: items that it scores alike show nothing"
        config = json.loads((saved.folder / "config.json").read_text())
        assert ("auto_map" in config) == saved.own_code
        assert ("lmlab_order" in config) == (name == "backward")


@pytest.mark.parametrize("name", ["zorro qwen3", "zorro bert"])
def test_the_official_choice_is_that_of_evaluate(strangers, tmp_path, name):
    """The largest of a stranger's sums wins, and of a tie the first, which is the right one: there
    a tie is right, here it is worth one half."""
    saved, nats_N = strangers[0][name], strangers[1][name]
    lm, at = open_model(saved.folder), 0
    for task in official_tasks(tmp_path / "data"):
        score = zero_shot(lm, task)
        official = []
        for item in task.items:
            assert not isinstance(item, LastWord)
            official.append(float(nats_N[at : at + len(item.options)].argmax() == 0))
            at += len(item.options)
        if task.kind == "ewok":
            assert (official[1], score.values["accuracy"][1], score.ties) == (1.0, 0.5, 1)
            official[1] = 0.5
        else:
            assert score.ties == 0
        assert score.values["accuracy"].tolist() == official
        chosen = [p["pred"] for of_subset in predictions(task, score).values() for p in of_subset]
        right = [item.texts[0] for item in task.items if not isinstance(item, LastWord)]
        for text, good, value in zip(chosen, right, official, strict=True):
            assert value == 0.5 or (text == good) == (value == 1)
    assert at == len(nats_N)


@pytest.mark.parametrize("name", ["qwen3", "bert", "backward"])
def test_the_lines_of_a_model_card_load_the_model(strangers, monkeypatch, name):
    folder = strangers[0][name].folder
    card = (folder / "README.md").read_text()
    about = {"text": "the model reads"}
    monkeypatch.chdir(folder.parent)
    exec(card.partition("```python\n")[2].partition("```")[0], about)  # noqa: S102 - our own
    lm = open_model(folder)
    ids = lm.tokenizer.encode("the model reads")
    if name == "backward":
        assert "**It reads backward**" in card
        ids = ids[::-1]
    last = [lm.tokenizer.end_of_text_id] if name == "bert" else []
    assert about["ids"] == [lm.tokenizer.bos_id, *ids, *last]
    assert type(about["model"]) is type(lm.model)
    assert ("pipeline_tag: fill-mask" in card) == (name == "bert")
    assert "1 steps of 4 windows" in card
    assert str(folder.parent) not in card  # no place of this machine


def test_the_card_has_the_scores_that_it_is_given(strangers, text_store, tmp_path):
    run, other = (strangers[0][name].folder.parent / "run" for name in ("gpt2", "llama"))
    result = lmlab.score(run, text_store)
    write_json(tmp_path / "scores" / "results.json", result.to_json())
    folder = lmlab.export(run, tmp_path / "e", scores=[tmp_path / "scores"])
    row = r"\| all \| [\d.]+ \| [\d.]+ \| [\d.]+ \|"  # estimate and interval
    assert re.search(row, (folder / "README.md").read_text())
    with pytest.raises(UserError, match=r"no scores of .*llama.*, but of .*gpt2"):
        lmlab.export(other, tmp_path / "o", scores=[tmp_path / "scores"])


def test_what_an_export_says_of_itself_is_not_said_of_its_children(strangers, text_store, tmp_path):
    """Backward order and the code of a class are of the folder that has them."""
    for name in ("backward", "gru"):
        child = {"parent": ParentConfig(path=str(strangers[0][name].folder)), "steps": 2}
        run = train(tiny_training(text_store, tmp_path / name, model=ModelConfig(), **child))
        said = json.loads((run.checkpoint / "config.json").read_text())
        assert not {"auto_map", "lmlab_order", "lmlab_reads"} & said.keys()
    config = ModelConfig("auto", path=str(strangers[0]["backward"].folder))
    run = train(tiny_training(text_store, tmp_path / "auto", model=config, steps=2))
    assert "lmlab_order" not in json.loads((run.checkpoint / "config.json").read_text())


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("before", [None, "ByteLevel", "Roberta", "Bert"])
def test_a_saved_tokenizer_adds_what_training_adds(tmp_path, ends, before):
    """And lmlab reads from it the very tokenizer that it was, of the same fingerprint."""
    own: Any = {
        None: None,
        "ByteLevel": processors.ByteLevel(trim_offsets=True),
        "Roberta": processors.RobertaProcessing(("z", 3), ("y", 2), trim_offsets=True),
        "Bert": processors.BertProcessing(("z", 3), ("y", 2)),
    }[before]
    backend = type(BPE.backend).from_str(BPE.backend.to_str())
    if own is not None:
        backend.post_processor = own
    plain = TextTokenizer(backend, bos_id=BPE.bos_id, end_of_text_id=BPE.end_of_text_id)
    saved = plain.with_mask() if ends else plain
    for name, data in saved.files(Surround(ends=ends, longest=9)).items():
        (tmp_path / name).write_bytes(data)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "small café"
    ids = plain.encode(text).tolist()
    last = [plain.end_of_text_id] if ends else []
    whole = theirs(text, return_offsets_mapping=True)
    assert whole["input_ids"] == [plain.bos_id, *ids, *last]
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    ((_, spans_n2),) = plain.encode_with_spans([text])
    inner = whole["offset_mapping"][1 : len(ids) + 1]
    assert inner == [tuple(span) for span in spans_n2.tolist()]
    assert all(whole["offset_mapping"][at] == (0, 0) for at in (0, *([-1] if ends else [])))
    assert theirs.model_max_length == 9
    assert theirs.pad_token_id == plain.end_of_text_id
    assert (theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id) == (
        (plain.bos_id, plain.end_of_text_id, saved.mask_id) if ends else (None, None, None)
    )
    pair = theirs("a", "the")["input_ids"]
    assert pair == [plain.bos_id, *plain.encode("a"), plain.end_of_text_id, *plain.encode("the"),
                    *last]  # fmt: skip
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == plain.fingerprint
    assert again.encode(text).tolist() == ids
    assert again.files() == saved.files()  # as a store of it is written


def test_a_card_names_sources_and_no_place_of_this_machine():
    """As `prepare` records them in a store."""
    parts = [
        {"file": "/home/me/novel.txt", "sha256": "0" * 64},
        {"hub": "hf:me/texts", "revision": "1a2b"},
        {"hub": "hf:me/texts", "revision": None},
        {"docstrings:python": {"python": "3.11.7"}},
        "primes",
    ]
    names = ["novel.txt", "hf:me/texts@1a2b", "hf:me/texts", "docstrings:python", "primes"]
    assert [source_name(part) for part in parts] == names
