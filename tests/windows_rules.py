"""Makes a process on Linux keep rules of Windows and macOS, as far as Linux can tell.

    python tests/windows_rules.py FOLDER

prepares a store, trains in two calls, scores, saves the result and draws its page, under these
rules, in `FOLDER`. `main` imports nothing of lmlab before the rules hold.

- lmlab cannot import `fcntl`, `resource`, `pwd` and other modules that Windows lacks,
  and do not see functions and constants of `os` and `signal` that it lacks.
- A file or folder below the folder that is open, or mapped to memory, cannot be renamed, replaced
  or removed.
- A name of a new file has none of the letters that Windows forbids, and is not a device's.
- A folder cannot be opened.

What it does not show: what other packages do there (filelock locks by `LockFileEx`), and paths with
drive letters, which `test_other_platforms.py` looks at.
"""

from __future__ import annotations

import builtins
import importlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = {
    "fcntl", "resource", "pwd", "grp", "syslog", "termios", "pty", "tty", "readline", "posix",
    "curses", "spwd", "crypt",
}  # fmt: skip
OF_OS = (
    "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "fork", "forkpty", "getuid", "geteuid", "getgid",
    "getpgid", "setsid", "killpg", "mkfifo", "sysconf", "uname", "sched_getaffinity",
    "sched_setaffinity", "getloadavg", "statvfs", "chown", "pread", "pwrite", "posix_fadvise",
)  # fmt: skip
OF_SIGNAL = ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGCHLD")
_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$')
_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)


def hide_posix(package: str) -> None:
    """From the code of `package`, for the rest of this process; call it before that is imported.

    Others choose by `sys.platform`, which stays what it is.
    """
    of_windows = {
        name: _without(importlib.import_module(name), names)
        for name, names in (("os", OF_OS), ("signal", OF_SIGNAL))
    }
    imports = builtins.__import__

    def imports_on_windows(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
        importing = str((globals or {}).get("__name__", "")).partition(".")[0]
        if importing == package:
            if name in MODULES:
                raise ModuleNotFoundError(f"{name}: Windows has no such module", name=name)
            if name in of_windows:
                return of_windows[name]
        return imports(name, globals, *rest, **more)

    builtins.__import__ = imports_on_windows
    tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # as tempfile itself does there
    setattr(shutil, "_use_fd_functions", False)  # noqa: B010 - as shutil itself has it there


def _without(module: ModuleType, names: tuple[str, ...]) -> ModuleType:
    copy = ModuleType(module.__name__)
    copy.__dict__.update({k: v for k, v in vars(module).items() if k not in names})
    return copy


def _in_use(folder: str) -> set[str]:
    """Paths below `folder` that this process has open or mapped."""
    open_files = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            open_files.add(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:  # the listing's own
            continue
    with open("/proc/self/maps") as maps:
        open_files |= {line.split(maxsplit=5)[5].strip() for line in maps if folder in line}
    return {path for path in open_files if path.startswith(folder + "/")}


def keep_rules(folder: Path) -> None:
    """Below `folder`, for the rest of this process."""
    root = str(folder.resolve())

    def full(path: str | bytes | int, dir_fd: int = -1) -> str | None:
        """A path below the folder; None for any other."""
        if isinstance(path, int):
            return None
        text = os.fsdecode(path)
        if dir_fd not in (-1, None):
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        text = os.path.abspath(text)
        return text if text.startswith(root + "/") else None

    def check_free(path: str | None) -> None:
        if path is not None:
            held = [p for p in _in_use(root) if p == path or p.startswith(path + "/")]
            if held:
                raise PermissionError(13, f"{held[0]} is in use, as Windows sees it", path)

    def check_name(path: str | None) -> None:
        if path is not None:
            for name in path.removeprefix(root + "/").split("/"):
                if _FORBIDDEN.search(name) or _DEVICES.fullmatch(name):
                    raise OSError(22, "no name of a file, as Windows sees it", path)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            below = full(path)
            if below is not None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                check_name(below)
            if below is not None and not flags & (os.O_CREAT | 0o200000) and os.path.isdir(below):
                raise PermissionError(13, "a folder cannot be opened, as Windows sees it", below)
        elif event == "os.mkdir":
            check_name(full(arguments[0], arguments[2]))
        elif event == "os.rename":
            source, target, of_source, of_target = arguments
            check_free(full(source, of_source))
            check_free(full(target, of_target))
            check_name(full(target, of_target))
        elif event in ("os.remove", "os.rmdir"):
            check_free(full(*arguments))

    sys.addaudithook(hook)


def main(folder: Path) -> None:
    hide_posix("lmlab")
    keep_rules(folder)
    import lmlab

    text = folder / "text"
    text.mkdir()
    for number in range(40):
        words = (f"word{(number * k * k) % 17}" for k in range(80))
        (text / f"{number}.txt").write_text(" ".join(words), "utf-8")
    store = lmlab.prepare(str(text), folder / "store", vocabulary=300)
    small = {"size": "nano", "context": 16, "batch": 4, "device": "cpu"}
    out = folder / "run"
    lmlab.train(store, out=out, steps=2, every=1, keep=1, **small)
    run = lmlab.lengthen(out, steps=4, out=folder / "longer")
    again = lmlab.train(store, out=out, steps=2, every=1, keep=1, **small)  # finished: only looks
    result = lmlab.score(run.model(), store)
    result.save(folder / "result")
    assert (folder / "result" / "results.json").is_file()
    assert again.path == out
    print(f"{result.bits_per_byte:.3f} bits per byte")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
