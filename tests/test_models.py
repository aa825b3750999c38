"""Backbones: shapes, saved files in plain transformers, recurrent generation, linear heads.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
)

from helpers import tiny_training
from lmlab.config.model import RECURRENT_SIZES, SIZES, WRITES, ModelConfig
from lmlab.config.training import OptimizerConfig
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model, parameters, write_nothing
from lmlab.models.files import load_weights, model_files
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.cross_entropy import IGNORED
from lmlab.objectives.full import FullCrossEntropy
from lmlab.training.loop import train

V = 30
STOCK = ["gpt2", "neox", "llama", "qwen3"]
ALL = [*STOCK, "gru", "lstm"]


def build(architecture: Any = "gpt2", *, seed=0, **settings: Any) -> Any:
    chosen = {"layers": 2, "heads": 2, "width": 16, **settings}
    if architecture in ("gru", "lstm"):
        chosen["heads"] = None
    if architecture == "auto":
        chosen = settings
    config = build_config(
        ModelConfig(architecture=architecture, **chosen),
        vocabulary=V,
        context=12,
        bos_id=28,
        end_of_text_id=29,
    )
    return build_model(config, seed=seed).eval()


def some_ids(batch=3, length=12):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(1))


def save(model, folder):
    folder.mkdir(exist_ok=True)
    for name, data in model_files(model).items():
        (folder / name).write_bytes(data)
    return folder


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ALL)
def test_saved_models_load_in_transformers_to_the_bit(tmp_path, architecture, tied):
    model = build(architecture, tied=tied)
    logits_BTV = logits(model, some_ids())
    assert logits_BTV.shape == (3, 12, V)
    assert logits_BTV.isfinite().all()
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == tied
    folder = save(model, tmp_path / "m")
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(logits(loaded, some_ids()), logits_BTV)
    assert loaded.config.bos_token_id == 28
    assert loaded.config.eos_token_id == 29
    # was: under the name "architecture", which nobody reads
    described = json.loads((folder / "config.json").read_text("utf-8"))
    assert described["architectures"] == [type(model).__name__]
    assert "architecture" not in described
    eager = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    if architecture in STOCK:
        model.set_attn_implementation("eager")
    assert torch.equal(logits(eager, some_ids()), logits(model, some_ids()))
    tied_again = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tied_again == tied
    assert parameters(loaded) == parameters(model)


LOAD = """
import sys, torch
torch.set_num_threads(2)
if sys.argv[1] == "with-lmlab":
    import lmlab.models
from transformers import AutoModelForCausalLM
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = torch.load(folder + "/expected.pt")
    with torch.no_grad():
        assert torch.equal(model(input_ids=expected["ids"]).logits, expected["logits"]), folder
assert ("lmlab" in sys.modules) == (sys.argv[1] == "with-lmlab")
"""


@pytest.mark.parametrize(("how", "kinds"), [("alone", STOCK), ("with-lmlab", ["gru", "lstm"])])
def test_saved_models_load_in_another_process(tmp_path, how, kinds):
    folders = []
    for kind in kinds:
        model = build(kind, tied=kind in ("gpt2", "gru"))
        folders.append(save(model, tmp_path / kind))
        expected = {"ids": some_ids(), "logits": logits(model, some_ids())}
        torch.save(expected, folders[-1] / "expected.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, how, *map(str, folders)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("architecture", ALL)
def test_weights_come_from_the_seed_alone(architecture):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build(architecture).state_dict()
    assert torch.equal(torch.get_rng_state(), before)  # the generator is put back
    torch.manual_seed(6)
    same, other = build(architecture).state_dict(), build(architecture, seed=1).state_dict()
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)
    assert all(t.dtype == torch.float32 for t in one.values())


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("scale", [None, 0.1])
def test_initial_weights_have_the_scale_asked_for(architecture, scale):
    config = ModelConfig(architecture, layers=1, heads=2, width=64, initializer_range=scale)
    model: Any = build_model(
        build_config(config, vocabulary=500, context=8, bos_id=0, end_of_text_id=0), seed=0
    )
    embedding = model.get_input_embeddings().weight
    assert embedding.std().item() == pytest.approx(scale or 0.02, rel=0.05)
    if architecture == "gpt2":
        matrix = model.transformer.h[0].attn.c_attn.weight
        assert matrix.std().item() == pytest.approx(scale or 0.02, rel=0.05)


@pytest.mark.parametrize("architecture", WRITES)
def test_blocks_that_write_nothing_leave_embedding_and_head(architecture):
    model: Any = build(architecture)
    ids = some_ids()
    body = model.base_model
    with torch.no_grad():
        before = logits(model, ids)
        write_nothing(model, WRITES[architecture])
        embedded = model.get_input_embeddings()(ids)
        if architecture == "gpt2":
            embedded = embedded + body.wpe.weight[: ids.shape[1]]
        last = {"gpt2": "ln_f", "neox": "final_layer_norm"}.get(architecture, "norm")
        expected = model.get_output_embeddings()(getattr(body, last)(embedded))
    torch.testing.assert_close(logits(model, ids), expected)
    assert not torch.allclose(before, expected)


def test_which_models_start_at_zero():
    assert ModelConfig().starts_at_zero
    assert ModelConfig("llama").starts_at_zero
    assert not ModelConfig("gpt2").starts_at_zero
    assert ModelConfig("gpt2", zero_init=True).starts_at_zero
    assert not ModelConfig(zero_init=False).starts_at_zero
    assert not ModelConfig(tied=True).starts_at_zero
    # a scale of one's own is of all weights
    assert not ModelConfig(initializer_range=0.1).starts_at_zero


@pytest.mark.parametrize("zero", [True, False])
def test_a_run_starts_with_blocks_that_write_nothing(text_store, tmp_path, zero):
    model = ModelConfig(layers=1, heads=2, width=16, zero_init=None if zero else False)
    config = tiny_training(
        text_store, tmp_path / "run", model=model, steps=1,
        optimizer=OptimizerConfig("adamw", learning_rate=1e-12),
    )  # fmt: skip
    state = open_model(str(train(config).path)).model.state_dict()
    for name in WRITES["qwen3"]:
        written = state[f"model.layers.0.{name}.weight"]
        assert (written.abs().max() < 1e-9) == zero


def test_tiny_gpt2_is_the_stock_one_by_hand():
    """Same weights in a model made by transformers alone: same function up to the fused kernel."""
    model = build("gpt2")
    stock = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=V, n_positions=12, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=False
        )
    ).eval()
    stock.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(stock, some_ids()), logits(model, some_ids()))


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_are_those_of_the_paper(size):
    layers, heads, width = ModelConfig(size=size).dimensions()
    made = build_config(
        ModelConfig("gpt2", size=size), vocabulary=V, context=12, bos_id=0, end_of_text_id=1
    )
    assert isinstance(made, GPT2Config)
    assert (made.n_layer, made.n_head, made.n_embd) == (layers, heads, width)
    assert width % heads == 0


def test_sizes_of_the_paper():
    assert SIZES["nano"] == (3, 3, 48)
    assert SIZES["xl"] == (48, 25, 1600)
    assert {name: (s.layers, s.width) for name, s in RECURRENT_SIZES.items()} == {
        "1x256": (1, 256),
        "3x512": (3, 512),
        "5x768": (5, 768),
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"size": "huge"},
        {"architecture": "gru", "size": "micro"},
        {"width": 15, "heads": 2},
        {"architecture": "llama", "width": 6, "heads": 2},
        {"layers": 0},
        {"width": -4},
        {"dropout": 1.0},
        {"architecture": "auto"},
        {"path": "x"},
        {"architecture": "auto", "path": "x", "layers": 2},
        {"architecture": "auto", "path": "x", "tied": True},
        {"architecture": "auto", "path": "x", "initializer_range": 0.1},
        {"initializer_range": 0.0},
        {"architecture": "gru", "zero_init": True},
    ],
)
def test_settings_that_make_no_model(settings):
    with pytest.raises(UserError):
        ModelConfig(**settings)


# recurrent


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_generation_with_state_is_without_it(cell, layers):
    model = build(cell, layers=layers, seed=3)
    for p in model.parameters():
        p.data.mul_(3)  # so that the likeliest token varies
    start = some_ids(2, 3)
    settings = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 29}
    mask = torch.ones_like(start)
    with_state = model.generate(start, attention_mask=mask, use_cache=True, **settings)
    without = model.generate(start, attention_mask=mask, use_cache=False, **settings)
    by_hand = start
    for _ in range(9):
        by_hand = torch.cat([by_hand, logits(model, by_hand)[:, -1].argmax(1)[:, None]], 1)
    assert torch.equal(with_state, by_hand)
    assert torch.equal(without, by_hand)
    assert len(set(by_hand.flatten().tolist())) > 3


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_state_goes_on_where_it_was(cell):
    model, ids = build(cell), some_ids()
    whole = logits(model, ids)
    with torch.no_grad():
        first = model(input_ids=ids[:, :5], use_cache=True)
        second = model(input_ids=ids[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole)
    assert model(input_ids=ids).past_key_values is None


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_generation_costs_one_step_a_token(cell):
    model, seen = build(cell), []
    model.model.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    start = some_ids(1, 4)
    model.generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=5, eos_token_id=None,
        pad_token_id=29, do_sample=False,
    )  # fmt: skip
    assert seen == [4, 1, 1, 1, 1]


def test_recurrent_generation_refuses_padding():
    mask = torch.ones(2, 3, dtype=torch.long)
    mask[0, 0] = 0
    with pytest.raises(UserError, match="unpadded"):
        build("gru").generate(some_ids(2, 3), attention_mask=mask, max_new_tokens=2)


@pytest.mark.parametrize("architecture", ALL)
def test_later_tokens_do_not_change_earlier_logits(architecture):
    model, ids = build(architecture), some_ids(1)
    changed = ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % V
    a, b = logits(model, ids), logits(model, changed)
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert not torch.allclose(a[:, 7:], b[:, 7:])


# heads


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ALL)
def test_stock_heads_are_linear(architecture, tied):
    model = build(architecture, tied=tied).train()
    backbone = Backbone(model)
    assert backbone.linear
    assert model.training  # put back
    assert not any(m._forward_hooks for m in model.modules())
    model.eval()
    with torch.no_grad():
        ours = torch.nn.functional.linear(
            backbone.hidden(some_ids()), backbone.weight_VD, backbone.bias_V
        )
        theirs = backbone.logits(some_ids())
    torch.testing.assert_close(ours, logits(model, some_ids()))
    assert torch.equal(theirs, logits(model, some_ids()))


def save_config(config, folder):
    config.save_pretrained(folder)
    return str(folder)


def tiny_gemma(folder, *, cap):
    return save_config(
        Gemma2Config(
            vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=8,
            max_position_embeddings=32, final_logit_softcapping=cap,
        ),
        folder,
    )  # fmt: skip


def test_a_soft_capped_head_is_left_to_the_model(tmp_path):
    model = build("auto", path=tiny_gemma(tmp_path / "capped", cap=30.0))
    backbone = Backbone(model)
    # with fresh weights the logits are far below the cap, where a cap hardly shows
    assert logits(model, some_ids()).abs().max() < 0.25
    assert not backbone.linear
    model.get_output_embeddings().weight.data *= 1000
    assert 25 < logits(model, some_ids()).abs().max() <= 30
    objective = Objective(Causal(order="backward", bos_id=28), FullCrossEntropy())
    batch = objective.reading.batch([w.numpy() for w in some_ids()], device=torch.device("cpu"))
    batch.targets_BT[0, 5:] = IGNORED
    expected = torch.nn.functional.cross_entropy(
        model(input_ids=batch.inputs_BT).logits.flatten(0, 1),
        batch.targets_BT.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    loss, count = objective.loss(backbone, batch)
    torch.testing.assert_close(loss, expected)
    assert count == 12 * 3 - 7
    torch.testing.assert_close(objective.score(backbone, batch).sum(), expected.double())
    uncapped = build("auto", path=tiny_gemma(tmp_path / "plain", cap=None))
    assert Backbone(uncapped).linear


def test_a_scaled_head_is_left_to_the_model(tmp_path):
    from transformers import CohereConfig

    path = save_config(
        CohereConfig(
            vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=32, logit_scale=0.5,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
        tmp_path / "c",
    )  # fmt: skip
    assert not Backbone(build("auto", path=path)).linear


def test_auto_takes_the_shape_from_a_folder_and_the_vocabulary_from_the_store(tmp_path):
    config = LlamaConfig(
        vocab_size=99, hidden_size=24, intermediate_size=16, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=12,
    )  # fmt: skip
    model = build("auto", path=save_config(config, tmp_path / "a"))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (24, 3)
    assert model.config.vocab_size == V
    assert logits(model, some_ids()).shape == (3, 12, V)
    config.max_position_embeddings = 11
    with pytest.raises(UserError, match=r"allows 11 positions .*fewer than the 12 needed"):
        build("auto", path=save_config(config, tmp_path / "b"))
    with pytest.raises(UserError, match=r"`model\.path` .*nothing: no usable"):
        build("auto", path=str(tmp_path / "nothing"))
    from transformers import T5Config

    with pytest.raises(UserError, match="architecture 't5' has no causal language model"):
        build("auto", path=save_config(T5Config(), tmp_path / "t5"))
    assert BertConfig.model_type == "bert"


# weights


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ALL)
def test_weights_are_copied_to_the_bit(tmp_path, architecture, tied):
    model = build(architecture, tied=tied)
    other = build(architecture, tied=tied, seed=1)
    load_weights(other, save(model, tmp_path / "m") / "model.safetensors")
    assert torch.equal(logits(other, some_ids()), logits(model, some_ids()))
    assert (other.get_output_embeddings().weight is other.get_input_embeddings().weight) == tied


def test_weights_of_another_model_are_refused(tmp_path):
    path = save(build("gpt2"), tmp_path / "m") / "model.safetensors"
    for other in (build("gpt2", width=32), build("gpt2", layers=3), build("llama")):
        with pytest.raises(UserError, match=r"model\.safetensors: does not fit this model"):
            load_weights(other, path)
    with pytest.raises(UserError, match="extra weight"):
        load_weights(build("gpt2", layers=1), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_weights(build("gpt2"), path)
    with pytest.raises(UserError, match="cannot be read"):
        load_weights(build("gpt2"), tmp_path / "nothing")
