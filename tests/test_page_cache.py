"""The simulator itself: it sees what was not synced, and programs that sync too little."""

from __future__ import annotations

import os

from helpers import tree
from lmlab.durable import AppendLog, operation, write_text
from page_cache import PageCache, states, write_tree


def left(moment, folder, **options):
    """The trees that a cut at `moment` may leave."""
    made = {}
    for name, state in states(moment, **options).items():
        write_tree(state, folder / name)
        made[name] = tree(folder / name)
    return made


def test_unsynced_data_is_lost_torn_or_zeroed(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "log").write_text("before\n")
    with PageCache(root).watching() as cache:
        log = AppendLog(root / "log")
        log.append_line("one")
        log.sync()
        log.append_line("two")
        log.append_line("three")
        log.close()
    last = cache.moments[-1]
    made = left(last, tmp_path / "states", random=20)
    assert made["killed"] == {"log": b"before\none\ntwo\nthree\n"}
    assert made["lost"] == {"log": b"before\none\n"}
    assert made["zeroed"] == {"log": b"before\none\n" + bytes(10)}
    assert all(state["log"].startswith(b"before\none\n") for state in made.values())
    assert any(b"\0" in s["log"] and s["log"].endswith(b"three\n") for s in made.values())
    assert len({s["log"] for s in made.values()}) > 5


def test_a_rename_without_syncs_is_seen_to_be_one(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("old")
    with PageCache(root).watching() as cache:
        (root / "new").write_text("content")
        operation("rename", root / "file")
        os.replace(root / "new", root / "file")
    made = left(cache.moments[-1], tmp_path / "careless")
    assert made["names without data"] == {"file": b""}
    assert made["lost"] == {"file": b"old"}
    with PageCache(root).watching() as cache:
        write_text(root / "file", "third")
    for moment in cache.moments[:-1]:
        for state in left(moment, tmp_path / moment.operation, random=10).values():
            assert state["file"] in (b"content", b"third")
    for state in left(cache.moments[-1], tmp_path / "end", random=10).values():
        assert state == {"file": b"third"}


def test_a_folder_that_was_not_synced_may_be_gone(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with PageCache(root).watching() as cache:
        (root / "a").mkdir()
        file = root / "a" / "file"
        with open(file, "wb") as opened:
            opened.write(b"synced")
            opened.flush()
            os.fsync(opened.fileno())
    made = left(cache.moments[-1], tmp_path / "states")
    assert made["lost"] == {}
    assert made["names without data"] == {"a/file": b"synced"}
