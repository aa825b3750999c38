"""Run folders, journals and checkpoints: found again after damage, never mixed up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helpers import tree
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import (
    checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    read_json_file,
    save_checkpoint,
    verify_checkpoint,
)
from lmlab.run_folders.journal import Journal, cut_back, read_journal
from lmlab.run_folders.rundir import RunDirectory

FILES = {"model.safetensors": bytes(range(256)) * 4, "state.json": b'{"step": 1}'}


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints after steps 2, 4 and 10."""
    for step in (2, 10, 4):
        save_checkpoint(tmp_path, step, FILES)
    return tmp_path


def test_the_newest_checkpoint_by_number(run):
    assert [p.name for p in checkpoints(run)] == [f"step-{n:08d}" for n in (2, 4, 10)]
    found = newest_checkpoint(run)
    assert (found.step, found.skipped) == (10, ())
    assert found.path is not None
    manifest = json.loads((found.path / "manifest.json").read_text())
    assert set(manifest["files"]) == set(FILES)
    assert tree(found.path).keys() == {*FILES, "manifest.json"}


def test_no_checkpoint_yet(tmp_path):
    assert newest_checkpoint(tmp_path) == newest_checkpoint(tmp_path / "nowhere")
    assert newest_checkpoint(tmp_path).path is None


def damage(kind, folder):
    model = folder / "model.safetensors"
    data = bytearray(model.read_bytes())
    if kind == "truncated":
        model.write_bytes(data[:-1])
    elif kind == "flipped bit":
        data[100] ^= 4
        model.write_bytes(data)
    elif kind == "missing file":
        model.unlink()
    elif kind == "no manifest":
        (folder / "manifest.json").unlink()
    elif kind == "empty manifest":
        (folder / "manifest.json").write_bytes(b"")
    elif kind == "torn manifest":
        path = folder / "manifest.json"
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "outside":
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace('"state.json"', '"../../state.json"'))


KINDS = [
    "truncated", "flipped bit", "missing file", "no manifest", "empty manifest", "torn manifest",
    "outside",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoints_are_skipped_and_named(run, kind):
    newest = run / "checkpoints" / "step-00000010"
    damage(kind, newest)
    with pytest.raises(UserError, match="step-00000010"):
        verify_checkpoint(newest)
    found = newest_checkpoint(run)
    assert found.step == 4
    (reason,) = found.skipped
    assert str(newest) in reason
    damage(kind, run / "checkpoints" / "step-00000004")
    assert newest_checkpoint(run).step == 2
    assert len(newest_checkpoint(run).skipped) == 2


def test_a_damaged_checkpoint_of_the_same_step_is_moved_aside(run):
    newest = run / "checkpoints" / "step-00000010"
    for _ in range(2):
        damage("truncated", newest)
        assert save_checkpoint(run, 10, FILES) == newest
        assert newest_checkpoint(run).step == 10
    aside = [p for p in (run / "checkpoints").iterdir() if "damaged" in p.name]
    assert len(aside) == 2
    assert all((p / "model.safetensors").stat().st_size == 1023 for p in aside)
    assert len(checkpoints(run)) == 3


def test_pruning_keeps_the_newest_and_only_if_it_verifies(run):
    prune_checkpoints(run, 5)
    assert len(checkpoints(run)) == 3
    prune_checkpoints(run, 2)
    assert [p.name for p in checkpoints(run)] == ["step-00000004", "step-00000010"]
    assert len(list((run / "checkpoints").iterdir())) == 2
    damage("truncated", run / "checkpoints" / "step-00000010")
    with pytest.raises(UserError, match="step-00000010"):
        prune_checkpoints(run, 1)
    assert newest_checkpoint(run).step == 4


def test_json_files_that_are_none(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json: cannot be read"):
        read_json_file(path)
    for text in ("", "[1]", "\xff"):
        path.write_bytes(text.encode("latin1"))
        with pytest.raises(UserError, match=r"a\.json: damaged"):
            read_json_file(path)


# journals


def journal_of(path, steps):
    journal = Journal(path)
    for step in steps:
        journal.append({"step": step, "loss": 1 / 3})
    journal.sync()
    journal.close()
    return path.read_bytes()


def test_journals_are_cut_back_byte_for_byte(tmp_path):
    path = tmp_path / "journal.jsonl"
    whole = journal_of(path, range(1, 8))
    lines = whole.splitlines(keepends=True)
    path.write_bytes(whole + b'{"step": 8, "lo')  # torn by a kill
    assert [r["step"] for r in read_journal(path)] == list(range(1, 8))
    cut_back(path, 5)
    assert path.read_bytes() == b"".join(lines[:5])
    before = path.stat()
    cut_back(path, 5)
    assert path.stat() == before  # not touched
    cut_back(path, 0)
    assert path.read_bytes() == b""
    cut_back(tmp_path / "nothing", 5)
    assert read_journal(tmp_path / "nothing") == []
    assert not (tmp_path / "nothing").exists()


def test_a_torn_line_goes_even_where_no_step_is_cut(tmp_path):
    path = tmp_path / "journal.jsonl"
    whole = journal_of(path, range(1, 4))
    path.write_bytes(whole + b'{"step"')
    cut_back(path, 3)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"loss": 1}', b'{"step": "1"}', b"\xff"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"journal\.jsonl, line 2: damaged"):
        read_journal(path)


def test_damage_after_the_kept_records_is_cut_off(tmp_path):
    """Unsynced pages reach the disk in any order, so zeros may stand before whole lines."""
    path = tmp_path / "journal.jsonl"
    whole = journal_of(path, range(1, 6))
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], bytes(20), b"\n", lines[4]]))
    cut_back(path, 3, every_step=True)
    assert path.read_bytes() == b"".join(lines[:3])
    path.write_bytes(b"".join([*lines[:2], bytes(20), b"\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"journal\.jsonl, line 3: damaged"):
        cut_back(path, 3)


def test_a_journal_without_the_checkpoints_step_is_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    lines = journal_of(path, range(1, 6)).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"#" + lines[3], lines[4]]))
    before = path.read_bytes()
    for at in (path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="no record of step 4, after which the checkpoint"):
            cut_back(at, 4, every_step=True)
    assert path.read_bytes() == before
    cut_back(tmp_path / "nothing", 0, every_step=True)


def test_steps_out_of_order_are_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal_of(path, [1, 5, 2])
    with pytest.raises(UserError, match="out of order"):
        cut_back(path, 3)


def test_journals_hold_no_nan(tmp_path):
    journal = Journal(tmp_path / "j")
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"loss": float("nan")})
    journal.close()


# run folders


CONFIG = {"seed": 1, "model": {"width": 8}, "store": "a", "threads": 2}


@pytest.mark.promise("Two processes on one run folder: the second is refused")
def test_a_run_folder_is_made_locked_and_found_again(tmp_path):
    path = tmp_path / "deep" / "run"
    with (
        RunDirectory(path, identity="abc", config=CONFIG),
        pytest.raises(UserError, match=r"another process is training in .*another `out`"),
    ):
        RunDirectory(path, identity="abc", config=CONFIG)
    text = (path / "config.toml").read_text()
    assert 'identity = "abc"' in text
    assert "width = 8" in text
    with RunDirectory(path, identity="abc", config={**CONFIG, "store": "moved", "threads": 1}):
        pass
    assert (path / "config.toml").read_text() == text


def test_a_run_refused_before_it_began_leaves_its_folder_free(tmp_path):
    with pytest.raises(UserError, match="no"), RunDirectory(tmp_path, identity="a", config=CONFIG):
        raise UserError("no")
    with RunDirectory(tmp_path, identity="b", config=CONFIG):
        pass
    with pytest.raises(UserError, match="no"), RunDirectory(tmp_path, identity="b", config=CONFIG):
        raise UserError("no")
    assert (tmp_path / "config.toml").exists()  # made by the call before


def test_another_run_is_refused_with_what_differs(tmp_path):
    with RunDirectory(tmp_path, identity="abc", config=CONFIG):
        pass
    (tmp_path / "journal.jsonl").write_text("precious")
    before = tree(tmp_path)
    other = {**CONFIG, "seed": 2, "model": {"width": 9}, "store": "b", "threads": 1}
    with pytest.raises(UserError, match=r"holds another run \(different: model\.width, seed\)"):
        RunDirectory(tmp_path, identity="xyz", config=other)
    with pytest.raises(UserError, match=r"different: what it starts from, or how .*another `out`"):
        RunDirectory(tmp_path, identity="xyz", config=CONFIG)
    assert tree(tmp_path) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"is not a run folder \(it holds thesis\.tex\).*`out`"):
        RunDirectory(tmp_path, identity="abc", config=CONFIG)
    assert tree(tmp_path) == {"thesis.tex": b"precious"}
    with pytest.raises(UserError, match="is a file; give another `out`"):
        RunDirectory(tmp_path / "thesis.tex", identity="abc", config=CONFIG)
    with pytest.raises(UserError, match=r"cannot write .*`out`"):
        RunDirectory(tmp_path / "thesis.tex" / "run", identity="abc", config=CONFIG)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.toml").write_text("= nonsense")
    with pytest.raises(UserError, match=r"config\.toml: not TOML"):
        RunDirectory(tmp_path / "broken", identity="abc", config=CONFIG)


def test_what_killed_writes_left_is_removed(tmp_path):
    with RunDirectory(tmp_path, identity="abc", config=CONFIG):
        pass
    (tmp_path / ".config.toml.12345678.tmp").write_text("half")
    (tmp_path / "checkpoints" / ".step-00000002.12345678.tmp").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step-00000002.12345678.tmp" / "x").write_text("half")
    with RunDirectory(tmp_path, identity="abc", config=CONFIG):
        assert {p.name for p in tmp_path.rglob("*")} == {"config.toml", ".lock", "checkpoints"}


HOLD = """
import sys
from pathlib import Path
from lmlab.run_folders.rundir import RunDirectory
with RunDirectory(Path(sys.argv[1]), identity="abc", config={"seed": 1}):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.promise("Two processes on one run folder: the second is refused")
def test_the_lock_holds_between_processes_and_ends_with_them(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process is training"):
            RunDirectory(tmp_path, identity="abc", config={"seed": 1})
        other.kill()
        other.wait()
    with RunDirectory(tmp_path, identity="abc", config={"seed": 1}):
        pass
