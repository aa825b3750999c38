"""Eight small runs, two real workers, one of them killed: the results of a study left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmlab.locks import holder
from lmlab.studies.status import study_status

pytestmark = [
    pytest.mark.trust,
    pytest.mark.promise(
        "A study shared by two workers, one of them killed: on the next call it has the results of "
        "a study left alone"
    ),
    pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset"),
]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
SECONDS = 900


def command(text_folder: Path, lab: Path, *more: object) -> list[str]:
    """Four seeds in both directions; the runs are long enough for one to be killed in its midst."""
    options = [
        "--text", text_folder, "--size", "nano", "--context", 16, "--seeds", 4,
        "--vocabulary", 300, "--tokens", 6_400, "--batch-tokens", 64,
        "--lab", lab, "--out", lab / "study", *more,
    ]  # fmt: skip
    return [sys.executable, "-m", "lmlab", "study", "arrow", *map(str, options)]


def start(arguments: list[str], core: int = 0) -> subprocess.Popen[str]:
    """On one core, for bits depend on the number of threads."""
    tied = ["taskset", "--cpu-list", str(CORES[core % len(CORES)]), *arguments]
    return subprocess.Popen(tied, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(lab: Path) -> dict:
    values = json.loads((lab / "study" / "results.json").read_text())
    for place in ("lab", "out"):
        values["config"].pop(place)
    return values


@pytest.fixture(scope="module")
def undisturbed(text_folder, tmp_path_factory):
    lab = tmp_path_factory.mktemp("undisturbed")
    alone = start(command(text_folder, lab))
    _, said = alone.communicate(timeout=SECONDS)
    assert alone.returncode == 0, said
    return result(lab)


def killed_in_its_midst(lab: Path) -> str:
    """Kills the first process that is seen inside a run; returns the run's folder."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for file in sorted((lab / "runs").glob("*/.lock")):
            steps = (file.parent / "journal.jsonl").exists()
            by = holder(file)
            if steps and by and (file.parent / "journal.jsonl").stat().st_size:
                os.kill(int(by.rpartition(":")[2]), signal.SIGKILL)
                return file.parent.name
        time.sleep(0.01)
    raise AssertionError("no run was seen")


def assert_completed_by_another_call(text_folder: Path, lab: Path, undisturbed: dict) -> None:
    last = start(command(text_folder, lab, "--worker"))
    out, said = last.communicate(timeout=SECONDS)
    assert last.returncode == 0, said
    assert "report:" in out
    assert result(lab) == undisturbed
    rows = study_status(lab / "study", lab)
    assert [row.state for row in rows] == ["finished"] * 8


def test_two_workers_one_killed(text_folder, tmp_path, undisturbed):
    workers = [start(command(text_folder, tmp_path, "--worker"), core) for core in (0, 1)]
    run = killed_in_its_midst(tmp_path)
    said = [worker.communicate(timeout=SECONDS)[1] for worker in workers]
    codes = [worker.returncode for worker in workers]
    assert sorted(codes) == [-signal.SIGKILL, 0], said
    assert run in {row.folder for row in study_status(tmp_path / "study", tmp_path)}
    assert_completed_by_another_call(text_folder, tmp_path, undisturbed)


def test_two_submitted_workers_one_killed(text_folder, tmp_path, undisturbed):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    file = tmp_path / "here.toml"
    file.write_text(f'cluster = "local"\nworkers = {min(2, len(CORES))}\n')
    submitting = start(command(text_folder, tmp_path, "--submit", file))
    _, said = submitting.communicate(timeout=SECONDS)
    # started with one core, it has none for a second worker
    assert submitting.returncode == (0 if len(CORES) == 1 else 2), said
    if len(CORES) > 1:
        assert "2 workers of 1 cores need 2; this machine gives 1" in said
        # to a file: local workers keep the output that they were started with open
        with open(tmp_path / "said", "wb") as said_here:
            subprocess.run(
                command(text_folder, tmp_path, "--submit", file),
                stdout=said_here, timeout=SECONDS, check=True,
            )  # fmt: skip
        assert (tmp_path / "said").read_text().startswith("2 workers: ")
    run = killed_in_its_midst(tmp_path)
    end = time.monotonic() + SECONDS
    workers = min(2, len(CORES))
    # submitit writes it at a job's end, however that comes
    while len(list((tmp_path / "study" / "workers").glob("*_result.pkl"))) < workers:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert (tmp_path / "runs" / run).is_dir()
    assert_completed_by_another_call(text_folder, tmp_path, undisturbed)
