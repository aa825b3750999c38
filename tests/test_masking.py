"""Masks: their statistics, what is never touched, whole words.

Shapes: n tokens of a window, M windows.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import BertTokenizer

from helpers import sentences, symbols_tokenizer
from lmlab.config.objective import MaskingConfig
from lmlab.data.masking import Masking
from lmlab.data.tokenizers import TextTokenizer, load_tokenizer, pretrained_tokenizer, train_bpe
from lmlab.data.windows import row_keys
from lmlab.errors import UserError

SYMBOLS = 50


def masking(**options):
    return Masking(MaskingConfig(**options), symbols_tokenizer(SYMBOLS).with_mask())


def drawn(made, windows, *, seed=0):
    keys = row_keys(range(len(windows)), seed)
    pairs = [made.draw(ids, int(key)) for ids, key in zip(windows, keys, strict=True)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


def test_shares_are_exactly_those_asked_for():
    made = masking()
    rng = np.random.default_rng(0)
    ids_Mn = rng.integers(0, SYMBOLS, (4000, 37))
    ids_Mn[:, ::7] = SYMBOLS + 1  # end of text: 31 ordinary tokens a window
    seen_Mn, chosen_Mn = drawn(made, ids_Mn)
    assert not chosen_Mn[:, ::7].any()
    assert (seen_Mn == ids_Mn)[~chosen_Mn].all()
    assert set(chosen_Mn.sum(1)) == {4, 5}  # 0.15 x 31 = 4.65
    count = chosen_Mn.sum()
    assert count / 4000 == pytest.approx(4.65, abs=5 * np.sqrt(0.65 * 0.35 / 4000))
    seen, own = seen_Mn[chosen_Mn], ids_Mn[chosen_Mn]
    error = 5 * np.sqrt(0.25 / count)
    assert (seen == made.mask_id).mean() == pytest.approx(0.8, abs=error)
    other = (seen != made.mask_id) & (seen != own)  # a random token may be the token itself
    assert other.mean() == pytest.approx(0.1 * (1 - 1 / SYMBOLS), abs=error)
    assert set(seen[other]) == set(range(SYMBOLS))
    # every ordinary position is as likely
    by_position = chosen_Mn.mean(0)[np.arange(37) % 7 != 0]
    assert by_position == pytest.approx(0.15, abs=5 * np.sqrt(0.15 * 0.85 / 4000))
    # what is seen does not depend on where or which token
    assert np.corrcoef(seen == made.mask_id, own)[0, 1] == pytest.approx(0, abs=error)


def test_a_mask_is_a_function_of_its_key():
    made, ids_Mn = masking(), np.random.default_rng(1).integers(0, SYMBOLS, (200, 64))
    one, again, other = (drawn(made, ids_Mn, seed=seed) for seed in (3, 3, 4))
    assert (one[0] == again[0]).all()
    assert (one[1] == again[1]).all()
    # two keys choose as two independent draws would: 0.15^2 of positions in common
    both = (one[1] & other[1]).mean()
    assert both == pytest.approx(0.0225, abs=5 * np.sqrt(0.0225 / ids_Mn.size))
    same = np.tile(ids_Mn[0], (200, 1))
    assert len({row.tobytes() for row in drawn(made, same)[1]}) == 200


@given(st.lists(st.integers(0, 4), max_size=20), st.floats(0.01, 1), st.integers(0, 1 << 40))
@settings(deadline=None)
def test_any_window(ids, rate, key):
    made = Masking(MaskingConfig(rate=rate), symbols_tokenizer(3).with_mask())  # 3, 4 are special
    ids_n = np.array(ids, dtype=np.int64)
    seen_n, chosen_n = made.draw(ids_n, key)
    ordinary = int((ids_n < 3).sum())
    assert not chosen_n[ids_n >= 3].any()
    if ordinary == 0:
        assert not chosen_n.any()
    else:
        low, high = np.floor(rate * ordinary), np.ceil(rate * ordinary)
        assert max(1, low) <= chosen_n.sum() <= max(1, high)
    assert (seen_n == ids_n)[~chosen_n].all()


def wordpiece() -> TextTokenizer:
    words = ["un", "want", "##ed", "##s", "a", "##b", ",", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[CLS]"))
    backend.add_special_tokens(["[CLS]", "[SEP]", "[MASK]"])
    return TextTokenizer(backend, bos_id=7, end_of_text_id=8, mask_id=9)


def test_words_of_wordpiece():
    made = Masking(MaskingConfig(whole_words=True), wordpiece())
    ids = np.array([0, 1, 2, 3, 4, 5, 6, 8, 2, 4])  # un want##ed##s a##b , [SEP] ##ed a
    assert made.words(ids).tolist() == [0, 1, 1, 1, 2, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("reversed_text", [False, True])
def test_words_of_byte_level_bpe(reversed_text):
    texts = sentences(40, seed=0)
    tokenizer = train_bpe(texts, 300, reversed_text=reversed_text).with_mask()
    made = Masking(MaskingConfig(whole_words=True), tokenizer)
    text = "The naïve café, 東京 reads42 back-wards."
    ids = tokenizer.encode(text)
    words = made.words(ids)
    spelt = [tokenizer.decode(ids[words == w]).strip() for w in range(words.max() + 1)]
    assert [w for w in spelt if w] == [
        "The", "naïve", "café", ",", "東京", "reads42", "back", "-", "wards", ".",
    ]  # fmt: skip


def test_whole_words_are_chosen_whole_and_at_the_right_rate():
    tokenizer = train_bpe(sentences(40, seed=0), 270).with_mask()
    made = Masking(MaskingConfig(whole_words=True), tokenizer)
    ids_n = np.concatenate([tokenizer.encode(t) for t in sentences(3, seed=5)])[:200]
    words = made.words(ids_n)
    assert words.max() < 90  # tokens are short pieces of words
    chosen_Mn = drawn(made, np.tile(ids_n, (1500, 1)))[1]
    for chosen_n in chosen_Mn[:100]:
        by_word = [set(chosen_n[words == w]) for w in range(words.max() + 1)]
        assert all(len(states) == 1 for states in by_word)
    spread = chosen_Mn.sum(1).std() / np.sqrt(1500)
    assert chosen_Mn.sum(1).mean() == pytest.approx(0.15 * 200, abs=5 * spread)


def test_the_mask_token_changes_no_id_of_text_and_no_fingerprint(tmp_path):
    plain = train_bpe(sentences(20, seed=0), 300)
    made = plain.with_mask()
    assert plain.mask_id is None
    assert (made.mask_id, made.vocabulary) == (plain.vocabulary, plain.vocabulary + 1)
    assert made.fingerprint == plain.fingerprint
    text = "text that spells <|mask|> and <|bos|>"
    assert made.encode(text).tolist() == plain.encode(text).tolist()
    for name, data in made.files().items():
        (tmp_path / name).write_bytes(data)
    again = load_tokenizer(tmp_path)
    assert (again.mask_id, again.fingerprint) == (made.mask_id, plain.fingerprint)
    assert again.with_mask() is again
    with pytest.raises(UserError, match="no mask token"):
        Masking(MaskingConfig(), plain)


def test_a_pretrained_mask_token_is_used(tmp_path):
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    )
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "t")
    tokenizer = pretrained_tokenizer(str(tmp_path / "t"))
    assert (tokenizer.mask_id, tokenizer.bos_id, tokenizer.end_of_text_id) == (4, 2, 3)
    assert tokenizer.special_ids == [0, 1, 2, 3, 4]
