"""Progress: plain lines with an estimate in a log, never on standard output."""

from __future__ import annotations

import pytest

from lmlab import progress
from lmlab.progress import duration, say, track


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (3725, "1:02:05")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_with_the_time_left(clock, capsys):
    with track("reading", 100, "files") as bar:
        bar.skip(50)  # done before: does not count as speed
        for _ in range(20):
            clock[0] += 3
            bar.advance(2, "a note")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading: 58 of 100 files (58%), ETA 1:03, 0.7 files/s, a note"
    assert len(lines) == 6
    assert lines[-1] == "reading: 90 files in 1:00"
    assert capsys.readouterr().out == ""


def test_an_unknown_total_and_no_progress_yet(clock, capsys):
    with track("reading", None, "files") as bar:
        clock[0] += progress.SECONDS_BETWEEN_LINES
        bar.advance(0)
        clock[0] += progress.SECONDS_BETWEEN_LINES
        bar.advance(5)
    err = capsys.readouterr().err
    assert "reading: 0 files, 0.0 files/s" in err
    assert "reading: 5 files, 0.2 files/s" in err
    with track("reading", 10, "files") as bar:
        clock[0] += progress.SECONDS_BETWEEN_LINES
        bar.advance(0)
    assert "ETA ?" in capsys.readouterr().err


def test_quick_work_says_nothing(capsys):
    with track("reading", 3, "files") as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for total in (10, None):
        with track("reading", total, "files") as bar:
            bar.skip(5)
            bar.advance(5, "note")
            assert bar.done == 10
    captured = capsys.readouterr()
    assert "reading" in captured.err
    assert captured.out == ""
