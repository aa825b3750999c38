"""The token store: what is written is read, at any place and across shards; damage is named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import id_store, random_documents, symbols_tokenizer, tree
from lmlab.config import digest
from lmlab.data import store as store_module
from lmlab.data.store import EncodedDocument, TokenStore, write_splits, write_store
from lmlab.errors import UserError


@pytest.fixture
def copy(small_store, tmp_path):
    """A copy of the small store, to be damaged."""
    return shutil.copytree(small_store.path, tmp_path / "copy")


def stream(documents, end):
    return np.concatenate([np.append(d, end) for d in documents])


def test_the_stream_is_the_documents_joined_by_end_of_text(tmp_path):
    documents = random_documents(20, 1, 30, symbols=9, seed=3)
    split = id_store(tmp_path / "s", {"train": documents}, symbols=9).split("train")
    end = symbols_tokenizer(9).end_of_text_id
    assert split.read(0, split.tokens).tolist() == stream(documents, end).tolist()
    assert split.names == [f"train/{i}" for i in range(20)]
    for (start, tokens, size), ids in zip(split.documents_M3, documents, strict=True):
        assert split.read(start, start + tokens).tolist() == ids.tolist()
        assert size == 3 * len(ids)
    assert split.text_bytes == sum(3 * len(d) for d in documents)


def test_documents_joined_without_a_token_between(tmp_path):
    documents = random_documents(5, 4, 4, symbols=9, seed=3)
    store = id_store(tmp_path / "s", {"train": documents}, symbols=9, end_of_text=False)
    assert store.split("train").read(0, 20).tolist() == np.concatenate(documents).tolist()
    with_end = id_store(tmp_path / "e", {"train": documents}, symbols=9)
    assert with_end.fingerprint != store.fingerprint


@pytest.mark.parametrize(
    ("symbols", "dtype"), [(254, "uint8"), (255, "uint16"), (65534, "uint16"), (65535, "uint32")]
)
def test_ids_take_the_smallest_sufficient_type(monkeypatch, tmp_path, symbols, dtype):
    # 65 thousand symbols without building such a tokenizer
    tokenizer = symbols_tokenizer.__wrapped__(3)
    tokenizer.vocabulary = symbols + 2
    ids = np.array([0, symbols + 1, 1])
    store = write_store(
        tmp_path / "s", tokenizer, {"train": [EncodedDocument("a", ids, 3)]}, request={}
    )
    assert store.dtype == dtype
    assert store.split("train").read(0, 3).tolist() == ids.tolist()
    assert (tmp_path / "s" / "train-00000.bin").stat().st_size == 4 * np.dtype(dtype).itemsize


@given(st.data())
def test_reads_cross_the_borders_of_shards(tmp_path_factory, data):
    documents = random_documents(12, 1, 20, symbols=9, seed=4)
    path = tmp_path_factory.mktemp("shards") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "SHARD_BYTES", data.draw(st.integers(1, 100)))
        store = id_store(path, {"train": documents}, symbols=9)
    split = store.split("train")
    whole = stream(documents, symbols_tokenizer(9).end_of_text_id)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert split.read(start, stop).tolist() == whole[start:stop].tolist()
    assert len(list(path.glob("train-*.bin"))) == len(store.manifest["splits"]["train"]["shards"])
    store.verify()


def test_several_shards_were_really_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_BYTES", 64)
    id_store(tmp_path / "s", {"train": [np.arange(9)] * 20}, symbols=9)
    assert len(list((tmp_path / "s").glob("train-*.bin"))) > 2


def test_splits_written_in_one_pass_are_those_written_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_BYTES", 64)
    rng = np.random.default_rng(0)
    documents = [
        (("train", "validation", "test")[rng.integers(3)],
         EncodedDocument(f"d{i}", rng.integers(0, 9, rng.integers(1, 40)), i))
        for i in range(60)
    ]  # fmt: skip
    names, tokenizer = ["train", "validation", "test"], symbols_tokenizer(9)
    write_splits(tmp_path / "one pass", tokenizer, names, iter(documents), request={})
    by_split = {name: [d for split, d in documents if split == name] for name in names}
    write_store(tmp_path / "in turn", tokenizer, by_split, request={})
    assert tree(tmp_path / "one pass") == tree(tmp_path / "in turn")


def test_fingerprint_is_of_the_content_wherever_it_lies(small_store, copy, tmp_path):
    assert TokenStore(copy).fingerprint == small_store.fingerprint
    documents = {"train": [[1, 2, 3]], "validation": [[4]]}
    one = id_store(tmp_path / "one", documents, symbols=9)
    assert id_store(tmp_path / "two", documents, symbols=9).fingerprint == one.fingerprint
    others = [
        id_store(tmp_path / "a", {**documents, "validation": [[5]]}, symbols=9),
        id_store(tmp_path / "b", {"train": [[1, 2], [3]], "validation": [[4]]}, symbols=9),
        id_store(tmp_path / "c", documents, symbols=10),
    ]
    assert len({store.fingerprint for store in [one, *others]}) == 4


def test_the_manifest_names_every_file_and_its_digest(small_store):
    files = tree(small_store.path)
    assert set(small_store.manifest["files"]) == set(files) - {"manifest.json"}
    written = json.loads(files["manifest.json"])
    claimed = written.pop("manifest_sha256")
    assert claimed == digest(written)
    small_store.verify()


@pytest.mark.parametrize("bad", [[0, 14], [-1], [2**40]])
def test_an_id_beyond_the_vocabulary_is_refused(tmp_path, bad):
    with pytest.raises(UserError, match=r"train/1: token id -?\d+ is beyond the vocabulary of 14"):
        id_store(tmp_path / "s", {"train": [[1], bad]}, symbols=12)
    assert list(tmp_path.iterdir()) == []


def test_a_document_without_tokens_is_refused(tmp_path):
    with pytest.raises(UserError, match="train/0: the document has no tokens"):
        id_store(tmp_path / "s", {"train": [[]]}, symbols=12)


def test_nothing_is_overwritten(small_store):
    before = tree(small_store.path)
    with pytest.raises(UserError, match="exists already"):
        id_store(small_store.path, {"train": [[1]]}, symbols=12)
    assert tree(small_store.path) == before


def test_a_corrupted_shard_is_noticed_when_read(copy):
    shard = copy / "train-00000.bin"
    data = bytearray(shard.read_bytes())
    data[5] = 200
    shard.write_bytes(data)
    store = TokenStore(copy)
    assert store.split("train").read(0, 5).max() < store.vocabulary
    with pytest.raises(UserError, match=r"copy: .*token id 200 beyond the vocabulary.*prepare it"):
        store.split("train").read(0, 6)
    with pytest.raises(UserError, match=r"train-00000\.bin: its content is not what was prepared"):
        store.verify()


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_shard_is_noticed_on_opening(copy, keep):
    shard = copy / "validation-00000.bin"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"validation-00000\.bin: \d+ bytes where .*Remove"):
        TokenStore(copy)


@pytest.mark.parametrize("file", ["train-00000.bin", "train.documents.npy", "train.names.jsonl"])
def test_a_missing_file_is_noticed_on_opening(copy, file):
    (copy / file).unlink()
    with pytest.raises(UserError, match=rf"{file}: missing.*Remove the folder"):
        TokenStore(copy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"vocabulary": 14', '"vocabulary": 15'),
        ('"train-00000.bin"', '"../../secret"'),
        ('"end_of_text": true', '"end_of_text": false'),
        ('"documents": 30', '"documents": NaN'),
    ],
)
def test_an_edited_manifest_is_refused(copy, old, new):
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"manifest\.json: .*(edited|damaged).*prepare it again"):
        TokenStore(copy)


@pytest.mark.parametrize("text", ["", "{", "\xff", "[]", "{}", '{"format": "other"}'])
def test_a_manifest_that_is_none(copy, text):
    (copy / "manifest.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=r"manifest\.json: "):
        TokenStore(copy)


def test_a_signed_manifest_still_may_not_leave_the_folder(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    manifest["files"]["../outside"] = "0"
    manifest["manifest_sha256"] = digest(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"names a file outside the store: '\.\./outside'"):
        TokenStore(copy)


def test_no_store_here(tmp_path):
    with pytest.raises(UserError, match=r"not a token store.*lmlab prepare"):
        TokenStore(tmp_path / "nothing")
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        id_store(tmp_path / "s", {"train": [[1]]}, symbols=2).split("test")


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"nonsense"])
def test_damaged_tables_are_named(copy, damage):
    (copy / "train.documents.npy").write_bytes(damage)
    with pytest.raises(UserError, match=r"train\.documents\.npy: damaged"):
        _ = TokenStore(copy).split("train").documents_M3
    (copy / "train.names.jsonl").write_bytes(damage or b'"')
    with pytest.raises(UserError, match=r"train\.names\.jsonl: damaged"):
        _ = TokenStore(copy).split("train").names


def test_another_tokenizer_in_the_folder_is_noticed(copy):
    for name, data in symbols_tokenizer(13).files().items():
        (copy / "tokenizer" / name).write_bytes(data)
    with pytest.raises(UserError, match=r"tokenizer: not the tokenizer that made this store"):
        _ = TokenStore(copy).tokenizer
