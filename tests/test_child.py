"""Child runs: weights from a parent, heads untied and fine-tuned, what identifies them."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import id_store, journal, random_documents, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig, ParentConfig, TrainConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.models.head import read_bias
from lmlab.run_folders.checkpoint import checkpoint_folder
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train
from lmlab.training.setup import resolve_run
from tolerances import near

TIED = ModelConfig("gpt2", layers=1, heads=2, width=16, tied=True)


@pytest.fixture(scope="module")
def parent(small_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("parent") / "run"
    return train(tiny_training(small_store, out, objective="headless", model=TIED, steps=40))


def child(store, out, parent, *, untie=True, freeze_body=False, **options):
    options = {"checkpoints": CheckpointConfig(every=100, logarithmic=True), **options}
    return tiny_training(
        store, out, model=ModelConfig(), parent=ParentConfig(str(parent.path), untie, freeze_body),
        **options,
    )  # fmt: skip


def small_gpt2(vocabulary):
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=16, n_layer=1, n_head=2, n_positions=8,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def weights(run, step):
    return load_file(checkpoint_folder(run.path, step) / "model.safetensors")


@pytest.mark.parametrize("freeze_body", [True, False])
def test_a_fine_tuned_head_starts_at_the_parents_and_learns(
    small_store, tmp_path, parent, freeze_body
):
    config = child(small_store, tmp_path / "c", parent, freeze_body=freeze_body,
                   output_bias="learnt", steps=30)  # fmt: skip
    run = train(config)
    before, after, theirs = weights(run, 0), weights(run, 30), weights(parent, 40)
    embedding = "transformer.wte.weight"
    assert "lm_head.weight" not in theirs
    assert torch.equal(before["lm_head.weight"], theirs[embedding])
    assert all(torch.equal(before[name], theirs[name]) for name in theirs)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "lm_head.weight" in changed
    assert changed == ({"lm_head.weight"} if freeze_body else set(before))
    prior, started, ended = (
        read_bias(checkpoint_folder(trained.path, step))
        for trained, step in ((parent, 40), (run, 0), (run, 30))
    )
    assert prior is not None
    assert started is not None
    assert ended is not None
    assert torch.equal(started, prior)
    assert not torch.equal(ended, prior)
    # at its start the child is the parent with its prior, and it ends no worse
    scores = [
        score(open_model(folder), small_store).nats_per_token
        for folder in (parent.path, checkpoint_folder(run.path, 0), run.path)
    ]
    assert scores[1] == near(scores[0])
    assert scores[2] < scores[0]
    assert open_model(run.path).head == "untied + learnt log-unigram bias"
    assert open_model(run.path).record["parent"] == str(parent.path)


def test_without_a_bias_the_child_starts_at_the_raw_embedding(small_store, tmp_path, parent):
    run = train(child(small_store, tmp_path / "c", parent, steps=1))
    raw = score(open_model(parent.path, raw_head=True), small_store).nats_per_token
    started = score(open_model(checkpoint_folder(run.path, 0)), small_store).nats_per_token
    assert started == near(raw)


def test_a_child_goes_on_where_the_parent_stopped(small_store, tmp_path, parent):
    run = train(child(small_store, tmp_path / "c", parent, untie=False, objective="headless"))
    assert torch.equal(
        weights(run, 0)["transformer.wte.weight"], weights(parent, 40)["transformer.wte.weight"]
    )
    assert open_model(run.path).head == "tied + fixed log-unigram bias"


def test_a_resumed_child_is_the_uninterrupted_one(small_store, tmp_path, parent):
    whole = child(small_store, tmp_path / "whole", parent, steps=6, output_bias="learnt")
    train(whole)
    halved = dataclasses.replace(whole, out=tmp_path / "halved")
    train(halved)
    for step in (5, 6):
        shutil.rmtree(checkpoint_folder(tmp_path / "halved", step), ignore_errors=True)
    train(halved)
    for name in ("model.safetensors", "head.safetensors", "optimizer.safetensors"):
        one, other = (checkpoint_folder(tmp_path / w, 6) / name for w in ("whole", "halved"))
        assert one.read_bytes() == other.read_bytes()
    assert journal(tmp_path / "whole") == journal(tmp_path / "halved")


def test_a_child_is_identified_by_its_parents_content(small_store, tmp_path, parent):
    def identity(path, **options):
        how = ParentConfig(str(path), **{"untie": True, **options})
        child = tiny_training(small_store, tmp_path, model=ModelConfig(), parent=how)
        return resolve_run(child, small_store).identity

    shutil.copytree(parent.path, tmp_path / "moved")
    assert identity(parent.path) == identity(tmp_path / "moved")
    assert identity(parent.path) == identity(parent.checkpoint)
    different = {
        identity(parent.path),
        identity(parent.path, freeze_body=True),
        identity(parent.path, untie=False),
        identity(checkpoint_folder(parent.path, 38)),
        resolve_run(tiny_training(small_store, tmp_path, model=TIED), small_store).identity,
    }
    assert len(different) == 5


def test_parents_from_elsewhere(small_store, tmp_path):
    small_gpt2(small_store.vocabulary).save_pretrained(tmp_path / "hub")
    how = ParentConfig(str(tmp_path / "hub"))
    run = train(tiny_training(small_store, tmp_path / "c", model=ModelConfig(), parent=how))
    assert open_model(run.path).head == "tied"
    with pytest.raises(
        UserError, match=r"takes 8 positions \(its table of 8 positions\), and 9 are needed"
    ):
        train(
            tiny_training(small_store, tmp_path / "d", model=ModelConfig(), parent=how, context=9)
        )


def test_parents_that_do_not_fit(small_store, tmp_path, parent):
    other = id_store(
        tmp_path / "other",
        {"train": random_documents(9, 9, 20, symbols=40, seed=0), "validation": [[1] * 9]},
        symbols=40,
    )
    with pytest.raises(UserError, match="was made with another tokenizer than"):
        train(child(other, tmp_path / "c", parent))
    small_gpt2(20).save_pretrained(tmp_path / "hub")
    how = ParentConfig(str(tmp_path / "hub"))
    with pytest.raises(UserError, match=r"has a vocabulary of 42, but .* embeds only 20 tokens"):
        train(tiny_training(other, tmp_path / "d", model=ModelConfig(), parent=how))
    with pytest.raises(UserError, match=r"add `parent\.untie`"):
        train(child(small_store, tmp_path / "e", parent, untie=False, freeze_body=True))
    untied = train(tiny_training(small_store, tmp_path / "u"))
    with pytest.raises(UserError, match=r"`parent\.untie`: .* is not tied"):
        train(child(small_store, tmp_path / "f", untied))
    with pytest.raises(UserError, match="cannot be loaded"):
        train(
            tiny_training(
                small_store, tmp_path / "g", model=ModelConfig(),
                parent=ParentConfig(str(tmp_path / "nowhere")),
            )
        )  # fmt: skip
    with pytest.raises(UserError, match="leave `model` out"):
        TrainConfig(store=tmp_path, model=TIED, parent=ParentConfig("x"))
    with pytest.raises(UserError, match=r"need `parent\.path`"):
        ParentConfig(untie=True)
