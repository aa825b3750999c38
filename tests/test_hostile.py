"""Hostile files: nothing of them runs, nothing leaves its folder, and every refusal is our own.

Fuzzing changes a valid file at random places and gives it a new digest where it needs one, as an
attacker would; a reader may take it or raise `UserError`, and nothing else.
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import id_store, tiny_training, tree
from lmlab.config import digest, from_mapping, read_toml
from lmlab.config.training import TrainConfig
from lmlab.data.labelled import read_labelled
from lmlab.data.labelled_store import LabelledSplit, read_labels
from lmlab.data.store import TokenStore
from lmlab.data.tasks import read_tasks
from lmlab.durable import file_sha256, to_json
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.models.head import read_bias
from lmlab.numerics.scatter import Scatter
from lmlab.run_folders.checkpoint import (
    newest_checkpoint,
    read_json_file,
    save_checkpoint,
    verify_checkpoint,
)
from lmlab.run_folders.journal import cut_back, read_journal
from lmlab.run_folders.rundir import check_identity
from lmlab.topics.decomposition.embedding_store import open_embeddings
from lmlab.topics.decomposition.mapping import load_mapping
from lmlab.topics.registry import read_result
from lmlab.training.loop import train
from objective_cases import labelled_texts

FUZZ = "Fuzzed files are read, or refused by an error of ours"

# what a JSON value may be turned into
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
odd = st.sampled_from(
    [-1, 0, 2**31, 2**63, 2**64, 10**30, 1e308, "../x", "/etc/passwd", "a\0b", "", ".", "object",
     [], {}, "é" * 300, True]
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where each part of a JSON value stands, the whole excepted."""
    found: list[tuple[Any, ...]] = []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        found += [(*at, key), *places(inner, (*at, key))]
    return found


@st.composite
def changed(draw, value):
    """A JSON value with up to three parts replaced, renamed or left out."""
    made = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        where = places(made)
        if not where:
            break
        *before, last = draw(st.sampled_from(where))
        holder = made
        for key in before:
            holder = holder[key]
        how = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
        if how == "replace":
            holder[last] = draw(plain | odd)
        elif how == "remove" or isinstance(holder, list):
            del holder[last]
        else:
            holder[draw(st.text(max_size=5) | st.just("../x"))] = holder.pop(last)
    return made


@st.composite
def damaged(draw, data):
    """Bytes with a part cut out, overwritten or put in."""
    start = draw(st.integers(0, len(data)))
    stop = draw(st.integers(start, min(len(data), start + 40)))
    return data[:start] + draw(st.binary(max_size=12)) + data[stop:]


def tried(cases, read: Callable[[Any], object]) -> Callable[[Any], None]:
    """Counts a case, and lets errors of ours pass."""

    def attempt(value: Any) -> None:
        cases.tried += 1
        with suppress(UserError):
            read(value)
        cases.held += 1

    return attempt


def fuzz(strategy, attempt: Callable[[Any], None]) -> None:
    @given(strategy)
    def property_of_readers(value):
        attempt(value)

    property_of_readers()


@pytest.fixture
def store(tmp_path):
    return id_store(tmp_path / "store", {"train": [[1, 2], [3]], "validation": [[4]]}, symbols=9)


def read_all(path: Path) -> None:
    """Whatever a program reads of a store."""
    opened = TokenStore(path)
    assert opened.fingerprint
    for name in opened.manifest["splits"]:
        split = opened.split(name)
        split.read(0, split.tokens)
        for start, tokens, _ in split.documents_M3:
            split.read(int(start), int(start + tokens))
        assert len(split.names) == len(split.documents_M3)
    assert opened.tokenizer.vocabulary == opened.vocabulary


@pytest.mark.promise(f"{FUZZ}: manifests of stores, with a true digest")
def test_manifests_of_stores(store, cases):
    whole = dict(store.manifest)

    def read(manifest):
        try:
            manifest = {**manifest, "manifest_sha256": digest(manifest)}
        except ValueError:  # NaN has no digest, so no manifest can hold it
            return
        (store.path / "manifest.json").write_text(json.dumps(manifest))
        read_all(store.path)

    read(whole)
    fuzz(changed(whole), tried(cases, read))


@pytest.mark.promise(f"{FUZZ}: files of stores, bytes damaged")
@pytest.mark.parametrize(
    "file",
    ["manifest.json", "train-00000.bin", "train.documents.npy", "train.names.jsonl",
     "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"],
)  # fmt: skip
def test_files_of_stores(store, cases, file):
    path = store.path / file
    whole = path.read_bytes()

    def read(data):
        path.write_bytes(data)
        read_all(store.path)

    fuzz(damaged(whole), tried(cases, read))


@pytest.mark.promise(f"{FUZZ}: labels.json")
def test_labels(tmp_path, cases):
    store = labelled_texts(tmp_path)
    path = store.path / "labels.json"
    whole = json.loads(path.read_text())

    def read(value):
        path.write_text(json.dumps(value))
        labels = read_labels(store)
        for name, label_N in labels.by_split.items():
            texts = LabelledSplit(store.split(name), label_N)
            assert [texts.text(i).label for i in range(len(texts))] == label_N.tolist()

    read(whole)
    fuzz(changed(whole), tried(cases, read))


@pytest.mark.promise(f"{FUZZ}: checkpoints, manifests and records")
def test_manifests_of_checkpoints(tmp_path, cases):
    path = save_checkpoint(tmp_path, 3, {"model.safetensors": b"abc", "state.json": b"{}"})
    whole = json.loads((path / "manifest.json").read_text())

    def read(value):
        (path / "manifest.json").write_text(json.dumps(value))
        newest_checkpoint(tmp_path)
        read_json_file(path / "manifest.json")
        verify_checkpoint(path)

    read(whole)
    fuzz(changed(whole), tried(cases, read))


@pytest.mark.promise(f"{FUZZ}: journals")
def test_journals(tmp_path, cases):
    path = tmp_path / "journal.jsonl"
    whole = b"".join(b'{"step": %d, "loss": 1.5}\n' % step for step in range(1, 9))

    def read(data):
        path.write_bytes(data)
        cut_back(path, 4)
        read_journal(path)

    fuzz(damaged(whole) | st.binary(max_size=60), tried(cases, read))


@pytest.mark.promise(f"{FUZZ}: TOML")
def test_toml(store, tmp_path, cases):
    from lmlab.config import to_mapping, to_toml

    path = tmp_path / "config.toml"
    config = to_mapping(tiny_training(store, tmp_path / "run"))

    def read(data):
        path.write_bytes(data)
        check_identity(tmp_path, "a", config)
        from_mapping(TrainConfig, read_toml(path), where=str(path))

    def read_values(values):
        from_mapping(TrainConfig, values, where="here")

    read_values(config)
    deep = [b"a = " + b"[" * 9000, b"a = " + b"{b=" * 9000, b"a" + b".a" * 9000 + b" = 1"]
    fuzz(
        damaged(to_toml(config).encode()) | st.binary(max_size=60) | st.sampled_from(deep),
        tried(cases, read),
    )
    fuzz(changed(config), tried(cases, read_values))


@pytest.mark.promise(f"{FUZZ}: task files")
@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("lambada", {"text": "the model reads"}),
        ("blimp", {"sentence_good": "a b", "sentence_bad": "b a", "UID": "x", "field": "f",
                   "linguistics_term": "t"}),
        ("choices", {"context": "a", "choices": [" b", " c"], "answer": 1, "group": "g"}),
    ],
)  # fmt: skip
def test_task_files(tmp_path, cases, kind, record):
    path = tmp_path / "task.jsonl"
    line = json.dumps(record).encode() + b"\n"

    def read(data):
        path.write_bytes(data)
        read_tasks([f"{kind}={path}"])

    read(line)
    attempt = tried(cases, read)
    fuzz(damaged(line * 2), attempt)
    fuzz(changed(record).map(lambda value: json.dumps(value).encode()), attempt)
    attempt(b"[" * 9000)


@pytest.mark.promise(f"{FUZZ}: labelled files")
@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_labelled_files(tmp_path, cases, kind):
    path = tmp_path / f"texts.{kind}"
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(12)]
    whole = (
        "".join(json.dumps(row) + "\n" for row in rows)
        if kind == "jsonl"
        else "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows)
    ).encode()

    def read(data):
        path.write_bytes(data)
        read_labelled(f"{kind}={path}")

    read(whole)
    fuzz(damaged(whole), tried(cases, read))


@pytest.mark.promise(f"{FUZZ}: safetensors of ours, manifests of embeddings")
def test_arrays(tmp_path, cases):
    path = tmp_path / "file"
    scatter = Scatter()
    scatter.update({"a": np.eye(3), "b": np.ones((3, 2))})
    scatter.save(path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    del header["__metadata__"]["sha256"]  # an attacker leaves the seal out

    def read(data):
        path.write_bytes(data)
        for reader in (Scatter.load, load_mapping, lambda p: read_bias(p.parent)):
            with suppress(UserError):
                reader(path)

    def read_header(value):
        text = json.dumps(value).encode()
        read(len(text).to_bytes(8, "little") + text + whole[8 + size :])

    Scatter.load(path)
    fuzz(damaged(whole), tried(cases, read))
    fuzz(changed(header), tried(cases, read_header))
    widths = json.loads(header["__metadata__"]["widths"])

    def read_widths(value):
        described = {**header["__metadata__"], "widths": json.dumps(value)}
        read_header({**header, "__metadata__": described})

    fuzz(changed(widths) | plain, tried(cases, read_widths))
    folder = tmp_path / "embeddings"
    folder.mkdir()
    file = folder / "rows-0.safetensors"
    file.write_bytes(save({"rows": np.eye(2), "cluster": np.arange(2, dtype=np.int64)}))
    manifest = {"format": "lmlab embeddings 1", "rows": 2, "width": 2,
                "shards": {file.name: [2, 2]}, "files": {file.name: file_sha256(file)},
                "text": "x", "words": None}  # fmt: skip

    def read_rows(value):
        (folder / "manifest.json").write_text(json.dumps(value))
        return list(open_embeddings(folder).shards())

    assert len(read_rows(manifest)) == 1
    fuzz(changed(manifest), tried(cases, read_rows))


@pytest.mark.promise(f"{FUZZ}: JSON that is nested too deeply, in every reader of JSON")
def test_deep_json(store, tmp_path, cases):
    deep = b"[" * 100_000 + b"]" * 100_000
    saved = save_checkpoint(tmp_path / "run", 1, {"state.json": b"{}"})
    journal = tmp_path / "journal.jsonl"
    readers: dict[Path, Callable[[], object]] = {
        saved / "manifest.json": lambda: verify_checkpoint(saved),
        saved / "state.json": lambda: read_json_file(saved / "state.json"),
        journal: lambda: read_journal(journal),
        tmp_path / "results.json": lambda: read_result(tmp_path),
        store.path / "train.names.jsonl": lambda: TokenStore(store.path).split("train").names,
        store.path / "tokenizer/tokenizer_config.json": lambda: TokenStore(store.path).tokenizer,
        store.path / "manifest.json": lambda: TokenStore(store.path),
    }
    for file, reader in readers.items():
        with cases.case(file.name):
            file.write_bytes(deep + b"\n")
            with pytest.raises(UserError):
                reader()
    cases.check()


# pickles


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.promise("A pickle in place of any file runs nothing, and is refused")
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_in_place_of_any_file(tmp_path, small_store, cases, kind):
    mark = tmp_path / "ran"
    if kind == "pickle":
        trap = pickle.dumps(Trap(mark))
        pickle.loads(trap)  # noqa: S301 - the trap works
    else:
        torch.save(Trap(mark), tmp_path / "trap")
        trap = (tmp_path / "trap").read_bytes()
        torch.load(tmp_path / "trap", weights_only=False)
    assert mark.exists()
    mark.unlink()
    config = tiny_training(small_store, tmp_path / "run", steps=2)
    checkpoint = train(config).checkpoint
    plain_copy = tmp_path / "plain"  # without lmlab's record: opened as a folder of transformers
    shutil.copytree(checkpoint, plain_copy)
    (plain_copy / "lmlab.json").unlink()
    (plain_copy / "manifest.json").unlink()
    for folder in (checkpoint, plain_copy):
        for name in tree(folder):
            with cases.case(f"{folder.name}/{name}"):
                copied = tmp_path / "attacked"
                shutil.copytree(folder, copied)
                (copied / name).write_bytes(trap)
                if (copied / "manifest.json").exists() and name != "manifest.json":
                    files = {n: d for n, d in tree(copied).items() if n != "manifest.json"}
                    shutil.rmtree(copied)  # the attacker writes a true manifest
                    save_checkpoint(tmp_path / "again", 2, files).rename(copied)
                needless = {"generation_config.json", "optimizer.safetensors", "state.json"}
                if name in needless:
                    with suppress(UserError):
                        open_model(copied)
                else:
                    with pytest.raises(UserError):
                        open_model(copied)
                assert not mark.exists()
            shutil.rmtree(tmp_path / "attacked", ignore_errors=True)
    for name in tree(small_store.path):
        with cases.case(f"store/{name}"):
            copied = tmp_path / "store"
            shutil.copytree(small_store.path, copied)
            (copied / name).write_bytes(trap)
            with pytest.raises(UserError):
                train(tiny_training(TokenStore(copied), tmp_path / "other"))
            with pytest.raises(UserError):
                TokenStore(copied).verify()
            with suppress(UserError):
                read_all(copied)
            assert not mark.exists()
        shutil.rmtree(tmp_path / "store")
    cases.check()


@pytest.mark.promise("Pickled weights (.bin) are refused, with what to do, whatever stands beside")
def test_pickled_weights_are_refused(tmp_path, cases):
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=14, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    )
    for name in ("pytorch_model.bin", "model.pt", "pytorch_model.bin.index.json"):
        with cases.case(name):
            folder = tmp_path / name
            model.save_pretrained(folder)
            (folder / "model.safetensors").unlink()
            if name.endswith(".json"):
                index = {"metadata": {}, "weight_map": {"lm_head.weight": "part.bin"}}
                (folder / name).write_text(to_json(index))
                torch.save(model.state_dict(), folder / "part.bin")
            else:
                torch.save(model.state_dict(), folder / name)
            with pytest.raises(
                UserError, match=r"only safetensors|no file named model\.safetensors"
            ):
                open_model(folder)
    cases.check()


# manifests that leave their folder

OUTSIDE = ["../secret", "/etc/passwd", "a/../../secret", "..", "", "a\0b"]


@pytest.mark.promise("A manifest's paths cannot leave its folder")
@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_stay_in_their_folder(store, tmp_path, name):
    (tmp_path / "secret").write_bytes(b"\x01")
    manifest = copy.deepcopy(store.manifest)
    manifest["files"][name] = manifest["files"]["train-00000.bin"]
    manifest["splits"]["train"]["shards"] = [{"file": name, "tokens": 1}]
    text = to_json({**manifest, "manifest_sha256": digest(manifest)})
    (store.path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="names a file outside the store"):
        TokenStore(store.path)
    saved = save_checkpoint(tmp_path / "run", 1, {"state.json": b"{}"})
    text = (saved / "manifest.json").read_text().replace('"state.json"', json.dumps(name))
    (saved / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="names a file outside the checkpoint"):
        verify_checkpoint(saved)


@pytest.mark.promise("A manifest's paths cannot leave its folder")
def test_a_split_cannot_be_named_outside(store, tmp_path):
    for file in ("train.documents.npy", "train.names.jsonl"):
        shutil.copy(store.path / file, tmp_path / file)
    manifest = copy.deepcopy(store.manifest)
    manifest["splits"]["../train"] = manifest["splits"].pop("train")
    text = to_json({**manifest, "manifest_sha256": digest(manifest)})
    (store.path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="without its digest"):
        TokenStore(store.path)
