"""Tokenizers: roundtrips of any text, special tokens, saved files, the reversed-text control."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from helpers import sentences
from lmlab.data.tokenizers import (
    BOS,
    END_OF_TEXT,
    TextLoss,
    TextTokenizer,
    TokenizerConfig,
    build_tokenizer,
    character_tokenizer,
    cut_at_blanks,
    is_own_tokenizer,
    load_tokenizer,
    pretrained_tokenizer,
    train_bpe,
)
from lmlab.errors import UserError
from lmlab.topics.towers.token_classes import CLASSES, token_classes

BPE = train_bpe(sentences(50, seed=0), 400)
REVERSED = train_bpe(sentences(50, seed=0), 400, reversed_text=True)
BYTES = build_tokenizer(TokenizerConfig(kind="bytes"), [])
KINDS = pytest.mark.parametrize(
    "tokenizer", [BPE, REVERSED, BYTES], ids=["bpe", "reversed", "bytes"]
)
any_text = st.text() | st.text(alphabet="the ofa\n\r\t é東<|>bosendtx", max_size=60)


def save(tokenizer, folder):
    folder.mkdir(exist_ok=True)
    for name, data in tokenizer.files().items():
        (folder / name).write_bytes(data)
    return folder


@KINDS
@given(any_text)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == text
    assert not set(ids.tolist()) & {tokenizer.bos_id, tokenizer.end_of_text_id}
    assert ids.max(initial=0) < tokenizer.vocabulary


@given(any_text)
def test_bytes_are_utf8_bytes(text):
    token = {i: BYTES.backend.id_to_token(i) or "" for i in range(256)}
    # the printable form of bytes that GPT-2 introduced: printable ASCII stands for itself
    printable = [b for b in text.encode() if 33 <= b <= 126]
    ids = BYTES.encode(text).tolist()
    assert len(ids) == len(text.encode())
    assert [token[i] for i in ids if 33 <= ord(token[i]) <= 126] == [chr(b) for b in printable]
    assert BYTES.vocabulary == 258


@given(st.text(alphabet="abc\n\r é"))
def test_characters_have_one_id_each_in_order(text):
    alphabet = "abc\n\r é"
    tokenizer = character_tokenizer(alphabet)
    assert tokenizer.encode(text).tolist() == [alphabet.index(c) for c in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_characters_are_learnt_and_strangers_are_named():
    tokenizer = build_tokenizer(TokenizerConfig(kind="characters"), ["ba", "cab"])
    assert tokenizer.encode("abc").tolist() == [0, 1, 2]
    assert tokenizer.vocabulary == 5
    with pytest.raises(UserError, match=r"outside its alphabet: \['x', 'é'\]"):
        tokenizer.encode("aéxb")
    with pytest.raises(UserError, match="distinct"):
        character_tokenizer("aba")


@KINDS
def test_spelled_special_tokens_stay_text(tokenizer):
    text = f"a {BOS}{END_OF_TEXT} b"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids.tolist()) & {tokenizer.bos_id, tokenizer.end_of_text_id}
    with_special = [tokenizer.bos_id, *tokenizer.encode("hi").tolist(), tokenizer.end_of_text_id]
    assert tokenizer.decode(with_special) == "hi"
    assert tokenizer.token(tokenizer.bos_id) == BOS


def test_bpe_merges_and_keeps_its_size():
    assert BPE.vocabulary == 400
    text = sentences(1, seed=5)[0]
    assert len(BPE.encode(text)) < 0.7 * len(text.encode())
    assert train_bpe(["ab"], 400).vocabulary < 262  # no more merges than the text has
    assert train_bpe(iter(sentences(50, seed=0)), 400).fingerprint == BPE.fingerprint


def test_reversed_text_is_bpe_of_the_reversed_text_in_reading_order():
    text = sentences(1, seed=6)[0]
    plain = train_bpe([t[::-1] for t in sentences(50, seed=0)], 400)
    expected = plain.encode(text[::-1])[::-1]
    assert REVERSED.encode(text).tolist() == expected.tolist()
    assert REVERSED.encode(text).tolist() != BPE.encode(text).tolist()
    # reading order: the first ids belong to the beginning of the text
    assert text.startswith(REVERSED.decode(REVERSED.encode(text)[:3]))
    assert REVERSED.fingerprint != plain.fingerprint


def test_batches_are_single_texts():
    texts = sentences(5, seed=7)
    for ids, text in zip(BPE.encode_batch(texts), texts, strict=True):
        assert ids.tolist() == BPE.encode(text).tolist()


@pytest.mark.parametrize(
    "tokenizer", [BPE, BYTES, character_tokenizer("ab é\n")], ids=["bpe", "bytes", "characters"]
)
def test_saved_files_load_in_plain_transformers(tmp_path, tokenizer):
    save(tokenizer, tmp_path / "t")
    text = "ab é ba\na" * 3
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        loaded = kind.from_pretrained(tmp_path / "t")
        assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text).tolist()
        assert (loaded.bos_token_id, loaded.eos_token_id) == (
            tokenizer.bos_id,
            tokenizer.end_of_text_id,
        )
        assert loaded.decode(tokenizer.encode(text).tolist()) == text


@KINDS
def test_saved_tokenizers_come_back_the_same(tmp_path, tokenizer):
    folder = save(tokenizer, tmp_path / "t")
    assert is_own_tokenizer(folder)
    for loaded in (
        load_tokenizer(folder),
        pretrained_tokenizer(str(folder)),
        build_tokenizer(TokenizerConfig(kind="pretrained", name=str(folder)), []),
    ):
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.files() == tokenizer.files()
        text = f"x {BOS} y"
        assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_a_store_and_a_run_are_names_of_their_tokenizers(tmp_path, text_store):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    save(BPE, tmp_path / "run" / "checkpoints" / "step-00000002")
    named = pretrained_tokenizer(str(tmp_path / "run"))
    assert named.fingerprint == BPE.fingerprint
    named = pretrained_tokenizer(str(text_store.path))
    assert named.fingerprint == text_store.manifest["tokenizer_fingerprint"] != BPE.fingerprint


def test_fingerprint_is_what_decides_the_ids():
    assert character_tokenizer("ab").fingerprint == character_tokenizer("ab").fingerprint
    kinds = [BPE, REVERSED, BYTES, character_tokenizer("ab"), character_tokenizer("ba")]
    assert len({t.fingerprint for t in kinds}) == len(kinds)


def test_foreign_tokenizers_keep_their_ids(tmp_path):
    words = Tokenizer(
        models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3, "[UNK]": 4}, "[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 0), ("[SEP]", 1)]
    )
    words.enable_truncation(2)
    words.enable_padding(length=8, pad_id=1, pad_token="[SEP]")
    saved = PreTrainedTokenizerFast(tokenizer_object=words, cls_token="[CLS]", sep_token="[SEP]")
    saved.save_pretrained(tmp_path / "t")
    tokenizer = pretrained_tokenizer(str(tmp_path / "t"))
    # neither special tokens, nor truncation, nor padding
    assert tokenizer.encode("a b b a").tolist() == [2, 3, 3, 2]
    assert (tokenizer.bos_id, tokenizer.end_of_text_id) == (0, 1)
    assert tokenizer.vocabulary == 5


def test_what_cannot_be_loaded_says_so(tmp_path):
    with pytest.raises(UserError, match=rf"tokenizer '{tmp_path}' cannot be loaded"):
        pretrained_tokenizer(str(tmp_path))
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="neither an end-of-text nor a separator"):
        pretrained_tokenizer(str(tmp_path / "bare"))
    with pytest.raises(UserError, match=r"missing: .*tokenizer\.json"):
        load_tokenizer(tmp_path)
    folder = save(BYTES, tmp_path / "t")
    for damage in ("", "{", json.dumps({"bos_token": "x", "eos_token": "y"})):
        (folder / "tokenizer_config.json").write_text(damage)
        with pytest.raises(UserError, match=r"/t: the tokenizer files are damaged"):
            load_tokenizer(folder)
    save(BYTES, folder)
    (folder / "tokenizer.json").write_bytes(BYTES.files()["tokenizer.json"][:-9])
    with pytest.raises(UserError, match=r"/t: the tokenizer files are damaged"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "settings",
    [{"kind": "pretrained"}, {"name": "x"}, {"vocabulary": 257}],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UserError, match=r"`tokenizer\."):
        TokenizerConfig(**settings)


@KINDS
@given(text=any_text)
def test_spans_are_the_characters_of_each_token(tokenizer, text):
    ((ids_n, spans_n2),) = tokenizer.encode_with_spans([text])
    assert np.array_equal(ids_n, tokenizer.encode(text))
    assert spans_n2.shape == (len(ids_n), 2)
    assert (np.diff(spans_n2[:, 0]) >= 0).all()  # in the order of the text, also where reversed
    covered = np.zeros(len(text), dtype=int)
    for i, (start, stop) in zip(ids_n, spans_n2, strict=True):
        covered[start:stop] += 1
        token = tokenizer.decode([i])
        if "\ufffd" not in token:  # whole characters
            assert text[start:stop] == token
    assert (covered >= 1).all()


def losses(tokenizer, *texts):
    return tokenizer.losses(texts, tokenizer.encode_batch(texts))


@KINDS
@given(st.lists(any_text, min_size=1, max_size=4))
def test_own_tokenizers_lose_nothing(tokenizer, texts):
    assert losses(tokenizer, *texts) == [TextLoss()] * len(texts)


def characters(alphabet, *, normalizer=None, unknown="<unk>", reversed_text=False):
    """A tokenizer from elsewhere, of characters."""
    backend = Tokenizer(
        models.WordLevel(
            {c: i for i, c in enumerate(["<unk>", "</s>", *alphabet])}, unk_token=unknown
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens(["</s>"])
    return TextTokenizer(backend, bos_id=1, end_of_text_id=1, reversed_text=reversed_text)


@pytest.mark.parametrize("reversed_text", [False, True])
@pytest.mark.parametrize(
    ("normalizer", "text", "expected"),
    [
        (None, "abba a", TextLoss()),
        (None, "ab東a東", TextLoss(1, 6, 2)),  # two <unk> of three bytes each
        (normalizers.Lowercase(), "Ab BA", TextLoss(1, 3, 0)),
        (normalizers.NFC(), "ae\u0301b", TextLoss(1, 3, 0)),  # e and its accent of two bytes
        (normalizers.Strip(), "  ab \n", TextLoss(1, 4, 0)),
        (normalizers.Replace("  ", " "), "a  b", TextLoss(1, 1, 0)),
        (normalizers.NFKC(), "ﬁa", TextLoss(1, 3, 2)),  # fi is not in the alphabet
    ],
)
def test_what_a_tokenizer_loses_is_counted(normalizer, text, expected, reversed_text):
    if reversed_text and "\u0301" in text:
        expected = TextLoss(1, 3, 2)  # nothing to compose: both are outside the alphabet
    tokenizer = characters("ab é\n", normalizer=normalizer, reversed_text=reversed_text)
    assert losses(tokenizer, "ab", text, "") == [TextLoss(), expected, TextLoss()]


def test_sentencepiece_with_bytes_loses_nothing():
    """A blank before the text and bytes for what the vocabulary lacks are both undone."""
    pieces = ["<unk>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "a", "b", "▁a"]
    backend = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>",
                   byte_fallback=True, fuse_unk=True)
    )  # fmt: skip
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer = TextTokenizer(backend, bos_id=1, end_of_text_id=1)
    # a word's token keeps its blank, which is what tells a word from a piece of one
    assert [tokenizer.token(i) for i in (258, 259, 261)] == [" ", "a", " a"]
    classes = token_classes(tokenizer, tokenizer.vocabulary)
    assert [CLASSES[classes[i]] for i in (258, 259, 261)] == ["space", "pieces", "closed class"]
    texts = ["a b", " a  東", "\n\ta\u0301", "  "]
    assert losses(tokenizer, *texts) == [TextLoss()] * 4


@KINDS
@given(any_text)
def test_bytes_of_ids_are_those_of_the_text(tokenizer, text):
    assert tokenizer.bytes_V is not None
    assert tokenizer.bytes_V[tokenizer.encode(text)].sum() == len(text.encode())
    assert not tokenizer.bytes_V[tokenizer.special_ids].any()


def test_bytes_of_ids_that_depend_on_their_place_are_not_known():
    letters = character_tokenizer("aé語 ")
    assert letters.bytes_V is not None
    assert letters.bytes_V[letters.encode("é語a")].tolist() == [2, 3, 1]
    for change in (
        lambda backend: setattr(backend, "normalizer", normalizers.NFC()),
        lambda backend: setattr(backend, "decoder", decoders.Metaspace()),
        lambda backend: setattr(
            backend, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)
        ),
    ):
        backend = Tokenizer.from_str(BYTES.backend.to_str())
        change(backend)
        other = TextTokenizer(backend, bos_id=BYTES.bos_id, end_of_text_id=BYTES.end_of_text_id)
        assert other.bytes_V is None


def test_a_mask_token_never_shares_the_id_of_another():
    """Was: where ids have gaps, it got the id of a word, which then counted as masked."""

    def with_mask(words: dict[str, int]) -> TextTokenizer:
        backend = Tokenizer(models.WordLevel(words, unk_token="a"))
        return TextTokenizer(backend, bos_id=2, end_of_text_id=2).with_mask()

    assert with_mask({"a": 0, "b": 1, "</s>": 2, "c": 3}).mask_id == 4
    with pytest.raises(UserError, match="would get the id of 'c'"):
        with_mask({"a": 0, "b": 1, "</s>": 2, "c": 4})


@given(st.text(" \n\t\xa0'sab.1東\u2028", max_size=80), st.booleans())
def test_a_long_text_has_the_ids_that_it_has_uncut(text, reversed_text):
    tokenizer = REVERSED if reversed_text else BPE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlab.data.tokenizers._PIECE", 3)
        patch.setattr("lmlab.data.tokenizers._GROUP", 7)
        patch.setattr("lmlab.data.tokenizers._KNOWN", 9)
        pieces = [piece for _, piece in tokenizer._pieces([text])]
        cut = tokenizer.encode_batch(["a", text])[1]
    assert "".join(pieces) == text
    whole = tokenizer.backend.encode(text[::-1] if reversed_text else text).ids
    assert cut.tolist() == (whole[::-1] if reversed_text else whole)


def test_a_long_text_teaches_what_it_teaches_uncut(monkeypatch):
    text = " \n".join(sentences(50, seed=3))
    expected = [train_bpe([text], 400, reversed_text=r).fingerprint for r in (False, True)]
    monkeypatch.setattr("lmlab.data.tokenizers._PIECE", 30)
    assert len(list(cut_at_blanks(text))) > 100
    assert [train_bpe([text], 400, reversed_text=r).fingerprint for r in (False, True)] == expected


def test_a_tokenizer_with_other_rules_gets_the_whole_text(monkeypatch):
    """The first blank of a text, not of a piece, is SentencePiece's own."""
    monkeypatch.setattr("lmlab.data.tokenizers._PIECE", 3)
    backend = Tokenizer(models.WordLevel({"▁a": 0, "a": 1, "<e>": 2}, unk_token="<e>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    assert TextTokenizer(backend, bos_id=2, end_of_text_id=2).encode("a a a a").tolist() == [0] * 4
    assert len([*BPE._pieces(["a a a a"])]) == 2
