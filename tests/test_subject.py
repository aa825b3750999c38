"""LanguageModel, score and sample: any model through one door, scored as the library would.

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from helpers import id_store, random_documents, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.training import OptimizerConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.lm.sampling import sample
from lmlab.run_folders.checkpoint import checkpoint_folder
from lmlab.topics.scoring.score import Score, score
from lmlab.training.loop import train
from tolerances import NATS_A_TOKEN, near

FAST = OptimizerConfig(learning_rate=1e-2)


def trained(store, out, architecture: Any = "gpt2", order="forward", **changes):
    model = ModelConfig(
        architecture, layers=1, width=16, heads=None if architecture in ("gru", "lstm") else 2
    )
    settings = {"context": 16, "steps": 30, "optimizer": FAST, "model": model, **changes}
    train(tiny_training(store, out, order=order, **settings))
    return out


@pytest.fixture(scope="module")
def runs(text_store, tmp_path_factory):
    """Runs on real text: GPT-2 forward and backward, a GRU backward."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "forward": trained(text_store, folder / "forward"),
        "backward": trained(text_store, folder / "backward", order="backward"),
        "gru": trained(text_store, folder / "gru", "gru", order="backward"),
        "permutation": trained(text_store, folder / "permutation", order="permutation:1"),
        # documents are shorter and longer than this, so windows are padded to several lengths
        "long": trained(text_store, folder / "long", order="backward", context=100, steps=6),
    }


@pytest.fixture
def plain_folder(text_store, tmp_path):
    """A model made by transformers alone, with a tokenizer it can read."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_positions=24, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "plain")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=text_store.tokenizer.backend,
        bos_token="<|bos|>",
        eos_token="<|endoftext|>",
    )
    tokenizer.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


# opening


@pytest.mark.parametrize("name", ["forward", "backward", "gru", "permutation"])
def test_a_run_and_its_checkpoints_open(runs, text_store, name):
    lm = open_model(runs[name])
    assert lm.order == {"gru": "backward", "permutation": "permutation:1"}.get(name, name)
    assert (lm.head, lm.context) == ("untied", 16)
    assert lm.record["step"] == 30
    assert lm.tokenizer.fingerprint == text_store.tokenizer.fingerprint
    assert lm.name == str(runs[name])
    assert not lm.model.training
    early = open_model(checkpoint_folder(runs[name], 2))
    assert early.record["step"] == 2
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        assert not torch.equal(early.backbone.logits(ids), lm.backbone.logits(ids))


@pytest.mark.parametrize("name", ["forward", "gru"])
def test_logits_are_the_librarys_to_the_bit(runs, name):
    lm = open_model(runs[name])
    library = AutoModelForCausalLM.from_pretrained(
        checkpoint_folder(runs[name], 30), dtype=torch.float32
    )
    ids = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(lm.backbone.logits(ids), library(input_ids=ids).logits)
        if name == "forward":
            for model in (lm.model, library):
                model.set_attn_implementation("eager")
            assert torch.equal(lm.backbone.logits(ids), library(input_ids=ids).logits)


def test_a_run_opens_at_its_newest_whole_checkpoint(runs, tmp_path):
    run = shutil.copytree(runs["forward"], tmp_path / "run")
    newest = checkpoint_folder(run, 30) / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert open_model(run).record["step"] == 28
    with pytest.raises(UserError, match=r"model\.safetensors: missing, truncated or changed"):
        open_model(checkpoint_folder(run, 30))
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"run: no usable checkpoint \(it has none yet\)"):
        open_model(run)


def test_a_checkpoint_with_another_tokenizer_is_refused(runs, small_store, tmp_path):
    folder = shutil.copytree(checkpoint_folder(runs["forward"], 30), tmp_path / "c")
    (folder / "manifest.json").unlink()  # copied by hand: nothing else vouches for the files
    assert open_model(folder).record["step"] == 30
    for name, data in small_store.tokenizer.files().items():
        (folder / name).write_bytes(data)
    with pytest.raises(UserError, match="the tokenizer is not the one this model was trained with"):
        open_model(folder)
    for text in ("{}", '{"format": "lmlab model 1"}'):
        (folder / "lmlab.json").write_text(text)
        with pytest.raises(UserError, match=r"lmlab\.json"):
            open_model(folder)


def test_a_plain_transformers_folder_opens(plain_folder, text_store):
    lm = open_model(plain_folder)
    assert (lm.order, lm.head, lm.context) == ("forward", "tied", 24)
    assert lm.record == {}
    text = "the model reads"
    assert lm.tokenizer.encode(text).tolist() == text_store.tokenizer.encode(text).tolist()
    library = GPT2LMHeadModel.from_pretrained(plain_folder)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(lm.backbone.logits(ids), library(input_ids=ids).logits)


def test_pickled_weights_are_refused(plain_folder):
    weights = GPT2LMHeadModel.from_pretrained(plain_folder).state_dict()
    (plain_folder / "model.safetensors").unlink()
    torch.save(weights, plain_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"plain: the model cannot be loaded: .*safetensors"):
        open_model(plain_folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('run!')")
    with pytest.raises(UserError, match="neither a run, a checkpoint, nor a transformers model"):
        open_model(tmp_path)


def test_what_is_no_model(tmp_path, small_store):
    for path in (tmp_path, tmp_path / "nothing", small_store.path):
        with pytest.raises(
            UserError, match="neither a run, a checkpoint, nor a transformers model"
        ):
            open_model(path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="architecture 'vit' is no causal or masked"):
        open_model(tmp_path)


# scoring


def by_library(lm, ids) -> np.ndarray:
    """Nats of each token of one window, from the library's own logits, in the model's order."""
    if lm.order == "backward":
        ids = ids[::-1].copy()
    sequence = torch.tensor([lm.tokenizer.bos_id, *ids.tolist()])
    with torch.no_grad():
        logits = lm.model(input_ids=sequence[None, :-1]).logits[0].double()
    return -torch.log_softmax(logits, -1)[torch.arange(len(ids)), sequence[1:]].numpy()


@pytest.mark.parametrize("name", ["forward", "backward", "gru", "long"])
def test_scores_are_the_librarys(runs, text_store, name):
    lm = open_model(runs[name])
    context = lm.context
    made = score(lm, text_store, batch=3)
    assert len({-(-n // 32) for n in made.tokens_M}) == (4 if name == "long" else 1)
    split = text_store.split("validation")
    row = 0
    position = np.zeros(context)
    reached = np.zeros(context)
    for start, tokens, _ in split.documents_M3:
        for at in range(start, start + tokens, context):
            ids = split.read(at, min(at + context, start + tokens))
            expected = by_library(lm, ids)
            position[: len(ids)] += expected
            reached[: len(ids)] += 1
            assert made.tokens_M[row] == len(ids)
            assert abs(made.nats_M[row] - expected.sum()) < NATS_A_TOKEN * len(ids)
            row += 1
    assert row == len(made.nats_M)
    starts = made.position_edges[:-1]
    assert (len(starts) < context) == (name == "long")  # positions of long windows are binned
    assert made.nats_Mb.sum(0) == near(np.add.reduceat(position, starts))
    assert np.array_equal(made.tokens_Mb.sum(0), np.add.reduceat(reached, starts))
    assert made.tokens_Mb.sum() == made.tokens == split.documents_M3[:, 1].sum()
    total = made.nats_M.sum()
    assert made.nats_per_token == pytest.approx(total / made.tokens)
    # bits per byte by hand, over the bytes of the text itself
    text = sum(
        len(text_store.tokenizer.decode(split.read(s, s + n)).encode())
        for s, n, _ in split.documents_M3
    )
    assert made.bits_per_byte == pytest.approx(total / np.log(2) / text)
    assert made.nats_per_token < np.log(300)


@pytest.mark.parametrize("name", ["forward", "gru", "long"])
def test_scores_do_not_depend_on_the_batch(runs, text_store, name):
    lm = open_model(runs[name])
    context = 90 if name == "long" else 13
    whole = score(lm, text_store, context=context)
    for batch in (1, 3, 1000):
        made = score(lm, text_store, context=context, batch=batch)
        assert np.abs(made.nats_M - whole.nats_M).max() < NATS_A_TOKEN
        assert made.nats_per_token == near(whole.nats_per_token)


def test_documents_have_the_names_that_the_store_has(runs, text_store):
    """They were "document 0", "document 1", whatever the files were called."""
    result = score(open_model(runs["forward"]), text_store, split="test")
    (table,) = [each for each in result.tables() if each.columns[0] == "document"]
    assert sorted(str(row[0]) for row in table.rows) == sorted(text_store.split("test").names)


def test_a_sample_of_windows_knows_its_bytes(runs, text_store):
    """It had bits per token alone: only a whole split's bytes were known."""
    lm = open_model(runs["forward"])
    made = score(lm, text_store, max_windows=5)
    windows = lm.windows(text_store, "validation", max_windows=5)
    texts = [text_store.tokenizer.decode(windows.ids(row)) for row in range(5)]
    sizes = [len(text.encode()) for text in texts]  # of ASCII text, so that no window cuts a letter
    assert made.text_bytes_M is not None
    assert made.text_bytes_M.tolist() == sizes
    assert made.bits_per_byte == near(made.nats_M.sum() / np.log(2) / sum(sizes))
    whole = score(lm, text_store, split="test")
    assert whole.bits_per_byte is not None
    assert whole.text_bytes_M is None


def test_the_interval_is_over_text(runs, text_store):
    made = score(open_model(runs["forward"]), text_store)
    interval = made.interval
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < made.nats_per_token < interval.high
    assert Score.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert made.clusters.clusters == len(text_store.split("validation").names)
    assert made.cluster_unit == "document"
    assert made.conditions == (
        "each token from BOS and those before it in the window; windows begin with <|bos|> (id 0)"
    )


def test_a_store_made_with_another_tokenizer_is_refused(runs, small_store):
    lm = open_model(runs["forward"])
    with pytest.raises(UserError) as caught:
        score(lm, small_store)
    message = str(caught.value)
    assert f"{small_store.path} was made with another tokenizer than {lm.name}" in message
    assert "lmlab prepare --tokenizer.kind pretrained --tokenizer.name" in message


def test_scorings_that_make_no_sense(runs, text_store):
    lm = open_model(runs["forward"])
    with pytest.raises(UserError, match=r"`context` 17: .* at most 16"):
        score(lm, text_store, context=17)
    with pytest.raises(UserError, match="no split 'nothing'"):
        score(lm, text_store, split="nothing")


def test_the_remedy_of_another_tokenizer_works(runs, text_folder, tmp_path):
    """What the message says to do makes a store that the model accepts."""
    from lmlab.data.documents import CorpusConfig
    from lmlab.data.prepare import PrepareConfig, prepare
    from lmlab.data.tokenizers import TokenizerConfig

    lm = open_model(runs["forward"])
    store = prepare(
        PrepareConfig(
            out=tmp_path / "s",
            corpus=CorpusConfig(text=(str(text_folder),)),
            tokenizer=TokenizerConfig(kind="pretrained", name=lm.model.name_or_path),
        )
    )
    assert score(lm, store).nats_per_token < np.log(300)


# sampling


@pytest.mark.parametrize("name", ["forward", "backward", "gru"])
def test_samples_are_repeatable_and_in_reading_order(runs, name):
    lm = open_model(runs[name])
    state = torch.get_rng_state()
    first = sample(lm, "the model", tokens=8, count=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert sample(lm, "the model", tokens=8, count=3, seed=1) == first
    assert sample(lm, "the model", tokens=8, count=3, seed=2) != first
    assert len(set(first.texts)) > 1
    for text, written in zip(first.texts, first.written, strict=True):
        assert text == (written + "the model" if lm.order == "backward" else "the model" + written)
    assert str(first) == "\n\n".join(first.texts)
    (passages,) = (section.passages for section in first.report.sections)
    assert ["".join(t for t, _ in passage.tokens) for passage in passages] == list(first.texts)


@pytest.mark.parametrize("name", ["forward", "backward", "gru"])
def test_the_likeliest_tokens_by_hand(runs, name):
    lm = open_model(runs[name])
    (written,) = sample(lm, "the", tokens=6, temperature=0).written
    ids = lm.tokenizer.encode("the").tolist()
    if lm.order == "backward":
        ids = ids[::-1]
    sequence, new = [lm.tokenizer.bos_id, *ids], []
    for _ in range(6):
        with torch.no_grad():
            best = int(lm.model(input_ids=torch.tensor([sequence])).logits[0, -1].argmax())
        if best == lm.tokenizer.end_of_text_id:
            break
        sequence.append(best)
        new.append(best)
    assert written == lm.tokenizer.decode(new[::-1] if lm.order == "backward" else new)
    assert written


def test_samples_follow_the_models_distribution(tmp_path):
    """An order-0 language: the frequencies of drawn symbols are the model's own probabilities."""
    store = id_store(
        tmp_path / "s",
        {
            n: random_documents(20, 40, 40, symbols=3, seed=i)
            for i, n in enumerate(("train", "validation"))
        },
        symbols=3,
    )
    lm = open_model(trained(store, tmp_path / "run", context=4, steps=5))
    # what a model's own files recommend for generation must not bend the distribution
    lm.model.generation_config.top_k = 1
    lm.model.generation_config.top_p = 0.01
    lm.model.generation_config.repetition_penalty = 3.0
    drawn = sample(lm, tokens=1, count=4000)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([[lm.tokenizer.bos_id]])).logits[0, -1]
    for temperature, texts in (
        (1.0, drawn),
        (0.05, sample(lm, tokens=1, count=4000, temperature=0.05)),
    ):
        p = torch.softmax(logits.double() / temperature, -1)
        for i, symbol in enumerate(lm.tokenizer.token(t) for t in range(3)):
            share = texts.written.count(symbol) / 4000
            assert share == pytest.approx(float(p[i]), abs=0.04)
    assert len(set(sample(lm, tokens=1, count=50, top_k=1).written)) == 1
    assert lm.model.generation_config.top_k == 1  # put back


def test_the_context_is_used_to_its_end_and_no_further(plain_folder):
    lm = open_model(plain_folder)
    seen = []
    lm.model.transformer.register_forward_pre_hook(
        lambda model, inputs: seen.append(inputs[0].shape[1])
    )
    sample(lm, "the", tokens=1000, temperature=0)
    assert sum(seen) == 24  # BOS, the prompt and what was written but for its last token
    with pytest.raises(UserError, match=r"prompt has \d+ tokens, which fills the context of 24"):
        sample(lm, "the " * 30)


def test_samplings_that_make_no_sense(runs):
    with pytest.raises(UserError, match="not sampled in the order permutation:1"):
        sample(open_model(runs["permutation"]))
    lm = open_model(runs["forward"])
    wrong: list[dict[str, Any]] = [{"tokens": 0}, {"count": 0}, {"temperature": -1.0}, {"top_k": 0}]
    for settings in wrong:
        with pytest.raises(UserError, match="sampling needs"):
            sample(lm, **settings)
