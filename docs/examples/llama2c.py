"""Converts a model of llama2.c (version 0 files) into a transformers folder that lmlab opens.

    python docs/examples/llama2c.py MODEL.bin TOKENIZER.bin OUT
    lmlab sample OUT
    lmlab encode OUT --store STORE

An example of how to bring in a model of another format: make its weights and tokenizer what
transformers reads, and every analysis of lmlab runs on it.

The model file: seven int32 (width, hidden width, layers, heads, key-value heads, vocabulary,
context; a negative vocabulary says that the head is untied), then float32 weights, each kind for
all layers at once. llama2.c rotates neighbouring pairs of a head's dimensions, transformers its two
halves, so the rows of the query and key matrices are put in that order. The tokenizer file: the
longest token's length, then for each token a score, a length and bytes; tokens merge by score, the
highest first.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM

from lmlab.durable import StagedFolder
from lmlab.errors import UserError
from lmlab.models.files import model_files

BOS, END = "<s>", "</s>"


def read_model(path: Path) -> LlamaForCausalLM:
    """The model of a llama2.c version 0 file. `UserError` if its length is not what it says."""
    data = path.read_bytes()
    width, hidden, layers, heads, key_heads, vocabulary, context = struct.unpack("7i", data[:28])
    tied, vocabulary = vocabulary > 0, abs(vocabulary)
    values = np.frombuffer(data, dtype="<f4", offset=28)
    head_width = width // heads
    key_width = key_heads * head_width
    shapes = {
        "embedding": (vocabulary, width),
        "input_layernorm": (layers, width),
        "q": (layers, width, width),
        "k": (layers, key_width, width),
        "v": (layers, key_width, width),
        "o": (layers, width, width),
        "post_attention_layernorm": (layers, width),
        "gate": (layers, hidden, width),
        "down": (layers, width, hidden),
        "up": (layers, hidden, width),
        "norm": (width,),
        "rotations": (2, context, head_width // 2),
        **({} if tied else {"head": (vocabulary, width)}),
    }
    if len(values) != sum(int(np.prod(shape)) for shape in shapes.values()):
        raise UserError(f"{path}: not a llama2.c version 0 model (its length does not fit)")
    found: dict[str, torch.Tensor] = {}
    start = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        found[name] = torch.from_numpy(values[start : start + size].reshape(shape).copy())
        start += size
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=hidden,
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=key_heads,
            max_position_embeddings=context, rms_norm_eps=1e-5, tie_word_embeddings=tied,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip

    def halves(rows: torch.Tensor, count: int) -> torch.Tensor:
        """Rows of `count` heads: pairs of neighbours to first and second half."""
        return rows.view(count, head_width // 2, 2, width).transpose(1, 2).reshape(-1, width)

    weights = {"model.embed_tokens.weight": found["embedding"], "model.norm.weight": found["norm"]}
    weights["lm_head.weight"] = found["embedding" if tied else "head"]
    for i in range(layers):
        prefix = f"model.layers.{i}."
        weights |= {
            f"{prefix}self_attn.q_proj.weight": halves(found["q"][i], heads),
            f"{prefix}self_attn.k_proj.weight": halves(found["k"][i], key_heads),
            f"{prefix}self_attn.v_proj.weight": found["v"][i],
            f"{prefix}self_attn.o_proj.weight": found["o"][i],
            f"{prefix}mlp.gate_proj.weight": found["gate"][i],
            f"{prefix}mlp.down_proj.weight": found["down"][i],
            f"{prefix}mlp.up_proj.weight": found["up"][i],
            f"{prefix}input_layernorm.weight": found["input_layernorm"][i],
            f"{prefix}post_attention_layernorm.weight": found["post_attention_layernorm"][i],
        }
    model.load_state_dict(weights)
    return model.eval()


def read_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer of a llama2.c file with that many tokens. `UserError` if it is cut short."""
    data = path.read_bytes()
    place = 4
    tokens: list[str] = []
    scores: list[float] = []
    try:
        for _ in range(vocabulary):
            score, length = struct.unpack_from("fi", data, place)
            tokens.append(data[place + 8 : place + 8 + length].decode("utf-8"))
            scores.append(score)
            place += 8 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a llama2.c tokenizer of {vocabulary} tokens") from error
    tokens[1], tokens[2] = BOS, END
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [
        (scores[ids[token]], (token[:cut], token[cut:]))
        for token in tokens[259:]
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    ordered = [pair for _, pair in sorted(merges, key=lambda merge: -merge[0])]
    backend = Tokenizer(
        models.BPE(ids, ordered, unk_token=tokens[0], byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Prepend(" ")
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(t, special=True) for t in (tokens[0], BOS, END)])
    return backend


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model = read_model(options.model)
    backend = read_tokenizer(options.tokenizer, model.config.vocab_size)
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": END}
    with StagedFolder(options.out) as folder:
        for name, data in model_files(model).items():
            folder.write(name, data)
        folder.write("tokenizer.json", backend.to_str().encode())
        folder.write("tokenizer_config.json", json.dumps(described).encode())
    print(f"model: {options.out}")


if __name__ == "__main__":
    main()
