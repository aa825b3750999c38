"""benchmarks/decomposition_reading.py: what it computes itself, and a whole run in small."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, PreTrainedTokenizerFast

from helpers import script, sentences
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig, prepare
from lmlab.data.splits import SplitConfig
from lmlab.data.tokenizers import TokenizerConfig
from lmlab.lm.encoder import open_encoder

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "decomposition_reading.py"


@cache
def _script():
    return script(SCRIPT)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> dict[str, str]:
    """A random causal and a random bidirectional model, each with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("pair")
    small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "max_position_embeddings": 512}  # fmt: skip
    paths = {}
    for seed, (name, kind) in enumerate((("causal", "LlamaConfig"), ("masked", "BertConfig"))):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        special = ["<s>", "</s>"]
        backend.train_from_iterator(
            sentences(40, seed=9 + seed),
            trainers.BpeTrainer(
                vocab_size=300 + 60 * seed, special_tokens=special, show_progress=False,
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            ),
        )  # fmt: skip
        if name == "masked":
            ids = [(token, backend.token_to_id(token)) for token in special]
            backend.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>", special_tokens=ids
            )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
        )
        torch.manual_seed(seed)
        config = getattr(transformers, kind)(**small, vocab_size=len(tokenizer))
        AutoModel.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        paths[name] = str(folder / name)
    return paths


def test_one_pass_gives_what_every_length_and_pooling_would_give_by_itself(pair, monkeypatch):
    reading = _script()
    texts = {12: sentences(5, seed=3), 6: []}
    texts[6] = [text[: text.index(" ", 12)] for text in texts[12]]
    for name, causal in (("causal", True), ("masked", False)):
        encoder = open_encoder(pair[name])
        encoded = {n: encoder.encode(t) for n, t in texts.items()}
        passes = []
        states = reading.hidden_states
        monkeypatch.setattr(
            reading, "hidden_states", lambda *a, s=states, p=passes: p.append(len(a[1])) or s(*a)
        )
        made = reading.rows_of_part(encoder, encoded, causal=causal)
        monkeypatch.undo()
        assert sum(passes) == (5 if causal else 10)
        for length, pieces in encoded.items():
            assert made[f"{length} positions"].tolist() == [len(p.ids_T) for p in pieces]
            for i, piece in enumerate(pieces):
                with torch.no_grad():
                    ids = torch.from_numpy(piece.ids_T)[None]
                    states_TD = encoder.body(ids).last_hidden_state[0].numpy()
                for pooling, expected_D in (
                    ("mean", states_TD[piece.text_T].mean(0)),
                    ("first", states_TD[0]),
                    ("last", states_TD[-1]),
                    ("published", states_TD.sum(0)),
                ):
                    row_D = made[f"{length} {pooling}"][i]
                    np.testing.assert_allclose(row_D, expected_D, rtol=1e-4, atol=1e-5)


def test_texts_end_with_a_whole_word():
    whole = _script()._whole_words
    text = "one two three"
    assert whole(text, 3) == "one"
    assert whole(text, 5) == "one"
    assert whole(text, 4) == "one"
    assert whole(text, 7) == "one two"
    assert whole(" one", 3) == " on"
    assert whole(text, len(text)) == "one two"  # nobody knows whether the word goes on


def test_limit_and_expected_are_those_of_least_squares():
    reading = _script()
    rng = np.random.default_rng(0)
    n, p, noise = 300, 60, 0.5
    inside, outside = [], []
    for _ in range(40):
        z, test_z = rng.normal(size=(n, p)), rng.normal(size=(2000, p))
        true = rng.normal(size=p) / np.sqrt(p)
        u, test_u = (x @ true + noise * rng.normal(size=len(x)) for x in (z, test_z))
        design = np.column_stack([z, np.ones(n)])
        fit = np.linalg.lstsq(design, u, rcond=None)[0]
        inside.append(1 - ((u - design @ fit) ** 2).mean() / u.var())
        left = test_u - np.column_stack([test_z, np.ones(len(test_z))]) @ fit
        outside.append(1 - (left**2).mean() / test_u.var())
    limit = np.mean([reading.limit(r2, n, p) for r2 in inside])
    assert limit == pytest.approx(1 / (1 + noise**2), abs=0.02)
    assert np.mean(outside) == pytest.approx(reading.expected(limit, n, p), abs=0.01)


def test_a_whole_run_in_small(pair, tmp_path, monkeypatch, capsys):
    for number, text in enumerate(sentences(400, seed=4)):
        (tmp_path / "texts").mkdir(exist_ok=True)
        with (tmp_path / "texts" / f"{number % 40:02d}.txt").open("a") as file:
            file.write(text + " ")
    config = PrepareConfig(
        corpus=CorpusConfig((str(tmp_path / "texts"),)),
        tokenizer=TokenizerConfig(kind="pretrained", name=pair["causal"]),
        split=SplitConfig(0.2, 0.3),
        out=tmp_path / "store",
    )
    prepare(config)
    command = [
        "x", str(tmp_path / "store"), *pair.values(), "--lab", str(tmp_path / "lab"), "--lengths",
        "6", "12", "24", "--length", "12", "--train", "40", "--paired", "30", "--validation", "12",
        "--test", "24",
    ]  # fmt: skip
    monkeypatch.setattr(_script(), "COMPONENTS", 4)
    monkeypatch.setattr(sys, "argv", command)
    _script().main()
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "lab" / "results.json").read_text())
    assert [row["what"] for row in found["contrasts"]] == [
        f"{target} from {basis}: {what}"
        for target, basis in (("causal", "masked"), ("masked", "causal"))
        for what in (
            "published less mean", "in sample less held out, 16 rows", "trained less untrained",
        )
    ]  # fmt: skip
    assert {row["untrained"] for row in found["pairs, paired rows"]} == {True, False}
    assert "| what | difference | p | by Holm |" in printed
    widths = {(row["components"], row["rows per dimension"]) for row in found["rows per dimension"]}
    assert (None, 2.0) in widths
    assert (4, 9.0) in widths
    # what was read is kept, and read again only where it is missing
    monkeypatch.setattr(_script(), "rows_of_part", pytest.fail)
    _script().main()
    assert json.loads((tmp_path / "lab" / "results.json").read_text()) == found
