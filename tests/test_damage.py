"""A file of each kind, truncated or with a bit flipped: it is found, and not used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from helpers import id_store, run_folder, tiny_training
from lmlab.config.training import CheckpointConfig
from lmlab.data.store import TokenStore
from lmlab.durable import StagedFolder, check_seal, sealed, to_json
from lmlab.errors import UserError
from lmlab.numerics.scatter import Scatter
from lmlab.run_folders.checkpoint import checkpoint_folder, newest_checkpoint, save_checkpoint
from lmlab.run_folders.journal import Journal, cut_back
from lmlab.topics.decomposition.embedding_store import open_embeddings
from lmlab.training.loop import train

FOUND = "A truncated or bit-flipped file is found"


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Cut at every seventh byte, and two bits of every fifth byte flipped, one at a time."""
    for n in range(0, len(whole), 7):
        yield f"cut at {n}", whole[:n]
    for n in range(0, len(whole), 5):
        for bit in (0, 5):
            flipped = bytes([whole[n] ^ (1 << bit)])
            yield f"bit {bit} of byte {n}", whole[:n] + flipped + whole[n + 1 :]


def contents(step: int) -> dict[str, bytes]:
    rng = np.random.default_rng(step)
    return {"model.safetensors": rng.bytes(300), "state.json": b'{"step": %d}' % step}


@pytest.mark.promise(f"{FOUND} (checkpoints: it costs one interval)")
def test_damage_of_each_file(tmp_path, cases):
    saved = tmp_path / "run"
    for step in (2, 4):
        save_checkpoint(saved, step, contents(step))
    newest = checkpoint_folder(saved, 4)
    for file in sorted(newest.iterdir()):
        whole = file.read_bytes()
        for what, damaged in damages(whole):
            with cases.case(f"{file.name}, {what}"):
                file.write_bytes(damaged)
                found = newest_checkpoint(saved)
                # white space and hexadecimal in the manifest may be damaged without consequence
                meant = file.name == "manifest.json" and found.step == 4
                assert (found.step == 2 and len(found.skipped) == 1) or meant
                if meant:
                    assert json.loads(damaged) == json.loads(whole)
        file.write_bytes(whole)
    cases.check()


@pytest.mark.promise(f"{FOUND} (token stores, by `verify`, with which training begins)")
def test_damage_of_a_store(tmp_path, cases):
    store = id_store(
        tmp_path / "store", {"train": [[1, 2, 3] * 20, [3]], "validation": [[4]]}, symbols=9
    )
    for file in sorted(p for p in store.path.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for what, damaged in damages(whole):
            with cases.case(f"{file.name}, {what}"):
                file.write_bytes(damaged)
                try:
                    opened = TokenStore(store.path)
                    opened.verify()
                except UserError:
                    continue
                # white space in the manifest may be damaged without consequence
                assert file.name == "manifest.json"
                assert opened.manifest == store.manifest
        file.write_bytes(whole)
    store.verify()
    cases.check()


@pytest.mark.promise(f"{FOUND} (journals, up to the checkpoint that a run goes on from)")
def test_damage_of_a_journal(tmp_path, cases):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    sha256 = ""
    for step in range(1, 9):
        journal.append({"step": step, "loss": 1 / (step + 1)})
        if step == 6:
            sha256 = journal.sha256
    journal.close()
    whole = path.read_bytes()
    kept = b"".join(whole.splitlines(keepends=True)[:6])
    for what, damaged in damages(whole):
        with cases.case(what):
            path.write_bytes(damaged)
            if damaged.startswith(kept):
                cut_back(path, 6, every_step=True, sha256=sha256)
                assert path.read_bytes() == kept
            else:
                with pytest.raises(UserError, match=r"journal\.jsonl"):
                    cut_back(path, 6, every_step=True, sha256=sha256)
                assert path.read_bytes() == damaged
    cases.check()


def test_a_run_does_not_go_on_from_another_journal(small_store, tmp_path):
    config = tiny_training(small_store, tmp_path / "run", checkpoints=CheckpointConfig(every=3))
    train(config)
    newest = checkpoint_folder(run_folder(config), 6)
    (newest / "manifest.json").unlink()  # so that it goes on from step 3
    journal = run_folder(config) / "journal.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    second = json.loads(lines[1])
    lines[1] = json.dumps({**second, "loss": second["loss"] + 1}).encode() + b"\n"
    journal.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="not the records that were there when the checkpoint of"):
        train(config)
    journal.write_bytes(whole)
    train(config)
    assert journal.read_bytes() == whole


@pytest.mark.promise(f"{FOUND} (rows of embeddings)")
def test_damage_of_embeddings(tmp_path, cases):
    name, data = "rows-0.safetensors", save({"rows": np.eye(3), "cluster": np.arange(3)})
    with StagedFolder(tmp_path / "embeddings") as folder:
        folder.write(name, data)
        manifest = {
            "format": "lmlab embeddings 1", "rows": 3, "width": 3, "text": "x", "words": None,
            "shards": {name: [3, 3]}, "files": dict(folder.digests),
        }  # fmt: skip
        folder.write("manifest.json", to_json(manifest).encode())
    assert len(list(open_embeddings(tmp_path / "embeddings").shards())) == 1
    for what, damaged in damages(data):
        with cases.case(what):
            Path(tmp_path / "embeddings" / name).write_bytes(damaged)
            with pytest.raises(UserError, match="damaged"):
                list(open_embeddings(tmp_path / "embeddings").shards())
    cases.check()


@pytest.mark.promise(f"{FOUND} (scatters, mappings, kept scores and sums)")
def test_damage_of_a_sealed_file(tmp_path, cases):
    scatter = Scatter()
    scatter.update({"a": np.eye(3), "b": np.ones((3, 2))})
    path = tmp_path / "scatter"
    scatter.save(path)
    whole = path.read_bytes()
    tensors, means = load(whole), Scatter.load(path).covariance()
    for what, damaged in damages(whole):
        with cases.case(what):
            path.write_bytes(damaged)
            try:
                read = Scatter.load(path)
            except UserError:
                continue
            # a space of the header, or the word that names the seal
            np.testing.assert_equal(load(damaged), tensors)
            np.testing.assert_equal(read.covariance(), means)
    cases.check()


def test_equal_content_is_sealed_to_equal_bytes():
    """safetensors wrote metadata in another order every time, so mappings of one fit differed."""
    described = {name: name for name in "abcdefgh"}
    tensors = {"x": np.zeros(2)}
    assert len({sealed(save(tensors, metadata=described)) for _ in range(20)}) == 1


def test_a_seal_keeps_what_is_sealed():
    tensors = {"é": np.arange(6, dtype=np.int64).reshape(2, 3), "empty": np.zeros((0, 2))}
    plain = save(tensors, metadata={"format": "x"})
    made = sealed(plain)
    assert check_seal(made) is made
    assert check_seal(plain) is plain
    np.testing.assert_equal(load(made), tensors)
    with pytest.raises(ValueError, match="not what was written"):
        check_seal(made[:-1])
    with pytest.raises(ValueError, match="no header"):
        check_seal((4).to_bytes(8, "little") + b"[{}]")
