"""Counts, by promise, the cases that tests tried and those that held: the table of `make trust`.

A test belongs to a promise by `@pytest.mark.promise("...")` and counts as one case, or as many as
it opens with the fixture `cases`. `--trust-table=FILE` puts what was counted into the table in
FILE, between its two marks; rows of promises that were not tried this time stay.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmlab.durable import write_text

BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
_PROPERTY = "promise"
_HEAD = ("| promise | cases tried | cases held |", "|---|--:|--:|")


class Cases:
    """The cases of one test; a failed one does not keep the others from being tried."""

    def __init__(self) -> None:
        self.tried = self.held = 0
        self.failures: list[str] = []

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Counts the block as a case, which holds unless an exception leaves the block."""
        self.tried += 1
        try:
            yield
        except Exception:
            self.failures.append(f"{name}:\n{traceback.format_exc()}")
        else:
            self.held += 1

    def check(self) -> None:
        """Fails if a case did; call it at the end."""
        assert self.tried > 0, "no case was tried"
        shown = "\n".join(self.failures[:3])
        assert not self.failures, f"{len(self.failures)} of {self.tried} cases:\n{shown}"


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> Cases:
    """Counts the cases of a test with a promise."""
    made = Cases()
    request.node.stash[_CASES] = made
    return made


_CASES = pytest.StashKey[Cases]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    marker = item.get_closest_marker("promise")
    if marker is not None and (report.when == "call" or report.failed):
        counted = item.stash.get(_CASES, None)
        if counted is None:
            tried, held = 1, int(report.passed)
        else:
            tried, held = max(counted.tried, 1), counted.held
        if not report.skipped:
            report.user_properties.append((_PROPERTY, [marker.args[0], tried, held]))
    return report


class Table:
    """Sums of all processes of a session."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.counts: dict[str, list[int]] = {}
        self.start = time.monotonic()

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties:
            if name == _PROPERTY:
                promise, tried, held = value
                count = self.counts.setdefault(promise, [0, 0])
                count[0] += tried
                count[1] += held

    def lines(self) -> list[str]:
        return [
            f"| {promise} | {tried:,} | {held:,} |"
            for promise, (tried, held) in sorted(self.counts.items())
        ]

    def pytest_terminal_summary(self, terminalreporter):
        if not self.counts or self.path is None:
            return
        terminalreporter.write_line("")
        for line in (*_HEAD, *self.lines()):
            terminalreporter.write_line(line)
        minutes = (time.monotonic() - self.start) / 60
        terminalreporter.write_line(f"in {minutes:.1f} minutes")
        before, _, rest = self.path.read_text("utf-8").partition(BEGIN)
        table, end, after = rest.partition(END)
        assert end, f"{self.path}: no marks around the table"
        old = {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}
        kept = [line for promise, line in old.items() if promise not in self.counts]
        rows = [*_HEAD, *sorted([*kept, *self.lines()])]
        write_text(self.path, before + BEGIN + "\n".join(rows) + "\n" + END + after)


def pytest_addoption(parser):
    parser.addoption("--trust-table", type=Path, help="file whose table of promises is replaced")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # workers of pytest-xdist hand their reports over
        config.pluginmanager.register(Table(config.getoption("--trust-table")), "promises-table")
