"""Cut off at any operation, with the page cache lost or torn: what is left is whole, and goes on.

Each program writes durably while `PageCache` watches; every state that a cut at any of its
operations may leave is then made, judged, and handed to the program again.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers import failing_at, id_store
from kill_matrix import PROGRAMS, attacked, given, power_cut_case, study
from kill_matrix import outcome as visible
from lmlab.data.store import TokenStore
from lmlab.durable import write_json, write_text
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import (
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from lmlab.run_folders.journal import Journal, cut_back
from lmlab.run_folders.rundir import RunDirectory
from lmlab.training import loop
from lmlab.training.loop import train
from page_cache import Moment, PageCache, states, write_tree

DISK_FULL = "Disk full at any durable operation: a message, and it goes on later to the same bytes"
KILLED = "Killed before any durable operation: resumes to the same bytes"
POWER = "Power cut at any durable operation, unsynced writes lost or torn: same bytes, nothing lost"


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Nothing is really cut off here, so nothing has to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def each_state(
    moments: list[Moment], folder: Path, *, random: int
) -> Iterator[tuple[str, int, Path]]:
    """Every state of every moment, as folders: its name, the moment's number, its place."""
    for number, moment in enumerate(moments):
        for name, state in states(moment, random=random, seed=number).items():
            place = folder / f"{number}-{name.replace(' ', '-')}"
            write_tree(state, place)
            yield f"{name}, before operation {number} ({moment.operation})", number, place


def contents(step: int) -> dict[str, bytes]:
    rng = np.random.default_rng(step)
    return {"model.safetensors": rng.bytes(300), "state.json": b'{"step": %d}' % step}


def run_without_model(run: Path, saved: Callable[[int], None] = lambda step: None) -> None:
    """Journal and checkpoints as the training loop writes them; goes on where it was cut off."""
    with RunDirectory(run, identity="abc", config={"seed": 1}):
        found = newest_checkpoint(run)
        cut_back(run / "journal.jsonl", found.step, every_step=True)
        journal = Journal(run / "journal.jsonl")
        for step in range(found.step + 1, 7):
            journal.append({"step": step, "loss": 1 / step})
            if step % 2 == 0:
                journal.sync()
                save_checkpoint(run, step, contents(step))
                saved(step)
                prune_checkpoints(run, 1)
        journal.close()
        prune_checkpoints(run, 1)


@pytest.mark.promise(f"{POWER} (journal, checkpoints, pruning)")
def test_a_run_without_a_model(tmp_path, cases):
    (tmp_path / "disk").mkdir()
    saved: list[tuple[int, int]] = []
    with PageCache(tmp_path / "disk").watching() as cache:
        run_without_model(
            tmp_path / "disk" / "deep" / "run", lambda s: saved.append((len(cache.moments), s))
        )
    whole = visible(tmp_path / "disk")
    assert len(saved) == 3
    for name, moment, place in each_state(cache.moments, tmp_path / "cut", random=4):
        with cases.case(name):
            kept = [step for number, step in saved if number <= moment]
            run = place / "deep" / "run"
            assert newest_checkpoint(run).step >= max(kept, default=0)
            run_without_model(run)
            assert visible(place) == whole
            assert {p.name for p in run.rglob(".*")} == {".lock"}
    cases.check()


@pytest.mark.promise(f"{POWER} (token store)")
def test_a_store(tmp_path, cases):
    documents = {"train": [[1, 2], [3]], "validation": [[4]]}
    (tmp_path / "disk").mkdir()
    with PageCache(tmp_path / "disk").watching() as cache:
        id_store(tmp_path / "disk" / "stores" / "one", documents, symbols=9)
    whole = visible(tmp_path / "disk")
    for name, moment, place in each_state(cache.moments, tmp_path / "cut", random=4):
        with cases.case(name):
            store = place / "stores" / "one"
            if store.exists():
                TokenStore(store).verify()
            else:
                assert moment < len(cache.moments) - 1
                id_store(store, documents, symbols=9)
            assert visible(place) == whole
    cases.check()


@pytest.mark.promise(f"{POWER} (results and report)")
def test_results(tmp_path, cases):
    def write(folder: Path, what: str) -> None:
        write_json(folder / "study" / "results.json", {"study": what})
        write_text(folder / "study" / "report.html", f"<p>{what}</p>")

    (tmp_path / "disk").mkdir()
    with PageCache(tmp_path / "disk").watching() as cache:
        write(tmp_path / "disk", "old")
        first = len(cache.moments)
        write(tmp_path / "disk", "new")
    old, new = ({n: d.replace(b"new", w) for n, d in visible(tmp_path / "disk").items()}
                for w in (b"old", b"new"))  # fmt: skip
    for name, moment, place in each_state(cache.moments, tmp_path / "cut", random=4):
        with cases.case(name):
            for file, data in visible(place).items():
                assert data in (old[file], new[file])
                assert moment < first or data == new[file] or moment < len(cache.moments) - 1
            if moment >= first:
                assert visible(place).keys() == old.keys()
            if moment == len(cache.moments) - 1:
                assert visible(place) == new
            write(place, "new")
            assert visible(place) == new
    cases.check()


def cut_training(tmp_path, cases, name, *, chosen: slice, random: int) -> None:
    """A real run, cut off at the chosen operations."""
    (tmp_path / "disk").mkdir()
    config = power_cut_case(name, tmp_path / "disk")
    run = tmp_path / "disk" / "run"
    with PageCache(tmp_path / "disk").watching() as cache:
        train(config)
    whole = visible(run)
    for what, _, place in each_state(cache.moments[chosen], tmp_path / "cut", random=random):
        with cases.case(what):
            train(dataclasses.replace(config, out=place / "run"))
            assert visible(place / "run") == whole
        shutil.rmtree(place)
    cases.check()


@pytest.mark.promise(f"{POWER} (training, some operations)")
def test_a_run_at_some_operations(tmp_path, cases):
    cut_training(tmp_path, cases, "headless", chosen=slice(5, None, 20), random=0)


@pytest.mark.trust
@pytest.mark.promise(f"{POWER} (training, all operations)")
@pytest.mark.parametrize("name", ["causal-backward", "headless", "masked"])
def test_a_run_at_all_operations(tmp_path, cases, name):
    cut_training(tmp_path, cases, name, chosen=slice(None), random=1)


def killed_matrix(tmp_path, cases, program, *chosen: int) -> None:
    made = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "kill_matrix.py"), program, str(tmp_path),
         *map(str, chosen)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    lines = [json.loads(line) for line in made.stdout.splitlines()]
    assert len(lines) > (len(chosen) - 1 if chosen else 10)
    for number, same in lines:
        with cases.case(f"killed before operation {number}"):
            assert same
    cases.check()


@pytest.mark.promise(f"{KILLED} (some operations)")
def test_killed_really_at_some_operations(tmp_path, cases):
    killed_matrix(tmp_path, cases, "causal-forward", 3, 20, 40)


@pytest.mark.trust
@pytest.mark.promise(f"{KILLED} (all operations)")
@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_really_at_all_operations(tmp_path, cases, program):
    killed_matrix(tmp_path, cases, program)


def full_disk(tmp_path, monkeypatch, cases, name: str) -> None:
    """A program that fails at each of its operations, and is given again."""
    monkeypatch.setattr(loop, "_TIMING_EVERY_SECONDS", float("inf"))  # see kill_matrix
    program = PROGRAMS[name]
    given(tmp_path / "whole")
    with failing_at(-1, OSError()) as seen:
        program(tmp_path / "whole")
    whole = visible(tmp_path / "whole")
    for number in attacked(name, len(seen)):
        folder = tmp_path / str(number)
        given(folder)
        with cases.case(f"full at operation {number}, {seen[number]}"):
            full = OSError(errno.ENOSPC, "No space left on device")
            with failing_at(number, full), pytest.raises(UserError, match="the disk is full"):
                program(folder)
            program(folder)
            assert visible(folder) == whole
    cases.check()


@pytest.mark.promise(f"{DISK_FULL} (token store)")
def test_a_full_disk_at_all_operations_of_a_store(tmp_path, monkeypatch, cases):
    full_disk(tmp_path, monkeypatch, cases, "store")


@pytest.mark.trust
@pytest.mark.promise(f"{DISK_FULL} (training: checkpoints, journal lines, pruning)")
@pytest.mark.parametrize("name", ["causal-forward", "headless"])
def test_a_full_disk_at_all_operations(tmp_path, monkeypatch, cases, name):
    full_disk(tmp_path, monkeypatch, cases, name)


@pytest.mark.trust
@pytest.mark.promise(f"{DISK_FULL} (a study, its results and report)")
def test_a_full_disk_in_a_study(tmp_path, monkeypatch, cases):
    full_disk(tmp_path, monkeypatch, cases, "study")


@pytest.mark.trust
@pytest.mark.promise("A study cut off at any late operation, and at some early ones, ends the same")
def test_a_study(tmp_path, cases, monkeypatch):
    """Late: whatever comes after its last run."""
    monkeypatch.setattr(loop, "_TIMING_EVERY_SECONDS", float("inf"))
    given(tmp_path / "disk")
    with PageCache(tmp_path / "disk").watching() as cache:
        study(tmp_path / "disk")
    results = (tmp_path / "disk" / "study" / "results.json").read_bytes()
    report = (tmp_path / "disk" / "study" / "report.html").read_bytes()
    last = max(i for i, m in enumerate(cache.moments) if "step-" in m.operation)
    chosen = [*cache.moments[3:last:25], *cache.moments[last:]]
    for what, _, place in each_state(chosen, tmp_path / "cut", random=1):
        with cases.case(what):
            study(place)
            made = (place / "study" / "results.json").read_bytes()
            assert made.replace(bytes(place), b"@") == results.replace(
                bytes(tmp_path / "disk"), b"@"
            )
            page = (place / "study" / "report.html").read_bytes()
            assert page.replace(bytes(place), b"@") == report.replace(
                bytes(tmp_path / "disk"), b"@"
            )
        shutil.rmtree(place)
    cases.check()
