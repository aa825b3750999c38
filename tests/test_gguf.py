"""A .gguf file is a model like any other: transformers reads weights and tokenizer, lmlab the rest.

Its weights are float32 here, so they are compared with those that were written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lmlab
from lmlab.cli import main
from lmlab.config import hub
from lmlab.errors import UserError

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 16, 2, 64
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _permuted(weight: np.ndarray) -> np.ndarray:
    """Rows of queries and keys as llama.cpp has them: pairs of rotary positions side by side."""
    return weight.reshape(HEADS, 2, -1, WIDTH).swapaxes(1, 2).reshape(weight.shape)


def _write(path: Path, model: LlamaForCausalLM) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(32)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    letters = [chr(97 + i) for i in range(26)]
    tokens = [
        "<|endoftext|>",
        "</s>",
        *letters,
        "Ġ",
        "ab",
        "ca",
        *(f"<{i}>" for i in range(VOCABULARY - 31)),
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (VOCABULARY - 2))
    writer.add_token_merges(["a b", "c a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_tensor("token_embd.weight", model.model.embed_tokens.weight.detach().numpy())
    writer.add_tensor("output.weight", model.lm_head.weight.detach().numpy())
    writer.add_tensor("output_norm.weight", model.model.norm.weight.detach().numpy())
    layers: Any = model.model.layers
    for number, layer in enumerate(layers):
        for name, theirs in _NAMES.items():
            weight = layer.get_submodule(name).weight.detach().numpy()
            if theirs in ("attn_q", "attn_k"):
                weight = _permuted(weight)
            writer.add_tensor(f"blk.{number}.{theirs}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, LlamaForCausalLM]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, rms_norm_eps=1e-6,
            num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=32,
        )
    ).eval()  # fmt: skip
    _write(path, model)
    return path, model


@torch.no_grad()
def test_logits_are_those_of_the_model_that_was_written(written):
    path, model = written
    lm = lmlab.load(path)
    ids = torch.arange(20)[None] % VOCABULARY
    torch.testing.assert_close(lm.model(ids).logits, model(ids).logits)
    assert (lm.objective.name, lm.context, lm.tokenizer.vocabulary) == ("causal", 32, VOCABULARY)


def test_a_command_takes_it_and_an_edited_one_is_an_ordinary_folder(written, tmp_path, capsys):
    path, _ = written
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"abc bca cab dab {chr(97 + n)}" for n in range(26)))
    store = tmp_path / "store"
    words = ["prepare", str(text), "--kind", "pretrained", "--name", str(path)]
    assert main([*words, "--separator", "\n", "--out", str(store)]) == 0
    out = tmp_path / "edited"
    words = ["steer", str(path), "--store", str(store), "--context", "16", "--token", "a=0.5"]
    assert main([*words, "--out", str(out)]) == 0
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert lmlab.load(out).context == 32
    capsys.readouterr()


def test_without_the_package_the_message_says_what_to_install(written, monkeypatch):
    path, _ = written
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[gguf\]'"):
        lmlab.load(path)
