"""Embeddings: pieces that all models read whole, pooling by hand, words across tokenizers, every
architecture of the published set, rows kept and streamed.

Shapes: N rows, D width, T positions.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from helpers import sentences, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.data.pieces import Pieces, pieces_of, words
from lmlab.data.store import EncodedDocument, write_store
from lmlab.data.tokenizers import TextTokenizer
from lmlab.errors import UserError
from lmlab.lm.encoder import encoder_of, open_encoder
from lmlab.lm.language_model import open_model
from lmlab.models.layers import layer_states
from lmlab.numerics.random_effects import Clusters
from lmlab.numerics.scatter import Scatter
from lmlab.topics.decomposition import embedding as module
from lmlab.topics.decomposition.decomposition import decompose
from lmlab.topics.decomposition.embedding import embed, prepare_text
from lmlab.topics.decomposition.embedding_store import aligned_rows, open_embeddings
from lmlab.topics.decomposition.mapping import (
    AppliedMapping,
    agreement,
    load_mapping,
    mapping_file,
    save_mapping,
)
from lmlab.topics.decomposition.of_models import (
    Embeddings,
    ModelsDecomposition,
    embed_models,
    labels,
)
from lmlab.topics.decomposition.options import ApplyConfig, DecomposeConfig, EmbeddingConfig
from lmlab.topics.registry import read_result
from lmlab.training.loop import train

SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
# The twelve of Zhang 2022, by the class of their configuration and what is particular to them
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base-uncased": ("BertConfig", SIZES),
    "xlm-roberta-base": ("XLMRobertaConfig", SIZES),
    "bert-base-multilingual-cased": ("BertConfig", SIZES),
    "longformer-base-4096": ("LongformerConfig", {**SIZES, "attention_window": 8}),
    "deberta-base": (
        "DebertaConfig",
        {**SIZES, "relative_attention": True, "pos_att_type": "c2p|p2c", "type_vocab_size": 0},
    ),
    "distilbert-base-multilingual-cased": (
        "DistilBertConfig",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    ),
    "roberta-base": ("RobertaConfig", SIZES),
    "xlnet-base-cased": (
        "XLNetConfig", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}
    ),
    "electra-base-discriminator": ("ElectraConfig", {**SIZES, "embedding_size": 16}),
    "distilroberta-base": ("RobertaConfig", {**SIZES, "num_hidden_layers": 1}),
    "distilbert-base-uncased": (
        "DistilBertConfig",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    ),
    "albert-base-v2": ("AlbertConfig", {**SIZES, "embedding_size": 8}),
}  # fmt: skip
BYTES = ("roberta-base", "distilroberta-base", "longformer-base-4096", "deberta-base")
UNIGRAM = ("xlm-roberta-base", "xlnet-base-cased", "albert-base-v2")


def local_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """WordPiece, byte-level BPE or Unigram, as the published model has, with its special tokens."""
    texts = sentences(40, seed=9)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if name in BYTES:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )  # fmt: skip
    elif name in UNIGRAM:
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase="uncased" in name)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=special, show_progress=False
        )
    backend.train_from_iterator(texts, trainer=trainer)
    first, last = ("[CLS]", "[SEP]") if special[0] == "[PAD]" else ("<s>", "</s>")
    ids = [(token, backend.token_to_id(token)) for token in (first, last)]
    form = "$A </s> <s>" if name.startswith("xlnet") else f"{first} $A {last}"
    backend.post_processor = processors.TemplateProcessing(single=form, special_tokens=ids)
    pad = "[PAD]" if first == "[CLS]" else "<pad>"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token=first, sep_token=last, pad_token=pad,
        mask_token="[MASK]" if first == "[CLS]" else "<mask>",
    )  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A random small model of each of the twelve architectures, with a tokenizer of its kind."""
    folder = tmp_path_factory.mktemp("zoo")
    for seed, (name, (kind, settings)) in enumerate(ARCHITECTURES.items()):
        tokenizer = local_tokenizer(name)
        ids = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
        config = getattr(transformers, kind)(**settings, **ids)
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def runs(text_store, tmp_path_factory):
    """lmlab's own: forward, backward, masked, recurrent."""
    folder = tmp_path_factory.mktemp("runs")
    model: dict[str, Any] = {"layers": 2, "width": 16}
    made = {
        "forward": {"model": ModelConfig("gpt2", heads=2, **model)},
        "backward": {"model": ModelConfig("neox", heads=2, **model), "order": "backward"},
        "masked": {"model": ModelConfig("bert", heads=2, **model), "objective": "masked"},
        "gru": {"model": ModelConfig("gru", **model)},
    }
    for name, changes in made.items():
        train(tiny_training(text_store, folder / name, context=20, steps=2, **changes))
    return {name: folder / name for name in made}


@pytest.fixture(scope="module")
def pieces(text_store):
    return pieces_of(text_store.split("train"), 12, most=40)


def rows_of(encoders, pieces, config=None):
    config = config or EmbeddingConfig()
    pieces, prepared = prepare_text(encoders, pieces, config)
    rows = {name: np.concatenate(list(embed(one, config))) for name, one in prepared.items()}
    return pieces, rows


# Pieces


def test_pieces_keep_the_blank_that_a_sentencepiece_decoder_takes(tmp_path):
    """Pieces of one document join to the document, wherever they were cut."""
    letters = ["<unk>", "</s>", "▁", *"abcdefgh"]
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, [], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = TextTokenizer(backend, bos_id=1, end_of_text_id=1)
    texts = ["abc de  f gh abcd", "e f g h a b c d"]
    ids = tokenizer.encode_batch(texts)
    documents = [EncodedDocument(t, i, len(t)) for t, i in zip(texts, ids, strict=True)]
    split = write_store(tmp_path / "s", tokenizer, {"train": documents}, request={}).split("train")
    for length in range(2, 9):
        made = pieces_of(split, length)
        for cluster, text in enumerate(texts):
            joined = "".join(
                t for t, c in zip(made.texts, made.clusters.cluster_N, strict=True) if c == cluster
            )
            assert joined
            assert text.startswith(joined)  # the last piece is left out where it is short


def test_pieces_are_texts_of_one_document_with_its_cluster(text_store):
    split = text_store.split("train")
    made = pieces_of(split, 12)
    documents = [
        text_store.tokenizer.decode(split.read(start, start + length))
        for start, length, _ in split.documents_M3
    ]
    assert len(made.texts) == len(made.clusters.cluster_N)
    for text, cluster in zip(made.texts, made.clusters.cluster_N, strict=True):
        assert text in documents[cluster]
    tokens = [len(text_store.tokenizer.encode(text)) for text in made.texts]
    assert max(tokens) <= 14  # a cut within a word may be tokenised anew
    assert min(tokens) >= 5
    few = pieces_of(split, 12, most=7)
    assert len(few) == 7
    assert set(few.texts) <= set(made.texts)
    assert few.fingerprint == pieces_of(split, 12, most=7).fingerprint
    assert few.fingerprint != pieces_of(split, 12, most=7, seed=1).fingerprint
    with pytest.raises(UserError, match="no document of split train has 5000 tokens"):
        pieces_of(split, 10_000)


def test_words_are_what_stands_between_spaces():
    text = "Ab  c'd\n東京."
    assert [text[a:b] for a, b in words(text)] == ["Ab", "c'd", "東京."]
    assert words("  ").shape == (0, 2)


# Every architecture of the published set


def test_the_twelve_architectures_load_and_embed_as_transformers_would(zoo, pieces):
    encoders = {name: open_encoder(path) for name, path in zoo.items()}
    small = replace(pieces, texts=pieces.texts[:5], clusters=pieces.clusters[np.arange(5)])
    _, rows = rows_of(encoders, small)
    for name, path in zoo.items():
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModel.from_pretrained(path).eval()
        for text, row_D in zip(small.texts, rows[name], strict=True):
            given = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
            special_T = given.pop("special_tokens_mask")[0].bool()
            given.pop("token_type_ids", None)
            with torch.no_grad():
                states_TD = model(**given).last_hidden_state[0]
            expected_D = states_TD[~special_T].mean(0).numpy()
            np.testing.assert_allclose(row_D, expected_D, rtol=1e-4, atol=2e-5, err_msg=name)


def test_the_published_protocol_in_small(zoo, text_store, tmp_path, capsys):
    command = [
        "decompose", "--models", *zoo.values(), "--store", str(text_store.path),
        "--embedding.length", "10", "--embedding.pooling", "published", "--ridge", "1e-6",
        "--pieces", "200", "--held-out-pieces", "60",
        "--lab", str(tmp_path), "--device", "cpu", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "group correlation on test" in printed
    result = read_result(tmp_path / "out")
    assert isinstance(result, ModelsDecomposition)
    assert list(result.targets) == list(ARCHITECTURES)
    assert len(result.pairs.r2) == 12
    for name, target in result.targets.items():
        assert target.fit.basis == tuple(other for other in ARCHITECTURES if other != name)
        assert target.fit.ridge == 1e-6
        assert target.fit.r2_train > target.null.r2_train
    assert (tmp_path / "out" / "albert-base-v2.safetensors").is_file()


def test_a_model_of_another_kind_says_so(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        open_encoder(tmp_path / "nothing")


# lmlab's own models


@pytest.mark.parametrize("name", ["forward", "backward", "masked", "gru"])
def test_own_models_read_the_whole_text_in_their_order(runs, pieces, name):
    encoder = open_encoder(runs[name])
    lm = open_model(runs[name])
    tokenizer = lm.tokenizer
    _, mean = rows_of({name: encoder}, pieces)
    _, first = rows_of({name: encoder}, pieces, EmbeddingConfig(pooling="first"))
    _, last = rows_of({name: encoder}, pieces, EmbeddingConfig(pooling="last"))
    for i, text in enumerate(pieces.texts[:6]):
        ids = tokenizer.encode(text).tolist()
        if name == "backward":
            ids = ids[::-1]
        read = [tokenizer.bos_id, *ids, *([tokenizer.end_of_text_id] if name == "masked" else [])]
        with torch.no_grad():
            states_TD = lm.model.base_model(torch.tensor([read])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(
            mean[name][i], states_TD[1 : len(ids) + 1].mean(0), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(first[name][i], states_TD[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(last[name][i], states_TD[-1], rtol=1e-4, atol=1e-5)


def test_layers_are_those_of_the_analyses(runs, pieces):
    encoder, lm = open_encoder(runs["masked"]), open_model(runs["masked"])
    text = pieces.texts[0]
    ids = [
        encoder.tokenizer.bos_id,
        *encoder.tokenizer.encode(text),
        encoder.tokenizer.end_of_text_id,
    ]
    states = layer_states(lm.backbone, torch.tensor([[int(i) for i in ids]]))
    one = replace(pieces, texts=(text,), clusters=pieces.clusters[[0]])
    for layer, name in ((0, "embeddings"), (1, "block 1"), (2, "block 2")):
        _, rows = rows_of({"m": encoder}, one, EmbeddingConfig(layer=layer))
        expected_D = states[name][0, 1:-1].mean(0).numpy()
        np.testing.assert_allclose(rows["m"][0], expected_D, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"no layer 7; it has embeddings, block 1, block 2"):
        rows_of({"m": encoder}, one, EmbeddingConfig(layer=7))
    with pytest.raises(UserError, match="its last states only"):
        rows_of({"m": open_encoder(runs["gru"])}, one, EmbeddingConfig(layer=1))


def test_only_lmlabs_own_models_become_encoders(zoo, runs):
    assert encoder_of(open_model(runs["forward"])).limit == 20
    assert encoder_of(open_model(runs["masked"])).limit == 22
    assert open_encoder(zoo["roberta-base"]).limit == 64 - 2
    assert open_encoder(zoo["bert-base-uncased"]).limit == 64
    assert open_encoder(zoo["xlnet-base-cased"]).limit is None


# Pooling and batches


def test_batches_chunks_and_companions_change_nothing(zoo, runs, pieces, monkeypatch):
    names = ["longformer-base-4096", "xlnet-base-cased", "deberta-base"]
    encoders = {name: open_encoder(zoo[name]) for name in names}
    encoders["forward"] = open_encoder(runs["forward"])
    _, expected = rows_of(encoders, pieces)
    monkeypatch.setattr(module, "CHUNK", 7)
    _, rows = rows_of(encoders, pieces, EmbeddingConfig(batch_tokens=1))
    for name in rows:
        np.testing.assert_allclose(rows[name], expected[name], rtol=1e-4, atol=1e-5)


def test_published_pooling_divides_by_the_longest_of_all(zoo, pieces):
    encoder = open_encoder(zoo["bert-base-uncased"])
    encoded = encoder.encode(pieces.texts)
    longest = max(len(one.ids_T) for one in encoded)
    config = EmbeddingConfig(pooling="published")
    _, rows = rows_of({"m": encoder}, pieces, config)
    for one, row_D in zip(encoded[:5], rows["m"], strict=False):
        with torch.no_grad():
            states_TD = encoder.body(torch.from_numpy(one.ids_T)[None]).last_hidden_state[0]
        np.testing.assert_allclose(row_D, states_TD.sum(0) / longest, rtol=1e-4, atol=1e-5)


def test_published_pooling_has_one_padded_length_for_all_splits(zoo, text_store, tmp_path):
    """Was: each split divided by its own longest piece, so test rows had another scale than the
    rows that the fit was made on."""
    encoder = open_encoder(zoo["roberta-base"])
    config = EmbeddingConfig(length=10, pooling="published")
    counts = {"train": 60, "validation": 10, "test": 10}
    models = {"m": str(zoo["roberta-base"])}
    made = embed_models(models, text_store, config, counts=counts, lab=tmp_path)
    encoded = {
        split: encoder.encode(pieces_of(text_store.split(split), 10, most=most).texts)
        for split, most in counts.items()
    }
    longest = {split: max(len(one.ids_T) for one in texts) for split, texts in encoded.items()}
    assert len(set(longest.values())) > 1, "otherwise nothing is tested"
    for split, texts in encoded.items():
        rows_ND = np.concatenate([rows for rows, _ in made[split].stores["m"].shards()])
        with torch.no_grad():
            states_TD = encoder.body(torch.from_numpy(texts[0].ids_T)[None]).last_hidden_state[0]
        expected_D = states_TD.sum(0) / max(longest.values())
        np.testing.assert_allclose(rows_ND[0], expected_D, rtol=1e-4, atol=1e-5)
        assert made[split].padded_to == {"m": max(longest.values())}
    mean = embed_models(
        models, text_store, replace(config, pooling="mean"), counts={"test": 5}, lab=tmp_path
    )
    assert mean["test"].padded_to == {}


def test_a_mapping_of_published_rows_keeps_their_padded_length(zoo, text_store, tmp_path):
    """Was: the text that it was applied to had a padded length of its own."""
    names = [str(zoo[name]) for name in ("bert-base-uncased", "roberta-base")]
    command = [
        "decompose", names[0], "--basis", names[1], "--store", str(text_store.path),
        "--embedding.length", "10", "--embedding.pooling", "published", "--pieces", "150",
        "--held-out-pieces", "40", "--lab", str(tmp_path), "--out", str(tmp_path / "out"),
        "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    result = read_result(tmp_path / "out")
    assert isinstance(result, ModelsDecomposition)
    mapping = load_mapping(tmp_path / "out" / "bert-base-uncased.safetensors")
    assert mapping.padded_to == result.padded_to
    assert set(mapping.padded_to) == {"bert-base-uncased", "roberta-base"}
    command = [
        "apply", str(tmp_path / "out" / "bert-base-uncased.safetensors"), "--store",
        str(text_store.path), "--pieces", "40", "--lab", str(tmp_path), "--out",
        str(tmp_path / "applied"), "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    applied = read_result(tmp_path / "applied")
    assert isinstance(applied, AppliedMapping)
    r2_test = result.targets["bert-base-uncased"].fit.r2_test
    assert applied.agreement.r2 == pytest.approx(r2_test, abs=1e-4)


def test_bfloat16_is_near(zoo, pieces):
    encoder = open_encoder(zoo["bert-base-uncased"])
    _, exact = rows_of({"m": encoder}, pieces)
    _, near = rows_of({"m": encoder}, pieces, EmbeddingConfig(dtype="bfloat16"))
    difference = np.abs(near["m"] - exact["m"]).max()
    assert 0 < difference < 0.05 * np.abs(exact["m"]).max()


def test_a_piece_too_long_for_one_model_is_cut_for_all(runs, zoo, text_store):
    long = pieces_of(text_store.split("train"), 60, most=10)
    encoders = {
        "short": open_encoder(runs["forward"]),
        "long": open_encoder(zoo["xlnet-base-cased"]),
    }
    fitted, prepared = prepare_text(encoders, long, EmbeddingConfig())
    assert fitted.shortened > 0
    lengths = [len(one.ids_T) for one in prepared["short"].encoded]
    assert max(lengths) <= 20
    assert max(lengths) >= 18  # no more is cut than must be
    for before, after in zip(long.texts, fitted.texts, strict=True):
        assert before.startswith(after)
    again = encoders["long"].encode(fitted.texts)
    assert [o.ids_T.tolist() for o in prepared["long"].encoded] == [o.ids_T.tolist() for o in again]
    # was: cut to the end of a character of which a token was too many, so nothing was cut
    for text in ("a" * 17 + "東京" * 4, "東" * 30):
        one = Pieces((text,), Clusters([0]), "document")
        (cut,) = prepare_text({"short": encoders["short"]}, one, EmbeddingConfig())[0].texts
        assert 0 < len(cut) < len(text)
        assert text.startswith(cut)


# Words


def test_words_are_means_of_the_tokens_that_touch_them(zoo, runs):
    texts = ("The naïve café reads.", "Token\n東京,  order")
    few = Pieces(texts, Clusters([3, 8]), "document")
    names = ["bert-base-uncased", "roberta-base", "xlm-roberta-base", "xlnet-base-cased"]
    encoders = {name: open_encoder(zoo[name]) for name in names}
    encoders |= {name: open_encoder(runs[name]) for name in ("forward", "backward")}
    config = EmbeddingConfig(unit="word")
    _, prepared = prepare_text(encoders, few, config)
    spans = prepared["forward"].words
    assert spans is not None
    found = [[t[a:b] for a, b in s] for t, s in zip(texts, spans, strict=True)]
    assert found == [text.split() for text in texts]
    for one in prepared.values():
        assert one.cluster_N.tolist() == [3] * 4 + [8] * 3
        rows = np.concatenate(list(embed(one, config)))
        start = 0
        for text, encoded in zip(texts, one.encoded, strict=True):
            with torch.no_grad():
                ids = torch.from_numpy(encoded.ids_T)[None]
                states_TD = one.encoder.body(ids).last_hidden_state[0].numpy()
            for word in text.split():
                at = text.index(word)
                inside = [
                    t
                    for t, (a, b) in enumerate(encoded.spans_T2)
                    if encoded.text_T[t] and max(a, at) < min(b, at + len(word))
                ]
                np.testing.assert_allclose(
                    rows[start], states_TD[inside].mean(0), rtol=1e-4, atol=1e-5
                )
                start += 1
        assert start == len(rows)


def test_every_token_of_text_belongs_to_a_word(zoo, runs, pieces):
    for encoder in (open_encoder(zoo["roberta-base"]), open_encoder(runs["backward"])):
        for text, one in zip(pieces.texts, encoder.encode(pieces.texts), strict=True):
            inside = module._membership(one, words(text)).any(axis=0)
            outside = [text[a:b] for a, b in one.spans_T2[one.text_T & ~inside]]
            assert not "".join(outside).strip()


# Kept rows


def test_rows_are_kept_by_model_and_text_and_never_made_twice(
    runs, text_store, tmp_path, monkeypatch
):
    models = labels([str(runs["forward"]), str(runs["backward"])])
    assert list(models) == ["forward", "backward"]
    config = EmbeddingConfig(length=12)
    made = embed_models(models, text_store, config, counts={"test": 30}, lab=tmp_path)["test"]
    assert made.stores["forward"].width == 16
    streamed = Scatter()
    _, prepared = prepare_text(
        {name: open_encoder(path) for name, path in models.items()},
        pieces_of(text_store.split("test"), 12, most=30),
        config,
    )
    for rows in zip(*(embed(model, config) for model in prepared.values()), strict=True):
        streamed.update(dict(zip(prepared, rows, strict=True)))
    (kept,) = made.scatter()
    assert kept.n == streamed.n
    assert np.array_equal(kept.covariance(), streamed.covariance())
    folders = sorted(path.name for path in (tmp_path / "embeddings").iterdir())
    monkeypatch.setattr("lmlab.topics.decomposition.embedding_store.embed", pytest.fail)
    again = embed_models(
        models, text_store, replace(config, batch_tokens=77), counts={"test": 30}, lab=tmp_path
    )["test"]
    assert again.stores["forward"].path == made.stores["forward"].path
    monkeypatch.undo()
    other = embed_models(
        models, text_store, replace(config, pooling="last"), counts={"test": 30}, lab=tmp_path
    )["test"]
    assert other.stores["forward"].path.name not in folders
    parts = made.scatter(parts=2)
    assert parts[0].n + parts[1].n == kept.n
    with pytest.raises(UserError, match="fewer documents"):
        made.scatter(parts=500)


def test_damaged_rows_are_named(runs, text_store, tmp_path):
    models = labels([str(runs["forward"])])
    config = EmbeddingConfig(length=12)
    made = embed_models(models, text_store, config, counts={"test": 9}, lab=tmp_path)["test"]
    store = made.stores["forward"]
    shard = next(store.path.glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"rows-00000\.safetensors: damaged"):
        list(open_embeddings(store.path).shards())
    shard.write_bytes(whole)
    manifest = store.path / "manifest.json"
    described = json.loads(manifest.read_text())
    other = replace(store, manifest={**described, "text": "another"})
    with pytest.raises(UserError, match="different texts"):
        list(aligned_rows({"a": store, "b": other}))
    manifest.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        open_embeddings(store.path)
    manifest.write_text("{}")
    with pytest.raises(UserError, match="no embeddings of this lmlab"):
        open_embeddings(store.path)
    with pytest.raises(UserError, match="no embeddings"):
        open_embeddings(tmp_path / "nothing")


def test_equal_names_get_their_places():
    assert list(labels(["a/x", "b/x"])) == ["a/x", "b/x"]
    with pytest.raises(UserError, match="each model once"):
        labels(["a", "a"])


# Commands


@pytest.fixture(scope="module")
def decomposed(runs, text_store, tmp_path_factory):
    """One target of two, with everything that can be asked for."""
    lab = tmp_path_factory.mktemp("lab")
    command = [
        "decompose", str(runs["forward"]), "--basis", str(runs["backward"]), str(runs["masked"]),
        "--store", str(text_store.path), "--embedding.length", "8", "--pieces", "150",
        "--held-out-pieces", "50", "--folds", "3", "--shapley", "--lab", str(lab),
        "--out", str(lab / "out"), "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    result = read_result(lab / "out")
    assert isinstance(result, ModelsDecomposition)
    return lab, result


def test_decompose_one_target(decomposed, runs, text_store):
    lab, result = decomposed
    (target,) = result.targets.values()
    fit = target.fit
    assert fit.basis == ("backward", "masked")
    assert result.group is None
    assert target.interval.estimate == pytest.approx(fit.r2_test)
    assert fit.ridge == target.ridge_path.ridge
    assert sum(target.shares.shapley.values()) == pytest.approx(fit.r2_test)
    assert len(target.folds.r2_of_folds) == 3
    assert target.greedy.r2[-1] == pytest.approx(fit.r2_test)
    assert set(result.similarities["forward"]) == {"backward", "masked"}
    # from the kept rows, by plain least squares
    rows: dict[str, dict[str, np.ndarray]] = {}
    for split, most in (("train", 150), ("test", 50)):
        embedded = embed_models(
            result.models, text_store, EmbeddingConfig(length=8), counts={split: most}, lab=lab
        )[split]
        parts = [rows_ for rows_, _ in aligned_rows(embedded.stores)]
        rows[split] = {name: np.concatenate([p[name] for p in parts]) for name in result.models}
    z, u = (
        np.concatenate([rows["train"][n] for n in names], axis=1).astype(np.float64)
        for names in (["backward", "masked"], ["forward"])
    )
    zc = z - z.mean(0)
    weights = np.linalg.solve(zc.T @ zc + len(z) * fit.ridge * np.eye(32), zc.T @ (u - u.mean(0)))
    test_z = np.concatenate([rows["test"][n] for n in ("backward", "masked")], axis=1)
    left = rows["test"]["forward"] - u.mean(0) - (test_z - z.mean(0)) @ weights
    centred = rows["test"]["forward"] - rows["test"]["forward"].astype(np.float64).mean(0)
    assert fit.r2_test == pytest.approx(1 - (left**2).sum() / (centred**2).sum(), abs=1e-5)


def test_the_page_has_all_that_was_asked_for(decomposed):
    """Shapley shares and folds were in results.json alone."""
    lab, result = decomposed
    (target,) = result.targets.values()
    shares, training = result.frame(3), result.frame(4)
    assert dict(zip(shares["target and basis model"], shares["Shapley share"], strict=True)) == {
        f"forward from {name}": share for name, share in target.shares.shapley.items()
    }
    assert training["standard error of R² test"].tolist() == [
        target.training_uncertainty.standard_error
    ]
    page = (lab / "out" / "report.html").read_text()
    assert page == result.page()
    for table in result.tables():
        assert table.columns[0] == "target (row), basis (column)" or table.caption in page


def test_apply_maps_to_the_target(decomposed, text_store, capsys):
    lab, decomposition = decomposed
    out = lab / "applied"
    command = [
        "apply", str(lab / "out" / "forward.safetensors"), "--store", str(text_store.path),
        "--pieces", "50", "--lab", str(lab), "--out", str(out), "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    result = read_result(out)
    assert isinstance(result, AppliedMapping)
    rows = result.agreement
    assert rows.r2 == pytest.approx(decomposition.targets["forward"].fit.r2_test, abs=1e-5)
    assert rows.shared_neighbours > 2 * rows.chance
    assert result.frame()["R²"].tolist() == [rows.r2]
    assert load((out / "mapped.safetensors").read_bytes())["rows"].shape == (50, 16)
    assert "Mapped from backward, masked" in (out / "report.html").read_text()
    assert main(["apply", str(lab / "nothing"), "--store", str(text_store.path)]) == 2
    assert "cannot be read as a mapping" in capsys.readouterr().err


def test_copies_are_named(runs, text_store, tmp_path, capsys):
    """Was: R2 1.000 from a copy of the target under another name, without a word."""
    for name in ("twin", "third"):
        shutil.copytree(runs["forward"], tmp_path / name)
    models = [
        str(runs["forward"]),
        str(runs["backward"]),
        str(tmp_path / "twin"),
        str(tmp_path / "third"),
    ]
    command = [
        "decompose", models[0], "--basis", *models[1:], "--store", str(text_store.path),
        "--embedding.length", "8", "--pieces", "60", "--held-out-pieces", "40",
        "--lab", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr()
    named = "Models with the same rows, no models of their own: twin of forward, third of forward."
    assert named in " ".join(said.out.split())
    assert "twin has the same rows as forward: a copy" in said.err
    result = read_result(tmp_path / "out")
    assert isinstance(result, ModelsDecomposition)
    assert result.same_rows == (("twin", "forward"), ("third", "forward"))
    assert result.targets["forward"].interval.estimate > 0.999
    assert named in result.report.summary


def test_embed_says_where_the_rows_are(runs, text_store, tmp_path, capsys):
    command = [
        "embed", "--models", str(runs["forward"]), str(runs["gru"]), "--store",
        str(text_store.path), "--split", "test", "--embedding.length", "8", "--pieces", "20",
        "--lab", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    result = read_result(tmp_path / "out")
    assert isinstance(result, Embeddings)
    for kept in result.models.values():
        store = open_embeddings(Path(kept.folder))
        assert store.rows == kept.rows == 20
    assert result.frame()["width"].tolist() == [kept.width for kept in result.models.values()]
    assert "20 pieces, 0 cut" in (tmp_path / "out" / "report.html").read_text()
    assert "20 pieces, 0 cut" in capsys.readouterr().out


def test_settings_that_make_no_sense(tmp_path):
    changes: dict[str, Any]
    for changes, said in (
        ({"target": "a"}, "give TARGET and `basis`"),
        ({"basis": ("a",)}, "give TARGET and `basis`"),
        ({}, "give TARGET and `basis`"),
        ({"target": "a", "basis": ("b",), "models": ("c", "d")}, "give TARGET and `basis`"),
        ({"models": ("a",)}, "at least two models"),
        ({"models": ("a", "b"), "ridge": -1.0}, "`ridge`"),
        ({"models": ("a", "b"), "folds": 1}, "`folds`"),
        ({"models": ("a", "b"), "pieces": 1}, "`pieces`"),
    ):
        with pytest.raises(UserError, match=said):
            DecomposeConfig(store=tmp_path, **changes)
    for changes, said in (
        ({"length": 0}, "length"),
        ({"layer": -1}, "layer"),
        ({"unit": "word", "pooling": "last"}, "for whole pieces"),
    ):
        with pytest.raises(UserError, match=said):
            EmbeddingConfig(**changes)
    with pytest.raises(UserError, match="`neighbours`"):
        ApplyConfig(tmp_path, store=tmp_path, neighbours=0)


# Mapping


def test_agreement_by_hand():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(60, 5)) + 3
    same = agreement(true, true, neighbours=4)
    assert (same.r2, same.cosine, same.shared_neighbours) == pytest.approx((1, 1, 1))
    mapped = true + rng.normal(size=true.shape)
    made = agreement(true, mapped, neighbours=4)
    cosine = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(true, mapped, strict=True)
    ]
    assert made.cosine == pytest.approx(np.mean(cosine))
    shared = 0
    for i in range(60):
        near = []
        for rows in (true - true.mean(0), mapped - true.mean(0)):
            score = rows @ rows[i] / np.linalg.norm(rows, axis=1)
            score[i] = -np.inf
            near.append(set(np.argsort(-score)[:4].tolist()))
        shared += len(near[0] & near[1])
    assert made.shared_neighbours == pytest.approx(shared / 240)
    other = agreement(true, rng.normal(size=true.shape), neighbours=4)
    assert other.shared_neighbours < 3 * made.chance
    with pytest.raises(UserError, match="differ in shape"):
        agreement(true, true[:5])
    with pytest.raises(UserError, match="neighbours of 60 rows"):
        agreement(true, true, neighbours=60)


def test_a_mapping_is_the_fit_it_was_saved_from(tmp_path):
    rng = np.random.default_rng(0)
    rows = {"u": rng.normal(size=(50, 3)), "z": rng.normal(size=(50, 4))}
    scatter = Scatter()
    scatter.update(rows)
    fit = decompose(scatter, "u", ["z"])
    config = EmbeddingConfig(length=9, pooling="last")
    save_mapping(tmp_path / "m.safetensors", fit, {"u": "U", "z": "Z", "other": "O"}, config)
    made = load_mapping(tmp_path / "m.safetensors")
    assert (made.target, made.models, made.embedding) == ("u", {"u": "U", "z": "Z"}, config)
    np.testing.assert_allclose(made.apply(rows), fit.predict(rows), rtol=1e-5, atol=1e-6)
    assert mapping_file(tmp_path, "forward") == tmp_path / "forward.safetensors"
    placed = [mapping_file(tmp_path, label) for label in ("/a/b", "a/b", "../a b", "a-b")]
    assert {path.parent for path in placed} == {tmp_path}
    assert len(set(placed)) == 4
    with pytest.raises(UserError, match="no rows of the basis model 'z'"):
        made.apply({})
    with pytest.raises(UserError, match=r"not \(N, 4\)"):
        made.apply({"z": rows["u"]})
    (tmp_path / "m.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as a mapping"):
        load_mapping(tmp_path / "m.safetensors")


def test_rows_by_word_are_aligned_across_tokenizers(runs, zoo, text_store, tmp_path):
    models = labels([str(runs["forward"]), zoo["bert-base-uncased"]])
    config = EmbeddingConfig(length=12, unit="word")
    made = embed_models(models, text_store, config, counts={"test": 10}, lab=tmp_path)["test"]
    assert len({store.rows for store in made.stores.values()}) == 1
    assert made.stores["forward"].rows > made.pieces
