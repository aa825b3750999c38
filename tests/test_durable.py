"""Durable writes: all or nothing, whichever system operation fails.

Every operation announces itself; the tests make each of them fail in turn with a full disk (which
must become a message with a remedy) or with a kill (an exception that nothing handles).
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from helpers import failing_at, id_store, tree
from lmlab import durable
from lmlab.data.store import TokenStore
from lmlab.durable import AppendLog, StagedFolder, packed, write_bytes, write_json, write_text
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import (
    checkpoint_folder,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)

FULL = OSError(errno.ENOSPC, "No space left on device")


class KilledError(BaseException):
    """Stands for a kill: nothing may catch it."""


def operations(write) -> int:
    """How many system operations `write` announces."""
    with failing_at(-1, FULL) as seen:
        write()
    return len(seen)


def visible(folder: Path) -> dict[str, bytes]:
    """Files that a reader would find: nothing whose name begins with a dot."""
    return {n: d for n, d in tree(folder).items() if not any(p[0] == "." for p in n.split("/"))}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "file.txt"
    assert operations(lambda: write_text(path, "old")) == 6  # makes a folder, and syncs its parent
    assert path.read_text() == "old"
    count = operations(lambda: write_text(path, "old"))
    assert count == 4  # write, sync, rename, sync of the folder
    for number in range(count):
        write_text(path, "old")
        with failing_at(number, FULL) as seen, pytest.raises(UserError) as caught:
            write_text(path, "new")
        assert f"the disk is full while writing {path}" in str(caught.value)
        assert "Free some space and run the same command again" in str(caught.value)
        renamed = seen[-1].startswith("sync-folder")
        assert path.read_text() == ("new" if renamed else "old")
        assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
        write_text(path, "old")
        with failing_at(number, KilledError()), pytest.raises(KilledError):
            write_text(path, "new")
        assert path.read_text() == ("new" if renamed else "old")
        assert set(visible(tmp_path)) == {"a/file.txt"}
        durable.remove_abandoned(path.parent)
        assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_json_has_one_form_and_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "b": 1,\n  "a": "é"\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert (tmp_path / "a.json").read_text().startswith("{")


def test_a_staged_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "er"
    with StagedFolder(target) as folder:
        folder.write("a/b.txt", b"one")
        with folder.open("c.bin") as write:
            write(b"two")
            write(b"three")
        assert not target.exists()
    assert tree(target) == {"a/b.txt": b"one", "c.bin": b"twothree"}
    assert folder.digests == {
        "a/b.txt": hashlib.sha256(b"one").hexdigest(),
        "c.bin": hashlib.sha256(b"twothree").hexdigest(),
    }
    assert durable.file_sha256(target / "c.bin") == folder.digests["c.bin"]
    assert [p.name for p in target.parent.iterdir()] == ["er"]
    with pytest.raises(UserError, match="exists already; nothing is overwritten"):
        StagedFolder(target).__enter__()


def test_a_staged_folder_leaves_nothing_on_failure(tmp_path):
    (tmp_path / "precious").write_text("x")
    folder = StagedFolder(tmp_path / "t")
    folder.__enter__().write("a", b"one")
    folder.__exit__(RuntimeError, RuntimeError(), None)
    assert set(tree(tmp_path)) == {"precious"}
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("error", [FULL, OSError(errno.EACCES, "Permission denied")])
def test_a_store_on_a_full_disk_is_not_there(tmp_path, error):
    documents = {"train": [[1, 2], [3]], "validation": [[4]]}
    count = operations(lambda: id_store(tmp_path / "whole", documents, symbols=9))
    assert count > 10
    (tmp_path / "precious").write_text("x")
    before = tree(tmp_path)
    for number in range(count):
        target = tmp_path / "store"
        with failing_at(number, error) as seen, pytest.raises(UserError) as caught:
            id_store(target, documents, symbols=9)
        assert str(target) in str(caught.value)
        assert ("Free some space" if error is FULL else "`out`") in str(caught.value)
        if target.exists():  # only the last sync failed: it is complete
            assert seen[-1] == f"sync-folder {tmp_path.name}"
            TokenStore(target).verify()
            break
        assert tree(tmp_path) == before
        assert {p.name for p in tmp_path.iterdir()} == {"whole", "precious"}
    else:
        raise AssertionError("publishing was never reached")


@pytest.mark.parametrize("error", [FULL, KilledError()])
def test_a_checkpoint_that_fails_harms_none_before_it(tmp_path, error):
    files = {"model.safetensors": b"m" * 100, "state.json": b"{}"}
    save_checkpoint(tmp_path, 1, files)
    before = visible(tmp_path)
    count = operations(lambda: save_checkpoint(tmp_path, 2, files))
    assert count > 6
    published = 0
    for number in range(count):
        for path in (tmp_path / "checkpoints").glob("*2"):
            path.rename(tmp_path / f"away-{number}")
        with failing_at(number, error), pytest.raises((UserError, KilledError)) as caught:
            save_checkpoint(tmp_path, 2, files)
        if error is FULL:
            assert "checkpoints/step-00000002" in str(caught.value)
            assert "the disk is full" in str(caught.value)
        found = newest_checkpoint(tmp_path)
        assert found.skipped == ()
        published += found.step == 2
        now = {n: d for n, d in visible(tmp_path).items() if "away-" not in n and "0002" not in n}
        assert now == before
        if error is FULL:
            assert not list((tmp_path / "checkpoints").glob(".*"))
        durable.remove_abandoned(tmp_path / "checkpoints")
        assert not list((tmp_path / "checkpoints").glob(".*"))
    assert published == 1  # only where the rename had been done


def test_pruning_that_is_killed_leaves_whole_checkpoints(tmp_path):
    for number in range(6):
        run = tmp_path / str(number)
        for step in (1, 2, 3):
            save_checkpoint(run, step, {"a": b"x"})
        try:
            with failing_at(number, KilledError()):
                prune_checkpoints(run, 1)
        except KilledError:
            pass
        left = [p for p in (run / "checkpoints").iterdir() if not p.name.startswith(".")]
        assert [verify_checkpoint(p) for p in sorted(left)][-1] == 3
        durable.remove_abandoned(run / "checkpoints")
        prune_checkpoints(run, 1)
        assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000003"]


def test_pruning_leaves_damaged_checkpoints_alone_and_keeps_whole_ones(tmp_path):
    for step in (1, 2, 8):
        save_checkpoint(tmp_path, step, {"a": b"x"})
    damaged = checkpoint_folder(tmp_path, 8)
    (damaged / "a").write_bytes(b"y")
    prune_checkpoints(tmp_path, 1, newest=2)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"step-00000002", damaged.name}
    for number in (
        1,
        2,
    ):  # saved again and damaged again, each is put aside under a name of its own
        save_checkpoint(tmp_path, 8, {"a": b"x"})
        assert len(list((tmp_path / "checkpoints").glob("*.damaged-*"))) == number
        (damaged / "a").write_bytes(b"y")
        prune_checkpoints(tmp_path, 1, newest=2)
    assert verify_checkpoint(checkpoint_folder(tmp_path, 2)) == 2


def test_a_log_on_a_really_full_disk(tmp_path):
    """/dev/full refuses every write, as a full disk does."""
    (tmp_path / "log").symlink_to("/dev/full")
    log = AppendLog(tmp_path / "log")
    with pytest.raises(UserError, match=r"the disk is full while writing .*log"):
        log.append_line("line")
    log.close()  # nothing is left to be written, so this does not fail again


def test_a_log_grows_by_lines(tmp_path):
    for line in ("one", "tĕwo"):
        log = AppendLog(tmp_path / "deep" / "log")
        log.append_line(line)
        log.sync()
        assert (tmp_path / "deep" / "log").read_text("utf-8").endswith(line + "\n")
        log.close()
    assert (tmp_path / "deep" / "log").read_text("utf-8") == "one\ntĕwo\n"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_what_may_not_be_written_names_the_remedy(tmp_path, number):
    with (
        failing_at(0, OSError(number, os.strerror(number))),
        pytest.raises(UserError, match=r"cannot write .*file: .*`out`"),
    ):
        write_bytes(tmp_path / "file", b"")
    with failing_at(0, OSError(errno.EIO, "I/O error")), pytest.raises(OSError, match="I/O error"):
        write_bytes(tmp_path / "file", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_made_meanwhile_is_named(tmp_path):
    target = tmp_path / "store"
    staged = StagedFolder(target)

    def write_both():
        with staged as folder:
            folder.write("mine", b"1")
            target.mkdir()
            (target / "theirs").touch()

    with pytest.raises(UserError, match=r"store was made by another process at the same time"):
        write_both()
    assert [path.name for path in tmp_path.rglob("*")] == ["store", "theirs"]


def test_views_are_packed_as_they_read_and_not_as_their_memory_lies():
    """What was wrong: nats of repeated tokens, a column of a matrix, read back as its rows."""
    whole = np.arange(12.0).reshape(6, 2)
    views = {"column": whole[:, 1], "turned": whole.T, "reversed": whole[::-1], "one": whole[0, :1]}
    read = load(packed(views, metadata={"of": "views"}))
    assert read.keys() == views.keys()
    for name, view in views.items():
        assert read[name].tolist() == view.tolist()
