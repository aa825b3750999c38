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
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from helpers import WORDS, tiny_training
from lmlab.config.model import MASKED, ModelConfig
from lmlab.data.tokenizers import Surround, TextTokenizer, load_tokenizer, train_bpe
from lmlab.lm.export import export_model
from lmlab.lm.language_model import open_model
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.training.loop import train
from tolerances import NATS_A_TOKEN

STRANGER = """
import json, sys

assert "lmlab" not in sys.modules
try:
    import lmlab
except ImportError:
    pass
else:
    raise AssertionError("lmlab can be imported here")

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
    nats = []
    for prefix, completion in asked["items"]:
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
                logits = network(input_ids=ids[None]).logits[0].double()
                logits = logits[[at - 1 for at in chosen]]
            scores = torch.log_softmax(logits, -1).gather(1, ids[chosen][:, None])
        nats.append(float(scores.sum()))
    answers.append(nats)
json.dump(answers, open(sys.argv[2], "w"))
"""
BPE = train_bpe([" ".join(WORDS) * 3], 300)


def ask_a_stranger(
    folders: dict[str, tuple[Path, bool]], items: list[tuple[str, str]], scratch: Path,
    *, own_code: tuple[str, ...] = (),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Nats of each item (prefix, completion) by each folder's model, which may be masked."""
    models = [
        {"folder": str(folder), "masked": masked, "own_code": name in own_code}
        for name, (folder, masked) in folders.items()
    ]
    asked, answered = scratch / "asked.json", scratch / "answered.json"
    asked.write_text(json.dumps({"models": models, "items": items}))
    code = f"import sys; sys.modules['lmlab'] = None\n{STRANGER}".replace(
        'assert "lmlab" not in sys.modules\n', ""
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(asked), str(answered)],
        capture_output=True, text=True, cwd=scratch,
        env={**environment, "HF_MODULES_CACHE": str(scratch / "modules"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {
        name: np.array(nats)
        for name, nats in zip(folders, json.loads(answered.read_text()), strict=True)
    }


def by_lmlab(folder: Path, items: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens of each item."""
    requests = [Request(*item, str(n)) for n, item in enumerate(items)]
    scored = log_likelihoods(open_model(folder), requests)
    return scored.nats_N, scored.tokens_N


PAIRS = [
    ("the windows read a text .", "the window read a text ."),
    ("every model learns in time .", "every models learns in time ."),
    ("Naïve café, 東京!", "Naïve 東京, café!"),
    ("a", "the"),
]
ITEMS = [("", text) for pair in PAIRS for text in pair]
ITEMS += [("the model reads", " many tokens"), ("the model reads", " many small tokens .")]


def trained(store, out: Path, architecture: Any, **changes: Any) -> Path:
    """An export of a model whose weights are far from uniform predictions."""
    objective = "masked" if architecture in MASKED else "causal"
    recurrent = architecture in ("gru", "lstm")
    model = ModelConfig(
        architecture, layers=1, heads=None if recurrent else 2, width=16, initializer_range=0.5
    )
    settings = {"objective": objective, "model": model, "context": 40, "steps": 1, **changes}
    run = train(tiny_training(store, out / "run", evaluate_every=1, **settings))
    return export_model(open_model(run.path), out / "export")


STOCK = ("gpt2", "neox", "llama", "qwen3", "bert", "modernbert", "distilbert")


def test_a_stranger_scores_what_lmlab_scores(text_store, tmp_path):
    """Was: the saved tokenizer added no BOS, and a stranger's script scored something else."""
    folders = {name: (trained(text_store, tmp_path / name, name), name in MASKED) for name in STOCK}
    theirs = ask_a_stranger(folders, ITEMS, tmp_path)
    for name, (folder, _) in folders.items():
        nats_N, tokens_N = by_lmlab(folder, ITEMS)
        assert (np.abs(theirs[name] - nats_N) <= NATS_A_TOKEN * tokens_N).all(), name
        assert np.ptp(nats_N[:-2] / tokens_N[:-2]) > 0.1, "items that any model scores alike"


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
