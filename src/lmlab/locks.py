"""Locks between processes: a file that one process at a time holds, and that says who.

Notable:
- The system's own lock (filelock: `flock`, on Windows `LockFileEx`) ends with its process, however
  that ends: nothing has to be cleaned up after a kill, and no clock or time limit decides whether
  the holder is alive.
- The file's content is for people (`lmlab study ... --status`): who holds the lock, and what the
  last holder said of its work. It decides nothing, is not synced, and may be torn. It begins at the
  second byte: the first is the one that Windows locks, and lets nobody else read.
- Between machines it holds as far as the file system carries `flock`: docs/scale.md.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import lock_descriptor

from lmlab.durable import disk_errors, from_json, make_folder
from lmlab.errors import UserError
from lmlab.progress import say

_NOTE = 1  # the byte where the note begins
_ATTEMPTS = (0.0, 0.05, 0.05, 0.05)  # seconds between them: `holder` holds it for an instant
_BETWEEN_LOOKS = 0.5


class Held(UserError):
    """Another living process, `by`, holds the lock."""

    def __init__(self, message: str, by: str) -> None:
        super().__init__(message)
        self.by = by


def this_process() -> str:
    """This process by name: its machine and number."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Lock:
    """The lock of file `path`, held from now on until `close`, or the end of the process.

    The file and its folder are made. Raises `Held`, naming the holder, if another process holds it,
    and `UserError` where the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            make_folder(path.parent)
            # unbuffered: after a failed write nothing is left for close() to fail on again
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        try:
            if not any(_takes(self._file, after) for after in _ATTEMPTS):
                by = _by(last_note(path))
                raise Held(f"{path} is held by {by}", by)
            self.note()
        except BaseException:
            self.close()
            raise

    def note(self, **what: Any) -> None:
        """Replaces the file's content by this process's name and `what`, plain values."""
        line = json.dumps({"by": this_process(), **what}) + "\n"
        with disk_errors(self.path):
            self._file.truncate(_NOTE)
            self._file.write(line.encode("utf-8"))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _takes(file: BinaryIO, after: float) -> bool:
    """Whether the lock of an open file is free after so many seconds; then it is held."""
    time.sleep(after)
    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}): its file system needs flock; see "
            "docs/scale.md, or use a folder on a local disk"
        ) from error


@contextmanager
def alone(folder: Path, doing: str, *, name: str = ".lock") -> Iterator[None]:
    """The block runs in one process at a time for each `folder`; waits for the others, and says so.

    `name` is the lock's file in it. Not to be nested: a process would wait for itself.
    """
    said = False
    while True:
        try:
            lock = Lock(folder / name)
            break
        except Held as held:
            if not said:
                say(f"waiting: {held}")
                said = True
            time.sleep(_BETWEEN_LOOKS)
    with lock:
        lock.note(doing=doing)
        yield


def holder(path: Path) -> str | None:
    """Who holds the lock of file `path` at this moment; None if nobody does."""
    try:
        # NFS locks only what is open for writing
        with open(path, "r+b" if os.access(path, os.W_OK) else "rb") as file:
            is_free = lock_descriptor(file.fileno(), blocking=False)
    except OSError:  # no such file, or no locks here
        return None
    return None if is_free else _by(last_note(path))


def last_note(path: Path) -> dict[str, Any]:
    """What the last holder of a lock file noted; empty where that cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(_NOTE)
            note = from_json(file.read())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _by(note: dict[str, Any]) -> str:
    return str(note.get("by", "another process"))
