"""Progress with an estimate of the time left, on a terminal, in a notebook and in a log file.

On a terminal and in a notebook a bar that redraws itself; elsewhere (CI, a pipe, a batch job) one
plain line every ten seconds. Outside of notebooks it is on standard error, so that standard output
stays the result. Where several processes do one job, only the first prints.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from html import escape
from importlib import import_module

from lmlab.processes import is_first

SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def say(message: str) -> None:
    """One line of information on standard error."""
    if is_first():
        print(_SHOWN.get()(message), file=sys.stderr, flush=True)


@contextmanager
def said_as(how: Callable[[str], str]) -> Iterator[None]:
    """What is said inside is shown as `how` gives it back."""
    token = _SHOWN.set(how)
    try:
        yield
    finally:
        _SHOWN.reset(token)


_SHOWN: ContextVar[Callable[[str], str]] = ContextVar("shown", default=str)


class Bar:
    """One task's progress; `advance` after each piece of work."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._start = 0.0
        self._began = time.monotonic()
        self._last_line = self._began

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(self.line(now, note))

    def skip(self, amount: float) -> None:
        """Counts work that was done before, so that it does not flatter the speed."""
        self.done += amount
        self._start += amount

    def line(self, now: float, note: str = "") -> str:
        elapsed = max(now - self._began, 1e-9)
        rate = (self.done - self._start) / elapsed
        text = f"{self.label}: {self.done:,.0f}"
        if self.total:
            left = (self.total - self.done) / rate if rate > 0 else float("inf")
            eta = duration(left) if left < 1e7 else "?"
            text += f" of {self.total:,.0f} {self.unit} ({self.done / self.total:.0%}), ETA {eta}"
        else:
            text += f" {self.unit}"
        return text + f", {rate:,.1f} {self.unit}/s" + (f", {note}" if note else "")

    def finish(self) -> None:
        elapsed = time.monotonic() - self._began
        if elapsed >= 1:
            say(f"{self.label}: {self.done:,.0f} {self.unit} in {duration(elapsed)}")


class _TerminalBar(Bar):
    def __init__(self, label: str, total: float | None, unit: str) -> None:
        super().__init__(label, total, unit)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(label, total=total or 0, unit=unit, note="")
        self._progress.start()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        if note:
            self._progress.tasks[self._task].fields["note"] = note
        self._progress.update(self._task, completed=self.done, total=self.total or self.done)

    def skip(self, amount: float) -> None:
        super().skip(amount)
        self._progress.reset(self._task, completed=int(self.done), total=self.total)

    def finish(self) -> None:
        self._progress.stop()


class _NotebookBar(Bar):
    """A bar of HTML below the cell, drawn anew at most four times a second."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        super().__init__(label, total, unit)
        shown = import_module("IPython.display")  # there is one wherever there is a notebook
        self._html = shown.HTML
        self._handle = shown.display(shown.HTML(self._drawn("")), display_id=True)
        self._drawn_at = 0.0

    def _drawn(self, note: str) -> str:
        value = f' value="{self.done:g}" max="{self.total:g}"' if self.total else ""
        return f"<progress{value}></progress> {escape(self.line(time.monotonic(), note))}"

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        if time.monotonic() - self._drawn_at >= 0.25:
            self._drawn_at = time.monotonic()
            self._handle.update(self._html(self._drawn(note)))

    def finish(self) -> None:
        elapsed = time.monotonic() - self._began
        done = f"{self.label}: {self.done:,.0f} {self.unit} in {duration(elapsed)}"
        self._handle.update(self._html(escape(done) if elapsed >= 1 else ""))


def _in_notebook() -> bool:
    """Whether IPython runs with a kernel: it is loaded, and draws more than text."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and getattr(shell, "kernel", None) is not None


def shown(bar: Bar | None, label: str, total: float, unit: str) -> AbstractContextManager[Bar]:
    """The caller's bar, or one of its own."""
    return nullcontext(bar) if bar else track(label, total, unit)


@contextmanager
def track(label: str, total: float | None, unit: str) -> Iterator[Bar]:
    """A bar for `total` pieces of work (None if unknown)."""
    kind = Bar
    if is_first() and _in_notebook():
        kind = _NotebookBar
    elif is_first() and sys.stderr.isatty():
        kind = _TerminalBar
    bar = kind(label, total, unit)
    try:
        yield bar
    finally:
        bar.finish()
