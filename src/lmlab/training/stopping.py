"""Stopping on Ctrl-C and SIGTERM: the step is finished and saved, then the program ends.

Notable: the first signal only notes that it came, so that no step is cut in two; a second one does
what a signal did before. Imports no torch.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lmlab.processes import is_first, world

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AT_ONCE = 2.0  # seconds


class Stopped(KeyboardInterrupt):
    """A signal asked for the end. The message says what is saved, where a run was in progress."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        """Of the signal; a shell shows 128 more as the exit status."""


class StopRequest:
    """As a context: notes SIGINT and SIGTERM in place of being ended by them. A second one stops at
    once. Outside of the main thread, which alone gets signals, it does nothing."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal that came; 0 before."""
        self._before: dict[int, Any] = {}
        self._at = 0.0

    @property
    def asked(self) -> bool:
        return self.number != 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):  # ignored, as nohup does, stays so
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked:
            # torchrun passes on what the terminal has sent to all of its processes already
            if world() == 1 or now - self._at > _AT_ONCE:
                self.__exit__()
                signal.raise_signal(number)
            return
        self.number, self._at = number, now
        if is_first():
            # not by print: the signal may have come in the midst of one
            os.write(2, b"\nstopping after this step, and saving; a second Ctrl-C stops at once\n")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises `Stopped` inside, as Ctrl-C raises `KeyboardInterrupt`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("", number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
