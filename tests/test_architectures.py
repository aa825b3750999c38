"""What a model from elsewhere is, how long its input may be, and that its scores are transformers'
own whatever else is in the batch: over tiny models of many architectures.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers import id_store
from lmlab.analyses.encode import encode
from lmlab.analyses.encoder import open_encoder
from lmlab.analyses.likelihood import Request, log_likelihoods
from lmlab.analyses.sample import continuations, sample
from lmlab.analyses.score import score
from lmlab.analyses.subject import Subject, open_subject
from lmlab.analyses.token_probability import mean_token_probability
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.behaviour import Table, behaviour, input_length

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
WORDS = tuple(f"w{i}" for i in range(40))
V = len(SPECIALS) + len(WORDS)
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
BERT: dict[str, Any] = {
    **IDS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 66,
}
LLAMA: dict[str, Any] = {**BERT, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8}
GEMMA4: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": V,
    "hidden_size_per_layer_input": 8,
}
EYES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def causal(config: Any) -> Any:
    return tf.AutoModelForCausalLM.from_config(config)


def masked(config: Any) -> Any:
    return tf.AutoModelForMaskedLM.from_config(config)


CAUSAL = {
    "gpt2": lambda: tf.GPT2Config(**IDS, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "gpt-neo, local attention": lambda: tf.GPTNeoConfig(
        **IDS, hidden_size=16, num_layers=2, num_heads=2, max_position_embeddings=64, window_size=8,
        attention_types=[[["global", "local"], 1]],
    ),
    "opt": lambda: tf.OPTConfig(
        **IDS, hidden_size=16, ffn_dim=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=16,
    ),
    "bloom, ALiBi": lambda: tf.BloomConfig(**IDS, hidden_size=16, n_layer=2, n_head=2),
    "mpt, ALiBi": lambda: tf.MptConfig(
        vocab_size=V, d_model=16, n_layers=2, n_heads=2, max_seq_len=64
    ),
    "mistral, window": lambda: tf.MistralConfig(**LLAMA, sliding_window=8),
    "qwen2, window": lambda: tf.Qwen2Config(
        **LLAMA, use_sliding_window=True, sliding_window=8, max_window_layers=0
    ),
    "phi3, long rope": lambda: tf.Phi3Config(
        **LLAMA, original_max_position_embeddings=16,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4, "original_max_position_embeddings": 16,
        },
    ),
    "gemma2, window and cap": lambda: tf.Gemma2Config(**LLAMA, sliding_window=8),
    "gemma3": lambda: tf.Gemma3TextConfig(**LLAMA, sliding_window=8),
    "gemma3, nested": lambda: tf.Gemma3Config(
        text_config=tf.Gemma3TextConfig(**LLAMA, sliding_window=8),
        vision_config=EYES, mm_tokens_per_image=4,
    ),
    "gemma4, nested": lambda: tf.Gemma4Config(
        text_config={**LLAMA, **GEMMA4, "sliding_window": 8}
    ),
    "llama4, chunks": lambda: tf.Llama4TextConfig(
        **LLAMA, attention_chunk_size=8, num_local_experts=2, intermediate_size_mlp=16,
        no_rope_layers=[1, 0],
    ),
    "doge, kept window": lambda: tf.DogeConfig(**LLAMA, keep_window_size=8),
    "modernbert decoder": lambda: tf.ModernBertDecoderConfig(
        **{**LLAMA, "num_hidden_layers": 3}, local_attention=8
    ),
    "gpt-oss, sinks": lambda: tf.GptOssConfig(**LLAMA, sliding_window=8, num_local_experts=2, num_experts_per_tok=1),
    "mixtral": lambda: tf.MixtralConfig(**LLAMA, num_local_experts=2),
    "mamba": lambda: tf.MambaConfig(**IDS, hidden_size=16, state_size=4, num_hidden_layers=2),
    "rwkv": lambda: tf.RwkvConfig(
        **IDS, hidden_size=16, attention_hidden_size=16, num_hidden_layers=2, context_length=64
    ),
    "recurrent gemma": lambda: tf.RecurrentGemmaConfig(
        **{**LLAMA, "num_hidden_layers": 3}, lru_width=16, attention_window_size=8,
        block_types=("recurrent", "recurrent", "attention"),
    ),
    "reformer": lambda: tf.ReformerConfig(
        **IDS, is_decoder=True, hidden_size=32, axial_pos_shape=[8, 8], feed_forward_size=16,
        axial_pos_embds_dim=[16, 16], attention_head_size=16, num_attention_heads=2,
        attn_layers=["local", "lsh"], local_attn_chunk_length=8, lsh_attn_chunk_length=8,
        num_buckets=4, max_position_embeddings=64, hash_seed=0,
    ),
    "prophetnet": lambda: tf.ProphetNetConfig(
        **IDS, hidden_size=16, encoder_ffn_dim=16, decoder_ffn_dim=16, num_decoder_layers=1,
        num_encoder_layers=1, num_decoder_attention_heads=2, num_encoder_attention_heads=2,
        max_position_embeddings=66, is_decoder=True,
    ),
    "xlm-roberta decoder": lambda: tf.XLMRobertaConfig(**BERT, is_decoder=True),
    "bert decoder": lambda: tf.BertConfig(**BERT, is_decoder=True),
}  # fmt: skip
MASKED = {
    "bert": lambda: tf.BertConfig(**BERT),
    "roberta": lambda: tf.RobertaConfig(**BERT),
    "camembert": lambda: tf.CamembertConfig(**BERT),
    "mpnet": lambda: tf.MPNetConfig(**BERT),
    "esm": lambda: tf.EsmConfig(**BERT, mask_token_id=4, position_embedding_type="absolute"),
    "longformer": lambda: tf.LongformerConfig(**BERT, attention_window=16),
    "modernbert, local": lambda: tf.ModernBertConfig(
        **{**BERT, "num_hidden_layers": 3}, local_attention=8, cls_token_id=0, sep_token_id=2
    ),
    "deberta-v2": lambda: tf.DebertaV2Config(**BERT, relative_attention=True),
    "electra": lambda: tf.ElectraConfig(**BERT, embedding_size=16),
    "albert": lambda: tf.AlbertConfig(**BERT, embedding_size=16),
    "big bird": lambda: tf.BigBirdConfig(**BERT, block_size=4, num_random_blocks=1),
    "convbert": lambda: tf.ConvBertConfig(**BERT, embedding_size=16),
    "fnet": lambda: tf.FNetConfig(
        **{k: v for k, v in BERT.items() if k != "num_attention_heads"}
    ),
    "mobilebert": lambda: tf.MobileBertConfig(
        **BERT, embedding_size=16, true_hidden_size=16, intra_bottleneck_size=16
    ),
    "nystromformer": lambda: tf.NystromformerConfig(**BERT, num_landmarks=4, segment_means_seq_len=32),
    "funnel": lambda: tf.FunnelConfig(
        **IDS, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=16, num_decoder_layers=1
    ),
}  # fmt: skip


def save_tokenizer(folder: Path, specials: tuple[str, ...] = SPECIALS) -> None:
    words = {word: i for i, word in enumerate([*specials, *WORDS])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
             "mask_token": "<mask>"}  # fmt: skip
    tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, **{k: v for k, v in named.items() if v in specials}
    ).save_pretrained(folder)


def enlarged(model: Any) -> Any:
    """Weights so large that what a token sees shows in every score."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25, generator=generator)
    model.tie_weights()
    return model.eval()


def saved(folder: Path, model: Any) -> Path:
    enlarged(model).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def texts(rng: np.random.Generator, length: int) -> str:
    return " ".join(rng.choice(WORDS, length))


def requests() -> list[Request]:
    """Items that share beginnings, of lengths that padding changes, longer than any window."""
    rng = np.random.default_rng(0)
    made = [Request(texts(rng, 3), " " + texts(rng, n), f"short {n}") for n in (1, 4, 8)]
    for _ in range(2):
        shared = texts(rng, 20)
        made += [Request(shared, " " + texts(rng, n), f"long {n}") for n in (5, 5, 13)]
    return made


def by_transformers(subject: Subject, request: Request) -> float:
    """The item's log-likelihood by the model's own logits of this one text."""
    read = subject.tokenizer.encode
    first, whole = read(request.context), read(request.context + request.continuation)
    places = range(len(first), len(whole))
    total = 0.0
    with torch.no_grad():
        if subject.objective.autoregressive:
            logits_TV = subject.model(input_ids=torch.tensor(whole)[None], use_cache=False).logits[
                0
            ]
            return float(logits_TV.double().log_softmax(-1)[
                [p - 1 for p in places], whole[len(first):]
            ].sum())  # fmt: skip
        for place in places:
            ids = whole.copy()
            ids[place] = subject.tokenizer.mask_id
            dressed = torch.tensor([0, *ids.tolist(), 2])[None]
            log_p_TV = subject.model(input_ids=dressed).logits[0].double().log_softmax(-1)
            total += float(log_p_TV[place + 1, whole[place]])
    return total


def check_scores(subject: Subject) -> None:
    asked = requests()
    expected_N = np.array([by_transformers(subject, request) for request in asked])
    for batch in (1, 100):
        found = log_likelihoods(subject, asked, batch=batch)
        apart_N = np.abs(found.nats_N - expected_N) / found.tokens_N
        assert apart_N.max() < 1e-5, asked[int(apart_N.argmax())].where


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_scores_as_transformers_does_in_any_batch(name, tmp_path):
    """Trees overrode windows of attention, and rows were padded that could not be."""
    subject = open_subject(saved(tmp_path, causal(CAUSAL[name]())))
    assert subject.objective.record() == {"name": "causal"}
    assert subject.context == {
        "bloom, ALiBi": 1024,
        "mamba": 1024,
        "recurrent gemma": 1024,
        "prophetnet": 63,
    }.get(name, 64 if subject.context == 64 else 66)
    check_scores(subject)


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_model_scores_as_transformers_does_in_any_batch(name, tmp_path):
    subject = open_subject(saved(tmp_path, masked(MASKED[name]())))
    assert subject.objective.record()["name"] == "masked"
    check_scores(subject)
