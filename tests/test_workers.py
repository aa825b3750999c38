"""Studies shared by workers: each part made once, whoever dies; their status; Slurm's parameters.

Locks hold between threads as between processes (each opens the file itself), so most of this needs
no process. Real workers, one of them killed, are in test_workers_killed.py.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny_training
from lmlab.cli import main
from lmlab.config import from_mapping
from lmlab.config.model import ModelConfig
from lmlab.config.training import ParentConfig, TrainConfig
from lmlab.errors import UserError
from lmlab.locks import Held, Lock, alone, holder, last_note, this_process
from lmlab.pages.page import Section, Table
from lmlab.pages.report import Report
from lmlab.results import Result, read_values
from lmlab.run_folders.journal import Journal, last_record, read_journal
from lmlab.studies import parts as module
from lmlab.studies.options import SubmitConfig, study_folder
from lmlab.studies.parts import LeftToOthers, Part, run_parts
from lmlab.studies.status import claim_file, study_status, summary, write_plan
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.training.loop import train
from lmlab.training.setup import ResolvedRun

HOLD = """
import sys
from pathlib import Path
from lmlab.locks import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Values(Result, kind="values", views=__name__):
    """What the parts of a study gave, in order."""

    values: tuple[int, ...]


def tables(result: Values) -> list[Table]:
    return [Table(["value"], [[value] for value in result.values], "Values.")]


def report(result: Values) -> Report:
    return Report("Values", "Some values.", [Section("All", tables=tables(result))])


def study(out: Path, makes, *, worker: bool) -> Values:
    """A study whose parts are functions of the bar; its result is what they give, in order."""

    def run(number: int) -> ResolvedRun:
        return ResolvedRun(TrainConfig(store=out, out=out / "runs" / f"run-{number}"), None, {})

    parts = {i: Part(f"part {i}", run(i), make) for i, make in enumerate(makes)}
    return run_parts(
        "study", parts, Values, lambda made: Values(tuple(made[i] for i in parts)),
        out=out, work=float(len(parts)), worker=worker,
    )  # fmt: skip


def values(out: Path) -> list[int]:
    return list(Values.from_json(read_values(out)).values)


class Kept:
    """Parts that take a moment and are kept in files, as runs are; counts how often each is
    made."""

    def __init__(self, folder: Path, seconds: list[float]) -> None:
        self.folder, self.seconds = folder, seconds
        self.made = [0] * len(seconds)
        self.guard = threading.Lock()

    def make(self, number: int, bar) -> int:
        file = self.folder / f"kept-{number}"
        if not file.exists():
            with self.guard:
                self.made[number] += 1
            time.sleep(self.seconds[number])
            file.write_text("")
        return number * number

    @property
    def makes(self):
        return [partial(self.make, i) for i in range(len(self.seconds))]


@settings(max_examples=10)
@given(
    st.lists(st.sampled_from([0.0, 0.01, 0.05]), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_workers_make_each_part_once_and_one_makes_the_report(tmp_path_factory, seconds, workers):
    out = tmp_path_factory.mktemp("study")
    kept, reports, ends = Kept(out, seconds), [], []

    def work() -> None:
        try:
            reports.append(study(out, kept.makes, worker=True))
        except LeftToOthers as left:
            ends.append(str(left))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.made == [1] * len(seconds)
    assert len(reports) + len(ends) == workers
    assert reports
    assert values(out) == [i * i for i in range(len(seconds))]


def test_a_worker_leaves_what_a_living_one_holds_and_takes_over_what_a_dead_one_held(tmp_path):
    kept = Kept(tmp_path, [0.0] * 3)
    claim = claim_file(tmp_path, "run-1")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(claim)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LeftToOthers, match=rf"1 of 3 parts are left, with \S+:{other.pid};"):
            study(tmp_path, kept.makes, worker=True)
        assert kept.made == [1, 0, 1]
        held_by = holder(claim)
        assert held_by is not None
        assert held_by.endswith(f":{other.pid}")
        with pytest.raises(UserError, match=rf"part 1: \S+:{other.pid} is at it.*--worker"):
            study(tmp_path, kept.makes, worker=False)
        other.kill()
        other.wait()
    assert holder(claim) is None
    study(tmp_path, kept.makes, worker=True)
    assert kept.made == [1, 1, 1]
    assert values(tmp_path) == [0, 1, 4]


def test_a_worker_goes_on_past_what_fails_and_says_so_at_the_end(tmp_path, capsys):
    kept = Kept(tmp_path, [0.0] * 3)

    def fails(bar):
        raise UserError("the loss of step 3 is nan")

    makes = [kept.makes[0], fails, kept.makes[2]]
    with pytest.raises(UserError, match=r"^1 of 3 parts failed\. part 1: the loss of step 3"):
        study(tmp_path, makes, worker=True)
    assert kept.made == [1, 0, 1]
    assert "failed: part 1: the loss of step 3 is nan" in capsys.readouterr().err
    assert last_note(claim_file(tmp_path, "run-1"))["state"] == "failed"
    assert not (tmp_path / "results.json").exists()
    # a process alone stops there
    fresh = Kept(tmp_path / "alone", [0.0] * 3)
    fresh.folder.mkdir()
    with pytest.raises(UserError, match=r"^the loss of step 3 is nan"):
        study(fresh.folder, [fresh.makes[0], fails, fresh.makes[2]], worker=False)
    assert fresh.made == [1, 0, 0]


def test_a_worker_goes_on_past_an_error_that_is_not_ours(tmp_path, capsys):
    kept = Kept(tmp_path, [0.0] * 2)

    def fails(bar):
        raise RuntimeError("out of memory")

    with pytest.raises(UserError, match=r"1 of 2 parts failed\. part 0: RuntimeError: out of mem"):
        study(tmp_path, [fails, kept.makes[1]], worker=True)
    assert kept.made == [0, 1]
    assert "Traceback" in capsys.readouterr().err


def test_a_worker_waits_for_a_run_in_use_outside_the_study(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BETWEEN_PASSES", 0.01)
    kept, outside = Kept(tmp_path, [0.0]), [3]

    def in_use(bar) -> int:
        if outside[0]:
            outside[0] -= 1
            raise Held("another process is training in it", "elsewhere:1")
        return kept.make(0, bar)

    study(tmp_path, [in_use], worker=True)
    assert outside == [0]
    assert values(tmp_path) == [0]


def test_a_report_is_made_by_one(tmp_path):
    kept = Kept(tmp_path, [0.0])
    with (
        Lock(claim_file(tmp_path, "report")),
        pytest.raises(LeftToOthers, match=f"{this_process()} is making the report"),
    ):
        study(tmp_path, kept.makes, worker=True)
    assert not (tmp_path / "results.json").exists()

    def another(bar) -> int:
        Values((7,)).save(tmp_path)
        return 0

    assert study(tmp_path, [another], worker=True) == Values((7,))
    assert values(tmp_path) == [7]
    assert study(tmp_path, kept.makes, worker=False) == Values((0,))
    assert values(tmp_path) == [0]
    assert (tmp_path / "report.html").read_text() == Values((0,)).page()


def test_preparing_is_done_by_one_while_others_wait(tmp_path, capsys):
    inside, most, guard = [0], [0], threading.Lock()

    def prepare() -> None:
        with alone(tmp_path, "preparing"):
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.25)
            with guard:
                inside[0] -= 1

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert "waiting:" in capsys.readouterr().err


def test_a_lock_file_that_cannot_be_read_is_a_lock_all_the_same(tmp_path):
    with Lock(tmp_path / "a" / "lock") as lock:
        lock.path.write_bytes(b"\0\xff torn")
        assert holder(lock.path) == "another process"
        with pytest.raises(Held, match="held by another process"):
            Lock(lock.path)
    assert holder(lock.path) is None
    assert holder(tmp_path / "never") is None


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(file, *, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("lmlab.locks.lock_descriptor", refuse)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\).*flock"):
        Lock(tmp_path / "lock")


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(0, 60))
def test_the_last_record_is_that_of_the_whole_journal(tmp_path_factory, steps, torn):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    assert last_record(path) is None
    journal = Journal(path)
    for step in steps:
        journal.append({"step": step, "padding": "x" * (step % 5000)})
    journal.close()
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "padding": "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"}'[:torn])
    assert last_record(path) == read_journal(path)[-1]


def test_status_says_where_each_run_stands(tmp_path, text_store):
    """A finished run with a child, a running one, a failed one, and one that nobody has begun."""
    runs, out = tmp_path / "runs", tmp_path / "study"
    with pytest.raises(UserError, match="has not begun"):
        study_status(out, tmp_path)
    asked = tiny_training(text_store, runs / "done", steps=4)
    train(asked)
    parent = ParentConfig(str(runs / "done"))
    train(replace(asked, model=ModelConfig(), parent=parent, out=runs / "child", steps=2))
    per_step = asked.step_windows * asked.context
    names = ("done", "going", "failed", "later")
    write_plan(out, "study", [(f"run {n}", n, 4, 4 * per_step) for n in names])
    with Lock(claim_file(out, "failed")) as claim:
        claim.note(state="failed", why="NaN")
    (runs / "going").mkdir()
    (runs / "going" / "journal.jsonl").write_text('{"step": 1, "loss": 3.25}\n')
    (runs / "going" / "timing.jsonl").write_text(
        json.dumps({"step": 1, "tokens_per_second": per_step / 2}) + "\n"
    )
    with Lock(claim_file(out, "going")), Lock(runs / "going" / ".lock"):
        done, of_done, going, failed, later = study_status(out, tmp_path)
        assert (done.state, done.step, done.steps, done.child) == ("finished", 4, 4, False)
        assert (of_done.state, of_done.step, of_done.child) == ("finished", 2, True)
        assert done.loss == read_journal(runs / "done" / "journal.jsonl")[-1]["loss"]
        assert (going.state, going.by, going.step) == ("running", this_process(), 1)
        assert going.loss == 3.25
        assert going.seconds_left == pytest.approx(6)  # three steps of two seconds
        # a masked run counts and times the tokens that it predicts, here a quarter
        (runs / "going" / "journal.jsonl").write_text(
            json.dumps({"step": 1, "loss": 3.25, "tokens": per_step / 4}) + "\n"
        )
        (runs / "going" / "timing.jsonl").write_text(
            json.dumps({"step": 1, "tokens_per_second": per_step / 8}) + "\n"
        )
        masked = study_status(out, tmp_path)[2]
        assert masked.tokens_per_second == pytest.approx(going.tokens_per_second)
        assert masked.seconds_left == pytest.approx(6)
        assert (failed.state, failed.why) == ("failed", "NaN")
        assert (later.state, later.step, later.loss) == ("waiting", 0, None)
        # one of three steps of 2 s runs; two other runs of 4 steps wait for its speed
        said = summary([done, of_done, going, failed, later], out)
        assert said.startswith("2 finished, 1 running, 1 waiting, 1 failed; 0:22 left")
    with Lock(claim_file(out, "done")):
        assert study_status(out, tmp_path)[1].state == "measuring"
    (out / "plan.json").write_text('{"parts": [{"label": "x", "run": "../x"}]}')
    with pytest.raises(UserError, match=r"plan\.json: damaged"):
        study_status(out, tmp_path)


def test_status_needs_no_torch(tmp_path):
    config = ArrowConfig(lab=tmp_path)
    write_plan(study_folder("arrow", config), "study", [("one", "a", 5, 50)])
    code = (
        "import sys; from lmlab.cli import main; "
        f"status = main(['study', 'arrow', '--status', '--lab', {str(tmp_path)!r}]); "
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"
    assert "0/5" in done.stdout
    assert "1 waiting" in done.stdout


def test_the_folder_of_a_study_does_not_depend_on_places(tmp_path):
    config = ArrowConfig(lab=tmp_path)
    folder = study_folder("arrow", config)
    assert folder.parent == tmp_path
    assert study_folder("arrow", replace(config, lab=tmp_path / "x")).name == folder.name
    assert study_folder("arrow", replace(config, seeds=4)).name != folder.name
    assert study_folder("arrow", replace(config, out=tmp_path / "y")) == tmp_path / "y"


def test_options_of_sharing_are_checked(tmp_path, capsys):
    assert main(["study", "arrow", "--worker", "--status"]) == 2
    assert "give one" in capsys.readouterr().err
    assert main(["study", "arrow", "--submit"]) == 2
    assert "needs the path of a TOML file" in capsys.readouterr().err
    file = tmp_path / "slurm.toml"
    for text, said in (
        ("workerss = 2", "did you mean 'workers'"),
        ("workers = 0", "at least 1"),
        ("hours = -1.0", "above 0"),
        ('cluster = "local"\npartition = "gpu"', "partition is for Slurm"),
    ):
        file.write_text(text)
        assert main(["study", "arrow", f"--submit={file}", "--lab", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("arrow-*"))


FAKE_SBATCH = """#!/bin/sh
cp "$1" "$RECORD"
echo "Submitted batch job 123"
"""


def test_slurm_gets_the_parameters_and_plain_commands(tmp_path, monkeypatch):
    """By a Slurm that only writes down what it is given."""
    submitit = pytest.importorskip("submitit", reason="the extra slurm is not installed")
    from lmlab.integrations.slurm import submit_workers

    how = from_mapping(
        SubmitConfig,
        {
            "workers": 3, "hours": 1.5, "cpus": 4, "gpus": 1, "memory_gb": 16, "partition": "gpu",
            "setup": ["module load cuda"],
        },
        where="slurm.toml",
    )  # fmt: skip
    asked = ["study", "arrow", "--text", "my novels/", "--worker"]
    with pytest.raises(UserError, match="no Slurm here"):
        submit_workers(how, asked, out=tmp_path / "arrow-1")
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text(FAKE_SBATCH)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    assert submit_workers(how, asked, out=tmp_path / "arrow-1") == ["123_0", "123_1", "123_2"]
    script = (tmp_path / "record").read_text()
    for line in ("time=90", "cpus-per-task=4", "gpus-per-node=1", "partition=gpu", "mem=16GB",
                 "job-name=arrow-1", "array=0-2%3"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert "\nmodule load cuda\n" in script
    handed = submitit.core.utils.DelayedSubmission.load(
        next((tmp_path / "arrow-1" / "workers").glob("*_submitted.pkl"))
    ).function
    assert handed.command == [sys.executable, "-m", "lmlab", *asked]
    assert handed.cwd == str(Path.cwd())


def test_a_plan_says_what_a_study_takes_and_trains_nothing(text_folder, tmp_path, capsys):
    lab = tmp_path / "lab"
    command = [
        "study", "arrow", "--text", str(text_folder), "--size", "nano", "--context", "16",
        "--vocabulary", "300", "--seeds", "2", "--tokens", "6400", "--batch-tokens", "64",
        "--lab", str(lab),
    ]  # fmt: skip
    assert main([*command, "--plan"]) == 0
    said = capsys.readouterr()
    assert "arrow of time: 4 runs, 0 of them there already; 25,600 tokens" in said.err
    assert "about " in said.err
    assert "disk " in said.err
    assert said.out.count("waiting") == 5  # each run, and their number
    assert "nothing was trained" in said.out
    assert not list(lab.glob("runs/*/checkpoints/*"))
    assert main([*command, "--status"]) == 0  # it has a plan now
    assert "4 waiting" in capsys.readouterr().out
    assert main([*command, "--plan", "--worker"]) == 2
