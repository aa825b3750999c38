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
from packaging.version import Version
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers import id_store
from lmlab.config.model import ModelConfig
from lmlab.config.objective import ObjectiveName
from lmlab.config.training import TrainConfig
from lmlab.data.tasks import MultipleChoice, Task
from lmlab.data.tokenizers import pretrained_tokenizer
from lmlab.errors import UserError
from lmlab.lm.encoder import open_encoder
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.lm.sampling import continuations, sample
from lmlab.models.behaviour import Table, behaviour, input_length
from lmlab.run_folders.checkpoint import Newest
from lmlab.topics.encoding.of_model import encode, measure
from lmlab.topics.encoding.tables import encoding_table
from lmlab.topics.encoding.token_probability import mean_token_probability
from lmlab.topics.scoring.score import score
from lmlab.topics.scoring.zero_shot import zero_shot
from lmlab.training.setup import initial_model, resolve_run, training_tokenizer

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


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    """Models as small as these only wait for a second thread: 20 s of processor time with two, 12 s
    with one."""
    torch.set_num_threads(1)


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
    "starcoder2, window": lambda: tf.Starcoder2Config(
        **{k: v for k, v in LLAMA.items() if k != "head_dim"}, sliding_window=8
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
    "gpt-oss, sinks": lambda: tf.GptOssConfig(
        **LLAMA, sliding_window=8, num_local_experts=2, num_experts_per_tok=1
    ),
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
    "bart decoder, deeper than its encoder": lambda: tf.BartConfig(
        **IDS, d_model=16, decoder_layers=2, encoder_layers=1, decoder_ffn_dim=16,
        encoder_ffn_dim=16, decoder_attention_heads=2, encoder_attention_heads=2, is_decoder=True,
        is_encoder_decoder=False, max_position_embeddings=64,
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
    "big bird": lambda: tf.BigBirdConfig(**BERT, block_size=4, num_random_blocks=1),
    "convbert": lambda: tf.ConvBertConfig(**BERT, embedding_size=16),
    "fnet": lambda: tf.FNetConfig(
        **{k: v for k, v in BERT.items() if k != "num_attention_heads"}
    ),
    "mobilebert": lambda: tf.MobileBertConfig(
        **BERT, embedding_size=8, intra_bottleneck_size=16, num_feedforward_networks=2
    ),
    "nystromformer": lambda: tf.NystromformerConfig(**BERT),
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
    made = [Request(texts(rng, 3), " " + texts(rng, n), f"short {n}") for n in (1, 4)]
    shared = texts(rng, 24)
    return made + [Request(shared, " " + texts(rng, n), f"long {n}") for n in (2, 2, 5)]


def by_transformers(lm: LanguageModel, request: Request) -> float:
    """The item's log-likelihood by the model's own logits of this one text, with each of its tokens
    masked in turn where the model is masked."""
    read = lm.tokenizer.encode
    first, whole = read(request.context), read(request.context + request.continuation)
    places = range(len(first), len(whole))
    with torch.no_grad():
        if lm.objective.reading.autoregressive:
            logits_TV = lm.model(input_ids=torch.tensor(whole)[None], use_cache=False).logits[0]
            return float(logits_TV.double().log_softmax(-1)[
                [p - 1 for p in places], whole[len(first):]
            ].sum())  # fmt: skip
        rows = np.repeat([[0, *whole, 2]], len(places), axis=0)
        at_P = np.array(places) + 1
        rows[np.arange(len(rows)), at_P] = lm.tokenizer.mask_id
        log_p_PTV = lm.model(input_ids=torch.from_numpy(rows)).logits.double().log_softmax(-1)
        return float(log_p_PTV[np.arange(len(rows)), at_P, whole[len(first) :]].sum())


def check_scores(lm: LanguageModel) -> None:
    asked = requests()
    expected_N = np.array([by_transformers(lm, request) for request in asked])
    for batch in (1, 100):
        found = log_likelihoods(lm, asked, batch=batch)
        apart_N = np.abs(found.nats_N - expected_N) / found.tokens_N
        assert apart_N.max() < 1e-5, asked[int(apart_N.argmax())].where


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_scores_as_transformers_does_in_any_batch(name, tmp_path):
    """Trees overrode windows of attention, and rows were padded that could not be."""
    model = saved(tmp_path, causal(CAUSAL[name]()))
    if name == "doge, kept window" and Version(tf.__version__) < Version("5.18"):
        with pytest.raises(UserError, match="a later token moves an earlier logit"):
            open_model(model)  # in those versions its window was chosen over the whole text
        return
    lm = open_model(model)
    assert lm.objective.record() == {"name": "causal"}
    check_scores(lm)


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_model_scores_as_transformers_does_in_any_batch(name, tmp_path):
    lm = open_model(saved(tmp_path, masked(MASKED[name]())))
    assert lm.objective.record()["name"] == "masked"
    check_scores(lm)


def test_positions_counted_from_the_padding_id_are_not_there_to_be_read(tmp_path):
    """Only the name `roberta` was known; the others crashed at their last two positions."""
    kinds = {
        "data2vec": (masked, tf.Data2VecTextConfig(**BERT), 62),
        "luke": (masked, tf.LukeConfig(**BERT, entity_vocab_size=4, entity_emb_size=16), 62),
        "camembert decoder": (causal, tf.CamembertConfig(**BERT, is_decoder=True), 64),
        "bert": (masked, tf.BertConfig(**BERT), 64),
    }
    for name, (kind, config, context) in kinds.items():
        lm = open_model(saved(tmp_path / name, kind(config)))
        assert lm.context == context, name
        text = texts(np.random.default_rng(0), 100)
        log_likelihoods(lm, [Request(text, " w1", "cut to the whole context")])
        assert open_encoder(tmp_path / name).limit == (64 if name != "bert" else 66)


def test_a_length_is_what_the_model_looks_up_or_declares():
    def length_of(model: Any) -> tuple[int | None, str]:
        found = input_length(model, behaviour(model).table)
        return found.tokens, found.basis

    opt = causal(CAUSAL["opt"]())
    assert behaviour(opt).table == Table(rows=66, first=2)
    assert length_of(opt) == (64, "its table of 66 positions, of which it reads those from 2 on")
    for name, declared in (
        ("mpt, ALiBi", (64, "max_seq_len of its configuration")),
        ("rwkv", (64, "max_position_embeddings of its configuration")),
        ("gemma3, nested", (66, "max_position_embeddings of its configuration")),
        ("mamba", (None, "no table of positions, and no length in its configuration")),
    ):
        assert length_of(causal(CAUSAL[name]())) == declared, name


def test_a_model_without_a_limit_says_what_is_assumed(tmp_path, capsys):
    """It was read 1024 tokens at a time in silence."""
    lm = open_model(saved(tmp_path / "m", causal(CAUSAL["mamba"]())))
    said = capsys.readouterr().err
    assert "nothing bounds the length of its input" in said
    assert "windows of 1,024 tokens are assumed" in said
    assert (lm.context, lm.bounded) == (1024, False)
    assert lm.window(None) == 1024
    assert lm.window(5000) == 5000
    bounded = open_model(saved(tmp_path / "b", causal(CAUSAL["gpt2"]())))
    with pytest.raises(UserError, match=r"`context` 65: .* at most 64"):
        bounded.window(65)


@pytest.mark.parametrize("decoder", [None, False, True])
@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining", "BertLMHeadModel"])
def test_a_bert_is_what_it_does_whatever_its_files_call_it(kind, decoder, tmp_path):
    model = getattr(tf, kind)(tf.BertConfig(**BERT, is_decoder=bool(decoder)))
    saved(tmp_path, model)
    config = json.loads((tmp_path / "config.json").read_text())
    for architectures in ([kind], None):
        config["architectures"] = architectures
        if decoder is None:
            config.pop("is_decoder", None)
        (tmp_path / "config.json").write_text(json.dumps(config))
        lm = open_model(tmp_path)
        assert lm.objective.reading.autoregressive == bool(decoder)
        assert type(lm.model).__name__ == ("BertLMHeadModel" if decoder else "BertForMaskedLM")
        ids = torch.tensor([[0, 7, 9, 11, 2]])
        with torch.no_grad():
            own = model(input_ids=ids)
            logits = own.prediction_logits if kind.endswith("PreTraining") else own.logits
            assert torch.allclose(lm.backbone.logits(ids), logits, atol=1e-5)


def test_a_model_that_sees_what_it_would_predict_is_refused_as_that(tmp_path):
    config = tf.Gemma3TextConfig(**LLAMA, sliding_window=8, use_bidirectional_attention=True)
    saved(tmp_path / "gemma", causal(config))
    with pytest.raises(UserError, match="Gemma3ForCausalLM sees what it would have to predict"):
        open_model(tmp_path / "gemma")
    saved(tmp_path / "xlnet", causal(tf.XLNetConfig(
        vocab_size=V, d_model=16, n_layer=1, n_head=2, d_inner=16
    )))  # fmt: skip
    with pytest.raises(UserError, match="XLNetLMHeadModel sees what it would have to predict"):
        open_model(tmp_path / "xlnet")


def test_a_model_that_draws_random_numbers_is_refused(tmp_path):
    config = CAUSAL["reformer"]()
    config.hash_seed = None
    torch.manual_seed(0)
    with pytest.raises(UserError, match="gives other logits when it reads the same text again"):
        open_model(saved(tmp_path, causal(config)))


def test_logits_that_are_not_finite_are_named(tmp_path):
    """They were taken for those of a model that "sees the whole window"."""
    model = causal(CAUSAL["gpt2"]())
    saved(tmp_path, model)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[3, 2] = torch.nan
    model.save_pretrained(tmp_path)
    message = r"not finite at position 0 of a text of 16 .*h\.1\.mlp\.c_fc\.weight' holds"
    with pytest.raises(UserError, match=message):
        open_model(tmp_path)


def test_an_encoder_without_a_head_is_named_as_one(tmp_path):
    """Was: a list of missing weights, without a word on what does read such a model."""
    folder = saved(tmp_path, tf.BertModel(tf.BertConfig(**BERT)))
    with pytest.raises(UserError, match=r"lacks weights .* Only the head is missing.*lmlab embed"):
        open_model(folder)
    assert open_encoder(folder).limit == 66
    saved(tmp_path / "cut", tf.BertModel(tf.BertConfig(**{**BERT, "num_hidden_layers": 1})))
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    (tmp_path / "cut" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(UserError, match="lacks weights") as refused:
        open_model(tmp_path / "cut")
    assert "Only the head" not in str(refused.value)


def test_a_tokenizer_that_is_read_by_other_rules_than_its_own_is_named(tmp_path, capsys):
    """Qwen2's rules make no ids at all of these words, without a word."""
    pretrained_tokenizer(str(saved(tmp_path / "gpt2", causal(CAUSAL["gpt2"]()))))
    assert "other ids" not in capsys.readouterr().err
    qwen = saved(tmp_path / "qwen", causal(tf.Qwen2Config(
        **{k: v for k, v in LLAMA.items() if k != "head_dim"}
    )))  # fmt: skip
    assert len(pretrained_tokenizer(str(qwen)).encode("w1 w2")) == 0
    assert "as a Qwen2Tokenizer, which makes other ids of text than" in capsys.readouterr().err


def test_what_is_trained_is_tried_out_as_what_is_loaded(tmp_path, text_store):
    """Was: `--model.path` looked at the declared length alone, of one name."""

    def refused(config: Any, context: int, objective: ObjectiveName, message: str) -> None:
        config.save_pretrained(tmp_path)
        wanted = TrainConfig(
            store=text_store.path, out=tmp_path / "run", context=context, objective=objective,
            model=ModelConfig("auto", path=str(tmp_path)),
        )  # fmt: skip
        with pytest.raises(UserError, match=message):
            initial_model(
                resolve_run(wanted, text_store), text_store,
                training_tokenizer(wanted, text_store), Newest(None, 0, ()),
            )  # fmt: skip

    offset = tf.CamembertConfig(**{**BERT, "pad_token_id": 1}, is_decoder=True)
    refused(offset, 67, "causal", r"allows 66 positions \(max_position_embeddings of its")
    refused(CAUSAL["mpt, ALiBi"](), 65, "causal", r"allows 64 positions \(max_seq_len of its")
    sees = tf.XLNetConfig(vocab_size=V, d_model=16, n_layer=1, n_head=2, d_inner=16)
    refused(sees, 32, "causal", "XLNetLMHeadModel.* sees what it would have to predict")
    one_way = tf.BertConfig(**BERT, is_decoder=True)
    refused(one_way, 32, "masked", "cannot fill in masks from both sides")


def with_padded_rows(folder: Path) -> tuple[Any, Path]:
    """A model with 20 rows of the embedding beyond the tokenizer, which get most probability."""
    config = CAUSAL["gpt2"]()
    config.vocab_size = V + 20
    model = causal(config)
    saved(folder, model)
    with torch.no_grad():
        model.transformer.wte.weight[V:] *= 12
    model.save_pretrained(folder)
    return model, folder


def test_rows_without_a_token_are_not_drawn(tmp_path):
    """They were, and vanished from the text."""
    model, folder = with_padded_rows(tmp_path)
    lm = open_model(folder)
    assert lm.unused_rows.tolist() == list(range(V, V + 20))
    with torch.no_grad():
        p_V = model(input_ids=torch.tensor([[0]])).logits[0, -1].double().softmax(-1)
    assert p_V[V:].sum() > 0.3
    drawn = [text.split() for text in sample(lm, tokens=1, count=3000).written]
    # what is drawn follows the model's own distribution over the tokens alone
    expected = float(p_V[7] / p_V[:V].sum())
    share = sum(words == [WORDS[7 - len(SPECIALS)]] for words in drawn) / 3000
    assert share == pytest.approx(expected, abs=5 * (expected / 3000) ** 0.5 + 1e-3)
    greedy = continuations(lm, ["w1 w2"], tokens=20)[0]
    assert len(greedy.split()) == 20 or lm.tokenizer.end_of_text_id == 2


def test_rows_without_a_token_have_no_mean_probability(tmp_path):
    """They entered alpha. The softmax stays the model's own, and what they get is reported."""
    model, folder = with_padded_rows(tmp_path / "m")
    lm = open_model(folder)
    ids = torch.randint(5, V, (4, 12), generator=torch.Generator().manual_seed(0))
    alpha_V = mean_token_probability(lm, ids)
    with torch.no_grad():
        own_V = model(input_ids=ids).logits.double().softmax(-1).mean((0, 1)).numpy()
    assert alpha_V[:V] == pytest.approx(own_V[:V], rel=1e-4)
    assert (alpha_V[V:] == 0).all()
    rng = np.random.default_rng(0)
    documents = {name: [rng.integers(5, V, 30) for _ in range(6)] for name in ("train", "test")}
    store = id_store(tmp_path / "s", documents, symbols=V - 2)
    object.__setattr__(lm, "check_store", lambda _: None)
    encoded = encode(lm, store, split="test", context=30)
    alpha_V = measure(lm, store, split="test", context=30).statistics.alpha_V
    assert encoded.padded == 20
    assert encoded.padded_probability > 0.3
    assert alpha_V.sum() == pytest.approx(1 - encoded.padded_probability)
    assert any("rows without a token" in str(row[0]) for row in encoding_table(encoded).rows)


def test_ids_beyond_the_embedding_are_named(tmp_path):
    """They crashed at the first text that held them."""
    saved(tmp_path, causal(CAUSAL["gpt2"]()))
    save_tokenizer(tmp_path, (*SPECIALS, "<extra>"))
    with pytest.raises(UserError, match=f"the tokenizer has {V + 1} ids, the model embeds {V} "):
        open_model(tmp_path)
    with pytest.raises(UserError, match=f"the tokenizer has {V + 1} ids, the model embeds {V} "):
        open_encoder(tmp_path)


def test_tasks_name_what_was_read_before_a_text_and_what_was_lost_of_it(tmp_path):
    """Was: `score` named them, `eval` did not."""
    items = (
        MultipleChoice("1", "w1", (" w2", " w3"), 0, None),
        MultipleChoice("2", "", ("w1 never", "w1 seen"), 0, None),
    )
    task = Task("choices", "file", items, 2)
    notes = zero_shot(open_model(saved(tmp_path / "c", causal(CAUSAL["gpt2"]()))), task).notes
    assert notes[0] == (
        "a text with a context is read behind no token of its own, one without behind <s> (id 0)"
    )
    # two <unk>, exactly as likely as each other
    assert "2 of 4 texts" in notes[1]
    assert "2 tokens are <unk>; what it cannot tell apart is equally likely" in notes[1]
    notes = zero_shot(open_model(saved(tmp_path / "m", masked(MASKED["bert"]()))), task).notes
    assert notes[0] == "a text stands between <s> (id 0) and </s> (id 2)"


def test_windows_that_cannot_be_padded_are_scored_alone(tmp_path):
    """A convolution sees padding beyond the attention mask."""
    folder = saved(tmp_path / "m", masked(MASKED["convbert"]()))
    lm = open_model(folder)
    assert not lm.backbone.takes_padding
    rng = np.random.default_rng(0)
    documents = [rng.integers(5, V, n) for n in (40, 11, 23, 37, 11)]
    store = id_store(tmp_path / "s", {"validation": documents}, symbols=V - 2)
    object.__setattr__(lm, "check_store", lambda _: None)
    whole = score(lm, store, context=60, batch=8)
    for row, ids in enumerate(documents):
        batch = lm.objective.reading.batch([ids], device=torch.device("cpu"))
        alone = lm.objective.score(lm.backbone, batch).sum()
        assert whole.nats_M[row] == pytest.approx(float(alone), abs=1e-5 * len(ids))
