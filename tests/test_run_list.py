"""The list of runs and their removal; the page of a run, an index of pages; watching."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
from typing import Any

import numpy as np
import pytest

import lmlab
from helpers import journal, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.training import OptimizerConfig, ParentConfig
from lmlab.errors import UserError
from lmlab.run_folders.journal import last_with
from lmlab.run_folders.rundir import RunDirectory
from lmlab.topics.runs.listing import list_runs, remove_run
from lmlab.topics.runs.options import RunsConfig, WatchConfig
from lmlab.topics.runs.report import write_index
from lmlab.topics.runs.training_run import read_run
from lmlab.topics.runs.watch import curve, how_it_stands, sparkline, watch
from lmlab.training import loop
from lmlab.training.loop import train
from lmlab.training.stopping import Stopped

TIED = ModelConfig(layers=1, heads=2, width=16, tied=True)


@pytest.fixture
def lab(trained, tmp_path):
    """A copy of the four runs."""
    lab = tmp_path / "lab"
    shutil.copytree(trained, lab)
    config = lab / "child" / "config.toml"
    config.write_text(config.read_text().replace(str(trained), str(lab)))
    return lab


@pytest.fixture(scope="module")
def trained(text_store, tmp_path_factory):
    """Four runs: forward, its child, a headless one, and a backward one that was stopped."""
    lab = tmp_path_factory.mktemp("runs") / "lab"
    few = {"evaluation_windows": 10_000, "context": 16}
    train(tiny_training(text_store, lab / "forward", **few))
    child = ParentConfig(str(lab / "forward"))
    train(tiny_training(text_store, lab / "child", parent=child, model=ModelConfig(), **few))
    train(tiny_training(text_store, lab / "headless", objective="headless", model=TIED, **few))
    update = loop.Trainer.update

    def told(self):
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)
        return update(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "update", told)
        with pytest.raises(Stopped):
            train(
                tiny_training(
                    text_store, lab / "deep" / "backward", order="backward", steps=8,
                    optimizer=OptimizerConfig(learning_rate=1e-3), **few,
                )
            )  # fmt: skip
    return lab


def names(lab, **asked):
    return [run.row.name for run in list_runs(lab, **asked)]


def test_a_row_says_what_a_run_is(lab, text_store):
    by_name = {run.row.name: run.row for run in list_runs(lab)}
    assert set(by_name) == {"forward", "child", "headless", "backward"}
    forward, stopped = by_name["forward"], by_name["backward"]
    assert (forward.model, forward.objective, forward.order) == ("qwen3-1x16", "causal", "forward")
    assert (forward.state, forward.step, forward.steps) == ("finished", 6, 6)
    last = journal(lab / "forward")[-1]
    assert (forward.tokens, forward.loss) == (last["tokens"], last["loss"])
    assert forward.validation == last["validation_nats_per_token"]
    # all windows of the split are in the sample: then it is the score of the split
    score = lmlab.score(lab / "forward", text_store, context=16)
    assert forward.bits_per_byte == pytest.approx(score.bits_per_byte, rel=1e-5)
    files = [path for path in (lab / "forward").rglob("*") if path.is_file()]
    assert forward.bytes == sum(path.stat().st_size for path in files)
    assert (stopped.state, stopped.step, stopped.validation) == ("stopped", 2, None)
    assert by_name["child"].parent == str(lab / "forward")
    with RunDirectory(
        lab / "deep" / "backward",
        identity=_identity(lab / "deep" / "backward"),
        config={},
    ):
        assert list_runs(lab, where=["name=backward"])[0].row.state == "running"


def _identity(run):
    from lmlab.run_folders.rundir import stored_identity

    return stored_identity(run)


def test_where_and_sort(lab):
    assert names(lab, where=["objective=headless"]) == ["headless"]
    assert names(lab, where=["objective=causal", "order!=backward"]) == ["child", "forward"]
    assert names(lab, where=["learning_rate=1e-3"]) == ["backward"]
    assert names(lab, where=["step=6", "model.tied=true"]) == ["headless"]
    by_loss = sorted(list_runs(lab), key=lambda run: run.row.loss or 0.0)
    assert names(lab, sort="loss") == [run.row.name for run in by_loss]
    assert names(lab, sort="validation", descending=True)[-1] == "backward"  # it has none
    assert names(lab, sort="steps", descending=True)[0] == "backward"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"where": ["objektive=headless"]}, "no column, and no option of train; did you mean"),
        ({"where": ["headless"]}, "NAME=VALUE"),
        ({"where": ["step=six"]}, "no number"),
        ({"where": ["model.layers=six"]}, r"expected int"),
        ({"sort": "beauty"}, "no column"),
    ]
    for asked, words in cases:
        with pytest.raises(UserError, match=words):
            list_runs(lab, **asked)


def test_table_csv_json_and_frame_say_the_same(lab, capsys):
    assert main(["runs", str(lab), "--sort", "loss"]) == 0
    said = capsys.readouterr().out
    assert "stopped 25%" in said
    assert (
        main(["runs", str(lab), "--where", "step=6", "--where", "objective=causal", "--csv"]) == 0
    )
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == ["child", "forward"]  # both conditions count
    assert main(["runs", str(lab), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    frame = lmlab.runs(lab)
    assert [row["bytes"] for row in values] == list(frame["bytes"])
    assert list(values[0]) == list(frame) == list(rows[0])
    assert list(lmlab.runs(lab, where="order=backward").name) == ["backward"]
    assert main(["runs", str(lab), "--where", "seed=9"]) == 2
    assert "no such training run" in capsys.readouterr().err


def test_removing_asks_names_children_and_refuses_what_runs(lab, capsys, monkeypatch):
    def asked(answer, *arguments):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        questions = []
        monkeypatch.setattr("builtins.input", lambda q: questions.append(q) or answer)
        status = main(["runs", str(lab), "--delete", "--where", *arguments])
        return status, questions

    status, (question,) = asked("n", "name=forward")
    assert status == 0
    assert question.startswith("1 runs, ")
    assert f"neither be resumed nor repeated: {lab / 'child'}. Remove them? [y/N]" in question
    assert len(names(lab)) == 4
    backward = lab / "deep" / "backward"
    with RunDirectory(backward, identity=_identity(backward), config={}):
        assert asked("y", "seed=0") == (2, [])
        assert "is running; stop it first" in capsys.readouterr().err
        with pytest.raises(UserError, match="is running"):
            remove_run(backward)
    assert len(names(lab)) == 4
    assert asked("y", "name=headless")[0] == 0
    assert names(lab) == ["child", "backward", "forward"]
    monkeypatch.undo()
    assert main(["runs", str(lab), "--delete"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert main(["runs", str(lab), "--where", "name=child", "--delete", "--yes"]) == 0
    assert not (lab / "child").exists()
    with pytest.raises(UserError, match="give one"):
        RunsConfig(csv=True, delete=True)
    with pytest.raises(UserError, match="is for `delete`"):
        RunsConfig(yes=True)


def test_a_run_whose_removal_was_killed_is_not_listed(lab):
    (lab / "child").rename(lab / ".child.removed.tmp")
    assert names(lab) == ["backward", "forward", "headless"]


def test_the_last_record_with_a_validation(tmp_path):
    path = tmp_path / "j"
    assert last_with(path, "validation_") is None
    lines = [
        f'{{"step": {s}, "validation_x": {s}}}' if s % 3 == 0 else f'{{"step": {s}}}'
        for s in range(1, 9)
    ]
    path.write_text("\n".join(lines) + '\n{"step": 9, "validation_x": 9')
    assert last_with(path, "validation_") == {"step": 6, "validation_x": 6}
    assert last_with(path, "loss") is None


# the page of a run


def test_the_page_of_a_run_at_any_time(lab, capsys):
    for name in ("forward", "deep/backward"):
        run = lab / name
        assert main(["report", str(run)]) == 0
        page = (run / "report.html").read_text()
        result = lmlab.Run(run).course()
        assert result.name in page
        assert "optimizer.learning_rate" in page
        assert result == type(result).from_json(result.to_json())
        assert [len(s.figures) for s in result.report.sections] == [1, 3, 0]
        train_again = read_run(run)
        assert train_again.step == journal(run)[-1]["step"]
    assert (
        f"{journal(lab / 'forward')[-1]['validation_nats_per_token']:.4f}"
        in (lab / "forward" / "report.html").read_text()
    )


def test_a_long_journal_is_told_in_means(tmp_path, lab):
    path = lab / "forward" / "journal.jsonl"
    record = journal(lab / "forward")[0]
    path.write_text(
        "".join(json.dumps({**record, "step": s, "loss": float(s)}) + "\n" for s in range(1, 1001))
    )
    result = read_run(lab / "forward")
    assert len(result.step_P) == len(result.loss_P) == 400
    assert result.step_P[-1] == 1000
    assert result.loss_P[0] == 2.0  # steps 1 to 3
    assert np.average(result.loss_P, weights=np.diff(result.step_P, prepend=0)) == 500.5


def test_an_index_of_all_pages(lab, capsys):
    (lab / "empty").mkdir()
    with pytest.raises(UserError, match="no run, no study"):
        write_index(lab / "empty")
    page = write_index(lab).read_text()  # runs, none of which has a page
    assert "Reports: 0, the newest first. Training runs: 4." in page
    assert "href" not in page.partition("<tbody>")[2]
    lmlab.score(lab / "forward", lmlab.Run(lab / "forward").config.store).save(lab / "a b<c")
    main(["report", str(lab / "headless")])
    assert main(["report", str(lab)]) == 0
    page = (lab / "index.html").read_text()
    assert 'href="headless/report.html">headless</a>' in page
    assert 'href="a%20b%3Cc/report.html">a b&lt;c</a>' in page
    assert "Reports: 1," in page
    assert page.count("report.html") == 2
    assert main(["report", str(lab / "nowhere")]) == 2


# watching


def test_watching_a_run_and_its_end(lab, capsys):
    assert main(["watch", str(lab / "forward"), "--once"]) == 0
    said = capsys.readouterr().out
    assert "forward: qwen3-1x16, causal, forward" in said
    assert "finished, step 6 of 6 (100%)" in said
    assert len(said.splitlines()) == 15
    assert len(list(watch(WatchConfig(lab / "forward", every=0.01)))) == 1  # nothing is left
    text, is_over = how_it_stands(lab / "deep" / "backward")
    assert not is_over
    assert "stopped, step 2 of 8 (25%)" in text
    assert main(["watch", str(lab), "--once"]) == 2
    assert "neither a run nor a study" in capsys.readouterr().err


def test_curves_show_what_goes_down_and_what_up():
    steps = np.arange(1.0, 101)
    down = curve(steps, 5 - steps / 50)
    assert (down[0][:7], down[-2][:7]) == ("4.980 ┤", "3.000 ┤")
    first = [line.partition("┤")[2] for line in down[:-1]]
    empty = "⠀"
    assert [line[0] == empty for line in (first[0], first[-1])] == [False, True]
    assert [line[-1] == empty for line in (first[0], first[-1])] == [True, False]
    assert len(curve(np.array([1.0]), np.array([2.0]))) == 13
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([1.0]) == "▁"


def test_a_study_under_way_is_watched_and_drawn(text_folder, tmp_path, monkeypatch, capsys):
    words = [
        "study", "arrow", "--text", text_folder, "--size", "nano", "--context", 16, "--seeds", 1,
        "--vocabulary", 300, "--steps", 6, "--batch-tokens", 64, "--windows", 10,
        "--lab", tmp_path, "--out", tmp_path / "study",
    ]  # fmt: skip
    command = [str(word) for word in words]
    update = loop.Trainer.update

    def told(self):
        if self.step == 2 and self.config.order == "backward":
            signal.raise_signal(signal.SIGTERM)
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "update", told)
        assert main(command) == 143
    text, is_over = how_it_stands(tmp_path / "study")
    assert not is_over
    assert "1 finished, 1 waiting" in text
    assert "3/6" in text
    assert main(["report", str(tmp_path / "study")]) == 0
    page = (tmp_path / "study" / "under-way.html").read_text()
    assert "1 of 2 runs are finished" in page
    # by that one workers know that the study is done
    assert not (tmp_path / "study" / "report.html").exists()
